//! SQL sessions with a deadline on every step. tokio-postgres has a connect timeout only for TCP and none for queries,
//! so each await is bounded here. A session ends with its value: the task that drives it is aborted on drop.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mesh_proto::Lsn;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, PgLsn, ToSql, Type};
use tokio_postgres::{Client, Config, NoTls, Row, Statement};

use super::instance::Instance;

/// What went wrong between us and a server. `what` names the step.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The deadline came first. The server may have done it or not.
    #[error("{what}: no answer within the deadline")]
    Deadline {
        /// The step.
        what: &'static str,
    },
    /// No session could be opened.
    #[error("{what}: cannot connect to {target}")]
    Connect {
        /// The step.
        what: &'static str,
        /// Whom.
        target: String,
        /// Why; its SQLSTATE is in [`SqlError::state`].
        #[source]
        source: tokio_postgres::Error,
    },
    /// The server refused, or the session broke.
    #[error("{what}: the server refused or the session broke")]
    Query {
        /// The step.
        what: &'static str,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// Another number of rows than the question has.
    #[error("{what}: {rows} rows where one was expected")]
    Rows {
        /// The step.
        what: &'static str,
        /// How many came.
        rows: usize,
    },
    /// The answer had another form than this version of PostgreSQL gives.
    #[error("{what}: unexpected answer")]
    Answer {
        /// The step.
        what: &'static str,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
}

impl SqlError {
    /// The SQLSTATE, where the server gave one.
    #[must_use]
    pub fn state(&self) -> Option<&SqlState> {
        match self {
            SqlError::Deadline { .. } | SqlError::Rows { .. } => None,
            SqlError::Connect { source, .. }
            | SqlError::Query { source, .. }
            | SqlError::Answer { source, .. } => source.code(),
        }
    }

    /// Whether it was the deadline.
    #[must_use]
    pub fn is_deadline(&self) -> bool {
        matches!(self, SqlError::Deadline { .. })
    }
}

/// What a session's commits wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// This server's disk only; never blocked by a missing standby.
    Local,
    /// The commit quorum, if the server has one.
    Quorum,
    /// Whatever the server's settings say.
    AsConfigured,
}

impl Durability {
    /// Begins a transaction whose commit waits for this.
    pub(super) fn begin(self) -> &'static str {
        match self {
            Durability::Local => "BEGIN; SET LOCAL synchronous_commit = local",
            Durability::Quorum => "BEGIN; SET LOCAL synchronous_commit = on",
            Durability::AsConfigured => "BEGIN; SET LOCAL synchronous_commit TO DEFAULT",
        }
    }

    fn option(self) -> &'static str {
        match self {
            Durability::Local => "-c synchronous_commit=local",
            Durability::Quorum => "-c synchronous_commit=on",
            Durability::AsConfigured => "",
        }
    }
}

/// An open session.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Where a session was to lead, for people: `10.0.0.1:5432`, or the directory of the socket.
fn target(config: &Config) -> String {
    let ports = config.get_ports();
    let places = config.get_hosts().iter().zip(0..).map(|(host, at)| {
        let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432);
        match host {
            tokio_postgres::config::Host::Tcp(name) => format!("{name}:{port}"),
            tokio_postgres::config::Host::Unix(path) => format!("{}/.s.PGSQL.{port}", path.display()),
        }
    });
    places.collect::<Vec<_>>().join(", ")
}

impl Session {
    /// Opens a superuser session over the unix socket. `search_path` is pinned: objects of users can't pose as ours.
    pub(super) async fn local(
        instance: &Instance,
        durability: Durability,
        deadline: Instant,
    ) -> Result<Session, SqlError> {
        let left = deadline.saturating_duration_since(Instant::now());
        Session::local_lasting(instance, durability, left, deadline).await
    }

    /// As [`Session::local`], for statements that may take `statement` each, whatever the deadline of the connect.
    pub(super) async fn local_lasting(
        instance: &Instance,
        durability: Durability,
        statement: Duration,
        deadline: Instant,
    ) -> Result<Session, SqlError> {
        let settings = instance.settings();
        let mut config = Config::new();
        config
            .host_path(&settings.socket_dir)
            .port(settings.port)
            .user(&settings.superuser)
            .dbname(&settings.database)
            .application_name("mesh_guard")
            .options(guarded_options(durability, statement));
        Session::open(&config, "local session", deadline).await
    }

    /// Opens a session as configured.
    pub(super) async fn open(
        config: &Config,
        what: &'static str,
        deadline: Instant,
    ) -> Result<Session, SqlError> {
        let connecting = bounded(what, deadline, config.connect(NoTls)).await?;
        let (client, connection) = connecting.map_err(|source| {
            let target = target(config);
            SqlError::Connect { what, target, source }
        })?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                // The query in flight gets the same error; this line is for sessions that were idle.
                tracing::debug!(%error, "a database session ended");
            }
        });
        Ok(Session { client, driver })
    }

    /// Prepares a statement without parameters.
    pub(super) async fn prepare(
        &self,
        what: &'static str,
        sql: &str,
        deadline: Instant,
    ) -> Result<Statement, SqlError> {
        let done = bounded(what, deadline, self.client.prepare(sql)).await?;
        done.map_err(|source| SqlError::Query { what, source })
    }

    /// Runs a prepared statement without parameters.
    pub(super) async fn prepared(
        &self,
        what: &'static str,
        statement: &Statement,
        deadline: Instant,
    ) -> Result<Vec<Row>, SqlError> {
        let done = bounded(what, deadline, self.client.query(statement, &[])).await?;
        done.map_err(|source| SqlError::Query { what, source })
    }

    /// Runs statements without result.
    pub(super) async fn run(&self, what: &'static str, sql: &str, deadline: Instant) -> Result<(), SqlError> {
        let done = bounded(what, deadline, self.client.batch_execute(sql)).await?;
        done.map_err(|source| SqlError::Query { what, source })
    }

    /// Runs a query that has exactly one row.
    pub(super) async fn row(
        &self,
        what: &'static str,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        deadline: Instant,
    ) -> Result<Row, SqlError> {
        let done = bounded(what, deadline, self.client.query_one(sql, params)).await?;
        done.map_err(|source| SqlError::Query { what, source })
    }

    /// Runs a query.
    pub(super) async fn rows(
        &self,
        what: &'static str,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        deadline: Instant,
    ) -> Result<Vec<Row>, SqlError> {
        let done = bounded(what, deadline, self.client.query(sql, params)).await?;
        done.map_err(|source| SqlError::Query { what, source })
    }
}

impl Session {
    /// Runs a query in one exchange, without a named statement: also right where a pooler may change servers between two.
    pub(super) async fn typed_rows(
        &self,
        what: &'static str,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
        deadline: Instant,
    ) -> Result<Vec<Row>, SqlError> {
        let done = bounded(what, deadline, self.client.query_typed(sql, params)).await?;
        done.map_err(|source| SqlError::Query { what, source })
    }
}

/// A superuser session kept open between operations. One that is taken is given back only by an operation that ended
/// well: after a deadline an answer may still be under way in it.
#[derive(Clone, Debug, Default)]
pub(super) struct WarmSession(Arc<Mutex<Option<Session>>>);

/// The server ends a statement of the warm session after this long; the caller's deadline comes sooner.
const WARM_STATEMENT: Duration = Duration::from_secs(60);

impl WarmSession {
    /// Takes the warm session if it still answers, else opens one.
    pub(super) async fn take(&self, instance: &Instance, deadline: Instant) -> Result<Session, SqlError> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(session) = kept {
            // The server may have been restarted since; an empty query costs a tenth of a new session.
            match session.run("wake the session", "", deadline).await {
                Ok(()) => return Ok(session),
                Err(error) if error.is_deadline() => return Err(error),
                Err(error) => tracing::debug!(%error, "the warm session is gone"),
            }
        }
        Session::local_lasting(instance, Durability::Local, WARM_STATEMENT, deadline).await
    }

    /// Gives a session back that has no answer and no transaction under way.
    pub(super) fn give_back(&self, session: Session) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }
}

/// Awaits under a deadline.
pub(super) async fn bounded<F: Future>(
    what: &'static str,
    deadline: Instant,
    future: F,
) -> Result<F::Output, SqlError> {
    tokio::time::timeout_at(deadline.into(), future).await.map_err(|_elapsed| SqlError::Deadline { what })
}

/// Reads one column of a row.
pub(super) fn get<'a, T: FromSql<'a>>(what: &'static str, row: &'a Row, index: usize) -> Result<T, SqlError> {
    row.try_get(index).map_err(|source| SqlError::Answer { what, source })
}

/// Reads a log position.
pub(super) fn get_lsn(what: &'static str, row: &Row, index: usize) -> Result<Option<Lsn>, SqlError> {
    Ok(get::<Option<PgLsn>>(what, row, index)?.map(|lsn| Lsn(lsn.into())))
}

/// The server ends a statement by itself soon after we have given up waiting, so that nothing is left hanging there.
fn guarded_options(durability: Durability, statement: Duration) -> String {
    let ms = (statement + Duration::from_secs(1)).as_millis().min(u128::from(i32::MAX as u32));
    format!(
        "-c search_path=pg_catalog -c statement_timeout={ms} -c lock_timeout={ms} \
         -c idle_in_transaction_session_timeout={ms} -c client_min_messages=error \
         -c default_transaction_read_only=off {}",
        durability.option()
    )
}

/// Quotes a literal for SQL, whatever `standard_conforming_strings` says.
pub(super) fn literal(text: &str) -> String {
    if text.contains('\\') {
        format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

/// Quotes an identifier for SQL.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_what_could_break_out() {
        assert_eq!(literal("a'b"), "'a''b'");
        assert_eq!(literal(r"a\'b"), r" E'a\\''b'");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
    }
}
