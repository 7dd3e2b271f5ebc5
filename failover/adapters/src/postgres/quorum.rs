//! The commit quorum of a running primary: changed so that every process surely works by the new one, and a marker that tells
//! when everything before is on it. It never decides what the quorum is, and waits in no commit of its own: a
//! cancelled wait would look like an acknowledgement.

use std::time::{Duration, Instant};

use super::gate::{GateError, Quorum, SyncSetting, set_sync};
use super::instance::Instance;
use super::sql::{Durability, Session, get};

/// How often the walsenders are asked how far their standbys have flushed: at first, and at last.
const ASK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));

/// Changes the setting by way of the commit gate. A walsender that is listed before and after shows the same priority
/// whether it has reloaded or not; behind the gate it shows none, so each step is seen at every walsender.
///
/// # Errors
/// Any that leaves it uncertain; commits then wait, or go by the old or the new setting. Ask again.
pub async fn change_sync(
    instance: &Instance,
    setting: &SyncSetting,
    deadline: Instant,
) -> Result<(), GateError> {
    if setting.quorum.is_none() && !setting.gated {
        // Nobody is waited for any more: a process that has not heard of it only waits longer.
        return set_sync(instance, setting, deadline).await;
    }
    set_sync(instance, &SyncSetting { gated: true, ..setting.clone() }, deadline).await?;
    if setting.gated { Ok(()) } else { set_sync(instance, setting, deadline).await }
}

/// Writes a marker and waits until enough of the listed standbys have flushed it: then they have everything that was
/// acknowledged before it, under whatever setting.
///
/// # Errors
/// No session, or the deadline.
pub async fn marker(instance: &Instance, quorum: &Quorum, deadline: Instant) -> Result<(), GateError> {
    // Local: the marker waits for nobody, and is asked after.
    let session = Session::local(instance, Durability::Local, deadline).await?;
    let sql = "SELECT pg_logical_emit_message(true, 'mesh', 'quorum')";
    session.row("write the marker", sql, &[], deadline).await?;
    let what = "read where the marker ends";
    let row = session.row(what, "SELECT pg_current_wal_flush_lsn()::text", &[], deadline).await?;
    let end: String = get(what, &row, 0)?;
    let names: Vec<&str> = quorum.names.iter().map(String::as_str).collect();
    let what = "ask which standbys have the marker";
    let sql = "SELECT count(DISTINCT application_name)::int FROM pg_stat_replication \
               WHERE state = 'streaming' AND application_name = ANY ($1) AND flush_lsn >= $2::text::pg_lsn";
    let mut pause = ASK.0;
    loop {
        let row = session.row(what, sql, &[&names.as_slice(), &end], deadline).await?;
        let have: i32 = get(what, &row, 0)?;
        if u32::try_from(have).is_ok_and(|have| have >= quorum.k) {
            return Ok(());
        }
        if Instant::now() + pause >= deadline {
            return Err(GateError::NotInForce);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(ASK.1);
    }
}
