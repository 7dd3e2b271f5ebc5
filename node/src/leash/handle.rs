//! The guard's side of a leash.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::process::read_echo;
use super::wire::{Duty, Frame};

/// What a leash is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The canonical data directory.
    pub data_dir: PathBuf,
    /// The instance's own cgroup, if it has one.
    pub cgroup: Option<PathBuf>,
}

/// Why there is no leash.
#[derive(Debug, thiserror::Error)]
pub enum LeashError {
    /// It could not be started.
    #[error("the leash could not be started; check that this user may start processes")]
    Start(#[source] io::Error),
}

/// Why a leash was not told. The guard replaces it.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// It is dead.
    #[error("the leash is dead")]
    Dead(#[source] io::Error),
    /// It does not read any more: it was stopped.
    #[error("the leash does not listen")]
    Deaf,
}

/// A running leash. Dropping it kills the leash, not the instance: whoever drops it has another one, or no duty left.
#[derive(Debug)]
pub struct Leash {
    child: Mutex<Child>,
    pid: u32,
    pipe: Mutex<Pipe>,
    echoed: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Pipe {
    stdin: ChildStdin,
    number: u64,
}

impl Leash {
    /// Starts a leash with no duty yet. `on_end` is called, on a thread of its own, when it has ended.
    ///
    /// # Errors
    /// [`LeashError`].
    pub fn start(target: &Target, on_end: impl FnOnce() + Send + 'static) -> Result<Self, LeashError> {
        // The running file itself, also when an upgrade has replaced it on disk meanwhile.
        Self::start_as(&PathBuf::from("/proc/self/exe"), target, on_end)
    }

    /// As [`Leash::start`], from another executable.
    ///
    /// # Errors
    /// [`LeashError`].
    pub fn start_as(
        program: &std::path::Path,
        target: &Target,
        on_end: impl FnOnce() + Send + 'static,
    ) -> Result<Self, LeashError> {
        let mut command = Command::new(program);
        command
            .arg("leash")
            .arg(std::process::id().to_string())
            .arg(&target.data_dir)
            .args(&target.cgroup)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().map_err(LeashError::Start)?;
        let pid = child.id();
        let ends = (child.stdin.take(), child.stdout.take());
        let (Some(stdin), Some(mut stdout)) = ends else {
            return Err(LeashError::Start(io::Error::from(io::ErrorKind::BrokenPipe)));
        };
        rustix::io::ioctl_fionbio(&stdin, true).map_err(|errno| LeashError::Start(errno.into()))?;
        let echoed = Arc::new(AtomicU64::new(0));
        let heard = Arc::clone(&echoed);
        std::thread::Builder::new()
            .name("leash-echo".to_owned())
            .spawn(move || {
                // Ends with the leash, which ends with the guard at the latest.
                while let Ok(number) = read_echo(&mut stdout) {
                    heard.store(number, Ordering::Release);
                }
                on_end();
            })
            .map_err(LeashError::Start)?;
        let pipe = Mutex::new(Pipe { stdin, number: 0 });
        Ok(Self { child: Mutex::new(child), pid, pipe, echoed })
    }

    /// Its process number, for people.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Tells it its duty. Never waits.
    ///
    /// # Errors
    /// [`FeedError`]: replace it.
    pub fn feed(&self, duty: Duty) -> Result<u64, FeedError> {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        let number = pipe.number + 1;
        match pipe.stdin.write(&(Frame { number, duty }).encode()) {
            Ok(_) => {
                pipe.number = number;
                Ok(number)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(FeedError::Deaf),
            Err(error) => Err(FeedError::Dead(error)),
        }
    }

    /// Whether it has acted on this word: from then on an earlier duty ends nothing any more.
    #[must_use]
    pub fn knows(&self, number: u64) -> bool {
        self.echoed.load(Ordering::Acquire) >= number
    }

    /// How many words it has not acted on yet: a leash that lags behind was stopped, and must be replaced.
    #[must_use]
    pub fn lag(&self) -> u64 {
        let told = self.pipe.lock().unwrap_or_else(PoisonError::into_inner).number;
        told.saturating_sub(self.echoed.load(Ordering::Acquire))
    }

    /// Whether it is dead. Collects it if so.
    ///
    /// # Errors
    /// If the kernel cannot say.
    pub fn is_dead(&self) -> io::Result<bool> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().map(|status| status.is_some())
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Dead already is fine; a killed process is collected so that no zombie stays.
        let _ = child.kill();
        let _ = child.wait();
    }
}

// POSIX: a write of at most PIPE_BUF bytes, which is at least 512, is atomic.
const _: () = assert!(super::wire::FRAME <= 512);
