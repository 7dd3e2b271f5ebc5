//! The boot gate for clients: the server reads its `pg_hba` from a file of mesh, which holds the mesh lines alone while
//! clients are shut out, and the operator's lines behind them once they are let in.
//!
//! It keeps new sessions out; it ends none. It never decides when to open.

use std::time::{Duration, Instant, SystemTime};

use super::durable::{self, DurableError};
use super::instance::{Instance, default_mesh_hba};
use super::sql::{Durability, Session, SqlError, get};

/// Who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Only mesh and replication.
    ShutOut,
    /// Everybody the operator's `pg_hba.conf` allows.
    LetIn,
}

/// Why the gate was not moved.
#[derive(Debug, thiserror::Error)]
pub enum HbaError {
    /// The file could not be written.
    #[error("cannot write the boot gate's pg_hba")]
    Write(#[from] DurableError),
    /// The operator's file is missing.
    #[error("there is no {path}; set `operator_hba` to the instance's pg_hba.conf")]
    OperatorFile {
        /// Where it was expected.
        path: String,
    },
    /// The server could not be told.
    #[error("the boot gate's pg_hba is written but the server was not told")]
    Sql(#[from] SqlError),
    /// A line in the file is wrong, so the server keeps the old rules.
    #[error(
        "the server refuses line {line} of the boot gate's pg_hba: {reason}; correct the operator's pg_hba.conf"
    )]
    BadLine {
        /// Its number.
        line: i32,
        /// What the server says of it.
        reason: String,
    },
    /// The server reads another file.
    #[error(
        "the server reads {actual}, not the boot gate's file; it was started by somebody else, so clients cannot be shut out by this gate"
    )]
    OtherFile {
        /// The server's setting.
        actual: String,
    },
    /// The server did not reload in time.
    #[error("the server has not reloaded its pg_hba within the deadline")]
    NotReloaded,
}

/// Writes the file; a running server does not see it before its next reload.
///
/// # Errors
/// When a file cannot be read or written in time.
pub async fn write_hba(instance: &Instance, clients: Clients, deadline: Instant) -> Result<(), HbaError> {
    let operator = match clients {
        Clients::ShutOut => Vec::new(),
        Clients::LetIn => {
            let path = instance.operator_hba();
            let bytes = durable::read(&path, deadline).await?;
            bytes.ok_or_else(|| HbaError::OperatorFile { path: path.display().to_string() })?
        }
    };
    let content = rendered(instance, clients, &operator);
    Ok(durable::replace(&instance.gate_hba(), content, instance.settings().run_as, deadline).await?)
}

/// Writes the file, reloads the server and waits until new sessions are judged by it.
///
/// # Errors
/// Any that leaves it uncertain that the new rules are in force.
pub async fn set_clients(instance: &Instance, clients: Clients, deadline: Instant) -> Result<(), HbaError> {
    write_hba(instance, clients, deadline).await?;
    // Forked after the file was written: a reload that comes after this fork has read it, whoever asked for it.
    let session = Session::local(instance, Durability::Local, deadline).await?;
    let what = "read hba_file";
    let row = session.row(what, "SELECT current_setting('hba_file')", &[], deadline).await?;
    let actual: String = get(what, &row, 0)?;
    if std::path::Path::new(&actual) != instance.gate_hba() {
        return Err(HbaError::OtherFile { actual });
    }
    check_lines(&session, deadline).await?;
    reload_and_wait(instance, &session, deadline).await
}

/// Ends the sessions of clients; mesh's own and replication stay. For a standby that is about to be promoted, or a
/// primary that the routes have left. Never for one whose sessions wait for standbys: ending such a wait
/// tells the client that its commit succeeded.
///
/// # Errors
/// When the server cannot be told.
pub async fn end_clients(instance: &Instance, deadline: Instant) -> Result<u32, SqlError> {
    let settings = instance.settings();
    let session = Session::local(instance, Durability::Local, deadline).await?;
    let what = "end the clients' sessions";
    let sql = "SELECT count(pg_terminate_backend(pid))::int FROM pg_stat_activity \
               WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND usename <> ALL ($1)";
    let ours = [&settings.superuser, &settings.probe.user, &settings.replication.user].map(String::as_str);
    let row = session.row(what, sql, &[&ours.as_slice()], deadline).await?;
    Ok(u32::try_from(get::<i32>(what, &row, 0)?).unwrap_or(0))
}

async fn check_lines(session: &Session, deadline: Instant) -> Result<(), HbaError> {
    let what = "check pg_hba";
    let sql = "SELECT coalesce(line_number, 0), error FROM pg_hba_file_rules WHERE error IS NOT NULL LIMIT 1";
    match session.rows(what, sql, &[], deadline).await?.first() {
        Some(row) => Err(HbaError::BadLine { line: get(what, row, 0)?, reason: get(what, row, 1)? }),
        None => Ok(()),
    }
}

/// A session forked after the postmaster reloaded inherits its load time: so a new one with another time than `session` has
/// proves that the postmaster judges new sessions by the new file. Another, not a later one: the server's clock may have been
/// stepped.
async fn reload_and_wait(instance: &Instance, session: &Session, deadline: Instant) -> Result<(), HbaError> {
    let asked = "ask for a reload";
    let sql = "SELECT pg_conf_load_time(), pg_reload_conf()";
    let before: SystemTime = get(asked, &session.row(asked, sql, &[], deadline).await?, 0)?;
    loop {
        let fresh = Session::local(instance, Durability::Local, deadline).await?;
        let what = "read the load time";
        let row = fresh.row(what, "SELECT pg_conf_load_time()", &[], deadline).await?;
        let loaded: SystemTime = get(what, &row, 0)?;
        if loaded != before {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(HbaError::NotReloaded);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn rendered(instance: &Instance, clients: Clients, operator: &[u8]) -> Vec<u8> {
    let settings = instance.settings();
    if settings.mesh_hba.is_empty() {
        joined(clients, &default_mesh_hba(settings), operator)
    } else {
        joined(clients, &settings.mesh_hba, operator)
    }
}

/// The operator's lines stay as they are, which need not be UTF-8.
fn joined(clients: Clients, own: &[String], operator: &[u8]) -> Vec<u8> {
    let heading = match clients {
        Clients::ShutOut => "# Written by mesh: clients are shut out until this instance may serve them.\n",
        Clients::LetIn => "# Written by mesh: its own lines, then those of the operator's pg_hba.conf.\n",
    };
    [format!("{heading}{}\n", own.join("\n")).as_bytes(), operator].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_the_operator_are_kept_to_the_byte() {
        let (own, theirs) = (["local all mesh peer".to_owned()], b"host all caf\xe9 samenet scram-sha-256\n");
        let written = joined(Clients::LetIn, &own, theirs);
        assert!(written.ends_with(theirs) && written.starts_with(b"# Written by mesh"));
        assert!(String::from_utf8_lossy(&written).contains("\nlocal all mesh peer\nhost"));
    }
}
