//! One process, held by a pidfd: signals reach it or nobody, and its death is an event, not a poll.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, pidfd_send_signal, waitid,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::stat::ProcStat;

/// A process that cannot be mistaken for another, however numbers are reused.
#[derive(Clone, Debug)]
pub struct ProcessHandle {
    pid: i32,
    start_ticks: u64,
    fd: Arc<OwnedFd>,
}

/// How a process ended, as far as it can be known: only its parent learns the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// It was ended by this signal number.
    Signal(i32),
    /// It is gone; another process is its parent, or the status was collected before.
    Unknown,
}

/// Whether a signal found its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The signal is pending on the process.
    Sent,
    /// The process is dead.
    Gone,
}

impl ProcessHandle {
    /// Takes hold of the process that now has this number; `None` when there is none or it is a zombie.
    ///
    /// # Errors
    /// When the kernel refuses a pidfd (no file descriptors left) or `/proc` is unreadable.
    pub fn open(pid: i32) -> io::Result<Option<ProcessHandle>> {
        let Some(handle) = ProcessHandle::hold(pid)? else { return Ok(None) };
        Ok((!handle.is_dead()?).then_some(handle))
    }

    /// As `open`, but a zombie is held too: the starter of a child wants its status even if it died at once.
    pub(super) fn hold(pid: i32) -> io::Result<Option<ProcessHandle>> {
        let Some(raw) = Pid::from_raw(pid) else { return Ok(None) };
        let fd = match pidfd_open(raw, PidfdFlags::NONBLOCK) {
            Ok(fd) => fd,
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Read after the pidfd is held: if it is not dead now, the number still belonged to it while we read.
        let Some(stat) = ProcStat::read(pid)? else { return Ok(None) };
        Ok(Some(ProcessHandle { pid, start_ticks: stat.start_ticks, fd: Arc::new(fd) }))
    }

    /// The process number, for people and logs.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Start time in clock ticks since boot.
    #[must_use]
    pub fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// Sends a signal to this process and no other.
    ///
    /// # Errors
    /// `EPERM` when the process belongs to another user.
    pub fn signal(&self, signal: Signal) -> io::Result<Delivery> {
        match pidfd_send_signal(&*self.fd, signal) {
            Ok(()) => Ok(Delivery::Sent),
            Err(Errno::SRCH) => Ok(Delivery::Gone),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the process is dead; a zombie is dead.
    ///
    /// # Errors
    /// When the kernel refuses to poll.
    pub fn is_dead(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(&*self.fd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            match poll(&mut fds, Some(&now)) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until the process is dead and, where it is our child, collects its status. It has no deadline of its own:
    /// the caller either watches for ever or wraps it.
    ///
    /// # Errors
    /// When the runtime cannot watch the pidfd.
    pub async fn death(&self) -> io::Result<Exit> {
        self.dead().await?;
        Ok(self.collect())
    }

    /// The same, and leaves the status to be collected: until then its number, and its group's, stay taken.
    ///
    /// # Errors
    /// When the runtime cannot watch the pidfd.
    pub async fn dead(&self) -> io::Result<()> {
        let watched = watch(self.fd.try_clone()?)?;
        loop {
            let mut ready = watched.readable().await?;
            if self.is_dead()? {
                return Ok(());
            }
            ready.clear_ready();
        }
    }

    /// Collects the exit status of a dead child, so that it does not stay a zombie: PostgreSQL takes a zombie in its lock
    /// file for a running server. Harmless for a process that is alive or not ours.
    pub fn collect(&self) -> Exit {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(self.fd.as_fd()), options) {
            Ok(Some(status)) => exit_of(&status),
            Ok(None) | Err(_) => Exit::Unknown,
        }
    }
}

#[allow(unsafe_code)]
fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and keeps its number until it is dropped, and the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

fn exit_of(status: &WaitIdStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Unknown,
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
            Exit::Unknown => f.write_str("unknown exit status"),
        }
    }
}
