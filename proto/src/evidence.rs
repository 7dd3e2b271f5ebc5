//! What was seen, by whom, how long ago. Ages travel, never points in time: each observer measures by its own
//! monotonic clock, and the receiver adds the time since the message arrived.

use serde::{Deserialize, Serialize};

pub use crate::disk::{DiskHolds, DiskRoom, DiskStanding, DiskSync};
use crate::hold::HoldStanding;
use crate::lease::{LeaseTerm, Receipt};
use crate::quorum::QuorumStanding;
use crate::{
    AgentName, DataIncarnation, Epoch, Generation, GroupName, GuardIncarnation, InstanceName, Lsn, Millis,
    NodeId, RouteName,
};

/// First-hand facts of a guard about its instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardStatus {
    /// The group.
    pub group: GroupName,
    /// The instance.
    pub instance: InstanceName,
    /// The guard's life.
    pub guard: GuardIncarnation,
    /// Counts up within one life: an older status never replaces a newer one.
    pub seq: u64,
    /// The life of the data; `None` while the data directory cannot be read.
    pub data: Option<DataIncarnation>,
    /// PostgreSQL's system identifier.
    pub system_id: Option<u64>,
    /// Ed25519 public key that verifies this guard's receipts, in hexadecimal.
    pub public_key: String,
    /// The lease held, with what remains of it.
    pub lease: Option<HeldLease>,
    /// Voters whose grant of that lease runs, whether they belong to the electorate or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub granted: Vec<NodeId>,
    /// The lease that a voter's floor refuses: with no takeover open, a stray pledge that the leader answers with a new
    /// lease number (PROTOCOL, Taking over 6).
    #[serde(default)]
    pub floored: Option<LeaseTerm>,
    /// Log index of the pause that the guard is in: its lease holds without renewals until the pause's own end.
    #[serde(default)]
    pub paused: Option<u64>,
    /// Highest epoch the guard's gate has seen: instructions of a lower one are refused.
    pub gate: Epoch,
    /// What the server process does.
    pub process: ProcessState,
    /// Whether commits are gated because renewals are late.
    pub commit_gated: bool,
    /// Whether clients are shut out of a primary until its commit quorum has what it recovered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub clients_wait: bool,
    /// The write probe; only on a primary.
    pub write_probe: WriteProbe,
    /// Where the WAL is.
    pub position: Option<Position>,
    /// Replication from a primary; only on a standby.
    pub receiving: Option<Receiving>,
    /// The file systems under the instance; empty from a build that does not look.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskStanding>,
    /// The commit quorum that the primary works by; only where the log names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<QuorumStanding>,
    /// The freeze in force, if any.
    pub frozen: Option<Generation>,
    /// The receipt for the newest fenced lease, until the instance opens again.
    pub receipt: Option<Receipt>,
    /// What the guard is busy with, in words, for people.
    pub busy: Option<String>,
    /// What is wrong and what to do, in words, for people.
    pub trouble: Option<String>,
    /// Promise 1 is downgraded here because … (DESIGN §3.1); empty when nothing is.
    pub downgraded: Vec<String>,
    /// What it guards.
    #[serde(default, skip_serializing_if = "crate::spec::Engine::is_postgres")]
    pub engine: crate::spec::Engine,
    /// Somebody else decides here who is primary, and what to do about it: mesh does not act by itself beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rival: Option<String>,
    /// The newest epoch in which its data was the primary's, or was joined to it; `None` where the guard does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<Epoch>,
    /// Promises of guards to each other; `None` from a build that knows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldStanding>,
}

/// A lease as its guard holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLease {
    /// Which acquisition.
    pub term: LeaseTerm,
    /// What remains at the time of sending.
    pub remaining: Millis,
}

/// What the server process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProcessState {
    /// Runs as primary.
    Primary,
    /// Runs as standby.
    Standby,
    /// Is starting or recovering.
    Starting,
    /// Was stopped or fenced.
    Stopped,
    /// Died by itself and has not been replaced.
    Died,
    /// Runs but does not answer its guard.
    Unresponsive,
    /// Not known yet.
    Unknown,
}

impl std::fmt::Display for ProcessState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Primary => "runs as primary",
            Self::Standby => "runs as standby",
            Self::Starting => "is starting",
            Self::Stopped => "is stopped",
            Self::Died => "died",
            Self::Unresponsive => "does not answer its guard",
            Self::Unknown => "is not known yet",
        })
    }
}

/// The guard's own write to its primary, at level `local`, on a connection of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WriteProbe {
    /// Not a primary, or not tried yet.
    NotApplicable,
    /// Succeeded; the age of the last success.
    Ok {
        /// Since the last success.
        age: Millis,
    },
    /// Has been waiting for this long.
    Late {
        /// Since the probe began.
        waiting: Millis,
    },
    /// Waits for standbys, which says nothing about the primary (PROTOCOL, Taking over 1).
    WaitingForStandbys,
    /// Failed with an SQLSTATE (or `io`).
    Failed {
        /// The code.
        code: [u8; 5],
        /// Since it last succeeded.
        since: Millis,
    },
}

impl std::fmt::Display for WriteProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotApplicable => f.write_str("no write was tried"),
            Self::Ok { age } => write!(f, "wrote {age} ago"),
            Self::Late { waiting } => write!(f, "a write has waited for {waiting}"),
            Self::WaitingForStandbys => f.write_str("a write waits for standbys"),
            Self::Failed { code, since } => {
                let code = String::from_utf8_lossy(code);
                write!(f, "writes fail ({}), the last good one {since} ago", code.trim_matches(['\0', ' ']))
            }
        }
    }
}

/// Where the WAL of an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Timeline.
    pub timeline: u32,
    /// Furthest WAL that is safely here: flushed on a primary, max(received, replayed) on a standby.
    pub have: Lsn,
    /// Furthest WAL replayed (equal to `have` on a primary).
    pub replayed: Lsn,
}

/// Replication as a standby's guard sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receiving {
    /// Whether a WAL receiver streams.
    pub streaming: bool,
    /// `host:port` it is configured to stream from; `None` when it has none.
    pub from: Option<String>,
    /// Since the position last advanced.
    pub advanced: Millis,
    /// The `application_name` it is configured to stream under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// One observer's report to the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The observer.
    pub agent: AgentName,
    /// The observer process's life: a restarted observer starts its generations anew.
    pub boot: u64,
    /// Counts up within one life.
    pub generation: u64,
    /// What it saw of each instance it probes.
    pub sightings: Vec<Sighting>,
    /// Other agents it reaches right now: an observer that reaches nobody is itself cut off.
    pub reaches: Vec<AgentName>,
    /// Since the observer's own loop last ran late by more than a probe interval; a starved observer is no witness.
    pub starved: Option<Millis>,
    /// What it found of the routes whose credentials it holds.
    #[serde(default)]
    pub routes: Vec<RouteSight>,
    /// Version of the electorate that this agent's voter has on disk, and names to every guard from now on.
    #[serde(default)]
    pub electorate: u64,
    /// Which commands its build can apply ([`crate::edition`]).
    #[serde(default)]
    pub edition: u32,
}

/// Where a route leads, as the agent that holds its credentials found when it looked, outside any run: a proxy that was
/// restarted, or changed by hand, leads elsewhere than the log says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSight {
    /// The group.
    pub group: GroupName,
    /// The route.
    pub route: RouteName,
    /// The primary that the agent knew when it looked.
    pub instance: InstanceName,
    /// Its epoch.
    pub epoch: Epoch,
    /// How long the route has not led there, without a break; `None` when it does.
    pub astray_for: Option<Millis>,
    /// Since the agent looked.
    pub age: Millis,
}

/// What an observer saw of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// The group.
    pub group: GroupName,
    /// The instance.
    pub instance: InstanceName,
    /// What the newest finished probe found.
    pub seen: Seen,
    /// Since that probe finished.
    pub age: Millis,
    /// How long the instance has been `lost` ([`Seen::is_lost`]) without a break, by this observer's clock.
    pub lost_for: Option<Millis>,
}

/// What one probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seen {
    /// Answers and is a primary.
    Writable {
        /// Epoch in `mesh.epoch`, if the table is there.
        epoch: Option<Epoch>,
    },
    /// Answers and is a standby.
    ReadOnly,
    /// Answers that it is starting, recovering or shutting down.
    Starting,
    /// Answers that it has no free connection: busy is not dead.
    Busy,
    /// Nothing listens.
    Refused,
    /// No answer in time.
    TimedOut,
    /// No route to the host, reset, or another network error.
    Unreachable,
    /// Answers, but refuses the probe's credentials.
    AuthFailed,
    /// Another server answers there: the system identifier differs.
    WrongSystem,
    /// Answers with another error.
    Error,
    /// Not probed yet.
    NotYet,
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Writable { epoch: Some(epoch) } => write!(f, "a primary, of epoch {epoch}"),
            Self::Writable { epoch: None } => f.write_str("a primary, which knows no epoch"),
            Self::ReadOnly => f.write_str("a standby"),
            Self::Starting => f.write_str("it is starting or stopping"),
            Self::Busy => f.write_str("it has no free connection"),
            Self::Refused => f.write_str("nothing listens"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Unreachable => f.write_str("the network does not lead there"),
            Self::AuthFailed => f.write_str("it refuses the observers' credentials"),
            Self::WrongSystem => f.write_str("it is a server of another cluster"),
            Self::Error => f.write_str("an error"),
            Self::NotYet => f.write_str("not probed yet"),
        }
    }
}

impl Seen {
    /// Whether this counts as "I cannot see a working server there". An answer of any kind does not.
    #[must_use]
    pub const fn is_lost(self) -> bool {
        match self {
            Self::Refused | Self::TimedOut | Self::Unreachable => true,
            Self::Writable { .. }
            | Self::ReadOnly
            | Self::Starting
            | Self::Busy
            | Self::AuthFailed
            | Self::WrongSystem
            | Self::Error
            | Self::NotYet => false,
        }
    }
}
