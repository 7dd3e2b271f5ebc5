//! One local Redis or Valkey instance: where it is, how it is reached, and its process. Facts only; nothing here starts or
//! changes it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Mutex;

use super::fault::{AskError, Fault};
use super::link::{Credentials, Link, Target, Tls, TlsError, TlsFiles};
use crate::process::{DirectoryTree, MainProcess};

/// What the server's process calls itself. A Sentinel shares the binary, and often the directory, but not the name.
const COMMS: [&str; 2] = ["redis-server", "valkey-server"];

/// Everything mesh must be told about one instance of this host.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name in mesh.
    pub name: String,
    /// Its `dir`: where snapshot and append-only files are. No other server may work in it.
    pub data_dir: PathBuf,
    /// `redis-server` or `valkey-server`.
    pub program: PathBuf,
    /// The operator's configuration, which mesh includes and never writes.
    pub config_file: Option<PathBuf>,
    /// A directory of mesh for this instance, outside the data directory and best on another disk.
    pub state_dir: PathBuf,
    /// Where the files of a diverged old primary are kept before a full copy.
    pub keep_dir: PathBuf,
    /// The address it listens on, always a literal one.
    pub listen: IpAddr,
    /// Its port: the one for TLS, where TLS is spoken.
    pub port: u16,
    /// The user of mesh; see [`super::RULES`].
    pub credentials: Option<Credentials>,
    /// The user under which replicas stream; see [`super::REPLICA_RULES`].
    pub replication: Option<Credentials>,
    /// TLS, towards this server and its peers.
    pub tls: Option<TlsFiles>,
    /// `min-replicas-to-write` of an open primary: mesh owns the setting.
    pub min_replicas: u32,
    /// Where the server's output goes.
    pub log_file: PathBuf,
    /// Further lines of configuration.
    pub options: Vec<(String, String)>,
    /// The instance's own cgroup v2 directory, if it has one. Nothing else may live in it.
    pub cgroup: Option<PathBuf>,
}

/// Why settings do not describe an instance that can be worked on.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Neither the data directory nor its parent is there.
    #[error("cannot resolve {}; check `data_dir` and that its file system is mounted", path.display())]
    DataDir {
        /// What was configured.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// TLS.
    #[error("TLS towards Redis cannot be used")]
    Tls(#[from] TlsError),
}

/// Why it is not known whether a server runs.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The processes could not be listed.
    #[error("cannot tell whether a server of {} runs; is /proc readable?", dir.display())]
    Scan {
        /// The data directory.
        dir: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Which of them is the instance cannot be told.
    #[error("processes {pids:?} all serve {}; give each server a `dir` of its own", dir.display())]
    Several {
        /// The data directory.
        dir: PathBuf,
        /// Who.
        pids: Vec<i32>,
    },
}

/// Settings whose paths are resolved, with the process tree that belongs to them.
///
/// Clones share one warm connection, so that the steps of a failover need no new one, and work on a server that has none
/// free.
#[derive(Clone, Debug)]
pub struct Instance {
    settings: Settings,
    tls: Option<Tls>,
    tree: DirectoryTree,
    warm: Arc<Mutex<Option<Link>>>,
}

impl Instance {
    /// Resolves the data directory once, so that the fencing path need not ask the disk for it.
    ///
    /// # Errors
    /// When the path cannot be resolved, or the files of TLS cannot be used.
    pub fn open(mut settings: Settings) -> Result<Self, OpenError> {
        let resolve = |source| OpenError::DataDir { path: settings.data_dir.clone(), source };
        let data_dir = canonical(&settings.data_dir).map_err(resolve)?;
        settings.data_dir.clone_from(&data_dir);
        let tls = settings.tls.as_ref().map(Tls::load).transpose()?;
        let tree = DirectoryTree::new(data_dir, settings.cgroup.clone());
        Ok(Self { settings, tls, tree, warm: Arc::new(Mutex::new(None)) })
    }

    /// The settings, with the data directory canonical.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.settings.data_dir
    }

    /// Its processes.
    #[must_use]
    pub const fn tree(&self) -> &DirectoryTree {
        &self.tree
    }

    /// Where clients and replicas reach it.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        SocketAddr::new(self.settings.listen, self.settings.port)
    }

    /// How mesh reaches it.
    #[must_use]
    pub fn target(&self) -> Target {
        self.peer(self.address())
    }

    /// How mesh reaches another server of the same group: as the same user, by the same authority.
    #[must_use]
    pub fn peer(&self, address: SocketAddr) -> Target {
        Target { address, credentials: self.settings.credentials.clone(), tls: self.tls.clone() }
    }

    /// What whoever else starts the server is to include as the last line of its configuration: a server that nobody gave
    /// a lease comes up held.
    #[must_use]
    pub fn held_file(&self) -> PathBuf {
        self.settings.state_dir.join("held.conf")
    }

    /// The configuration that the guard starts it with.
    #[must_use]
    pub fn boot_file(&self) -> PathBuf {
        self.settings.state_dir.join("boot.conf")
    }

    /// The warm connection, or a new one where there is none or it broke.
    pub(super) async fn link(&self, deadline: Instant) -> Result<Link, AskError> {
        let what = "reach Redis";
        let mut kept = tokio::time::timeout_at(deadline.into(), self.warm.lock())
            .await
            .map_err(|_late| AskError::new(what, Fault::TimedOut))?;
        if let Some(mut link) = kept.take() {
            match link.text(what, &["PING"], deadline).await {
                Err(AskError { fault: Fault::Broken | Fault::TimedOut | Fault::Form, .. }) => {}
                // Any answer at all comes from a living connection.
                Ok(_) | Err(_) => {
                    *kept = Some(link.clone());
                    return Ok(link);
                }
            }
        }
        let link = Link::open(&self.target(), deadline).await?;
        *kept = Some(link.clone());
        Ok(link)
    }
}

/// Takes hold of a server that already runs, without touching it: the process in the data directory that is a server and no
/// child of one. `None` when none runs; a child that outlived its server is still in the tree.
///
/// # Errors
/// When processes cannot be listed, or several servers work in the same directory.
pub fn attach(instance: &Instance) -> Result<Option<MainProcess>, AttachError> {
    let dir = || instance.data_dir().to_path_buf();
    let members = instance.tree().scan().map_err(|source| AttachError::Scan { dir: dir(), source })?;
    let is_server = |comm: &str| COMMS.contains(&comm);
    let servers: Vec<i32> = members.iter().filter(|m| is_server(&m.comm)).map(|m| m.process.pid()).collect();
    // A snapshot is saved by a child of the same name; an orphan of it serves nobody, but has no living parent here.
    let mut mains: Vec<_> = members
        .into_iter()
        .filter(|m| is_server(&m.comm) && !servers.contains(&m.ppid) && !is_saver(m.process.pid()))
        .collect();
    match mains.len() {
        0 => Ok(None),
        1 => Ok(mains.pop().map(|member| MainProcess::new(member.process, true))),
        _ => Err(AttachError::Several { dir: dir(), pids: mains.iter().map(|m| m.process.pid()).collect() }),
    }
}

/// Children that save or rewrite say so in their command line; they listen to nobody.
fn is_saver(pid: i32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let first = String::from_utf8_lossy(&line);
    let title = first.split(['\0', ' ']).next().unwrap_or("");
    title.contains("-rdb-") || title.contains("-aof-rewrite")
}

fn canonical(path: &Path) -> io::Result<PathBuf> {
    match std::fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(error) };
            Ok(std::fs::canonicalize(parent)?.join(name))
        }
        other => other,
    }
}
