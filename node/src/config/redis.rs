//! The sections about Redis: a server of this host with its guard, and how observers log in.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use mesh_adapters::redis::{Credentials, TlsFiles};
use mesh_proto::{GroupName, InstanceName};
use serde::Deserialize;

/// One Redis or Valkey server on this host, and its guard.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisSection {
    /// Its name, as in the group spec.
    pub name: InstanceName,
    /// Its group.
    pub group: GroupName,
    /// Its `dir`: where snapshot and append-only files are. No other server may work in it.
    pub data_dir: PathBuf,
    /// `redis-server` or `valkey-server`.
    #[serde(default = "default_program")]
    pub program: PathBuf,
    /// The operator's configuration, which mesh includes and never writes.
    #[serde(default)]
    pub config_file: Option<PathBuf>,
    /// TCP port: the one for TLS, where there is a `redis.tls` table.
    pub port: u16,
    /// The address it listens on; the guard's own when left out.
    #[serde(default)]
    pub listen: Option<IpAddr>,
    /// The ACL user of mesh.
    #[serde(default = "default_user")]
    pub user: String,
    /// File with its password; none where the server asks for none.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The ACL user with which this instance replicates from the primary; the default user when left out.
    #[serde(default)]
    pub replication_user: Option<String>,
    /// File with its password.
    #[serde(default)]
    pub replication_password_file: Option<PathBuf>,
    /// TLS, towards this server and its peers.
    #[serde(default)]
    pub tls: Option<RedisTls>,
    /// `min-replicas-to-write` of the primary: mesh owns the setting.
    #[serde(default)]
    pub min_replicas_to_write: u32,
    /// `IP:port` of the guard's RPC listener (mTLS).
    pub guard_listen: SocketAddr,
    /// Where the guard keeps its gate. Not on the disk of the data: fencing must not wait for that disk.
    pub state_dir: PathBuf,
    /// Where the server's own output goes.
    pub log_file: PathBuf,
    /// Where the files of a diverged old primary are kept before a whole copy; beside the data directory when left out.
    #[serde(default)]
    pub keep_dir: Option<PathBuf>,
    /// Watchdog device that resets this host when its guard does not fence in time, such as `/dev/watchdog`; one guard
    /// alone can have it.
    #[serde(default)]
    pub watchdog: Option<PathBuf>,
    /// The instance's own cgroup v2 directory, if it has one and nothing else lives in it.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
    /// Certificate of the guard.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

fn default_program() -> PathBuf {
    PathBuf::from("/usr/bin/redis-server")
}
fn default_user() -> String {
    "mesh".to_owned()
}

/// TLS files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisTls {
    /// Who signs the servers' certificates.
    pub ca: PathBuf,
    /// A certificate of our own, where the servers ask for one.
    #[serde(default)]
    pub cert: Option<PathBuf>,
    /// Its key.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// The name in the servers' certificates; their address when left out.
    #[serde(default)]
    pub server_name: Option<String>,
}

/// How observers log in to Redis.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisProbeSection {
    /// The ACL user.
    pub user: String,
    /// File with its password; none where the servers ask for none.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// TLS towards the servers.
    #[serde(default)]
    pub tls: Option<RedisTls>,
}

impl RedisTls {
    /// As the adapter wants it.
    #[must_use]
    pub fn files(&self) -> TlsFiles {
        let Self { ca, cert, key, server_name } = self.clone();
        TlsFiles { ca, cert, key, server_name }
    }
}

impl RedisProbeSection {
    /// As the adapter wants it; without a password nobody is named: the default user observes.
    #[must_use]
    pub fn credentials(&self) -> Option<Credentials> {
        let password_file = self.password_file.clone()?;
        Some(Credentials { user: self.user.clone(), password_file: Some(password_file) })
    }
}
