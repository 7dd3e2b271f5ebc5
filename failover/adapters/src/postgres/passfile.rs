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

/// The password of a line `host:port:database:user:password`, if the first four fit. `*` fits anything, and nothing wanted
/// fits too; `\` escapes, a `*` as well.
fn matching(line: &str, wanted: [Option<&str>; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut rest = line;
    for want in wanted {
        let (field, after) = rest.split_at_checked(end_of_field(rest)?)?;
        if field != "*" && want.is_some_and(|want| want != unescaped(field)) {
            return None;
        }
        rest = after.strip_prefix(':')?;
    }
    Some(unescaped(rest))
}

/// Where the first colon stands that nothing escapes.
fn end_of_field(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b':' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

fn unescaped(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        if c == '\\' { text.extend(chars.next()) } else { text.push(c) }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_fuzz::fuzz;

    #[test]
    fn finds_the_line() {
        let wanted = ["127.0.0.1", "5432", "app", "mesh_probe"].map(Some);
        assert_eq!(matching("*:*:*:mesh_probe:se\\:c\\\\ret", wanted).as_deref(), Some("se:c\\ret"));
        assert_eq!(matching("127.0.0.1:5432:app:mesh_probe:a:b", wanted).as_deref(), Some("a:b"));
        assert_eq!(matching("*:*:*:other:x", wanted), None);
        assert_eq!(matching("#*:*:*:mesh_probe:x", wanted), None);
        assert_eq!(matching("*:*:*:mesh_probe", wanted), None);
    }

    #[test]
    fn fuzz_passfile() {
        fuzz!("passfile", |bytes| {
            let text = String::from_utf8_lossy(bytes).replace(['\n', '\r'], "");
            let _ = mesh_fuzz::bounded(bytes.len(), || matching(&text, [None, None, None, None]));
            // Whatever a name and a password are made of, the line that is written for them is found, and by them alone.
            let line = |user: &str| {
                let quoted = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
                let user = if user == "*" { "\\*".to_owned() } else { quoted(user) };
                format!("h:1:d:{user}:{}", quoted(&text))
            };
            let wanted = |user| ["h", "1", "d", user].map(Some);
            assert_eq!(matching(&line(&text), wanted(&text)).as_deref(), Some(text.as_str()));
            assert_eq!(matching(&line("*"), wanted("somebody")), None, "an escaped star fits only itself");
        });
    }
}
