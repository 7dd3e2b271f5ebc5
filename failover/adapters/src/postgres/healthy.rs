//! A query that says whether a service works: asked once, as the observers' role, in a transaction that can write nothing.

use std::time::{Duration, Instant};

use tokio_postgres::Config;

use super::passfile::{PassfileError, add_password};
use super::probe::ProbeTarget;
use super::sql::{Session, SqlError, get};

/// Why the answer does not count as healthy.
#[derive(Debug, thiserror::Error)]
pub enum HealthQueryError {
    /// The password file cannot be used.
    #[error("the password of the checking role could not be read")]
    Password(#[source] PassfileError),
    /// No session, a refusal, an answer that is no boolean, or the deadline.
    #[error("the query was not answered with true")]
    Sql(#[from] SqlError),
    /// It answered something else.
    #[error("the query answered {0}, expected one row with true")]
    NotTrue(&'static str),
}

/// Asks once. The server ends a query that takes longer than we wait.
///
/// # Errors
/// [`HealthQueryError`]: why the service does not count as healthy.
pub async fn healthy(
    target: &ProbeTarget,
    query: &str,
    deadline: Instant,
) -> Result<Duration, HealthQueryError> {
    let began = Instant::now();
    let (host, port) = (target.address.ip().to_string(), target.address.port());
    let left = deadline.saturating_duration_since(began).max(Duration::from_millis(1));
    let mut config = Config::new();
    config
        .host(&host)
        .port(port)
        .user(&target.user)
        .dbname(&target.database)
        .application_name("mesh_check")
        .connect_timeout(left)
        .tcp_user_timeout(left)
        .options(format!(
            "-c default_transaction_read_only=on -c lock_timeout=1s -c statement_timeout={}",
            left.as_millis().clamp(1, 60_000)
        ));
    if let Some(passfile) = &target.passfile {
        let who = (target.user.as_str(), target.database.as_str());
        let added = add_password(&mut config, passfile, (&host, port), who, deadline).await;
        added.map_err(HealthQueryError::Password)?;
    }
    let session = Session::open(&config, "a session for a check", deadline).await?;
    // The extended protocol takes one statement alone.
    let rows = session.rows("ask whether the service works", query, &[], deadline).await?;
    match rows.as_slice() {
        [row] => match get::<Option<bool>>("ask whether the service works", row, 0)? {
            Some(true) => Ok(began.elapsed()),
            Some(false) => Err(HealthQueryError::NotTrue("false")),
            None => Err(HealthQueryError::NotTrue("NULL")),
        },
        [] => Err(HealthQueryError::NotTrue("no row")),
        [_, ..] => Err(HealthQueryError::NotTrue("several rows")),
    }
}
