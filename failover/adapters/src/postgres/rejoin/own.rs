//! Where the log of the stopped old primary, or strayed standby, really ends. Read from its files; nothing is started.

use std::io;
use std::time::Instant;

use mesh_proto::Lsn;

use super::RejoinError;
use crate::postgres::control_data::{ClusterState, ControlData};
use crate::postgres::durable::off_thread;
use crate::postgres::inspect::inspect;
use crate::postgres::instance::Instance;
use crate::postgres::timeline::History;
use crate::postgres::wal::WalReader;

/// The local data directory.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) major: u32,
    pub(super) control: ControlData,
    /// Its timeline and that timeline's history.
    pub(super) history: History,
    /// Where its log ends.
    pub(super) end: Lsn,
}

impl Own {
    /// Whether it was stopped in order. pg_rewind recovers one that was not in single-user mode, which refuses a
    /// directory with `standby.signal`; and that file stays.
    pub(super) fn stopped_cleanly(&self) -> bool {
        match self.control.state {
            ClusterState::ShutDown | ClusterState::ShutDownInRecovery => true,
            ClusterState::ShuttingDown
            | ClusterState::InCrashRecovery
            | ClusterState::InArchiveRecovery
            | ClusterState::InProduction
            | ClusterState::StartingUp => false,
        }
    }
}

/// Reads control file, history and the end of the log.
pub(super) async fn read(instance: &Instance, deadline: Instant) -> Result<Own, RejoinError> {
    let inspection = inspect(instance, None, deadline).await?;
    let control = inspection.control;
    let data_dir = instance.data_dir().to_path_buf();
    let known = control.clone();
    let read = off_thread(instance.data_dir(), "read the log of", deadline, move || {
        let mut reader = WalReader::new(&data_dir, &known);
        let scanned = reader.scan(known.checkpoint, |_| {});
        Ok(scanned.map(|(last, _why)| last))
    });
    let last = read.await??.ok_or(RejoinError::NoLog { at: control.checkpoint })?;
    let timeline = last.timeline.max(control.timeline);
    let history = history(instance, timeline, deadline).await?;
    Ok(Own { major: inspection.major, control, history, end: last.end })
}

async fn history(instance: &Instance, timeline: u32, deadline: Instant) -> Result<History, RejoinError> {
    if timeline == 1 {
        return Ok(History::first());
    }
    let path = instance.data_dir().join("pg_wal").join(History::file_name(timeline));
    let file = path.clone();
    let text = off_thread(&path, "read", deadline, move || {
        let bytes = std::fs::read(&file)?;
        String::from_utf8(bytes).map_err(io::Error::other)
    });
    Ok(History::parse(timeline, &text.await?)?)
}
