//! Keeping what only an old primary has before a full copy replaces it: its snapshot, made anew where it is behind the memory,
//! its append-only files, and a note of what they are.
//!
//! Files are linked where they can be: Redis replaces its files by renaming, so a link keeps the old content. It never
//! decides what becomes of them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::fault::{AskError, Fault};
use super::info::info;
use super::instance::Instance;
use super::link::{Link, as_text, command};
use super::stamp;
use crate::kept::note::{self, FilesNote};
use crate::kept::turn;
use crate::postgres::durable::{DurableError, off_thread};

const POLL: Duration = Duration::from_millis(10);

/// What was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Where.
    pub at: PathBuf,
    /// Which files.
    pub files: Vec<String>,
}

/// Why nothing is known to be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// A refusal, or no answer.
    #[error("the instance could not be asked for a snapshot")]
    Ask(#[from] AskError),
    /// The snapshot was not saved.
    #[error("the instance did not save its snapshot; check space and rights of its data directory")]
    NotSaved,
    /// It takes too long.
    #[error("the snapshot was not saved within the deadline; it goes on, so repeat it later")]
    NotInTime,
    /// The disk.
    #[error("the files could not be linked or copied")]
    Disk(#[from] DurableError),
}

/// Keeps the files of a held instance. Done before is done: the note is written last.
///
/// # Errors
/// Nothing was destroyed.
pub async fn keep(instance: &Instance, diverged: Option<u64>, deadline: Instant) -> Result<Kept, KeepError> {
    let mut link = instance.link(deadline).await?;
    save(&mut link, deadline).await?;
    let now = info(&mut link, deadline).await?;
    let stamp = stamp::read(&mut link, deadline).await?;
    let names = names(&mut link, deadline).await?;
    let server = &now.replication;
    let name = FilesNote::directory(&instance.settings().name, server.replid.as_str(), server.offset);
    let target = instance.settings().keep_dir.join(name);
    let (at, from, instance_name) =
        (target.clone(), instance.data_dir().to_path_buf(), instance.settings().name.clone());
    let (replid, offset, keys) = (server.replid.clone(), server.offset, now.keys);
    let epoch = stamp.map(|stamp| stamp.epoch);
    let copying = off_thread(&target, "keep the diverged files in", deadline, move || {
        let _turn = turn();
        fs::create_dir_all(&at)?;
        let files = take_all(&from, &at, &names)?;
        let read_with = "redis-server --dir . --dbfilename <the .rdb here> --port 0 --unixsocket ./s; or any reader of RDB and AOF";
        let note = FilesNote {
            instance: instance_name,
            replid: replid.as_str().to_owned(),
            offset,
            epoch,
            diverged_bytes: diverged,
            keys,
            files: files.clone(),
            read_with: read_with.to_owned(),
        };
        note::write(&at, &note)?;
        Ok(files)
    });
    let files = copying.await?;
    Ok(Kept { at: target, files })
}

/// Makes the snapshot what the memory is.
async fn save(link: &mut Link, deadline: Instant) -> Result<(), KeepError> {
    let mut asked = false;
    loop {
        let now = info(link, deadline).await?;
        if !now.saving {
            if now.unsaved == 0 {
                return Ok(());
            }
            if asked {
                return Err(KeepError::NotSaved);
            }
            link.ask("save a snapshot", &command(&["BGSAVE"]), deadline).await?;
            asked = true;
        }
        if Instant::now() >= deadline {
            return Err(KeepError::NotInTime);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What the instance calls its files: the snapshot, the append-only file of 6.2, the directory of those since 7.
async fn names(link: &mut Link, deadline: Instant) -> Result<Vec<String>, AskError> {
    let what = "ask what the files are called";
    let mut found = Vec::new();
    for setting in ["dbfilename", "appendfilename", "appenddirname"] {
        let value = link.ask(what, &command(&["CONFIG", "GET", setting]), deadline).await?;
        let redis::Value::Array(items) = value else { return Err(AskError::new(what, Fault::Form)) };
        // A setting that this version does not have is answered with nothing.
        found.extend(items.get(1).and_then(as_text).filter(|name| !name.is_empty()));
    }
    Ok(found)
}

fn take_all(from: &Path, to: &Path, names: &[String]) -> io::Result<Vec<String>> {
    let mut taken = Vec::new();
    for name in names {
        let source = from.join(name);
        match fs::metadata(&source) {
            Ok(meta) if meta.is_dir() => {
                fs::create_dir_all(to.join(name))?;
                for entry in fs::read_dir(&source)? {
                    let entry = entry?;
                    let inner = Path::new(name).join(entry.file_name());
                    take(&entry.path(), &to.join(&inner))?;
                    taken.push(inner.display().to_string());
                }
                File::open(to.join(name))?.sync_all()?;
            }
            Ok(_) => {
                take(&source, &to.join(name))?;
                taken.push(name.clone());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    taken.sort();
    Ok(taken)
}

/// Links, or copies to another file system.
fn take(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            fs::copy(from, to)?;
        }
        Err(error) => return Err(error),
    }
    File::open(to)?.sync_all()
}
