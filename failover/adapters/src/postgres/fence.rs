//! The fence: making an instance unable to acknowledge anything, for certain, within a budget.
//!
//! Killing the postmaster is no fence, because its orphaned backends go on committing; so success is always judged by the
//! whole process tree. Up to the receipt `no-ack` nothing here touches a disk or needs an answer from the server. It
//! never ends a session one by one: a client that waits for a standby would be told "committed".

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::net::{TcpStream, UnixStream};

use super::durable::{self, DurableError};
use super::instance::Instance;
use super::postmaster::Postmaster;
use crate::process::{Delivery, KillError, ProcessHandle, Survivors, reap_adopted};

/// How to go about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceMode {
    /// Fast, immediate, SIGKILL. Only while a *verified* commit gate holds all acknowledgements back.
    Ladder,
    /// SIGKILL at once.
    Hard,
}

/// A fence to be made.
#[derive(Clone, Copy, Debug)]
pub struct FencePlan {
    /// F: the time within which `no-ack` must be reached.
    pub budget: Duration,
    /// Politely or not.
    pub mode: FenceMode,
}

/// One thing that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceAction {
    /// SIGINT to the postmaster.
    Fast,
    /// SIGQUIT to the postmaster.
    Immediate,
    /// SIGKILL to the tree.
    Kill,
    /// SIGKILL is pending on everything, or nothing is left; nothing can fork.
    NoAck,
    /// No process is left.
    Gone,
    /// Neither socket has a listener.
    NoListener,
    /// `standby.signal` and its directory are on disk.
    StandbySignal,
}

/// An action and when it was done, counted from the start of the fence.
#[derive(Clone, Copy, Debug)]
pub struct FenceStep {
    /// What.
    pub action: FenceAction,
    /// When.
    pub at: Duration,
}

/// Proof that the instance cannot acknowledge anything any more.
#[derive(Clone, Debug)]
pub struct NoAck {
    /// Time from the start to this proof.
    pub took: Duration,
    /// What was done.
    pub steps: Vec<FenceStep>,
    /// Whether the server ended by itself after a fast stop, so that its log may end in a shutdown checkpoint.
    pub clean: bool,
    started: Instant,
    killed: Vec<ProcessHandle>,
}

/// Proof that no process is left and that the instance comes up as a standby whoever starts it.
#[derive(Clone, Debug)]
pub struct Quiet {
    /// Time from the start to this proof.
    pub took: Duration,
    /// What was done.
    pub steps: Vec<FenceStep>,
}

/// Why `no-ack` is not proven. Go on to the watchdog or the external fencer.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// Something could not be killed.
    #[error("cannot prove that the instance is fenced")]
    Kill(#[from] KillError),
}

/// Why `quiet` is not proven; `no-ack` still is.
#[derive(Debug, thiserror::Error)]
pub enum QuietError {
    /// Killed processes wait in the kernel.
    #[error("killed processes have not gone yet")]
    Survivors(#[from] Survivors),
    /// Somebody listens on the instance's address.
    #[error(
        "something still listens on {address} after every process of the instance has gone; another server uses its address"
    )]
    Listener {
        /// The address.
        address: String,
    },
    /// The marker is not on disk.
    #[error("standby.signal is not on disk; do not start the instance before it is")]
    Signal(#[from] DurableError),
}

/// Fences up to `no-ack`. Call it with the postmaster if there is one; without it the tree is killed at once. Safe to
/// repeat: on a dead instance it proves the same again.
///
/// # Errors
/// When it stays uncertain whether everything is dead or about to be.
pub async fn fence(
    instance: &Instance,
    postmaster: Option<&Postmaster>,
    plan: FencePlan,
) -> Result<NoAck, FenceError> {
    let started = Instant::now();
    let mut steps = Vec::new();
    let polite = postmaster.filter(|_| plan.mode == FenceMode::Ladder).filter(|p| !p.is_stopped());
    let mut clean = false;
    if let Some(postmaster) = polite {
        let process = postmaster.process();
        steps.push(step(FenceAction::Fast, started));
        clean = stop(process, Signal::INT, started + plan.budget.mul_f64(0.4)).await;
        if !clean {
            steps.push(step(FenceAction::Immediate, started));
            stop(process, Signal::QUIT, started + plan.budget.mul_f64(0.7)).await;
        }
    }
    // Also after a polite end: a dead postmaster says nothing of its backends.
    steps.push(step(FenceAction::Kill, started));
    let report = instance.tree().kill(started + plan.budget)?;
    steps.push(step(FenceAction::NoAck, started));
    Ok(NoAck { took: started.elapsed(), steps, clean, started, killed: report.killed })
}

/// From `no-ack` on to `quiet`: everything gone, nobody listening, `standby.signal` on disk.
///
/// # Errors
/// Which of the three is missing. Call again with the same proof to go on.
pub async fn quiet(instance: &Instance, proof: &NoAck, deadline: Instant) -> Result<Quiet, QuietError> {
    let mut steps = proof.steps.clone();
    instance.tree().wait_gone(&proof.killed, deadline).await?;
    reap_adopted();
    steps.push(step(FenceAction::Gone, proof.started));
    listener_gone(instance, deadline).await?;
    steps.push(step(FenceAction::NoListener, proof.started));
    write_standby_signal(instance, deadline).await?;
    steps.push(step(FenceAction::StandbySignal, proof.started));
    Ok(Quiet { took: proof.started.elapsed(), steps })
}

/// Writes `standby.signal` durably: however the instance is started now, it comes up as a standby.
///
/// # Errors
/// When the disk refuses or hangs.
pub async fn write_standby_signal(instance: &Instance, deadline: Instant) -> Result<(), DurableError> {
    let path = instance.data_dir().join("standby.signal");
    durable::touch(&path, instance.settings().run_as, deadline).await
}

/// Asks the postmaster to end and waits for its death; false at the deadline.
async fn stop(process: &ProcessHandle, signal: Signal, deadline: Instant) -> bool {
    match process.signal(signal) {
        Ok(Delivery::Gone) => return true,
        Ok(Delivery::Sent) => {}
        Err(error) => {
            tracing::warn!(pid = process.pid(), %error, "cannot signal the postmaster");
            return false;
        }
    }
    matches!(tokio::time::timeout_at(deadline.into(), process.death()).await, Ok(Ok(_)))
}

fn step(action: FenceAction, started: Instant) -> FenceStep {
    FenceStep { action, at: started.elapsed() }
}

/// The unix socket's file outlives a killed server, so both are asked by connecting. Anything but a connection means that
/// nobody listens; a full backlog of a stopped server shows as the deadline, and counts as a listener.
async fn listener_gone(instance: &Instance, deadline: Instant) -> Result<(), QuietError> {
    let path = instance.socket_path();
    let unix = tokio::time::timeout_at(deadline.into(), UnixStream::connect(&path)).await;
    if matches!(unix, Err(_) | Ok(Ok(_))) {
        return Err(QuietError::Listener { address: path.display().to_string() });
    }
    let tcp = tokio::time::timeout_at(deadline.into(), TcpStream::connect(instance.address())).await;
    if matches!(tcp, Err(_) | Ok(Ok(_))) {
        return Err(QuietError::Listener { address: instance.address().to_string() });
    }
    Ok(())
}
