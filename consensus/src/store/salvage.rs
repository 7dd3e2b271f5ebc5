//! What a voter knew, read from its store while it is stopped, and a first store made of it: for a mesh whose majority is
//! gone for good. Neither changes the store that is read, and neither decides whether that may be done.

use std::path::Path;

use mesh_proto::raft as pb;
use openraft::{EntryPayload, LeaderId};

use super::codec::{self, Kind};
use super::medium::{FileMedium, Medium};
use super::writer::position;
use super::{StoreError, identity, load};
use crate::types::{
    Ballot, EntryId, Identity, LogId, Machine, MachineError, Member, Membership, NodeId, SnapshotMeta,
    StoredMembership, entry_id,
};
use crate::wire;

/// Why a store cannot be read back into a machine.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    /// The store: missing, in use by a running agent, or damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The snapshot or an entry makes no sense to the machine.
    #[error("the log cannot be applied")]
    Machine(#[from] MachineError),
}

/// A stopped voter's store, locked for as long as this is kept.
pub struct Salvaged<M> {
    /// Whose it is.
    pub identity: Identity,
    /// The machine with the whole log applied: what is on disk and was not yet known to be committed, too. The majority that
    /// would know is gone, and leaving it out could lose what it had committed.
    pub machine: M,
    /// The end of the log; `None` when there is none.
    pub last: Option<EntryId>,
    /// The newest term this voter took part in.
    pub term: u64,
    /// Keeps the lock.
    _opened: load::Opened,
}

impl<M> std::fmt::Debug for Salvaged<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Salvaged")
            .field("identity", &self.identity)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

/// Reads a stopped voter's store.
///
/// # Errors
/// [`SalvageError`]; [`StoreError::Locked`] while its agent runs.
pub fn salvage<M: Machine>(path: &Path, mut machine: M) -> Result<Salvaged<M>, SalvageError> {
    let opened = load::open(&FileMedium::new(path))?;
    let state = &opened.state;
    let mut reached: Option<LogId> = None;
    if let Some(snapshot) = &state.snapshot {
        machine.restore(&snapshot.snapshot.0)?;
        reached = snapshot.meta.last_log_id;
    }
    for entry in state.entries.values() {
        if reached.is_some_and(|reached| entry.log_id.index <= reached.index) {
            continue;
        }
        if let EntryPayload::Normal(command) = &entry.payload {
            machine.apply(entry_id(&entry.log_id), &command.0)?;
        }
        reached = Some(entry.log_id);
    }
    let last = reached.as_ref().map(entry_id);
    let voted = state.ballot.map_or(0, |ballot| ballot.leader_id.term);
    let term = voted.max(last.map_or(0, |last| last.term));
    Ok(Salvaged { identity: opened.identity.clone(), machine, last, term, _opened: opened })
}

/// What the first store of a new mesh begins with.
#[derive(Debug)]
pub struct Beginning<'a> {
    /// Whose store it will be: the only voter.
    pub node: NodeId,
    /// `host:port` of its agreement service.
    pub address: String,
    /// Its name.
    pub name: String,
    /// The new mesh.
    pub mesh: &'a str,
    /// Where its log begins: beyond whatever the old mesh may have written.
    pub at: EntryId,
    /// A snapshot of the machine.
    pub state: Vec<u8>,
}

/// Creates a store that begins with a snapshot, and with its owner as the only voter.
///
/// # Errors
/// [`StoreError`]; a store that exists is never touched.
pub fn begin_store(path: &Path, beginning: Beginning<'_>) -> Result<Identity, StoreError> {
    let Beginning { node, address, name, mesh, at, state } = beginning;
    let identity = Identity { node, incarnation: identity::draw()?, mesh: mesh.to_owned() };
    let member = Member { address, name, incarnation: identity.incarnation };
    let last = wire::log_id_back(&pb::LogId { term: at.term, index: at.index });
    let alone = Membership::new(vec![[node].into()], std::collections::BTreeMap::from([(node, member)]));
    let meta = SnapshotMeta {
        last_log_id: Some(last),
        last_membership: StoredMembership::new(Some(last), alone),
        snapshot_id: format!("{last}-on-{node}"),
    };
    // It must be elected: in a term of its own, beyond those of the old mesh.
    let ballot = Ballot { leader_id: LeaderId { term: at.term, voted_for: Some(node) }, committed: false };
    let snapshot = pb::SnapshotRecord { meta: Some(wire::snapshot_meta(&meta)), data: state };
    let records = load::Records {
        ballot: Some(wire::ballot(&ballot)),
        position: position_records(Some(last)),
        snapshot: codec::encode(Kind::Snapshot, &snapshot),
    };
    let medium: &dyn Medium = &FileMedium::new(path);
    load::create(medium, &identity, &records)?;
    Ok(identity)
}

/// The records of a log that was purged, committed and written up to one place.
pub(super) fn position_records(at: Option<LogId>) -> [(&'static str, Vec<u8>); 3] {
    [
        ("committed", position(Kind::Committed, at)),
        ("purged", position(Kind::Purged, at)),
        ("tail", position(Kind::Tail, at)),
    ]
}
