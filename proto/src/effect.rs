//! The closed list of things mesh may do to the world, and what may come of each. Nothing outside this list can be
//! done: the core emits these values, the edge turns them into calls.

use serde::{Deserialize, Serialize};

use crate::evidence::Position;
use crate::lease::{LeaseTerm, Receipt};
use crate::spec::errand::{self, Point, Work};
use crate::{
    AgentName, DataIncarnation, Epoch, ErrandName, Generation, InstanceName, Lsn, Millis, RouteName, RunId,
};

/// One change to the world. Every effect is idempotent, or can be verified before it is repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Effect {
    /// Write a checkpoint, so that the stop or the promotion that follows is short.
    Checkpoint {
        /// Where.
        instance: InstanceName,
    },
    /// Stop the primary cleanly and prove it: gate commits, fast stop, read the shutdown checkpoint.
    HandOver {
        /// The old primary.
        instance: InstanceName,
        /// The lease that the receipt ends.
        term: LeaseTerm,
    },
    /// Make the primary unable to acknowledge, by force, and prove it.
    Fence {
        /// The old primary.
        instance: InstanceName,
        /// The lease that the receipt ends.
        term: LeaseTerm,
    },
    /// Cut a standby's receiver and read its final position.
    Freeze {
        /// The standby.
        instance: InstanceName,
        /// Generation; lower than the guard's is refused.
        generation: Generation,
    },
    /// Wait until a standby has all WAL up to here. Finds out where it stands, like a freeze, but cuts nothing.
    Confirm {
        /// The standby.
        instance: InstanceName,
        /// Start of the old primary's shutdown checkpoint record; the standby must hold WAL past it.
        at: Lsn,
    },
    /// Acquire the lease and become the primary that accepts writes; the epoch is written first.
    Promote {
        /// The new primary.
        instance: InstanceName,
        /// The lease to hold while doing so.
        term: LeaseTerm,
        /// The life of the data that was chosen.
        data: DataIncarnation,
    },
    /// Be a standby of this primary: repoint, rewind or rebuild, whichever applies. Ends a freeze.
    Follow {
        /// The standby.
        instance: InstanceName,
        /// The primary.
        primary: InstanceName,
        /// Its literal address.
        address: std::net::SocketAddr,
        /// The epoch of that primary.
        epoch: Epoch,
        /// Generation; lower than the guard's is refused.
        generation: Generation,
    },
    /// Count in the log of a dead primary what a candidate does not have. Changes nothing.
    Scan {
        /// The dead primary.
        instance: InstanceName,
        /// The candidate's system identifier.
        system_id: u64,
        /// Where to read from: a record's end, at or before `held`.
        boundary: Lsn,
        /// Where what the candidate has ends.
        held: Lsn,
    },
    /// Have the host of the old primary turned off from outside, and kept off. Idempotent: off is off.
    TurnOff {
        /// Which fencer.
        fencer: ErrandName,
        /// Who runs it.
        agent: AgentName,
        /// The old primary.
        instance: InstanceName,
        /// The lease that ends with its host.
        term: LeaseTerm,
        /// Which takeover of the run: another one tries again.
        takeover: u32,
    },
    /// Lead a route to the primary and end the sessions to the old one.
    Route {
        /// The route.
        route: RouteName,
        /// Where it leads.
        instance: InstanceName,
    },
    /// Write through a route, and find the epoch there.
    Prove {
        /// The route.
        route: RouteName,
        /// The instance the write must arrive at.
        instance: InstanceName,
    },
    /// Start or stop a service, or run a hook.
    Errand {
        /// Which.
        errand: ErrandName,
        /// Who does it.
        agent: AgentName,
        /// What is done.
        work: Work,
        /// When in the run.
        at: Point,
        /// The new primary; before it is decided, the best candidate.
        instance: InstanceName,
    },
}

/// The kinds of effect, without their arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EffectKind {
    /// [`Effect::Checkpoint`]
    Checkpoint,
    /// [`Effect::HandOver`]
    HandOver,
    /// [`Effect::Fence`]
    Fence,
    /// [`Effect::Freeze`]
    Freeze,
    /// [`Effect::Confirm`]
    Confirm,
    /// [`Effect::Promote`]
    Promote,
    /// [`Effect::Follow`]
    Follow,
    /// [`Effect::Scan`]
    Scan,
    /// [`Effect::TurnOff`]
    TurnOff,
    /// [`Effect::Route`]
    Route,
    /// [`Effect::Prove`]
    Prove,
    /// [`Effect::Errand`]
    Errand,
}

impl EffectKind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::Checkpoint,
        Self::HandOver,
        Self::Fence,
        Self::Freeze,
        Self::Confirm,
        Self::Promote,
        Self::Follow,
        Self::Scan,
        Self::TurnOff,
        Self::Route,
        Self::Prove,
        Self::Errand,
    ];
}

impl Effect {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> EffectKind {
        match self {
            Self::Checkpoint { .. } => EffectKind::Checkpoint,
            Self::HandOver { .. } => EffectKind::HandOver,
            Self::Fence { .. } => EffectKind::Fence,
            Self::Freeze { .. } => EffectKind::Freeze,
            Self::Confirm { .. } => EffectKind::Confirm,
            Self::Promote { .. } => EffectKind::Promote,
            Self::Follow { .. } => EffectKind::Follow,
            Self::Scan { .. } => EffectKind::Scan,
            Self::TurnOff { .. } => EffectKind::TurnOff,
            Self::Route { .. } => EffectKind::Route,
            Self::Prove { .. } => EffectKind::Prove,
            Self::Errand { .. } => EffectKind::Errand,
        }
    }

    /// What it is done to.
    #[must_use]
    pub const fn target(&self) -> Target<'_> {
        match self {
            Self::Checkpoint { instance }
            | Self::HandOver { instance, .. }
            | Self::Fence { instance, .. }
            | Self::Freeze { instance, .. }
            | Self::Confirm { instance, .. }
            | Self::Promote { instance, .. }
            | Self::Follow { instance, .. }
            | Self::Scan { instance, .. } => Target::Instance(instance),
            Self::Route { route, .. } | Self::Prove { route, .. } => Target::Route(route),
            Self::TurnOff { fencer, .. } => Target::Fencer(fencer),
            Self::Errand { errand, .. } => Target::Errand(errand),
        }
    }
}

/// What an effect is done to: decides who executes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// An instance: its guard executes.
    Instance(&'a InstanceName),
    /// A route: the agent that holds its credentials executes.
    Route(&'a RouteName),
    /// A fencer: the agent that the effect names executes.
    Fencer(&'a ErrandName),
    /// A service or a hook: the agent that the effect names executes.
    Errand(&'a ErrandName),
}

impl std::fmt::Display for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Checkpoint { instance } => write!(f, "checkpoint {instance}"),
            Self::HandOver { instance, .. } => write!(f, "stop {instance} cleanly"),
            Self::Fence { instance, .. } => write!(f, "fence {instance}"),
            Self::Freeze { instance, .. } => write!(f, "freeze {instance}"),
            Self::Confirm { instance, at } => write!(f, "confirm that {instance} has everything up to {at}"),
            Self::Promote { instance, term, .. } => write!(f, "promote {instance} in epoch {}", term.epoch),
            Self::Follow { instance, primary, .. } => write!(f, "let {instance} follow {primary}"),
            Self::Scan { instance, held, .. } => write!(f, "count what {instance} has beyond {held}"),
            Self::TurnOff { fencer, agent, instance, .. } => {
                write!(f, "turn the host of {instance} off with {fencer} by {agent}")
            }
            Self::Route { route, instance } => write!(f, "lead route {route} to {instance}"),
            Self::Prove { route, .. } => write!(f, "write through route {route}"),
            Self::Errand { errand, agent, work, .. } => errand::words(f, *work, errand, agent),
        }
    }
}

/// An effect on its way to whoever executes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The group.
    pub group: crate::GroupName,
    /// The run and step it belongs to.
    pub step: StepRef,
    /// The fencing token: refused by a gate that has seen a higher one.
    pub epoch: Epoch,
    /// Raft term of the ordering leader: a gate refuses a lower one than it has seen in the same epoch.
    pub raft_term: u64,
    /// What to do.
    pub effect: Effect,
    /// `true`: only find out whether it is already so, and change nothing.
    pub verify_only: bool,
    /// The leader's applied log index when it sent the order: at least the entry that grants the lease of a promotion,
    /// so it is what voters must have applied before they can answer the executor.
    pub index: u64,
    /// How long the executor may take, counted from when it receives the order.
    pub budget: Millis,
}

/// Names one attempt at one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepRef {
    /// The run.
    pub run: RunId,
    /// The step within it.
    pub step: u32,
    /// The attempt, from 1.
    pub attempt: u32,
}

impl std::fmt::Display for StepRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.run, self.step)
    }
}

/// What came of an effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is so now.
    Done(Finding),
    /// It was not done, and nothing changed that matters; with the reason and what to do.
    Refused {
        /// Which refusal: what the core decides by.
        code: Refusal,
        /// For people.
        detail: String,
    },
    /// Nobody knows whether it was done: verify before repeating.
    Unknown {
        /// For people.
        detail: String,
    },
}

/// What a done effect found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// Nothing more to say.
    Nothing,
    /// The instance is fenced.
    Fenced(Receipt),
    /// Where the standby stands: frozen there, or confirmed to be there.
    Frozen {
        /// Where it stands.
        position: Position,
        /// The life of its data.
        data: DataIncarnation,
        /// The life of its guard.
        guard: crate::GuardIncarnation,
        /// PostgreSQL's system identifier.
        system_id: u64,
    },
    /// The new primary accepts writes.
    Promoted {
        /// Its new timeline.
        timeline: u32,
        /// Where its WAL was after the epoch was written.
        at: Lsn,
    },
    /// The standby follows.
    Follows {
        /// How it got there.
        how: Rejoined,
    },
    /// What the dead primary has that the candidate has not.
    Scanned {
        /// Where its log ends.
        end: Lsn,
        /// Commits beyond the candidate: what a client may have been told of. None: nothing is lost.
        commits: u64,
        /// Bytes of log beyond the candidate.
        bytes: u64,
    },
    /// The host is off, and stays off until somebody turns it on.
    Off {
        /// How long it took.
        took: Millis,
        /// The end of what the fencer said: its evidence, for people.
        said: String,
    },
    /// The route leads there; sessions to the old one that were ended, and those that remained.
    Routed {
        /// Sessions ended.
        ended: u32,
        /// Sessions that could not be ended.
        stragglers: u32,
    },
    /// The names lead there. Clients follow when what their resolvers keep has run out.
    Named {
        /// Authoritative servers that were asked whether they show it.
        servers: u32,
        /// Those that did not in time, and why.
        lagging: Vec<String>,
    },
    /// The write arrived, and was read.
    Proved {
        /// Round trip of the proving write.
        took: Millis,
        /// Round trip of the read that followed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        read: Option<Millis>,
        /// Sessions to other instances that were left then; nothing where nobody counts them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stragglers: Option<u32>,
    },
    /// The service is as it should be, or the hook ended well.
    Ran {
        /// How long it took.
        took: Millis,
        /// The end of what it said, for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        said: Option<String>,
    },
    /// It was not done: an operator had the run go on without it.
    Skipped {
        /// Why.
        reason: String,
    },
}

/// How a standby came to follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rejoined {
    /// It followed as it was.
    Followed,
    /// Its diverged WAL was kept aside, and the data rewound.
    Rewound {
        /// Bytes of WAL that only it had.
        diverged_bytes: u64,
        /// Transactions in it; `None` when they could not be counted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        transactions: Option<u64>,
        /// The new life of its data.
        data: DataIncarnation,
    },
    /// Its data was built anew.
    Rebuilt {
        /// Bytes of WAL that only it had, as far as known.
        diverged_bytes: Option<u64>,
        /// Transactions in it; `None` when they could not be counted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        transactions: Option<u64>,
        /// The new life of its data.
        data: DataIncarnation,
    },
}

/// Why an effect was refused. Closed, because the core decides by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// The executor's gate has seen a higher epoch, or a newer leader.
    StaleEpoch,
    /// A newer freeze generation is in force.
    StaleGeneration,
    /// The order does not fit what the executor finds (wrong life of data, wrong lease, not a standby …).
    NotApplicable,
    /// The lease could not be acquired in time.
    NoLease,
    /// The system refused or failed, and it is certain that the effect is not in force.
    Failed,
    /// The executor is not configured for it.
    NotConfigured,
    /// Nobody reached the executor, so the order was never received.
    NotDelivered,
    /// Somebody else changed what is to be changed, and it is left as it is.
    Drift,
    /// Only verified, and it is not so.
    NotSo,
}
