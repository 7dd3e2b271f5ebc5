//! Files that another program reads and mesh writes: replaced as a whole and on disk before anything else is done, so that
//! a reload or a restart of that program finds what mesh wants. Each carries a mark: for which route and epoch, and by
//! which step, it was written.
//!
//! It never edits a file in place, and never one that carries a higher epoch.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Instant;

use mesh_proto::Epoch;
use mesh_proto::effect::StepRef;

use crate::postgres::durable::{DurableError, off_thread, sync_parent};

/// Who may read a new file besides its owner: the group, since the program that reads it is another user.
const NEW_MODE: u32 = 0o640;
const MARK: &str = "mesh-mark";

/// Which order a file, or another place that can hold a note, was written by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// `group/route`.
    pub route: String,
    /// The epoch whose primary it leads to.
    pub epoch: Epoch,
    /// The step.
    pub step: StepRef,
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{MARK} route={} epoch={} step={}", self.route, self.epoch.0, self.step)
    }
}

/// Why a file of ours is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The disk.
    #[error(
        "the file that mesh owns was not written or read; check space, and that the agent's user may write in its directory"
    )]
    Disk(#[source] DurableError),
    /// A later order was here. Somebody else drives the same file, or this agent lost its gates.
    #[error("{} was written in epoch {seen} already; this order is of epoch {ours}", path.display())]
    Stale {
        /// The file.
        path: PathBuf,
        /// Its epoch.
        seen: Epoch,
        /// The order's.
        ours: Epoch,
    },
    /// The mark is not one that mesh writes.
    #[error("{} has the mark {line:?}, whose epoch cannot be read; see what leads the route, then remove the file", path.display())]
    Mark {
        /// The file.
        path: PathBuf,
        /// Its line.
        line: String,
    },
    /// Not ours.
    #[error("{} has the line {line:?}, which would be lost; mesh replaces this file as a whole, so move the line to another file", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// The first line that is not for mesh.
        line: String,
    },
}

/// What a file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Content {
    /// The epoch in its mark.
    pub(crate) epoch: Option<Epoch>,
    /// All of it.
    pub(crate) text: String,
}

/// Reads a file; a missing one is empty.
pub(crate) async fn read(path: &Path, deadline: Instant) -> Result<Content, FileError> {
    let file = path.to_path_buf();
    let reading = off_thread(path, "read", deadline, move || match std::fs::read_to_string(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    });
    let text = reading.await.map_err(FileError::Disk)?;
    match epoch_of(&text) {
        Ok(epoch) => Ok(Content { epoch, text }),
        Err(line) => {
            Err(FileError::Mark { path: path.to_path_buf(), line: line.chars().take(200).collect() })
        }
    }
}

/// Refuses what a later order has written, and a file without a mark that has a line which would be lost: one that is not
/// `known`.
pub(crate) fn may_replace(
    path: &Path,
    found: &Content,
    mark: &Mark,
    known: impl Fn(&str) -> bool,
) -> Result<(), FileError> {
    match found.epoch {
        Some(seen) if seen > mark.epoch => {
            Err(FileError::Stale { path: path.to_path_buf(), seen, ours: mark.epoch })
        }
        Some(_) => Ok(()),
        None => match found.text.lines().find(|line| !line.trim().is_empty() && !known(line)) {
            None => Ok(()),
            Some(line) => Err(FileError::NotOurs { path: path.to_path_buf(), line: line.to_owned() }),
        },
    }
}

/// Replaces a file as a whole, on disk when this returns; mode, and owner as far as we may, stay.
pub(crate) async fn replace(path: &Path, text: String, deadline: Instant) -> Result<(), FileError> {
    let target = path.to_path_buf();
    let writing = off_thread(path, "write", deadline, move || {
        let old = match std::fs::metadata(&target) {
            Ok(old) => Some(old),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut name = target.as_os_str().to_owned();
        name.push(".mesh-new");
        let fresh = PathBuf::from(name);
        let mut options = OpenOptions::new();
        let mut file = options.create(true).write(true).truncate(true).mode(NEW_MODE).open(&fresh)?;
        if let Some(old) = old {
            keep_readers(&file, &old)?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, &target)?;
        sync_parent(&target)
    });
    writing.await.map_err(FileError::Disk)
}

/// Whoever could read the old file can read the new one.
fn keep_readers(file: &File, old: &std::fs::Metadata) -> io::Result<()> {
    let new = file.metadata()?;
    if new.gid() != old.gid() {
        fchown(file, None, Some(old.gid()))?;
    }
    if new.uid() != old.uid() && rustix::process::geteuid().is_root() {
        fchown(file, Some(old.uid()), None)?;
    }
    file.set_permissions(std::fs::Permissions::from_mode(old.mode() & 0o777))
}

/// The epoch of a text's mark, whichever character begins a comment in it; else the mark that has none: a file that was
/// led is not one that never was.
fn epoch_of(text: &str) -> Result<Option<Epoch>, &str> {
    let marked = |line: &&str| line.trim_start_matches(['#', ';', ' ']).starts_with(MARK);
    let Some(mark) = text.lines().find(marked) else { return Ok(None) };
    let epoch = mark.split_whitespace().find_map(|word| word.strip_prefix("epoch="));
    epoch.and_then(|epoch| epoch.parse().ok()).map(|epoch| Some(Epoch(epoch))).ok_or(mark)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mesh_proto::RunId;

    use super::*;

    fn mark(epoch: u64) -> Mark {
        let step = StepRef { run: RunId(12), step: 3, attempt: 1 };
        Mark { route: "orders/app".to_owned(), epoch: Epoch(epoch), step }
    }

    #[test]
    fn a_mark_is_read_back_behind_any_comment_character() {
        assert_eq!(mark(7).to_string(), format!("mesh-mark route=orders/app epoch=7 step={}.3", RunId(12)));
        for comment in ["# ", "; ", ";"] {
            assert_eq!(epoch_of(&format!("1\n{comment}{}\nx", mark(7))), Ok(Some(Epoch(7))));
        }
        assert_eq!(epoch_of("[databases]\n"), Ok(None));
        let cut = "; mesh-mark route=orders/app ep";
        assert_eq!(epoch_of(&format!("{cut}\nx")), Err(cut));
    }

    #[tokio::test]
    async fn a_file_is_replaced_with_its_mode_and_never_by_an_older_epoch() {
        let soon = Instant::now() + Duration::from_secs(10);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.ini");
        let nothing = read(&path, soon).await.unwrap();
        assert_eq!(nothing, Content::default());
        may_replace(&path, &nothing, &mark(1), |_| false).unwrap();
        replace(&path, format!("; {}\n", mark(2)), soon).await.unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o604)).unwrap();
        replace(&path, format!("; {}\nnew\n", mark(2)), soon).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o604);
        let found = read(&path, soon).await.unwrap();
        let stale = may_replace(&path, &found, &mark(1), |_| true);
        assert!(matches!(stale, Err(FileError::Stale { seen: Epoch(2), .. })));
        may_replace(&path, &found, &mark(2), |_| false).unwrap();
        std::fs::write(&path, "[databases]\n* = host=a\n").unwrap();
        let theirs = read(&path, soon).await.unwrap();
        let lost = may_replace(&path, &theirs, &mark(9), |line| line == "[databases]");
        assert!(matches!(lost, Err(FileError::NotOurs { line, .. }) if line == "* = host=a"));
        may_replace(&path, &theirs, &mark(9), |_| true).unwrap();
        let gone = dir.path().join("none/app.ini");
        assert!(matches!(replace(&gone, String::new(), soon).await, Err(FileError::Disk(_))));
    }

    #[test]
    fn fuzz_marks() {
        mesh_fuzz::fuzz!("marks", |bytes| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("file");
            std::fs::write(&path, bytes).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let soon = Instant::now() + Duration::from_secs(10);
            let Ok(found) = runtime.block_on(read(&path, soon)) else { return };
            let marked =
                found.text.lines().any(|line| line.trim_start_matches(['#', ';', ' ']).starts_with(MARK));
            assert_eq!(found.epoch.is_some(), marked, "a mark that cannot be read is no missing mark");
            let allowed = may_replace(&path, &found, &mark(7), |line| line.starts_with(['#', ';']));
            assert!(allowed.is_err() || found.epoch.is_none_or(|seen| seen <= Epoch(7)), "{found:?}");
        });
    }
}
