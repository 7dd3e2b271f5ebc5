//! What a dead primary acknowledged, or may have, that a candidate does not have: counted in the dead log.
//!
//! Whether that is worth a local restart is not decided here. pg_waldump can't be asked: its exit code does not tell an
//! error from the end of the log.

use std::time::Instant;

use mesh_proto::Lsn;

use super::control_data::{ControlDataError, control_data};
use super::durable::{DurableError, off_thread};
use super::instance::Instance;
use super::wal::{EndReason, RecordKind, WalError, WalReader};

/// The dead log compared with a candidate's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashScan {
    /// Where the dead log ends.
    pub end: Lsn,
    /// COMMIT, PREPARE and COMMIT PREPARED records that end beyond the candidate's position. None: nothing is lost.
    pub commits_beyond: u64,
    /// Bytes of the dead log beyond the candidate's position.
    pub bytes_beyond: u64,
    /// Why the log ends there.
    pub reason: EndReason,
}

/// Why it is unknown what would be lost.
#[derive(Debug, thiserror::Error)]
pub enum CrashScanError {
    /// Processes of the instance may still write.
    #[error("process {pid} of the dead primary still runs; fence it first")]
    Running {
        /// One of them.
        pid: i32,
    },
    /// `/proc`.
    #[error("cannot list the dead primary's processes")]
    Scan(#[source] std::io::Error),
    /// The control file.
    #[error("the dead primary's control file cannot be read")]
    Control(#[from] ControlDataError),
    /// The disk.
    #[error("the dead primary's disk does not answer")]
    Disk(#[from] DurableError),
    /// The log.
    #[error("the dead primary's log cannot be read")]
    Wal(#[from] WalError),
    /// The start is no record, or the log there is gone.
    #[error("there is no whole log record at {at}, so the dead log cannot be read from there")]
    NoRecord {
        /// Where.
        at: Lsn,
    },
    /// The candidate is of another cluster.
    #[error("the candidate is of cluster {candidate}, the dead primary of {own}")]
    OtherCluster {
        /// Its system identifier.
        candidate: u64,
        /// The dead primary's.
        own: u64,
    },
}

/// Scans the log of the dead (`no-ack`) local primary from `boundary`, a record's start or end at or before the
/// candidate's position (what the candidate has replayed is one), and counts what ends beyond `held`, the end of what it has flushed.
///
/// # Errors
/// Anything that leaves it unknown; an I/O error is never taken for the end of the log.
pub async fn crash_scan(
    instance: &Instance,
    candidate_system: u64,
    boundary: Lsn,
    held: Lsn,
    deadline: Instant,
) -> Result<CrashScan, CrashScanError> {
    let members = instance.tree().scan().map_err(CrashScanError::Scan)?;
    if let Some(member) = members.iter().find(|member| !matches!(member.process.is_dead(), Ok(true))) {
        return Err(CrashScanError::Running { pid: member.process.pid() });
    }
    let control = control_data(instance, deadline).await?;
    let own = control.system_identifier;
    if candidate_system != own {
        return Err(CrashScanError::OtherCluster { candidate: candidate_system, own });
    }
    let data_dir = instance.data_dir().to_path_buf();
    let scan = off_thread(instance.data_dir(), "read the log of", deadline, move || {
        let mut commits_beyond = 0;
        let mut reader = WalReader::new(&data_dir, &control);
        let scanned = reader.scan(boundary, |record| {
            commits_beyond += u64::from(record.kind == RecordKind::Commit && record.end > held);
        });
        Ok(scanned.map(|(last, reason)| (last, reason, commits_beyond)))
    });
    let (last, reason, commits_beyond) = scan.await??;
    let end = match (last, reason) {
        (Some(last), _) => last.end,
        // Nothing was written behind the boundary, and the boundary is where the candidate stands.
        (None, EndReason::Unwritten | EndReason::Recycled) => boundary,
        (None, EndReason::NoSegment | EndReason::Torn) => {
            return Err(CrashScanError::NoRecord { at: boundary });
        }
    };
    // The candidate has log that the dead primary does not: the boundary was not one of this log.
    if end < held {
        return Err(CrashScanError::NoRecord { at: boundary });
    }
    Ok(CrashScan { end, commits_beyond, bytes_beyond: end.bytes_since(held), reason })
}
