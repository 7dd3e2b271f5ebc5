//! Stopping a primary for a planned hand-over: everything it acknowledged is flushed, its log ends in a shutdown
//! checkpoint, and what the successor must have received is known.
//!
//! It is polite up to its deadline and kills only a server whose control file already says `shut down`. It never decides
//! what to do with one that does not stop: that is the fence's.

use std::io;
use std::time::{Duration, Instant};

use mesh_proto::Lsn;
use rustix::process::Signal;

use super::control_data::{ClusterState, ControlData, ControlDataError, control_data};
use super::durable::{DurableError, off_thread};
use super::instance::Instance;
use super::postmaster::Postmaster;
use super::wal::{RecordKind, Step, WalError, WalReader};
use crate::process::{Delivery, KillError, Survivors};

/// Where the log of a cleanly stopped server ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShutdownPoint {
    /// The cluster.
    pub system_identifier: u64,
    /// The timeline.
    pub timeline: u32,
    /// Where the shutdown checkpoint starts.
    pub checkpoint: Lsn,
    /// Nothing but housekeeping follows from here on: a successor that has received this has everything.
    pub data_end: Lsn,
    /// Behind the shutdown checkpoint: a successor that has received this can be followed without a rewind.
    pub end: Lsn,
}

/// A cleanly stopped server.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// Where its log ends.
    pub point: ShutdownPoint,
    /// From the request to the end of its last process.
    pub took: Duration,
    /// Whether the end had to be forced after the shutdown checkpoint: an archiver or a receiver hung.
    pub forced: bool,
}

/// Why a server is not known to have stopped cleanly.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// It could not be asked.
    #[error("cannot signal the postmaster; run the guard as the owner of the database")]
    Signal(#[source] io::Error),
    /// It goes on shutting down; nothing can call it back.
    #[error(
        "the server has not written its shutdown checkpoint within the deadline; it still shuts down, so fence it"
    )]
    NotInTime,
    /// It ended without a shutdown checkpoint.
    #[error("the server ended without a shutdown checkpoint (state {state:?}); treat it as crashed")]
    NotClean {
        /// What its control file says.
        state: ClusterState,
    },
    /// The control file.
    #[error("the server stopped but its control file cannot be read")]
    Control(#[from] ControlDataError),
    /// The disk.
    #[error("the server's files cannot be read")]
    Disk(#[from] DurableError),
    /// The log's last record.
    #[error("the server stopped but its shutdown checkpoint cannot be read")]
    Wal(#[from] WalError),
    /// The record at the control file's checkpoint is no checkpoint.
    #[error("there is no whole checkpoint record at {at}; the log is damaged")]
    NoCheckpoint {
        /// Where it should be.
        at: Lsn,
    },
    /// A process could not be killed.
    #[error("the server is shut down but a process of it cannot be killed")]
    Kill(#[from] KillError),
    /// A process does not go.
    #[error("the server is shut down but a process of it does not go")]
    Survivors(#[from] Survivors),
}

/// Stops fast and reads where the log ends. `linger` is how long processes may stay after the shutdown checkpoint is
/// written: senders use it to ship that checkpoint; a hung archiver or receiver would use it for ever. Safe to repeat.
///
/// # Errors
/// `NotInTime` leaves a server that is shutting down; the others a dead one.
pub async fn stop_fast(
    instance: &Instance,
    postmaster: &Postmaster,
    linger: Duration,
    deadline: Instant,
) -> Result<Stopped, StopError> {
    let began = Instant::now();
    let mut forced = false;
    if postmaster.process().signal(Signal::INT).map_err(StopError::Signal)? == Delivery::Sent {
        forced = !ended(instance, postmaster, linger, deadline).await?;
    }
    let report = instance.tree().kill(deadline)?;
    instance.tree().wait_gone(&report.killed, deadline).await?;
    // A killed postmaster leaves a zombie of ours, if nobody else watches it.
    postmaster.process().collect();
    let point = shutdown_point(instance, deadline).await?;
    Ok(Stopped { point, took: began.elapsed(), forced })
}

/// True when the postmaster ended by itself; false when it may be killed, because its checkpoint is written.
async fn ended(
    instance: &Instance,
    postmaster: &Postmaster,
    linger: Duration,
    deadline: Instant,
) -> Result<bool, StopError> {
    let mut patience: Option<Instant> = None;
    loop {
        let tick = (Instant::now() + Duration::from_millis(10)).min(deadline);
        if let Ok(Ok(_exit)) = tokio::time::timeout_at(tick.into(), postmaster.death()).await {
            return Ok(true);
        }
        if patience.is_none() && says_shut_down(instance, deadline).await? {
            patience = Some(Instant::now() + linger);
        }
        match patience {
            Some(until) if Instant::now() >= until => return Ok(false),
            Some(_) => {}
            None if Instant::now() >= deadline => return Err(StopError::NotInTime),
            None => {}
        }
    }
}

/// A glance at the state field, cheap enough to repeat; its place has been the same since PostgreSQL 8. What is believed
/// in the end comes from `pg_controldata`.
async fn says_shut_down(instance: &Instance, deadline: Instant) -> Result<bool, DurableError> {
    const STATE_AT: usize = 16;
    let path = instance.data_dir().join("global/pg_control");
    let file = path.clone();
    let bytes = off_thread(&path, "read", deadline, move || std::fs::read(file)).await?;
    let state = bytes.get(STATE_AT..).and_then(<[u8]>::first_chunk).map(|four| u32::from_le_bytes(*four));
    // DB_SHUTDOWNED and DB_SHUTDOWNED_IN_RECOVERY
    Ok(matches!(state, Some(1 | 2)))
}

/// Reads where the log of a cleanly stopped primary ends.
///
/// # Errors
/// When it was not stopped cleanly, or its files cannot be read.
pub async fn shutdown_point(instance: &Instance, deadline: Instant) -> Result<ShutdownPoint, StopError> {
    let control = control_data(instance, deadline).await?;
    match control.state {
        ClusterState::ShutDown => {}
        ClusterState::ShutDownInRecovery => return Ok(standby_point(&control)),
        state @ (ClusterState::ShuttingDown
        | ClusterState::InCrashRecovery
        | ClusterState::InArchiveRecovery
        | ClusterState::InProduction
        | ClusterState::StartingUp) => return Err(StopError::NotClean { state }),
    }
    let data_dir = instance.data_dir().to_path_buf();
    let known = control.clone();
    let read = off_thread(instance.data_dir(), "read the log of", deadline, move || {
        Ok(last_records(&mut WalReader::new(&data_dir, &known), known.checkpoint))
    });
    let (end, data_end) = read.await??;
    Ok(ShutdownPoint {
        system_identifier: control.system_identifier,
        timeline: control.timeline,
        checkpoint: control.checkpoint,
        data_end: data_end.ok_or(StopError::NoCheckpoint { at: control.checkpoint })?,
        end,
    })
}

/// The end of the checkpoint record, and where data ends: with archiving on, a segment switch precedes the
/// checkpoint, and a successor may have everything without having received the padding behind the switch.
fn last_records(reader: &mut WalReader, checkpoint: Lsn) -> Result<(Lsn, Option<Lsn>), WalError> {
    let Step::Record(last) = reader.record(checkpoint, None)? else { return Ok((checkpoint, None)) };
    if last.kind != RecordKind::Checkpoint {
        return Ok((checkpoint, None));
    }
    let before = reader.record(last.previous, None)?;
    let data_end = match before {
        Step::Record(record) if record.kind == RecordKind::Switch => record.start,
        Step::Record(_) | Step::End(_) => last.start,
    };
    Ok((last.end, Some(data_end)))
}

/// A standby writes no shutdown checkpoint; what it must not lose is what it has replayed.
fn standby_point(control: &ControlData) -> ShutdownPoint {
    ShutdownPoint {
        system_identifier: control.system_identifier,
        timeline: control.timeline.max(control.min_recovery_timeline),
        checkpoint: control.checkpoint,
        data_end: control.min_recovery_end,
        end: control.min_recovery_end,
    }
}
