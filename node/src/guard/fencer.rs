//! The thread that fences, and does nothing else: a runtime that is busy, or blocked by a disk, delays it in nothing.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use mesh_adapters::postgres::{FenceMode, FencePlan, fence, quiet, shutdown_point};
use mesh_failover::guard::TaskResult;
use mesh_proto::Lsn;
use mesh_proto::lease::ReceiptLevel;

use super::driver::{Alarm, Input};
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
    let postmaster = server.bar();
    let instance = &server.instance;
    let mode = if order.hard { FenceMode::Hard } else { FenceMode::Ladder };
    let budget = order.budget.saturating_sub(began.elapsed());
    let tell = |result| {
        // Only a guard that is gone does not hear it, and its leash takes over.
        let _ = results.send(Input::Done { job: order.job, result });
    };
    let proof = match fence(instance, postmaster.as_ref(), FencePlan { budget, mode }).await {
        Ok(proof) => proof,
        Err(error) => return tell(TaskResult::Failed { detail: chain(&error) }),
    };
    tracing::warn!(took = ?proof.took, clean = proof.clean, "fenced: nothing can be acknowledged any more");
    tell(TaskResult::Fenced { level: ReceiptLevel::NoAck, shutdown_at: None });
    let deadline = Instant::now() + QUIET_WITHIN;
    match quiet(instance, &proof, deadline).await {
        Ok(quiet) => {
            tracing::warn!(took = ?quiet.took, "quiet: no process is left, and it comes up as a standby");
            server.ended();
            tell(TaskResult::Fenced {
                level: ReceiptLevel::Quiet,
                shutdown_at: shutdown_at(server, proof.clean, deadline).await,
            });
        }
        Err(error) => tell(TaskResult::Failed { detail: chain(&error) }),
    }
}

/// Only a clean stop has such a point; a crash after all leaves it unknown, which is no error here.
async fn shutdown_at(server: &Server, clean: bool, deadline: Instant) -> Option<Lsn> {
    if !clean {
        return None;
    }
    match shutdown_point(&server.instance, deadline).await {
        Ok(point) => Some(point.checkpoint),
        Err(error) => {
            tracing::info!(error = chain(&error), "the stop left no shutdown checkpoint");
            None
        }
    }
}
