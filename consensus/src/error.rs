//! What can go wrong, one enum per operation.

use std::time::Duration;

use crate::options::OptionsError;
use crate::store::StoreError;
use crate::types::{MachineError, NodeId};

/// Why a voter cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The options are unsafe.
    #[error("the options of the agreement are unsafe")]
    Options(#[from] OptionsError),
    /// The store cannot be opened.
    #[error("the store of this voter cannot be opened")]
    Store(#[from] StoreError),
    /// The kept snapshot is not one that this version of the machine understands.
    #[error("the kept snapshot cannot be restored")]
    Machine(#[from] MachineError),
    /// openraft refused to start.
    #[error("the agreement cannot start: {0}")]
    Core(String),
}

/// Why a proposal has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was proposed; ask the leader.
    #[error("this agent does not lead (leader: {})", show(*leader))]
    NotLeader {
        /// Who leads, as far as known.
        leader: Option<NodeId>,
    },
    /// It may be committed, now or later, or never: read before repeating.
    #[error("the outcome of the proposal is unknown")]
    Lost,
    /// Nothing was proposed: too many proposals were under way until the deadline.
    #[error("too many proposals are under way")]
    Overloaded,
    /// Nothing was proposed: this voter has stopped (see its standing).
    #[error("this voter has stopped")]
    Stopped,
    /// Nothing was proposed: the command exceeds the limit.
    #[error("the command has {size} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
}

/// Why this agent may not act as the leader now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotActing {
    /// Another one leads, or nobody.
    #[error("this agent does not lead (leader: {})", show(*leader))]
    NotLeader {
        /// Who leads, as far as known.
        leader: Option<NodeId>,
    },
    /// No quorum confirmed it in time: cut off, or deposed without knowing it.
    #[error("no quorum of voters confirmed the leadership in time")]
    NoQuorum,
    /// It was elected just now, and has not applied an entry of its own term.
    #[error("no entry of the own term is applied yet")]
    NotCaughtUp,
    /// The margin leaves nothing of the time in which nobody else can be elected.
    #[error("a margin of {margin:?} leaves nothing of the {lease:?} in which nobody else can be elected")]
    MarginTooLarge {
        /// As asked.
        margin: Duration,
        /// The time in which voters elect nobody else.
        lease: Duration,
    },
    /// This voter has stopped (see its standing).
    #[error("this voter has stopped")]
    Stopped,
}

/// Why a linearizable read or a wait did not come about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Ask the leader.
    #[error("this agent does not lead (leader: {})", show(*leader))]
    NotLeader {
        /// Who leads, as far as known.
        leader: Option<NodeId>,
    },
    /// No quorum confirmed the leadership in time.
    #[error("no quorum of voters confirmed the leadership in time")]
    NoQuorum,
    /// The deadline passed.
    #[error("the deadline passed before the state was far enough")]
    TooLate,
    /// This voter has stopped (see its standing).
    #[error("this voter has stopped")]
    Stopped,
}

/// Why the membership was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembersError {
    /// Ask the leader.
    #[error("this agent does not lead (leader: {})", show(*leader))]
    NotLeader {
        /// Who leads, as far as known.
        leader: Option<NodeId>,
    },
    /// The mesh was formed before, and is formed only once.
    #[error("this mesh is formed already")]
    Formed,
    /// The first members must contain the one that forms the mesh, as its store knows it.
    #[error("the members do not contain this agent with its own incarnation")]
    WithoutMe,
    /// An id names one data directory for ever.
    #[error(
        "node {node} is a member already with another incarnation; a lost disk comes back under a new id"
    )]
    OtherIncarnation {
        /// The id.
        node: NodeId,
    },
    /// No such member.
    #[error("node {node} is no member")]
    Unknown {
        /// The id.
        node: NodeId,
    },
    /// A learner must have the log before it votes, or it delays every commit.
    #[error("node {node} is {behind} entries behind; it becomes a voter when it has caught up")]
    Behind {
        /// The id.
        node: NodeId,
        /// How many entries it lacks.
        behind: u64,
    },
    /// Without a voter there is no mesh.
    #[error("node {node} is the only voter and cannot be removed")]
    LastVoter {
        /// The id.
        node: NodeId,
    },
    /// One change at a time.
    #[error("another change of members is under way; try again when it has ended")]
    InProgress,
    /// The change may have happened: read the members before repeating.
    #[error("the outcome of the change is unknown")]
    Lost,
    /// This voter has stopped (see its standing).
    #[error("this voter has stopped")]
    Stopped,
}

fn show(leader: Option<NodeId>) -> String {
    leader.map_or_else(|| "none known".to_owned(), |leader| leader.to_string())
}
