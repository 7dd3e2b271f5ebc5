//! The node-local file: who this agent is, where it stands, which servers it owns and which keys it holds.
//!
//! A file is accepted whole or refused whole, and every refusal names file, line and column, shows the line and says
//! what to do. It never holds what the whole mesh must agree on (group specs are replicated) and never holds secrets:
//! those stay in files that it names.

mod access;
mod aws;
mod check;
mod errands;
mod guarded;
mod keep;
mod locate;
mod mesh;
mod redis;
mod traces;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use mesh_proto::spec::DnsName;
use mesh_proto::{AgentName, GroupName, InstanceName, NodeId, SiteName};
use serde::Deserialize;

pub use access::{AccessSection, Principal, PrincipalError};
pub use aws::{Elbv2Section, Endpoint, EndpointError, Route53Section};
pub use errands::{FencerSection, HookSection, ServiceSection};
pub use guarded::Guarded;
pub use keep::KeepSection;
pub use locate::Problem;
pub use mesh::{MeshSection, TooLong, after, recoveries};
pub use redis::{RedisProbeSection, RedisSection, RedisTls};
pub use traces::{Collector, CollectorError, TracesSection};

/// Where the file is looked for when the command line does not say.
pub const DEFAULT_PATH: &str = "/etc/mesh/mesh.toml";

/// The node-local file, as written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// The mesh this host belongs to, and the voters that form it.
    pub mesh: MeshSection,
    /// This agent.
    pub agent: AgentSection,
    /// This agent's identity.
    pub tls: TlsSection,
    /// Who of this host may ask what; left out, whoever may open the socket may ask everything.
    #[serde(default)]
    pub access: Option<AccessSection>,
    /// How observers log in to the instances they probe.
    #[serde(default)]
    pub probe: Option<ProbeSection>,
    /// How observers log in to Redis instances.
    #[serde(default)]
    pub redis_probe: Option<RedisProbeSection>,
    /// Where traces of runs go; nowhere when left out.
    #[serde(default)]
    pub traces: Option<TracesSection>,
    /// How long evidence that rejoins kept stays on this host.
    #[serde(default)]
    pub keep: KeepSection,
    /// PostgreSQL servers on this host.
    #[serde(default, rename = "instance")]
    pub instances: Vec<InstanceSection>,
    /// Redis servers on this host.
    #[serde(default, rename = "redis")]
    pub redis: Vec<RedisSection>,
    /// HAProxy admin sockets this agent holds.
    #[serde(default, rename = "haproxy")]
    pub haproxies: Vec<HaproxySection>,
    /// Zones whose keys this agent holds.
    #[serde(default, rename = "dns")]
    pub zones: Vec<DnsSection>,
    /// Hosted zones of Route 53 that this agent may change.
    #[serde(default, rename = "route53")]
    pub hosted_zones: Vec<Route53Section>,
    /// Target groups of Elastic Load Balancing that this agent may change.
    #[serde(default, rename = "elbv2")]
    pub target_groups: Vec<Elbv2Section>,
    /// PgBouncer databases this agent leads.
    #[serde(default, rename = "pgbouncer")]
    pub pgbouncers: Vec<PgbouncerSection>,
    /// Services that this agent may start and stop.
    #[serde(default, rename = "service")]
    pub services: Vec<ServiceSection>,
    /// Programs that this agent may run for a group.
    #[serde(default, rename = "hook")]
    pub hooks: Vec<HookSection>,
    /// Programs with which this agent may turn other hosts off.
    #[serde(default, rename = "fencer")]
    pub fencers: Vec<FencerSection>,
}

/// How far apart voters are: what a heartbeat must bear, and so how soon a lost leader is replaced.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// Round trips of at most 10 ms between any two voters.
    #[default]
    Lan,
    /// Round trips of at most 90 ms.
    Wan,
}

impl Network {
    /// The waits of the agreement.
    #[must_use]
    pub const fn timings(self) -> mesh_consensus::Timings {
        match self {
            Self::Lan => mesh_consensus::Timings::LAN,
            Self::Wan => mesh_consensus::Timings::WAN,
        }
    }
}

/// One founding voter.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VoterSection {
    /// Its Raft number.
    pub id: NodeId,
    /// Its agent.
    pub agent: AgentName,
    /// Its site.
    pub site: SiteName,
    /// `IP:port` of its RPC listener. Literal: the lease must not depend on a name service.
    pub address: SocketAddr,
}

/// This agent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSection {
    /// Its name.
    pub name: AgentName,
    /// Its site.
    pub site: SiteName,
    /// Its Raft number; may be left out by a founding voter.
    #[serde(default)]
    pub id: Option<NodeId>,
    /// Where it keeps its log, vote and floors.
    pub data_dir: PathBuf,
    /// `IP:port` of its RPC listener (mTLS).
    pub listen: SocketAddr,
    /// `IP:port` of its HTTP role endpoints; none when left out.
    #[serde(default)]
    pub http: Option<SocketAddr>,
    /// Unix socket for the command line on this host.
    pub socket: PathBuf,
}

/// Certificate files of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSection {
    /// Certificate of the mesh's authority; several while one takes the place of another.
    pub ca: PathBuf,
    /// Lists of revoked certificates, one of each authority; none when left out.
    #[serde(default)]
    pub crl: Option<PathBuf>,
    /// Certificate of this agent.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How observers log in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeSection {
    /// PostgreSQL role.
    pub user: String,
    /// `.pgpass` file with its password; none where the servers trust this host.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
}

/// One PostgreSQL server on this host, and its guard.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceSection {
    /// Its name, as in the group spec.
    pub name: InstanceName,
    /// Its group.
    pub group: GroupName,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Where `postgres`, `pg_ctl` and `pg_rewind` are.
    pub bin_dir: PathBuf,
    /// TCP port.
    pub port: u16,
    /// Directory of its Unix socket.
    pub socket_dir: PathBuf,
    /// Superuser, for the guard only, over the Unix socket.
    #[serde(default = "default_superuser")]
    pub superuser: String,
    /// Database the guard connects to.
    #[serde(default = "default_database")]
    pub database: String,
    /// Role with which this instance replicates from the primary.
    pub replication_user: String,
    /// `.pgpass` file for that role; none where the primary trusts this host.
    #[serde(default)]
    pub replication_passfile: Option<PathBuf>,
    /// `IP:port` of the guard's RPC listener (mTLS).
    pub guard_listen: SocketAddr,
    /// Where the guard keeps its gate. Not on the disk of the data: fencing must not wait for that disk.
    pub state_dir: PathBuf,
    /// Where the server's own output goes.
    pub log_file: PathBuf,
    /// The address it listens on; the guard's own when left out.
    #[serde(default)]
    pub listen: Option<std::net::IpAddr>,
    /// `postgresql.conf`, where it is not in the data directory (Debian keeps it in `/etc`).
    #[serde(default)]
    pub config_file: Option<PathBuf>,
    /// `pg_hba.conf`, where it is not in the data directory.
    #[serde(default)]
    pub hba_file: Option<PathBuf>,
    /// Where the diverged log of an old primary is kept before a rewind; beside the data directory when left out.
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

fn default_superuser() -> String {
    "postgres".to_owned()
}
fn default_database() -> String {
    "postgres".to_owned()
}

/// One HAProxy whose backend this agent may change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HaproxySection {
    /// Name of the backend, as in the group's route.
    pub backend: String,
    /// Its admin socket.
    pub socket: HaproxySocket,
    /// The backend's server-state file (`load-server-state-from-file local`, `server-state-file-name`), which mesh owns: with
    /// it HAProxy comes up led as it was after a reload or restart.
    #[serde(default)]
    pub state_file: Option<PathBuf>,
}

/// An HAProxy admin socket: an absolute path, or `tcp:IP:port`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum HaproxySocket {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP socket.
    Tcp(SocketAddr),
}

/// The text is neither an absolute path nor `tcp:IP:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no admin socket; write an absolute path, or tcp:IP:port such as tcp:127.0.0.1:9999")]
pub struct HaproxySocketError(String);

impl TryFrom<String> for HaproxySocket {
    type Error = HaproxySocketError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.strip_prefix("tcp:") {
            Some(address) => address.parse().map(Self::Tcp).map_err(|_| HaproxySocketError(text)),
            None if Path::new(&text).is_absolute() => Ok(Self::Unix(PathBuf::from(text))),
            None => Err(HaproxySocketError(text)),
        }
    }
}

/// One zone that this agent may change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsSection {
    /// The zone, as in the group's route.
    pub zone: DnsName,
    /// `IP:port` of its primary server. Literal: a name would need the very thing that it changes.
    pub server: SocketAddr,
    /// Name of the TSIG key, as in the server's file.
    pub key_name: String,
    /// How the key signs.
    #[serde(default)]
    pub algorithm: TsigAlgorithm,
    /// File with the key's secret: what `tsig-keygen` prints, or the base64 text alone.
    pub secret_file: PathBuf,
    /// The servers that must show a change; those of the zone's NS records when left out.
    #[serde(default)]
    pub authoritative: Vec<SocketAddr>,
}

/// How a TSIG key signs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum TsigAlgorithm {
    /// HMAC with SHA-256.
    #[default]
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    /// HMAC with SHA-384.
    #[serde(rename = "hmac-sha384")]
    HmacSha384,
    /// HMAC with SHA-512.
    #[serde(rename = "hmac-sha512")]
    HmacSha512,
}

/// One PgBouncer database that this agent may lead.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PgbouncerSection {
    /// Name of the database, as clients and the group's route know it.
    pub database: String,
    /// Where PgBouncer listens: its admin console.
    pub console: PgbouncerConsole,
    /// A user in `admin_users`.
    pub user: String,
    /// `.pgpass` file with its password; none where the console trusts this host.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The file with this database's entry, which `pgbouncer.ini` includes (`%include`) and mesh owns.
    pub file: PathBuf,
    /// What the entry says besides host and port, such as `dbname=orders pool_size=20`.
    #[serde(default)]
    pub entry: String,
    /// How long transactions may take to end, in milliseconds.
    #[serde(default = "default_pause_ms")]
    pub pause_ms: u64,
    /// What happens when they do not.
    #[serde(default)]
    pub on_stuck: OnStuck,
}

const fn default_pause_ms() -> u64 {
    1000
}

/// What ends a PAUSE that does not return.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnStuck {
    /// The database's connections are dropped: they hang on a primary that lost its epoch.
    #[default]
    Kill,
    /// PAUSE is taken back, and the run waits for an operator.
    Refuse,
}

/// A PgBouncer console: `tcp:IP:port`, or the path of its socket.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum PgbouncerConsole {
    /// `listen_addr` and `listen_port`.
    Tcp(SocketAddr),
    /// `unix_socket_dir` and `listen_port`.
    Unix {
        /// The directory.
        dir: PathBuf,
        /// The port in the socket's name.
        port: u16,
    },
}

/// The text is neither `tcp:IP:port` nor the path of a socket of PostgreSQL's protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no console; write tcp:IP:port such as tcp:127.0.0.1:6432, or a socket's path such as /run/pgbouncer/.s.PGSQL.6432"
)]
pub struct PgbouncerConsoleError(String);

impl TryFrom<String> for PgbouncerConsole {
    type Error = PgbouncerConsoleError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        if let Some(address) = text.strip_prefix("tcp:") {
            return address.parse().map(Self::Tcp).map_err(|_| PgbouncerConsoleError(text));
        }
        let socket = text.rsplit_once("/.s.PGSQL.").and_then(|(dir, port)| Some((dir, port.parse().ok()?)));
        match socket {
            Some((dir, port)) if Path::new(dir).is_absolute() => {
                Ok(Self::Unix { dir: PathBuf::from(dir), port })
            }
            Some(_) | None => Err(PgbouncerConsoleError(text)),
        }
    }
}

/// Which process reads the file: each checks only the files that it will open, so that a guard needs no access to the
/// agent's key, and the command line to neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader<'a> {
    /// The agent.
    Agent,
    /// The guard of this instance.
    Guard(&'a InstanceName),
    /// The command line, which only needs the socket.
    CommandLine,
}

/// Why the file was refused. Nothing was started or changed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}; check the path (--config) and that this user may read it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is wrong; every problem found, with its place.
    #[error("{}", locate::render(path, problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, in the order of the file.
        problems: Vec<Problem>,
    },
}

impl NodeConfig {
    /// Reads and checks the file, as a whole.
    ///
    /// # Errors
    /// [`ConfigError`], ready to be shown to an operator.
    pub fn load(path: &Path, reader: Reader<'_>) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config = Self::parse(path, &text)?;
        let problems = check::files(&config, reader);
        refuse(path, &text, problems)?;
        Ok(config)
    }

    /// Checks a text without looking at the files it names. `path` is only named in errors.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Invalid {
            path: path.to_owned(),
            problems: vec![locate::syntax(text, &error)],
        })?;
        refuse(path, text, check::values(&config))?;
        Ok(config)
    }

    /// This agent's Raft number.
    #[must_use]
    pub fn node_id(&self) -> Option<NodeId> {
        let founding = self.mesh.voters.iter().find(|voter| voter.agent == self.agent.name);
        self.agent.id.or(founding.map(|voter| voter.id))
    }

    /// Every instance of this host, whatever it is.
    pub fn guarded(&self) -> impl Iterator<Item = Guarded<'_>> {
        let postgres = self.instances.iter().map(Guarded::Postgres);
        postgres.chain(self.redis.iter().map(Guarded::Redis))
    }

    /// The section of an instance.
    #[must_use]
    pub fn instance(&self, name: &InstanceName) -> Option<Guarded<'_>> {
        self.guarded().find(|instance| instance.name() == name)
    }
}

fn refuse(path: &Path, text: &str, findings: Vec<check::Finding>) -> Result<(), ConfigError> {
    if findings.is_empty() {
        return Ok(());
    }
    let mut problems: Vec<Problem> =
        findings.into_iter().map(|finding| locate::place(text, finding)).collect();
    problems.sort_by_key(|problem| (problem.line, problem.column));
    Err(ConfigError::Invalid { path: path.to_owned(), problems })
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
