//! Messages and records of the quorum lease: renewals, pledges, receipts, proofs (PROTOCOL). The rules themselves are
//! in the pure core (`mesh-failover::lease`).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::evidence::GuardStatus;
use crate::hold::{HoldView, Unended};
use crate::{
    AgentName, DataIncarnation, Epoch, GroupName, GuardIncarnation, InstanceName, LeaseNo, Lsn, Millis,
    NodeId, RunId,
};

/// What a lease is about: one instance of one group. Never the group or the agent (PROTOCOL H20).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseKey {
    /// The group.
    pub group: GroupName,
    /// The instance.
    pub instance: InstanceName,
}

impl std::fmt::Display for LeaseKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.group, self.instance)
    }
}

/// Which acquisition of a lease: receipts, pledges, promotions and overrides name the one that they end.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseTerm {
    /// Epoch of the group at the acquisition.
    pub epoch: Epoch,
    /// Number of the acquisition.
    pub lease_no: LeaseNo,
}

impl std::fmt::Display for LeaseTerm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "epoch {} lease {}", self.epoch, self.lease_no)
    }
}

/// A lease as the log knows it: who may hold it, in which life of guard and data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// Which acquisition.
    pub term: LeaseTerm,
    /// The guard's life that may hold it.
    pub guard: GuardIncarnation,
    /// The data's life that it is for.
    pub data: DataIncarnation,
    /// Log index of the entry that granted it: what a voter must have applied before it can grant.
    pub index: u64,
    /// Whose promises, all of them together, let its guard go on without a majority (`majority_lost = "hold"`). Noted once
    /// the primary serves under it, and never changed for this number; empty: a majority of voters alone counts.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub holders: BTreeSet<InstanceName>,
    /// The older lease that promises may still hold: its guard does not open the server before that is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<Unended>,
}

/// A guard asks one voter to grant, or only tells it how the instance is (`lease` is `None` then).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// The lease it asks for.
    pub lease: Option<RenewLease>,
    /// What the guard sees first hand.
    pub status: GuardStatus,
}

/// The lease part of a renewal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewLease {
    /// The key.
    pub key: LeaseKey,
    /// The acquisition it renews.
    pub term: LeaseTerm,
    /// The asking guard's life.
    pub guard: GuardIncarnation,
    /// The life of the data.
    pub data: DataIncarnation,
    /// Length asked for: the L of the group's timing, which the voter remembers as the grant's length.
    pub length: Millis,
    /// Log index to wait for (bounded) before answering.
    pub index: u64,
}

/// A voter's answer to a renewal. It always carries what the guard must know of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewReply {
    /// The answering voter.
    pub voter: NodeId,
    /// Granted or why not; `None` when no lease was asked for.
    pub answer: Option<RenewAnswer>,
    /// The newest electorate in the voter's log.
    pub electorate: Electorate,
    /// The group as the voter's applied log has it; `None` while the group is unknown.
    pub view: Option<GroupView>,
    /// Everybody who votes in the agreement. A guard asks them all, so that it has their grants before they count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<VoterPeer>,
}

/// Granted, or why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RenewAnswer {
    /// Granted for the length asked for, counted by the guard from when it sent the request.
    Granted,
    /// A pledge forbids this lease number.
    Floor,
    /// The voter's applied log does not say that this lease is current.
    NotCurrent,
    /// The voter has not applied the index to wait for in time.
    Behind,
}

/// What a guard needs to know of its group, from a voter's applied log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupView {
    /// Applied log index the view was taken at; a guard keeps the newest it has seen.
    pub applied: u64,
    /// Current epoch.
    pub epoch: Epoch,
    /// Current primary.
    pub primary: Option<InstanceName>,
    /// The lease of the asking guard's own instance, if that is the one in force: the primary's, in the newest epoch.
    pub own_lease: Option<LeaseRecord>,
    /// PostgreSQL's system identifier of the founded group; a guard whose server has another one refuses everything.
    #[serde(default)]
    pub system_id: Option<u64>,
    /// The commit quorum that the primary shall work by; `None` where the group never had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<crate::quorum::QuorumConfig>,
    /// Timing in force.
    pub timing: crate::spec::Timing,
    /// The pause in force, if any.
    pub pause: Option<PauseView>,
    /// What it needs to promise, and to ask for promises; `None` where the group neither holds nor held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldView>,
}

/// A committed pause, as a guard must know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseView {
    /// Log index of the entry that paused: names the pause.
    pub id: u64,
    /// Whole length of the pause. A guard counts its own end from `counted_from`.
    pub length: Millis,
    /// The guard status that the leader had seen before it proposed the pause. The guard counts its own end from when
    /// it sent that status, which is surely before the pause was committed; `None`, or a status that it does not
    /// remember: it does not enter the pause (PROTOCOL, Pause: "the guard's own end counting from before it asked").
    #[serde(default)]
    pub counted_from: Option<StatusRef>,
}

/// Names one status that a guard sent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StatusRef {
    /// The guard's life.
    pub guard: GuardIncarnation,
    /// [`GuardStatus::seq`].
    pub seq: u64,
}

/// The set of voters whose grants and pledges count. A versioned object of its own; Raft's membership contains it.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Electorate {
    /// Version, one higher at each change.
    pub version: u64,
    /// The voters.
    pub members: BTreeSet<NodeId>,
    /// The voters before the change that is under way, a majority of whom is needed as well; empty when none is.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub leaving: BTreeSet<NodeId>,
}

impl Electorate {
    /// These voters, and no change under way.
    #[must_use]
    pub fn of(version: u64, members: impl IntoIterator<Item = NodeId>) -> Self {
        Self { version, members: members.into_iter().collect(), leaving: BTreeSet::new() }
    }

    /// The sets of which a majority each is needed: one, or two while a change is under way.
    pub fn sets(&self) -> impl Iterator<Item = &BTreeSet<NodeId>> {
        std::iter::once(&self.members).chain(Some(&self.leaving).filter(|leaving| !leaving.is_empty()))
    }

    /// Everybody whose word counts for something.
    #[must_use]
    pub fn everyone(&self) -> BTreeSet<NodeId> {
        self.members.union(&self.leaving).copied().collect()
    }

    /// Whether those who `have` said something are a majority wherever one is needed.
    #[must_use]
    pub fn agreed(&self, have: impl Fn(NodeId) -> bool) -> bool {
        self.sets().all(|set| set.iter().filter(|voter| have(**voter)).count() >= majority(set))
    }

    /// Whether a change is under way.
    #[must_use]
    pub fn changes(&self) -> bool {
        !self.leaving.is_empty()
    }
}

/// How many of a set make a majority of it.
#[must_use]
pub fn majority(voters: &BTreeSet<NodeId>) -> usize {
    voters.len() / 2 + 1
}

/// A voting member of the agreement, as a guard needs it to ask for grants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoterPeer {
    /// Its number.
    pub id: NodeId,
    /// Its name: what its certificate must say.
    pub agent: AgentName,
    /// HOST:PORT of its RPC listener.
    pub address: String,
}

/// The leader asks a voter to grant this lease number and below no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PledgeRequest {
    /// Raft term of the asking leader; older than the voter's is refused.
    pub raft_term: u64,
    /// The run that takes over.
    pub run: RunId,
    /// The key.
    pub key: LeaseKey,
    /// The acquisition to end.
    pub term: LeaseTerm,
    /// Electorate version the leader counts by; a voter that knows a newer one says so.
    pub electorate: u64,
    /// `false`: only asks whether the voter would pledge; nothing is written (PROTOCOL, Taking over 2).
    pub durable: bool,
}

/// A voter's answer to a pledge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PledgeReply {
    /// The answering voter.
    pub voter: NodeId,
    /// The newest electorate in the voter's log.
    pub electorate: Electorate,
    /// Pledged, with what remains, or why not.
    pub answer: PledgeAnswer,
}

/// Pledged or why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PledgeAnswer {
    /// The floor is durable (or would be made so); the longest remembered grant has this long to run.
    Pledged {
        /// Remainder by the voter's clock, computed after the floor was durable.
        remainder: Millis,
    },
    /// The asking leader's term is older than the voter's.
    StaleTerm,
    /// The voter cannot write its floor: its disk failed or is full.
    CannotPersist,
}

/// How strong a receipt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReceiptLevel {
    /// SIGKILL is pending on every task of the instance and none can fork: nothing is acknowledged any more.
    NoAck,
    /// No process is left and `standby.signal` is on disk, fsynced.
    Quiet,
}

impl std::fmt::Display for ReceiptLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::NoAck => "no-ack",
            Self::Quiet => "quiet",
        })
    }
}

/// A guard's proof that its instance cannot acknowledge writes under this lease any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The instance.
    pub key: LeaseKey,
    /// The acquisition that it ends. The guard never asks for it again.
    pub term: LeaseTerm,
    /// The guard's life that fenced.
    pub guard: GuardIncarnation,
    /// The life of the fenced data.
    pub data: DataIncarnation,
    /// How strong.
    pub level: ReceiptLevel,
    /// Where a clean stop ended the WAL; `None` after a kill.
    pub shutdown_at: Option<Lsn>,
    /// Why the guard fenced.
    pub cause: FenceCause,
    /// Ed25519 signature by the guard over [`Receipt::signed_bytes`], in hexadecimal.
    pub signature: String,
}

impl Receipt {
    /// The bytes under the signature: every field but the signature, in a fixed order.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        format!(
            "mesh-receipt-1|{}|{}|{}|{}|{}|{}|{:?}|{:?}|{:?}",
            self.key.group,
            self.key.instance,
            self.term.epoch,
            self.term.lease_no,
            self.guard,
            self.data,
            self.level,
            self.shutdown_at.map(|l| l.0),
            self.cause
        )
        .into_bytes()
    }
}

/// Why a guard fenced its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FenceCause {
    /// The postmaster died by itself.
    Died,
    /// The lease ended without a renewal.
    LeaseOver,
    /// A run ordered it.
    Ordered,
    /// A run asked for a clean hand-over.
    HandOver,
    /// The guard itself is going down.
    GuardStopped,
    /// The guard found it running without a lease (after its own restart, say).
    Found,
}

impl std::fmt::Display for FenceCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Died => "died",
            Self::LeaseOver => "its lease ended",
            Self::Ordered => "a run ordered it",
            Self::HandOver => "a clean hand-over",
            Self::GuardStopped => "its guard was stopped",
            Self::Found => "found running without a lease",
        })
    }
}

/// What allows a promotion (DESIGN promise 2). It stands in the same committed entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// A receipt of the old primary's guard; the pledges were taken all the same.
    Receipt(Receipt),
    /// The quorum lease ran out.
    Expired(Expiry),
    /// The commit quorum is frozen, as the durability proof beside it says: the old primary acknowledges no durable write any
    /// more. Only where the group's spec says `open = "durability-only"`.
    Frozen(Frozen),
    /// Its host was turned off from outside, as a step of the run says; the pledges were taken before.
    External(Outside),
}

/// A host that was turned off from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside {
    /// The acquisition that ended with the host.
    pub term: LeaseTerm,
    /// The step of the run that did it.
    pub step: u32,
    /// The fencer.
    pub fencer: crate::ErrandName,
    /// The agent that ran it.
    pub agent: crate::AgentName,
    /// What the fencer said of it.
    pub said: String,
}

/// Who pledged when the commit quorum was frozen. Nobody waited for the end of the lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// The acquisition that is granted no more.
    pub term: LeaseTerm,
    /// Voters that pledged.
    pub pledges: BTreeSet<NodeId>,
    /// Electorate version counted by.
    pub electorate: u64,
}

/// How the expiry was established.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiry {
    /// The acquisition that ran out.
    pub term: LeaseTerm,
    /// Voters that pledged, with the remainder each stated.
    pub pledges: Vec<(NodeId, Millis)>,
    /// How long the leader waited since the first counted answer: at least the largest remainder with drift, plus F.
    pub waited: Millis,
    /// Electorate version counted by.
    pub electorate: u64,
}
