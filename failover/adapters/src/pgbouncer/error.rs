//! Why a database is not led where it should be, and what that means for the step that asked.

use mesh_proto::effect::{Finding, Outcome, Refusal};

use super::console::{ConsoleAt, ConsoleError};
use super::entry::NoColumn;
use super::lead::Led;
use crate::owned::FileError;

/// Why a database is not led where it should be. Except in [`PgbouncerError::Unknown`] it is certain that it does not lead
/// to the wanted primary by this call.
#[derive(Debug, thiserror::Error)]
pub enum PgbouncerError {
    /// A name that could carry another command.
    #[error("{name:?} is no name of a PgBouncer database; use letters, digits, '-', '_' and '.'")]
    BadName {
        /// The name.
        name: String,
    },
    /// The include file, before or after PAUSE.
    #[error("the include file is not as it should be")]
    File(#[source] FileError),
    /// The console was not reached; nothing was changed but the file, for its return.
    #[error("PgBouncer's console was not reached; check that it runs and listens at {at}")]
    NotReached {
        /// Where.
        at: ConsoleAt,
        /// Why.
        #[source]
        source: ConsoleError,
    },
    /// It does not let us in, or not change anything; nothing was changed.
    #[error(
        "PgBouncer at {at} refuses {user:?}; name it in `admin_users`, and check its password file and `auth_file`"
    )]
    Denied {
        /// Where.
        at: ConsoleAt,
        /// As whom.
        user: String,
        /// What it said.
        #[source]
        source: ConsoleError,
    },
    /// A table of the console could not be read, before anything was changed.
    #[error(
        "the console at {at} answers in a form that mesh does not know; PgBouncer 1.16 or newer is needed"
    )]
    Unreadable {
        /// Where.
        at: ConsoleAt,
        /// Why.
        #[source]
        source: NoColumn,
    },
    /// Transactions do not end, and the policy forbids ending them. PAUSE was taken back.
    #[error(
        "{connections} server connections of database {database:?} are in transactions that do not end, and `on_stuck = \"refuse\"`; \
         end them, or say `KILL {database}` on the console, and repeat"
    )]
    Stuck {
        /// The database.
        database: String,
        /// How many.
        connections: u32,
    },
    /// PgBouncer took every command, and reading back shows that it is not in force.
    #[error("database {database:?} is not led to {wanted}: {}", findings.join("; "))]
    NotInForce {
        /// The database.
        database: String,
        /// Where it should lead.
        wanted: String,
        /// What differs.
        findings: Vec<String>,
    },
    /// Only verified, and it is not so.
    #[error("database {database:?} is not led to {wanted}: {}", findings.join("; "))]
    NotSo {
        /// The database.
        database: String,
        /// Where it should lead.
        wanted: String,
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
    /// Failed between PAUSE and RESUME.
    #[error(
        "database {database:?} stands paused, as far as known: its clients wait instead of reaching the old primary; mend the cause \
         and repeat, or say `RESUME {database}` on the console"
    )]
    LeftPaused {
        /// The database.
        database: String,
        /// What failed.
        #[source]
        source: Box<PgbouncerError>,
    },
}

/// How the certainty was lost.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// No answer came.
    #[error("no answer came")]
    Console(#[source] ConsoleError),
    /// The answer to reading back could not be read.
    #[error("what was read back cannot be read")]
    Table(#[source] NoColumn),
}

/// What a call means for the step that asked: done, certainly not done, or unknown.
#[must_use]
pub fn outcome(result: Result<Led, PgbouncerError>) -> Outcome {
    match result {
        Ok(led) => Outcome::Done(Finding::Routed { ended: led.ended, stragglers: led.stragglers }),
        Err(error) => {
            let detail = crate::words(&error);
            match code(&error) {
                Some(code) => Outcome::Refused { code, detail },
                None => Outcome::Unknown { detail },
            }
        }
    }
}

/// Which refusal; `None` when nobody knows.
fn code(error: &PgbouncerError) -> Option<Refusal> {
    Some(match error {
        PgbouncerError::Unknown { .. } => return None,
        PgbouncerError::LeftPaused { source, .. } => return code(source),
        PgbouncerError::NotSo { .. } => Refusal::NotSo,
        PgbouncerError::NotReached { .. } => Refusal::NotDelivered,
        PgbouncerError::File(FileError::Stale { .. }) => Refusal::StaleEpoch,
        PgbouncerError::BadName { .. }
        | PgbouncerError::File(FileError::NotOurs { .. } | FileError::Mark { .. }) => Refusal::NotConfigured,
        PgbouncerError::File(FileError::Disk(_))
        | PgbouncerError::Denied { .. }
        | PgbouncerError::Unreadable { .. }
        | PgbouncerError::Stuck { .. }
        | PgbouncerError::NotInForce { .. } => Refusal::Failed,
    })
}
