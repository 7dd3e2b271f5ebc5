//! The leash itself: one thread, one loop, three things to wait for (the guard's death, a word of the guard, the
//! deadline).

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mesh_adapters::process::DirectoryTree;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getppid, pidfd_open, setsid};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::signal::unix::{SignalKind, signal};

use super::wire::{Duty, FRAME, Frame};
use crate::clock::Reading;

/// How long one attempt to kill everything goes on before it begins anew; there is no giving up.
const KILL_ATTEMPT: Duration = Duration::from_millis(500);
/// Pause between attempts, so that a process table that cannot be read does not eat the processor.
const KILL_PAUSE: Duration = Duration::from_millis(20);
/// How long killed processes may take to vanish before `standby.signal` is written all the same.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// What the command line looks like when somebody else starts it.
const NOT_FOR_PEOPLE: &str = "mesh leash is started by mesh guard and by nobody else; nothing was done";

/// Runs the leash until its guard is dead. `words`: the guard's process number, the canonical data directory, and the
/// instance's cgroup if it has one.
#[must_use]
pub fn run(words: &[OsString]) -> ExitCode {
    let Some((guard, data_dir, cgroup)) = arguments(words) else {
        say(NOT_FOR_PEOPLE);
        return ExitCode::from(2);
    };
    match Watch::begin(guard, data_dir, cgroup).and_then(Watch::keep) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("leash: {error}; the guard starts another one"));
            ExitCode::FAILURE
        }
    }
}

fn arguments(words: &[OsString]) -> Option<(i32, PathBuf, Option<PathBuf>)> {
    let (guard, rest) = words.split_first()?;
    let (data_dir, rest) = rest.split_first()?;
    let guard = guard.to_str()?.parse().ok()?;
    (rest.len() <= 1).then(|| (guard, PathBuf::from(data_dir), rest.first().map(PathBuf::from)))
}

/// Nobody is left to hear when standard error is gone.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

struct Watch {
    guard: OwnedFd,
    timer: OwnedFd,
    tree: DirectoryTree,
    duty: Duty,
    from_guard: io::Stdin,
    // Its signal handlers live as long as it does.
    _runtime: tokio::runtime::Runtime,
}

impl Watch {
    fn begin(guard: i32, data_dir: PathBuf, cgroup: Option<PathBuf>) -> io::Result<Self> {
        // A session of its own: what a terminal sends to the guard's foreground group is not for the leash.
        setsid()?;
        let held = Pid::from_raw(guard).ok_or(Errno::INVAL)?;
        let handle = pidfd_open(held, PidfdFlags::empty())?;
        // Our parent's number, read after we hold the pidfd: the number was not reused in between.
        if getppid() != Some(held) {
            return Err(io::Error::other("the guard that started this leash is gone already"));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        deafen(&runtime)?;
        std::env::set_current_dir("/")?;
        Ok(Self {
            guard: handle,
            timer: timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK)?,
            tree: DirectoryTree::new(data_dir, cgroup),
            duty: Duty::Idle,
            from_guard: io::stdin(),
            _runtime: runtime,
        })
    }

    fn keep(mut self) -> io::Result<()> {
        loop {
            let (guard_died, spoke) = self.wait()?;
            // What the guard said last counts even when it died right after.
            let silent = spoke && !self.listen()?;
            if guard_died || silent {
                match self.duty {
                    Duty::Idle => {}
                    Duty::Bound | Duty::Until(_) => self.end_instance("its guard died"),
                }
                return Ok(());
            }
            if let Duty::Until(deadline) = self.duty
                && Reading::now().reached(deadline)
            {
                self.end_instance("its guard did not extend the deadline");
                self.duty = Duty::Bound;
            }
        }
    }

    /// Waits for the guard's death, a word of it, or the deadline. The timer runs on `CLOCK_BOOTTIME`, so that a host
    /// that was suspended past the deadline wakes this process first of all.
    fn wait(&self) -> io::Result<(bool, bool)> {
        let nanos = match self.duty {
            Duty::Idle | Duty::Bound => 0,
            // Zero would disarm the timer.
            Duty::Until(deadline) => Reading::now().until(deadline).max(1),
        };
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec {
            tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(nanos % 1_000_000_000).unwrap_or(0),
        };
        timerfd_settime(
            &self.timer,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: zero, it_value: value },
        )?;
        let mut fds = [
            PollFd::new(&self.guard, PollFlags::IN),
            PollFd::new(&self.from_guard, PollFlags::IN),
            PollFd::new(&self.timer, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok((!fds[0].revents().is_empty(), !fds[1].revents().is_empty()))
    }

    /// Reads one frame and answers it; `false` when the guard closed its end. Frames are shorter than `PIPE_BUF`, so one is
    /// there whole or not at all.
    fn listen(&mut self) -> io::Result<bool> {
        let mut bytes = [0; FRAME];
        match rustix::io::read(self.from_guard.as_fd(), &mut bytes) {
            Ok(0) => return Ok(false),
            Ok(FRAME) => {}
            Ok(_) => return Err(io::Error::other("the guard sent half a frame")),
            Err(Errno::INTR | Errno::AGAIN) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        let frame = Frame::decode(&bytes).ok_or_else(|| io::Error::other("the guard sent no frame"))?;
        self.duty = frame.duty;
        // A guard that is gone cannot hear it; its death is noticed next.
        let _ = rustix::io::write(io::stdout(), &frame.number.to_be_bytes());
        Ok(true)
    }

    /// Kills everything, however long it takes, and then makes sure that the instance comes up as a standby only.
    fn end_instance(&self, why: &str) {
        let dir = self.tree.dir().display();
        say(&format!("leash: ending every process of {dir}: {why}"));
        loop {
            match self.tree.kill(Instant::now() + KILL_ATTEMPT) {
                Ok(_) => break,
                Err(error) => {
                    say(&format!("leash: {error}"));
                    std::thread::sleep(KILL_PAUSE);
                }
            }
        }
        let until = Instant::now() + GONE_WITHIN;
        while Instant::now() < until && self.tree.scan().is_ok_and(|left| !left.is_empty()) {
            std::thread::sleep(Duration::from_millis(1));
        }
        match standby_signal(self.tree.dir()) {
            Ok(()) => say(&format!("leash: {dir} is quiet; it comes up as a standby")),
            Err(error) => {
                say(&format!("leash: {dir} is killed, but standby.signal could not be written: {error}"))
            }
        }
    }
}

/// A stop of the whole unit, or Ctrl-C, is for the guard to answer, by fencing; the leash stays until the guard is gone.
fn deafen(runtime: &tokio::runtime::Runtime) -> io::Result<()> {
    let _entered = runtime.enter();
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::quit()] {
        // Registering replaces the default action for the rest of the process's life.
        let _registered = signal(kind)?;
    }
    Ok(())
}

/// Writes `standby.signal`, file and directory synced, as the owner of the directory. A directory that is no data
/// directory is left alone.
fn standby_signal(data_dir: &Path) -> io::Result<()> {
    if !data_dir.join("PG_VERSION").exists() {
        return Ok(());
    }
    let owner = std::fs::metadata(data_dir)?;
    let path = data_dir.join("standby.signal");
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    if file.metadata()?.uid() != owner.uid() {
        std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    file.sync_all()?;
    File::open(data_dir)?.sync_all()
}

/// Reads the answers of a leash, for its guard.
pub(super) fn read_echo(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; super::wire::ECHO];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}
