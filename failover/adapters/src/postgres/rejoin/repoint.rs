//! Whether a *running* standby may follow a primary by reload alone: asked of the primary's history, without waiting for its
//! first checkpoint.

use std::time::Instant;

use super::source::{connect, history};
use super::{RejoinError, StandbyError};
use crate::postgres::conninfo::Upstream;
use crate::postgres::instance::Instance;
use crate::postgres::sql::get;
use crate::postgres::standby::{Position, follow, position};
use crate::postgres::timeline::Lineage;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repointed {
    /// It streams from there.
    Streams(Position),
    /// It has log that the primary does not have: stop it, and climb the ladder.
    Diverged,
}

/// Lets a running standby follow, if its log lies on the primary's history.
///
/// # Errors
/// When the primary or the standby cannot be asked, or it does not stream in time; the standby runs on.
pub async fn repoint(
    instance: &Instance,
    source: &Upstream,
    system_identifier: Option<u64>,
    deadline: Instant,
) -> Result<Repointed, RejoinError> {
    let session = connect(instance.settings(), source, deadline).await?;
    let what = "ask the primary for its timeline";
    let sql = "SELECT pg_is_in_recovery(), system_identifier, CASE WHEN pg_is_in_recovery() THEN 0 ELSE \
               ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int END \
               FROM pg_control_system()";
    let row = session.row(what, sql, &[], deadline).await?;
    if get(what, &row, 0)? {
        return Err(RejoinError::SourceIsStandby);
    }
    let (system, timeline): (i64, i32) = (get(what, &row, 1)?, get(what, &row, 2)?);
    let source_system = system.cast_unsigned();
    if let Some(own) = system_identifier.filter(|own| *own != source_system) {
        return Err(RejoinError::OtherCluster { own, source_system });
    }
    let timeline = timeline.cast_unsigned();
    let history = history(&session, timeline, deadline).await?;
    let at = position(instance, deadline).await.map_err(own)?;
    match history.place(at.timeline, at.end) {
        Lineage::Within => {
            let position = follow(instance, source, timeline, deadline).await.map_err(own)?;
            Ok(Repointed::Streams(position))
        }
        Lineage::Diverged { .. } | Lineage::Stranger => Ok(Repointed::Diverged),
    }
}

fn own(source: StandbyError) -> RejoinError {
    RejoinError::Standby(source)
}
