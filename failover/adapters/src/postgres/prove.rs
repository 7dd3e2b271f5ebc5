//! A write and a read through a route, as the observers' role: the only thing that shows that clients who follow the route write to
//! the primary of this epoch.

use std::time::{Duration, Instant};

use tokio_postgres::Config;
use tokio_postgres::types::Type;

use super::passfile::{PassfileError, add_password};
use super::probe::ProbeTarget;
use super::sql::{Session, SqlError, get};

/// What stands between us and the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// Nothing, or a proxy that carries the session as it is.
    Session,
    /// A pooler: it refuses session options, and another server connection may serve each transaction.
    Pooler,
}

/// The write arrived at the primary of the expected epoch and was committed there, and was then read through the route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// From connecting to the commit's acknowledgement.
    pub took: Duration,
    /// The read that followed it.
    pub read: Duration,
}

/// Why the write through the route is no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The password file cannot be used.
    #[error("the password of the proving role could not be read")]
    Password(#[source] PassfileError),
    /// No session through the route, a refusal, or the deadline.
    #[error("the write through the route did not succeed")]
    Sql(#[from] SqlError),
    /// The route leads to a primary of another epoch, or to a server that mesh does not know.
    #[error(
        "the route leads to a server that holds epoch {found:?} of {by:?}, expected epoch {expected} of {instance}"
    )]
    OtherPrimary {
        /// The newest epoch there.
        found: Option<u64>,
        /// Whose.
        by: Option<String>,
        /// Expected.
        expected: u64,
        /// Expected.
        instance: String,
    },
    /// What was written is not what is read.
    #[error(
        "epoch {expected} was written through the route, and {found:?} is read through it: reads go elsewhere"
    )]
    NotRead {
        /// What stands there.
        found: Option<u64>,
        /// What was written.
        expected: u64,
    },
    /// Not representable in the table.
    #[error("the epoch exceeds what bigint holds")]
    TooLarge,
}

/// Writes a row through the route, checks that it landed where this epoch's primary is, and reads it. Safe to repeat.
///
/// # Errors
/// [`ProveError`]; after `Sql` the write may or may not be committed, which does not matter.
pub async fn prove(
    target: &ProbeTarget,
    through: Through,
    route: &str,
    instance: &str,
    epoch: u64,
    deadline: Instant,
) -> Result<Proof, ProveError> {
    let began = Instant::now();
    let expected = i64::try_from(epoch).map_err(|_| ProveError::TooLarge)?;
    let session = connect(target, through, deadline).await?;
    let what = "write through the route";
    let sql = "WITH newest AS (SELECT epoch, instance FROM mesh.epoch ORDER BY epoch DESC, lease_no DESC LIMIT 1), \
               written AS (INSERT INTO mesh.route_proof (route, epoch, at) VALUES ($1, $2, clock_timestamp()) \
               ON CONFLICT (route) DO UPDATE SET epoch = EXCLUDED.epoch, at = EXCLUDED.at RETURNING 1) \
               SELECT newest.epoch, newest.instance FROM newest, written";
    let rows =
        session.typed_rows(what, sql, &[(&route, Type::TEXT), (&expected, Type::INT8)], deadline).await?;
    let found: Option<(i64, String)> = match rows.first() {
        Some(row) => Some((get(what, row, 0)?, get(what, row, 1)?)),
        None => None,
    };
    match found {
        Some((at, by)) if at == expected && by == instance => {
            let took = began.elapsed();
            let read = read_back(&session, route, expected, deadline).await?;
            Ok(Proof { took, read })
        }
        found => Err(ProveError::OtherPrimary {
            found: found.as_ref().map(|(at, _)| at.cast_unsigned()),
            by: found.map(|(_, by)| by),
            expected: epoch,
            instance: instance.to_owned(),
        }),
    }
}

/// Reads the row in a transaction of its own: a pooler may take another server connection for it.
async fn read_back(
    session: &Session,
    route: &str,
    expected: i64,
    deadline: Instant,
) -> Result<Duration, ProveError> {
    let (what, began) = ("read through the route", Instant::now());
    let sql = "SELECT epoch FROM mesh.route_proof WHERE route = $1";
    let rows = session.typed_rows(what, sql, &[(&route, Type::TEXT)], deadline).await?;
    let found: Option<i64> = rows.first().map(|row| get(what, row, 0)).transpose()?;
    if found == Some(expected) {
        return Ok(began.elapsed());
    }
    let found = found.map(i64::cast_unsigned);
    Err(ProveError::NotRead { found, expected: expected.cast_unsigned() })
}

async fn connect(target: &ProbeTarget, through: Through, deadline: Instant) -> Result<Session, ProveError> {
    let (host, port) = (target.address.ip().to_string(), target.address.port());
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut config = Config::new();
    config
        .host(&host)
        .port(port)
        .user(&target.user)
        .dbname(&target.database)
        .application_name("mesh_proof")
        .connect_timeout(left)
        .tcp_user_timeout(left);
    match through {
        // What has no schema in the statement is found in pg_catalog first by default too.
        Through::Pooler => {}
        Through::Session => {
            config.options("-c search_path=pg_catalog -c statement_timeout=5s -c lock_timeout=1s");
        }
    }
    if let Some(passfile) = &target.passfile {
        let who = (target.user.as_str(), target.database.as_str());
        add_password(&mut config, passfile, (&host, port), who, deadline)
            .await
            .map_err(ProveError::Password)?;
    }
    Ok(Session::open(&config, "a session through the route", deadline).await?)
}
