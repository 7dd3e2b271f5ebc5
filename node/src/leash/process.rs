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
/// How long the disk may take for `standby.signal` before the leash turns to its guard again.
const SIGNAL_WITHIN: Duration = Duration::from_millis(500);
/// How often the leash looks for processes that started, or that are not gone yet.
const LOOK_AGAIN: u64 = 50_000_000;
/// How long the last lines may take.
const LAST_WORDS: Duration = Duration::from_millis(200);
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

/// For the way in and out, when nothing depends on how long standard error takes.
fn say(line: &str) {
    // Nobody is left to hear when standard error is gone.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Says what the leash does, without ever waiting for whoever reads it: a full pipe must not stop the killing.
struct Voice {
    lines: std::sync::mpsc::SyncSender<String>,
    spoken: std::sync::mpsc::Receiver<()>,
}

impl Voice {
    fn start() -> io::Result<Self> {
        let (lines, inbox) = std::sync::mpsc::sync_channel::<String>(64);
        let (done, spoken) = std::sync::mpsc::channel();
        std::thread::Builder::new().name("voice".to_owned()).spawn(move || {
            for line in inbox {
                say(&line);
            }
            // The leash is at its end; it may not wait any more.
            let _ = done.send(());
        })?;
        Ok(Self { lines, spoken })
    }

    fn say(&self, line: String) {
        // A line that finds the queue full is lost; the journal was stuck long before.
        let _ = self.lines.try_send(line);
    }

    /// Gives the last lines a moment.
    fn end(self) {
        drop(self.lines);
        let _ = self.spoken.recv_timeout(LAST_WORDS);
    }
}

struct Watch {
    guard: OwnedFd,
    timer: OwnedFd,
    tree: DirectoryTree,
    duty: Duty,
    /// It killed under this duty.
    ended: bool,
    /// It killed, and has not left `standby.signal` behind yet.
    killed: bool,
    from_guard: io::Stdin,
    voice: Voice,
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
            ended: false,
            killed: false,
            from_guard: io::stdin(),
            voice: Voice::start()?,
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
                    Duty::Bound | Duty::Until(_) | Duty::Now => self.last_duty(),
                }
                self.voice.end();
                return Ok(());
            }
            match self.duty {
                Duty::Idle | Duty::Bound => {}
                Duty::Until(deadline) if !Reading::now().reached(deadline) => {}
                Duty::Until(_) => {
                    self.kill("its guard did not extend the deadline");
                    self.duty = Duty::Now;
                }
                Duty::Now => self.kill("its guard says so"),
            }
            self.leave_standby();
        }
    }

    /// The guard is gone: ends everything, waits for it, and leaves a standby behind.
    fn last_duty(&mut self) {
        let until = Instant::now() + GONE_WITHIN;
        self.kill("its guard died");
        while self.killed && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
            self.leave_standby();
        }
        if self.killed {
            self.write_signal();
        }
    }

    /// Waits for the guard's death, a word of it, or the deadline. The timer runs on `CLOCK_BOOTTIME`, so that a host
    /// that was suspended past the deadline wakes this process first of all.
    fn wait(&self) -> io::Result<(bool, bool)> {
        let nanos = match self.duty {
            Duty::Now => LOOK_AGAIN,
            Duty::Idle | Duty::Bound if self.killed => LOOK_AGAIN / 10,
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
        if std::mem::replace(&mut self.duty, frame.duty) != frame.duty {
            self.ended = false;
        }
        if self.duty == Duty::Now {
            self.kill("its guard says so");
        }
        // A guard that is gone cannot hear it; its death is noticed next.
        let _ = rustix::io::write(io::stdout(), &frame.number.to_be_bytes());
        Ok(true)
    }

    /// Kills everything, however long it takes. Repeated, it says nothing while there is nothing new to kill.
    fn kill(&mut self, why: &str) {
        loop {
            match self.tree.kill(Instant::now() + KILL_ATTEMPT) {
                Ok(report) => {
                    if !report.killed.is_empty() {
                        let (dir, count) = (self.tree.dir().display(), report.killed.len());
                        self.voice.say(format!("leash: killed {count} processes of {dir}: {why}"));
                    }
                    self.killed |= !self.ended || !report.killed.is_empty();
                    self.ended = true;
                    return;
                }
                Err(error) => {
                    self.voice.say(format!("leash: {error}"));
                    std::thread::sleep(KILL_PAUSE);
                }
            }
        }
    }

    /// Once nobody is left, makes sure that the instance comes up as a standby only.
    fn leave_standby(&mut self) {
        if self.killed && self.tree.scan().is_ok_and(|left| left.is_empty()) {
            self.write_signal();
        }
    }

    /// The disk may hang, so another thread does it; only the last word before the end is waited for.
    fn write_signal(&mut self) {
        self.killed = false;
        let dir = self.tree.dir().to_owned();
        let shown = dir.display().to_string();
        let (done, wait) = std::sync::mpsc::channel();
        let write = move || {
            // Nobody waits for it any more: the disk took too long.
            let _ = done.send(standby_signal(&dir));
        };
        let result = match std::thread::Builder::new().name("signal".to_owned()).spawn(write) {
            Ok(_) => wait.recv_timeout(SIGNAL_WITHIN).unwrap_or(Err(io::ErrorKind::TimedOut.into())),
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => self.voice.say(format!("leash: {shown} is quiet; it comes up as a standby")),
            Err(error) => {
                self.voice.say(format!("leash: standby.signal of {shown} could not be written: {error}"))
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
