//! `synchronous_standby_names`: commit gate and commit quorum in one setting, rendered by one function, written by one
//! writer, the guard.
//!
//! The commit gate makes every commit wait for a standby that cannot exist; sessions stay open, and lifting it
//! releases them. It is no fence (`synchronous_commit = off` or `local` passes it), it writes into the data directory, and
//! so it is never on the fencing path. *Applied* is not *in force*: this module waits for the latter.

use std::time::{Duration, Instant};

use super::conf::alter_system;
use super::instance::Instance;
use super::sql::{Durability, Session, SqlError, get, identifier};

/// The standbys whose flush an acknowledgement needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// How many of them.
    pub k: u32,
    /// Their `application_name`s.
    pub names: Vec<String>,
}

/// What the setting is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncSetting {
    /// The journaled version; it is part of the gate's name, so that what is in force can be told apart.
    pub version: u64,
    /// Whether commits wait for ever.
    pub gated: bool,
    /// The quorum when not gated; `None` commits without standbys.
    pub quorum: Option<Quorum>,
}

impl SyncSetting {
    /// The value of `synchronous_standby_names`.
    #[must_use]
    pub fn rendered(&self) -> String {
        match (&self.quorum, self.gated) {
            (_, true) => format!("ANY 1 (mesh_gate_v{})", self.version),
            (None, false) => String::new(),
            (Some(quorum), false) => {
                let names: Vec<String> = quorum.names.iter().map(|name| identifier(name)).collect();
                format!("ANY {} ({})", quorum.k, names.join(", "))
            }
        }
    }

    fn lists(&self, name: &str) -> bool {
        let listed = |quorum: &Quorum| quorum.names.iter().any(|n| n.eq_ignore_ascii_case(name));
        !self.gated && self.quorum.as_ref().is_some_and(listed)
    }
}

/// Why the setting is not known to be in force.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// A quorum that could never be met.
    #[error("ANY {k} of {names} standbys can never be met; give at least {k} names")]
    Impossible {
        /// How many are needed.
        k: u32,
        /// How many are named.
        names: usize,
    },
    /// It was not written, or not read back.
    #[error("synchronous_standby_names could not be set")]
    Sql(#[from] SqlError),
    /// Something above `postgresql.auto.conf` fixes the setting.
    #[error(
        "synchronous_standby_names is fixed at {actual:?} by the {from}; remove it there, mesh must be its only writer"
    )]
    Overridden {
        /// The value in force.
        actual: String,
        /// Where it comes from, as PostgreSQL says.
        from: String,
    },
    /// It was written, but some process still works by the old value.
    #[error("synchronous_standby_names is written but not in force everywhere within the deadline")]
    NotInForce,
}

/// Writes the setting, reloads, and waits until it is in force: a new session shows it, every walsender works by it, and,
/// for the gate, a commit of our own is seen waiting.
///
/// # Errors
/// Any that leaves it uncertain. After an error of a gate, fence hard.
pub async fn set_sync(
    instance: &Instance,
    setting: &SyncSetting,
    deadline: Instant,
) -> Result<(), GateError> {
    if let Some(quorum) = &setting.quorum
        && (quorum.k == 0 || quorum.k as usize > quorum.names.len())
    {
        return Err(GateError::Impossible { k: quorum.k, names: quorum.names.len() });
    }
    let session = Session::local(instance, Durability::Local, deadline).await?;
    let change = [("synchronous_standby_names", Some(setting.rendered()))];
    alter_system(&session, &change, deadline).await?;
    let pause = Duration::from_millis(1);
    while !shown(instance, setting, deadline).await? || !walsenders_agree(&session, setting, deadline).await?
    {
        out_of_time(deadline)?;
        tokio::time::sleep(pause).await;
    }
    if setting.gated {
        while !a_commit_waits(instance, &session, deadline).await? {
            out_of_time(deadline)?;
            tokio::time::sleep(pause).await;
        }
    }
    Ok(())
}

fn out_of_time(deadline: Instant) -> Result<(), GateError> {
    if Instant::now() >= deadline { Err(GateError::NotInForce) } else { Ok(()) }
}

/// A new session has what the postmaster has.
async fn shown(instance: &Instance, setting: &SyncSetting, deadline: Instant) -> Result<bool, GateError> {
    let fresh = Session::local(instance, Durability::Local, deadline).await?;
    let what = "read synchronous_standby_names back";
    let sql = "SELECT setting, source, coalesce(sourcefile, '') LIKE '%postgresql.auto.conf' \
               FROM pg_settings WHERE name = 'synchronous_standby_names'";
    let row = fresh.row(what, sql, &[], deadline).await?;
    let actual: String = get(what, &row, 0)?;
    let from: String = get(what, &row, 1)?;
    let ours: bool = get(what, &row, 2)?;
    if !ours && from != "default" && from != "configuration file" {
        return Err(GateError::Overridden { actual, from });
    }
    Ok(actual == setting.rendered())
}

/// A walsender that has not reloaded still releases waiters. Its priority shows whether it has: above zero iff listed.
async fn walsenders_agree(
    session: &Session,
    setting: &SyncSetting,
    deadline: Instant,
) -> Result<bool, GateError> {
    let what = "ask the walsenders";
    let sql = "SELECT application_name, sync_priority FROM pg_stat_replication WHERE state = 'streaming'";
    for row in session.rows(what, sql, &[], deadline).await? {
        let name: String = get(what, &row, 0)?;
        let priority: i32 = get(what, &row, 1)?;
        if (priority > 0) != setting.lists(&name) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Where no standby was listed before, commits begin to wait only when the checkpointer has reloaded too, and nothing
/// shows that but a commit that waits. Ours carries a message into the log and no row; ending its session afterwards
/// ends the wait, which nobody counts on.
async fn a_commit_waits(
    instance: &Instance,
    session: &Session,
    deadline: Instant,
) -> Result<bool, GateError> {
    let marker = Session::local(instance, Durability::Quorum, deadline).await?;
    let what = "name the marker session";
    let pid: i32 = get(what, &marker.row(what, "SELECT pg_backend_pid()", &[], deadline).await?, 0)?;
    let commit = async {
        let sql = "SELECT pg_logical_emit_message(true, 'mesh', 'gate')";
        marker.run("commit a marker", sql, deadline).await
    };
    let watch = async {
        let what = "watch the marker";
        let sql = "SELECT coalesce(wait_event = 'SyncRep', false) FROM pg_stat_activity WHERE pid = $1";
        loop {
            let rows = session.rows(what, sql, &[&pid], deadline).await?;
            if let Some(row) = rows.first()
                && get(what, row, 0)?
            {
                return Ok::<(), SqlError>(());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        done = commit => done.map(|()| false).map_err(GateError::Sql),
        seen = watch => {
            seen?;
            session.rows("end the marker", "SELECT pg_terminate_backend($1)", &[&pid], deadline).await?;
            Ok(true)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_function_renders_gate_and_quorum() {
        let quorum = Some(Quorum { k: 1, names: vec!["dr.1.4".into(), "west\"x".into()] });
        let open = SyncSetting { version: 7, gated: false, quorum: quorum.clone() };
        assert_eq!(open.rendered(), "ANY 1 (\"dr.1.4\", \"west\"\"x\")");
        assert_eq!(SyncSetting { gated: true, ..open.clone() }.rendered(), "ANY 1 (mesh_gate_v7)");
        assert_eq!(SyncSetting { quorum: None, ..open }.rendered(), "");
    }
}
