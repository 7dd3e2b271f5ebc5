//! Keeps one voter running: starts openraft on the store, reports its standing, and after a refused write starts it
//! again on a freshly opened store, once there is room.
//!
//! A damaged store, or a machine that cannot go on, is never retried: this voter then stays stopped and says why.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::error::OpenError;
use crate::gate;
use crate::hub::{Core, Hub};
use crate::machine::{Applier, Shared};
use crate::network::{Network, Peers};
use crate::standing::Standing;
use crate::store::{Fault, FaultCell, Medium, Store, StoreError};
use crate::types::{Machine, Raft};

/// Longest wait between two attempts to open a store whose disk refused.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running core and the cell in which its first fault will be.
pub(crate) struct Run {
    core: Core,
    faults: Arc<FaultCell>,
}

/// Everything a core is made of, kept to make the next one.
pub(crate) struct Supervisor<M> {
    pub(crate) hub: Arc<Hub>,
    pub(crate) shared: Arc<Shared<M>>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) medium: Arc<dyn Medium>,
    pub(crate) stop: watch::Receiver<bool>,
}

enum Ended {
    Asked,
    Fault(Fault),
}

impl<M: Machine> Supervisor<M> {
    /// Starts openraft on an opened store.
    pub(crate) async fn start(&self, store: Store, faults: Arc<FaultCell>) -> Result<Run, OpenError> {
        let started = self.launch(&store, &faults).await;
        match started {
            Ok(raft) => {
                let core = Core { raft, store };
                self.hub.set_core(Some(core.clone()));
                Ok(Run { core, faults })
            }
            Err(error) => {
                close(store).await;
                Err(error)
            }
        }
    }

    async fn launch(&self, store: &Store, faults: &Arc<FaultCell>) -> Result<Raft, OpenError> {
        self.shared.recover(store)?;
        if self.shared.last() > store.last() && self.shared.last() > snapshot_end(store) {
            let text = "the store lost entries that this process has applied already; remove this member and join \
                        again under a new id";
            faults.set(Fault::Fatal(text.to_owned()));
            return Err(OpenError::Core(text.to_owned()));
        }
        store.resign();
        let config = self.hub.options.raft().map_err(OpenError::Core)?;
        let applier = Applier::new(Arc::clone(&self.shared), store.clone(), Arc::clone(faults));
        let network = Network(Arc::clone(&self.peers));
        Raft::new(self.hub.identity.node, Arc::new(config), network, store.clone(), applier)
            .await
            .map_err(|error| OpenError::Core(error.to_string()))
    }

    /// Runs until it is told to stop.
    pub(crate) async fn run(mut self, first: Run) {
        let mut run = first;
        loop {
            let ended = self.attend(&run).await;
            self.hub.set_core(None);
            let text = match &ended {
                Ended::Asked => None,
                Ended::Fault(fault) => Some(fault.text().to_owned()),
            };
            self.hub.report(Standing { fault: text, ..self.last_words() });
            retire(run).await;
            match ended {
                Ended::Asked => return,
                Ended::Fault(Fault::Fatal(_)) => {
                    self.stopped().await;
                    return;
                }
                Ended::Fault(Fault::Disk(_)) => match self.reopen().await {
                    Some(next) => run = next,
                    None => return,
                },
            }
        }
    }

    /// Reports the standing of a core and keeps its election gate until it ends.
    async fn attend(&mut self, run: &Run) -> Ended {
        let mut metrics = run.core.raft.metrics();
        let mut stop = self.stop.clone();
        let gate = gate::keep(&self.hub, &self.peers, &run.core);
        tokio::pin!(gate);
        loop {
            let ended = {
                let metrics = metrics.borrow_and_update();
                let standing = Standing::of(&metrics);
                let ended = metrics.running_state.as_ref().err().map(ToString::to_string);
                if ended.is_none() {
                    self.hub.report(standing);
                }
                ended
            };
            if let Some(text) = ended {
                return Ended::Fault(fault(run, text));
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return Ended::Asked,
                changed = metrics.changed() => if changed.is_err() {
                    return Ended::Fault(fault(run, "the agreement's core has panicked".to_owned()));
                },
                () = &mut gate => {}
            }
        }
    }

    /// What was known last stays on show while this voter is stopped.
    fn last_words(&self) -> Standing {
        let before = self.hub.standing.borrow().clone();
        Standing { role: crate::standing::Role::Stopped, since_quorum: None, ..before }
    }

    async fn stopped(&mut self) {
        // An error means that every handle is gone, which is a request to stop as well.
        drop(self.stop.wait_for(|stop| *stop).await);
    }

    /// Tries to open the store again until it is writable; nothing if told to stop meanwhile.
    async fn reopen(&mut self) -> Option<Run> {
        // Longer than a lease, so that no permission given by the old core outlives the start of the new one.
        let mut wait = (self.hub.options.timings.election_max * 2).max(Duration::from_secs(1));
        loop {
            let asked = tokio::time::timeout(wait, self.stop.wait_for(|stop| *stop)).await.is_ok();
            if asked {
                return None;
            }
            wait = (wait * 2).min(PATIENCE);
            match self.try_again().await {
                Ok(run) => {
                    tracing::info!("the store is writable again; this voter takes part again");
                    self.hub.report(Standing { fault: None, ..self.last_words() });
                    return Some(run);
                }
                Err(Fault::Disk(text)) => {
                    tracing::warn!(fault = text, "the store is still not writable");
                    self.hub.report(Standing { fault: Some(text), ..self.last_words() });
                }
                Err(Fault::Fatal(text)) => {
                    self.hub.report(Standing { fault: Some(text), ..self.last_words() });
                    self.stopped().await;
                    return None;
                }
            }
        }
    }

    async fn try_again(&self) -> Result<Run, Fault> {
        let faults = Arc::new(FaultCell::default());
        let store = self.open_store(Arc::clone(&faults)).await.map_err(|error| match error {
            StoreError::Io { .. } | StoreError::Path { .. } => Fault::Disk(with_source(&error)),
            StoreError::Missing { .. }
            | StoreError::Exists { .. }
            | StoreError::Locked { .. }
            | StoreError::OtherNode { .. }
            | StoreError::OtherMesh { .. }
            | StoreError::Corrupt(_) => Fault::Fatal(error.to_string()),
        })?;
        if let Err(error) = store.make_room().await {
            close(store).await;
            return Err(faults.get().unwrap_or_else(|| Fault::Disk(error.to_string())));
        }
        let started = self.start(store, Arc::clone(&faults)).await;
        started.map_err(|error| faults.get().unwrap_or_else(|| Fault::Fatal(error.to_string())))
    }

    /// Opens the store off the runtime: it reads and checks everything.
    pub(crate) async fn open_store(&self, faults: Arc<FaultCell>) -> Result<Store, StoreError> {
        open_store(Arc::clone(&self.medium), &self.hub.options, faults).await
    }
}

pub(crate) async fn open_store(
    medium: Arc<dyn Medium>,
    options: &crate::options::Options,
    faults: Arc<FaultCell>,
) -> Result<Store, StoreError> {
    let (node, mesh) = (options.node, options.mesh.clone());
    let opening = move || Store::open(medium.as_ref(), node, &mesh, faults);
    match tokio::task::spawn_blocking(opening).await {
        Ok(opened) => opened,
        Err(error) => {
            let source = std::io::Error::other(error);
            Err(StoreError::Io { doing: "open the store", source })
        }
    }
}

fn snapshot_end(store: &Store) -> Option<crate::types::LogId> {
    store.snapshot().and_then(|snapshot| snapshot.meta.last_log_id)
}

/// The first fault explains the end; without one openraft stopped for a reason of its own, which is not retried.
fn fault(run: &Run, text: String) -> Fault {
    run.faults.get().unwrap_or(Fault::Fatal(text))
}

async fn retire(run: Run) {
    if let Err(error) = run.core.raft.shutdown().await {
        tracing::error!(%error, "the agreement's core did not end cleanly");
    }
    close(run.core.store).await;
}

/// Releases the file. Joins the writer thread, so not on the runtime.
async fn close(store: Store) {
    if let Err(error) = tokio::task::spawn_blocking(move || store.close()).await {
        tracing::error!(%error, "the store did not close cleanly");
    }
}

fn with_source(error: &StoreError) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}
