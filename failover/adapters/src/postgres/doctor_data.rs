//! What is in a server's databases that a failover does not take along, or that makes the copies differ. Reads only.

use std::time::Instant;

use super::doctor::{Finding, Severity};
use super::instance::Instance;
use super::sql::{Durability, Session, SqlError, get};

/// (check, severity, a query that says what was found or nothing, advice)
type DataCheck = (&'static str, Severity, &'static str, &'static str);

const CHECKS: [DataCheck; 4] = [
    (
        "replication_slots",
        Severity::Warning,
        "SELECT string_agg(slot_name || ' (' || slot_type || ')', ', ' ORDER BY slot_name) \
         FROM pg_replication_slots WHERE NOT temporary",
        "slots stay on this server: after a failover logical subscribers must be set up again, and a slot that nobody uses \
         keeps its log until the disk is full",
    ),
    (
        "prepared_transactions",
        Severity::Warning,
        "SELECT nullif(count(*), 0)::text || ' older than 1 min, the oldest of ' || min(prepared)::text \
         FROM pg_prepared_xacts WHERE prepared < now() - interval '1 min'",
        "they go along in a failover, with their locks: commit or roll back what nobody will",
    ),
    (
        "unlogged_tables",
        Severity::Note,
        "SELECT nullif(count(*), 0)::text || ' in database ' || current_database() \
         FROM pg_class WHERE relpersistence = 'u' AND relkind IN ('r', 'p')",
        "unlogged tables are empty after every failover, and no promise covers them",
    ),
    (
        "archive_command",
        Severity::Note,
        "SELECT 'archive_mode = ' || setting FROM pg_settings WHERE name = 'archive_mode' AND setting = 'on' \
         AND EXISTS (SELECT FROM pg_stat_archiver WHERE last_failed_time > coalesce(last_archived_time, '-infinity'))",
        "the last try to archive the log failed: a shutdown waits for the archiver, so a planned switchover may not finish in \
         time and end as a failover",
    ),
];

/// Only where the server knows the versions of its collations (PostgreSQL 15 and later).
const COLLATIONS: DataCheck = (
    "collation_version",
    Severity::Warning,
    "SELECT string_agg(datname || ': ' || datcollversion || ', the system has ' || pg_database_collation_actual_version(oid), \
     ', ' ORDER BY datname) FROM pg_database \
     WHERE datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid) AND datallowconn",
    "indexes on text may be wrong: REINDEX, then ALTER DATABASE … REFRESH COLLATION VERSION; and give every host the same \
     version of the C library and of ICU",
);

/// Examines what a running primary or standby holds.
///
/// # Errors
/// When the server cannot be asked.
pub async fn doctor_of_data(instance: &Instance, deadline: Instant) -> Result<Vec<Finding>, SqlError> {
    let session = Session::local(instance, Durability::AsConfigured, deadline).await?;
    let what = "ask for the server's version";
    let row = session.row(what, "SELECT current_setting('server_version_num')::int", &[], deadline).await?;
    let version: i32 = get(what, &row, 0)?;
    let mut findings = Vec::new();
    let collations = (version >= 150_000).then_some(COLLATIONS);
    for (check, severity, query, advice) in CHECKS.into_iter().chain(collations) {
        let rows = session.rows("look at what the server holds", query, &[], deadline).await?;
        for row in rows {
            if let Some(found) = get::<Option<String>>("look at what the server holds", &row, 0)? {
                findings.push(Finding { check, severity, found, advice });
            }
        }
    }
    Ok(findings)
}
