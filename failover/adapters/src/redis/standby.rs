//! What is done to a replica while candidates are compared: freeze it, read where it stands, wait until it has everything. Which
//! one is best is not its matter.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::fault::AskError;
use super::gate;
use super::info::{ReplId, Replication, Role, replication};
use super::instance::Instance;
use super::link::Link;
use super::stamp::{self, Stamp};

/// Where a held or frozen server replicates from: nobody can listen there, and the refusal comes at once. As a replica it takes no
/// writes, and unlike a primary it keeps the place in its history at which it can go on.
pub(super) const DEAD_END: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// Poll interval; Redis has no event to offer.
const POLL: Duration = Duration::from_millis(1);

/// Where a server stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The number of the history in which `offset` counts; 0 when that is not known.
    pub history: u32,
    /// Its replication id.
    pub replid: ReplId,
    /// Bytes applied: everything before it survives a promotion.
    pub offset: u64,
}

impl Position {
    pub(super) fn of(server: &Replication, stamp: Option<&Stamp>) -> Self {
        Self {
            history: stamp.map_or(0, |stamp| stamp.history_of(server)),
            replid: server.replid.clone(),
            offset: server.offset,
        }
    }
}

/// Why an operation on a replica is not known to be done.
#[derive(Debug, thiserror::Error)]
pub enum StandbyError {
    /// A refusal, or no answer.
    #[error("the replica could not be worked on")]
    Ask(#[from] AskError),
    /// It acknowledges writes.
    #[error("the instance is an open primary, not a replica")]
    Primary,
    /// It has half a copy.
    #[error(
        "the instance is taking over a whole copy of its primary and holds neither its old data nor all of the new; let it follow a primary to the end"
    )]
    Copying,
    /// The link goes on.
    #[error("the replica is still linked to {from:?} at the deadline; it is not frozen")]
    StillLinked {
        /// Its primary.
        from: Option<SocketAddr>,
    },
    /// The position was not reached.
    #[error("the replica is at {at}, short of {wanted}, at the deadline")]
    NotReached {
        /// Where it is.
        at: u64,
        /// Where it should be.
        wanted: u64,
    },
}

/// Cuts a replica off from its primary and waits until the link is gone: nothing more arrives, and the position is final. It
/// stays a replica, with its place in the history. Safe to repeat.
///
/// # Errors
/// When it is no replica, holds half a copy, or the link is not gone at the deadline.
pub async fn freeze(instance: &Instance, deadline: Instant) -> Result<Position, StandbyError> {
    let mut link = instance.link(deadline).await?;
    let before = replication(&mut link, deadline).await?;
    match (&before.role, &before.upstream) {
        (Role::Primary, _) if !gate::closed(&mut link, deadline).await? => return Err(StandbyError::Primary),
        (Role::Replica, Some(upstream)) if upstream.copying => return Err(StandbyError::Copying),
        (Role::Primary | Role::Replica, _) => {}
    }
    gate::set_closed(&mut link, deadline).await?;
    hold(&mut link, deadline).await?;
    loop {
        let now = replication(&mut link, deadline).await?;
        let upstream = now.upstream.as_ref();
        if upstream.is_some_and(|up| up.address == Some(DEAD_END) && !up.up) {
            let stamp = stamp::read(&mut link, deadline).await?;
            return Ok(Position::of(&now, stamp.as_ref()));
        }
        if Instant::now() >= deadline {
            return Err(StandbyError::StillLinked { from: upstream.and_then(|up| up.address) });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Makes it a replica of nobody.
pub(super) async fn hold(link: &mut Link, deadline: Instant) -> Result<(), AskError> {
    let (ip, port) = (DEAD_END.ip().to_string(), DEAD_END.port().to_string());
    link.order("hold the server as a replica of nobody", &["REPLICAOF", &ip, &port], deadline).await
}

/// Reads the position. Comparable between replicas only when both are frozen.
///
/// # Errors
/// When it does not answer in time.
pub async fn position(instance: &Instance, deadline: Instant) -> Result<Position, StandbyError> {
    let mut link = instance.link(deadline).await?;
    let now = replication(&mut link, deadline).await?;
    let stamp = stamp::read(&mut link, deadline).await?;
    Ok(Position::of(&now, stamp.as_ref()))
}

/// Waits until the replica has everything before `wanted`.
///
/// # Errors
/// Where it is at the deadline.
pub async fn confirm(instance: &Instance, wanted: u64, deadline: Instant) -> Result<Position, StandbyError> {
    let mut link = instance.link(deadline).await?;
    loop {
        let now = replication(&mut link, deadline).await?;
        if now.upstream.as_ref().is_some_and(|up| up.copying) {
            return Err(StandbyError::Copying);
        }
        if now.offset >= wanted {
            let stamp = stamp::read(&mut link, deadline).await?;
            return Ok(Position::of(&now, stamp.as_ref()));
        }
        if Instant::now() >= deadline {
            return Err(StandbyError::NotReached { at: now.offset, wanted });
        }
        tokio::time::sleep(POLL).await;
    }
}
