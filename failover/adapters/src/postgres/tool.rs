//! Running PostgreSQL's own programs with a deadline. Exit codes decide; their output is only shown to people.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use super::instance::Instance;
use crate::process::Awaited;

/// Why a program did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is not installed where the settings say.
    #[error("{} is not there; install PostgreSQL's server package or correct `bin_dir`", program.display())]
    Missing {
        /// The program.
        program: PathBuf,
    },
    /// It could not be executed.
    #[error("cannot execute {}", program.display())]
    Exec {
        /// The program.
        program: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The deadline came first; it was killed.
    #[error("{} did not end within the deadline and was killed", program.display())]
    Deadline {
        /// The program.
        program: PathBuf,
    },
    /// It reported failure.
    #[error("{} failed with {status}: {said}", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// Exit code or signal.
        status: String,
        /// The end of what it said.
        said: String,
    },
}

/// Runs a short program to its end and returns what it printed.
pub(super) async fn run<S: AsRef<OsStr>>(
    instance: &Instance,
    name: &str,
    args: &[S],
    deadline: Instant,
) -> Result<String, ToolError> {
    let program = instance.program(name);
    let mut command = tokio::process::Command::new(&program);
    command.args(args).env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true).current_dir("/");
    if let Some(user) = instance.settings().run_as {
        command.uid(user.uid).gid(user.gid);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let (child, _awaited) = match Awaited::spawn(&mut command) {
        Ok(started) => started,
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            return Err(ToolError::Missing { program });
        }
        Err(source) => return Err(ToolError::Exec { program, source }),
    };
    let output = match tokio::time::timeout_at(deadline.into(), child.wait_with_output()).await {
        Err(_elapsed) => return Err(ToolError::Deadline { program }),
        Ok(Err(source)) => return Err(ToolError::Exec { program, source }),
        Ok(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = tail(&String::from_utf8_lossy(&output.stderr), 5);
    Err(ToolError::Failed { program, status: output.status.to_string(), said })
}

/// The last lines of a text, on one line.
pub(super) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    all[all.len().saturating_sub(lines)..].join(" | ")
}
