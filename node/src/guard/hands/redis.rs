//! What each task means to a Redis server.
//!
//! It is always started held: as a replica of nobody, behind the gate. Becoming the primary, or following one, is then done to
//! the running server; so is a planned hand-over, which leaves it running and held.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_adapters::redis::{self as redis, FollowError, How, Instance, NewStamp, PromoteError, StandbyError};
use mesh_failover::guard::{CommitGate, Rejoin, Task, TaskResult};
use mesh_proto::effect::Rejoined;
use mesh_proto::evidence::Position;
use mesh_proto::lease::{LeaseTerm, ReceiptLevel};
use mesh_proto::{DataIncarnation, Lsn};

use super::{Done, Hand, Trouble, failed, unknown};
use crate::guard::files::{DATA_BYTES, unique};
use crate::guard::server::Launcher;

/// How long writes may be held while a replica catches up: within the lease, which is not renewed meanwhile.
const DRAIN_WITHIN: Duration = Duration::from_millis(1_000);
/// How long asking whether a copy was begun may take.
const ASK_WITHIN: Duration = Duration::from_secs(1);

pub(super) async fn perform(hand: &Hand, instance: &Instance, task: Task) -> Done {
    let deadline = hand.deadline;
    match task {
        Task::Fence { .. } => Err(Trouble::Failed("a fence is not for these hands".to_owned())),
        Task::HandOver { term } => hand_over(hand, instance, term).await,
        Task::StartStandby { .. } => {
            start(hand, instance).await?;
            Ok(TaskResult::Done)
        }
        // It waits for no quorum: such a group is refused.
        Task::OpenPrimary { term, quorum: _ } => open_primary(hand, instance, term).await,
        Task::Freeze { .. } => {
            let position = redis::freeze(instance, deadline).await.map_err(not_frozen)?;
            Ok(TaskResult::At(stands(&position)))
        }
        Task::Follow(rejoin) => Ok(follow(hand, instance, &rejoin).await),
        // What a checkpoint is for, a short stop and a short start, a hand-over in place needs not.
        Task::Checkpoint => Ok(TaskResult::Done),
        // What it had not saved it has forgotten: nothing is left to be counted.
        Task::Scan { .. } => Err(Trouble::Failed("a Redis has no log that outlives it".to_owned())),
        Task::Confirm { at } => {
            let position = redis::confirm(instance, at.0 + 1, deadline).await.map_err(failed)?;
            Ok(TaskResult::At(stands(&position)))
        }
    }
}

fn stands(position: &redis::Position) -> Position {
    let at = Lsn(position.offset);
    Position { timeline: position.history, have: at, replayed: at }
}

fn not_frozen(error: StandbyError) -> Trouble {
    match error {
        StandbyError::Primary | StandbyError::Copying => failed(error),
        StandbyError::Ask(_) | StandbyError::StillLinked { .. } | StandbyError::NotReached { .. } => {
            unknown(error)
        }
    }
}

async fn start(hand: &Hand, instance: &Instance) -> Result<(), Trouble> {
    let launcher = Launcher::new(&hand.server, hand.ticket);
    // A child that was saving when its server died keeps the directory busy, and answers nobody. A server that somebody else
    // started meanwhile is found by the start.
    if redis::attach(instance).map_err(failed)?.is_none() {
        let report = instance.tree().kill(hand.deadline).map_err(unknown)?;
        if !report.killed.is_empty() {
            tracing::warn!(count = report.killed.len(), "ended what the dead server had left behind");
            instance.tree().wait_gone(&report.killed, hand.deadline).await.map_err(unknown)?;
        }
    }
    let started = redis::start(instance, &launcher, hand.deadline).await.map_err(unknown)?;
    tracing::info!(took = ?started.took, version = started.info.version, "the server runs, held");
    Ok(())
}

async fn hand_over(hand: &Hand, instance: &Instance, term: LeaseTerm) -> Done {
    hand.must_hold(term).await?;
    let done = redis::hand_over(instance, DRAIN_WITHIN, hand.deadline).await;
    let done = done.map_err(|error| if error.goes_on() { failed(error) } else { unknown(error) })?;
    tracing::info!(took = ?done.took, end = done.end, drained = %done.drained, "handed over, in place");
    // "Has it past this": what stands before the end.
    let at = Lsn(done.end.saturating_sub(1));
    Ok(TaskResult::Fenced { level: ReceiptLevel::Quiet, shutdown_at: Some(at) })
}

async fn open_primary(hand: &Hand, instance: &Instance, term: LeaseTerm) -> Done {
    hand.must_hold(term).await?;
    if hand.server.running().is_none() {
        start(hand, instance).await?;
    }
    let stamp = NewStamp {
        epoch: term.epoch.0,
        lease_no: term.lease_no.0,
        instance: instance.settings().name.clone(),
        system: hand
            .system
            .ok_or_else(|| Trouble::Failed("what identifies the data is not known yet".to_owned()))?,
    };
    let promoted = redis::promote(instance, &stamp, hand.deadline).await.map_err(not_promoted)?;
    // Behind the gate still: nothing was acknowledged.
    hand.must_hold(term).await?;
    let opened = redis::open_primary(instance, &stamp, hand.deadline).await.map_err(not_promoted)?;
    hand.server.set_gate(CommitGate::Open);
    tracing::info!(
        history = opened.history, at = opened.at, promotion = ?promoted.took, replid = %promoted.replid,
        "open as primary in epoch {}", term.epoch
    );
    Ok(TaskResult::Opened { timeline: opened.history, at: Lsn(opened.at) })
}

fn not_promoted(error: PromoteError) -> Trouble {
    if error.is_certain() { failed(error) } else { unknown(error) }
}

async fn follow(hand: &Hand, instance: &Instance, rejoin: &Rejoin) -> TaskResult {
    match try_to_follow(hand, instance, rejoin).await {
        Ok(result) => result,
        Err((Trouble::Failed(detail) | Trouble::Unknown(detail), whole)) => {
            TaskResult::NotFollowed { detail, whole }
        }
    }
}

/// With what failed comes whether the data is certainly what it was.
async fn try_to_follow(
    hand: &Hand,
    instance: &Instance,
    rejoin: &Rejoin,
) -> Result<TaskResult, (Trouble, bool)> {
    if hand.server.running().is_none() {
        start(hand, instance).await.map_err(|trouble| (trouble, true))?;
    }
    let (address, epoch) = (rejoin.address, rejoin.epoch.0);
    match redis::follow(instance, address, epoch, hand.system, hand.deadline).await {
        Ok(followed) => {
            tracing::info!(how = ?followed.how, at = followed.position.offset, "follows");
            Ok(TaskResult::Follows(match followed.how {
                How::Already | How::Continued => Rejoined::Followed,
                How::Copied { diverged, .. } => {
                    let fresh = unique("d", DATA_BYTES).map_err(|error| (failed(error), false))?;
                    Rejoined::Rebuilt {
                        diverged_bytes: diverged,
                        transactions: None,
                        data: DataIncarnation(fresh),
                    }
                }
            }))
        }
        Err(error) => {
            let whole = match &error {
                FollowError::Unknown(_) | FollowError::NotLinked { .. } => copies_nothing(instance).await,
                FollowError::NotReached(_)
                | FollowError::Stale { .. }
                | FollowError::Primary
                | FollowError::Source { .. }
                | FollowError::NotPrimary { .. }
                | FollowError::OtherSystem { .. }
                | FollowError::Keep(_)
                | FollowError::Refused(_)
                | FollowError::NotSo { .. } => true,
            };
            Err((unknown(error), whole))
        }
    }
}

/// Whether no copy has begun to replace the data.
async fn copies_nothing(instance: &Instance) -> bool {
    let mut glance = redis::Glance::default();
    match glance.look(instance, Instant::now() + ASK_WITHIN).await {
        Ok(look) => look.info.replication.upstream.is_none_or(|upstream| !upstream.copying),
        Err(error) => {
            tracing::warn!(%error, "whether a copy was begun is not known");
            false
        }
    }
}

/// Lets writes wait, or go.
pub(super) async fn gate(
    server: &Arc<crate::guard::server::Server>,
    instance: &Instance,
    gated: bool,
    deadline: Instant,
) -> Result<(), redis::GateError> {
    // From here on it may be set, in force or not.
    server.set_gate(CommitGate::Set);
    if gated {
        redis::close(instance, deadline).await?;
        server.set_gate(CommitGate::InForce);
    } else {
        redis::open(instance, deadline).await?;
        server.set_gate(CommitGate::Open);
    }
    Ok(())
}
