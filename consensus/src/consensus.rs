//! The handle: propose, read, wait, and ask for permission to act.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::error::{NotActing, OpenError, ProposeError, ReadError};
use crate::hub::{Core, Hub};
use crate::leadership::{self, Acting};
use crate::machine::Shared;
use crate::network::{Dialer, Peers, RaftService, Service};
use crate::options::Options;
use crate::standing::{Role, Standing};
use crate::store::{FaultCell, FileMedium, Medium};
use crate::supervise::{Supervisor, open_store};
use crate::types::{Command, EntryId, Identity, Machine, entry_id};

/// A proposal that nobody waits for any more keeps its place this long at most, so that orphans of a lost leadership
/// do not fill the queue for ever.
const ORPHAN: Duration = Duration::from_secs(30);

/// A committed and applied command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// Where it is in the log.
    pub id: EntryId,
    /// What the machine answered.
    pub answer: Vec<u8>,
}

/// A voter of the mesh. Cheap to clone; the voter stops when the last handle is dropped or [`Consensus::shutdown`]
/// is called.
pub struct Consensus<M: Machine> {
    pub(crate) inner: Arc<Handle<M>>,
}

impl<M: Machine> Clone for Consensus<M> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

pub(crate) struct Handle<M> {
    pub(crate) hub: Arc<Hub>,
    pub(crate) shared: Arc<Shared<M>>,
    pub(crate) peers: Arc<Peers>,
    stop: watch::Sender<bool>,
    supervisor: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    places: Arc<Semaphore>,
    under_way: Mutex<JoinSet<()>>,
}

impl<M> Drop for Handle<M> {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl<M: Machine> Consensus<M> {
    /// Opens the store and starts to take part, with the members that the store knows.
    ///
    /// `machine` is in its initial state; it is brought to the kept snapshot and the committed entries after it.
    ///
    /// # Errors
    /// See [`OpenError`]; a missing store is an error, see [`crate::create_store`].
    pub async fn open(options: Options, machine: M, dialer: impl Dialer) -> Result<Self, OpenError> {
        let medium = Arc::new(FileMedium::new(&options.path));
        Self::open_on(medium, options, machine, dialer).await
    }

    pub(crate) async fn open_on(
        medium: Arc<dyn Medium>,
        options: Options,
        machine: M,
        dialer: impl Dialer,
    ) -> Result<Self, OpenError> {
        options.check()?;
        let faults = Arc::new(FaultCell::default());
        let store = open_store(Arc::clone(&medium), &options, Arc::clone(&faults)).await?;
        let identity = store.identity().clone();
        let (limit, timings) = (options.message_limit(), options.timings);
        let peers = Arc::new(Peers::new(identity.clone(), Box::new(dialer), limit, timings));
        let places = Arc::new(Semaphore::new(options.proposals));
        let hub = Arc::new(Hub::new(options, identity));
        let shared = Arc::new(Shared::new(machine));
        let (stop, stopping) = watch::channel(false);
        let supervisor = Supervisor {
            hub: Arc::clone(&hub),
            shared: Arc::clone(&shared),
            peers: Arc::clone(&peers),
            medium,
            stop: stopping,
        };
        let first = supervisor.start(store, faults).await?;
        let supervisor = tokio::sync::Mutex::new(Some(tokio::spawn(supervisor.run(first))));
        let under_way = Mutex::new(JoinSet::new());
        let handle = Handle { hub, shared, peers, stop, supervisor, places, under_way };
        Ok(Self { inner: Arc::new(handle) })
    }

    /// Who this voter is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.inner.hub.identity
    }

    /// The service to mount into the node's router. Stays valid over restarts of the core.
    ///
    /// Set TCP_NODELAY on every accepted connection: without it answers wait for delayed acknowledgements (measured:
    /// a commit 2.1 instead of 1.3 ms, the first message on a connection 40 ms).
    #[must_use]
    pub fn service(&self) -> RaftService {
        Service::mount(Arc::clone(&self.inner.hub))
    }

    /// Reads this agent's own, possibly stale, state. Keep it short: entries are not applied meanwhile.
    pub fn read<R>(&self, look: impl FnOnce(&M) -> R) -> R {
        look(&self.inner.shared.read().machine)
    }

    /// This agent's standing now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.inner.hub.standing.borrow().clone()
    }

    /// Follows this agent's standing.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Standing> {
        self.inner.hub.standing.subscribe()
    }

    /// Follows the position that the own machine has applied.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<Option<EntryId>> {
        self.inner.shared.applied()
    }

    /// Waits until the own machine has applied the entry at `index`.
    ///
    /// # Errors
    /// [`ReadError::TooLate`] at the deadline.
    pub async fn wait_applied(&self, index: u64, deadline: Instant) -> Result<EntryId, ReadError> {
        let mut applied = self.inner.shared.applied();
        let reached = applied.wait_for(|at| at.is_some_and(|at| at.index >= index));
        match tokio::time::timeout_at(deadline.into(), reached).await {
            Ok(Ok(at)) => (*at).ok_or(ReadError::Stopped),
            Ok(Err(_closed)) => Err(ReadError::Stopped),
            Err(_elapsed) => Err(ReadError::TooLate),
        }
    }

    /// The barrier of a linearizable read: when it returns, [`Consensus::read`] shows everything that was committed
    /// before the call. On the leader only.
    ///
    /// # Errors
    /// When this agent does not lead, or no quorum confirms it in time.
    pub async fn read_index(&self) -> Result<Option<EntryId>, ReadError> {
        leadership::read_index(&self.inner.hub).await
    }

    /// Asks a quorum for the permission to act as the leader. It ends `margin` before another leader could exist.
    ///
    /// # Errors
    /// When this agent does not lead, cannot be confirmed, or has not yet applied an entry of its own term.
    pub async fn acting(&self, margin: Duration) -> Result<Acting, NotActing> {
        leadership::acting(&self.inner.hub, &self.inner.shared, margin).await
    }

    /// Proposes a command and waits until it is committed and applied here.
    ///
    /// # Errors
    /// See [`ProposeError`]; only [`ProposeError::Lost`] leaves the outcome open.
    pub async fn propose(&self, command: Vec<u8>, deadline: Instant) -> Result<Proposed, ProposeError> {
        let hub = &self.inner.hub;
        let (size, limit) = (command.len(), hub.options.command_limit);
        if size > limit {
            return Err(ProposeError::TooLarge { size, limit });
        }
        let core = hub.core().ok_or(ProposeError::Stopped)?;
        {
            let standing = hub.standing.borrow();
            if standing.role != Role::Leader && standing.leader != Some(hub.identity.node) {
                return Err(ProposeError::NotLeader { leader: standing.leader });
            }
        }
        let place = Arc::clone(&self.inner.places).acquire_owned();
        let place = match tokio::time::timeout_at(deadline.into(), place).await {
            Ok(Ok(place)) => place,
            Ok(Err(_closed)) => return Err(ProposeError::Stopped),
            Err(_elapsed) => return Err(ProposeError::Overloaded),
        };
        let answer = self.hand_over(core, Command(command), place);
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(ProposeError::Lost),
        }
    }

    /// Proposes in a task of its own, so that the place in the queue is held as long as the core works on it, even
    /// if the caller gives up.
    fn hand_over(
        &self,
        core: Core,
        command: Command,
        place: OwnedSemaphorePermit,
    ) -> oneshot::Receiver<Result<Proposed, ProposeError>> {
        self.keep_going(async move {
            let result = match tokio::time::timeout(ORPHAN, write(&core, command)).await {
                Ok(result) => result,
                Err(_elapsed) => Err(ProposeError::Lost),
            };
            drop(place);
            result
        })
    }

    /// Runs what must not stop half way because its caller gives up. It ends with this voter.
    pub(crate) fn keep_going<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (tell, answer) = oneshot::channel();
        let mut under_way = self.inner.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        while under_way.try_join_next().is_some() {}
        under_way.spawn(async move {
            // Nobody may be waiting any more; the outcome is in the log.
            drop(tell.send(work.await));
        });
        answer
    }

    /// Lets openraft take a snapshot now.
    ///
    /// # Errors
    /// [`ReadError::Stopped`] when this voter has stopped.
    pub async fn snapshot(&self) -> Result<(), ReadError> {
        let core = self.inner.hub.core().ok_or(ReadError::Stopped)?;
        core.raft.trigger().snapshot().await.map_err(|_| ReadError::Stopped)
    }

    /// Stops this voter and releases its store. Proposals under way are lost (outcome unknown).
    pub async fn shutdown(&self) {
        self.inner.stop.send_replace(true);
        let supervisor = self.inner.supervisor.lock().await.take();
        if let Some(supervisor) = supervisor
            && let Err(error) = supervisor.await
        {
            tracing::error!(%error, "the agreement's supervisor did not end cleanly");
        }
        self.inner.under_way.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

async fn write(core: &Core, command: Command) -> Result<Proposed, ProposeError> {
    match core.raft.client_write(command).await {
        Ok(written) => Ok(Proposed { id: entry_id(&written.log_id), answer: written.data.0 }),
        // Also what openraft says of an entry that a new leader's log has replaced: it can never be committed.
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
            Err(ProposeError::NotLeader { leader: forward.leader_id })
        }
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(_)) | RaftError::Fatal(_)) => {
            Err(ProposeError::Lost)
        }
    }
}
