//! The durable half of a voter: log, vote, commit position, snapshot and identity in one file.
//!
//! One thread writes ([`writer`]), in groups with one fdatasync each; everything is also kept in memory and read
//! from there. What is not on disk is never acknowledged. A record that is damaged, missing or out of place is a
//! fatal error that names it.

mod codec;
mod identity;
mod load;
mod log;
mod medium;
mod salvage;
mod snapshot;
mod writer;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::TableDefinition;

pub use codec::Corrupt;
pub use identity::{create_store, read_identity};
pub(crate) use medium::{FileMedium, Medium};
pub use salvage::{Beginning, SalvageError, Salvaged, begin_store, salvage};

use crate::types::{Ballot, Entry, Identity, LogId, Snapshot};
use writer::{Done, Write, Writer};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// redb's default cache is 1 GiB; the log is read from memory, so only pages of recent commits are ever wanted.
const CACHE_BYTES: usize = 8 << 20;

/// Why a store cannot be created or opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No store: the first start, or a lost disk.
    #[error(
        "there is no store at {}; a new member gets one by joining. If this member was part of the mesh before, \
         its disk was lost: remove the old member and join under a new id", path.display()
    )]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// A store is already there, and is never overwritten.
    #[error("there is a store at {} already; it is not overwritten", path.display())]
    Exists {
        /// Where it is.
        path: PathBuf,
    },
    /// Another process has it open.
    #[error("another agent runs on this data directory ({} is locked)", path.display())]
    Locked {
        /// The locked file.
        path: PathBuf,
    },
    /// The store belongs to another member.
    #[error("the store belongs to node {found}, this agent is configured as node {expected}")]
    OtherNode {
        /// Whose it is.
        found: u64,
        /// Who was expected.
        expected: u64,
    },
    /// The store belongs to another mesh.
    #[error("the store belongs to mesh {found:?}, this agent is configured for mesh {expected:?}")]
    OtherMesh {
        /// Which mesh it is of.
        found: String,
        /// Which was expected.
        expected: String,
    },
    /// A record is not what was written.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The operating system refused.
    #[error("cannot {doing}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The operating system refused, at a path.
    #[error("cannot {doing} {}", path.display())]
    Path {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Path { doing, path: path.to_owned(), source }
    }
}

/// Why a voter stopped.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The disk refused a write or a sync; it may have room again later.
    Disk(String),
    /// The store, the machine or openraft is in a state that must not go on.
    Fatal(String),
}

impl Fault {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Disk(text) | Self::Fatal(text) => text,
        }
    }
}

/// Remembers the first fault of a run; later ones are consequences.
#[derive(Debug, Default)]
pub(crate) struct FaultCell(Mutex<Option<Fault>>);

impl FaultCell {
    pub(crate) fn set(&self, fault: Fault) {
        let mut cell = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cell.is_none() {
            tracing::error!(fault = fault.text(), "this voter stops");
            *cell = Some(fault);
        }
    }

    pub(crate) fn get(&self) -> Option<Fault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What is on disk, or on its way there in order.
#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<u64, Entry>,
    purged: Option<LogId>,
    ballot: Option<Ballot>,
    committed: Option<LogId>,
    snapshot: Option<Arc<Snapshot>>,
}

impl State {
    fn last(&self) -> Option<LogId> {
        self.entries.last_key_value().map(|(_, entry)| entry.log_id).or(self.purged)
    }
}

/// A cheap handle on an open store.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    writer: Writer,
    identity: Identity,
    faults: Arc<FaultCell>,
    /// Only openraft's own suite, which appends with holes and over purged entries, does without the check.
    lenient: bool,
}

impl Store {
    /// Opens the store of a known member.
    pub(crate) fn open(
        medium: &dyn Medium,
        node: u64,
        mesh: &str,
        faults: Arc<FaultCell>,
    ) -> Result<Self, StoreError> {
        Self::open_with(medium, node, mesh, faults, false)
    }

    fn open_with(
        medium: &dyn Medium,
        node: u64,
        mesh: &str,
        faults: Arc<FaultCell>,
        lenient: bool,
    ) -> Result<Self, StoreError> {
        let opened = load::open(medium)?;
        identity::check(&opened.identity, node, mesh)?;
        let writer = Writer::start(opened.database, opened.block, opened.commit, Arc::clone(&faults))
            .map_err(|source| StoreError::Io { doing: "start the store's writer thread", source })?;
        let inner =
            Inner { state: Mutex::new(opened.state), writer, identity: opened.identity, faults, lenient };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is changed by single assignments; a panic elsewhere leaves it whole.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last position of the log.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.state().last()
    }

    /// Forgets that the own election was won, keeping the vote itself.
    ///
    /// openraft starts a restarted leader as the leader of its old term at once, but its commit position may be
    /// behind what it already acknowledged, so its first linearizable reads would be stale. Without the mark it
    /// must be elected again.
    pub(crate) fn resign(&self) {
        let me = self.inner.identity.node;
        let mut state = self.state();
        if let Some(ballot) = state.ballot.as_mut()
            && ballot.leader_id.voted_for == Some(me)
        {
            ballot.committed = false;
        }
    }

    /// Makes sure that there is room to go on: writes ballast durably, and takes it away again.
    pub(crate) async fn make_room(&self) -> io::Result<()> {
        self.write(Write::Ballast(true)).await?;
        self.write(Write::Ballast(false)).await
    }

    /// Waits until a write is durable.
    async fn write(&self, write: Write) -> io::Result<()> {
        let (done, answer) = tokio::sync::oneshot::channel();
        self.inner.writer.send(write, Done::Reply(done));
        match answer.await {
            Ok(result) => result,
            Err(_gone) => Err(io::Error::other("the store is closed")),
        }
    }

    /// Writes what is queued, stops the thread and releases the file. Later writes fail.
    pub(crate) fn close(&self) {
        self.inner.writer.close();
    }
}

#[cfg(test)]
pub(crate) mod tests;
