//! A disk of its own for one server: a file system in a file, which can be full and which can hang. Needs root.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::ground::{Ground, is_root};
use super::process::{command, must};

/// How large it is: room for the data, for a copy of it beside it, and for the log that is kept. Sparse.
const SIZE: u64 = 3 << 30;
const SOON: Duration = Duration::from_secs(20);

/// A mounted disk. The lab's reaper ends it.
#[derive(Debug, Clone)]
pub struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Makes it and mounts it at `at`, a folder of the lab's; the services' account owns its root.
    ///
    /// # Errors
    /// Without root's rights, or when the system refuses.
    pub async fn attach(ground: &Ground, at: &Path) -> Result<Self> {
        if !is_root() {
            bail!("a disk that can be filled and can hang needs root");
        }
        let image = at.with_extension("img");
        std::fs::File::create(&image)
            .and_then(|file| file.set_len(SIZE))
            .with_context(|| format!("cannot make {}", image.display()))?;
        must(command("mkfs.ext4", ["-q", "-m", "0", &image.display().to_string()]), SOON).await?;
        // Before the mount: what is not noted is never unmounted.
        ground.note_disk(at)?;
        let words = ["-o", "loop", &image.display().to_string(), &at.display().to_string()];
        must(command("mount", words), SOON).await?;
        ground.give(at)?;
        Ok(Self { at: at.to_owned() })
    }

    /// From now on every write waits, and nothing that waits can be killed.
    ///
    /// # Errors
    /// When the system refuses, as it does twice.
    pub async fn hang(&self) -> Result<()> {
        self.freeze("--freeze").await
    }

    /// Writes go on.
    ///
    /// # Errors
    /// When the system refuses, as it does where nothing hangs.
    pub async fn go_on(&self) -> Result<()> {
        self.freeze("--unfreeze").await
    }

    async fn freeze(&self, word: &str) -> Result<()> {
        must(command("fsfreeze", [word, &self.at.display().to_string()]), SOON).await.map(|_| ())
    }

    /// Leaves no room on it. Filling what is full changes nothing.
    ///
    /// # Errors
    /// When the file that takes the room cannot be made.
    pub fn fill(&self) -> Result<()> {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.filler())
            .context("cannot make the file that fills a disk")?;
        loop {
            let room = rustix::fs::fstatvfs(&file)?;
            let free = room.f_bavail * room.f_frsize;
            // What the file system needs for the file's own map is not to be had.
            if free < 64 << 10 {
                return Ok(());
            }
            let length = file.metadata()?.len();
            let none = rustix::fs::FallocateFlags::empty();
            for part in [free, free / 2, 32 << 10] {
                match rustix::fs::fallocate(&file, none, length, part) {
                    Ok(()) => break,
                    Err(rustix::io::Errno::NOSPC) if part > 32 << 10 => {}
                    Err(rustix::io::Errno::NOSPC) => return Ok(()),
                    Err(error) => return Err(error).context("a disk cannot be filled"),
                }
            }
        }
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// When the file that takes it cannot be removed.
    pub fn free(&self) -> Result<()> {
        match std::fs::remove_file(self.filler()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context("the room on a disk cannot be given back")
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }
}
