//! One execution of a failover or switchover: its plan, its steps, its phase. The transitions between phases are in
//! the pure core (`mesh-failover::run`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::effect::{Effect, Outcome};
use crate::evidence::Position;
use crate::lease::{LeaseTerm, Proof};
use crate::quorum::DurabilityProof;
use crate::spec::Errand;
use crate::{DataIncarnation, Epoch, GroupName, GuardIncarnation, InstanceName, RunId, SiteName, Wall};

/// What kind of run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunKind {
    /// The primary is lost: fence, then promote.
    Failover,
    /// The primary is well: stop it cleanly, then promote. Nothing is lost.
    Switchover,
}

impl std::fmt::Display for RunKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Failover => "failover",
            Self::Switchover => "switchover",
        })
    }
}

/// Who asked for something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Actor {
    /// Mesh by itself; the leading agent is named by the entry.
    Mesh,
    /// A person, by the name their identity gives.
    Operator(String),
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mesh => f.pad("mesh"),
            Self::Operator(name) => f.pad(name),
        }
    }
}

/// An immutable plan. Committing it is a compare-and-set on `parent`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Failover or switchover.
    pub kind: RunKind,
    /// The group.
    pub group: GroupName,
    /// The lease that the plan ends: of the group's primary at planning.
    pub parent: LeaseTerm,
    /// The primary to replace.
    pub from: InstanceName,
    /// Standbys that may be promoted, best first. Which one it is, is decided after they are frozen.
    pub candidates: Vec<InstanceName>,
    /// Standbys that may not, with the reason.
    pub rejected: Vec<(InstanceName, String)>,
    /// Only candidates of this site (asked for by the operator).
    pub site: Option<SiteName>,
    /// Who asked.
    pub actor: Actor,
    /// Why: the verdict in words, or the operator's reason.
    pub reason: String,
    /// The operator waived the lag limit.
    pub accept_lag: bool,
    /// The operator accepted that acknowledged writes may be lost, in a zero-loss group.
    #[serde(default, skip_serializing_if = "is_false")]
    pub accept_loss: bool,
    /// How long the primary had been lost when the run was planned, by the leader's evidence; for people.
    #[serde(default)]
    pub lost_for: Option<crate::Millis>,
    /// Services and hooks, for wherever the new primary will stand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errands: Vec<Errand>,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Switchover only: checkpoint, while everything still runs.
    Preparing,
    /// Collecting durable pledges of a majority of voters.
    Pledging,
    /// Freezing the standbys, and getting a proof: a receipt, or the lease's end.
    Fencing,
    /// The promotion is committed; its instance becomes the primary.
    Promoting,
    /// Services and hooks that routes wait for, bounded by their deadlines.
    Staging,
    /// Routes are led to the new primary.
    Routing,
    /// A write through each route.
    Proving,
    /// The services and hooks that are left.
    Finishing,
    /// The old primary gets a new lease number and opens again: the way out before a promotion is committed.
    Reopening,
    /// Finished: the new primary serves.
    Done,
    /// Ended without a change of primary.
    Aborted,
    /// Cannot go on by itself; the cause is in the run. Left by what the cause names.
    Stuck,
}

impl Phase {
    /// Every phase, in the order of a run.
    pub const ALL: [Self; 12] = [
        Self::Preparing,
        Self::Pledging,
        Self::Fencing,
        Self::Promoting,
        Self::Staging,
        Self::Routing,
        Self::Proving,
        Self::Finishing,
        Self::Reopening,
        Self::Done,
        Self::Aborted,
        Self::Stuck,
    ];

    /// Whether the run is over.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Done | Self::Aborted => true,
            Self::Preparing
            | Self::Pledging
            | Self::Fencing
            | Self::Promoting
            | Self::Staging
            | Self::Routing
            | Self::Proving
            | Self::Finishing
            | Self::Reopening
            | Self::Stuck => false,
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Preparing => "preparing",
            Self::Pledging => "pledging",
            Self::Fencing => "fencing",
            Self::Promoting => "promoting",
            Self::Staging => "staging",
            Self::Routing => "routing",
            Self::Proving => "proving",
            Self::Finishing => "finishing",
            Self::Reopening => "reopening",
            Self::Done => "done",
            Self::Aborted => "aborted",
            Self::Stuck => "stuck",
        })
    }
}

/// What happened to a run, as far as its phase depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signal {
    /// The steps of the phase are done.
    StepsDone,
    /// A step of the phase was refused for good, or its deadline passed.
    StepFailed,
    /// A majority of voters pledged durably.
    PledgedByMajority,
    /// The promotion entry was committed: it names candidate and proof.
    PromotionCommitted,
    /// No standby can be promoted.
    NoCandidate,
    /// The old primary turned out well, or nobody can be promoted: give it a new lease.
    PrimaryReturned,
    /// The promoted candidate, given up as failed, turned out well before another one was promoted.
    CandidateReturned,
    /// The operator asked to stop.
    OperatorAbort,
    /// The cause of being stuck is gone, or the operator asked to try again: a takeover begins anew.
    Retry,
    /// The new primary serves; only routes and the proving write are tried again.
    RetryRoutes,
    /// What the phase did for the primary and its routes is done, and services or hooks are left.
    ErrandsLeft,
    /// An operator had the run go on without a service or hook that failed.
    ErrandSkipped,
    /// Only the services and hooks that failed are tried again.
    RetryErrands,
}

impl Signal {
    /// Every signal.
    pub const ALL: [Self; 13] = [
        Self::StepsDone,
        Self::StepFailed,
        Self::PledgedByMajority,
        Self::PromotionCommitted,
        Self::NoCandidate,
        Self::PrimaryReturned,
        Self::CandidateReturned,
        Self::OperatorAbort,
        Self::Retry,
        Self::RetryRoutes,
        Self::ErrandsLeft,
        Self::ErrandSkipped,
        Self::RetryErrands,
    ];
}

impl std::fmt::Display for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::StepsDone => "steps-done",
            Self::StepFailed => "step-failed",
            Self::PledgedByMajority => "pledged-by-majority",
            Self::PromotionCommitted => "promotion-committed",
            Self::NoCandidate => "no-candidate",
            Self::PrimaryReturned => "primary-returned",
            Self::CandidateReturned => "candidate-returned",
            Self::OperatorAbort => "operator-abort",
            Self::Retry => "retry",
            Self::RetryRoutes => "retry-routes",
            Self::ErrandsLeft => "errands-left",
            Self::ErrandSkipped => "errand-skipped",
            Self::RetryErrands => "retry-errands",
        })
    }
}

/// Why a run is stuck. Each has a page in the operator runbooks and a command that gets out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StuckCause {
    /// No standby may be promoted; the rejections say why.
    NoCandidate,
    /// The chosen standby did not become a primary, and nobody else may.
    PromotionFailed,
    /// The new primary serves, but a route could not be led to it.
    RouteFailed,
    /// The new primary serves, but the proving write did not arrive.
    ProofFailed,
    /// The old primary did not open again.
    ReopenFailed,
    /// A fencer is required, and none turned the old primary's host off.
    FencerFailed,
    /// The new primary serves and is reached, but a service or hook failed whose policy is not to go on without it.
    ErrandFailed,
}

impl StuckCause {
    /// Every cause.
    pub const ALL: [Self; 7] = [
        Self::NoCandidate,
        Self::FencerFailed,
        Self::PromotionFailed,
        Self::RouteFailed,
        Self::ProofFailed,
        Self::ReopenFailed,
        Self::ErrandFailed,
    ];

    /// The name of the runbook page and of the JSON value.
    #[must_use]
    pub const fn slug(self) -> &'static str {
        match self {
            Self::NoCandidate => "no-candidate",
            Self::PromotionFailed => "promotion-failed",
            Self::RouteFailed => "route-failed",
            Self::ProofFailed => "proof-failed",
            Self::ReopenFailed => "reopen-failed",
            Self::FencerFailed => "fencer-failed",
            Self::ErrandFailed => "errand-failed",
        }
    }
}

/// A run as the log has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its name.
    pub id: RunId,
    /// The plan it executes.
    pub plan: Plan,
    /// Where it is.
    pub phase: Phase,
    /// The lease it is ending now: the plan's parent at first, the failed candidate's after a second takeover.
    pub ending: LeaseTerm,
    /// The instance whose lease that is.
    pub ending_instance: InstanceName,
    /// Steps begun so far, by number.
    pub steps: BTreeMap<u32, Step>,
    /// What was promoted, once it is.
    pub promotion: Option<Promotion>,
    /// Why it is stuck, when it is.
    pub stuck: Option<(StuckCause, String)>,
    /// When each phase was entered, by the leader's wall clock; for people.
    pub entered: Vec<(Phase, Wall)>,
    /// How many takeovers it has opened.
    pub takeovers: u32,
}

/// One step of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The effect.
    pub effect: Effect,
    /// The phase it belongs to.
    pub phase: Phase,
    /// The fencing token it carries.
    pub epoch: Epoch,
    /// Attempts begun.
    pub attempts: u32,
    /// What came of the newest attempt; `None` while nobody knows.
    pub outcome: Option<Outcome>,
    /// When it was first begun and when it ended, by the leader's wall clock; for people.
    pub began: Wall,
    /// End; for people.
    pub ended: Option<Wall>,
}

/// The committed decision to promote: one epoch names exactly one instance and one life of its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// The new primary.
    pub instance: InstanceName,
    /// The life of its data.
    pub data: DataIncarnation,
    /// The life of its guard that gets the lease.
    pub guard: GuardIncarnation,
    /// The new lease.
    pub term: LeaseTerm,
    /// Where it was frozen.
    pub position: Position,
    /// Why the old primary cannot acknowledge writes any more.
    pub proof: Proof,
    /// Why no acknowledged write is lost, in a zero-loss group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<DurabilityProof>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks with a reference
const fn is_false(value: &bool) -> bool {
    !*value
}
