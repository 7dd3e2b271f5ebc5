//! File changes that survive a power cut: the file is fsynced, then its directory. Each runs on a thread of its own with
//! a deadline, because a hung disk must not stop the caller; a write that missed its deadline may still happen later.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::process::RunAs;

/// Why a file was not durably changed.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    /// The disk did not answer in time. The change may still happen.
    #[error("{}: the disk did not answer within the deadline", path.display())]
    Deadline {
        /// The file.
        path: PathBuf,
    },
    /// The disk refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Replaces a file as a whole: readers see the old or the new content.
pub(crate) async fn replace(
    path: &Path,
    content: Vec<u8>,
    owner: Option<RunAs>,
    deadline: Instant,
) -> Result<(), DurableError> {
    let target = path.to_path_buf();
    off_thread(path, "write", deadline, move || {
        let fresh = with_suffix(&target, ".mesh-new");
        write_synced(&fresh, &content, owner)?;
        std::fs::rename(&fresh, &target)?;
        sync_parent(&target)
    })
    .await
}

/// Makes an empty marker file; an existing one is fine, and is fsynced all the same.
pub(crate) async fn touch(path: &Path, owner: Option<RunAs>, deadline: Instant) -> Result<(), DurableError> {
    let target = path.to_path_buf();
    off_thread(path, "create", deadline, move || {
        write_synced(&target, b"", owner)?;
        sync_parent(&target)
    })
    .await
}

/// Removes a file; a missing one is fine.
pub(crate) async fn remove(path: &Path, deadline: Instant) -> Result<(), DurableError> {
    let target = path.to_path_buf();
    off_thread(path, "remove", deadline, move || match std::fs::remove_file(&target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        // Also after "not there": the removal may be ours, not yet on disk. A missing directory has nothing in it.
        Ok(()) | Err(_) => match sync_parent(&target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        },
    })
    .await
}

/// Reads a file; `None` when there is none.
pub(crate) async fn read(path: &Path, deadline: Instant) -> Result<Option<Vec<u8>>, DurableError> {
    let target = path.to_path_buf();
    off_thread(path, "read", deadline, move || match std::fs::read(&target) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    })
    .await
}

/// Runs blocking file work under a deadline.
pub(crate) async fn off_thread<T: Send + 'static>(
    path: &Path,
    doing: &'static str,
    deadline: Instant,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, DurableError> {
    let path = path.to_path_buf();
    match tokio::time::timeout_at(deadline.into(), tokio::task::spawn_blocking(work)).await {
        Err(_elapsed) => Err(DurableError::Deadline { path }),
        Ok(Err(join)) => Err(DurableError::Io { doing, path, source: io::Error::other(join) }),
        Ok(Ok(result)) => result.map_err(|source| DurableError::Io { doing, path, source }),
    }
}

/// Mode 0600 because these are files of a data directory; the owner is the database's user.
fn write_synced(path: &Path, content: &[u8], owner: Option<RunAs>) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    if let Some(user) = owner {
        fchown(&file, Some(user.uid), Some(user.gid))?;
    }
    file.sync_all()
}

pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
