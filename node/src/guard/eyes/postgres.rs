//! What is seen of a PostgreSQL server. It judges nothing and changes nothing but `mesh.heartbeat`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_adapters::postgres::{
    Durability, Glance, Glimpse, Instance, SqlError, WriteOutcome, WriteProbe as Prober, attach, control_data,
};
use mesh_adapters::process::{MainProcess, reap_adopted};
use mesh_failover::guard::{CommitGate, LocalFacts};
use mesh_proto::evidence::{Position, ProcessState, Receiving, WriteProbe};
use mesh_proto::quorum::QuorumStanding;
use mesh_proto::{Lsn, Millis};

use super::{LOOK_WITHIN, PATIENCE, STOPPED, stopped};
use crate::guard::hands::chain;
use crate::guard::server::Server;

/// How long reading files of a server that does not run may take.
const FILES_WITHIN: Duration = Duration::from_secs(2);
/// Nobody but this guard replaces the data directory of a server that does not run; it is read again all the same.
const READ_AGAIN: Duration = Duration::from_secs(10);
/// SQLSTATE `cannot_connect_now`.
const CANNOT_CONNECT_NOW: &str = "57P03";

/// The sight of one server.
pub(super) struct Sight {
    server: Arc<Server>,
    instance: Instance,
    glance: Glance,
    prober: Prober,
    /// The newest answer, and when it came.
    seen: Option<(Instant, Glimpse)>,
    /// Furthest log seen on a standby, and when it got there.
    advanced: Option<(Lsn, Instant)>,
    written: Option<Instant>,
    failing: Option<Instant>,
    /// System identifier in the data directory, and when it was read.
    on_disk: Option<(Instant, u64)>,
}

impl Sight {
    pub(super) fn new(server: Arc<Server>, instance: Instance) -> Self {
        Self {
            server,
            instance,
            glance: Glance::default(),
            prober: Prober::new(Durability::Local),
            seen: None,
            advanced: None,
            written: None,
            failing: None,
            on_disk: None,
        }
    }

    pub(super) async fn look(&mut self, postmaster: Option<&MainProcess>) -> LocalFacts {
        match postmaster {
            Some(postmaster) => self.look_at_running(postmaster).await,
            None => self.look_at_stopped().await,
        }
    }

    async fn look_at_running(&mut self, postmaster: &MainProcess) -> LocalFacts {
        let stopped = postmaster.is_stopped();
        let instance = &self.instance;
        let deadline = Instant::now() + LOOK_WITHIN;
        let glance = async {
            // A stopped postmaster opens no session; its backends would answer and prove nothing.
            if stopped { None } else { Some(self.glance.look(instance, deadline).await) }
        };
        let probe = async {
            match self.server.serving() {
                true => Some(self.prober.run(instance, Instant::now() + self.server.probe()).await),
                false => None,
            }
        };
        let (answer, written) = tokio::join!(glance, probe);
        let write_probe = self.written(written);
        let mut trouble = None;
        let process = match answer {
            Some(Ok(glimpse)) => {
                let role = role(&glimpse);
                self.note(glimpse);
                role
            }
            Some(Err(error)) => {
                trouble = Some(format!("the server does not answer its guard: {}", chain(&error)));
                self.without_answer(&error)
            }
            None => {
                trouble = Some(STOPPED.to_owned());
                ProcessState::Unresponsive
            }
        };
        self.facts(process, write_probe, trouble)
    }

    fn note(&mut self, glimpse: Glimpse) {
        let now = Instant::now();
        self.on_disk = Some((now, glimpse.system_identifier));
        if self.advanced.is_none_or(|(at, _)| at != glimpse.have) {
            self.advanced = Some((glimpse.have, now));
        }
        let gated = glimpse.sync_names.contains("mesh_gate");
        match (self.server.gate(), gated) {
            (CommitGate::Open, true) => self.server.set_gate(CommitGate::Set),
            (CommitGate::Set | CommitGate::InForce, false) => self.server.set_gate(CommitGate::Open),
            (CommitGate::Open, false) | (CommitGate::Set | CommitGate::InForce, true) => {}
        }
        self.seen = Some((now, glimpse));
    }

    fn without_answer(&mut self, error: &SqlError) -> ProcessState {
        let starting = error.state().is_some_and(|state| state.code() == CANNOT_CONNECT_NOW);
        match &self.seen {
            Some((at, glimpse)) if at.elapsed() < PATIENCE && !starting => role(glimpse),
            Some(_) if !starting => ProcessState::Unresponsive,
            Some(_) | None => ProcessState::Starting,
        }
    }

    async fn look_at_stopped(&mut self) -> LocalFacts {
        (self.seen, self.advanced, self.glance) = (None, None, Glance::default());
        self.prober = Prober::new(Durability::Local);
        reap_adopted();
        let instance = &self.instance;
        let deadline = Instant::now() + FILES_WITHIN;
        let mut trouble = None;
        match attach(instance, deadline).await {
            Ok(found) => {
                let runs = found.is_some();
                self.server.found(found);
                if runs {
                    return self.facts(ProcessState::Starting, WriteProbe::NotApplicable, None);
                }
            }
            Err(error) => trouble = Some(chain(&error)),
        }
        if self.on_disk.is_none_or(|(at, _)| at.elapsed() > READ_AGAIN) {
            match control_data(instance, deadline).await {
                Ok(control) => self.on_disk = Some((Instant::now(), control.system_identifier)),
                Err(error) => {
                    self.on_disk = None;
                    trouble = Some(chain(&error));
                }
            }
        }
        let process = stopped(&self.server);
        self.facts(process, WriteProbe::NotApplicable, trouble)
    }

    fn facts(&self, process: ProcessState, write_probe: WriteProbe, trouble: Option<String>) -> LocalFacts {
        let glimpse = self.seen.as_ref().map(|(_, glimpse)| glimpse);
        let advanced = self.advanced.map_or(Millis::ZERO, |(_, at)| at.elapsed().into());
        let standby = glimpse.filter(|_| process == ProcessState::Standby);
        LocalFacts {
            process,
            system_id: self.on_disk.map(|(_, system)| system),
            position: glimpse.map(|g| Position { timeline: g.timeline, have: g.have, replayed: g.replayed }),
            receiving: standby.map(|g| Receiving {
                streaming: g.streaming,
                from: g.upstream.map(|address| address.to_string()),
                advanced,
                name: g.name.clone(),
            }),
            write_probe,
            disks: self.server.disks.standing(Instant::now()),
            commit_gate: self.server.gate(),
            clients_wait: self.server.clients_wait(),
            quorum: self
                .server
                .quorum()
                .map(|(config, stage)| QuorumStanding { version: config.version, stage }),
            downgraded: self.server.downgraded(),
            trouble,
            rival: None,
        }
    }

    fn written(&mut self, outcome: Option<WriteOutcome>) -> WriteProbe {
        let Some(outcome) = outcome else {
            (self.written, self.failing) = (None, None);
            return WriteProbe::NotApplicable;
        };
        match outcome {
            WriteOutcome::Ok { .. } => {
                (self.written, self.failing) = (Some(Instant::now()), None);
                WriteProbe::Ok { age: Millis::ZERO }
            }
            WriteOutcome::Late { since } => WriteProbe::Late { waiting: since.into() },
            WriteOutcome::WaitingForStandbys { .. } => WriteProbe::WaitingForStandbys,
            WriteOutcome::Failed { source } => {
                let first = *self.failing.get_or_insert_with(Instant::now);
                let since = self.written.unwrap_or(first).elapsed().into();
                WriteProbe::Failed { code: code(&source), since }
            }
        }
    }
}

fn role(glimpse: &Glimpse) -> ProcessState {
    if glimpse.in_recovery { ProcessState::Standby } else { ProcessState::Primary }
}

/// The SQLSTATE, or `io`.
fn code(error: &SqlError) -> [u8; 5] {
    let text = error.state().map(|state| state.code().as_bytes());
    text.and_then(|bytes| bytes.try_into().ok()).unwrap_or(*b"io   ")
}
