//! Processes: starting one with its log, ending it, and finding those of a database.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tokio::process::{Child, Command};

/// A process that the lab started and whose end it awaits.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: u32,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in a process group of its own, so that an interrupt at the terminal reaches only the owner;
    /// standard output and error are appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be started.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot open {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let pid = child.id().with_context(|| format!("{name} ended at once"))?;
        Ok(Self { name: name.to_owned(), child, pid, log: log.to_owned() })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Its number.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }
    /// Its log.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Sends a signal; a process that ended already is no error.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.is_running()? { send(self.pid, signal) } else { Ok(()) }
    }

    /// Kills it and awaits its end.
    ///
    /// # Errors
    /// When it cannot be killed, or does not end within 10 s.
    pub async fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.ended(Duration::from_secs(10)).await.map(|_| ())
    }

    /// Asks it to end, and awaits that; its exit code.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn stop(&mut self, limit: Duration) -> Result<Option<i32>> {
        self.signal(Signal::TERM)?;
        self.ended(limit).await
    }

    /// Awaits its end; its exit code, `None` after a signal.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn ended(&mut self, limit: Duration) -> Result<Option<i32>> {
        match tokio::time::timeout(limit, self.child.wait()).await {
            Ok(status) => Ok(status?.code()),
            Err(_) => bail!("{} (process {}) did not end within {limit:?}", self.name, self.pid),
        }
    }
}

/// What a finished program said.
#[derive(Debug, Clone)]
pub struct Said {
    /// Exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Both streams, for a message.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}{}", self.out, self.err).trim().to_owned()
    }
}

/// Runs a program to its end.
///
/// # Errors
/// When it cannot be started or does not end in time (it is killed then).
pub async fn run(mut command: Command, limit: Duration) -> Result<Said> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let shown = format!("{:?}", command.as_std());
    let output = tokio::time::timeout(limit, command.output()).await;
    let output = output.with_context(|| format!("no end within {limit:?}: {shown}"))?;
    let output = output.with_context(|| format!("cannot run {shown}"))?;
    Ok(Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs a program to its end and wants success.
///
/// # Errors
/// As [`run`], and when the exit code is not 0.
pub async fn must(command: Command, limit: Duration) -> Result<Said> {
    let shown = format!("{:?}", command.as_std());
    let said = run(command, limit).await?;
    if said.code != 0 {
        bail!("{shown} ended with {}:\n{}", said.code, said.text());
    }
    Ok(said)
}

/// A command with arguments.
pub fn command<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// Sends a signal to a process; one that is gone is no error.
///
/// # Errors
/// When the system refuses.
pub fn send(pid: u32, signal: Signal) -> Result<()> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a process number")?;
    match kill_process(number, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot signal process {pid}")),
    }
}

/// A handle on a process that never means another one which got its number later.
///
/// # Errors
/// When it is gone.
pub fn handle(pid: u32) -> Result<OwnedFd> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a process number")?;
    pidfd_open(number, PidfdFlags::empty()).with_context(|| format!("cannot take hold of process {pid}"))
}

/// A process and all its living descendants.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn tree(root: u32) -> Result<Vec<u32>> {
    let parents = parents()?;
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    Ok(found)
}

fn parents() -> Result<Vec<(u32, u32)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(parent) = stat_field(pid, 1) {
            found.push((pid, parent));
        }
    }
    Ok(found)
}

/// Field `n` after the name in `/proc/<pid>/stat` (0 is the state); `None` when the process is gone.
fn stat_field(pid: u32, n: usize) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(n)?.parse().ok()
}

/// What a process calls itself; nothing when it is gone.
#[must_use]
pub fn title(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// Whether a process lives: a zombie does not.
#[must_use]
pub fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The last lines of a file, for a message; what cannot be read is said.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("(cannot read {}: {error})", path.display()),
    }
}
