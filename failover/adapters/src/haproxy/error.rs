//! Why a backend is not led where it should be, and what that means for the step that asked.

use mesh_proto::effect::{Finding, Outcome, Refusal};

use super::exchange::{Endpoint, ExchangeError};
use super::lead::Led;
use super::table::TableError;
use crate::owned::FileError;

/// Why a backend is not led where it should be. Except in [`HaproxyError::Unknown`] it is certain that the new server
/// is not in by this call.
#[derive(Debug, thiserror::Error)]
pub enum HaproxyError {
    /// A name that could carry another command.
    #[error(
        "{name:?} is no name of an HAProxy backend or server; use letters, digits, '-', '_', '.' and ':'"
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// HAProxy was not reached; nothing was changed.
    #[error(
        "HAProxy was not reached; check that it runs and that its file has `stats socket {endpoint} level admin`, readable by the agent's user"
    )]
    NotReached {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        #[source]
        source: ExchangeError,
    },
    /// The socket may not change anything.
    #[error(
        "the socket {endpoint} has level {level:?}; write `level admin` in its `stats socket` line, and reload HAProxy"
    )]
    TooWeak {
        /// Where.
        endpoint: Endpoint,
        /// Its level.
        level: String,
    },
    /// No such backend.
    #[error("HAProxy has no backend {backend:?} (it has {}); correct the route's `backend`, or HAProxy's file", known.join(", "))]
    UnknownBackend {
        /// The backend asked for.
        backend: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// No such server in the backend.
    #[error(
        "backend {backend:?} has no server {server:?} (it has {}); name each server after its instance in HAProxy's file, and reload it",
        known.join(", ")
    )]
    UnknownServer {
        /// The backend.
        backend: String,
        /// The server asked for.
        server: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// The server stands for another address than the instance has.
    #[error(
        "server {server:?} of backend {backend:?} leads to {found}, but the instance is at {expected}; make HAProxy's file and the group's spec agree"
    )]
    OtherAddress {
        /// The backend.
        backend: String,
        /// The server.
        server: String,
        /// What the spec says.
        expected: String,
        /// What HAProxy says.
        found: String,
    },
    /// A table could not be read, before anything was changed.
    #[error(
        "the answer of {endpoint} to {command:?} cannot be read; check that it is the admin socket of an HAProxy 2.2 or newer"
    )]
    Unreadable {
        /// Where.
        endpoint: Endpoint,
        /// What was asked.
        command: String,
        /// Why.
        #[source]
        source: TableError,
    },
    /// The server-state file, before anything was changed at run time.
    #[error("the server-state file of backend {backend:?} is not as it should be")]
    File {
        /// The backend.
        backend: String,
        /// Why.
        #[source]
        source: FileError,
    },
    /// HAProxy answered a change with words, and reading back shows that it is not in force.
    #[error("backend {backend:?} is not led to {server:?}: {}", findings.join("; "))]
    NotInForce {
        /// The backend.
        backend: String,
        /// The server.
        server: String,
        /// What differs, and what HAProxy said.
        findings: Vec<String>,
    },
    /// Only verified, and it is not so.
    #[error("backend {backend:?} is not led to {server:?}: {}", findings.join("; "))]
    NotSo {
        /// The backend.
        backend: String,
        /// The server.
        server: String,
        /// What differs.
        findings: Vec<String>,
    },
    /// Something was sent, and nobody knows what came of it: verify before repeating.
    #[error("whether {command:?} took effect is not known; verify before repeating it")]
    Unknown {
        /// The command in question.
        command: String,
        /// Why.
        #[source]
        source: Lost,
    },
}

/// How the certainty was lost.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// No whole answer came.
    #[error("no whole answer came")]
    Exchange(#[source] ExchangeError),
    /// The answer to reading back could not be read.
    #[error("what was read back cannot be read")]
    Table(#[source] TableError),
}

/// What a call means for the step that asked: done, certainly not done, or unknown.
#[must_use]
pub fn outcome(result: Result<Led, HaproxyError>) -> Outcome {
    let error = match result {
        Ok(led) => {
            return Outcome::Done(Finding::Routed { ended: led.ended, stragglers: led.stragglers });
        }
        Err(error) => error,
    };
    let detail = crate::words(&error);
    let code = match error {
        HaproxyError::Unknown { .. } => return Outcome::Unknown { detail },
        HaproxyError::NotSo { .. } => Refusal::NotSo,
        HaproxyError::File { source: FileError::Stale { .. }, .. } => Refusal::StaleEpoch,
        HaproxyError::File { source: FileError::NotOurs { .. } | FileError::Mark { .. }, .. }
        | HaproxyError::BadName { .. }
        | HaproxyError::TooWeak { .. }
        | HaproxyError::UnknownBackend { .. }
        | HaproxyError::UnknownServer { .. }
        | HaproxyError::OtherAddress { .. } => Refusal::NotConfigured,
        HaproxyError::File { source: FileError::Disk(_), .. }
        | HaproxyError::NotReached { .. }
        | HaproxyError::Unreadable { .. }
        | HaproxyError::NotInForce { .. } => Refusal::Failed,
    };
    Outcome::Refused { code, detail }
}
