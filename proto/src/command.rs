//! Log entries. A command is a proposal: `MeshState::apply` in the pure core decides, on every agent alike, whether it
//! takes effect. Most are compare-and-sets; a refused one changes nothing.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::access::Denial;
use crate::effect::{Effect, Outcome};
use crate::evidence::Position;
use crate::join::TokenTried;
use crate::lease::{LeaseTerm, Proof};
use crate::proposal::{Approved, ProposalEnd, Proposed};
use crate::quorum::{DegradedBy, DurabilityProof, QuorumMember};
use crate::run::{Actor, Plan, Signal, StuckCause};
use crate::spec::GroupSpec;
use crate::{
    AgentName, DataIncarnation, Epoch, ErrandName, Generation, GroupName, GuardIncarnation, InstanceName,
    LeaseNo, MeshId, Millis, NodeId, ProposalId, RunId, SiteName, Wall,
};

/// What stands in one log entry: the command and who sent it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The agent that proposed it.
    pub by: AgentName,
    /// Who asked.
    pub actor: Actor,
    /// The proposer's wall clock; for people and the audit, never for a decision.
    pub at: Wall,
    /// What to do. Several commands apply in order, and all or none of them.
    pub commands: Vec<Command>,
}

/// One change of the replicated state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command")]
pub enum Command {
    /// The mesh begins: its name, its first members, its electorate.
    MeshFormed {
        /// The name.
        mesh: MeshId,
        /// The members.
        members: Vec<MemberRecord>,
    },
    /// The mesh was begun anew by a survivor of a majority that is gone for good. Never through the log: the record of it, in
    /// the audit that the new mesh begins with.
    MeshRecovered {
        /// The new mesh.
        mesh: MeshId,
        /// The voters that are gone.
        lost: BTreeSet<AgentName>,
        /// Why.
        reason: String,
    },
    /// An agent joins. Members that join later do not belong to the lease electorate.
    MemberAdded {
        /// The member.
        member: MemberRecord,
    },
    /// An agent leaves. Refused while it belongs to the lease electorate or a group names it.
    MemberRemoved {
        /// Its name.
        agent: AgentName,
    },
    /// The lease electorate begins to change: from now on majorities of the old voters and of these are needed.
    ElectorateChanging {
        /// The version it replaces.
        replaces: u64,
        /// The voters that shall remain.
        members: BTreeSet<NodeId>,
    },
    /// The change is over: the new voters alone count. Refused before no guard can count on the old ones alone.
    ElectorateChanged {
        /// The version it replaces.
        replaces: u64,
        /// How long majorities of both had known of the change when this was proposed.
        waited: Millis,
    },
    /// The change is given up: the old voters alone count again, as a majority of them did all the time.
    ElectorateKept {
        /// The version it replaces.
        replaces: u64,
    },
    /// A group spec, as a compare-and-set on its version.
    SpecApplied {
        /// The version it replaces; 0 for a new group.
        replaces: u64,
        /// The spec.
        spec: GroupSpec,
    },
    /// The first epoch: this instance is the primary (PROTOCOL, Birth). Refused if the group has an epoch, unless the mesh
    /// was recovered since.
    Founded {
        /// The group.
        group: GroupName,
        /// The primary.
        instance: InstanceName,
        /// The life of its data.
        data: DataIncarnation,
        /// The life of its guard.
        guard: GuardIncarnation,
        /// PostgreSQL's system identifier: every instance of the group must have it.
        system_id: u64,
        /// Why this one, where the mesh was recovered and no log says who it must be.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The current primary gets a lease anew, without a change of primary.
    LeaseGranted {
        /// The group.
        group: GroupName,
        /// The primary.
        instance: InstanceName,
        /// The lease that this one replaces: a compare-and-set.
        replaces: LeaseTerm,
        /// The life of its data.
        data: DataIncarnation,
        /// The life of its guard.
        guard: GuardIncarnation,
        /// Needed when the guard's life is another one than before (the host may have been cloned).
        proof: Option<Proof>,
        /// Why.
        reason: String,
    },
    /// The verdict on a group changed; with the evidence, in words. For the audit and `mesh why`.
    VerdictChanged {
        /// The group.
        group: GroupName,
        /// The verdict.
        verdict: VerdictRecord,
    },
    /// A run is planned and its takeover opened, before the first durable pledge.
    RunOpened {
        /// The plan.
        plan: Plan,
    },
    /// Steps are about to be executed: the intent.
    StepsStarted {
        /// The group.
        group: GroupName,
        /// The run.
        run: RunId,
        /// Number, attempt and effect of each.
        steps: Vec<StepIntent>,
    },
    /// A step ended: the result.
    StepEnded {
        /// The group.
        group: GroupName,
        /// The run.
        run: RunId,
        /// The step.
        step: u32,
        /// The attempt that this is the result of; an older one than the newest is refused.
        attempt: u32,
        /// What came of it.
        outcome: Outcome,
    },
    /// An operator has the run go on without a service or hook that failed.
    ErrandSkipped {
        /// The group.
        group: GroupName,
        /// The run.
        run: RunId,
        /// The service or hook.
        errand: ErrandName,
        /// Why.
        reason: String,
    },
    /// Something happened that moves the run to another phase.
    Signalled {
        /// The group.
        group: GroupName,
        /// The run.
        run: RunId,
        /// What.
        signal: Signal,
        /// In words.
        detail: String,
        /// Set with signals that lead to `Stuck`.
        cause: Option<StuckCause>,
    },
    /// The decision: a compare-and-set on the lease that ends. From here on the candidate is the primary.
    PromotionCommitted {
        /// The group.
        group: GroupName,
        /// The run.
        run: RunId,
        /// The lease that ends.
        ends: LeaseTerm,
        /// The new primary.
        instance: InstanceName,
        /// The life of its data.
        data: DataIncarnation,
        /// The life of its guard.
        guard: GuardIncarnation,
        /// The freeze it was compared under; a freeze released meanwhile makes this refused.
        freeze: Generation,
        /// Where it was frozen.
        position: Position,
        /// Why the old primary cannot acknowledge writes any more.
        proof: Proof,
        /// Why no acknowledged write is lost; needed in a zero-loss group.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        durability: Option<DurabilityProof>,
        /// Whose flush the new primary's acknowledgements need, in a zero-loss group.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        standbys: BTreeSet<QuorumMember>,
    },
    /// An instance or a route that is not as it should be is mended outside a run: the intent.
    RepairStarted {
        /// The group.
        group: GroupName,
        /// The effect.
        effect: Effect,
        /// The epoch it carries.
        epoch: Epoch,
    },
    /// A repair ended.
    RepairEnded {
        /// The group.
        group: GroupName,
        /// Log index of the entry that started it.
        repair: u64,
        /// What came of it.
        outcome: Outcome,
    },
    /// A group is paused: nothing is failed over, and its lease is frozen (PROTOCOL, Pause).
    Paused {
        /// The group.
        group: GroupName,
        /// How long at most.
        length: Millis,
        /// The newest status of the primary's guard that the leader had seen before it proposed this.
        #[serde(default)]
        counted_from: Option<crate::lease::StatusRef>,
        /// Why.
        reason: String,
    },
    /// The pause ends: only after the guard holds a lease number newer than the pause, after a receipt for the lease in
    /// force, or after its full length.
    Resumed {
        /// The group.
        group: GroupName,
        /// The pause's log index.
        pause: u64,
        /// The lease that the guard holds, or how long the leader waited.
        how: ResumeProof,
    },
    /// The operator acknowledges a failover: the hold-down ends.
    Acknowledged {
        /// The group.
        group: GroupName,
    },
    /// An operator lifts limits that a stuck run was planned with: the lag limit is waived, and the site may be another.
    /// Never the pledges, the fence or the wait for the lease's end.
    RunOverridden {
        /// The group.
        group: GroupName,
        /// The run, which must be stuck for want of a primary.
        run: RunId,
        /// Where the new primary may stand from here on; `None`: anywhere.
        site: Option<SiteName>,
        /// In a zero-loss group: acknowledged writes may be lost.
        #[serde(default, skip_serializing_if = "is_false")]
        accept_loss: bool,
        /// Why.
        reason: String,
    },
    /// The primary shall acknowledge by another commit quorum: from here on the old one or this one may be in force.
    QuorumChanged {
        /// The group.
        group: GroupName,
        /// The newest version so far: a compare-and-set; 0 for the first.
        replaces: u64,
        /// The epoch whose primary it is for.
        epoch: Epoch,
        /// How many must have flushed; 0: commits wait for nobody.
        k: u32,
        /// Which standbys count.
        standbys: BTreeSet<QuorumMember>,
        /// Why.
        reason: String,
    },
    /// A marker commit was acknowledged under the newest configuration: every older one is over.
    QuorumConfirmed {
        /// The group.
        group: GroupName,
        /// Its version: a compare-and-set.
        version: u64,
    },
    /// Commits of a zero-loss group shall wait for nobody, until that is ended.
    DegradeBegun {
        /// The group.
        group: GroupName,
        /// Who decides it.
        by: DegradedBy,
        /// Why.
        reason: String,
    },
    /// Commits shall wait for standbys again.
    DegradeEnded {
        /// The group.
        group: GroupName,
        /// Who began it: a compare-and-set.
        by: DegradedBy,
        /// Why.
        reason: String,
    },
    /// A user of a host was refused what they asked for. Changes nothing: for the audit.
    AccessDenied {
        /// What, and where.
        denial: Denial,
    },
    /// A token to join was used, or refused. Changes nothing: for the audit.
    TokenTried {
        /// Whose, from where, and what came of it.
        tried: TokenTried,
    },
    /// A forced run is asked for that takes two persons: it waits for the other one.
    RunProposed {
        /// The group.
        group: GroupName,
        /// What, and what it is to change: a compare-and-set on the primary and its epoch.
        proposed: Proposed,
    },
    /// Another person approves it: the run begins, or goes on, in this very entry.
    RunApproved {
        /// The group.
        group: GroupName,
        /// The proposal.
        proposal: ProposalId,
        /// What begins.
        opens: Approved,
    },
    /// A proposal is over that was not approved.
    ProposalEnded {
        /// The group.
        group: GroupName,
        /// The proposal.
        proposal: ProposalId,
        /// Why.
        how: ProposalEnd,
    },
    /// The primary serves under the lease in force, so every older one is over; and every other guard of the group knows that
    /// it may be asked to promise: from here on the primary's may go on with these promises without a majority of voters.
    HoldersKnown {
        /// The group.
        group: GroupName,
        /// The lease: a compare-and-set. Its holders are noted once.
        term: LeaseTerm,
        /// The life of the guard that serves.
        guard: GuardIncarnation,
        /// Whose promises are needed; empty where the group does not hold.
        holders: BTreeSet<InstanceName>,
    },
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks with a reference
const fn is_false(value: &bool) -> bool {
    !*value
}

/// Why a pause may end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResumeProof {
    /// The guard holds this lease, acquired after the pause began.
    HoldsLease(LeaseNo),
    /// The leader waited for the pause's whole length, the lease, drift and the fence budget, by its own clock.
    Waited(Millis),
    /// The group has no primary yet, or the pause was never in force.
    NothingHeld,
    /// The guard has fenced the primary for good under the lease that is in force, so the pause holds nothing any more.
    Fenced(Box<crate::lease::Receipt>),
}

/// One step about to be executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepIntent {
    /// The step's number.
    pub step: u32,
    /// The attempt, from 1.
    pub attempt: u32,
    /// What will be done.
    pub effect: Effect,
}

/// A member of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Its Raft number.
    pub id: NodeId,
    /// Its name.
    pub agent: AgentName,
    /// Its site.
    pub site: SiteName,
    /// `host:port` of its RPC listener.
    pub address: String,
    /// Whether it votes in Raft.
    pub voter: bool,
}

/// What the mesh concluded about a group, with what it concluded it from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictRecord {
    /// The conclusion.
    pub verdict: Verdict,
    /// One sentence.
    pub summary: String,
    /// The evidence, a line each.
    pub evidence: Vec<String>,
    /// Why nothing is done although something is wrong.
    pub blocked: Option<String>,
}

/// The conclusions about a group's primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It serves.
    Healthy,
    /// Something is wrong, not for long enough to conclude.
    Suspect,
    /// Observers do not reach it, but a standby streams from it and advances, or its guard sees it write.
    UnreachableButStreaming,
    /// It lives, but is cut off from the majority.
    Isolated,
    /// It is lost.
    Down,
    /// It is lost, and nobody can take its place.
    DownNoCandidate,
    /// Too few fresh witnesses to say anything. Not a statement about the primary.
    Blind,
    /// No primary yet.
    Unfounded,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::UnreachableButStreaming => "unreachable-but-streaming",
            Self::Isolated => "isolated",
            Self::Down => "down",
            Self::DownNoCandidate => "down-and-no-candidate",
            Self::Blind => "blind",
            Self::Unfounded => "unfounded",
        })
    }
}

/// Why a command was refused. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refused {
    /// The compare of a compare-and-set failed: the world moved on.
    #[error("{what} has changed meanwhile: expected {expected}, found {found}")]
    Conflict {
        /// Compared thing.
        what: String,
        /// Expected value.
        expected: String,
        /// Found value.
        found: String,
    },
    /// The named thing does not exist.
    #[error("there is no {what} {name}")]
    Unknown {
        /// Kind of thing.
        what: String,
        /// Its name.
        name: String,
    },
    /// A rule forbids it.
    #[error("{0}")]
    Forbidden(String),
}

/// The answer to a committed entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Applied {
    /// It took effect, at this log index. A run that it opened is named by the same number.
    Done {
        /// Log index.
        index: u64,
    },
    /// It was refused, and nothing changed.
    Refused(Refused),
}
