//! Connection strings for replication: literal addresses, never a route; a password file, never a password.

use std::net::SocketAddr;

use super::instance::Settings;

/// A primary to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    address: SocketAddr,
    application_name: String,
}

/// PostgreSQL cuts longer names (`NAMEDATALEN` - 1), and a commit quorum would wait for a name that never comes.
const LONGEST_NAME: usize = 63;

/// The name to stream under does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "application_name {name:?} must have 1 to {LONGEST_NAME} printable ASCII bytes; give the instance a shorter name"
)]
pub struct NameError {
    /// What was given.
    pub name: String,
}

impl Upstream {
    /// A primary at a literal address, to be followed under this `application_name`, which is what a commit quorum lists.
    ///
    /// # Errors
    /// When PostgreSQL would cut or change the name.
    pub fn new(address: SocketAddr, application_name: String) -> Result<Upstream, NameError> {
        let whole = (1..=LONGEST_NAME).contains(&application_name.len());
        if whole && application_name.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            Ok(Upstream { address, application_name })
        } else {
            Err(NameError { name: application_name })
        }
    }

    /// Where the primary listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The name under which the follower streams.
    #[must_use]
    pub fn application_name(&self) -> &str {
        &self.application_name
    }

    /// The value of `primary_conninfo`. The timeouts let a receiver notice a dead primary's host within seconds.
    #[must_use]
    pub fn conninfo(&self, settings: &Settings) -> String {
        let mut parts = base(self.address, settings);
        parts.push(("application_name", self.application_name.clone()));
        joined(&parts)
    }

    /// The connection string for a rewind or a base backup from it.
    #[must_use]
    pub fn source_conninfo(&self, settings: &Settings) -> String {
        let mut parts = base(self.address, settings);
        parts.push(("dbname", settings.database.clone()));
        parts.push(("application_name", format!("mesh_rejoin_{}", settings.name)));
        joined(&parts)
    }
}

fn base(address: SocketAddr, settings: &Settings) -> Vec<(&'static str, String)> {
    let mut parts = vec![
        ("host", address.ip().to_string()),
        ("port", address.port().to_string()),
        ("user", settings.replication.user.clone()),
        ("connect_timeout", "2".into()),
        ("keepalives_idle", "2".into()),
        ("keepalives_interval", "1".into()),
        ("keepalives_count", "3".into()),
        ("tcp_user_timeout", "5000".into()),
        ("sslmode", "prefer".into()),
    ];
    if let Some(passfile) = &settings.replication.passfile {
        parts.push(("passfile", passfile.to_string_lossy().into_owned()));
    }
    parts
}

fn joined(parts: &[(&'static str, String)]) -> String {
    let quoted = parts
        .iter()
        .map(|(key, value)| format!("{key}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'")));
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_names_that_postgresql_would_change() {
        let address = SocketAddr::from(([127, 0, 0, 1], 5432));
        for name in ["", "ü", "a\nb", &"x".repeat(64)] {
            assert!(Upstream::new(address, name.to_owned()).is_err(), "{name:?}");
        }
        assert!(Upstream::new(address, "x".repeat(63)).is_ok());
        assert_eq!(joined(&[("a", r"it's \".into())]), r"a='it\'s \\'");
    }
}
