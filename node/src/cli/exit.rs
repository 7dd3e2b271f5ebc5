//! How a command ends: a closed list of exit codes, and an error that says what to do next.

use std::io::Write as _;
use std::process::ExitCode;

use mesh_proto::operator::{Refusal, RefusalCode};

/// The text of `mesh help exit-codes`.
pub const HELP: &str = "\
What the exit codes mean. They are stable: scripts may decide by them.

  0  done
  1  unexpected error; the text says which
  2  wrong usage, or invalid input; nothing changed
  3  refused as unsafe: the text says what it would cost, and what overrides it; nothing changed
  4  conflict: another run, a pause, or a newer version is in the way; nothing changed
  5  no quorum, or the agent on this host cannot be reached; nothing changed
  6  the run ended stuck or aborted, or a verification failed; of `mesh audit live`: a place lags or contradicts the log;
     of `mesh doctor`: something is in the way of a failover
  7  not found: no group, instance, run or member of this name; nothing changed
  8  the outcome is unknown: look with `mesh status` and `mesh run` before repeating anything; of `mesh audit live`:
     nothing that was seen is wrong, and not every place could be seen
  9  not supported by this version; nothing changed
 10  denied: this user has no role for it on this host, or asked for it and cannot approve it too; nothing changed
 11  proposed: it takes two persons, and waits for the other one; nothing changed yet

`mesh status` ends with 0 whenever it could be shown, however bad the news is; scripts read
`mesh status --json`.";

/// Runs `mesh exit-codes`.
#[must_use]
pub fn explain() -> ExitCode {
    let _gone = writeln!(std::io::stdout().lock(), "{HELP}");
    Exit::Done.into()
}

/// Every way to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// Unexpected error.
    Error,
    /// Wrong usage or invalid input.
    Invalid,
    /// Refused as unsafe.
    Unsafe,
    /// Something else is going on.
    Conflict,
    /// No quorum, or no agent.
    NotReachable,
    /// The run ended stuck or aborted, or a verification failed.
    RunFailed,
    /// No such thing.
    NotFound,
    /// Outcome unknown.
    Unknown,
    /// Not in this version.
    NotSupported,
    /// This user may not.
    Denied,
    /// It waits for a second person.
    Proposed,
}

impl Exit {
    /// The number the shell sees.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Error => 1,
            Self::Invalid => 2,
            Self::Unsafe => 3,
            Self::Conflict => 4,
            Self::NotReachable => 5,
            Self::RunFailed => 6,
            Self::NotFound => 7,
            Self::Unknown => 8,
            Self::NotSupported => 9,
            Self::Denied => 10,
            Self::Proposed => 11,
        }
    }
    /// The name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Error => "error",
            Self::Invalid => "invalid",
            Self::Unsafe => "unsafe",
            Self::Conflict => "conflict",
            Self::NotReachable => "not-reachable",
            Self::RunFailed => "run-failed",
            Self::NotFound => "not-found",
            Self::Unknown => "unknown",
            Self::NotSupported => "not-supported",
            Self::Denied => "denied",
            Self::Proposed => "proposed",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl From<RefusalCode> for Exit {
    fn from(code: RefusalCode) -> Self {
        match code {
            RefusalCode::Invalid => Self::Invalid,
            RefusalCode::NotFound => Self::NotFound,
            RefusalCode::Unsafe => Self::Unsafe,
            RefusalCode::Conflict => Self::Conflict,
            RefusalCode::NoQuorum => Self::NotReachable,
            RefusalCode::NotSupported => Self::NotSupported,
            RefusalCode::Denied => Self::Denied,
            RefusalCode::Unknown => Self::Unknown,
        }
    }
}

/// A command that did not do what was asked: what is wrong, where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How the command ends.
    pub exit: Exit,
    /// What is wrong.
    pub what: String,
    /// The offending place, ready to be shown (a line of a file with its number).
    pub place: Option<String>,
    /// What to do; empty when there is nothing to add.
    pub next: String,
}

impl Failure {
    /// A failure without a place.
    pub fn new(exit: Exit, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { exit, what: what.into(), place: None, next: next.into() }
    }
    /// As a person reads it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("mesh: {}\n", self.what);
        if let Some(place) = &self.place {
            text.push_str(place);
            if !place.ends_with('\n') {
                text.push('\n');
            }
        }
        if !self.next.is_empty() {
            text.push_str(&format!("next: {}\n", self.next.replace('\n', "\n      ")));
        }
        text
    }
    /// As a program reads it: one line.
    #[must_use]
    pub fn json(&self) -> String {
        let value = serde_json::json!({ "error": {
            "code": self.exit.name(),
            "exit": self.exit.code(),
            "what": self.what,
            "place": self.place,
            "next": self.next,
        }});
        format!("{value}\n")
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code.into(), refusal.what, refusal.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_that_the_help_documents() {
        let all = [
            Exit::Done,
            Exit::Error,
            Exit::Invalid,
            Exit::Unsafe,
            Exit::Conflict,
            Exit::NotReachable,
            Exit::RunFailed,
            Exit::NotFound,
            Exit::Unknown,
            Exit::NotSupported,
        ];
        for (number, exit) in all.into_iter().enumerate() {
            assert_eq!(usize::from(exit.code()), number);
            assert!(HELP.contains(&format!("\n  {number}  ")), "{number} is not documented");
        }
    }
}
