//! Promotion, and the first transaction after it.
//!
//! The caller holds the lease of the epoch and has checked it just before. Nothing here opens the boot gate.

use std::time::{Duration, Instant};

use mesh_proto::Lsn;
use tokio_postgres::error::SqlState;

use super::conf::alter_system;
use super::gate::SyncSetting;
use super::instance::Instance;
use super::sql::{Durability, Session, SqlError, get, get_lsn, identifier};

/// A promoted instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promoted {
    /// Its timeline, as it writes it now.
    pub timeline: u32,
    /// False when it was a primary already.
    pub was_standby: bool,
    /// From the call to the end of recovery.
    pub took: Duration,
}

/// Why an instance is not known to be promoted.
#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    /// No session, a refusal, or the deadline.
    #[error("the instance could not be promoted")]
    Sql(#[from] SqlError),
    /// The server did not take the request.
    #[error("the server did not take the request to promote; its log says why")]
    NotTaken,
    /// It has not ended recovery yet. It will: the request cannot be taken back.
    #[error(
        "the instance was told to promote but is still in recovery at the deadline; it may end at any moment"
    )]
    StillInRecovery,
}

/// Promotes. `sync` is what `synchronous_standby_names` is to say from the first commit on. Safe to repeat: a primary is
/// left as it is (its `sync` is then for [`super::set_sync`]).
///
/// # Errors
/// `StillInRecovery` and a lost session leave it open: ask again.
pub async fn promote(
    instance: &Instance,
    sync: Option<&SyncSetting>,
    deadline: Instant,
) -> Result<Promoted, PromoteError> {
    let began = Instant::now();
    let session = instance.warm().take(instance, deadline).await?;
    let was_standby = still_in_recovery(&session, deadline).await?;
    if was_standby {
        if let Some(sync) = sync {
            // Before the promotion, so that the first commits find it. It is written and the reload is under way, which
            // is not "in force": nothing shows that of a server in recovery. So the caller lets clients in only after
            // `record_epoch` with `Durability::Quorum`, or `set_sync`, came back.
            let change = [("synchronous_standby_names", Some(sync.rendered()))];
            alter_system(&session, &change, deadline).await?;
        }
        request(&session, deadline).await?;
        while still_in_recovery(&session, deadline).await? {
            if Instant::now() >= deadline {
                return Err(PromoteError::StillInRecovery);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let timeline = written_timeline(&session, deadline).await?;
    instance.warm().give_back(session);
    Ok(Promoted { timeline, was_standby, took: began.elapsed() })
}

/// `pg_promote(true)` would sleep in steps of 100 ms.
async fn request(session: &Session, deadline: Instant) -> Result<(), PromoteError> {
    let what = "ask for the promotion";
    match session.row(what, "SELECT pg_promote(false)", &[], deadline).await {
        Ok(row) if get(what, &row, 0)? => Ok(()),
        Ok(_) => Err(PromoteError::NotTaken),
        // It left recovery by itself between the two questions.
        Err(error) if error.state() == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn still_in_recovery(session: &Session, deadline: Instant) -> Result<bool, SqlError> {
    let what = "ask whether it is in recovery";
    let row = session.row(what, "SELECT pg_is_in_recovery()", &[], deadline).await?;
    get(what, &row, 0)
}

/// From the name of the segment being written: the control file keeps the old timeline until the next checkpoint.
async fn written_timeline(session: &Session, deadline: Instant) -> Result<u32, SqlError> {
    let what = "read the timeline";
    let sql = "SELECT ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int";
    let row = session.row(what, sql, &[], deadline).await?;
    let signed: i32 = get(what, &row, 0)?;
    Ok(signed.cast_unsigned())
}

/// The epoch a primary writes into its own database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochRow {
    /// The epoch.
    pub epoch: u64,
    /// The lease number under which it is written.
    pub lease_no: u64,
    /// The instance.
    pub instance: String,
}

/// What became of an epoch row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// Written and committed: the first of its epoch.
    Written,
    /// Written and committed, and the epoch was there under an older lease number: this primary is opened again.
    Again,
    /// It was there.
    AlreadyThere,
}

/// Why the epoch is not known to be recorded.
#[derive(Debug, thiserror::Error)]
pub enum EpochError {
    /// No session, a refusal, or the deadline. It may be committed: ask again.
    #[error("the epoch could not be recorded")]
    Sql(#[from] SqlError),
    /// The database has seen a later epoch.
    #[error(
        "the database holds epoch {found} of {by}, but {offered} was to be recorded; this instance must not be primary under {offered}"
    )]
    Superseded {
        /// What is there.
        found: u64,
        /// Whose it is.
        by: String,
        /// What was offered.
        offered: u64,
    },
    /// Not representable in the table.
    #[error("epoch or lease number exceeds what bigint holds")]
    TooLarge,
}

const SCHEMA: &str = "
    CREATE SCHEMA IF NOT EXISTS mesh;
    CREATE TABLE IF NOT EXISTS mesh.epoch (
        epoch bigint NOT NULL, lease_no bigint NOT NULL, instance text NOT NULL,
        at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (epoch, lease_no));
    CREATE TABLE IF NOT EXISTS mesh.heartbeat (
        id smallint PRIMARY KEY CHECK (id = 1), at timestamptz NOT NULL);
    INSERT INTO mesh.heartbeat VALUES (1, clock_timestamp()) ON CONFLICT DO NOTHING;
    CREATE TABLE IF NOT EXISTS mesh.route_proof (
        route text PRIMARY KEY, epoch bigint NOT NULL, at timestamptz NOT NULL);";

/// What the observers' role may do with it: see the epoch, and write the proof of a route. Nothing else.
pub(super) fn grants(probe: &str) -> String {
    let role = identifier(probe);
    format!(
        "GRANT USAGE ON SCHEMA mesh TO {role}; GRANT SELECT ON mesh.epoch TO {role}; \
         GRANT SELECT, INSERT, UPDATE ON mesh.route_proof TO {role};"
    )
}

/// Creates the schema `mesh` where it is missing, in the open transaction.
pub(super) async fn ensure_schema(session: &Session, probe: &str, deadline: Instant) -> Result<(), SqlError> {
    let what = "look for the schema mesh";
    let sql = "SELECT to_regclass('mesh.epoch') IS NOT NULL AND to_regclass('mesh.heartbeat') IS NOT NULL \
               AND to_regclass('mesh.route_proof') IS NOT NULL AND EXISTS (SELECT FROM pg_namespace WHERE nspname = 'mesh')";
    let row = session.row(what, sql, &[], deadline).await?;
    if get(what, &row, 0)? {
        return Ok(());
    }
    session.run("create the schema mesh", SCHEMA, deadline).await?;
    let what = "look for the observers' role";
    let row = session
        .row(what, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", &[&probe], deadline)
        .await?;
    if get(what, &row, 0)? {
        session.run("let observers see the epoch", &grants(probe), deadline).await?;
    }
    Ok(())
}

/// Records the epoch in one transaction: write probe, durability marker and witness in one. With `Durability::Quorum` it
/// returns only when the commit quorum has it. Refuses when the database knows a later epoch, or this one by another.
///
/// # Errors
/// `Superseded` is final; anything else leaves it open.
pub async fn record_epoch(
    instance: &Instance,
    row: &EpochRow,
    durability: Durability,
    deadline: Instant,
) -> Result<Recorded, EpochError> {
    let epoch = i64::try_from(row.epoch).map_err(|_| EpochError::TooLarge)?;
    let lease_no = i64::try_from(row.lease_no).map_err(|_| EpochError::TooLarge)?;
    let session = instance.warm().take(instance, deadline).await?;
    session.run("begin", durability.begin(), deadline).await?;
    ensure_schema(&session, &instance.settings().probe.user, deadline).await?;
    session.run("lock the epoch", "LOCK TABLE mesh.epoch IN SHARE ROW EXCLUSIVE MODE", deadline).await?;
    let what = "read the latest epoch";
    let sql = "SELECT epoch, lease_no, instance FROM mesh.epoch ORDER BY epoch DESC, lease_no DESC LIMIT 1";
    let (mut there, mut again) = (false, false);
    if let Some(latest) = session.rows(what, sql, &[], deadline).await?.first() {
        let found: i64 = get(what, latest, 0)?;
        let found_lease: i64 = get(what, latest, 1)?;
        let by: String = get(what, latest, 2)?;
        if found > epoch || (found == epoch && by != row.instance) {
            return Err(EpochError::Superseded { found: found.cast_unsigned(), by, offered: row.epoch });
        }
        again = found == epoch;
        there = again && found_lease >= lease_no;
    }
    if !there {
        let sql = "INSERT INTO mesh.epoch (epoch, lease_no, instance) VALUES ($1, $2, $3)";
        session.rows("write the epoch", sql, &[&epoch, &lease_no, &row.instance], deadline).await?;
    }
    session.run("commit the epoch", "COMMIT", deadline).await?;
    instance.warm().give_back(session);
    Ok(match (there, again) {
        (true, _) => Recorded::AlreadyThere,
        (false, true) => Recorded::Again,
        (false, false) => Recorded::Written,
    })
}

/// Where a primary's log ends now.
///
/// # Errors
/// No session, a standby, or the deadline.
pub async fn end_of_wal(instance: &Instance, deadline: Instant) -> Result<Lsn, SqlError> {
    let session = Session::local(instance, Durability::Local, deadline).await?;
    let what = "read the end of the log";
    let row = session.row(what, "SELECT pg_current_wal_lsn()", &[], deadline).await?;
    Ok(get_lsn(what, &row, 0)?.unwrap_or(Lsn::INVALID))
}

/// Runs CHECKPOINT. Before a planned stop it shortens the stop; after a promotion it writes the new timeline into the
/// control file, without which a rewind against this instance silently does nothing.
///
/// # Errors
/// When it does not end in time; it goes on in the server.
pub async fn checkpoint(instance: &Instance, deadline: Instant) -> Result<Duration, SqlError> {
    let began = Instant::now();
    let session = Session::local(instance, Durability::Local, deadline).await?;
    session.run("checkpoint", "CHECKPOINT", deadline).await?;
    Ok(began.elapsed())
}
