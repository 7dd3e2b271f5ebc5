//! The key `mesh:epoch`: what a primary writes first of all. It travels with the data, so every replica says in which epoch, and
//! in which history of writes, what it has was written.
//!
//! A history is numbered by mesh, one higher at each opening, and tied to the replication id that the server drew for it: an
//! offset means something only within one replication id.

use std::collections::HashMap;
use std::time::Instant;

use redis::{Cmd, Value};

use super::fault::{AskError, Fault};
use super::info::{Info, ReplId, Replication};
use super::link::{Link, as_text, command};

/// The key.
pub(super) const KEY: &str = "mesh:epoch";

/// What a primary is to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewStamp {
    /// The epoch.
    pub epoch: u64,
    /// The lease number under which it opens.
    pub lease_no: u64,
    /// The instance.
    pub instance: String,
    /// What identifies the group's data, over all its histories.
    pub system: u64,
}

/// What is in the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The epoch.
    pub epoch: u64,
    /// The lease number.
    pub lease_no: u64,
    /// Whose.
    pub instance: String,
    /// What identifies the group's data.
    pub system: u64,
    /// The number of the history.
    pub history: u32,
    /// Its replication id.
    pub replid: ReplId,
}

impl Stamp {
    /// The command that writes it.
    pub(super) fn write(&self) -> Cmd {
        let mut words = command(&["HSET", KEY]);
        words.arg("epoch").arg(self.epoch).arg("lease").arg(self.lease_no);
        words.arg("instance").arg(&self.instance).arg("system").arg(format!("{:016x}", self.system));
        words.arg("history").arg(self.history).arg("replid").arg(self.replid.as_str());
        words
    }

    /// The history that a server's offset counts in; 0 when it is not the one that its data names, as after a restart
    /// that lost the replication id.
    #[must_use]
    pub fn history_of(&self, server: &Replication) -> u32 {
        let current = self.replid == server.replid;
        // Promoted since, behind the gate: nothing was written.
        let just_promoted = server.replid2.as_ref() == Some(&self.replid)
            && server.second_offset.is_some_and(|first_other| server.offset < first_other);
        if current || just_promoted { self.history } else { 0 }
    }
}

pub(super) fn read_command() -> Cmd {
    command(&["HGETALL", KEY])
}

/// Reads the stamp; `None` when the data has none.
pub(super) async fn read(link: &mut Link, deadline: Instant) -> Result<Option<Stamp>, AskError> {
    let what = "read mesh:epoch";
    parse(what, &link.ask(what, &read_command(), deadline).await?)
}

pub(super) fn parse(what: &'static str, value: &Value) -> Result<Option<Stamp>, AskError> {
    let damaged = || AskError::new(what, Fault::Form);
    let Value::Array(items) = value else { return Err(damaged()) };
    let pair = |pair: &[Value]| Some((as_text(pair.first()?)?, as_text(pair.get(1)?)?));
    let pairs: HashMap<String, String> =
        items.chunks(2).map(pair).collect::<Option<_>>().ok_or_else(damaged)?;
    if pairs.is_empty() {
        return Ok(None);
    }
    let get = |name: &str| pairs.get(name).ok_or_else(damaged);
    Ok(Some(Stamp {
        epoch: get("epoch")?.parse().map_err(|_| damaged())?,
        lease_no: get("lease")?.parse().map_err(|_| damaged())?,
        instance: get("instance")?.clone(),
        system: u64::from_str_radix(get("system")?, 16).map_err(|_| damaged())?,
        history: get("history")?.parse().map_err(|_| damaged())?,
        replid: ReplId::parse(get("replid")?).ok_or_else(damaged)?,
    }))
}

/// What identifies the data: as mesh wrote it, or, before it wrote anything, the history that primary and replicas share.
/// An empty server that never replicated with anybody belongs to no group yet.
pub(super) fn system(info: &Info, stamp: Option<&Stamp>) -> Option<u64> {
    let server = &info.replication;
    let linked = server.backlog_from.is_some() || server.upstream.as_ref().is_some_and(|up| up.up);
    match stamp {
        Some(stamp) => Some(stamp.system),
        None if info.keys == 0 && !linked => None,
        None => Some(server.replid.number()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_fuzz::{bounded, fuzz};

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let stamp = Stamp {
            epoch: 7,
            lease_no: 9,
            instance: "redis-dr".to_owned(),
            system: 0xab,
            history: 3,
            replid: ReplId::parse(&"1a".repeat(20)).unwrap(),
        };
        let mut words = Vec::new();
        for argument in stamp.write().args_iter() {
            if let redis::Arg::Simple(bytes) = argument {
                words.push(Value::BulkString(bytes.to_vec()));
            }
        }
        let fields = words.split_off(2);
        assert_eq!(parse("", &Value::Array(fields.clone())).unwrap(), Some(stamp));
        assert_eq!(parse("", &Value::Array(Vec::new())).unwrap(), None);
        assert!(parse("", &Value::Array(fields[2..].to_vec())).is_err(), "a damaged key is no missing one");
    }

    #[test]
    fn fuzz_answers() {
        fuzz!("answers", |bytes| {
            // The client library makes room for 4096 values, whatever is announced.
            let Ok(value) = bounded(4096 + bytes.len(), || redis::parse_redis_value(bytes)) else { return };
            let _ = (super::super::gate::parse(&value), super::super::sentinel::parse(&value));
            let Ok(Some(stamp)) = parse("read", &value) else { return };
            let words: Vec<Value> = stamp
                .write()
                .args_iter()
                .skip(2)
                .map(|word| match word {
                    redis::Arg::Simple(bytes) => Value::BulkString(bytes.to_vec()),
                    redis::Arg::Cursor | _ => Value::Nil,
                })
                .collect();
            assert_eq!(parse("read", &Value::Array(words)).unwrap(), Some(stamp));
        });
    }
}
