//! Starting a server as a child that cannot outlive us.
//!
//! The kernel's parent-death signal follows the *thread* that forked, so all servers are forked by one thread that lives
//! as long as the process. When the guard dies, however it dies, the postmaster gets SIGQUIT and takes its backends
//! down. This module never waits for the server to be usable, and never restarts one.

// `pre_exec` is unsafe because its closure runs between fork and exec; ours only makes system calls.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};

use rustix::process::{
    Pid, Signal, getpid, getppid, set_child_subreaper, set_parent_process_death_signal, setsid,
};

use super::handle::ProcessHandle;

/// Another user to run a server as. Only root can; the packaged guard runs as the database's user and leaves it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What to start.
#[derive(Debug)]
pub struct SpawnSpec {
    /// Executable.
    pub program: PathBuf,
    /// Arguments; they are visible to every user, so never a secret.
    pub args: Vec<OsString>,
    /// Where both output streams go.
    pub log: File,
    /// The user, if another.
    pub run_as: Option<RunAs>,
    /// Working directory, if another. A tool that works on a data directory runs in it, so that a scan of the directory
    /// finds the tool.
    pub cwd: Option<PathBuf>,
    /// What the kernel sends when this process dies.
    pub death_signal: Signal,
}

/// Why a server was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// fork or exec failed.
    #[error("cannot execute {}", program.display())]
    Exec {
        /// Executable.
        program: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It was started and died before it could be watched.
    #[error("{} ended as soon as it was started", program.display())]
    Vanished {
        /// Executable.
        program: PathBuf,
    },
    /// The spawner thread is gone.
    #[error("the thread that starts servers has ended; restart this process")]
    ThreadGone,
    /// The spawner thread could not be created.
    #[error("cannot create the thread that starts servers")]
    Thread(#[source] io::Error),
}

struct Request {
    spec: SpawnSpec,
    answer: tokio::sync::oneshot::Sender<Result<ProcessHandle, SpawnError>>,
}

/// The thread that forks servers. There is one in a process, and it ends with the process: its end would be the end of
/// every server it started.
#[derive(Debug)]
pub struct Spawner {
    requests: mpsc::Sender<Request>,
}

static SPAWNER: Mutex<Option<mpsc::Sender<Request>>> = Mutex::new(None);

impl Spawner {
    /// The spawner of this process, created at first use.
    ///
    /// # Errors
    /// When no thread can be created.
    pub fn global() -> Result<Spawner, SpawnError> {
        let mut slot = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(requests) = &*slot {
            return Ok(Spawner { requests: requests.clone() });
        }
        let (requests, inbox) = mpsc::channel::<Request>();
        let thread = std::thread::Builder::new().name("mesh-spawner".into());
        thread.spawn(move || serve(&inbox)).map_err(SpawnError::Thread)?;
        *slot = Some(requests.clone());
        Ok(Spawner { requests })
    }

    /// Starts a server in a session of its own and takes hold of it.
    ///
    /// # Errors
    /// When it cannot be executed or ends at once.
    pub async fn spawn(&self, spec: SpawnSpec) -> Result<ProcessHandle, SpawnError> {
        let (answer, reply) = tokio::sync::oneshot::channel();
        self.requests.send(Request { spec, answer }).map_err(|_| SpawnError::ThreadGone)?;
        reply.await.map_err(|_| SpawnError::ThreadGone)?
    }
}

fn serve(inbox: &mpsc::Receiver<Request>) {
    while let Ok(Request { spec, answer }) = inbox.recv() {
        if let Err(Ok(orphan)) = answer.send(spawn_now(spec)) {
            // The caller gave up between request and answer: a server that nobody holds must not run.
            if let Err(error) = orphan.signal(Signal::QUIT) {
                tracing::error!(pid = orphan.pid(), %error, "cannot end a process whose starter gave up");
            }
        }
    }
}

fn spawn_now(spec: SpawnSpec) -> Result<ProcessHandle, SpawnError> {
    let program = spec.program;
    let exec = |source| SpawnError::Exec { program: program.clone(), source };
    let errors = spec.log.try_clone().map_err(exec)?;
    let mut command = Command::new(&program);
    command.args(&spec.args).stdin(Stdio::null()).stdout(spec.log).stderr(errors);
    if let Some(cwd) = spec.cwd {
        command.current_dir(cwd);
    }
    if let Some(user) = spec.run_as {
        command.uid(user.uid).gid(user.gid);
    }
    let parent = getpid();
    let death_signal = spec.death_signal;
    // SAFETY: the closure runs in the forked child before exec and only makes async-signal-safe system calls; it
    // allocates nothing and takes no lock. std changes the user before it, and a later change would clear the signal.
    unsafe {
        command.pre_exec(move || bind_to_parent(parent, death_signal));
    }
    let child = command.spawn().map_err(exec)?;
    let pid = i32::try_from(child.id()).unwrap_or(0);
    // Dropping `child` neither waits nor kills; the pidfd does both from here on. As nobody collects the child before
    // we hold it, its number cannot be reused.
    drop(child);
    match ProcessHandle::hold(pid) {
        Ok(Some(handle)) => Ok(handle),
        Ok(None) => Err(SpawnError::Vanished { program }),
        Err(source) => Err(SpawnError::Exec { program, source }),
    }
}

fn bind_to_parent(parent: Pid, death_signal: Signal) -> io::Result<()> {
    setsid()?;
    set_parent_process_death_signal(Some(death_signal))?;
    // A parent that died before the line above sends no signal any more.
    if getppid() == Some(parent) { Ok(()) } else { Err(io::Error::from(io::ErrorKind::BrokenPipe)) }
}

/// Makes this process the parent of orphans below it, so that a dead postmaster's backends are collected here, in
/// containers without an init process as well.
///
/// # Errors
/// When the kernel refuses.
pub fn become_subreaper() -> io::Result<()> {
    // The value is a flag for the kernel: any process number switches it on, for the calling process.
    set_child_subreaper(Some(getpid()))?;
    Ok(())
}
