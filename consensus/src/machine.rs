//! openraft's view of the replicated machine: committed entries in order, snapshots out and in.
//!
//! Keeps the machine beside the position it has reached, so that a read always knows how far it is.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use crate::store::{Fault, FaultCell, Store};
use crate::types::{
    Answer, Entry, EntryId, LogId, Machine, MachineError, Snapshot, SnapshotBytes, SnapshotMeta,
    StorageError, StorageIoError, StoredMembership, TypeConfig, entry_id,
};

/// The machine and how far it has come.
pub(crate) struct Reached<M> {
    pub(crate) machine: M,
    last: Option<LogId>,
    membership: StoredMembership,
}

/// The machine, shared by openraft's worker (which writes) and everyone who reads.
pub(crate) struct Shared<M> {
    reached: RwLock<Reached<M>>,
    applied: watch::Sender<Option<EntryId>>,
}

impl<M: Machine> Shared<M> {
    pub(crate) fn new(machine: M) -> Self {
        let reached = Reached { machine, last: None, membership: StoredMembership::default() };
        Self { reached: RwLock::new(reached), applied: watch::Sender::new(None) }
    }

    /// Brings a fresh machine to the kept snapshot. A machine that is already further keeps its state.
    pub(crate) fn recover(&self, store: &Store) -> Result<(), MachineError> {
        let Some(snapshot) = store.snapshot() else { return Ok(()) };
        let mut reached = self.write();
        if reached.last >= snapshot.meta.last_log_id {
            return Ok(());
        }
        reached.restore(&snapshot.meta, &snapshot.snapshot)?;
        self.tell(&reached);
        Ok(())
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Reached<M>> {
        // A machine that panicked while applying leaves openraft's worker dead and this voter stopped; what it had
        // is then only read for display.
        self.reached.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Reached<M>> {
        self.reached.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn last(&self) -> Option<LogId> {
        self.read().last
    }

    pub(crate) fn applied(&self) -> watch::Receiver<Option<EntryId>> {
        self.applied.subscribe()
    }

    fn tell(&self, reached: &Reached<M>) {
        self.applied.send_replace(reached.last.as_ref().map(entry_id));
    }
}

impl<M: Machine> Reached<M> {
    fn restore(&mut self, meta: &SnapshotMeta, bytes: &SnapshotBytes) -> Result<(), MachineError> {
        self.machine.restore(&bytes.0)?;
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    fn apply(&mut self, entry: Entry) -> Result<Answer, MachineError> {
        if self.last.is_some_and(|last| last.index >= entry.log_id.index) {
            return Err(MachineError(format!("entry {} was applied before", entry.log_id)));
        }
        let answer = match entry.payload {
            EntryPayload::Blank => Answer::default(),
            EntryPayload::Normal(command) => Answer(self.machine.apply(entry_id(&entry.log_id), &command.0)?),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Answer::default()
            }
        };
        self.last = Some(entry.log_id);
        Ok(answer)
    }
}

/// What openraft drives.
pub(crate) struct Applier<M> {
    shared: Arc<Shared<M>>,
    store: Store,
    faults: Arc<FaultCell>,
}

impl<M> Clone for Applier<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), store: self.store.clone(), faults: Arc::clone(&self.faults) }
    }
}

impl<M: Machine> Applier<M> {
    pub(crate) fn new(shared: Arc<Shared<M>>, store: Store, faults: Arc<FaultCell>) -> Self {
        Self { shared, store, faults }
    }

    fn fail(&self, doing: &str, error: &MachineError) -> AnyError {
        let text = format!("the replicated state cannot {doing}: {error}; this agent must not go on with it");
        self.faults.set(Fault::Fatal(text.clone()));
        AnyError::error(text)
    }
}

impl<M: Machine> RaftStateMachine<TypeConfig> for Applier<M> {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let reached = self.shared.read();
        Ok((reached.last, reached.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answer>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut answers = Vec::new();
        let mut reached = self.shared.write();
        for entry in entries {
            let id = entry.log_id;
            let answer = reached.apply(entry).map_err(|error| {
                let error = self.fail(&format!("apply entry {id}"), &error);
                StorageIoError::apply(id, error)
            })?;
            answers.push(answer);
        }
        self.shared.tell(&reached);
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotBytes>, StorageError> {
        // Snapshots arrive whole; openraft's chunked transport, the only user of this, is not used.
        Ok(Box::new(SnapshotBytes(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<SnapshotBytes>,
    ) -> Result<(), StorageError> {
        // Durable first: the machine in memory is never ahead of what this voter could restart from.
        self.store
            .save_snapshot(meta, &snapshot)
            .await
            .map_err(|error| StorageIoError::write_snapshot(Some(meta.signature()), &error))?;
        let mut reached = self.shared.write();
        reached.restore(meta, &snapshot).map_err(|error| {
            let error = self.fail("be restored from the leader's snapshot", &error);
            StorageIoError::read_snapshot(Some(meta.signature()), error)
        })?;
        self.shared.tell(&reached);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        Ok(self.store.snapshot().map(|snapshot| snapshot.as_ref().clone()))
    }
}

impl<M: Machine> RaftSnapshotBuilder<TypeConfig> for Applier<M> {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let (meta, bytes) = {
            let reached = self.shared.read();
            let bytes = reached.machine.snapshot().map_err(|error| {
                StorageIoError::read_state_machine(self.fail("be written as a snapshot", &error))
            })?;
            let at = reached.last.map_or_else(|| "empty".to_owned(), |last| last.to_string());
            let meta = SnapshotMeta {
                last_log_id: reached.last,
                last_membership: reached.membership.clone(),
                snapshot_id: format!("{at}-on-{}", self.store.identity().node),
            };
            (meta, SnapshotBytes(bytes))
        };
        self.store
            .save_snapshot(&meta, &bytes)
            .await
            .map_err(|error| StorageIoError::write_snapshot(Some(meta.signature()), &error))?;
        Ok(Snapshot { meta, snapshot: Box::new(bytes) })
    }
}
