//! `INFO`, taken apart: who the server is, what it replicates from whom, and how far it is.
//!
//! A field that a version does not have is absent, never a guess. It judges nothing.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::fault::{AskError, Fault};
use super::link::Link;

/// A replication id: names one history of writes. New at each promotion.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReplId(String);

impl ReplId {
    /// Forty hexadecimal digits; `None` for anything else, and for the zeros that stand for "none".
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
        (fits && text.bytes().any(|b| b != b'0')).then(|| Self(text.to_owned()))
    }

    /// As Redis writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its first half of a word: what stands for a group's data before mesh wrote something into it.
    #[must_use]
    pub fn number(&self) -> u64 {
        u64::from_str_radix(&self.0[..16], 16).unwrap_or(0)
    }
}

impl std::fmt::Display for ReplId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a server is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It takes writes, unless they are gated.
    Primary,
    /// It replicates.
    Replica,
}

/// A replica's link to its primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The primary, where it is named by a literal address.
    pub address: Option<SocketAddr>,
    /// Whether the link is up.
    pub up: bool,
    /// Whether it takes over a whole copy: what it has is neither the old data nor the new.
    pub copying: bool,
}

/// A replica as its primary sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its address, as it announces itself.
    pub address: Option<SocketAddr>,
    /// Whether it streams.
    pub online: bool,
    /// The last offset that it acknowledged; replicas do so once a second.
    pub acknowledged: u64,
}

/// The replication section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replication {
    /// Its role.
    pub role: Role,
    /// The history that it writes or follows.
    pub replid: ReplId,
    /// The history before that, which it also knows, up to `second_offset`.
    pub replid2: Option<ReplId>,
    /// The first offset that does not belong to `replid2` any more.
    pub second_offset: Option<u64>,
    /// Bytes of its history so far: the end of what it wrote, or applied.
    pub offset: u64,
    /// The oldest offset that it can still send to a replica; `None` without a backlog.
    pub backlog_from: Option<u64>,
    /// Its primary.
    pub upstream: Option<Upstream>,
    /// Its replicas.
    pub replicas: Vec<Attached>,
    /// Whether a replica refuses writes of clients.
    pub read_only: bool,
}

impl Replication {
    /// Whether this server can go on sending to a replica that stands at `offset` of `history`, without a whole copy.
    #[must_use]
    pub fn can_continue(&self, history: &ReplId, offset: u64) -> bool {
        let next = offset.saturating_add(1);
        let mine = *history == self.replid && offset <= self.offset;
        let before = self.replid2.as_ref() == Some(history)
            && self.second_offset.is_some_and(|first_other| next <= first_other);
        (mine || before) && self.backlog_from.is_some_and(|from| from <= next)
    }

    /// Bytes that a server at `offset` of `history` has and this one never had: what a full copy from here would destroy.
    /// `None` when the histories have nothing to do with each other.
    #[must_use]
    pub fn lacks(&self, history: &ReplId, offset: u64) -> Option<u64> {
        if *history == self.replid {
            return Some(offset.saturating_sub(self.offset));
        }
        let fork = self.second_offset.filter(|_| self.replid2.as_ref() == Some(history))?;
        Some(offset.saturating_add(1).saturating_sub(fork))
    }
}

/// What mesh reads of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// `redis_version`, or `valkey_version`.
    pub version: String,
    /// New at each start of the process.
    pub run_id: String,
    /// The process.
    pub pid: i32,
    /// Whether it is a member of a Redis Cluster, which fails over by itself.
    pub cluster: bool,
    /// Whether it loads its data.
    pub loading: bool,
    /// Writes since it last saved its data.
    pub unsaved: u64,
    /// Whether a snapshot is being saved.
    pub saving: bool,
    /// Whether the last snapshot was saved.
    pub last_save_ok: bool,
    /// Keys in all databases.
    pub keys: u64,
    /// Replication.
    pub replication: Replication,
}

/// Asks a server about itself.
///
/// # Errors
/// Its refusal, or the network's.
pub async fn info(link: &mut Link, deadline: Instant) -> Result<Info, AskError> {
    let what = "ask Redis about itself";
    let text = link.text(what, &["INFO"], deadline).await?;
    parse(&text).ok_or_else(|| AskError::new(what, Fault::Form))
}

/// Only the replication, for whoever asks often.
pub(super) async fn replication(link: &mut Link, deadline: Instant) -> Result<Replication, AskError> {
    let what = "ask Redis about its replication";
    let text = link.text(what, &["INFO", "replication"], deadline).await?;
    parse_replication(&fields(&text)).ok_or_else(|| AskError::new(what, Fault::Form))
}

fn fields(text: &str) -> HashMap<&str, &str> {
    text.lines().filter_map(|line| line.trim_end().split_once(':')).collect()
}

pub(super) fn parse(text: &str) -> Option<Info> {
    let fields = fields(text);
    let get = |name: &str| fields.get(name).copied();
    let flag = |name: &str| get(name) == Some("1");
    let keys = fields.iter().filter(|(name, _)| name.strip_prefix("db").is_some_and(is_number));
    Some(Info {
        // Valkey says 7.2.4 as `redis_version` for old clients, and what it is beside that.
        version: get("valkey_version").or_else(|| get("redis_version"))?.to_owned(),
        run_id: get("run_id")?.to_owned(),
        pid: get("process_id")?.parse().ok().filter(|pid| *pid > 0)?,
        cluster: flag("cluster_enabled"),
        loading: flag("loading"),
        unsaved: get("rdb_changes_since_last_save").and_then(|n| n.parse().ok()).unwrap_or(0),
        saving: flag("rdb_bgsave_in_progress"),
        last_save_ok: get("rdb_last_bgsave_status") == Some("ok"),
        // A sum that wrapped would call a server empty.
        keys: keys
            .filter_map(|(_, value)| part(value, "keys")?.parse::<u64>().ok())
            .fold(0, u64::saturating_add),
        replication: parse_replication(&fields)?,
    })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// One of `name=value,name=value`.
fn part<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split(',').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, v)| v))
}

fn parse_replication(fields: &HashMap<&str, &str>) -> Option<Replication> {
    let get = |name: &str| fields.get(name).copied();
    let number = |name: &str| get(name).and_then(|text| text.parse::<u64>().ok());
    let role = match get("role")? {
        "master" => Role::Primary,
        "slave" => Role::Replica,
        _ => return None,
    };
    let upstream = (role == Role::Replica).then(|| Upstream {
        address: address(get("master_host"), get("master_port")),
        up: get("master_link_status") == Some("up"),
        copying: get("master_sync_in_progress") == Some("1"),
    });
    let replicas = (0..).map_while(|n| get(&format!("slave{n}"))).map(|text| Attached {
        address: address(part(text, "ip"), part(text, "port")),
        online: part(text, "state") == Some("online"),
        acknowledged: part(text, "offset").and_then(|n| n.parse().ok()).unwrap_or(0),
    });
    let backlog = get("repl_backlog_active") == Some("1");
    Some(Replication {
        role,
        replid: ReplId::parse(get("master_replid")?)?,
        replid2: get("master_replid2").and_then(ReplId::parse),
        second_offset: number("second_repl_offset"),
        offset: number("master_repl_offset")?,
        backlog_from: number("repl_backlog_first_byte_offset").filter(|_| backlog),
        upstream,
        replicas: replicas.collect(),
        read_only: get("slave_read_only") != Some("0"),
    })
}

fn address(host: Option<&str>, port: Option<&str>) -> Option<SocketAddr> {
    Some(SocketAddr::new(host?.parse::<IpAddr>().ok()?, port?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_fuzz::{bounded, fuzz};

    const HERE: &str = "bb96987426017584b00ce1b8b40996b740635ab3";
    const BEFORE: &str = "a179f71a5f5fe0d74802420feb7c557dad5d4fa7";

    fn promoted() -> Replication {
        let text = format!(
            "# Replication\r\nrole:master\r\nconnected_slaves:2\r\n\
             slave0:ip=10.0.0.2,port=6379,state=online,offset=90,lag=1\r\n\
             slave1:ip=10.0.0.3,port=6380,state=wait_bgsave,offset=0,lag=1\r\n\
             master_failover_state:no-failover\r\nmaster_replid:{HERE}\r\nmaster_replid2:{BEFORE}\r\n\
             master_repl_offset:100\r\nsecond_repl_offset:51\r\nrepl_backlog_active:1\r\n\
             repl_backlog_first_byte_offset:11\r\nrepl_backlog_histlen:90\r\n"
        );
        parse_replication(&fields(&text)).unwrap()
    }

    #[test]
    fn a_primary_is_taken_apart() {
        let seen = promoted();
        assert_eq!((seen.role, seen.offset, seen.second_offset), (Role::Primary, 100, Some(51)));
        assert_eq!(seen.replicas.len(), 2);
        assert_eq!(seen.replicas[0].address, Some("10.0.0.2:6379".parse().unwrap()));
        assert!(seen.replicas[0].online && !seen.replicas[1].online);
        assert_eq!(ReplId::parse(&"0".repeat(40)), None);
        assert_eq!(ReplId::parse("abc"), None);
    }

    #[test]
    fn who_can_go_on_and_what_a_copy_would_destroy() {
        let seen = promoted();
        let (here, before) = (ReplId::parse(HERE).unwrap(), ReplId::parse(BEFORE).unwrap());
        // At the fork, or before it, as far as the backlog reaches.
        assert!(seen.can_continue(&before, 50) && !seen.can_continue(&before, 51));
        assert!(seen.can_continue(&here, 100) && !seen.can_continue(&here, 101));
        assert!(seen.can_continue(&before, 10) && !seen.can_continue(&before, 9));
        assert_eq!(seen.lacks(&before, 50), Some(0));
        assert_eq!(seen.lacks(&before, 58), Some(8));
        assert_eq!(seen.lacks(&here, 100), Some(0));
        assert_eq!(seen.lacks(&ReplId::parse(&"1".repeat(40)).unwrap(), 1), None);
    }

    #[test]
    fn fuzz_info() {
        fuzz!("info", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let Some(info) = bounded(bytes.len(), || parse(&text)) else { return };
            assert!(info.pid > 0, "{info:?}");
            let server = &info.replication;
            for offset in [0, server.offset, u64::MAX] {
                let continues = server.can_continue(&server.replid, offset);
                assert!(
                    !continues || server.lacks(&server.replid, offset) == Some(0),
                    "{server:?} at {offset}"
                );
                if let Some(before) = &server.replid2 {
                    let _ = (server.can_continue(before, offset), server.lacks(before, offset));
                }
            }
            if text.lines().any(|line| line.starts_with("db0:keys=") && !line.starts_with("db0:keys=0")) {
                let read =
                    fields(&text).get("db0").and_then(|value| part(value, "keys")?.parse::<u64>().ok());
                assert!(read.is_none_or(|keys| info.keys >= keys), "{} keys of {read:?}", info.keys);
            }
        });
    }
}
