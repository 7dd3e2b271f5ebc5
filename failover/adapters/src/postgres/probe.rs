//! What an observer sees of a server: one cheap query over a session kept open, with its own deadline around everything.
//!
//! It reports; that several reports make a loss is decided elsewhere. The role may do nothing but this.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mesh_proto::Lsn;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, Statement};

use super::passfile::{PassfileError, add_password};
use super::sql::{Session, SqlError, get, get_lsn};

/// Whom to probe, and as whom.
#[derive(Clone, Debug)]
pub struct ProbeTarget {
    /// A literal address, never a route.
    pub address: SocketAddr,
    /// The database with the schema `mesh`.
    pub database: String,
    /// The observers' role.
    pub user: String,
    /// Its password file, in `.pgpass` form.
    pub passfile: Option<PathBuf>,
    /// The group's cluster, where it is known.
    pub system_identifier: Option<u64>,
}

/// The latest row of `mesh.epoch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenEpoch {
    /// The epoch.
    pub epoch: u64,
    /// The lease number.
    pub lease_no: u64,
    /// Whose.
    pub instance: String,
}

/// What a server said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// The cluster.
    pub system_identifier: u64,
    /// On a primary the timeline it writes; on a standby that of its last restartpoint, which may lag.
    pub timeline: u32,
    /// On a primary the end of its log; on a standby what it replayed.
    pub position: Lsn,
    /// On a standby: received and flushed; `None` when it has not streamed since its start.
    pub received: Option<Lsn>,
    /// The latest epoch in the database, if the table is there and may be read.
    pub epoch: Option<SeenEpoch>,
}

/// What one probe saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// It answers and is not in recovery.
    Writable(ServerFacts),
    /// It answers and is in recovery.
    ReadOnly(ServerFacts),
    /// Nobody listens: the host is there, the server is not.
    Refused,
    /// The network said that there is no way; it speaks of the way, not of the server.
    Unreachable,
    /// Nothing came within the timeout.
    TimedOut,
    /// It lives but does not accept sessions now: starting, recovering from a crash, or shutting down.
    Starting,
    /// It lives and is full. Busy is not dead.
    TooManyConnections,
    /// It lives but does not let the role in.
    AuthFailed {
        /// The SQLSTATE, of class 28; empty when the password could not even be read.
        sqlstate: String,
    },
    /// It is a server of another cluster.
    WrongSystem {
        /// Its system identifier.
        found: u64,
    },
    /// The session broke in the middle and could not be opened again for a reason not listed.
    Other {
        /// The SQLSTATE, if any.
        sqlstate: Option<String>,
    },
}

/// One probe.
#[derive(Clone, Debug)]
pub struct ProbeReport {
    /// What was seen.
    pub outcome: ProbeOutcome,
    /// How long it took.
    pub took: Duration,
    /// Whether a session was opened for it. A session kept open says nothing of new ones.
    pub fresh: bool,
}

/// An observer of one server.
#[derive(Debug)]
pub struct Prober {
    target: ProbeTarget,
    open: Option<OpenProbe>,
}

#[derive(Debug)]
struct OpenProbe {
    session: Session,
    system_identifier: u64,
    facts: Statement,
    epoch: Option<Statement>,
}

const FACTS: &str = "SELECT pg_is_in_recovery(), \
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, \
    pg_last_wal_receive_lsn(), \
    CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint()) \
         ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END, \
    to_regclass('mesh.epoch') IS NOT NULL";

const EPOCH: &str =
    "SELECT epoch, lease_no, instance FROM mesh.epoch ORDER BY epoch DESC, lease_no DESC LIMIT 1";

impl Prober {
    /// An observer that has no session yet.
    #[must_use]
    pub fn new(target: ProbeTarget) -> Prober {
        Prober { target, open: None }
    }

    /// Probes over the open session, or a new one where there is none or it broke.
    pub async fn probe(&mut self, timeout: Duration) -> ProbeReport {
        let began = Instant::now();
        let deadline = began + timeout;
        let mut fresh = self.open.is_none();
        let mut result = self.ask(deadline).await;
        if !fresh && result.as_ref().is_err_and(|seen| matches!(seen, ProbeOutcome::Other { .. })) {
            // The kept session broke; that alone says little, a server restart does it too.
            fresh = true;
            result = self.ask(deadline).await;
        }
        let outcome = result.unwrap_or_else(|seen| seen);
        ProbeReport { outcome, took: began.elapsed(), fresh }
    }

    /// Probes over a new session, which is kept afterwards: a server whose postmaster hangs answers old sessions only.
    pub async fn probe_fresh(&mut self, timeout: Duration) -> ProbeReport {
        self.open = None;
        self.probe(timeout).await
    }

    async fn ask(&mut self, deadline: Instant) -> Result<ProbeOutcome, ProbeOutcome> {
        // Taken out, so that a probe that fails or is dropped half way never leaves a session with a pending answer.
        let mut open = match self.open.take() {
            Some(open) => open,
            None => OpenProbe::connect(&self.target, deadline).await?,
        };
        let (in_recovery, facts) = open.facts(deadline).await.map_err(|error| classify(&error))?;
        self.open = Some(open);
        Ok(if in_recovery { ProbeOutcome::ReadOnly(facts) } else { ProbeOutcome::Writable(facts) })
    }
}

impl OpenProbe {
    async fn connect(target: &ProbeTarget, deadline: Instant) -> Result<OpenProbe, ProbeOutcome> {
        let (host, port) = (target.address.ip().to_string(), target.address.port());
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let mut config = Config::new();
        config
            .host(&host)
            .port(port)
            .user(&target.user)
            .dbname(&target.database)
            .application_name("mesh_probe")
            .connect_timeout(left)
            .tcp_user_timeout(left)
            .options(
                "-c search_path=pg_catalog -c statement_timeout=5s -c lock_timeout=1s \
                 -c idle_in_transaction_session_timeout=5s -c default_transaction_read_only=on",
            );
        if let Some(passfile) = &target.passfile {
            let who = (target.user.as_str(), target.database.as_str());
            let added = add_password(&mut config, passfile, (&host, port), who, deadline).await;
            added.map_err(|error| no_password(&error))?;
        }
        let session = Session::open(&config, "probe", deadline).await.map_err(|error| classify(&error))?;
        let system_identifier = system_of(&session, deadline).await.map_err(|error| classify(&error))?;
        match target.system_identifier {
            Some(expected) if expected != system_identifier => {
                return Err(ProbeOutcome::WrongSystem { found: system_identifier });
            }
            Some(_) | None => {}
        }
        let facts = session.prepare("probe", FACTS, deadline).await.map_err(|error| classify(&error))?;
        Ok(OpenProbe { session, system_identifier, facts, epoch: None })
    }

    async fn facts(&mut self, deadline: Instant) -> Result<(bool, ServerFacts), SqlError> {
        let what = "probe";
        // Both questions travel together once the second is known to be allowed: one round trip, half the wake-ups.
        let facts = self.session.prepared(what, &self.facts, deadline);
        let (rows, asked) = match &self.epoch {
            Some(statement) => {
                let (rows, epoch) = tokio::join!(facts, self.read_epoch(statement, deadline));
                (rows?, Some(epoch))
            }
            None => (facts.await?, None),
        };
        let [row] = rows.as_slice() else { return Err(SqlError::Rows { what, rows: rows.len() }) };
        let timeline: i32 = get(what, row, 3)?;
        let epoch = match (get::<bool>(what, row, 4)?, asked) {
            (true, Some(epoch)) => epoch?,
            (true, None) => self.latest_epoch(deadline).await?,
            (false, Some(_) | None) => None,
        };
        let facts = ServerFacts {
            system_identifier: self.system_identifier,
            timeline: timeline.cast_unsigned(),
            position: get_lsn(what, row, 1)?.unwrap_or(Lsn::INVALID),
            received: get_lsn(what, row, 2)?,
            epoch,
        };
        Ok((get(what, row, 0)?, facts))
    }

    async fn latest_epoch(&mut self, deadline: Instant) -> Result<Option<SeenEpoch>, SqlError> {
        let what = "read the epoch";
        if self.epoch.is_none() {
            match self.session.prepare(what, EPOCH, deadline).await {
                Ok(statement) => self.epoch = Some(statement),
                Err(error) if is_class(&error, "42") => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        match &self.epoch {
            Some(statement) => self.read_epoch(statement, deadline).await,
            None => Ok(None),
        }
    }

    async fn read_epoch(
        &self,
        statement: &Statement,
        deadline: Instant,
    ) -> Result<Option<SeenEpoch>, SqlError> {
        let what = "read the epoch";
        let rows = match self.session.prepared(what, statement, deadline).await {
            Ok(rows) => rows,
            // Not granted, or dropped meanwhile: the server is well all the same.
            Err(error) if is_class(&error, "42") => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(row) = rows.first() else { return Ok(None) };
        let epoch: i64 = get(what, row, 0)?;
        let lease_no: i64 = get(what, row, 1)?;
        let instance = get(what, row, 2)?;
        Ok(Some(SeenEpoch { epoch: epoch.cast_unsigned(), lease_no: lease_no.cast_unsigned(), instance }))
    }
}

async fn system_of(session: &Session, deadline: Instant) -> Result<u64, SqlError> {
    let what = "probe";
    let row = session.row(what, "SELECT system_identifier FROM pg_control_system()", &[], deadline).await?;
    Ok(get::<i64>(what, &row, 0)?.cast_unsigned())
}

fn no_password(error: &PassfileError) -> ProbeOutcome {
    tracing::warn!(error = %error, "the observers' password cannot be read");
    ProbeOutcome::AuthFailed { sqlstate: String::new() }
}

fn is_class(error: &SqlError, class: &str) -> bool {
    error.state().is_some_and(|state| state.code().starts_with(class))
}

fn classify(error: &SqlError) -> ProbeOutcome {
    if error.is_deadline() {
        return ProbeOutcome::TimedOut;
    }
    if let Some(state) = error.state() {
        return match state {
            s if *s == SqlState::CANNOT_CONNECT_NOW => ProbeOutcome::Starting,
            s if *s == SqlState::TOO_MANY_CONNECTIONS => ProbeOutcome::TooManyConnections,
            s if s.code().starts_with("28") => ProbeOutcome::AuthFailed { sqlstate: s.code().to_owned() },
            s => ProbeOutcome::Other { sqlstate: Some(s.code().to_owned()) },
        };
    }
    match io_kind(error) {
        Some(io::ErrorKind::ConnectionRefused) => ProbeOutcome::Refused,
        Some(io::ErrorKind::TimedOut) => ProbeOutcome::TimedOut,
        Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => ProbeOutcome::Unreachable,
        Some(_) | None => ProbeOutcome::Other { sqlstate: None },
    }
}

/// The errno, as far down the chain as it lies.
fn io_kind(error: &SqlError) -> Option<io::ErrorKind> {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        next = cause.source();
    }
    None
}
