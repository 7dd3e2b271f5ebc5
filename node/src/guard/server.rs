//! What the guard's threads share about its server: which process it is, whether its end is our doing, and who may start
//! it. A fence bars every start that was begun before it: a server that is forked while the fence scans for processes
//! would otherwise escape it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use mesh_adapters::postgres::{Clients, DirectControl};
use mesh_adapters::process::{MainProcess, Signal, SpawnError};
use mesh_adapters::{postgres, redis};
use mesh_failover::guard::CommitGate;
use mesh_proto::Millis;
use mesh_proto::quorum::{QuorumConfig, QuorumStage};
use tokio::sync::Notify;

use super::disks::Disks;
use super::engine::Engine;

/// A fork takes a few milliseconds; a fence waits this long for one that is under way, well within the shortest F.
const LAUNCH_WITHIN: Duration = Duration::from_millis(150);

/// The server's process, as far as this guard knows.
#[derive(Debug, Clone)]
pub(super) enum Life {
    /// Not looked yet.
    Unseen,
    /// It runs.
    Running(MainProcess),
    /// It does not.
    Dead {
        /// Because of us.
        by_us: bool,
    },
}

#[derive(Debug)]
struct Inner {
    life: Life,
    /// Whatever ends it from here on is our doing.
    ending: bool,
    /// A start begun under an older ticket is barred.
    ticket: u64,
    launching: usize,
    gate: CommitGate,
    quorum: Option<(QuorumConfig, QuorumStage)>,
    clients: Option<Clients>,
    /// Started as the primary by this guard, and clients were not let in since: what it recovered may stand here alone.
    recovered: bool,
    downgraded: Vec<String>,
    /// What its watchdog covers, or that there is none.
    watchdog: String,
}

/// The instance and what is known of its process.
#[derive(Debug)]
pub(super) struct Server {
    /// The instance.
    pub(super) engine: Engine,
    /// The file systems under it.
    pub(super) disks: Disks,
    /// Wakes the eyes.
    pub(super) look: Notify,
    inner: Mutex<Inner>,
    launched: Condvar,
    serving: AtomicBool,
    quiet: AtomicBool,
    probe: AtomicU64,
    results: AtomicU64,
}

impl Server {
    pub(super) fn new(engine: Engine, shares_disk: bool) -> Arc<Self> {
        let mut downgraded = Vec::new();
        if shares_disk {
            downgraded.push(
                "the guard's state_dir is on the file system of the data: while that disk hangs the guard still fences, \
                 but promises nothing new; put state_dir on another disk"
                    .to_owned(),
            );
        }
        Arc::new(Self {
            disks: Disks::of(&engine),
            engine,
            look: Notify::new(),
            inner: Mutex::new(Inner {
                life: Life::Unseen,
                ending: false,
                ticket: 0,
                launching: 0,
                gate: CommitGate::Open,
                quorum: None,
                clients: None,
                recovered: false,
                downgraded,
                watchdog: "no watchdog and no kernel-side deadline are used: a host that was suspended or frozen as a whole \
                           may answer for some milliseconds before its guard fences"
                    .to_owned(),
            }),
            launched: Condvar::new(),
            serving: AtomicBool::new(false),
            quiet: AtomicBool::new(false),
            probe: AtomicU64::new(250),
            results: AtomicU64::new(0),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn life(&self) -> Life {
        self.inner().life.clone()
    }

    pub(super) fn running(&self) -> Option<MainProcess> {
        match self.life() {
            Life::Running(postmaster) => Some(postmaster),
            Life::Unseen | Life::Dead { .. } => None,
        }
    }

    /// A server was found that this guard did not start, or none was.
    pub(super) fn found(&self, postmaster: Option<MainProcess>) {
        let mut inner = self.inner();
        match (&inner.life, postmaster) {
            (Life::Unseen, None) => inner.life = Life::Dead { by_us: true },
            (Life::Unseen | Life::Dead { .. }, Some(postmaster)) => {
                tracing::info!(pid = postmaster.process().pid(), "a running server was found");
                inner.life = Life::Running(postmaster);
                inner.ending = false;
                inner.clients = None;
            }
            (Life::Running(_) | Life::Dead { .. }, _) => {}
        }
    }

    /// This process is dead.
    pub(super) fn died(&self, pid: i32) {
        let mut inner = self.inner();
        if matches!(&inner.life, Life::Running(postmaster) if postmaster.process().pid() == pid) {
            let by_us = inner.ending;
            tracing::info!(pid, by_us, "the server's main process is dead");
            inner.life = Life::Dead { by_us };
        }
    }

    /// Whatever ends it from here on is our doing.
    pub(super) fn expect_end(&self) {
        self.inner().ending = true;
    }

    /// It was ended, and nothing of it is left.
    pub(super) fn ended(&self) {
        self.inner().life = Life::Dead { by_us: true };
    }

    /// For a task that may start the server.
    pub(super) fn ticket(&self) -> u64 {
        self.inner().ticket
    }

    /// Bars every start that was begun so far, and waits (briefly) for a fork under way, so that the kill that follows
    /// finds it. Returns the process to end.
    pub(super) fn bar(&self) -> Option<MainProcess> {
        let mut inner = self.inner();
        inner.ticket += 1;
        inner.ending = true;
        let busy = |inner: &mut Inner| inner.launching > 0;
        let waited = self.launched.wait_timeout_while(inner, LAUNCH_WITHIN, busy);
        let (inner, _late) = waited.unwrap_or_else(PoisonError::into_inner);
        match &inner.life {
            Life::Running(postmaster) => Some(postmaster.clone()),
            Life::Unseen | Life::Dead { .. } => None,
        }
    }

    fn begin_launch(&self, ticket: u64) -> bool {
        let mut inner = self.inner();
        let allowed = inner.ticket == ticket;
        inner.launching += usize::from(allowed);
        allowed
    }

    fn end_launch(&self, ticket: u64, launched: Option<&MainProcess>) {
        let mut inner = self.inner();
        inner.launching -= 1;
        if let Some(postmaster) = launched {
            if inner.ticket == ticket {
                inner.life = Life::Running(postmaster.clone());
                inner.ending = false;
                inner.gate = CommitGate::Open;
                inner.recovered = false;
            } else if let Err(error) = postmaster.process().signal(Signal::KILL) {
                tracing::error!(%error, "a server started too late could not be killed; the fence repeats it");
            }
        }
        self.launched.notify_all();
        self.look.notify_one();
    }

    pub(super) fn gate(&self) -> CommitGate {
        self.inner().gate
    }

    pub(super) fn set_gate(&self, gate: CommitGate) {
        self.inner().gate = gate;
        self.look.notify_one();
    }

    /// The commit quorum that the server shall have, and how far it has come.
    pub(super) fn quorum(&self) -> Option<(QuorumConfig, QuorumStage)> {
        self.inner().quorum.clone()
    }

    /// The server shall have this quorum; `false`: it has a newer one already.
    pub(super) fn shall_have(&self, config: QuorumConfig) -> bool {
        let mut inner = self.inner();
        match &inner.quorum {
            Some((known, _)) if known.version > config.version => return false,
            Some((known, _)) if known.version == config.version => {}
            Some(_) | None => inner.quorum = Some((config, QuorumStage::Set)),
        }
        drop(inner);
        self.look.notify_one();
        true
    }

    /// The server is about to be opened with this quorum, or with none: whatever was known of an earlier life is void.
    pub(super) fn begins_with(&self, config: Option<QuorumConfig>) {
        self.inner().quorum = config.map(|config| (config, QuorumStage::Set));
    }

    /// How far the quorum of this version has come, if it still is the one.
    pub(super) fn quorum_is(&self, version: u64, stage: QuorumStage) {
        if let Some((_, known)) = self.inner().quorum.as_mut().filter(|(config, _)| config.version == version)
        {
            *known = stage;
        }
        self.look.notify_one();
    }

    /// Whom the boot gate lets in, if this guard has set it.
    pub(super) fn clients(&self) -> Option<Clients> {
        self.inner().clients
    }

    pub(super) fn set_clients(&self, clients: Clients) {
        let mut inner = self.inner();
        inner.clients = Some(clients);
        inner.recovered &= clients == Clients::ShutOut;
    }

    /// Whether it came up from its own log as the primary, and nobody has been let in since.
    pub(super) fn recovered(&self) -> bool {
        self.inner().recovered
    }

    /// Whether they are shut out of it for that reason.
    pub(super) fn clients_wait(&self) -> bool {
        let inner = self.inner();
        inner.recovered && inner.quorum.as_ref().is_some_and(|(config, _)| config.k > 0)
    }

    /// It came up from its own log as the primary of an epoch that it was open in before, or that is not so.
    pub(super) fn set_recovered(&self, so: bool) {
        self.inner().recovered = so;
        self.look.notify_one();
    }

    /// What the watchdog covers from now on.
    pub(super) fn watchdog(&self, covers: String) {
        self.inner().watchdog = covers;
    }

    /// Why promise 1 is downgraded on this host.
    pub(super) fn downgraded(&self) -> Vec<String> {
        let inner = self.inner();
        let mut all = vec![inner.watchdog.clone()];
        all.extend(inner.downgraded.iter().cloned());
        if matches!(&inner.life, Life::Running(postmaster) if postmaster.adopted()) {
            all.push(
                "the server was not started by its guard: it is not shut out from clients at its start, and may restart \
                 its processes by itself, until the guard starts it"
                    .to_owned(),
            );
        }
        all
    }

    /// Another reason. Each thread on the way to a fence asks for its own priority; what the host refuses to all of them
    /// is one reason.
    pub(super) fn downgrade(&self, why: String) {
        let mut inner = self.inner();
        if !inner.downgraded.contains(&why) {
            inner.downgraded.push(why);
        }
    }

    /// What the driver tells the eyes: whether the server is open as primary, and how often to look.
    pub(super) fn set_pace(&self, serving: bool, probe: Millis) {
        self.serving.store(serving, Ordering::Relaxed);
        self.probe.store(probe.0, Ordering::Relaxed);
    }

    /// What the driver tells whoever tidies up: whether nothing is under way, and nothing unfinished.
    pub(super) fn set_quiet(&self, quiet: bool) {
        self.quiet.store(quiet, Ordering::Relaxed);
    }

    pub(super) fn quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    pub(super) fn serving(&self) -> bool {
        self.serving.load(Ordering::Relaxed)
    }

    pub(super) fn probe(&self) -> Duration {
        Duration::from_millis(self.probe.load(Ordering::Relaxed).max(50))
    }

    /// How many task results the core was given: what was seen before the last of them is stale.
    pub(super) fn results(&self) -> u64 {
        self.results.load(Ordering::Acquire)
    }

    pub(super) fn count_result(&self) {
        self.results.fetch_add(1, Ordering::AcqRel);
        self.look.notify_one();
    }
}

/// Starts the server for one task, unless a fence has begun since.
#[derive(Debug)]
pub(super) struct Launcher {
    server: Arc<Server>,
    ticket: u64,
}

impl Launcher {
    pub(super) fn new(server: &Arc<Server>, ticket: u64) -> Self {
        Self { server: Arc::clone(server), ticket }
    }
}

impl Launcher {
    /// Forks, unless a fence has begun: then `barred` says so.
    async fn fork<E: Send + 'static>(
        &self,
        barred: impl FnOnce(std::io::Error) -> E,
        forking: BoxFuture<'static, Result<MainProcess, E>>,
        thread_gone: E,
    ) -> Result<MainProcess, E> {
        let (server, ticket) = (Arc::clone(&self.server), self.ticket);
        if !server.begin_launch(ticket) {
            return Err(barred(std::io::Error::other("a fence has begun meanwhile")));
        }
        // A task of its own: it goes on to its end, and is counted, also when whoever waits for it is ended.
        let forking = tokio::spawn(async move {
            let result = forking.await;
            server.end_launch(ticket, result.as_ref().ok());
            result
        });
        forking.await.unwrap_or(Err(thread_gone))
    }
}

impl postgres::Control for Launcher {
    fn launch<'a>(
        &'a self,
        instance: &'a postgres::Instance,
        launch: postgres::Launch,
    ) -> BoxFuture<'a, Result<MainProcess, postgres::LaunchError>> {
        let (instance, program) = (instance.clone(), launch.program.clone());
        let barred = move |source| SpawnError::Exec { program, source }.into();
        let forking =
            Box::pin(async move { postgres::Control::launch(&DirectControl, &instance, launch).await });
        Box::pin(self.fork(barred, forking, SpawnError::ThreadGone.into()))
    }
}

impl redis::Control for Launcher {
    fn launch<'a>(
        &'a self,
        instance: &'a redis::Instance,
        launch: redis::Launch,
    ) -> BoxFuture<'a, Result<MainProcess, redis::LaunchError>> {
        let (instance, program) = (instance.clone(), launch.program.clone());
        let barred = move |source| SpawnError::Exec { program, source }.into();
        let forking =
            Box::pin(async move { redis::Control::launch(&redis::DirectControl, &instance, launch).await });
        Box::pin(self.fork(barred, forking, SpawnError::ThreadGone.into()))
    }
}
