//! The boot gate of a server that somebody else is about to start: a unit of the distribution, say, before the guard is there.
//!
//! While a guarded server serves, `standby.signal` lies in its data directory, so whoever starts it gets a standby. Only between
//! a start under a lease and the moment that file is back is there a gap, and a host that dies in it would come up as a primary.
//! This closes the gap: a data directory that a guard ever had a server in carries a mark, and whoever is about to start one
//! asks first. It starts and stops nothing, never touches a directory without the mark, and never takes the file away.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::Path;
use std::time::Instant;

use super::durable::{self, DurableError, off_thread, sync_parent};
use super::instance::Instance;

/// The mark. Whoever wants to use the data outside mesh for good removes it.
pub const MARK: &str = "mesh.guarded";
const SIGNAL: &str = "standby.signal";

/// How a server will come up that somebody starts in a data directory without its guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComesUp {
    /// As its own files say: no guard ever had one here.
    AsItIs,
    /// As a standby: `standby.signal` lies there.
    Standby,
    /// As a standby from now on: `standby.signal` was missing, and has been written.
    Held,
}

/// Sees to it that a server of a guarded data directory, whoever starts it next, comes up as a standby. With `look` nothing is
/// written: [`ComesUp::Held`] then says what would be.
///
/// # Errors
/// When the directory cannot be read, or the file cannot be written durably in time. The server may come up as a primary.
pub async fn boot_gate(data_dir: &Path, look: bool, deadline: Instant) -> Result<ComesUp, DurableError> {
    let dir = data_dir.to_path_buf();
    let (marked, held, owner) = off_thread(data_dir, "look into", deadline, move || {
        let owner = std::fs::metadata(&dir)?;
        Ok((is_there(&dir.join(MARK))?, is_there(&dir.join(SIGNAL))?, (owner.uid(), owner.gid())))
    })
    .await?;
    match (marked, held) {
        (false, _) => Ok(ComesUp::AsItIs),
        (true, true) => Ok(ComesUp::Standby),
        (true, false) if look => Ok(ComesUp::Held),
        (true, false) => {
            // Asked as root by a unit; the server runs as the owner of its directory.
            let root = rustix::process::geteuid().is_root();
            let owner = root.then_some(owner);
            let path = data_dir.join(SIGNAL);
            let target = path.clone();
            off_thread(&path, "create", deadline, move || create(&target, owner)).await?;
            Ok(ComesUp::Held)
        }
    }
}

/// Marks the data directory of an instance, once.
///
/// # Errors
/// When the mark is not known to be on disk.
pub async fn mark_guarded(instance: &Instance, deadline: Instant) -> Result<(), DurableError> {
    let path = instance.data_dir().join(MARK);
    let mark = path.clone();
    if off_thread(&path, "look for", deadline, move || is_there(&mark)).await? {
        return Ok(());
    }
    durable::touch(&path, instance.settings().run_as, deadline).await
}

/// Root writes into a directory of another user here: never through a link that lies there, and nothing that exists.
fn create(path: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    if let Some((uid, gid)) = owner {
        fchown(&file, Some(uid), Some(gid))?;
    }
    file.sync_all()?;
    sync_parent(path)
}

fn is_there(path: &Path) -> io::Result<bool> {
    path.try_exists()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn only_a_marked_directory_without_the_file_gets_it() {
        let dir = tempfile::tempdir().unwrap();
        let soon = || Instant::now() + Duration::from_secs(5);
        let there = |name: &str| dir.path().join(name).exists();
        assert_eq!(boot_gate(dir.path(), false, soon()).await.unwrap(), ComesUp::AsItIs);
        assert!(!there(SIGNAL), "a server that no guard ever had is left alone");
        std::fs::write(dir.path().join(MARK), "").unwrap();
        assert_eq!(boot_gate(dir.path(), true, soon()).await.unwrap(), ComesUp::Held);
        assert!(!there(SIGNAL), "looking changes nothing");
        assert_eq!(boot_gate(dir.path(), false, soon()).await.unwrap(), ComesUp::Held);
        assert!(there(SIGNAL));
        assert_eq!(boot_gate(dir.path(), false, soon()).await.unwrap(), ComesUp::Standby);
        assert!(boot_gate(&dir.path().join("gone"), false, soon()).await.is_err());

        // The owner of the directory lays a link where root is about to write.
        let aim = dir.path().join("aim");
        std::fs::remove_file(dir.path().join(SIGNAL)).unwrap();
        std::os::unix::fs::symlink(&aim, dir.path().join(SIGNAL)).unwrap();
        assert!(boot_gate(dir.path(), false, soon()).await.is_err());
        assert!(!aim.exists(), "nothing is written through it");
    }
}
