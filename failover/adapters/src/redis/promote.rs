//! Promotion, in two steps: the server stops replicating, behind the gate; then the gate is opened and the epoch written, in one
//! packet, so that it is the first write of the new history.
//!
//! The caller holds the lease of the epoch and checks it before each step.

use std::time::{Duration, Instant};

use redis::Pipeline;

use super::fault::{AskError, Fault};
use super::gate::{self, BACKLOG_TTL, MAX_LAG, MAX_LAG_SECONDS, SETTING};
use super::info::{ReplId, Role, replication};
use super::instance::Instance;
use super::link::command;
use super::look::look;
use super::stamp::{self, NewStamp, Stamp};

/// A server that replicates from nobody any more, and still acknowledges nothing unless it did so before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promoted {
    /// Its own replication id.
    pub replid: ReplId,
    /// False when it was a primary already.
    pub was_replica: bool,
    /// Where the old history ended, for a replica that was promoted.
    pub forked_at: u64,
    /// From the call to the end.
    pub took: Duration,
}

/// An open primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The number of the history that it writes.
    pub history: u32,
    /// Where it was after the epoch was written.
    pub at: u64,
    /// Whether the epoch was there already.
    pub already: bool,
}

/// Why an instance is not known to be the open primary.
#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    /// A refusal, or no answer.
    #[error("the instance could not be promoted")]
    Ask(#[from] AskError),
    /// The data has seen a later epoch.
    #[error(
        "the data holds epoch {found} of {by}, but {offered} was to be written; this instance must not be primary under {offered}"
    )]
    Superseded {
        /// What is there.
        found: u64,
        /// Whose it is.
        by: String,
        /// What was offered.
        offered: u64,
    },
    /// It has half a copy.
    #[error(
        "the instance is taking over a whole copy and holds only a part of the data; promote another one"
    )]
    Copying,
    /// It loads.
    #[error("the instance is still loading its data")]
    Loading,
    /// It is none.
    #[error("the instance is no primary after it was told to be one; somebody else gives it orders")]
    StillReplica,
    /// No such number.
    #[error("the number of the history is exhausted")]
    Exhausted,
}

impl PromoteError {
    /// Whether it is certain that nothing changed.
    #[must_use]
    pub const fn is_certain(&self) -> bool {
        match self {
            Self::Ask(error) => !error.fault.may_have_been_done(),
            Self::Superseded { .. } | Self::Copying | Self::Loading | Self::Exhausted => true,
            Self::StillReplica => false,
        }
    }
}

fn superseded(found: Option<&Stamp>, new: &NewStamp) -> Result<(), PromoteError> {
    match found {
        Some(there)
            if there.epoch > new.epoch || (there.epoch == new.epoch && there.instance != new.instance) =>
        {
            Err(PromoteError::Superseded {
                found: there.epoch,
                by: there.instance.clone(),
                offered: new.epoch,
            })
        }
        Some(_) | None => Ok(()),
    }
}

/// Ends the replication: a replica draws a new replication id and remembers the old one up to here, so that the others can go
/// on from it without a copy. A primary is left as it is. Safe to repeat.
///
/// # Errors
/// [`PromoteError::is_certain`] says which of them leave it open.
pub async fn promote(
    instance: &Instance,
    new: &NewStamp,
    deadline: Instant,
) -> Result<Promoted, PromoteError> {
    let began = Instant::now();
    let mut link = instance.link(deadline).await?;
    let before = look(&mut link, deadline).await.map_err(loading)?;
    superseded(before.stamp.as_ref(), new)?;
    let upstream = before.info.replication.upstream.as_ref();
    if upstream.is_some_and(|upstream| upstream.copying) {
        return Err(PromoteError::Copying);
    }
    let was_replica = before.info.replication.role == Role::Replica;
    if was_replica {
        gate::set_closed(&mut link, deadline).await?;
        link.order("promote the instance", &["REPLICAOF", "NO", "ONE"], deadline).await?;
    }
    let after = replication(&mut link, deadline).await?;
    if after.role != Role::Primary {
        return Err(PromoteError::StillReplica);
    }
    let forked_at = after.second_offset.map_or(after.offset, |first_other| first_other.saturating_sub(1));
    Ok(Promoted { replid: after.replid, was_replica, forked_at, took: began.elapsed() })
}

/// Notes another replication id that the server drew while it was open: one that never had a replica draws it when the first
/// one comes. What it wrote before and after is one history. Until it is noted that replica cannot tell in which history
/// it stands, and is not promoted. Nothing is written when the stamp is right, or somebody else's.
///
/// # Errors
/// When it is not known to be written.
pub async fn renew_stamp(instance: &Instance, epoch: u64, deadline: Instant) -> Result<bool, PromoteError> {
    let mut link = instance.link(deadline).await?;
    let Some(there) = stamp::read(&mut link, deadline).await? else { return Ok(false) };
    let server = replication(&mut link, deadline).await?;
    let ours = there.epoch == epoch && there.instance == instance.settings().name;
    if !ours || server.role != Role::Primary || there.replid == server.replid {
        return Ok(false);
    }
    let renewed = Stamp { replid: server.replid, ..there };
    link.ask("renew mesh:epoch", &renewed.write(), deadline).await?;
    Ok(true)
}

/// Opens the gate and writes the epoch. Repeated under the same lease and history, it writes nothing.
///
/// # Errors
/// [`PromoteError::is_certain`] says which of them leave it open.
pub async fn open_primary(
    instance: &Instance,
    new: &NewStamp,
    deadline: Instant,
) -> Result<Opened, PromoteError> {
    let mut link = instance.link(deadline).await?;
    let before = look(&mut link, deadline).await.map_err(loading)?;
    superseded(before.stamp.as_ref(), new)?;
    let server = &before.info.replication;
    if server.role != Role::Primary {
        return Err(PromoteError::StillReplica);
    }
    let same = |there: &&Stamp| {
        (there.epoch, there.lease_no, &there.instance) == (new.epoch, new.lease_no, &new.instance)
            && there.replid == server.replid
    };
    if let Some(there) = before.stamp.as_ref().filter(same)
        && !before.gated
    {
        return Ok(Opened { history: there.history, at: server.offset, already: true });
    }
    // One replication id is one history: acquired anew in place, the number stays.
    let history = match &before.stamp {
        Some(there) if there.replid == server.replid => there.history,
        Some(there) => there.history.checked_add(1).ok_or(PromoteError::Exhausted)?,
        None => 1,
    };
    let stamp = Stamp {
        epoch: new.epoch,
        lease_no: new.lease_no,
        instance: new.instance.clone(),
        system: before.stamp.as_ref().map_or(new.system, |there| there.system),
        history,
        replid: server.replid.clone(),
    };
    let what = "open the gate and write the epoch";
    let mut all = Pipeline::new();
    all.add_command(command(&["CONFIG", "SET", BACKLOG_TTL, "0"]));
    all.add_command(command(&["CONFIG", "SET", MAX_LAG, MAX_LAG_SECONDS]));
    all.add_command(command(&["CONFIG", "SET", SETTING, &instance.settings().min_replicas.to_string()]));
    all.add_command(stamp.write());
    for answer in link.ask_all(what, &all, deadline).await? {
        answer?;
    }
    let at = replication(&mut link, deadline).await?;
    match stamp::read(&mut link, deadline).await? {
        Some(there) if there == stamp => Ok(Opened { history, at: at.offset, already: false }),
        Some(_) | None => Err(AskError::new(what, Fault::Form).into()),
    }
}

fn loading(error: AskError) -> PromoteError {
    if error.fault == Fault::Loading { PromoteError::Loading } else { error.into() }
}
