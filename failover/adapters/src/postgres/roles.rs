//! The roles and the schema that mesh needs on a primary: the observers' least-privileged role, the replication role with
//! what a rewind asks for, the schema `mesh`. Safe to repeat; it takes nothing away.
//!
//! Passwords come from the password files and reach the server as SCRAM verifiers only.

use std::path::Path;
use std::time::Instant;

use super::instance::{Credentials, Instance};
use super::passfile::{PassfileError, password_of};
use super::promote::{ensure_schema, grants};
use super::sql::{Durability, Session, SqlError, get, identifier, literal};

/// What becomes of the password of a role that has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passwords {
    /// It stays.
    Keep,
    /// It is set from the password file.
    Rotate,
}

/// What was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Roles that were not there before.
    pub created: Vec<String>,
    /// Roles whose password was set.
    pub passwords_set: Vec<String>,
}

/// Why the primary is not prepared. Everything is one transaction: nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// No session, a refusal, or the deadline.
    #[error("the roles could not be prepared; the instance must be a primary that can write")]
    Sql(#[from] SqlError),
    /// A password file.
    #[error("a role's password file cannot be used")]
    Passfile(#[from] PassfileError),
}

/// pg_rewind's needs on its source, from its documentation.
const REWIND_GRANTS: &str = "pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean), \
    pg_read_binary_file(text), pg_read_binary_file(text, bigint, bigint, boolean)";

/// Creates what is missing.
///
/// # Errors
/// When it is no primary, a password file is unusable, or the server refuses.
pub async fn prepare(
    instance: &Instance,
    passwords: Passwords,
    deadline: Instant,
) -> Result<Prepared, PrepareError> {
    let settings = instance.settings();
    let mut done = Prepared::default();
    let session = Session::local(instance, Durability::Local, deadline).await?;
    session.run("begin", "BEGIN", deadline).await?;
    // One at a time: two that create the same role would make one of them fail.
    session.run("wait for others", "SELECT pg_advisory_xact_lock(7020652068)", deadline).await?;
    role(&session, &settings.probe, "LOGIN", passwords, &mut done, deadline).await?;
    role(&session, &settings.replication, "LOGIN REPLICATION", passwords, &mut done, deadline).await?;
    ensure_schema(&session, &settings.probe.user, deadline).await?;
    let replication = identifier(&settings.replication.user);
    let rewind = format!("GRANT EXECUTE ON FUNCTION {REWIND_GRANTS} TO {replication};");
    let grants = grants(&settings.probe.user) + &rewind;
    session.run("grant", &grants, deadline).await?;
    session.run("commit", "COMMIT", deadline).await?;
    Ok(done)
}

async fn role(
    session: &Session,
    credentials: &Credentials,
    attributes: &str,
    passwords: Passwords,
    done: &mut Prepared,
    deadline: Instant,
) -> Result<(), PrepareError> {
    let what = "look for a role";
    let sql = "SELECT rolpassword IS NOT NULL FROM pg_authid WHERE rolname = $1";
    let rows = session.rows(what, sql, &[&credentials.user], deadline).await?;
    let has_password = match rows.first() {
        Some(row) => Some(get::<bool>(what, row, 0)?),
        None => None,
    };
    let name = identifier(&credentials.user);
    let verb = if has_password.is_some() { "ALTER" } else { "CREATE" };
    session.run("make a role", &format!("{verb} ROLE {name} {attributes}"), deadline).await?;
    if has_password.is_none() {
        done.created.push(credentials.user.clone());
    }
    let wanted = passwords == Passwords::Rotate || has_password != Some(true);
    match &credentials.passfile {
        Some(path) if wanted => {
            set_password(session, &credentials.user, path, deadline).await?;
            done.passwords_set.push(credentials.user.clone());
        }
        Some(_) | None => {}
    }
    Ok(())
}

/// The verifier is made here, so that neither the server's log nor its statistics ever hold the password.
async fn set_password(
    session: &Session,
    user: &str,
    path: &Path,
    deadline: Instant,
) -> Result<(), PrepareError> {
    let password = password_of(path, user, deadline).await?;
    let verifier = postgres_protocol::password::scram_sha_256(password.as_bytes());
    let sql = format!("ALTER ROLE {} PASSWORD {}", identifier(user), literal(&verifier));
    Ok(session.run("set a password", &sql, deadline).await?)
}
