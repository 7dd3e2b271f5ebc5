//! What `pg_controldata` says of a data directory, and the lock file of its server. Read only.
//!
//! The program is used rather than the file, because its form differs between versions and the program knows its own.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Instant;

use mesh_proto::Lsn;

use super::instance::Instance;
use super::tool::{self, ToolError};

/// Sizes that PostgreSQL can be built and made with, powers of two: positions are divided by them.
const SEGMENT_SIZES: RangeInclusive<u64> = 1 << 20..=1 << 30;
const BLOCK_SIZES: RangeInclusive<u64> = 1 << 10..=1 << 16;

/// The state of a data directory as its control file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// A primary that was shut down cleanly.
    ShutDown,
    /// A standby that was shut down cleanly.
    ShutDownInRecovery,
    /// A shutdown has begun.
    ShuttingDown,
    /// Crash recovery runs, or was interrupted.
    InCrashRecovery,
    /// A standby runs, or crashed.
    InArchiveRecovery,
    /// A primary runs, or crashed.
    InProduction,
    /// Just made by initdb or a base backup.
    StartingUp,
}

/// The control file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlData {
    /// Identity of the whole cluster, shared by all its standbys.
    pub system_identifier: u64,
    /// State.
    pub state: ClusterState,
    /// Where the latest checkpoint record starts.
    pub checkpoint: Lsn,
    /// Where replay from that checkpoint starts.
    pub redo: Lsn,
    /// Timeline of that checkpoint.
    pub timeline: u32,
    /// On a standby: replay must reach this before it is consistent; invalid otherwise.
    pub min_recovery_end: Lsn,
    /// The timeline of `min_recovery_end`; 0 on a primary.
    pub min_recovery_timeline: u32,
    /// Bytes in one log segment.
    pub wal_segment_size: u64,
    /// Bytes in one log page.
    pub wal_block_size: u64,
    /// Whether pages carry checksums; a rewind needs these or `wal_log_hints`.
    pub checksums: bool,
    /// The setting `wal_log_hints` as last in force.
    pub wal_log_hints: bool,
}

/// Why the control file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ControlDataError {
    /// The program failed.
    #[error("cannot read the control file of {}", dir.display())]
    Tool {
        /// The data directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: ToolError,
    },
    /// The program warned that the file is damaged, or says what no known version says.
    #[error("the control file of {} is damaged or of an unknown form at {field:?}; do not start it, rebuild this instance", dir.display())]
    Form {
        /// The data directory.
        dir: PathBuf,
        /// The line that is missing or wrong.
        field: &'static str,
    },
}

/// Reads the control file. The server may run or not.
///
/// # Errors
/// When the program is missing, the directory is no data directory, or the file is damaged.
pub async fn control_data(instance: &Instance, deadline: Instant) -> Result<ControlData, ControlDataError> {
    let dir = instance.data_dir().to_path_buf();
    let args = ["-D".as_ref(), dir.as_os_str()];
    match tool::run(instance, "pg_controldata", &args, deadline).await {
        Ok(text) => parse(&text).map_err(|field| ControlDataError::Form { dir, field }),
        Err(source) => Err(ControlDataError::Tool { dir, source }),
    }
}

fn parse(text: &str) -> Result<ControlData, &'static str> {
    // A checksum mismatch is only a warning in the program's output; the line has no colon-separated value.
    if text.lines().any(|line| line.starts_with("WARNING")) {
        return Err("checksum");
    }
    let fields: HashMap<&str, &str> =
        text.lines().filter_map(|line| line.split_once(':')).map(|(k, v)| (k.trim(), v.trim())).collect();
    let field = |name: &'static str| fields.get(name).copied().ok_or(name);
    let lsn = |name: &'static str| field(name)?.parse::<Lsn>().map_err(|_| name);
    let number = |name: &'static str| field(name)?.parse::<u64>().map_err(|_| name);
    let small = |name: &'static str| field(name)?.parse::<u32>().map_err(|_| name);
    let sized = |name: &'static str, sizes: &RangeInclusive<u64>| {
        let size = number(name)?;
        if sizes.contains(&size) && size.is_power_of_two() { Ok(size) } else { Err(name) }
    };
    Ok(ControlData {
        system_identifier: number("Database system identifier")?,
        state: state(field("Database cluster state")?).ok_or("Database cluster state")?,
        checkpoint: lsn("Latest checkpoint location")?,
        redo: lsn("Latest checkpoint's REDO location")?,
        timeline: small("Latest checkpoint's TimeLineID")?,
        min_recovery_end: lsn("Minimum recovery ending location")?,
        min_recovery_timeline: small("Min recovery ending loc's timeline")?,
        wal_segment_size: sized("Bytes per WAL segment", &SEGMENT_SIZES)?,
        wal_block_size: sized("WAL block size", &BLOCK_SIZES)?,
        checksums: small("Data page checksum version")? != 0,
        wal_log_hints: field("wal_log_hints setting")? == "on",
    })
}

fn state(text: &str) -> Option<ClusterState> {
    Some(match text {
        "shut down" => ClusterState::ShutDown,
        "shut down in recovery" => ClusterState::ShutDownInRecovery,
        "shutting down" => ClusterState::ShuttingDown,
        "in crash recovery" => ClusterState::InCrashRecovery,
        "in archive recovery" => ClusterState::InArchiveRecovery,
        "in production" => ClusterState::InProduction,
        "starting up" => ClusterState::StartingUp,
        _ => return None,
    })
}

/// The lock file of a running server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostmasterPid {
    /// Process number; to be verified before it is believed.
    pub pid: i32,
    /// The data directory it was started with.
    pub data_dir: PathBuf,
    /// The port.
    pub port: Option<u16>,
    /// Directory of the unix socket.
    pub socket_dir: Option<PathBuf>,
    /// What the server says of itself.
    pub status: Option<PostmasterStatus>,
}

/// The last line of the lock file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostmasterStatus {
    /// It does not accept connections yet.
    Starting,
    /// A standby that accepts connections.
    Standby,
    /// A primary that accepts connections.
    Ready,
    /// It is shutting down.
    Stopping,
}

impl PostmasterPid {
    /// Reads the lock file's text. Lines are added while the server comes up, so only the first two are required.
    #[must_use]
    pub fn parse(text: &str) -> Option<PostmasterPid> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        // A standalone backend writes its number negated.
        let pid = lines.first()?.parse::<i32>().ok()?.checked_abs().filter(|pid| *pid > 0)?;
        let filled = |index: usize| lines.get(index).copied().filter(|line| !line.is_empty());
        Some(PostmasterPid {
            pid,
            data_dir: PathBuf::from(filled(1)?),
            port: filled(3).and_then(|port| port.parse().ok()),
            socket_dir: filled(4).map(PathBuf::from),
            status: filled(7).and_then(|status| match status {
                "starting" => Some(PostmasterStatus::Starting),
                "standby" => Some(PostmasterStatus::Standby),
                "ready" => Some(PostmasterStatus::Ready),
                "stopping" => Some(PostmasterStatus::Stopping),
                _ => None,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_fuzz::{bounded, fuzz};

    #[test]
    fn reads_a_lock_file_while_it_grows() {
        let whole = "4711\n/srv/pg\n1700000000\n5433\n/run/pg\n127.0.0.1\n 123 456\nready   \n";
        let lock = PostmasterPid::parse(whole).unwrap();
        assert_eq!((lock.pid, lock.port, lock.status), (4711, Some(5433), Some(PostmasterStatus::Ready)));
        let young = PostmasterPid::parse("4711\n/srv/pg\n").unwrap();
        assert_eq!((young.port, young.status), (None, None));
        assert_eq!(PostmasterPid::parse("-12\n/srv/pg\n").unwrap().pid, 12);
        assert_eq!(PostmasterPid::parse(""), None);
        assert_eq!(PostmasterPid::parse("0\n/srv/pg\n"), None);
        assert_eq!(PostmasterPid::parse("x\n/srv"), None);
    }

    #[test]
    fn a_damaged_control_file_is_an_error() {
        assert_eq!(
            parse("WARNING: Calculated CRC checksum does not match value stored in file."),
            Err("checksum")
        );
        assert_eq!(parse("Database system identifier: 1"), Err("Database cluster state"));
    }

    #[test]
    fn fuzz_control_data() {
        fuzz!("control_data", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let Ok(control) = bounded(bytes.len(), || parse(&text)) else { return };
            assert!((1 << 20..=1 << 30).contains(&control.wal_segment_size), "{control:?}");
            assert!((1 << 10..=1 << 16).contains(&control.wal_block_size), "{control:?}");
            assert!(control.wal_segment_size.is_power_of_two() && control.wal_block_size.is_power_of_two());
            assert!(!text.lines().any(|line| line.starts_with("WARNING")));
        });
    }

    #[test]
    fn fuzz_postmaster_pid() {
        fuzz!("postmaster_pid", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let Some(lock) = bounded(bytes.len(), || PostmasterPid::parse(&text)) else { return };
            assert!(lock.pid > 0 && !lock.data_dir.as_os_str().is_empty(), "{lock:?}");
        });
    }
}
