//! Holding a postmaster: finding one that somebody started, and the seam through which one is launched.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Instant;

use futures_util::future::BoxFuture;
use rustix::process::Signal;

use super::control_data::{PostmasterPid, PostmasterStatus};
use super::durable::{self, DurableError};
use super::instance::Instance;
use crate::process::{
    ProcStat, ProcessHandle, SpawnError, SpawnSpec, Spawner, executable, working_directory,
};

/// A running postmaster, held by pidfd. Its backends may outlive it and commit.
pub use crate::process::MainProcess as Postmaster;

/// Why a lock file does not lead to a postmaster that can be held.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The lock file could not be read.
    #[error("cannot read the lock file of the server")]
    Lock(#[from] DurableError),
    /// The lock file has another form than PostgreSQL writes.
    #[error("{} is not a PostgreSQL lock file; if no server runs there, remove it", path.display())]
    Form {
        /// The lock file.
        path: PathBuf,
    },
    /// The process could not be held.
    #[error("cannot take hold of process {pid}")]
    Process {
        /// Its number.
        pid: i32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Reads the lock file; `None` when there is none.
///
/// # Errors
/// When it is unreadable or damaged.
pub async fn lock_file(instance: &Instance, deadline: Instant) -> Result<Option<PostmasterPid>, AttachError> {
    let path = instance.data_dir().join("postmaster.pid");
    let Some(bytes) = durable::read(&path, deadline).await? else { return Ok(None) };
    // The server makes the file before it fills it.
    if bytes.is_empty() {
        return Ok(None);
    }
    let lock = PostmasterPid::parse(&String::from_utf8_lossy(&bytes));
    lock.map(Some).ok_or(AttachError::Form { path })
}

/// Takes hold of a postmaster that already runs, without touching it. `None` when none does: no lock file, or the lock
/// file's process is dead, a zombie, or not a server of this data directory. (Orphans of a dead postmaster are still in
/// the [`Instance::tree`].)
///
/// The number in the lock file may have been reused, so the process must be a `postgres` whose working directory is this
/// data directory, read while a pidfd holds it. A clock comparison with the lock file's start time would add nothing, and
/// be wrong after a clock step: a new server of this directory writes a new lock file.
///
/// # Errors
/// When the lock file or the process cannot be examined.
pub async fn attach(instance: &Instance, deadline: Instant) -> Result<Option<Postmaster>, AttachError> {
    let Some(lock) = lock_file(instance, deadline).await? else { return Ok(None) };
    let held =
        ProcessHandle::open(lock.pid).map_err(|source| AttachError::Process { pid: lock.pid, source })?;
    let Some(process) = held else { return Ok(None) };
    let ours = working_directory(lock.pid).is_some_and(|cwd| cwd == instance.data_dir())
        && executable(lock.pid).is_some_and(|exe| exe.file_name().is_some_and(|name| name == "postgres"))
        && matches!(ProcStat::read(lock.pid), Ok(Some(stat)) if stat.start_ticks == process.start_ticks());
    Ok(ours.then(|| Postmaster::new(process, true)))
}

/// Whether the lock file says that the server accepts connections. It says so a moment before it does.
pub(super) fn looks_ready(lock: &PostmasterPid) -> bool {
    match lock.status {
        Some(PostmasterStatus::Ready | PostmasterStatus::Standby) => true,
        Some(PostmasterStatus::Starting | PostmasterStatus::Stopping) | None => false,
    }
}

/// What a launcher needs to start one server.
#[derive(Clone, Debug)]
pub struct Launch {
    /// `postgres` of the right version.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// Why no server was launched.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The log file could not be opened.
    #[error("cannot open the server's log {}", path.display())]
    Log {
        /// The log file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It could not be executed.
    #[error("cannot launch the server")]
    Spawn(#[from] SpawnError),
}

/// How servers come to life on this host. The rest of the adapter is the same for each way: it signals, watches and kills
/// by pidfd.
pub trait Control: std::fmt::Debug + Send + Sync {
    /// Launches the server and returns a hold on its postmaster, without waiting until it is usable.
    fn launch<'a>(
        &'a self,
        instance: &'a Instance,
        launch: Launch,
    ) -> BoxFuture<'a, Result<Postmaster, LaunchError>>;
}

/// Launches the server as our own child, which cannot outlive us.
#[derive(Clone, Copy, Debug, Default)]
pub struct DirectControl;

impl Control for DirectControl {
    fn launch<'a>(
        &'a self,
        instance: &'a Instance,
        launch: Launch,
    ) -> BoxFuture<'a, Result<Postmaster, LaunchError>> {
        Box::pin(async move {
            let settings = instance.settings();
            let path = settings.log_file.clone();
            let log = OpenOptions::new().create(true).append(true).mode(0o640).open(&path);
            let spec = SpawnSpec {
                program: launch.program,
                args: launch.args,
                log: log.map_err(|source| LaunchError::Log { path, source })?,
                run_as: settings.run_as,
                cwd: None,
                death_signal: Signal::QUIT,
            };
            let process = Spawner::global()?.spawn(spec).await?;
            Ok(Postmaster::new(process, false))
        })
    }
}
