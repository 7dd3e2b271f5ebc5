//! Starting an instance, as a standby or as the primary, behind or without the boot gate, and waiting until it accepts
//! connections.
//!
//! It comes up as a primary only when told so: the caller holds the lease. It never restarts anything.

use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;

use super::conf::{self, Change};
use super::conninfo::Upstream;
use super::durable::{self, DurableError};
use super::gate::SyncSetting;
use super::guarded::mark_guarded;
use super::hba::{Clients, HbaError, write_hba};
use super::inspect::{InspectError, inspect};
use super::instance::Instance;
use super::postmaster::{
    AttachError, Control, Launch, LaunchError, Postmaster, attach, lock_file, looks_ready,
};
use super::rejoin::{JournalError, Stage, unfinished};
use super::sql::{Durability, Session, SqlError, get};
use super::tool::tail;
use crate::process::{Exit, KillError, Survivors, reap_adopted};

/// How soon a standby asks again for a primary that does not answer; `options` of the configuration overrule it.
const RETRY: &str = "500ms";

/// What it is to be.
#[derive(Clone, Debug)]
pub enum StartAs {
    /// A standby: `standby.signal` is made sure of first.
    Standby(StandbyUpstream),
    /// The primary: `standby.signal` is removed. Only under a lease that was held before the start.
    Primary,
}

/// Whom a standby follows when it comes up.
#[derive(Clone, Debug)]
pub enum StandbyUpstream {
    /// Nobody: merely read-only.
    Nobody,
    /// Nobody, and along its own timeline: the history of a newer one that lies in its log already is not followed. One that
    /// branched off before what this server has would not let it come up at all.
    OwnTimeline,
    /// Whoever its settings name. A frozen standby stays frozen.
    AsConfigured,
    /// This primary.
    Follow(Upstream),
}

/// A start.
#[derive(Clone, Debug)]
pub struct StartRequest {
    /// As what.
    pub start_as: StartAs,
    /// Behind the boot gate or open.
    pub clients: Clients,
    /// What `synchronous_standby_names` is to say from the first moment; `None` leaves it.
    pub sync: Option<SyncSetting>,
    /// The group's system identifier, where it is known: another cluster's data is not started.
    pub system_identifier: Option<u64>,
}

/// A started instance.
#[derive(Clone, Debug)]
pub struct Started {
    /// Its postmaster.
    pub postmaster: Postmaster,
    /// Whether it is in recovery, as it says itself.
    pub in_recovery: bool,
    /// From the call until it accepted a connection.
    pub took: Duration,
}

/// Why an instance was not started, or not seen to be up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Data directory or programs are not usable.
    #[error("the instance cannot be started")]
    Inspect(#[from] InspectError),
    /// A rewind was interrupted.
    #[error(
        "an interrupted rewind left the data directory unusable; rejoin this instance, which rebuilds it"
    )]
    HalfRewound,
    /// The rejoin journal.
    #[error("cannot tell whether a rejoin is unfinished")]
    Journal(#[from] JournalError),
    /// A server of this directory runs already.
    #[error("process {pid} already serves {}; attach to it, or fence it first", dir.display())]
    Running {
        /// Its postmaster, or an orphan of a dead one.
        pid: i32,
        /// The data directory.
        dir: PathBuf,
    },
    /// The running processes could not be examined.
    #[error("cannot tell whether a server of this directory runs")]
    Attach(#[from] AttachError),
    /// Another program has the port.
    #[error(
        "{address} is in use by another program; find it with `ss -ltnp`, or give the instance another port"
    )]
    PortInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The address is not one of this host's.
    #[error("cannot listen on {address}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// A file could not be prepared.
    #[error("cannot prepare the data directory")]
    Prepare(#[from] DurableError),
    /// The boot gate could not be prepared.
    #[error("cannot prepare the boot gate")]
    Hba(#[from] HbaError),
    /// It was not launched.
    #[error("the server was not launched")]
    Launch(#[from] LaunchError),
    /// It ended while coming up.
    #[error("the server ended while starting ({exit}); the end of {}: {log}", log_file.display())]
    Ended {
        /// How.
        exit: Exit,
        /// Its log file.
        log_file: PathBuf,
        /// The end of the log.
        log: String,
    },
    /// It runs, but does not accept connections in time. It is not stopped: that is for the caller.
    #[error("the server (process {}) runs but accepts no connection within the deadline; the end of {}: {log}", postmaster.process().pid(), log_file.display())]
    NotReady {
        /// The hold on it.
        postmaster: Box<Postmaster>,
        /// Its log file.
        log_file: PathBuf,
        /// The end of the log.
        log: String,
    },
    /// It accepts connections but does not let us in.
    #[error(
        "the server runs but refuses mesh's own session; check the superuser and the mesh lines of pg_hba"
    )]
    Refused {
        /// The hold on it.
        postmaster: Box<Postmaster>,
        /// Why.
        #[source]
        source: SqlError,
    },
}

/// Starts an instance and waits until it accepts a connection.
///
/// # Errors
/// Every reason separately; in `NotReady` and `Refused` the server runs.
pub async fn start(
    instance: &Instance,
    control: &dyn Control,
    request: &StartRequest,
    deadline: Instant,
) -> Result<Started, StartError> {
    match unfinished(instance, deadline).await?.map(|journal| journal.stage) {
        Some(Stage::Rewinding) => Err(StartError::HalfRewound),
        // The directory is whole in these: the old one, rewound or not, or the finished copy.
        Some(Stage::Rewound | Stage::Copying | Stage::Swapping | Stage::Swapped) | None => {
            start_checked(instance, control, request, deadline).await
        }
    }
}

/// As [`start`], for the rejoin itself, which knows its journal.
pub(super) async fn start_checked(
    instance: &Instance,
    control: &dyn Control,
    request: &StartRequest,
    deadline: Instant,
) -> Result<Started, StartError> {
    let began = Instant::now();
    reap_adopted();
    nobody_runs(instance, deadline).await?;
    inspect(instance, request.system_identifier, deadline).await?;
    port_free(instance.address())?;
    prepare(instance, request, deadline).await?;
    let log_from = std::fs::metadata(&instance.settings().log_file).map_or(0, |meta| meta.len());
    let launch =
        Launch { program: instance.program("postgres"), args: arguments(instance, &request.start_as) };
    let postmaster = control.launch(instance, launch).await?;
    let in_recovery = wait_ready(instance, &postmaster, log_from, deadline).await?;
    Ok(Started { postmaster, in_recovery, took: began.elapsed() })
}

/// Ends what a dead postmaster left behind, and says how many processes that were: a backend that computes notices its
/// postmaster's death late or never, and as long as one is left no server starts in its directory. A directory whose
/// postmaster lives is left alone. Call it only for a server that nobody else may have started.
///
/// # Errors
/// When it stays uncertain whether they are gone.
pub async fn end_orphans(instance: &Instance, deadline: Instant) -> Result<usize, OrphansError> {
    if attach(instance, deadline).await?.is_some() {
        return Ok(0);
    }
    let report = instance.tree().kill(deadline)?;
    if !report.killed.is_empty() {
        instance.tree().wait_gone(&report.killed, deadline).await?;
    }
    Ok(report.killed.len())
}

/// Why orphans may be left.
#[derive(Debug, thiserror::Error)]
pub enum OrphansError {
    /// The lock file.
    #[error("cannot tell whether a server of this directory runs")]
    Attach(#[from] AttachError),
    /// Something could not be killed.
    #[error("cannot end what a dead server left behind")]
    Kill(#[from] KillError),
    /// Killed processes wait in the kernel.
    #[error("processes of a dead server have not gone yet")]
    Survivors(#[from] Survivors),
}

async fn nobody_runs(instance: &Instance, deadline: Instant) -> Result<(), StartError> {
    let dir = || instance.data_dir().to_path_buf();
    if let Some(running) = attach(instance, deadline).await? {
        return Err(StartError::Running { pid: running.process().pid(), dir: dir() });
    }
    let members = instance.tree().scan();
    let members = members.map_err(|source| AttachError::Process { pid: 0, source })?;
    match members.first() {
        Some(member) => Err(StartError::Running { pid: member.process.pid(), dir: dir() }),
        None => Ok(()),
    }
}

/// Asked before the start, so that the answer is an errno and not a line in a log. Whoever takes the port in between
/// makes the start fail with the log's word for it.
fn port_free(address: SocketAddr) -> Result<(), StartError> {
    match TcpListener::bind(address) {
        Ok(_closed_at_once) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(StartError::PortInUse { address }),
        Err(source) => Err(StartError::Address { address, source }),
    }
}

async fn prepare(instance: &Instance, request: &StartRequest, deadline: Instant) -> Result<(), StartError> {
    let settings = instance.settings();
    // No process of this directory is left, but its lock file may be, naming a zombie that nobody collected or, after a
    // boot, a stranger: the server would refuse to start.
    durable::remove(&instance.data_dir().join("postmaster.pid"), deadline).await?;
    drop_socket_lock(instance, deadline).await?;
    // Before the signal goes: from here on whoever else is about to start it is told.
    mark_guarded(instance, deadline).await?;
    let signal = instance.data_dir().join("standby.signal");
    let recovery = instance.data_dir().join("recovery.signal");
    let mut changes: Vec<Change> = Vec::new();
    match &request.start_as {
        StartAs::Standby(upstream) => {
            durable::touch(&signal, settings.run_as, deadline).await?;
            match upstream {
                StandbyUpstream::Nobody | StandbyUpstream::OwnTimeline => {
                    changes.push(("primary_conninfo", Some(String::new())))
                }
                StandbyUpstream::AsConfigured => {}
                StandbyUpstream::Follow(upstream) => {
                    changes.push(("primary_conninfo", Some(upstream.conninfo(settings))));
                }
            }
        }
        StartAs::Primary => {
            durable::remove(&signal, deadline).await?;
            durable::remove(&recovery, deadline).await?;
        }
    }
    if let Some(sync) = &request.sync {
        changes.push(("synchronous_standby_names", Some(sync.rendered())));
    }
    conf::edit_stopped(instance, &changes, deadline).await?;
    Ok(write_hba(instance, request.clients, deadline).await?)
}

/// The lock beside the unix socket names the data directory in its second line: ours is stale, another's is not ours to
/// touch.
async fn drop_socket_lock(instance: &Instance, deadline: Instant) -> Result<(), DurableError> {
    let mut path = instance.socket_path().into_os_string();
    path.push(".lock");
    let path = PathBuf::from(path);
    let Some(bytes) = durable::read(&path, deadline).await? else { return Ok(()) };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let ours = text.lines().nth(1).is_some_and(|dir| std::path::Path::new(dir) == instance.data_dir());
    if ours { durable::remove(&path, deadline).await } else { Ok(()) }
}

fn arguments(instance: &Instance, start_as: &StartAs) -> Vec<OsString> {
    let settings = instance.settings();
    let mut args: Vec<OsString> = vec!["-D".into(), settings.data_dir.clone().into()];
    let mut set = |name: &str, value: &str| {
        args.push("-c".into());
        args.push(format!("{name}={value}").into());
    };
    if let Some(config) = &settings.config_file {
        set("config_file", &config.to_string_lossy());
    }
    set("hba_file", &instance.gate_hba().to_string_lossy());
    set("listen_addresses", &settings.listen.to_string());
    set("port", &settings.port.to_string());
    set("unix_socket_directories", &settings.socket_dir.to_string_lossy());
    // A crash restart inside PostgreSQL would open to clients behind the boot gate's back.
    set("restart_after_crash", "off");
    match start_as {
        StartAs::Standby(StandbyUpstream::OwnTimeline) => set("recovery_target_timeline", "current"),
        StartAs::Standby(
            StandbyUpstream::Nobody | StandbyUpstream::AsConfigured | StandbyUpstream::Follow(_),
        )
        | StartAs::Primary => {}
    }
    if matches!(start_as, StartAs::Standby(_)) {
        // PostgreSQL's 5 s would be how long commits wait for a standby whose primary crashed and came up at once.
        set("wal_retrieve_retry_interval", RETRY);
    }
    for (name, value) in &settings.options {
        set(name, value);
    }
    args
}

async fn wait_ready(
    instance: &Instance,
    postmaster: &Postmaster,
    log_from: u64,
    deadline: Instant,
) -> Result<bool, StartError> {
    let log_file = instance.settings().log_file.clone();
    loop {
        if matches!(postmaster.process().is_dead(), Ok(true)) {
            let exit = postmaster.process().collect();
            let log = log_since(instance, log_from).await;
            return Err(StartError::Ended { exit, log_file, log });
        }
        if let Ok(Some(lock)) = lock_file(instance, deadline).await
            && lock.pid == postmaster.process().pid()
            && looks_ready(&lock)
        {
            match ask_recovery(instance, deadline).await {
                Ok(in_recovery) => return Ok(in_recovery),
                Err(error) if may_pass(&error) => {}
                Err(source) => {
                    return Err(StartError::Refused { postmaster: Box::new(postmaster.clone()), source });
                }
            }
        }
        if Instant::now() >= deadline {
            let log = log_since(instance, log_from).await;
            return Err(StartError::NotReady { postmaster: Box::new(postmaster.clone()), log_file, log });
        }
        // The lock file has no event to wait for; 5 ms is little against a start of about 60 ms.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn ask_recovery(instance: &Instance, deadline: Instant) -> Result<bool, SqlError> {
    let session = Session::local(instance, Durability::Local, deadline).await?;
    let what = "ask whether it is in recovery";
    let row = session.row(what, "SELECT pg_is_in_recovery()", &[], deadline).await?;
    get(what, &row, 0)
}

/// Refusals that end by themselves: still starting, too many sessions, no listener yet.
fn may_pass(error: &SqlError) -> bool {
    match error.state() {
        Some(state) => *state == SqlState::CANNOT_CONNECT_NOW || *state == SqlState::TOO_MANY_CONNECTIONS,
        None => true,
    }
}

/// What the server wrote since its start, for people.
async fn log_since(instance: &Instance, from: u64) -> String {
    let path = instance.settings().log_file.clone();
    let soon = Instant::now() + Duration::from_millis(200);
    match durable::read(&path, soon).await {
        Ok(Some(bytes)) => {
            let start = usize::try_from(from).unwrap_or(0).min(bytes.len());
            tail(&String::from_utf8_lossy(&bytes[start..]), 6)
        }
        Ok(None) => String::from("(no log)"),
        Err(error) => format!("(the log is unreadable: {error})"),
    }
}
