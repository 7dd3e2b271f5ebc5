//! A planned hand-over: writes are held, a replica has everything, and the primary becomes a replica of nobody, in place.
//!
//! `FAILOVER` does the same and promotes the target on its own, before its guard holds a lease; and it waits for the replicas' own
//! acknowledgements, which come once a second. Here the replicas are asked where they are, and the promotion is left to
//! whoever holds the lease. Until the demotion, an abort is an end of the pause, and nothing was lost.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::fault::AskError;
use super::fence::write_held;
use super::gate;
use super::info::{Replication, Role, replication};
use super::instance::Instance;
use super::link::{Link, command};
use super::standby::hold;
use crate::postgres::durable::DurableError;

const POLL: Duration = Duration::from_millis(2);
/// How long one replica may take to say where it is.
const ASK_WITHIN: Duration = Duration::from_millis(250);
/// How long clients whose writes were held may take to read that this is a replica now, before they are disconnected.
const FAREWELL: Duration = Duration::from_millis(20);

/// A demoted primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandedOver {
    /// The end of its history: a successor that has this has everything.
    pub end: u64,
    /// A replica that had everything before the demotion.
    pub drained: SocketAddr,
    /// From the pause to the demotion.
    pub took: Duration,
}

/// Why a primary is not known to be handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// Before the demotion; writes go on.
    #[error("the primary could not be handed over; it goes on")]
    Ask(#[from] AskError),
    /// No primary.
    #[error("the instance is no primary")]
    NotPrimary,
    /// Nobody to hand over to; writes go on.
    #[error("no replica is linked to the primary; it goes on")]
    NoReplica,
    /// No replica has everything; writes go on.
    #[error("no replica has reached {end} within the time for it; the primary goes on")]
    NotDrained {
        /// Where the primary is.
        end: u64,
    },
    /// Demoted or not: fence it.
    #[error("whether the primary was demoted is not known; fence it")]
    Unknown(#[source] AskError),
    /// Demoted, and a restart by somebody else would not know it.
    #[error("the primary is demoted, but that it stays so over a restart is not on disk")]
    Held(#[from] DurableError),
}

impl HandOverError {
    /// Whether the primary certainly goes on.
    #[must_use]
    pub const fn goes_on(&self) -> bool {
        match self {
            Self::Ask(_) | Self::NotPrimary | Self::NoReplica | Self::NotDrained { .. } => true,
            Self::Unknown(_) | Self::Held(_) => false,
        }
    }
}

/// Hands over. `patience` is how long writes may be held while a replica catches up.
///
/// # Errors
/// [`HandOverError::goes_on`] says which of them left the primary as it was.
pub async fn hand_over(
    instance: &Instance,
    patience: Duration,
    deadline: Instant,
) -> Result<HandedOver, HandOverError> {
    let began = Instant::now();
    let until = (began + patience).min(deadline);
    // A connection of its own: the warm one may be busy, and all others are ended at the end.
    let mut link = Link::open(&instance.target(), deadline).await?;
    let before = replication(&mut link, deadline).await?;
    if before.role != Role::Primary {
        return Err(HandOverError::NotPrimary);
    }
    if !before.replicas.iter().any(|replica| replica.online) {
        return Err(HandOverError::NoReplica);
    }
    // It ends by itself a little after we gave up, should we die.
    let pause = (until.saturating_duration_since(began) + ASK_WITHIN).as_millis().to_string();
    link.order("hold writes", &["CLIENT", "PAUSE", &pause, "WRITE"], deadline).await?;
    let drained = match drain(instance, &mut link, until).await {
        Ok(drained) => drained,
        Err(error) => {
            resume(&mut link, deadline).await;
            return Err(error);
        }
    };
    let demoted = demote(&mut link, deadline).await.map_err(HandOverError::Unknown)?;
    let took = began.elapsed();
    farewell(&mut link, deadline).await;
    write_held(instance, deadline).await?;
    Ok(HandedOver { end: demoted.offset, drained, took })
}

/// Waits until one replica has everything.
async fn drain(instance: &Instance, link: &mut Link, until: Instant) -> Result<SocketAddr, HandOverError> {
    let mut open: Vec<(SocketAddr, Link)> = Vec::new();
    loop {
        let primary = replication(link, until + ASK_WITHIN).await?;
        let end = primary.offset;
        let online = primary.replicas.iter().filter(|replica| replica.online);
        for replica in online {
            let Some(address) = replica.address else { continue };
            if replica.acknowledged >= end || reached(instance, &mut open, address, end).await {
                return Ok(address);
            }
        }
        if Instant::now() >= until {
            return Err(HandOverError::NotDrained { end });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Whether a replica says itself that it is there. One that mesh cannot ask still acknowledges to its primary.
async fn reached(
    instance: &Instance,
    open: &mut Vec<(SocketAddr, Link)>,
    address: SocketAddr,
    end: u64,
) -> bool {
    let soon = Instant::now() + ASK_WITHIN;
    if !open.iter().any(|(known, _)| *known == address)
        && let Ok(link) = Link::open(&instance.peer(address), soon).await
    {
        open.push((address, link));
    }
    let Some((_, link)) = open.iter_mut().find(|(known, _)| *known == address) else { return false };
    match replication(link, soon).await {
        Ok(there) => there.role == Role::Replica && there.offset >= end,
        Err(error) => {
            tracing::debug!(%address, %error, "a replica does not say where it is");
            open.retain(|(known, _)| *known != address);
            false
        }
    }
}

async fn demote(link: &mut Link, deadline: Instant) -> Result<Replication, AskError> {
    gate::set_closed(link, deadline).await?;
    hold(link, deadline).await?;
    let now = replication(link, deadline).await?;
    match now.role {
        Role::Replica => Ok(now),
        Role::Primary => Err(AskError::new("demote the primary", super::Fault::Form)),
    }
}

/// Writes that were held are refused now; then everybody is sent away, to find the new primary.
async fn farewell(link: &mut Link, deadline: Instant) {
    resume(link, deadline).await;
    tokio::time::sleep(FAREWELL).await;
    for kind in ["normal", "pubsub"] {
        let kill = command(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]);
        if let Err(error) = link.ask("disconnect clients", &kill, deadline).await {
            tracing::warn!(kind, %error, "clients of the former primary were not disconnected; they read old data");
        }
    }
}

async fn resume(link: &mut Link, deadline: Instant) {
    if let Err(error) = link.order("let writes go", &["CLIENT", "UNPAUSE"], deadline).await {
        tracing::warn!(%error, "writes are held until the pause ends by itself");
    }
}
