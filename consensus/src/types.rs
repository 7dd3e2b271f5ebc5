//! The words of this crate: who a member is, what a machine is, and openraft's type configuration.
//!
//! Commands are opaque bytes: nothing here, or anywhere in this crate, looks into one.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The stable number of a member of the mesh. Never used again for another data directory.
pub type NodeId = u64;

/// Where and who a member is; replicated with the membership.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// `host:port` of the member's agreement service.
    pub address: String,
    /// The name people use for it.
    pub name: String,
    /// The random number its store was created with. A message of the same id with another incarnation is
    /// refused: that voter lost its disk, and with it what it had promised.
    pub incarnation: u64,
}

/// A position in the replicated log. Exact: a term has at most one leader (`single-term-leader`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryId {
    /// The term of the leader that proposed the entry.
    pub term: u64,
    /// Its place in the log, from 0, without gaps.
    pub index: u64,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.term, self.index)
    }
}

/// Who a store belongs to: written when it is created, checked whenever it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The member's id.
    pub node: NodeId,
    /// Drawn at random when the store was created.
    pub incarnation: u64,
    /// The mesh it belongs to.
    pub mesh: String,
}

/// The replicated machine. Pure, and driven by committed entries only.
pub trait Machine: Send + Sync + 'static {
    /// Applies a committed command and returns the answer for its proposer.
    ///
    /// # Errors
    /// A command that cannot be understood is corruption: the node stops, it is never skipped. What the mesh
    /// merely refuses (a lost compare-and-set, say) is an answer, not an error.
    fn apply(&mut self, at: EntryId, command: &[u8]) -> Result<Vec<u8>, MachineError>;

    /// Writes the whole state.
    ///
    /// # Errors
    /// When the state cannot be encoded; the node stops.
    fn snapshot(&self) -> Result<Vec<u8>, MachineError>;

    /// Replaces the whole state by one that [`Machine::snapshot`] wrote.
    ///
    /// # Errors
    /// When the bytes are not a snapshot; the node stops.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), MachineError>;
}

/// Why the replicated machine cannot go on.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct MachineError(pub String);

/// An opaque command. Its bytes are kept out of logs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Command(pub Vec<u8>);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes)", self.0.len())
    }
}

/// The machine's answer to a command; empty for entries that are not commands.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer(pub Vec<u8>);

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({} bytes)", self.0.len())
    }
}

/// The whole state of the machine, as it travels and is kept.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SnapshotBytes(pub Vec<u8>);

impl fmt::Debug for SnapshotBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotBytes({})", self.0.len())
    }
}

openraft::declare_raft_types!(
    pub(crate) TypeConfig:
        D = Command,
        R = Answer,
        NodeId = NodeId,
        Node = Member,
        SnapshotData = SnapshotBytes,
);

pub(crate) type LogId = openraft::LogId<NodeId>;
pub(crate) type Ballot = openraft::Vote<NodeId>;
pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type Membership = openraft::Membership<NodeId, Member>;
pub(crate) type StoredMembership = openraft::StoredMembership<NodeId, Member>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<NodeId, Member>;
pub(crate) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(crate) type StorageError = openraft::StorageError<NodeId>;
pub(crate) type StorageIoError = openraft::StorageIOError<NodeId>;
pub(crate) type Raft = openraft::Raft<TypeConfig>;

/// openraft's log position in this crate's words.
pub(crate) fn entry_id(id: &LogId) -> EntryId {
    EntryId { term: id.leader_id.term, index: id.index }
}
