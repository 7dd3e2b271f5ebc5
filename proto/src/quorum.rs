//! The commit quorum of a zero-loss group: which standbys' flush an acknowledgement needs, and what a promotion claims
//! about the acknowledged writes (PROTOCOL, Commit quorum). Values only: what they are worth is decided in the pure core
//! (`mesh-failover::quorum`).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::evidence::Position;
use crate::spec::Open;
use crate::{DataIncarnation, Epoch, InstanceName, Lsn, Wall};

/// An instance in one life of its data. A rebuilt, rewound or restored standby is another one: what it acknowledged before
/// it need not have any more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QuorumMember {
    /// The instance.
    pub instance: InstanceName,
    /// The life of its data.
    pub data: DataIncarnation,
}

impl QuorumMember {
    /// The `application_name` under which it streams from the primary of an epoch: the only name that epoch's quorum
    /// lists it by, so that a standby that was sent to another primary supplies nobody's quorum there.
    #[must_use]
    pub fn application_name(&self, epoch: Epoch) -> String {
        format!("{}_{}_e{epoch}", self.instance, self.data)
    }
}

impl std::fmt::Display for QuorumMember {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.instance.as_str())
    }
}

/// One configuration: a commit is acknowledged once `k` of these standbys have flushed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumConfig {
    /// One higher at each change, over all epochs: an instruction of a lower one is refused.
    pub version: u64,
    /// The epoch whose primary works by it.
    pub epoch: Epoch,
    /// That primary. While its data lives it has every write that it acknowledged.
    pub led_by: QuorumMember,
    /// How many must have flushed; 0: nobody is waited for, and nothing is promised.
    pub k: u32,
    /// Which.
    pub standbys: BTreeSet<QuorumMember>,
}

impl QuorumConfig {
    /// Whether enough standbys are named for anything to be acknowledged at all.
    #[must_use]
    pub fn satisfiable(&self) -> bool {
        self.k as usize <= self.standbys.len()
    }

    /// Whether both say the same about the same epoch, whatever their versions.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        (self.epoch, self.k) == (other.epoch, other.k)
            && self.led_by == other.led_by
            && self.standbys == other.standbys
    }

    /// The names that the primary lists.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.standbys.iter().map(|standby| standby.application_name(self.epoch)).collect()
    }
}

impl std::fmt::Display for QuorumConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.k == 0 {
            return f.pad("no standby is waited for");
        }
        let names: Vec<_> = self.standbys.iter().map(ToString::to_string).collect();
        let names = if names.is_empty() { "nobody yet".to_owned() } else { names.join(", ") };
        f.pad(&format!("{} of {names}", self.k))
    }
}

/// Commits of a zero-loss group wait for nobody for now: promise 3 is suspended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Degraded {
    /// Who decided it, and so who ends it.
    pub by: DegradedBy,
    /// Why.
    pub reason: String,
    /// Since when; for people.
    pub since: Wall,
}

/// Who let commits go on without standbys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DegradedBy {
    /// An operator: it stays until one ends it.
    Hand,
    /// The group's policy: it ends when enough standbys are back.
    Policy,
}

/// What commits of a zero-loss group wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumView {
    /// In words.
    pub waits_for: String,
    /// Why an acknowledged write could be lost, or none is acknowledged, for now.
    pub not_yet: Option<String>,
    /// Why commits stand still for want of standbys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stands_still: Option<String>,
    /// Commits wait for nobody, by whose decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<Degraded>,
    /// Standbys that would not keep a commit waiting now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep_up: Vec<InstanceName>,
    /// How many a commit shall wait for, by the spec.
    #[serde(default)]
    pub size: u32,
    /// When a new primary opens.
    #[serde(default)]
    pub open: Open,
}

/// How far a configuration has come at the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuorumStage {
    /// Written; some process may still work by the one before.
    Set,
    /// Every process that acknowledges works by it.
    InForce,
    /// A commit that began after that was acknowledged under it, so everything acknowledged before stands on its quorum.
    Marked,
}

/// Which configuration a primary works by, first hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumStanding {
    /// Its version.
    pub version: u64,
    /// How far it has come.
    pub stage: QuorumStage,
}

/// A frozen standby and where it stands for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrozenAt {
    /// Which.
    pub member: QuorumMember,
    /// Where.
    pub position: Position,
}

/// Why a promotion in a zero-loss group loses nothing, or who accepted that it may. It stands in the promotion's entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DurabilityProof {
    /// These frozen standbys must hold every acknowledged write between them, and none of them stands further than the
    /// promoted one.
    CoveringFreeze(Vec<FrozenAt>),
    /// The old primary stopped cleanly, and the promoted one has its shutdown checkpoint.
    ShutdownConfirmed {
        /// Where that checkpoint begins.
        at: Lsn,
    },
    /// An operator accepted that acknowledged writes may be lost.
    LossAccepted {
        /// What could not be shown.
        missing: String,
    },
}

impl std::fmt::Display for DurabilityProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::CoveringFreeze(frozen) => {
                let names: Vec<_> = frozen.iter().map(|one| one.member.to_string()).collect();
                write!(
                    f,
                    "nothing acknowledged is lost: {} were frozen and cover the quorum",
                    names.join(", ")
                )
            }
            Self::ShutdownConfirmed { at } => {
                write!(f, "nothing acknowledged is lost: it has the clean stop at {at}")
            }
            Self::LossAccepted { missing } => {
                write!(f, "acknowledged writes may be lost, as accepted: {missing}")
            }
        }
    }
}
