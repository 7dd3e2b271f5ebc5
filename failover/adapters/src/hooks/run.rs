//! Runs one hook to its end, or to its deadline.

use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use std::os::unix::process::ExitStatusExt;

use mesh_proto::effect::{Finding, Outcome, Refusal};
use mesh_proto::{Epoch, GroupName, InstanceName, RunId, SiteName};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{timeout, timeout_at};

use super::output::{Gatherer, Output};
use crate::process::ProcessHandle;

/// The exit code for "not done, try again" (`EX_TEMPFAIL`).
const TRY_AGAIN: i32 = 75;
/// After the end of the process group, for what is left in the pipes. A process that left the group may hold them open.
const DRAIN: Duration = Duration::from_millis(200);
/// How long a process that got SIGKILL may take to be gone; one in a hung disk's grip takes for ever.
const REAP: Duration = Duration::from_secs(1);
/// How much of the output goes into an outcome.
const SHOWN_CHARS: usize = 500;

/// A command of the operator's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Its name, for people.
    pub name: String,
    /// Absolute path.
    pub program: PathBuf,
    /// Arguments, the same at each run; never a secret.
    pub args: Vec<String>,
    /// It is there to leave something running: what is left of its group when it ends by itself stays. A daemon that was just
    /// forked may not have left the group yet. At the deadline everything is killed all the same.
    pub leaves: bool,
}

/// What a hook is run for: the object on its stdin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Call {
    /// The run.
    pub run: RunId,
    /// The group.
    pub group: GroupName,
    /// The epoch whose primary the run leads to.
    pub epoch: Epoch,
    /// Where the run stands, such as `before-promotion`.
    pub phase: String,
    /// The new primary.
    pub instance: InstanceName,
    /// Its site.
    pub site: SiteName,
    /// From 1; higher ones repeat what may have been done.
    pub attempt: u32,
}

/// How a hook ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// 0
    Done,
    /// 75
    TryAgain,
    /// Another code.
    Failed {
        /// The code.
        code: i32,
    },
    /// A signal that was not ours.
    Signalled {
        /// Its number.
        signal: i32,
    },
    /// It was killed at its deadline, with its process group.
    TimedOut,
}

/// What came of a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How it ended.
    pub ended: Ended,
    /// What it said.
    pub output: Output,
    /// How long it ran.
    pub took: Duration,
}

/// Why a hook did not run, or is not known to have ended.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// A path that depends on who starts it.
    #[error("hook {name}: {} is not an absolute path; write the whole path", program.display())]
    NotAbsolute {
        /// The hook.
        name: String,
        /// The program.
        program: PathBuf,
    },
    /// It was not started.
    #[error("hook {name}: cannot execute {}; check that it is there, and executable by the agent's user", program.display())]
    Start {
        /// The hook.
        name: String,
        /// The program.
        program: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// What it is run for could not be written as JSON.
    #[error("hook {name}: what it is run for cannot be written as JSON")]
    Call {
        /// The hook.
        name: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// It was started, and its end could not be observed; it was killed.
    #[error(
        "hook {name} was started, and its end could not be seen; it was killed, and may have done its work or not"
    )]
    Lost {
        /// The hook.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Runs a hook, with `call` (a [`Call`], for the hook of a run) on its stdin. When this returns, no process of its group is left, but what one that [leaves](Hook::leaves) something left.
///
/// # Errors
/// [`HookError`]; only after [`HookError::Lost`] was it started.
pub async fn run(hook: &Hook, call: &impl Serialize, deadline: Instant) -> Result<Report, HookError> {
    let name = || hook.name.clone();
    if !hook.program.is_absolute() {
        return Err(HookError::NotAbsolute { name: name(), program: hook.program.clone() });
    }
    let mut input = serde_json::to_vec(call).map_err(|source| HookError::Call { name: name(), source })?;
    input.push(b'\n');
    let began = Instant::now();
    let mut group = Group::start(hook)?;
    let gatherer = Gatherer::default();
    let (stdin, out, err) = (group.child.stdin.take(), group.child.stdout.take(), group.child.stderr.take());
    let mut reading = tokio::spawn({
        let (out, err) = (gatherer.clone().read(out), gatherer.clone().read(err));
        async move { tokio::join!(out, err) }
    });
    let feeding = tokio::spawn(feed(stdin, input));
    let ended = group.end(deadline, hook.leaves).await;
    feeding.abort();
    if timeout(DRAIN, &mut reading).await.is_err() {
        reading.abort();
    }
    let ended = ended.map_err(|source| HookError::Lost { name: name(), source })?;
    Ok(Report { ended, output: gatherer.so_far(), took: began.elapsed() })
}

/// A hook that does not read its input is none the worse for it.
async fn feed(stdin: Option<ChildStdin>, input: Vec<u8>) {
    let Some(mut stdin) = stdin else { return };
    if let Err(error) = stdin.write_all(&input).await {
        tracing::debug!(%error, "a hook did not read what it is run for");
    }
}

/// The process group of a hook. Dropped before its end, it is killed.
struct Group {
    child: Child,
    id: Option<Pid>,
}

impl Group {
    fn start(hook: &Hook) -> Result<Self, HookError> {
        let mut command = Command::new(&hook.program);
        command
            .args(&hook.args)
            .env_clear()
            .envs([("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C")])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().map_err(|source| HookError::Start {
            name: hook.name.clone(),
            program: hook.program.clone(),
            source,
        })?;
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Self { child, id })
    }

    /// Waits for the end, and kills what is left of the group, unless that is to stay, while its number is still ours:
    /// before the leader is collected.
    async fn end(&mut self, deadline: Instant, leaves: bool) -> io::Result<Ended> {
        let seen = match self.id.map(|id| ProcessHandle::open(id.as_raw_nonzero().get())).transpose()? {
            Some(Some(leader)) => timeout_at(deadline.into(), leader.dead()).await,
            // A zombie already.
            Some(None) | None => Ok(Ok(())),
        };
        if !leaves || seen.is_err() {
            self.kill()?;
        }
        let reaped = timeout(REAP, self.child.wait()).await;
        let status = reaped.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
        self.id = None;
        match seen {
            Ok(watched) => watched.map(|()| ended(status)),
            Err(_elapsed) => Ok(Ended::TimedOut),
        }
    }

    fn kill(&self) -> io::Result<()> {
        let Some(id) = self.id else { return Ok(()) };
        match kill_process_group(id, Signal::KILL) {
            // Only zombies are left in it.
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::error!(%error, "cannot kill the process group of a hook");
        }
    }
}

fn ended(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ended::Done,
        (Some(TRY_AGAIN), _) => Ended::TryAgain,
        (Some(code), _) => Ended::Failed { code },
        (None, signal) => Ended::Signalled { signal: signal.unwrap_or_default() },
    }
}

/// What a hook's end means for the step that ran it.
#[must_use]
pub fn outcome(hook: &Hook, result: Result<Report, HookError>) -> Outcome {
    let name = &hook.name;
    let report = match result {
        Ok(report) => report,
        Err(error) => {
            let detail = crate::words(&error);
            return match error {
                HookError::NotAbsolute { .. } | HookError::Start { .. } | HookError::Call { .. } => {
                    Outcome::Refused { code: Refusal::NotConfigured, detail }
                }
                HookError::Lost { .. } => Outcome::Unknown { detail },
            };
        }
    };
    let said = said(&report.output);
    let refused = |code, what: String| Outcome::Refused { code, detail: format!("hook {name} {what}{said}") };
    match report.ended {
        Ended::Done => Outcome::Done(Finding::Nothing),
        Ended::TryAgain => refused(Refusal::NotDelivered, "asks to be tried again".to_owned()),
        Ended::Failed { code } => refused(Refusal::Failed, format!("failed with exit code {code}")),
        Ended::Signalled { signal } => refused(Refusal::Failed, format!("was ended by signal {signal}")),
        Ended::TimedOut => {
            let detail =
                format!("hook {name} did not end in time and was killed with its process group{said}");
            Outcome::Unknown { detail }
        }
    }
}

/// The end of the output, where the reason usually stands.
fn said(output: &Output) -> String {
    let text = output.to_string();
    if text.is_empty() {
        return String::new();
    }
    let skip = text.chars().count().saturating_sub(SHOWN_CHARS);
    let shown: String = text.chars().skip(skip).map(|c| if c == '\n' { '|' } else { c }).collect();
    format!("; it said: {}{shown}", if skip > 0 { "… " } else { "" })
}
