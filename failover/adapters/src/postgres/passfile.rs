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
    #[error("{} has no line for {whom}", path.display())]
    NoLine {
        /// The file.
        path: PathBuf,
        /// The role, and where it connects to.
        whom: String,
    },
}

/// Adds the password for this session to a connection's configuration.
pub(crate) async fn add_password(
    config: &mut Config,
    path: &Path,
    (host, port): (&str, u16),
    (user, database): (&str, &str),
    deadline: Instant,
) -> Result<(), PassfileError> {
    let text = read(path, deadline).await?;
    let port_text = port.to_string();
    let wanted = [Some(host), Some(&port_text), Some(database), Some(user)];
    let password = text.lines().find_map(|line| matching(line, wanted));
    let password = password.ok_or_else(|| PassfileError::NoLine {
        path: path.to_path_buf(),
        whom: format!("{user}@{host}:{port}/{database}"),
    })?;
    config.password(password);
    Ok(())
}

/// The password of a role, wherever it connects to.
pub(super) async fn password_of(path: &Path, user: &str, deadline: Instant) -> Result<String, PassfileError> {
    let text = read(path, deadline).await?;
    let password = text.lines().find_map(|line| matching(line, [None, None, None, Some(user)]));
    password.ok_or_else(|| PassfileError::NoLine { path: path.to_path_buf(), whom: user.to_owned() })
}

async fn read(path: &Path, deadline: Instant) -> Result<String, PassfileError> {
    let file = path.to_path_buf();
    let read = off_thread(path, "read", deadline, move || {
        Ok((std::fs::metadata(&file)?.permissions().mode(), std::fs::read_to_string(&file)?))
    });
    let (mode, text) = read.await?;
    if mode & 0o077 != 0 {
        return Err(PassfileError::Open { path: path.to_path_buf() });
    }
    Ok(text)
}

/// The password of a line `host:port:database:user:password`, if the first four fit. `*` fits anything, and nothing wanted fits too; `\` escapes.
fn matching(line: &str, wanted: [Option<&str>; 4]) -> Option<String> {
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
    let fits =
        fields.iter().zip(wanted).all(|(field, want)| field == "*" || want.is_none_or(|want| want == field));
    fits.then_some(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_line() {
        let wanted = ["127.0.0.1", "5432", "app", "mesh_probe"].map(Some);
        assert_eq!(matching("*:*:*:mesh_probe:se\\:c\\\\ret", wanted).as_deref(), Some("se:c\\ret"));
        assert_eq!(matching("127.0.0.1:5432:app:mesh_probe:a:b", wanted).as_deref(), Some("a:b"));
        assert_eq!(matching("*:*:*:other:x", wanted), None);
        assert_eq!(matching("#*:*:*:mesh_probe:x", wanted), None);
        assert_eq!(matching("*:*:*:mesh_probe", wanted), None);
    }
}
