//! One local PostgreSQL instance: where it is and how it is reached. Facts only; nothing here starts or changes it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::sql::WarmSession;
use crate::process::{DirectoryTree, RunAs};

/// Everything mesh must be told about one instance of this host.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name in mesh.
    pub name: String,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Where `postgres`, `pg_controldata`, `pg_rewind` and `pg_basebackup` are.
    pub bin_dir: PathBuf,
    /// `postgresql.conf`, where it is not in the data directory (Debian keeps it in `/etc`).
    pub config_file: Option<PathBuf>,
    /// The operator's `pg_hba.conf`, where it is not in the data directory.
    pub operator_hba: Option<PathBuf>,
    /// A directory of mesh for this instance, readable by the database's user, outside the data directory and best on
    /// another disk: the boot gate's `pg_hba`, the rejoin journal.
    pub state_dir: PathBuf,
    /// Where the diverged log of an old primary is kept before a rewind.
    pub keep_dir: PathBuf,
    /// The address it listens on, always a literal one.
    pub listen: IpAddr,
    /// Its port.
    pub port: u16,
    /// Directory of its unix socket.
    pub socket_dir: PathBuf,
    /// The local superuser, reached over the unix socket.
    pub superuser: String,
    /// The database that holds the schema `mesh`.
    pub database: String,
    /// The user to run it as; only for a guard that is root.
    pub run_as: Option<RunAs>,
    /// Where the server's output goes.
    pub log_file: PathBuf,
    /// Further server options, as `-c name=value`.
    pub options: Vec<(String, String)>,
    /// The role for replication and rewind.
    pub replication: Credentials,
    /// The least-privileged role of the observers.
    pub probe: Credentials,
    /// The `pg_hba` lines that stay in force while clients are shut out; empty for [`default_mesh_hba`].
    pub mesh_hba: Vec<String>,
    /// The instance's own cgroup v2 directory, if it has one. Nothing else may live in it.
    pub cgroup: Option<PathBuf>,
}

/// A role and the file with its password. The password itself is never in a struct that is printed.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Role name.
    pub user: String,
    /// A file in `.pgpass` form, readable only by the database's user; `None` where no password is asked for.
    pub passfile: Option<PathBuf>,
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
    /// The data directory belongs to somebody else.
    #[error("{} belongs to uid {owner}, but the server would run as uid {runs_as}; run the guard as the owner", path.display())]
    Owner {
        /// The data directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user that would run the server.
        runs_as: u32,
    },
    /// PostgreSQL refuses to run as root.
    #[error("PostgreSQL does not run as root; run the guard as the owner of {}, or set the user to run as", path.display())]
    Root {
        /// The data directory.
        path: PathBuf,
    },
}

/// Settings whose paths are resolved, with the process tree that belongs to them.
///
/// Clones share one warm superuser session, so that the steps of a failover do not each wait for a new backend.
#[derive(Clone, Debug)]
pub struct Instance {
    settings: Settings,
    tree: DirectoryTree,
    warm: WarmSession,
}

impl Instance {
    /// Resolves the data directory once, so that the fencing path need not ask the disk for it. A directory that does not
    /// exist yet is allowed (a rebuild makes it); its parent must.
    ///
    /// # Errors
    /// When the path cannot be resolved or the user does not fit.
    pub fn open(mut settings: Settings) -> Result<Instance, OpenError> {
        let resolve = |source| OpenError::DataDir { path: settings.data_dir.clone(), source };
        let data_dir = canonical(&settings.data_dir).map_err(resolve)?;
        let runs_as = settings.run_as.map_or_else(|| rustix::process::geteuid().as_raw(), |user| user.uid);
        if runs_as == 0 {
            return Err(OpenError::Root { path: data_dir });
        }
        if let Ok(meta) = std::fs::metadata(&data_dir)
            && meta.uid() != runs_as
        {
            return Err(OpenError::Owner { path: data_dir, owner: meta.uid(), runs_as });
        }
        settings.data_dir.clone_from(&data_dir);
        let tree = DirectoryTree::new(data_dir, settings.cgroup.clone());
        Ok(Instance { settings, tree, warm: WarmSession::default() })
    }

    /// The settings, with the data directory canonical.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.settings.data_dir
    }

    /// Its processes.
    #[must_use]
    pub fn tree(&self) -> &DirectoryTree {
        &self.tree
    }

    /// The session kept open between operations.
    pub(super) fn warm(&self) -> &WarmSession {
        &self.warm
    }

    /// Where TCP clients reach it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.settings.listen, self.settings.port)
    }

    /// A program of this PostgreSQL version.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.settings.bin_dir.join(name)
    }

    /// The `pg_hba` file of the boot gate.
    #[must_use]
    pub fn gate_hba(&self) -> PathBuf {
        self.settings.state_dir.join("pg_hba.conf")
    }

    /// The operator's `pg_hba.conf`.
    #[must_use]
    pub fn operator_hba(&self) -> PathBuf {
        let inside = || self.settings.data_dir.join("pg_hba.conf");
        self.settings.operator_hba.clone().unwrap_or_else(inside)
    }

    /// The unix socket.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        self.settings.socket_dir.join(format!(".s.PGSQL.{}", self.settings.port))
    }
}

/// The lines under which mesh and replication get in while clients are shut out: the superuser over the unix socket as
/// the operating-system user of that name, the mesh roles over TCP with a password.
#[must_use]
pub fn default_mesh_hba(settings: &Settings) -> Vec<String> {
    let (superuser, probe, replication) =
        (&settings.superuser, &settings.probe.user, &settings.replication.user);
    vec![
        format!("local all \"{superuser}\" peer"),
        format!("local replication \"{superuser}\" peer"),
        format!("host all \"{probe}\" all scram-sha-256"),
        format!("host replication \"{replication}\" all scram-sha-256"),
        format!("host all \"{replication}\" all scram-sha-256"),
    ]
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
