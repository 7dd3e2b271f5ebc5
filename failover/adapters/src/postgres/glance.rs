//! One look at the local server, over a session of its own that stays open: what a guard asks several times a second,
//! for the price of one small query. It never waits for a lock, writes nothing, and judges nothing.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mesh_proto::Lsn;
use tokio_postgres::Statement;

use super::identify::identify;
use super::instance::Instance;
use super::sql::{Durability, Session, SqlError, get, get_lsn};

/// What a running server says of itself, all at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glimpse {
    /// The cluster.
    pub system_identifier: u64,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// The timeline it writes, receives or replays.
    pub timeline: u32,
    /// Furthest log that is safely here: flushed on a primary, the further of received and replayed on a standby.
    pub have: Lsn,
    /// Furthest log replayed; as `have` on a primary.
    pub replayed: Lsn,
    /// Whether a receiver streams.
    pub streaming: bool,
    /// The address that the receiver streams from, or that `primary_conninfo` names.
    pub upstream: Option<SocketAddr>,
    /// The `application_name` that `primary_conninfo` names.
    pub name: Option<String>,
    /// `synchronous_standby_names`.
    pub sync_names: String,
}

/// A session for looking. It opens itself when needed.
#[derive(Debug, Default)]
pub struct Glance {
    session: Option<(Session, Statement)>,
    /// The timeline that a standby without a receiver named itself, and where its log ended then.
    identified: Option<(Lsn, u32)>,
}

/// The server ends a look after this long by itself; callers wait less.
const STATEMENT: Duration = Duration::from_secs(5);

// A standby without a receiver has its timeline in the control file alone, which lags by a restartpoint; what it replays
// it says over the replication protocol (see `identify`), and is asked for only then. The functions
// that only a primary may call stand behind a CASE, and depend on volatile ones, so that they are not evaluated early.
const LOOK: &str = "SELECT s.system_identifier, pg_is_in_recovery(), \
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_flush_lsn() END, \
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END, \
    CASE WHEN pg_is_in_recovery() \
         THEN greatest(c.timeline_id, v.min_recovery_end_timeline, r.received_tli) \
         ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int END, \
    coalesce(r.status = 'streaming', false), r.sender_host, r.sender_port, \
    current_setting('primary_conninfo'), current_setting('synchronous_standby_names'), \
    r.received_tli IS NULL \
    FROM pg_control_system() s, pg_control_checkpoint() c, pg_control_recovery() v \
    LEFT JOIN pg_stat_wal_receiver r ON true";

impl Glance {
    /// Looks.
    ///
    /// # Errors
    /// When the server does not answer in time, or refuses; the next look opens a new session.
    pub async fn look(&mut self, instance: &Instance, deadline: Instant) -> Result<Glimpse, SqlError> {
        let (session, statement) = match self.session.take() {
            Some(kept) => kept,
            None => {
                self.identified = None;
                let session =
                    Session::local_lasting(instance, Durability::Local, STATEMENT, deadline).await?;
                let statement = session.prepare("prepare to look", LOOK, deadline).await?;
                (session, statement)
            }
        };
        let (mut glimpse, alone) = look(&session, &statement, deadline).await?;
        if glimpse.in_recovery && alone {
            let known = self.identified.filter(|(end, _)| *end == glimpse.have);
            let timeline = match known {
                Some((_, timeline)) => Some(timeline),
                // Refused or late: the control file's is the best that is known at this look.
                None => identify(instance, deadline).await.ok().map(|identity| identity.timeline),
            };
            self.identified = timeline.map(|timeline| (glimpse.have, timeline));
            glimpse.timeline = glimpse.timeline.max(timeline.unwrap_or(0));
        } else {
            self.identified = None;
        }
        // After an error the session is not kept: an answer may still be under way in it.
        self.session = Some((session, statement));
        Ok(glimpse)
    }
}

/// The look, and whether it is a standby without a receiver.
async fn look(
    session: &Session,
    statement: &Statement,
    deadline: Instant,
) -> Result<(Glimpse, bool), SqlError> {
    let what = "look at the server";
    let rows = session.prepared(what, statement, deadline).await?;
    let row = rows.first().ok_or(SqlError::Deadline { what })?;
    let system: i64 = get(what, row, 0)?;
    let first = get_lsn(what, row, 2)?.unwrap_or(Lsn::INVALID);
    let replayed = get_lsn(what, row, 3)?.unwrap_or(Lsn::INVALID);
    let timeline: i32 = get(what, row, 4)?;
    let streaming: bool = get(what, row, 5)?;
    let host: Option<String> = get(what, row, 6)?;
    let port: Option<i32> = get(what, row, 7)?;
    let conninfo: String = get(what, row, 8)?;
    let sender = host.zip(port).filter(|_| streaming).and_then(|(host, port)| {
        Some(SocketAddr::new(host.parse::<IpAddr>().ok()?, u16::try_from(port).ok()?))
    });
    let glimpse = Glimpse {
        system_identifier: system.cast_unsigned(),
        in_recovery: get(what, row, 1)?,
        timeline: timeline.cast_unsigned(),
        have: first.max(replayed),
        replayed,
        streaming,
        upstream: sender.or_else(|| configured(&conninfo).0),
        name: configured(&conninfo).1,
        sync_names: get(what, row, 9)?,
    };
    Ok((glimpse, get(what, row, 10)?))
}

/// The literal address in a `primary_conninfo`, if it names one, and the `application_name`. Read by hand, because libpq
/// knows keys that the client library here refuses.
fn configured(conninfo: &str) -> (Option<SocketAddr>, Option<String>) {
    let mut rest = conninfo;
    let (mut ip, mut port, mut name) = (None::<IpAddr>, Some(5432), None);
    while let Some((key, after)) = rest.split_once('=') {
        let (value, next) = value(after.trim_start());
        match key.trim() {
            "host" | "hostaddr" => ip = value.parse().ok().or(ip),
            "port" => port = value.parse().ok(),
            "application_name" => name = Some(value),
            _ => {}
        }
        rest = next;
    }
    (ip.zip(port).map(|(ip, port)| SocketAddr::new(ip, port)), name)
}

/// A value of a connection string as libpq reads it, and what stands behind it: in quotes or up to a blank, and behind a
/// backslash any character is itself.
fn value(text: &str) -> (String, &str) {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut rest = text[usize::from(quoted)..].chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => value.extend(rest.next()),
            '\'' if quoted => break,
            blank if !quoted && blank.is_whitespace() => break,
            other => value.push(other),
        }
    }
    (value, rest.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frozen_standby_names_no_upstream() {
        assert_eq!(configured(""), (None, None));
        let there =
            "host='10.0.0.1' port='5433' user='r' passfile='/a b' tcp_user_timeout=5000 application_name='x'";
        assert_eq!(configured(there), (Some("10.0.0.1:5433".parse().unwrap()), Some("x".to_owned())));
        assert_eq!(configured("host=name.example"), (None, None));
    }

    #[test]
    fn fuzz_conninfo() {
        mesh_fuzz::fuzz!("conninfo", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let _ = mesh_fuzz::bounded(bytes.len(), || configured(&text));
            // Whatever stands in the values that mesh writes, it reads its own string.
            let quote = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
            let ours =
                format!("host='10.0.0.1' port='5433' passfile='{0}' application_name='{0}'", quote(&text));
            let (address, name) = configured(&ours);
            assert_eq!((address, name), (Some("10.0.0.1:5433".parse().unwrap()), Some(text.into_owned())));
        });
    }
}
