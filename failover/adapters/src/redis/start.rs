//! Starting an instance: always held, as a replica of nobody behind the gate, from a configuration of the guard's own that
//! includes the operator's. Whether it becomes a primary or follows one is decided by whoever holds a lease, on the running
//! server.
//!
//! It never restarts anything, and writes no secret but into a file that only this user can read.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use super::fault::{AskError, Fault};
use super::gate::{BACKLOG_TTL, CLOSED, MAX_LAG, MAX_LAG_SECONDS, SETTING};
use super::info::{Info, Role, info};
use super::instance::{AttachError, Instance, attach};
use super::link::password;
use super::standby::DEAD_END;
use crate::postgres::durable::{self, DurableError};
use crate::process::{Exit, MainProcess, Signal, SpawnError, SpawnSpec, Spawner};

/// The oldest version whose commands are all there.
const OLDEST: (u32, u32) = (6, 2);
const POLL: Duration = Duration::from_millis(5);

/// What a launcher needs to start one server.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
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

/// How servers come to life on this host.
pub trait Control: std::fmt::Debug + Send + Sync {
    /// Launches the server and returns a hold on it, without waiting until it is usable.
    fn launch<'a>(
        &'a self,
        instance: &'a Instance,
        launch: Launch,
    ) -> BoxFuture<'a, Result<MainProcess, LaunchError>>;
}

/// Launches the server as our own child, which cannot outlive us.
#[derive(Clone, Copy, Debug, Default)]
pub struct DirectControl;

impl Control for DirectControl {
    fn launch<'a>(
        &'a self,
        instance: &'a Instance,
        launch: Launch,
    ) -> BoxFuture<'a, Result<MainProcess, LaunchError>> {
        Box::pin(async move {
            let path = instance.settings().log_file.clone();
            let log = OpenOptions::new().create(true).append(true).mode(0o640).open(&path);
            let spec = SpawnSpec {
                program: launch.program,
                args: launch.args,
                log: log.map_err(|source| LaunchError::Log { path, source })?,
                run_as: None,
                // From the first moment on, a scan of the data directory finds it.
                cwd: Some(instance.data_dir().to_path_buf()),
                death_signal: Signal::KILL,
            };
            Ok(MainProcess::new(Spawner::global()?.spawn(spec).await?, false))
        })
    }
}

/// A started instance.
#[derive(Clone, Debug)]
pub struct Started {
    /// Its process.
    pub main: MainProcess,
    /// What it says of itself.
    pub info: Info,
    /// From the call until it had loaded its data.
    pub took: Duration,
}

/// Why an instance was not started, or not seen to be up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A server of this directory runs already.
    #[error("process {pid} already serves {}; attach to it, or fence it first", dir.display())]
    Running {
        /// It.
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
        source: io::Error,
    },
    /// A password.
    #[error("the password for replication cannot be read")]
    Password(#[source] AskError),
    /// A file could not be prepared.
    #[error("cannot prepare the configuration")]
    Prepare(#[from] DurableError),
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
    /// It runs, but is not usable in time. It is not stopped: that is for the caller.
    #[error("the server (process {pid}) is not usable within the deadline; the end of {}: {log}", log_file.display())]
    NotReady {
        /// It.
        pid: i32,
        /// The last answer.
        #[source]
        source: AskError,
        /// Its log file.
        log_file: PathBuf,
        /// The end of the log.
        log: String,
    },
    /// It fails over by itself.
    #[error(
        "the server is a member of a Redis Cluster, which fails over by itself; give it `cluster-enabled no`"
    )]
    Cluster,
    /// Too old.
    #[error("version {found} lacks what mesh needs; {}.{} is the oldest", OLDEST.0, OLDEST.1)]
    TooOld {
        /// As it says.
        found: String,
    },
    /// Not held: somebody promoted it at once.
    #[error("the server was started held and is a primary; somebody else gives it orders")]
    NotHeld,
}

/// Starts the server, held, and waits until it has loaded its data.
///
/// # Errors
/// Each reason separately; `NotReady`, `Cluster`, `TooOld` and `NotHeld` leave it running.
pub async fn start(
    instance: &Instance,
    control: &dyn Control,
    deadline: Instant,
) -> Result<Started, StartError> {
    let began = Instant::now();
    if let Some(main) = attach(instance)? {
        let (pid, dir) = (main.process().pid(), instance.data_dir().to_path_buf());
        return Err(StartError::Running { pid, dir });
    }
    port_free(instance.address())?;
    let text = boot_config(instance, deadline).await?;
    durable::replace(&instance.held_file(), held_config().into_bytes(), None, deadline).await?;
    durable::replace(&instance.boot_file(), text.into_bytes(), None, deadline).await?;
    let launch = Launch {
        program: instance.settings().program.clone(),
        args: vec![instance.boot_file().into_os_string()],
    };
    let main = control.launch(instance, launch).await?;
    let found = ready(instance, &main, deadline).await?;
    if found.cluster {
        return Err(StartError::Cluster);
    }
    if !recent(&found.version) {
        return Err(StartError::TooOld { found: found.version });
    }
    match found.replication.role {
        Role::Replica => Ok(Started { main, info: found, took: began.elapsed() }),
        Role::Primary => Err(StartError::NotHeld),
    }
}

fn recent(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|part| part.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(major), Some(minor)) if (major, minor) >= OLDEST)
}

async fn ready(instance: &Instance, main: &MainProcess, deadline: Instant) -> Result<Info, StartError> {
    let log_file = instance.settings().log_file.clone();
    loop {
        let soon = deadline.min(Instant::now() + Duration::from_secs(1));
        let asked = async {
            let mut link = instance.link(soon).await?;
            info(&mut link, soon).await
        };
        let error = tokio::select! {
            biased;
            exit = main.death() => {
                let exit = exit.unwrap_or(Exit::Unknown);
                return Err(StartError::Ended { exit, log: tail(&log_file), log_file });
            }
            found = asked => match found {
                Ok(found) if !found.loading => return Ok(found),
                Ok(_) => AskError::new("wait until the data is loaded", Fault::Loading),
                Err(error) => error,
            },
        };
        if Instant::now() >= deadline {
            let pid = main.process().pid();
            return Err(StartError::NotReady { pid, source: error, log: tail(&log_file), log_file });
        }
        tokio::time::sleep(POLL).await;
    }
}

fn port_free(address: SocketAddr) -> Result<(), StartError> {
    match TcpListener::bind(address) {
        Ok(_free) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(StartError::PortInUse { address }),
        Err(source) => Err(StartError::Address { address, source }),
    }
}

/// What holds a server: a replica of nobody, and behind the gate should somebody promote it.
pub(super) fn held_config() -> String {
    format!(
        "# Written by mesh. A server that includes this comes up held, until its guard opens it.\n\
         replicaof {} {}\nreplica-read-only yes\nreplica-serve-stale-data yes\n{BACKLOG_TTL} 0\n{MAX_LAG} {MAX_LAG_SECONDS}\n{SETTING} {CLOSED}\n",
        DEAD_END.ip(),
        DEAD_END.port()
    )
}

async fn boot_config(instance: &Instance, deadline: Instant) -> Result<String, StartError> {
    let settings = instance.settings();
    let mut text = "# Written by mesh at each start; changes are lost.\n".to_owned();
    let mut line = |name: &str, value: &str| {
        text.push_str(name);
        text.push(' ');
        text.push_str(value);
        text.push('\n');
    };
    match &settings.config_file {
        Some(file) => line("include", &quoted(&file.display().to_string())),
        None => line("bind", &settings.listen.to_string()),
    }
    for (name, value) in &settings.options {
        line(name, value);
    }
    line("dir", &quoted(&settings.data_dir.display().to_string()));
    let port = settings.port.to_string();
    if settings.tls.is_some() {
        line("port", "0");
        line("tls-port", &port);
        line("tls-replication", "yes");
    } else {
        line("port", &port);
    }
    line("daemonize", "no");
    line("supervised", "no");
    line("logfile", "\"\"");
    if let Some(credentials) = &settings.replication {
        line("masteruser", &quoted(&credentials.user));
        let secret = password(credentials, deadline).await.map_err(StartError::Password)?;
        if let Some(secret) = secret {
            line("masterauth", &quoted(&secret));
        }
    }
    text.push_str(&held_config());
    Ok(text)
}

/// A word of Redis's configuration.
fn quoted(word: &str) -> String {
    let mut text = String::from("\"");
    for c in word.chars() {
        if matches!(c, '"' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
    text
}

/// The last lines of the log, for people.
fn tail(path: &std::path::Path) -> String {
    const BYTES: u64 = 2000;
    let read = || -> io::Result<String> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut bytes = Vec::new();
        file.take(BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_else(|error| format!("(cannot be read: {error})"));
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(6)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_words() {
        assert!(recent("7.0.15") && recent("6.2.0") && recent("8.1.3") && !recent("6.0.16") && !recent("x"));
        assert_eq!(quoted(r#"a "b\"#), r#""a \"b\\""#);
    }
}
