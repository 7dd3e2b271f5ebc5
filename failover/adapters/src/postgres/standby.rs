//! What is done to a standby while candidates are compared and after one was chosen: freeze its receiver, read its
//! position, wait for a position, follow a primary. By reload, without a restart. Which standby is best is not its matter.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use mesh_proto::Lsn;

use super::conf::alter_system;
use super::conninfo::Upstream;
use super::identify::{IdentifyError, identify};
use super::instance::Instance;
use super::sql::{Session, SqlError, get, get_lsn};

/// Poll interval where PostgreSQL has no event to offer.
const POLL: Duration = Duration::from_millis(1);

/// Where a standby stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The cluster.
    pub system_identifier: u64,
    /// The timeline on which `end` lies.
    pub timeline: u32,
    /// The further of received (flushed) and replayed: everything before it survives a promotion. Written but unflushed
    /// log is not counted.
    pub end: Lsn,
    /// Received and flushed; `None` when it has not streamed since its start.
    pub received: Option<Lsn>,
    /// Replayed.
    pub replayed: Lsn,
    /// Whether somebody paused its replay.
    pub replay_paused: bool,
    /// The address it streams from, if it streams.
    pub streaming_from: Option<String>,
}

/// Why an operation on a standby is not known to be done.
#[derive(Debug, thiserror::Error)]
pub enum StandbyError {
    /// No session, a refusal, or the deadline.
    #[error("the standby could not be worked on")]
    Sql(#[from] SqlError),
    /// It did not say on which timeline it is.
    #[error("the standby did not identify itself")]
    Identify(#[from] IdentifyError),
    /// It is no standby.
    #[error("the instance is not in recovery: it is a primary")]
    NotInRecovery,
    /// The receiver goes on.
    #[error("the receiver still runs at the deadline; the standby is not frozen")]
    StillReceiving,
    /// The position was not reached.
    #[error("the standby is at {at}, short of {wanted}, at the deadline")]
    NotReached {
        /// Where it is.
        at: Lsn,
        /// Where it should be.
        wanted: Lsn,
    },
    /// It does not stream from the primary it was told to follow.
    #[error(
        "the standby does not stream from {address} at the deadline; its log says why (it needs a rewind if its log forked off)"
    )]
    NotStreaming {
        /// The primary.
        address: String,
    },
}

/// Clears `primary_conninfo` by reload and waits until the receiver is gone: nothing more is acknowledged to the primary,
/// and the position stands still but for replay. Survives restarts of the standby. Safe to repeat.
///
/// # Errors
/// When it is no standby or the receiver is not gone at the deadline; freezing then may happen later.
pub async fn freeze(instance: &Instance, deadline: Instant) -> Result<Position, StandbyError> {
    let session = instance.warm().take(instance, deadline).await?;
    in_recovery(&session, deadline).await?;
    alter_system(&session, &[("primary_conninfo", Some(String::new()))], deadline).await?;
    // The receiver may be between two lives while the startup process has not reloaded yet, so both must be seen.
    let what = "wait for the receiver's end";
    let sql = "SELECT current_setting('primary_conninfo') = '' \
               AND NOT EXISTS (SELECT FROM pg_stat_wal_receiver)";
    let mut calm = 0;
    loop {
        let row = session.row(what, sql, &[], deadline).await?;
        calm = if get(what, &row, 0)? { calm + 1 } else { 0 };
        if calm == 2 {
            break;
        }
        if Instant::now() >= deadline {
            return Err(StandbyError::StillReceiving);
        }
        tokio::time::sleep(POLL).await;
    }
    let position = read_position(instance, &session, deadline).await?;
    instance.warm().give_back(session);
    Ok(position)
}

/// Reads the position. Comparable between standbys only when both are frozen.
///
/// # Errors
/// When it is no standby, or does not answer in time.
pub async fn position(instance: &Instance, deadline: Instant) -> Result<Position, StandbyError> {
    let session = instance.warm().take(instance, deadline).await?;
    let position = read_position(instance, &session, deadline).await?;
    instance.warm().give_back(session);
    Ok(position)
}

async fn read_position(
    instance: &Instance,
    session: &Session,
    deadline: Instant,
) -> Result<Position, StandbyError> {
    in_recovery(session, deadline).await?;
    let what = "read the position";
    let sql = "SELECT pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(), pg_is_wal_replay_paused(), \
               r.received_tli, r.sender_host, r.status = 'streaming' \
               FROM (VALUES (1)) AS one LEFT JOIN pg_stat_wal_receiver r ON true";
    let (row, identity) = tokio::join!(session.row(what, sql, &[], deadline), identify(instance, deadline));
    let (row, identity) = (row?, identity?);
    let received = get_lsn(what, &row, 0)?;
    let replayed = get_lsn(what, &row, 1)?.unwrap_or(Lsn::INVALID);
    let received_timeline: Option<i32> = get(what, &row, 3)?;
    let sender: Option<String> = get(what, &row, 4)?;
    let streams: Option<bool> = get(what, &row, 5)?;
    let receiver_timeline = received_timeline.and_then(|t| u32::try_from(t).ok()).unwrap_or(0);
    // `identity` knows the timeline of replay and the flush position on it; the receiver may be a timeline ahead.
    Ok(Position {
        system_identifier: identity.system_identifier,
        timeline: identity.timeline.max(receiver_timeline),
        // After a reconnect to a forked timeline `received` goes back to a segment's start; without a primary since the
        // start it is NULL. What was replayed counts in both cases.
        end: identity.position.max(replayed).max(received.unwrap_or(Lsn::INVALID)),
        received,
        replayed,
        replay_paused: get(what, &row, 2)?,
        streaming_from: sender.filter(|_| streams == Some(true)),
    })
}

/// Waits until the standby has received and flushed everything before `wanted`.
///
/// # Errors
/// Where it is at the deadline.
pub async fn confirm(instance: &Instance, wanted: Lsn, deadline: Instant) -> Result<Lsn, StandbyError> {
    let session = instance.warm().take(instance, deadline).await?;
    let what = "wait for a position";
    let sql = "SELECT pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()";
    let mut at = None;
    loop {
        match (session.row(what, sql, &[], deadline).await, at) {
            (Ok(row), _) => at = get_lsn(what, &row, 0)?.max(get_lsn(what, &row, 1)?),
            // The last question ran out of time; an earlier one has told where it is.
            (Err(error), Some(at)) if error.is_deadline() => {
                return Err(StandbyError::NotReached { at, wanted });
            }
            (Err(error), _) => return Err(error.into()),
        }
        match at {
            Some(at) if at >= wanted => {
                instance.warm().give_back(session);
                return Ok(at);
            }
            Some(at) if Instant::now() >= deadline => return Err(StandbyError::NotReached { at, wanted }),
            Some(_) | None => {}
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Repoints the standby by reload and waits until it streams the primary's timeline from there. Whether its lineage allows it is to be asked
/// before ([`super::History::place`]): a standby beyond the fork would retry for ever. Safe to repeat.
///
/// # Errors
/// When it does not stream from the primary at the deadline; it goes on trying by itself.
pub async fn follow(
    instance: &Instance,
    upstream: &Upstream,
    timeline: u32,
    deadline: Instant,
) -> Result<Position, StandbyError> {
    let session = instance.warm().take(instance, deadline).await?;
    in_recovery(&session, deadline).await?;
    let conninfo = upstream.conninfo(instance.settings());
    alter_system(&session, &[("primary_conninfo", Some(conninfo.clone()))], deadline).await?;
    let position = wait_streaming(instance, &session, upstream, timeline, deadline).await?;
    instance.warm().give_back(session);
    Ok(position)
}

/// Waits until the standby streams a timeline from a primary, as seen on the standby. After a promotion the receiver
/// first finishes the old timeline, already from the new primary.
pub(super) async fn wait_streaming(
    instance: &Instance,
    session: &Session,
    upstream: &Upstream,
    timeline: u32,
    deadline: Instant,
) -> Result<Position, StandbyError> {
    let what = "wait until it streams";
    // The receiver's own words, so that one that still streams from the former primary is not taken for it.
    let sql = "SELECT sender_host, sender_port, status = 'streaming', received_tli FROM pg_stat_wal_receiver";
    loop {
        if let Some(row) = session.rows(what, sql, &[], deadline).await?.first() {
            let host: Option<String> = get(what, row, 0)?;
            let port: Option<i32> = get(what, row, 1)?;
            let host = host.and_then(|host| host.parse::<IpAddr>().ok());
            let there =
                host == Some(upstream.address().ip()) && port == Some(i32::from(upstream.address().port()));
            let streams = get::<Option<bool>>(what, row, 2)? == Some(true);
            let reached = get::<Option<i32>>(what, row, 3)?.map(i32::cast_unsigned) >= Some(timeline);
            if there && streams && reached {
                return read_position(instance, session, deadline).await;
            }
        }
        if Instant::now() >= deadline {
            return Err(StandbyError::NotStreaming { address: upstream.address().to_string() });
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn in_recovery(session: &Session, deadline: Instant) -> Result<(), StandbyError> {
    let what = "ask whether it is in recovery";
    let row = session.row(what, "SELECT pg_is_in_recovery()", &[], deadline).await?;
    if get(what, &row, 0)? { Ok(()) } else { Err(StandbyError::NotInRecovery) }
}
