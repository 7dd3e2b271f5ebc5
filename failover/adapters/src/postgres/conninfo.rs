//! Connection strings for replication: literal addresses, never a route; a password file, never a password.

use std::net::SocketAddr;

use super::instance::Settings;

/// A primary to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    /// The name under which the follower streams; it is what a commit quorum lists. At most 63 bytes.
    pub application_name: String,
}

impl Upstream {
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
