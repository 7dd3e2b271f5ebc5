//! Passwords from a file in `.pgpass` form, read at each connect so that a rotated one is taken up. The password is handed
//! to the connection and kept nowhere.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio_postgres::Config;

use super::durable::{DurableError, off_thread};

/// Why no password could be taken from the file.
#[derive(Debug, thiserror::Error)]
pub enum PassfileError {
    /// Unreadable.
    #[error("the password file cannot be read")]
    Read(#[from] DurableError),
    /// Others may read it; libpq ignores such a file, so replication would fail where we did not.
    #[error("{} is readable by others; run `chmod 0600` on it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// No line fits.
    #[error("{} has no line for {user}@{host}:{port}/{database}", path.display())]
    NoLine {
        /// The file.
        path: PathBuf,
        /// The role.
        user: String,
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// The database.
        database: String,
    },
}

/// Adds the password for this session to a connection's configuration.
pub(super) async fn add_password(
    config: &mut Config,
    path: &Path,
    (host, port): (&str, u16),
    (user, database): (&str, &str),
    deadline: Instant,
) -> Result<(), PassfileError> {
    let file = path.to_path_buf();
    let (mode, text) = off_thread(path, "read", deadline, move || {
        Ok((std::fs::metadata(&file)?.permissions().mode(), std::fs::read_to_string(&file)?))
    })
    .await?;
    if mode & 0o077 != 0 {
        return Err(PassfileError::Open { path: path.to_path_buf() });
    }
    let port_text = port.to_string();
    let wanted = [host, port_text.as_str(), database, user];
    let password = text.lines().find_map(|line| matching(line, wanted));
    let password = password.ok_or_else(|| PassfileError::NoLine {
        path: path.to_path_buf(),
        user: user.to_owned(),
        host: host.to_owned(),
        port,
        database: database.to_owned(),
    })?;
    config.password(password);
    Ok(())
}

/// The password of a line `host:port:database:user:password`, if the first four fit. `*` fits anything; `\` escapes.
fn matching(line: &str, wanted: [&str; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => fields.last_mut()?.extend(chars.next()),
            ':' if fields.len() < 5 => fields.push(String::new()),
            other => fields.last_mut()?.push(other),
        }
    }
    let password = (fields.len() == 5).then(|| fields.pop()).flatten()?;
    let fits = fields.iter().zip(wanted).all(|(field, want)| field == "*" || field == want);
    fits.then_some(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_line() {
        let wanted = ["127.0.0.1", "5432", "app", "mesh_probe"];
        assert_eq!(matching("*:*:*:mesh_probe:se\\:c\\\\ret", wanted).as_deref(), Some("se:c\\ret"));
        assert_eq!(matching("127.0.0.1:5432:app:mesh_probe:a:b", wanted).as_deref(), Some("a:b"));
        assert_eq!(matching("*:*:*:other:x", wanted), None);
        assert_eq!(matching("#*:*:*:mesh_probe:x", wanted), None);
        assert_eq!(matching("*:*:*:mesh_probe", wanted), None);
    }
}
