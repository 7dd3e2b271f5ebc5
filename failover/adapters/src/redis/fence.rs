//! The fence: making an instance unable to acknowledge anything, for certain, within a budget.
//!
//! Success is always judged by the whole process tree. Up to the receipt `no-ack` nothing here touches a disk or needs an
//! answer from the server.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::instance::Instance;
use super::link::{Link, command};
use super::start::held_config;
use crate::postgres::durable::{self, DurableError};
use crate::process::{KillError, MainProcess, ProcessHandle, Survivors, reap_adopted};

/// How to go about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceMode {
    /// `SHUTDOWN`, which writes out the append-only file, and saves a snapshot where the operator configured that; then SIGKILL. Only while a *verified* gate holds all
    /// acknowledgements back.
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
    /// `SHUTDOWN`.
    Shutdown,
    /// SIGKILL to the tree.
    Kill,
    /// SIGKILL is pending on everything, or nothing is left; nothing can fork.
    NoAck,
    /// No process is left.
    Gone,
    /// The port has no listener.
    NoListener,
    /// The file that holds the server, whoever starts it, is on disk.
    Held,
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
    /// Whether the server ended by itself.
    pub clean: bool,
    started: Instant,
    killed: Vec<ProcessHandle>,
}

/// Proof that no process is left and that the instance comes up held.
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
    #[error("the file that holds the server is not on disk; do not start the instance before it is")]
    Held(#[from] DurableError),
}

/// Fences up to `no-ack`. Call it with the main process if there is one; without it the tree is killed at once. Safe to
/// repeat: on a dead instance it proves the same again.
///
/// # Errors
/// When it stays uncertain whether everything is dead or about to be.
pub async fn fence(
    instance: &Instance,
    main: Option<&MainProcess>,
    plan: FencePlan,
) -> Result<NoAck, FenceError> {
    let started = Instant::now();
    let mut steps = Vec::new();
    let polite = main.filter(|_| plan.mode == FenceMode::Ladder).filter(|main| !main.is_stopped());
    let mut clean = false;
    if let Some(main) = polite {
        steps.push(step(FenceAction::Shutdown, started));
        clean = shut_down(instance, main, started + plan.budget.mul_f64(0.5)).await;
    }
    // Also after a polite end: a child that saves may outlive its server.
    steps.push(step(FenceAction::Kill, started));
    let report = instance.tree().kill(started + plan.budget)?;
    steps.push(step(FenceAction::NoAck, started));
    Ok(NoAck { took: started.elapsed(), steps, clean, started, killed: report.killed })
}

/// From `no-ack` on to `quiet`: everything gone, nobody listening, held on disk.
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
    write_held(instance, deadline).await?;
    steps.push(step(FenceAction::Held, proof.started));
    Ok(Quiet { took: proof.started.elapsed(), steps })
}

/// Writes the file that holds the server, durably: whoever starts it with the configuration that includes this file, it comes up
/// as a replica of nobody, behind the gate.
///
/// # Errors
/// When the disk refuses or hangs.
pub async fn write_held(instance: &Instance, deadline: Instant) -> Result<(), DurableError> {
    durable::replace(&instance.held_file(), held_config().into_bytes(), None, deadline).await
}

/// Asks the server to end and waits for its death; false at the deadline.
async fn shut_down(instance: &Instance, main: &MainProcess, deadline: Instant) -> bool {
    let asking = async {
        match Link::open(&instance.target(), deadline).await {
            // There is no answer but the end of the connection.
            Ok(mut link) => {
                let _ended = link.ask("shut down", &command(&["SHUTDOWN"]), deadline).await;
            }
            Err(error) => tracing::warn!(%error, "the server cannot be asked to shut down"),
        }
        std::future::pending::<()>().await;
    };
    let dead = async { matches!(main.death().await, Ok(_exit)) };
    let either = async {
        tokio::select! {
            biased;
            dead = dead => dead,
            () = asking => false,
        }
    };
    tokio::time::timeout_at(deadline.into(), either).await.unwrap_or(false)
}

fn step(action: FenceAction, started: Instant) -> FenceStep {
    FenceStep { action, at: started.elapsed() }
}

/// Anything but a connection means that nobody listens; a full backlog of a stopped server shows as the deadline, and counts
/// as a listener.
async fn listener_gone(instance: &Instance, deadline: Instant) -> Result<(), QuietError> {
    let address = instance.address();
    match tokio::time::timeout_at(deadline.into(), TcpStream::connect(address)).await {
        Err(_) | Ok(Ok(_)) => Err(QuietError::Listener { address: address.to_string() }),
        Ok(Err(_)) => Ok(()),
    }
}
