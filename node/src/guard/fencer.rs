//! The thread that fences, and does nothing else: a runtime that is busy, or blocked by a disk, delays it in nothing.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use mesh_adapters::{postgres as pg, redis};
use mesh_failover::guard::TaskResult;
use mesh_proto::Lsn;
use mesh_proto::lease::ReceiptLevel;

use super::driver::{Alarm, Input};
use super::engine::Engine;
use super::server::Server;
use super::{hands::chain, priority};

/// From `no-ack` on to `quiet`: a little less than the core gives it, so that the answer comes before the repeat.
const QUIET_WITHIN: Duration = Duration::from_millis(4_500);

/// One fence.
#[derive(Debug)]
pub(super) struct Fence {
    pub(super) job: u64,
    pub(super) hard: bool,
    pub(super) budget: Duration,
}

/// Starts the thread; it ends with the sender.
pub(super) fn start(
    server: Arc<Server>,
    fences: Receiver<Fence>,
    results: Sender<Input>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("fence".to_owned()).spawn(move || {
        let _alarm = Alarm { thread: "fence", inputs: results.clone() };
        if let Err(why) = priority::real_time() {
            server.downgrade(why);
        }
        while let Ok(fence) = fences.recv() {
            runtime.block_on(run(&server, &fence, &results));
        }
    })?;
    Ok(())
}

async fn run(server: &Server, order: &Fence, results: &Sender<Input>) {
    let began = Instant::now();
    let main = server.bar();
    let budget = order.budget.saturating_sub(began.elapsed());
    let tell = |result| {
        // Only a guard that is gone does not hear it, and its leash takes over.
        let _ = results.send(Input::Done { job: order.job, result });
    };
    let no_ack = |took: Duration, clean: bool| {
        tracing::warn!(?took, clean, "fenced: nothing can be acknowledged any more");
        tell(TaskResult::Fenced { level: ReceiptLevel::NoAck, shutdown_at: None });
        Instant::now() + QUIET_WITHIN
    };
    let quiet = |took: Duration| {
        tracing::warn!(?took, "quiet: no process is left, and it comes up as a standby");
        server.ended();
    };
    let shutdown_at = match &server.engine {
        Engine::Postgres(instance) => {
            let mode = if order.hard { pg::FenceMode::Hard } else { pg::FenceMode::Ladder };
            let proof = match pg::fence(instance, main.as_ref(), pg::FencePlan { budget, mode }).await {
                Ok(proof) => proof,
                Err(error) => return tell(TaskResult::Failed { detail: chain(&error) }),
            };
            let deadline = no_ack(proof.took, proof.clean);
            match pg::quiet(instance, &proof, deadline).await {
                Ok(done) => quiet(done.took),
                Err(error) => return tell(TaskResult::Failed { detail: chain(&error) }),
            }
            shutdown_at(instance, proof.clean, deadline).await
        }
        Engine::Redis(instance) => {
            let mode = if order.hard { redis::FenceMode::Hard } else { redis::FenceMode::Ladder };
            let plan = redis::FencePlan { budget, mode };
            let proof = match redis::fence(instance, main.as_ref(), plan).await {
                Ok(proof) => proof,
                Err(error) => return tell(TaskResult::Failed { detail: chain(&error) }),
            };
            let deadline = no_ack(proof.took, proof.clean);
            match redis::quiet(instance, &proof, deadline).await {
                Ok(done) => quiet(done.took),
                Err(error) => return tell(TaskResult::Failed { detail: chain(&error) }),
            }
            // A killed server says nothing of where it ended.
            None
        }
    };
    tell(TaskResult::Fenced { level: ReceiptLevel::Quiet, shutdown_at });
}

/// Only a clean stop has such a point; a crash after all leaves it unknown, which is no error here.
async fn shutdown_at(instance: &pg::Instance, clean: bool, deadline: Instant) -> Option<Lsn> {
    if !clean {
        return None;
    }
    match pg::shutdown_point(instance, deadline).await {
        Ok(point) => Some(point.checkpoint),
        Err(error) => {
            tracing::info!(error = chain(&error), "the stop left no shutdown checkpoint");
            None
        }
    }
}
