//! What is seen of a Redis server. It judges nothing, and writes `mesh:probe` alone, and its replication id into `mesh:epoch`
//! where the server drew another one.
//!
//! A primary behind the gate that this guard has not opened is no primary to anybody: it acknowledges nothing. It is told as
//! the standby that it will be when it follows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_adapters::process::{MainProcess, reap_adopted};
use mesh_adapters::redis::{
    AskError, Fault, Glance, Instance, Look, Role, WriteOutcome, WriteProbe as Prober, attach, renew_stamp,
};
use mesh_failover::guard::{CommitGate, LocalFacts};
use mesh_proto::evidence::{Position, ProcessState, Receiving, WriteProbe};
use mesh_proto::{Lsn, Millis};

use super::{LOOK_WITHIN, PATIENCE, STOPPED, stopped};
use crate::guard::hands::chain;
use crate::guard::server::Server;

/// How long noting a new replication id may take.
const RENEW_WITHIN: Duration = Duration::from_millis(500);

/// The sight of one server.
pub(super) struct Sight {
    server: Arc<Server>,
    instance: Instance,
    glance: Glance,
    prober: Prober,
    /// The newest answer, and when it came.
    seen: Option<(Instant, Look)>,
    /// Furthest offset seen, and when it got there.
    advanced: Option<(u64, Instant)>,
    written: Option<Instant>,
    failing: Option<Instant>,
    /// What identifies its data, as last seen: a server that does not run cannot say it.
    system: Option<u64>,
    /// Who else decided here when the server was last seen: its death ends nobody's watch.
    rival: Option<String>,
}

impl Sight {
    pub(super) fn new(server: Arc<Server>, instance: Instance) -> Self {
        Self {
            server,
            glance: Glance::default(),
            prober: Prober::new(&instance),
            instance,
            seen: None,
            advanced: None,
            written: None,
            failing: None,
            system: None,
            rival: None,
        }
    }

    pub(super) async fn look(&mut self, main: Option<&MainProcess>) -> LocalFacts {
        match main {
            Some(main) => self.look_at_running(main).await,
            None => self.look_at_stopped(),
        }
    }

    async fn look_at_running(&mut self, main: &MainProcess) -> LocalFacts {
        let deaf = main.is_stopped();
        let deadline = Instant::now() + LOOK_WITHIN;
        let glance =
            async { if deaf { None } else { Some(self.glance.look(&self.instance, deadline).await) } };
        let probe = async {
            match self.server.serving() {
                true => Some(self.prober.run(Instant::now() + self.server.probe()).await),
                false => None,
            }
        };
        let (answer, written) = tokio::join!(glance, probe);
        let write_probe = self.written(written);
        let mut trouble = None;
        let process = match answer {
            Some(Ok(look)) => {
                let role = self.role(&look);
                self.renew(&look).await;
                self.note(look);
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

    fn role(&self, look: &Look) -> ProcessState {
        match look.info.replication.role {
            Role::Primary if self.server.serving() || !look.gated => ProcessState::Primary,
            Role::Primary | Role::Replica => ProcessState::Standby,
        }
    }

    /// A primary without replicas draws another replication id when the first one comes: noted at once, so that the replica
    /// knows in which history it stands.
    async fn renew(&self, look: &Look) {
        let server = &look.info.replication;
        let Some(stamp) = look.stamp.as_ref().filter(|stamp| stamp.replid != server.replid) else { return };
        let ours = stamp.instance == self.instance.settings().name;
        if !(self.server.serving() && server.role == Role::Primary && !look.gated && ours) {
            return;
        }
        match renew_stamp(&self.instance, stamp.epoch, Instant::now() + RENEW_WITHIN).await {
            Ok(true) => tracing::info!(replid = %server.replid, "the server's new replication id is noted"),
            Ok(false) => {}
            Err(error) => tracing::warn!(
                error = chain(&error),
                "the server's new replication id is not noted; its replicas cannot be promoted before it is"
            ),
        }
    }

    fn note(&mut self, look: Look) {
        let now = Instant::now();
        if look.system.is_some() {
            self.system = look.system;
        }
        self.rival = look.sentinels.refusal();
        let offset = look.info.replication.offset;
        if self.advanced.is_none_or(|(at, _)| at != offset) {
            self.advanced = Some((offset, now));
        }
        // The gate of a server that is not open is no news: it is always closed.
        let gated = look.gated && self.server.serving();
        match (self.server.gate(), gated) {
            (CommitGate::Open, true) => self.server.set_gate(CommitGate::Set),
            (CommitGate::Set | CommitGate::InForce, false) => self.server.set_gate(CommitGate::Open),
            (CommitGate::Open, false) | (CommitGate::Set | CommitGate::InForce, true) => {}
        }
        self.seen = Some((now, look));
    }

    fn without_answer(&mut self, error: &AskError) -> ProcessState {
        if error.fault == Fault::Loading {
            return ProcessState::Starting;
        }
        match &self.seen {
            Some((at, look)) if at.elapsed() < PATIENCE => self.role(look),
            Some(_) => ProcessState::Unresponsive,
            None => ProcessState::Starting,
        }
    }

    fn look_at_stopped(&mut self) -> LocalFacts {
        (self.seen, self.advanced, self.glance) = (None, None, Glance::default());
        self.prober = Prober::new(&self.instance);
        reap_adopted();
        let mut trouble = None;
        match attach(&self.instance) {
            Ok(found) => {
                let runs = found.is_some();
                self.server.found(found);
                if runs {
                    return self.facts(ProcessState::Starting, WriteProbe::NotApplicable, None);
                }
            }
            Err(error) => trouble = Some(chain(&error)),
        }
        self.facts(stopped(&self.server), WriteProbe::NotApplicable, trouble)
    }

    fn facts(&self, process: ProcessState, write_probe: WriteProbe, trouble: Option<String>) -> LocalFacts {
        let look = self.seen.as_ref().map(|(_, look)| look);
        let advanced = self.advanced.map_or(Millis::ZERO, |(_, at)| at.elapsed().into());
        let standby = look.filter(|_| process == ProcessState::Standby);
        let copying =
            standby.and_then(|look| look.info.replication.upstream.as_ref()).is_some_and(|up| up.copying);
        LocalFacts {
            process,
            system_id: self.system,
            // Half a copy stands nowhere.
            position: look.filter(|_| !copying).map(|look| {
                let at = look.position();
                Position { timeline: at.history, have: Lsn(at.offset), replayed: Lsn(at.offset) }
            }),
            receiving: standby.map(|look| Receiving {
                streaming: look.streaming(),
                from: look.upstream().map(|address| address.to_string()),
                advanced,
                name: None,
            }),
            write_probe,
            disks: self.server.disks.standing(Instant::now()),
            commit_gate: self.server.gate(),
            clients_wait: false,
            quorum: None,
            downgraded: self.server.downgraded(),
            trouble,
            rival: self.rival.clone(),
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
            // Our own gate, or the operator's wish for replicas: it speaks of those, not of the primary.
            WriteOutcome::Failed {
                fault: Fault::WriteStopped(mesh_adapters::redis::WriteStop::Replicas),
            } => WriteProbe::WaitingForStandbys,
            WriteOutcome::Failed { fault } => {
                let first = *self.failing.get_or_insert_with(Instant::now);
                let since = self.written.unwrap_or(first).elapsed().into();
                WriteProbe::Failed { code: fault.short(), since }
            }
        }
    }
}
