//! What a guard wants done, and what may come of it. Closed lists.

use mesh_proto::effect::{Finding, Outcome, Rejoined};
use mesh_proto::evidence::Position;
use mesh_proto::hold::{GuardPeer, HoldAnswer, HoldRequest};
use mesh_proto::lease::{FenceCause, LeaseTerm, Receipt, ReceiptLevel, RenewRequest};
use mesh_proto::quorum::QuorumConfig;
use mesh_proto::{Generation, Lsn};

use super::state::{GuardState, Rejoin};
use crate::Moment;

/// One thing for the runtime to do, in the order given. None of them may delay a [`Task::Fence`] that comes later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Tell the leash process. Takes effect before the actions after it.
    Leash(Leash),
    /// Store the state durably, then call `handle_persisted(version)`; on failure `handle_persist_failed`.
    Persist(Box<GuardState>),
    /// Send this to every voter in `voters` at once; give each answer to `handle_reply` with this `round`.
    Ask {
        /// Number of the request.
        round: u64,
        /// Whom to ask.
        voters: Vec<mesh_proto::NodeId>,
        /// What to send.
        request: Box<RenewRequest>,
    },
    /// Send this to each of these guards; give each answer to `handle_promise` with this `round`.
    AskHolders {
        /// Number of the request.
        round: u64,
        /// Whom to ask.
        to: Vec<GuardPeer>,
        /// What to send.
        request: Box<HoldRequest>,
    },
    /// Answer the guard that asked for a promise under this id.
    Promise {
        /// The request's id.
        id: u64,
        /// The answer.
        answer: HoldAnswer,
    },
    /// Make commits wait, reversibly; facts show when that is in force.
    GateCommits,
    /// Let commits go again.
    UngateCommits,
    /// Let commits wait for this quorum: write it, see it in force, commit a marker that begins after that. Facts show how
    /// far it has come. It ends an earlier one's marker. While commits are gated, it waits behind the gate.
    SetQuorum(Box<QuorumConfig>),
    /// Begin a task. Whatever task ran before is ended first; its result is not wanted any more.
    Do {
        /// Number of the job, for `handle_done`.
        job: u64,
        /// What to do.
        task: Task,
        /// When it must be over: the runtime then stops it and reports [`TaskResult::Unknown`].
        until: Moment,
    },
    /// Answer the order that was given under this id.
    Answer {
        /// The order's id.
        id: u64,
        /// What came of it.
        outcome: Outcome,
    },
}

impl Action {
    /// Signs every receipt that this action carries out of the guard: the core has no keys. `sign` gets
    /// [`Receipt::signed_bytes`] and returns the signature in hexadecimal.
    pub fn sign(&mut self, sign: impl Fn(&[u8]) -> String) {
        let receipt = match self {
            Self::Ask { request, .. } => request.status.receipt.as_mut(),
            Self::Answer { outcome: Outcome::Done(Finding::Fenced(receipt)), .. } => Some(receipt),
            Self::Answer { .. }
            | Self::AskHolders { .. }
            | Self::Promise { .. }
            | Self::Leash(_)
            | Self::Persist(_)
            | Self::GateCommits
            | Self::UngateCommits
            | Self::SetQuorum(_)
            | Self::Do { .. } => None,
        };
        if let Some(receipt) = receipt {
            receipt.signature = sign(&Receipt::signed_bytes(receipt));
        }
    }
}

/// What the leash, a process of its own beside the guard, does with the server's process tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leash {
    /// Nothing, even if the guard dies: it only observes so far.
    Off,
    /// Kills it when the guard dies. There is no deadline: the server is no primary.
    Bound,
    /// Kills it when the guard dies, and at this moment, unless told otherwise before: the end of the lease and a margin
    /// that leaves the guard's own fence the first try and lies inside F.
    Until(Moment),
    /// Kills it now, and whatever starts, until told otherwise.
    Now,
}

/// A task beside the renewals. One at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Make the server unable to acknowledge and prove it: [`TaskResult::Fenced`] with `NoAck` as soon as SIGKILL is
    /// pending on every process and none can fork, again with `Quiet` when none is left and `standby.signal` is on disk.
    /// Also when nothing runs; without a data directory that is all that `Quiet` needs.
    Fence {
        /// Kill at once. Otherwise the commit gate is in force, and the ladder may begin with a fast stop.
        hard: bool,
        /// The lease that the receipt will name.
        term: Option<LeaseTerm>,
        /// Why.
        cause: FenceCause,
    },
    /// Checkpoint, gate commits, fast stop, `standby.signal`, read the shutdown checkpoint:
    /// [`TaskResult::Fenced`] with `shutdown_at`.
    HandOver {
        /// The lease that the receipt will name.
        term: LeaseTerm,
    },
    /// Start the server as a standby, clients shut out until it is one.
    StartStandby {
        /// Frozen: without a receiver.
        frozen: bool,
    },
    /// Become the primary that accepts writes: promote a running standby, or remove `standby.signal` and start; a
    /// running primary stays as it is. Write the epoch first, ungate commits, let clients in. Immediately before the
    /// step that cannot be undone the runtime asks [`super::Guard::holds`] again.
    OpenPrimary {
        /// The lease to hold.
        term: LeaseTerm,
        /// What commits wait for, from the first one on: in force before any client is let in.
        quorum: Option<Box<QuorumConfig>>,
    },
    /// Cut the receiver and read where the standby stands.
    Freeze {
        /// The generation.
        generation: Generation,
    },
    /// Repoint, rewind or rebuild, whichever applies, and let it stream. Idempotent. A rewind or a rebuild draws a new
    /// life for the data.
    Follow(Rejoin),
    /// Write a checkpoint.
    Checkpoint,
    /// Wait until the standby has WAL past this.
    Confirm {
        /// Start of a shutdown checkpoint record.
        at: Lsn,
    },
    /// Count what the log of the dead server has beyond what a candidate has: [`TaskResult::Scanned`].
    Scan {
        /// The candidate's system identifier.
        system: u64,
        /// Where to read from.
        boundary: Lsn,
        /// Where what the candidate has ends.
        held: Lsn,
    },
}

impl Task {
    /// For people.
    #[must_use]
    pub const fn words(&self) -> &'static str {
        match self {
            Self::Fence { .. } => "fencing",
            Self::HandOver { .. } => "stopping cleanly",
            Self::StartStandby { .. } => "starting as a standby",
            Self::OpenPrimary { .. } => "becoming the primary",
            Self::Freeze { .. } => "freezing",
            Self::Follow(_) => "joining the primary",
            Self::Checkpoint => "writing a checkpoint",
            Self::Confirm { .. } => "waiting for the old primary's last WAL",
            Self::Scan { .. } => "reading the log of the dead server",
        }
    }
}

/// What came of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskResult {
    /// Of [`Task::Fence`] and [`Task::HandOver`]: first with `NoAck` (may be left out), then with `Quiet`.
    Fenced {
        /// How surely.
        level: ReceiptLevel,
        /// Where a clean stop ended the WAL.
        shutdown_at: Option<Lsn>,
    },
    /// Of [`Task::OpenPrimary`].
    Opened {
        /// The timeline it writes.
        timeline: u32,
        /// Where its WAL was after the epoch was written.
        at: Lsn,
    },
    /// Of [`Task::Freeze`] and [`Task::Confirm`].
    At(Position),
    /// Of [`Task::Scan`].
    Scanned {
        /// Where the log ends.
        end: Lsn,
        /// Commits beyond the candidate.
        commits: u64,
        /// Bytes beyond it.
        bytes: u64,
    },
    /// Of [`Task::Follow`].
    Follows(Rejoined),
    /// Of [`Task::Follow`]: it does not stream.
    NotFollowed {
        /// What failed and what to do.
        detail: String,
        /// No rewind and no rebuild has begun to change the data since this life of it began: it is what it was, and
        /// may be frozen, compared and promoted.
        whole: bool,
    },
    /// Of [`Task::Checkpoint`] and [`Task::StartStandby`].
    Done,
    /// Certainly not in force.
    Failed {
        /// What failed and what to do.
        detail: String,
    },
    /// Nobody knows.
    Unknown {
        /// What happened.
        detail: String,
    },
}
