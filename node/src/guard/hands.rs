//! Does to the server what the core says, one task at a time. A task that is ended (by a fence, by a newer one) is dropped where
//! it stands: what it had begun is found by the next look, and a server that it was about to start is barred.

mod redis;

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use mesh_adapters::postgres::{
    self as pg, Clients, CrashScan, EpochError, EpochRow, FenceMode, FencePlan, HbaError, How, Instance,
    PromoteError, Recorded, RejoinError, RejoinRequest, Repointed, StandbyError, StandbyUpstream, StartAs,
    StartRequest, Upstream,
};
use mesh_failover::guard::{CommitGate, Rejoin, Task, TaskResult};
use mesh_proto::effect::Rejoined;
use mesh_proto::evidence::Position;
use mesh_proto::lease::{LeaseTerm, ReceiptLevel};
use mesh_proto::quorum::QuorumConfig;
use mesh_proto::{DataIncarnation, Epoch, Lsn};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::driver::Input;
use super::engine::Engine;
use super::files::{DATA_BYTES, unique};
use super::quorum::{self, GATE_WITHIN};
use super::server::{Launcher, Life, Server};
use crate::leash::Leash;

/// How long a server that was stopped cleanly may take to ship its shutdown checkpoint, once that is written.
const LINGER: Duration = Duration::from_millis(500);
/// How long repointing by reload may take before the ladder is climbed instead.
const REPOINT_WITHIN: Duration = Duration::from_secs(10);
/// How long the leash may take to say that it knows its duty, before a server is started or opened.
const LEASH_WITHIN: Duration = Duration::from_millis(500);
/// A checkpoint of a large, busy server takes minutes; nothing waits for this one.
const CHECKPOINT_WITHIN: Duration = Duration::from_secs(600);

/// How long reading one small file may take.
const JOURNAL_WITHIN: Duration = Duration::from_secs(2);

/// The epoch of a group's birth.
const FOUNDING: Epoch = Epoch(1);

/// What the driver wants done.
#[derive(Debug)]
pub(super) enum Order {
    /// Begin this task; it ends the one before.
    Do {
        job: u64,
        task: Task,
        deadline: Instant,
        /// The life of the data, for the name to stream under.
        data: DataIncarnation,
        system: Option<u64>,
        leash: (Arc<Leash>, u64),
    },
    /// End the task that runs: a fence has begun.
    End,
    /// Let commits wait, or go.
    Gate(bool),
    /// Let commits wait for this quorum.
    Quorum(Box<QuorumConfig>),
}

/// Does what it is told until the driver is gone.
pub(super) async fn serve(server: Arc<Server>, mut orders: UnboundedReceiver<Order>, results: Sender<Input>) {
    let mut running: Option<JoinHandle<()>> = None;
    let mut gating: Option<JoinHandle<()>> = None;
    let end = |task: &mut Option<JoinHandle<()>>| {
        if let Some(task) = task.take() {
            task.abort();
        }
    };
    while let Some(order) = orders.recv().await {
        match order {
            Order::End => {
                end(&mut running);
                end(&mut gating);
            }
            Order::Gate(gated) => {
                end(&mut gating);
                gating = Some(tokio::spawn(gate(Arc::clone(&server), gated)));
            }
            Order::Quorum(config) => {
                end(&mut gating);
                gating = Some(tokio::spawn(set_quorum(Arc::clone(&server), *config)));
            }
            Order::Do { job, task, deadline, data, system, leash } => {
                end(&mut running);
                let hand = Hand {
                    ticket: server.ticket(),
                    server: Arc::clone(&server),
                    results: results.clone(),
                    deadline,
                    data,
                    system,
                };
                running = Some(tokio::spawn(hand.work(job, task, leash)));
            }
        }
    }
}

/// Lets commits wait, or go.
async fn gate(server: Arc<Server>, gated: bool) {
    let instance = match &server.engine {
        Engine::Postgres(instance) => return quorum::gate(&server, instance, gated).await,
        Engine::Redis(instance) => instance,
    };
    match redis::gate(&server, instance, gated, Instant::now() + GATE_WITHIN).await {
        Ok(()) => tracing::info!(gated, "the commit gate is in force"),
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(gated, error, "the commit gate is not known to be in force");
        }
    }
}

async fn set_quorum(server: Arc<Server>, config: QuorumConfig) {
    match &server.engine {
        Engine::Postgres(instance) => quorum::set(&server, instance, config).await,
        // A spec that asks for it is refused, so nobody orders it.
        Engine::Redis(_) => tracing::error!(version = config.version, "a Redis has no commit quorum to set"),
    }
}

/// One task's hand.
struct Hand {
    server: Arc<Server>,
    results: Sender<Input>,
    deadline: Instant,
    ticket: u64,
    data: DataIncarnation,
    system: Option<u64>,
}

/// Why a task did not end well.
enum Trouble {
    /// It is certainly not so.
    Failed(String),
    /// It may be so.
    Unknown(String),
}

type Done = Result<TaskResult, Trouble>;

fn failed(error: impl std::error::Error) -> Trouble {
    Trouble::Failed(chain(&error))
}
fn unknown(error: impl std::error::Error) -> Trouble {
    Trouble::Unknown(chain(&error))
}

/// An error with all its sources, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    text
}

impl Hand {
    async fn work(self, job: u64, task: Task, leash: (Arc<Leash>, u64)) {
        let words = task.words();
        let began = Instant::now();
        let doing = async {
            self.leash_knows(&leash).await?;
            self.perform(task).await
        };
        let result = match tokio::time::timeout_at(self.deadline.into(), doing).await {
            Ok(Ok(result)) => result,
            Ok(Err(Trouble::Failed(detail))) => TaskResult::Failed { detail },
            Ok(Err(Trouble::Unknown(detail))) => TaskResult::Unknown { detail },
            Err(_) => TaskResult::Unknown { detail: format!("{words} was not over in time") },
        };
        tracing::info!(task = words, took = ?began.elapsed(), ?result, "done");
        let opened = matches!(result, TaskResult::Opened { .. });
        // Only a guard that is gone does not hear it.
        let _ = self.results.send(Input::Done { job, result });
        if opened {
            self.checkpoint_behind().await;
        }
    }

    /// Off the critical path: until it is written, the old primary cannot be rewound against this one.
    async fn checkpoint_behind(&self) {
        let Engine::Postgres(instance) = &self.server.engine else { return };
        match pg::checkpoint(instance, Instant::now() + CHECKPOINT_WITHIN).await {
            Ok(took) => tracing::info!(?took, "the checkpoint after opening is written"),
            Err(error) => tracing::warn!(
                error = chain(&error),
                "the checkpoint after opening failed; the server writes one by itself later"
            ),
        }
    }

    /// A leash that still has an older duty could end what is about to start.
    async fn leash_knows(&self, (leash, told): &(Arc<Leash>, u64)) -> Result<(), Trouble> {
        let until = Instant::now() + LEASH_WITHIN;
        while !leash.knows(*told) {
            if Instant::now() >= until {
                return Err(Trouble::Failed("the leash does not answer; it is being replaced".to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    async fn perform(&self, task: Task) -> Done {
        match &self.server.engine {
            Engine::Postgres(instance) => self.perform_on_postgres(instance, task).await,
            Engine::Redis(instance) => redis::perform(self, instance, task).await,
        }
    }

    async fn perform_on_postgres(&self, instance: &Instance, task: Task) -> Done {
        let deadline = self.deadline;
        match task {
            Task::Fence { .. } => Err(Trouble::Failed("a fence is not for these hands".to_owned())),
            Task::HandOver { term } => self.hand_over(instance, term).await,
            Task::StartStandby { frozen } => self.start_standby(instance, frozen).await,
            Task::OpenPrimary { term, quorum } => {
                self.open_primary(instance, term, quorum.map(|config| *config)).await
            }
            Task::Freeze { .. } => {
                let position = pg::freeze(instance, deadline).await.map_err(unknown)?;
                Ok(TaskResult::At(stands(&position)))
            }
            Task::Follow(rejoin) => Ok(self.follow(instance, &rejoin).await),
            Task::Checkpoint => {
                pg::checkpoint(instance, deadline).await.map_err(unknown)?;
                Ok(TaskResult::Done)
            }
            Task::Confirm { at } => {
                // Past the start of the record: the record itself has come.
                pg::confirm(instance, Lsn(at.0 + 1), deadline).await.map_err(failed)?;
                let position = pg::position(instance, deadline).await.map_err(unknown)?;
                Ok(TaskResult::At(stands(&position)))
            }
            Task::Scan { system, boundary, held } => {
                let scan =
                    pg::crash_scan(instance, system, boundary, held, deadline).await.map_err(failed)?;
                let CrashScan { end, commits_beyond, bytes_beyond, reason } = scan;
                tracing::info!(%end, ?reason, "the log of the dead server is read");
                Ok(TaskResult::Scanned { end, commits: commits_beyond, bytes: bytes_beyond })
            }
        }
    }

    /// Immediately before what cannot be undone: is the lease still held?
    async fn must_hold(&self, term: LeaseTerm) -> Result<(), Trouble> {
        let (answer, wait) = oneshot::channel();
        let gone = || Trouble::Failed("the guard is going down".to_owned());
        self.results.send(Input::Holds { term, answer }).map_err(|_| gone())?;
        match wait.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Trouble::Failed(format!("the lease of {term} is not held any more"))),
            Err(_) => Err(gone()),
        }
    }

    async fn hand_over(&self, instance: &Instance, term: LeaseTerm) -> Done {
        let server = &self.server;
        let Some(postmaster) = server.running() else {
            return Err(Trouble::Failed("the server does not run".to_owned()));
        };
        // What is dirty is written while clients still work, so that the stop itself is short.
        pg::checkpoint(instance, self.deadline).await.map_err(failed)?;
        self.must_hold(term).await?;
        server.expect_end();
        let stopped = pg::stop_fast(instance, &postmaster, LINGER, self.deadline).await.map_err(unknown)?;
        pg::write_standby_signal(instance, self.deadline).await.map_err(unknown)?;
        server.ended();
        tracing::info!(took = ?stopped.took, forced = stopped.forced, at = %stopped.point.checkpoint, "stopped cleanly");
        Ok(TaskResult::Fenced { level: ReceiptLevel::Quiet, shutdown_at: Some(stopped.point.checkpoint) })
    }

    async fn start(&self, instance: &Instance, start_as: StartAs) -> Result<pg::Started, Trouble> {
        // A standby commits nothing; what it waits for as a primary is set before it becomes one.
        let quorum = self.server.quorum().filter(|_| matches!(start_as, StartAs::Primary));
        let request = StartRequest {
            start_as,
            clients: Clients::ShutOut,
            sync: Some(quorum::setting(quorum.as_ref().map(|(config, _)| config), false)),
            system_identifier: self.system,
        };
        if matches!(self.server.life(), Life::Dead { .. }) {
            match pg::end_orphans(instance, self.deadline).await.map_err(unknown)? {
                0 => {}
                count => tracing::warn!(count, "ended what the dead server had left behind"),
            }
        }
        let launcher = Launcher::new(&self.server, self.ticket);
        let started = pg::start(instance, &launcher, &request, self.deadline).await;
        let started = started.map_err(unknown)?;
        self.server.set_clients(Clients::ShutOut);
        tracing::info!(took = ?started.took, in_recovery = started.in_recovery, "the server runs");
        Ok(started)
    }

    async fn start_standby(&self, instance: &Instance, frozen: bool) -> Done {
        let upstream = if frozen { StandbyUpstream::Nobody } else { StandbyUpstream::AsConfigured };
        let started = self.start(instance, StartAs::Standby(upstream)).await?;
        if !started.in_recovery {
            return Err(Trouble::Unknown("the server was started as a standby and is none".to_owned()));
        }
        quorum::let_in(&self.server, instance, self.deadline).await.map_err(unknown)?;
        Ok(TaskResult::Done)
    }

    /// A standby whose commits will wait for others: no session may commit before that is surely in force, so all of them
    /// end, and new ones are shut out.
    async fn shut_out(&self, instance: &Instance) -> Result<(), Trouble> {
        let Some(postmaster) = self.server.running() else { return Ok(()) };
        match pg::position(instance, self.deadline).await {
            Ok(_) => {}
            Err(StandbyError::NotInRecovery) => return Ok(()),
            Err(error) => return Err(unknown(error)),
        }
        match pg::set_clients(instance, Clients::ShutOut, self.deadline).await {
            Ok(()) => {
                self.server.set_clients(Clients::ShutOut);
                let ended = pg::end_clients(instance, self.deadline).await.map_err(unknown)?;
                tracing::info!(ended, "clients are shut out until the commit quorum is in force");
            }
            // Started by somebody else: only a start of our own has the gate. What it received stays.
            Err(HbaError::OtherFile { .. }) => {
                self.stop_for_rejoin(instance, &postmaster).await?;
                self.start(instance, StartAs::Standby(StandbyUpstream::Nobody)).await?;
            }
            Err(error) => return Err(unknown(error)),
        }
        Ok(())
    }

    async fn open_primary(&self, instance: &Instance, term: LeaseTerm, quorum: Option<QuorumConfig>) -> Done {
        let (server, deadline) = (&self.server, self.deadline);
        self.must_hold(term).await?;
        let counts = quorum.as_ref().is_some_and(|config| config.k > 0);
        server.begins_with(quorum);
        if counts {
            self.shut_out(instance).await?;
        }
        if server.running().is_none() {
            let started = self.start(instance, StartAs::Primary).await?;
            if started.in_recovery {
                return Err(Trouble::Unknown(
                    "the server was started as the primary and is in recovery".to_owned(),
                ));
            }
            server.set_recovered(true);
        }
        let gated = server.gate() != CommitGate::Open;
        let config = server.quorum().map(|(config, _)| config);
        let wanted = quorum::setting(config.as_ref(), counts);
        let promoted = pg::promote(instance, (gated || config.is_some()).then_some(&wanted), deadline).await;
        let promoted = promoted.map_err(|error| match error {
            PromoteError::NotTaken => failed(error),
            PromoteError::Sql(_) | PromoteError::StillInRecovery => unknown(error),
        })?;
        // It is a primary behind the lease from here on; clients of a former standby may already write.
        let row = EpochRow {
            epoch: term.epoch.0,
            lease_no: term.lease_no.0,
            instance: instance.settings().name.clone(),
        };
        if term.epoch == FOUNDING {
            // Birth: what mesh needs in the database may not be there yet. Where it cannot be made, the epoch says why.
            if let Err(error) = pg::prepare(instance, pg::Passwords::Keep, deadline).await {
                tracing::warn!(
                    error = chain(&error),
                    "the roles and the schema of mesh could not be prepared"
                );
            }
        }
        self.must_hold(term).await?;
        // The boot gate stands while it serves: whoever starts it next, and however, it comes up as a standby. Only a start
        // of ours under a lease takes the file away; a server looks for it at its start and never again.
        let (recorded, gate, mark) = tokio::join!(
            pg::record_epoch(instance, &row, pg::Durability::Local, deadline),
            pg::write_standby_signal(instance, deadline),
            pg::mark_guarded(instance, deadline),
        );
        let recorded = recorded.map_err(|error| match error {
            EpochError::Superseded { .. } | EpochError::TooLarge => failed(error),
            EpochError::Sql(_) => unknown(error),
        })?;
        if recorded == Recorded::Written {
            // The first of its epoch: what it was promoted with was frozen and counted.
            server.set_recovered(false);
        }
        gate.and(mark).map_err(unknown)?;
        if config.is_some() {
            // The gate first, then the quorum: each is seen in force before a client is let in.
            quorum::change(server, instance, deadline).await.map_err(unknown)?;
            server.set_gate(CommitGate::Open);
        } else if gated && !promoted.was_standby {
            quorum::set_gate(server, instance, false, deadline).await.map_err(unknown)?;
        } else if gated {
            server.set_gate(CommitGate::Open);
        }
        self.must_hold(term).await?;
        if server.recovered() && counts {
            // What it recovered may stand here alone. Nobody reads that before its quorum has it, which the marker shows.
            tracing::info!("clients stay shut out until the commit quorum has what was recovered");
        } else {
            quorum::let_in(server, instance, deadline).await.map_err(unknown)?;
        }
        let at = pg::end_of_wal(instance, deadline).await.map_err(unknown)?;
        let timeline = promoted.timeline;
        tracing::info!(timeline, promotion = ?promoted.took, "open as primary in epoch {}", term.epoch);
        Ok(TaskResult::Opened { timeline, at })
    }

    /// What a failed attempt has done to the data is asked of the journal on disk: it is written before the first change.
    async fn follow(&self, instance: &Instance, rejoin: &Rejoin) -> TaskResult {
        let (Trouble::Failed(detail) | Trouble::Unknown(detail)) =
            match self.try_to_follow(instance, rejoin).await {
                Ok(result) => return result,
                Err(trouble) => trouble,
            };
        let journal = pg::unfinished(instance, Instant::now() + JOURNAL_WITHIN).await;
        if let Err(error) = &journal {
            tracing::warn!(error = chain(error), "whether the data was changed is not known");
        }
        TaskResult::NotFollowed { detail, whole: matches!(journal, Ok(None)) }
    }

    async fn try_to_follow(&self, instance: &Instance, rejoin: &Rejoin) -> Done {
        // The one name by which a commit quorum of that epoch would list it.
        let name = format!("{}_{}_e{}", instance.settings().name, self.data, rejoin.epoch);
        let source = Upstream::new(rejoin.address, name).map_err(failed)?;
        if let Some(postmaster) = self.server.running() {
            let soon = self.deadline.min(Instant::now() + REPOINT_WITHIN);
            match pg::repoint(instance, &source, self.system, soon).await {
                Ok(Repointed::Streams(_)) => return Ok(TaskResult::Follows(Rejoined::Followed)),
                Ok(Repointed::Diverged) | Err(RejoinError::Standby(StandbyError::NotInRecovery)) => {}
                Err(error) => return Err(unknown(error)),
            }
            self.stop_for_rejoin(instance, &postmaster).await?;
        }
        let request = RejoinRequest {
            source,
            system_identifier: self.system,
            clients: Clients::LetIn,
            from: How::Follow,
            may_rewind: true,
            may_rebuild: true,
            restore_target_wal: false,
        };
        let fresh = unique("d", DATA_BYTES).map_err(failed)?;
        let launcher = Launcher::new(&self.server, self.ticket);
        let note = |progress| tracing::info!(?progress, "rejoining");
        let done = pg::rejoin(instance, &launcher, &request, &note, self.deadline).await.map_err(unknown)?;
        self.server.set_clients(Clients::LetIn);
        let bytes = done.diverged.as_ref().map(|diverged| diverged.bytes);
        let transactions = done.diverged.and_then(|diverged| diverged.transactions);
        let data = DataIncarnation(fresh);
        Ok(TaskResult::Follows(match done.how {
            How::Follow => Rejoined::Followed,
            How::Rewind => Rejoined::Rewound { diverged_bytes: bytes.unwrap_or(0), transactions, data },
            How::Rebuild => Rejoined::Rebuilt { diverged_bytes: bytes, transactions, data },
        }))
    }

    /// A standby that cannot follow as it is acknowledges nothing, so how it is ended matters to nobody.
    async fn stop_for_rejoin(&self, instance: &Instance, postmaster: &pg::Postmaster) -> Result<(), Trouble> {
        self.server.expect_end();
        let left = self.deadline.saturating_duration_since(Instant::now());
        let plan = FencePlan { budget: left, mode: FenceMode::Hard };
        let proof = pg::fence(instance, Some(postmaster), plan).await.map_err(unknown)?;
        pg::quiet(instance, &proof, self.deadline).await.map_err(unknown)?;
        self.server.ended();
        Ok(())
    }
}

fn stands(position: &pg::Position) -> Position {
    Position { timeline: position.timeline, have: position.end, replayed: position.replayed }
}
