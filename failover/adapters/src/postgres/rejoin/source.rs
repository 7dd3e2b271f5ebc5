//! What must be known of the new primary before anything is done to the old one. Read over the network with the
//! replication role, which needs nothing else for a rewind either.

use std::time::{Duration, Instant};

use tokio_postgres::Config;

use super::RejoinError;
use crate::postgres::conninfo::Upstream;
use crate::postgres::instance::{Instance, Settings};
use crate::postgres::passfile::add_password;
use crate::postgres::sql::{Session, SqlError, get};
use crate::postgres::timeline::History;

/// The primary to rejoin.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its cluster.
    pub system_identifier: u64,
    /// Its timeline and that timeline's history.
    pub history: History,
    /// Bytes of all its databases.
    pub size: u64,
    /// Whether it has tablespaces outside its data directory.
    pub has_tablespaces: bool,
}

/// A primary that was just promoted answers a connection within milliseconds.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Reads the source's facts, after waiting until its control file knows its timeline. Before its first checkpoint after the
/// promotion, pg_rewind of PostgreSQL 13 to 15 takes it for a server of the old timeline, finds nothing to do, and says so with exit
/// code 0.
pub(super) async fn read(
    instance: &Instance,
    upstream: &Upstream,
    deadline: Instant,
) -> Result<Source, RejoinError> {
    let session = connect(instance.settings(), upstream, deadline).await?;
    let timeline = checkpointed_timeline(&session, deadline).await?;
    let what = "read the source's facts";
    let sql = "SELECT system_identifier, (SELECT sum(pg_database_size(oid))::bigint FROM pg_database), \
               EXISTS (SELECT FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')) \
               FROM pg_control_system()";
    let row = session.row(what, sql, &[], deadline).await?;
    let system: i64 = get(what, &row, 0)?;
    let size: i64 = get(what, &row, 1)?;
    Ok(Source {
        system_identifier: system.cast_unsigned(),
        history: history(&session, timeline, deadline).await?,
        size: size.cast_unsigned(),
        has_tablespaces: get(what, &row, 2)?,
    })
}

pub(super) async fn connect(
    settings: &Settings,
    upstream: &Upstream,
    deadline: Instant,
) -> Result<Session, RejoinError> {
    let (host, port) = (upstream.address().ip().to_string(), upstream.address().port());
    let role = &settings.replication;
    let mut config = Config::new();
    config.host(&host).port(port).user(&role.user).dbname(&settings.database);
    config.application_name("mesh_rejoin").options("-c search_path=pg_catalog -c statement_timeout=60s");
    if let Some(passfile) = &role.passfile {
        let who = (role.user.as_str(), settings.database.as_str());
        add_password(&mut config, passfile, (&host, port), who, deadline).await?;
    }
    // One that is lost again must not hold up the freeze that its loss calls for.
    let soon = deadline.min(Instant::now() + CONNECT_WITHIN);
    Session::open(&config, "connect to the new primary", soon).await.map_err(RejoinError::Source)
}

async fn checkpointed_timeline(session: &Session, deadline: Instant) -> Result<u32, RejoinError> {
    let what = "wait for the new primary's checkpoint";
    let sql = "SELECT pg_is_in_recovery(), timeline_id, CASE WHEN pg_is_in_recovery() THEN 0 ELSE \
               ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END \
               FROM pg_control_checkpoint()";
    loop {
        let row = match session.row(what, sql, &[], deadline).await {
            Err(error) if error.is_deadline() => return Err(RejoinError::SourceNotCheckpointed),
            other => other.map_err(RejoinError::Source)?,
        };
        let in_recovery: bool = get(what, &row, 0)?;
        if in_recovery {
            return Err(RejoinError::SourceIsStandby);
        }
        let (control, written): (i32, i32) = (get(what, &row, 1)?, get(what, &row, 2)?);
        if control == written {
            return Ok(written.cast_unsigned());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(super) async fn history(
    session: &Session,
    timeline: u32,
    deadline: Instant,
) -> Result<History, RejoinError> {
    if timeline == 1 {
        return Ok(History::first());
    }
    let what = "read the new primary's history";
    let path = format!("pg_wal/{}", History::file_name(timeline));
    let sql = "SELECT pg_read_binary_file($1)";
    let row = session.row(what, sql, &[&path], deadline).await?;
    let bytes: Vec<u8> = get(what, &row, 0)?;
    Ok(History::parse(timeline, &String::from_utf8_lossy(&bytes))?)
}

impl From<SqlError> for RejoinError {
    fn from(source: SqlError) -> RejoinError {
        RejoinError::Source(source)
    }
}
