//! What the command line asks an agent, and what it answers. Any agent answers; what changes something is forwarded to
//! the leader.

use serde::{Deserialize, Serialize};

use crate::access::Denial;
use crate::audit::AuditRecord;
use crate::command::{Applied, MemberRecord, VerdictRecord};
use crate::evidence::{GuardStatus, Sighting};
use crate::join::TokenTried;
use crate::lease::{Electorate, LeaseRecord};
use crate::live::{LiveAsk, LiveView, Place};
use crate::proposal::Proposal;
use crate::quorum::QuorumView;
use crate::run::{Actor, Plan, Run};
use crate::spec::{GroupSpec, Timing};
use crate::{
    AgentName, Epoch, ErrandName, GroupName, InstanceName, MeshId, Millis, ProposalId, RunId, SiteName, Wall,
};

/// A request of the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ask")]
pub enum Ask {
    /// Form the mesh from the voters named in the agent's file.
    Form,
    /// Everything `mesh status` shows.
    Status,
    /// The decision or non-decision about a group, explained from the log.
    Why {
        /// The group; needed when there are several.
        group: Option<GroupName>,
    },
    /// Replace or create a group spec.
    Apply {
        /// The spec.
        spec: Box<GroupSpec>,
        /// Only validate, and say what would change.
        dry_run: bool,
    },
    /// Found the group: this instance is the primary.
    Adopt {
        /// The group.
        group: GroupName,
        /// The instance.
        instance: InstanceName,
        /// After a recovery of the mesh: why acknowledged writes may be lost.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        accept_loss: Option<String>,
    },
    /// Plan or start a run.
    Failover(FailoverAsk),
    /// A run, to follow it.
    Run {
        /// Which; `None`: the newest.
        run: Option<RunId>,
    },
    /// Stop a run before its promotion is committed, or leave `stuck`.
    Abort {
        /// Which.
        run: RunId,
        /// Why.
        reason: String,
    },
    /// Try a stuck run again.
    Retry {
        /// Which.
        run: RunId,
        /// Why.
        reason: String,
    },
    /// Let a run go on without a service or hook that failed.
    Skip {
        /// Which run.
        run: RunId,
        /// The service or hook.
        errand: ErrandName,
        /// Why.
        reason: String,
    },
    /// Let an instance follow the primary now.
    Rejoin {
        /// The group.
        group: GroupName,
        /// The instance.
        instance: InstanceName,
    },
    /// Pause a group.
    Pause {
        /// The group.
        group: GroupName,
        /// For how long at most.
        length: Millis,
        /// Why.
        reason: String,
    },
    /// End a pause.
    Resume {
        /// The group.
        group: GroupName,
    },
    /// Let commits of a zero-loss group go on without standbys, or have them wait again.
    Degrade {
        /// The group.
        group: GroupName,
        /// Have them wait again.
        end: bool,
        /// Why.
        reason: String,
    },
    /// End the hold-down after an automatic failover.
    Ack {
        /// The group.
        group: GroupName,
    },
    /// Audit records from `from` on, at most `limit`.
    Audit {
        /// First sequence number.
        from: u64,
        /// How many at most.
        limit: u32,
    },
    /// Verify the chain here, and compare its head with every agent.
    AuditVerify,
    /// The chain's hash at a sequence number, for another agent's verification.
    AuditHash {
        /// Sequence number.
        seq: u64,
    },
    /// Every place that holds an epoch, looked at now and compared with the log.
    Live {
        /// The group; all of them when left out.
        group: Option<GroupName>,
    },
    /// The places that only this agent can look at, for another agent's comparison.
    LiveHere(LiveAsk),
    /// The members.
    Nodes,
    /// Add a member (first as learner, then as voter if asked).
    NodeAdd {
        /// The member.
        member: MemberRecord,
    },
    /// Change who votes on leases to these agents.
    NodeVoters {
        /// All that shall vote, by name.
        agents: Vec<AgentName>,
    },
    /// Remove a member.
    NodeRemove {
        /// Its name.
        agent: AgentName,
    },
    /// Begin the forced run that another person proposed.
    Approve {
        /// Which.
        proposal: ProposalId,
        /// Only show what it would do now.
        dry_run: bool,
    },
    /// Take a proposal back.
    Withdraw {
        /// Which.
        proposal: ProposalId,
        /// Why.
        reason: String,
    },
    /// An agent refused a user of its host, and has it written down; only agents say it.
    Denied(Denial),
    /// Whoever serves the authority has it written down that a token to join was tried.
    TokenTried(TokenTried),
}

/// What `failover`, `switchover` and `plan` ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverAsk {
    /// The group; needed when there are several.
    pub group: Option<GroupName>,
    /// The wanted site.
    pub site: Option<SiteName>,
    /// The wanted instance.
    pub instance: Option<InstanceName>,
    /// Only a clean hand-over; refused when the primary does not answer.
    pub graceful_only: bool,
    /// Waive verdict, hold-down and lag; never the pledge or the wait. Needs a reason.
    pub force: bool,
    /// In a zero-loss group: acknowledged writes may be lost. Needs a reason.
    #[serde(default)]
    pub accept_loss: bool,
    /// Only show the plan.
    pub dry_run: bool,
    /// Why, for the audit.
    pub reason: String,
}

/// A request on its way, with who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Who.
    pub actor: Actor,
    /// What.
    pub ask: Ask,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer", content = "value")]
pub enum Answer {
    /// Done, with a line for people.
    Done(String),
    /// `status`.
    Status(Box<StatusView>),
    /// `why`.
    Why(Box<WhyView>),
    /// A plan that was not started.
    Plan(Box<PlanView>),
    /// A run, started or looked up.
    Run(Box<RunView>),
    /// A forced run that takes two persons: it waits for the other one, and nothing is begun.
    Proposed(GroupName, Box<Proposal>),
    /// Audit records.
    Audit(Vec<AuditRecord>),
    /// The result of a verification.
    AuditVerified(AuditReport),
    /// A hash of the chain.
    AuditHash {
        /// Highest sequence number here.
        head: u64,
        /// The hash at the asked number, if it is here.
        hash: Option<String>,
    },
    /// The places that hold an epoch.
    Live(Box<LiveView>),
    /// Those that only this agent can look at.
    LiveHere(Vec<Place>),
    /// The members.
    Nodes(Vec<NodeView>),
    /// Refused: nothing changed.
    Refused(Refusal),
}

/// Why a request was refused, with what to do. The code decides the exit code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Class.
    pub code: RefusalCode,
    /// One sentence: what is wrong.
    pub what: String,
    /// One sentence: what to do about it.
    pub next: String,
    /// Which value of an applied spec is wrong, so that the command line can show its line: `timing.lease_ms`,
    /// `instance[pg-east].site`, `route[app].agent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

impl Refusal {
    /// A refusal that is not about one value of a spec.
    pub fn new(code: RefusalCode, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { code, what: what.into(), next: next.into(), at: None }
    }
    /// The same, about one value of the spec.
    #[must_use]
    pub fn about(mut self, path: impl Into<String>) -> Self {
        self.at = Some(path.into());
        self
    }
}

/// Classes of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// The request itself is wrong.
    Invalid,
    /// The named thing does not exist.
    NotFound,
    /// It cannot be done safely now; the text says what it would cost and which command overrides it.
    Unsafe,
    /// Something else is going on (a run, a pause, a newer version).
    Conflict,
    /// Whoever asks may not; the text says who may.
    Denied,
    /// No leader, or no majority.
    NoQuorum,
    /// Not in this version; refused rather than half done.
    NotSupported,
    /// The outcome is unknown: look before repeating.
    Unknown,
}

/// Everything `mesh status` shows, as the answering agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// The answering agent.
    pub agent: AgentName,
    /// The mesh; `None` before it is formed.
    pub mesh: Option<MeshId>,
    /// The leader, if one is known.
    pub leader: Option<AgentName>,
    /// Raft term.
    pub term: u64,
    /// The newest edition of which a command stands in the log: no older build can join.
    #[serde(default)]
    pub edition: u32,
    /// Applied log index here.
    pub applied: u64,
    /// The lease electorate.
    pub electorate: Electorate,
    /// The members.
    pub nodes: Vec<NodeView>,
    /// The groups.
    pub groups: Vec<GroupStatus>,
    /// When, by the answering agent's wall clock.
    pub at: Wall,
    /// What is wrong with the answering agent itself.
    pub troubles: Vec<String>,
}

/// A member as status shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// The member.
    pub member: MemberRecord,
    /// Whether it votes on leases, now or when the change under way is over.
    #[serde(default)]
    pub elector: bool,
    /// Whether it leads.
    pub leader: bool,
    /// Whether the leader hears from it; `None` when the answering agent is not the leader and cannot tell.
    pub reachable: Option<bool>,
    /// Age of its newest report at the leader.
    pub report_age: Option<Millis>,
    /// Which commands its build can apply, as its newest report said; `None` where the answering agent has not heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edition: Option<u32>,
}

/// A group as status shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Name.
    pub group: GroupName,
    /// What its servers are.
    #[serde(default)]
    pub engine: crate::spec::Engine,
    /// Version of the spec.
    pub version: u64,
    /// Epoch.
    pub epoch: Epoch,
    /// Primary.
    pub primary: Option<InstanceName>,
    /// The verdict, as last recorded.
    pub verdict: VerdictRecord,
    /// Timing in force.
    pub timing: Timing,
    /// Whether mesh acts by itself.
    pub automatic: bool,
    /// Why nothing would be done automatically right now.
    pub blocked: Option<String>,
    /// What the primary does without a majority of voters.
    #[serde(default, skip_serializing_if = "crate::spec::MajorityLost::is_fence")]
    pub majority_lost: crate::spec::MajorityLost,
    /// In a zero-loss group: what commits wait for, or why nothing is promised yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<QuorumView>,
    /// The instances.
    pub instances: Vec<InstanceStatus>,
    /// The routes.
    pub routes: Vec<RouteStatus>,
    /// The run going on or last ended.
    pub run: Option<Run>,
    /// The forced run that waits for a second person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<Proposal>,
    /// The pause in force: reason, and for how long at most.
    pub pause: Option<(String, Millis)>,
    /// How many observers reported freshly, of how many.
    pub observers: (u32, u32),
}

/// An instance as status shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// Name.
    pub name: InstanceName,
    /// Site.
    pub site: SiteName,
    /// Address.
    pub address: String,
    /// The lease as the log has it.
    pub lease: Option<LeaseRecord>,
    /// What its guard says, with its age; `None` when it is silent.
    pub guard: Option<(GuardStatus, Millis)>,
    /// Bytes of WAL behind the primary, where both are known.
    pub lag_bytes: Option<u64>,
    /// What observers see, by agent.
    pub seen: Vec<(AgentName, Sighting)>,
    /// A repair going on, or the last one that failed.
    pub repair: Option<String>,
}

/// A route as status shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStatus {
    /// Name.
    pub name: crate::RouteName,
    /// Where clients connect.
    pub listen: String,
    /// Where the log says that it leads.
    pub leads_to: Option<InstanceName>,
    /// The epoch in which it was led there.
    pub epoch: Option<Epoch>,
    /// What stands in the way of leading it, or who did not show it when it was led.
    #[serde(default)]
    pub note: Option<String>,
    /// How long the agent that holds it has seen it lead elsewhere, whatever the log says.
    #[serde(default)]
    pub astray_for: Option<Millis>,
}

/// The explanation of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyView {
    /// The group.
    pub group: GroupName,
    /// The verdict in force.
    pub verdict: VerdictRecord,
    /// When it was recorded.
    pub since: Wall,
    /// What mesh would do next, and on what condition.
    pub next: String,
    /// Records of the audit it rests on, oldest first.
    pub records: Vec<AuditRecord>,
}

/// A plan with its checker's findings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanView {
    /// The plan.
    pub plan: Plan,
    /// What would be done, a line a step.
    pub steps: Vec<String>,
    /// What the checker says against it; empty when it may be executed.
    pub findings: Vec<String>,
    /// Worst case of what would be lost, in bytes of WAL, as far as known now.
    pub may_lose_bytes: Option<u64>,
    /// Worst case of the wait for the old lease, when no receipt comes.
    pub wait_at_most: Millis,
    /// The services and hooks that would take longest one after the other, and for how long at most.
    #[serde(default)]
    pub longest: Option<(Vec<String>, Millis)>,
}

/// A run as the command line follows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunView {
    /// The run.
    pub run: Run,
    /// Whether the request joined a run that was going on already.
    pub joined: bool,
}

/// What a verification of the audit found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// Records checked.
    pub records: u64,
    /// Head of the chain: number and hash.
    pub head: (u64, String),
    /// First record that does not fit, with the reason.
    pub broken: Option<(u64, String)>,
    /// Each other agent: agrees, differs, or was not reached.
    pub agents: Vec<(AgentName, Agreement)>,
}

/// Whether another agent has the same chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Agreement {
    /// Same hash at this number.
    Agrees(u64),
    /// Another hash at this number.
    Differs(u64),
    /// Not reached.
    NotReached(String),
}

/// A proposal that was applied, on its way back from the leader.
pub type Proposed = Applied;
