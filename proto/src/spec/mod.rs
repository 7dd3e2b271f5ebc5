//! What an operator applies: the replicated, declarative description of a group. Unknown keys are refused, so a typing
//! error never silently becomes a default. Relations between values are checked in the pure core (`policy`).

mod dns;
mod elbv2;
pub(crate) mod errand;
mod fencer;
mod route;

use serde::{Deserialize, Serialize};

pub use crate::proposal::TwoPerson;
use crate::{AgentName, GroupName, InstanceName, Millis, SiteName};

pub use dns::{DnsName, DnsNameError, DnsTarget, Drift, MARKER_LABEL, RecordKind, RecordSpec};
pub use elbv2::{Elbv2Target, LbTarget, LbTargetError, TargetGroupArn, TargetGroupArnError};
pub use errand::{CheckSpec, Errand, HookSpec, Moves, OnFailure, Point, ServiceSpec, When, Work};
pub use fencer::FencerSpec;
pub use route::{HaproxyTarget, PgbouncerTarget, RouteError, RouteKind, RouteSpec, RouteTarget};

/// One group: the instances that replicate from one primary, the routes that lead to it, and what else moves with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSpec {
    /// Name of the group.
    pub group: GroupName,
    /// What its servers are.
    #[serde(default, skip_serializing_if = "Engine::is_postgres")]
    pub engine: Engine,
    /// Timing profile; see [`Profile`].
    #[serde(default)]
    pub profile: Profile,
    /// Single timing values that differ from the profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timing: Option<TimingOverride>,
    /// What a failover may lose.
    #[serde(default)]
    pub durability: Durability,
    /// When what is promoted opens, in a zero-loss group.
    #[serde(default, skip_serializing_if = "Open::is_after_lease")]
    pub open: Open,
    /// How many standbys must have flushed a commit before it is acknowledged, in a zero-loss group.
    #[serde(default = "default_quorum_size", skip_serializing_if = "is_default_quorum_size")]
    pub quorum_size: u32,
    /// How long a standby may be away before the quorum goes on without it, in seconds; never below `quorum_size`.
    #[serde(default = "default_drop_after", skip_serializing_if = "is_default_drop_after")]
    pub quorum_drop_after_seconds: u64,
    /// Who may let commits go on without standbys when too few are there, in a zero-loss group.
    #[serde(default, skip_serializing_if = "Degrade::is_by_hand")]
    pub degrade: Degrade,
    /// How long commits must have waited before they go on without standbys, in seconds; only with `degrade = "after"`.
    #[serde(default = "default_degrade_after", skip_serializing_if = "is_default_degrade_after")]
    pub degrade_after_seconds: u64,
    /// Largest replication lag, in bytes of WAL, of a standby that may be promoted without an override.
    #[serde(default = "default_max_lag_bytes")]
    pub max_lag_bytes: u64,
    /// Whether mesh acts by itself when the primary is lost. `false`: it only says what it would do.
    #[serde(default = "yes")]
    pub automatic: bool,
    /// What is done about a primary whose server died while its host and its guard live.
    #[serde(default, skip_serializing_if = "CrashPolicy::is_auto")]
    pub crash_policy: CrashPolicy,
    /// How long a restart in place may take before a standby is promoted after all, in seconds.
    #[serde(default = "default_crash_restart", skip_serializing_if = "is_default_crash_restart")]
    pub crash_restart_seconds: u64,
    /// What a primary does whose guard reaches no majority of voters any more.
    #[serde(default, skip_serializing_if = "MajorityLost::is_fence")]
    pub majority_lost: MajorityLost,
    /// How long after an automatic failover no further one is started, in seconds.
    #[serde(default = "default_hold_down_seconds")]
    pub hold_down_seconds: u64,
    /// Agents whose observations count; empty means every agent of the mesh.
    #[serde(default)]
    pub observers: Vec<AgentName>,
    /// Sites in the order in which a new primary is preferred, among otherwise equal candidates.
    #[serde(default)]
    pub site_preference: Vec<SiteName>,
    /// Database in which mesh keeps its schema `mesh` and into which it connects.
    #[serde(default = "default_database")]
    pub database: String,
    /// What takes two persons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub two_person: Vec<TwoPerson>,
    /// The servers.
    #[serde(default, rename = "instance")]
    pub instances: Vec<InstanceSpec>,
    /// What clients follow.
    #[serde(default, rename = "route")]
    pub routes: Vec<RouteSpec>,
    /// Services that move with the primary.
    #[serde(default, rename = "service", skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceSpec>,
    /// Programs that runs execute.
    #[serde(default, rename = "hook", skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookSpec>,
    /// Programs that turn hosts off from outside.
    #[serde(default, rename = "fencer", skip_serializing_if = "Vec::is_empty")]
    pub fencers: Vec<FencerSpec>,
}

const fn default_quorum_size() -> u32 {
    1
}
#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks with a reference
const fn is_default_quorum_size(size: &u32) -> bool {
    *size == default_quorum_size()
}
const fn default_drop_after() -> u64 {
    30
}
#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks with a reference
const fn is_default_drop_after(seconds: &u64) -> bool {
    *seconds == default_drop_after()
}
const fn default_degrade_after() -> u64 {
    60
}
#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks with a reference
const fn is_default_degrade_after(seconds: &u64) -> bool {
    *seconds == default_degrade_after()
}
const fn default_crash_restart() -> u64 {
    10
}
#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks with a reference
const fn is_default_crash_restart(seconds: &u64) -> bool {
    *seconds == default_crash_restart()
}
const fn default_max_lag_bytes() -> u64 {
    16 * 1024 * 1024
}
const fn default_hold_down_seconds() -> u64 {
    600
}
const fn yes() -> bool {
    true
}
fn default_database() -> String {
    "postgres".to_owned()
}
const fn default_priority() -> u32 {
    100
}

/// One server of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceSpec {
    /// Its name, never reused.
    pub name: InstanceName,
    /// The site it stands at.
    pub site: SiteName,
    /// The agent on its host.
    pub agent: AgentName,
    /// `IP:port` under which standbys and observers reach it. A literal address: a name could lead a standby to
    /// another server (PROTOCOL, Commit quorum).
    pub address: std::net::SocketAddr,
    /// `IP:port` of its guard.
    pub guard: std::net::SocketAddr,
    /// Preference among equal candidates, higher first; 0 is never promoted.
    #[serde(default = "default_priority")]
    pub priority: u32,
    /// What it is, where that is said of each instance; as the group's when left out. Two engines in one group are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
}

/// What a group's servers are. Groups that were applied before there was a choice are PostgreSQL.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// PostgreSQL.
    #[default]
    Postgres,
    /// Redis, or Valkey.
    Redis,
}

impl Engine {
    /// Whether it is PostgreSQL.
    #[must_use]
    pub const fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres)
    }

    /// What a position in its history is called.
    #[must_use]
    pub const fn log(self) -> &'static str {
        match self {
            Self::Postgres => "WAL",
            Self::Redis => "replication stream",
        }
    }
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Postgres => "PostgreSQL",
            Self::Redis => "Redis",
        })
    }
}

/// What a failover may lose.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Asynchronous standbys: the loss is bounded beforehand by the lag limit, and measured afterwards.
    #[default]
    Bounded,
    /// No acknowledged write is ever lost: commits wait for `quorum_size` standbys.
    ZeroLoss,
}

/// Who may let the commits of a zero-loss group go on while too few standbys flush them (PROTOCOL, Commit quorum). Meanwhile
/// what is acknowledged stands on the primary alone, and promise 3 is suspended.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Degrade {
    /// Nobody: commits wait, however long.
    Never,
    /// An operator, with `mesh degrade`.
    #[default]
    ByHand,
    /// Mesh too, when commits have waited for `degrade_after_seconds`; and it ends that when enough standbys are back.
    After,
}

impl Degrade {
    /// Whether it is the default, and so left out of what is stored.
    #[must_use]
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde asks with a reference
    pub const fn is_by_hand(&self) -> bool {
        matches!(self, Self::ByHand)
    }
}

/// When a new primary opens whose predecessor gave no receipt.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Open {
    /// When the old primary's lease is over: nobody answers in its place from then on, in any way.
    #[default]
    AfterLease,
    /// As soon as the frozen standbys cut the old primary's commit quorum: it can acknowledge no durable write any more, but
    /// until its lease is over it may answer readers, and sessions that asked for less durability.
    DurabilityOnly,
}

impl Open {
    /// Whether it is the default, and so left out of what is stored.
    #[must_use]
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde asks with a reference
    pub const fn is_after_lease(&self) -> bool {
        matches!(self, Self::AfterLease)
    }
}

/// What is done about a PostgreSQL primary that crashed (DESIGN §6). A host that is lost, cut off or hung is no crash.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CrashPolicy {
    /// The dead log is read: where the best standby has every commit in it, that one is promoted at once; else the server is
    /// started again in place, once, and a standby is promoted with the loss stated if that does not come up in time.
    #[default]
    Auto,
    /// A standby is promoted at once, and may lack what it had not received yet, within `max_lag_bytes`.
    FailoverFirst,
    /// Started again in place, once, whatever a standby has.
    RestartFirst,
}

impl CrashPolicy {
    /// Whether it is what a group has that does not say.
    #[must_use]
    pub const fn is_auto(&self) -> bool {
        matches!(self, Self::Auto)
    }
}

/// What a primary does whose guard reaches no majority of voters any more.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MajorityLost {
    /// It is fenced when its lease is over.
    #[default]
    Fence,
    /// It serves on while the guard of every other instance of the group, again and again, promises that its own instance
    /// is not opened meanwhile. Without one of them it is fenced as well.
    Hold,
}

impl MajorityLost {
    /// Whether it is what a group has that does not say.
    #[must_use]
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde asks with a reference
    pub const fn is_fence(&self) -> bool {
        matches!(self, Self::Fence)
    }
}

/// Timing profiles (DESIGN §5).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Hosts of one rack or one room.
    Fast,
    /// Sites a few milliseconds apart.
    #[default]
    Lan,
    /// Sites tens of milliseconds apart.
    Wan,
}

/// Timing values an operator may set one by one, in milliseconds.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimingOverride {
    /// Lease length L.
    pub lease_ms: Option<u64>,
    /// Fence budget F.
    pub fence_ms: Option<u64>,
    /// Interval of probes and renewals.
    pub probe_ms: Option<u64>,
    /// How long a primary must be unreachable before a candidate of its own site takes over.
    pub down_after_ms: Option<u64>,
    /// How long before a candidate of another site takes over.
    pub leave_site_after_ms: Option<u64>,
    /// How long a write probe must hang before a primary counts as hung.
    pub hang_after_ms: Option<u64>,
}

/// The timing values in force for a group, all in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Lease length L: how long a grant lasts, counted by the guard from when it sent the request.
    pub lease: Millis,
    /// Fence budget F: how long a local fence may take.
    pub fence: Millis,
    /// Interval of probes, of renewals and of guard status.
    pub probe: Millis,
    /// Without renewals by a majority for this long, the guard gates commits, reversibly.
    pub gate_after: Millis,
    /// Unreachable for this long: lost, for a candidate of the same site.
    pub down_after: Millis,
    /// Unreachable for this long: lost, for a candidate of another site.
    pub leave_site_after: Millis,
    /// A write probe hanging for this long: hung.
    pub hang_after: Millis,
    /// Evidence older than this is not fresh.
    pub fresh: Millis,
}
