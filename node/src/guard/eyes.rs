//! Looks at the server several times a second, and at once when its process dies or something was done to it.
//!
//! What was seen goes to the driver with the number of results that it knew when the look began: the driver drops a look
//! that is older than the newest result. It judges nothing and changes nothing but what a write probe writes. What is
//! seen of each engine is in a module of its own.

mod postgres;
mod redis;

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use mesh_adapters::process::MainProcess;
use mesh_failover::guard::LocalFacts;
use mesh_proto::evidence::ProcessState;

use super::driver::Input;
use super::engine::Engine;
use super::server::{Life, Server};

/// A healthy server answers a look within a few milliseconds, a busy one within tens.
const LOOK_WITHIN: Duration = Duration::from_millis(500);
/// A server that answered less than this ago is busy, not unresponsive.
const PATIENCE: Duration = Duration::from_millis(1000);
/// What is wrong with a server that is alive and deaf.
const STOPPED: &str = "the server's main process is stopped (SIGSTOP, or a debugger)";

/// What looks.
enum Sight {
    Postgres(Box<postgres::Sight>),
    Redis(Box<redis::Sight>),
}

impl Sight {
    async fn look(&mut self, main: Option<&MainProcess>) -> LocalFacts {
        match self {
            Self::Postgres(sight) => sight.look(main).await,
            Self::Redis(sight) => sight.look(main).await,
        }
    }
}

/// The eyes of one guard.
pub(super) struct Eyes {
    server: Arc<Server>,
    facts: Sender<Input>,
    sight: Sight,
}

impl Eyes {
    pub(super) fn new(server: Arc<Server>, facts: Sender<Input>) -> Self {
        let sight = match &server.engine {
            Engine::Postgres(instance) => {
                Sight::Postgres(Box::new(postgres::Sight::new(Arc::clone(&server), instance.clone())))
            }
            Engine::Redis(instance) => {
                Sight::Redis(Box::new(redis::Sight::new(Arc::clone(&server), instance.clone())))
            }
        };
        Self { server, facts, sight }
    }

    /// Looks until the driver is gone.
    pub(super) async fn watch(mut self) {
        let server = Arc::clone(&self.server);
        loop {
            let results = server.results();
            let postmaster = server.running();
            let facts = tokio::select! {
                biased;
                pid = death(postmaster.as_ref()) => {
                    server.died(pid);
                    continue;
                }
                () = server.look.notified() => continue,
                facts = self.sight.look(postmaster.as_ref()) => facts,
            };
            if self.facts.send(Input::Facts { results, facts: Box::new(facts) }).is_err() {
                return;
            }
            let postmaster = server.running();
            tokio::select! {
                biased;
                pid = death(postmaster.as_ref()) => server.died(pid),
                () = server.look.notified() => {}
                () = tokio::time::sleep(server.probe()) => {}
            }
        }
    }
}

/// What a server is that does not run.
fn stopped(server: &Server) -> ProcessState {
    match server.life() {
        Life::Unseen => ProcessState::Unknown,
        Life::Running(_) => ProcessState::Starting,
        Life::Dead { by_us: true } => ProcessState::Stopped,
        Life::Dead { by_us: false } => ProcessState::Died,
    }
}

/// The number of the process, when it dies; never, while there is none.
async fn death(postmaster: Option<&MainProcess>) -> i32 {
    let Some(postmaster) = postmaster else { return std::future::pending().await };
    if let Err(error) = postmaster.death().await {
        // Without the event the next look still finds it dead, by asking.
        tracing::error!(%error, "cannot watch the server's process");
        while !matches!(postmaster.process().is_dead(), Ok(true)) {
            tokio::time::sleep(LOOK_WITHIN).await;
        }
    }
    postmaster.process().pid()
}
