//! The directory with what rejoins kept: what of it mesh wrote itself, how old and how large that is, and how one of it is
//! removed. Whether it may go is not decided here.
//!
//! It touches nothing but what a readable note of this instance names, in the directory that such a note belongs to. Whatever
//! else lies there is listed with a reason, and left alone.

pub(crate) mod note;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

pub use note::NoteError;
use note::{FRESH, NOTE, Note};

use crate::postgres::durable::sync_parent;

/// What is being removed is called so: nobody takes it for something whole, and the next removal finishes it.
const REMOVED: &str = ".pruned";

/// Keeping and removing in one process take turns: what a rejoin relies on is not removed under its hands.
static TURN: Mutex<()> = Mutex::new(());

/// Waits for this process's turn to keep or to remove.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something whole that mesh kept of this instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its directory's name.
    pub name: String,
    /// Since its note was written, by the wall clock; none, where that was set back.
    pub age: Duration,
    /// The sum of its files' lengths.
    pub bytes: u64,
}

/// Something that is left alone.
#[derive(Debug)]
pub struct LeftAlone {
    /// Its name.
    pub name: String,
    /// Why.
    pub why: Why,
}

/// Why something is left alone.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// It is not a directory.
    #[error("it is no directory")]
    NoDirectory,
    /// Nothing in it says what it is: somebody else's, or the rest of a rejoin that was interrupted while it kept.
    #[error("it has no note: it is not mesh's, or a rejoin was interrupted while it kept the files")]
    NoNote,
    /// The note is of no use.
    #[error("{0}")]
    Note(#[from] NoteError),
    /// The note belongs elsewhere.
    #[error("its note belongs to a directory {0:?}: it was moved or copied here")]
    Misplaced(String),
    /// Somebody put something there, such as a server that reads it.
    #[error("it holds {}, which its note does not name", .0.display())]
    NotNamed(PathBuf),
    /// The disk.
    #[error("it cannot be listed")]
    Disk(#[source] io::Error),
}

/// What lies in the directory.
#[derive(Debug, Default)]
pub struct Listing {
    /// Whole, and this instance's.
    pub whole: Vec<Found>,
    /// Of which the removal was begun.
    pub begun: Vec<String>,
    /// Not to be touched.
    pub left_alone: Vec<LeftAlone>,
}

/// Why the directory could not be listed, or something not be removed.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The directory itself.
    #[error("the directory {} of what was kept cannot be listed", path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// One of it changed since it was listed.
    #[error("{} is not what it was when it was listed ({why}); it was left alone", path.display())]
    Changed {
        /// The directory.
        path: PathBuf,
        /// How.
        why: Why,
    },
    /// The disk.
    #[error("{} cannot be removed whole; what is left of it is removed later", path.display())]
    Remove {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Lists what was kept of an instance; what was kept of another one by its own guard is none of our business. A directory that is
/// not there holds nothing.
///
/// # Errors
/// When it cannot be listed.
pub fn list(dir: &Path, instance: &str, now: SystemTime) -> Result<Listing, KeptError> {
    let failed = |source| KeptError::List { path: dir.to_path_buf(), source };
    let mut listing = Listing::default();
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(listing),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        match examine(&entry.path(), &name, now) {
            Ok((note, _)) if note.instance() != instance => {}
            Ok(_) if name.ends_with(REMOVED) => listing.begun.push(name),
            Ok((_, found)) => listing.whole.push(found),
            // The note goes last but the directory.
            Err(Why::NoNote) if name.ends_with(REMOVED) && is_empty(&entry.path()) => {
                listing.begun.push(name)
            }
            Err(why) => listing.left_alone.push(LeftAlone { name, why }),
        }
    }
    listing.begun.sort();
    listing.left_alone.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(listing)
}

/// Removes one of the whole, after looking once more at what it is. `now` is the one of the listing, or a later one.
///
/// # Errors
/// When it changed since, or the disk refuses. What is half removed is found as `begun` later.
pub fn remove(dir: &Path, instance: &str, found: &Found, now: SystemTime) -> Result<(), KeptError> {
    let _turn = turn();
    let path = dir.join(&found.name);
    let changed = |why| KeptError::Changed { path: path.clone(), why };
    let (note, again) = examine(&path, &found.name, now).map_err(changed)?;
    // A rejoin that needs it again has made it new.
    if note.instance() != instance || again.age < found.age {
        return Err(changed(Why::Misplaced(again.name)));
    }
    let away = format!("{}{REMOVED}", found.name);
    let failed = |source| KeptError::Remove { path: path.clone(), source };
    fs::rename(&path, dir.join(&away)).and_then(|()| sync_parent(&path)).map_err(failed)?;
    finish_removal(dir, &away)
}

/// Goes on with a removal that was begun: the files that the note names, the note, the directory.
///
/// # Errors
/// As for [`remove`].
pub fn finish(dir: &Path, name: &str) -> Result<(), KeptError> {
    let _turn = turn();
    finish_removal(dir, name)
}

fn finish_removal(dir: &Path, name: &str) -> Result<(), KeptError> {
    let path = dir.join(name);
    let failed = |source| KeptError::Remove { path: path.clone(), source };
    let note = Note::read(&path).map_err(|why| KeptError::Changed { path: path.clone(), why: why.into() })?;
    let Some(note) = note else {
        return gone(fs::remove_dir(&path)).and_then(|()| sync_parent(&path)).map_err(failed);
    };
    let mut folders = BTreeSet::new();
    for file in note.files() {
        gone(fs::remove_file(path.join(file))).map_err(failed)?;
        folders.extend(Path::new(file).ancestors().skip(1).filter(|at| !at.as_os_str().is_empty()));
    }
    // The innermost first. One with anything else in it is refused by the system, and stays.
    for folder in folders.iter().rev() {
        gone(fs::remove_dir(path.join(folder))).map_err(failed)?;
    }
    gone(fs::remove_file(path.join(FRESH))).map_err(failed)?;
    gone(fs::remove_file(path.join(NOTE))).map_err(failed)?;
    gone(fs::remove_dir(&path)).and_then(|()| sync_parent(&path)).map_err(failed)
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// What a directory is, if it is mesh's.
fn examine(path: &Path, name: &str, now: SystemTime) -> Result<(Note, Found), Why> {
    // Of a link the link itself is looked at.
    if !fs::symlink_metadata(path).map_err(Why::Disk)?.is_dir() {
        return Err(Why::NoDirectory);
    }
    let note = Note::read(path)?.ok_or(Why::NoNote)?;
    let own = note.own_directory();
    if name.strip_suffix(REMOVED).unwrap_or(name) != own {
        return Err(Why::Misplaced(own));
    }
    let mut bytes = 0;
    let named: BTreeSet<&Path> = note.files().iter().map(Path::new).collect();
    weigh(path, Path::new(""), &named, &mut bytes)?;
    let written = fs::metadata(path.join(NOTE)).and_then(|meta| meta.modified()).map_err(Why::Disk)?;
    let age = now.duration_since(written).unwrap_or_default();
    let found = Found { name: name.to_owned(), age, bytes };
    Ok((note, found))
}

/// Adds up the files of a directory, all of which the note must name.
fn weigh(root: &Path, below: &Path, named: &BTreeSet<&Path>, bytes: &mut u64) -> Result<(), Why> {
    for entry in fs::read_dir(root.join(below)).map_err(Why::Disk)? {
        let entry = entry.map_err(Why::Disk)?;
        let file = below.join(entry.file_name());
        let meta = entry.metadata().map_err(Why::Disk)?;
        let folder = meta.is_dir() && named.iter().any(|name| name.starts_with(&file));
        let ours = file == Path::new(NOTE) || file == Path::new(FRESH) || named.contains(file.as_path());
        if folder {
            weigh(root, &file, named, bytes)?;
        } else if ours && meta.is_file() {
            *bytes += meta.len();
        } else {
            return Err(Why::NotNamed(file));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
