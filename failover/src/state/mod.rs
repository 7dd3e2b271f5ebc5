//! The replicated state and its single door, [`MeshState::apply`].
//!
//! Every agent applies the same entries in the same order and has the same state. Apply decides; it never waits, never
//! reads a clock, and the wall-clock stamps in entries are copied into records for people and never compared.

mod apply;
mod audit;
mod branches;
mod degrade;
mod electorate;
mod holders;
mod invariants;
mod leases;
mod members;
mod proposals;
mod quorum;
mod recovery;
mod runs;
mod specs;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use mesh_proto::command::{MemberRecord, Verdict, VerdictRecord};
use mesh_proto::effect::{Effect, Outcome};
use mesh_proto::hold::Unended;
use mesh_proto::lease::{Electorate, GroupView, LeaseKey, LeaseRecord, LeaseTerm, PauseView};
use mesh_proto::proposal::Proposal;
use mesh_proto::quorum::{Degraded, QuorumConfig};
use mesh_proto::run::Run;
use mesh_proto::spec::{GroupSpec, InstanceSpec, Timing};
use mesh_proto::{
    AgentName, DataIncarnation, Epoch, Generation, GroupName, InstanceName, LeaseNo, Lsn, MeshId, Millis,
    RouteName, RunId, Wall,
};
use serde::{Deserialize, Serialize};

pub use audit::{Audit, GENESIS, hash_of, verify};
pub use proposals::person;
pub use recovery::{JUMP, Recovery, RecoveryError, recovered};
pub use runs::wants_a_primary;

/// How many finished runs a group remembers. Older ones are in the audit.
pub const HISTORY: usize = 16;

/// Everything that the agents agree on.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshState {
    /// The mesh's name; `None` before it is formed.
    pub mesh: Option<MeshId>,
    /// The members, by name.
    pub members: BTreeMap<AgentName, MemberRecord>,
    /// Raft numbers that were used once and never come back.
    pub retired: BTreeSet<mesh_proto::NodeId>,
    /// Whose grants and pledges count.
    pub electorate: Electorate,
    /// The groups.
    pub groups: BTreeMap<GroupName, Group>,
    /// The newest edition of which a command stands in the log: every member knew it then, and no older build can join any more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub edition: u32,
    /// The chain of records.
    pub audit: Audit,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks with a reference
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A group as the log has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The spec in force.
    pub spec: GroupSpec,
    /// Its version, from 1.
    pub version: u64,
    /// The timing in force.
    pub timing: Timing,
    /// The largest fence budget ever in force: an expiry waits for it, because a guard may still work with an older
    /// spec (PROTOCOL: lowering takes effect after the old ones have passed).
    pub largest_fence: Millis,
    /// The longest lease ever in force, for the same reason. 0 in the state of an older build: then the one in force.
    #[serde(default)]
    pub largest_lease: Millis,
    /// The epoch; 0 before the group is founded.
    pub epoch: Epoch,
    /// Set by a recovery of the mesh: lease numbers up to this one may have been given out by voters that are lost. A group
    /// with it and without a primary waits to be founded again, in an epoch beyond the one it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered: Option<LeaseNo>,
    /// The primary of that epoch.
    pub primary: Option<Primary>,
    /// PostgreSQL's system identifier, which every instance must have.
    pub system_id: Option<u64>,
    /// The newest lease of each instance. Lease numbers are never reset.
    pub leases: BTreeMap<InstanceName, LeaseRecord>,
    /// The older lease that nobody has proved to be over: promises of other guards may still hold it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unended: Option<Unended>,
    /// Where each of the newest epochs began: what an instance has beyond that, of an older one, is no part of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub branches: BTreeMap<Epoch, Lsn>,
    /// The takeover that is open, if any.
    pub takeover: Option<Takeover>,
    /// Generation of freezes: raised when a takeover opens and when freezes are released.
    pub generation: Generation,
    /// The run going on or last ended.
    pub run: Option<Run>,
    /// Runs before that one, oldest first.
    pub history: Vec<Run>,
    /// The verdict last recorded, and when.
    pub verdict: VerdictRecord,
    /// When; for people.
    pub verdict_at: Wall,
    /// The run after whose automatic failover no further one is started yet.
    pub hold_down: Option<RunId>,
    /// The pause in force.
    pub pause: Option<Pause>,
    /// Repairs going on, and the newest ended one of each instance or route.
    pub repairs: Vec<Repair>,
    /// The commit quorums that may be in force at the primary, the newest last; empty where none was ever asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quorums: Vec<QuorumConfig>,
    /// Commits wait for nobody for now, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<Degraded>,
    /// Where each route was last led.
    pub routes: BTreeMap<RouteName, Led>,
    /// The forced run that waits for a second person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<Proposal>,
}

/// The primary of an epoch: one instance and one life of its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Primary {
    /// The instance.
    pub instance: InstanceName,
    /// The life of its data.
    pub data: DataIncarnation,
}

/// A takeover that is open: until a promotion or a new lease of its key is committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Takeover {
    /// The lease's key.
    pub key: LeaseKey,
    /// The acquisition it ends.
    pub term: LeaseTerm,
    /// The run that drives it.
    pub run: RunId,
}

/// A pause in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Log index of the entry that paused.
    pub id: u64,
    /// How long at most.
    pub length: Millis,
    /// The guard status from whose sending the guard counts its own end.
    pub counted_from: Option<mesh_proto::lease::StatusRef>,
    /// Why.
    pub reason: String,
    /// The lease number of the primary when it began: a newer one shows that its guard asked again.
    pub lease_no: LeaseNo,
    /// When it began; for people.
    pub at: Wall,
}

/// A repair: something outside a run that is being made as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// Log index of its intent.
    pub id: u64,
    /// The effect.
    pub effect: Effect,
    /// The epoch it carries.
    pub epoch: Epoch,
    /// What came of it; `None` while nobody knows.
    pub outcome: Option<Outcome>,
    /// When it began; for people.
    pub at: Wall,
}

/// Where a route was led, and in which epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Led {
    /// The instance.
    pub instance: InstanceName,
    /// The epoch.
    pub epoch: Epoch,
}

fn unfounded(why: &str) -> VerdictRecord {
    VerdictRecord {
        verdict: Verdict::Unfounded,
        summary: why.to_owned(),
        evidence: Vec::new(),
        blocked: None,
    }
}

impl Group {
    pub(crate) fn new(spec: GroupSpec, timing: Timing, at: Wall) -> Self {
        Self {
            largest_fence: timing.fence,
            largest_lease: timing.lease,
            spec,
            version: 1,
            timing,
            epoch: Epoch(0),
            recovered: None,
            primary: None,
            system_id: None,
            leases: BTreeMap::new(),
            unended: None,
            branches: BTreeMap::new(),
            takeover: None,
            generation: Generation(0),
            run: None,
            history: Vec::new(),
            verdict: unfounded("no primary yet"),
            verdict_at: at,
            hold_down: None,
            pause: None,
            repairs: Vec::new(),
            quorums: Vec::new(),
            degraded: None,
            routes: BTreeMap::new(),
            proposal: None,
        }
    }

    /// The spec of an instance.
    #[must_use]
    pub fn instance(&self, name: &InstanceName) -> Option<&InstanceSpec> {
        self.spec.instances.iter().find(|i| i.name == *name)
    }

    /// The lease of the current primary.
    #[must_use]
    pub fn lease(&self) -> Option<&LeaseRecord> {
        self.leases.get(&self.primary.as_ref()?.instance)
    }

    /// The run, if it is not over.
    #[must_use]
    pub fn active_run(&self) -> Option<&Run> {
        self.run.as_ref().filter(|run| !run.phase.is_final())
    }

    /// Why mesh would do nothing by itself right now, if so.
    #[must_use]
    pub fn blocked(&self) -> Option<String> {
        if let Some(pause) = &self.pause {
            return Some(format!("the group is paused ({}); `mesh resume` ends it", pause.reason));
        }
        if !self.spec.automatic {
            return Some("the spec says automatic = false; use `mesh failover`".to_owned());
        }
        if let Some(run) = self.hold_down {
            return Some(format!(
                "hold-down of {} s after {run}; `mesh ack` ends it, `mesh failover` ignores it",
                self.spec.hold_down_seconds
            ));
        }
        None
    }

    /// Whether the run is over, or its new primary serves and only routes are left: a loss of that primary may then
    /// begin another run.
    #[must_use]
    pub fn free_for_a_run(&self) -> bool {
        self.active_run().is_none_or(runs::serves)
    }

    /// Whether no run leads the routes: there is none, or its routes are led and proved and only services or hooks are left.
    #[must_use]
    pub fn routes_are_free(&self) -> bool {
        self.active_run().is_none_or(runs::errands_only)
    }
}

impl MeshState {
    /// A copy without the audit, to try out on it what entries would do.
    #[must_use]
    pub fn without_audit(&self) -> Self {
        Self {
            mesh: self.mesh.clone(),
            members: self.members.clone(),
            retired: self.retired.clone(),
            electorate: self.electorate.clone(),
            groups: self.groups.clone(),
            edition: self.edition,
            audit: Audit::default(),
        }
    }

    /// The members in a fixed order.
    #[must_use]
    pub fn member_list(&self) -> Vec<MemberRecord> {
        self.members.values().cloned().collect()
    }

    /// The current lease of a key, as a voter needs it to decide a renewal: only the primary of the newest epoch has
    /// one that is current.
    #[must_use]
    pub fn current_lease(&self, key: &LeaseKey) -> Option<&LeaseRecord> {
        let group = self.groups.get(&key.group)?;
        let primary = group.primary.as_ref()?;
        if primary.instance != key.instance {
            return None;
        }
        group.leases.get(&key.instance).filter(|lease| lease.term.epoch == group.epoch)
    }

    /// What a guard must know of its group.
    #[must_use]
    pub fn group_view(&self, group: &GroupName, instance: &InstanceName, applied: u64) -> Option<GroupView> {
        let state = self.groups.get(group)?;
        let key = LeaseKey { group: group.clone(), instance: instance.clone() };
        Some(GroupView {
            applied,
            epoch: state.epoch,
            primary: state.primary.as_ref().map(|p| p.instance.clone()),
            // Only the lease that is in force: what a former primary held once must look like nothing.
            own_lease: self.current_lease(&key).cloned(),
            timing: state.timing.clone(),
            pause: state.pause.as_ref().map(|p| PauseView {
                id: p.id,
                length: p.length,
                counted_from: p.counted_from.clone(),
            }),
            system_id: state.system_id,
            quorum: state.quorum().cloned(),
            hold: state.hold_view(),
        })
    }
}
