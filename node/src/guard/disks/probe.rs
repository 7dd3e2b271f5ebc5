//! One directory that is looked at, in a process of its own (`mesh disk-probe`): a small file of mesh's own, written and fsynced
//! once a second, and the room that is left.
//!
//! A process, because one that waits for a disk cannot even be killed: a guard with such a thread could neither end nor be
//! started again. It judges nothing, and writes nothing but that file.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use mesh_proto::Millis;
use mesh_proto::evidence::{DiskHolds, DiskRoom};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

/// One fsync of one block a second is nothing beside what a database writes.
pub(super) const EVERY: Duration = Duration::from_secs(1);
/// The file. PostgreSQL and Redis leave files alone whose names they do not know, also in `pg_wal`.
const FILE: &str = "mesh-disk-probe";
/// A block: less could be kept in an inode, and would need no room.
const BLOCK: [u8; 4096] = [b'm'; 4096];

/// `mesh disk-probe`: started by the guard.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Probe {
    /// The directory
    pub dir: PathBuf,
    /// The directory of the log, where this one is not it
    #[arg(long)]
    pub log: Option<PathBuf>,
    /// The directory of the data, where this one is the log's
    #[arg(long)]
    pub data: Option<PathBuf>,
}

/// What it tells its guard, a line each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Said {
    /// It begins to look.
    Begun,
    /// It has looked.
    Ended(Turn),
}

/// What one look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Turn {
    /// What of the instance is there; nothing where another probe looks at the same file system, or where that is not known.
    pub(super) holds: Option<DiskHolds>,
    /// What came of the write.
    pub(super) write: Option<Written>,
    /// What is left.
    pub(super) room: Option<DiskRoom>,
}

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Written {
    /// It is durable, after this time.
    Ok(Millis),
    /// There was no room.
    NoRoom,
    /// Another error (errno).
    Failed(i32),
}

impl Probe {
    /// Looks once a second, and says so on standard output, until the guard is gone.
    ///
    /// # Errors
    /// When nobody hears it any more.
    pub fn run(&self, guard: Option<rustix::process::Pid>, out: &mut impl Write) -> io::Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // A guard that died before the line above sends no signal any more.
        if getppid() != guard {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        loop {
            say(out, Said::Begun)?;
            say(out, Said::Ended(self.turn()))?;
            std::thread::sleep(EVERY);
        }
    }

    /// Looks once: what is on it, what is left, and whether a write becomes durable.
    pub(super) fn turn(&self) -> Turn {
        match self.holds() {
            Ok(Some(holds)) => Turn { holds: Some(holds), room: self.room(), write: self.write() },
            // Another one's, or no data directory at all.
            Ok(None) => Turn { holds: None, room: None, write: None },
            Err(error) => Turn { holds: None, room: None, write: failed(&error) },
        }
    }

    /// What of the instance is on this file system; nothing, where the log's thread looks at the same one.
    fn holds(&self) -> io::Result<Option<DiskHolds>> {
        let device = |path: &Path| match std::fs::metadata(path) {
            Ok(meta) => Ok(Some(meta.dev())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let Some(here) = device(&self.dir)? else { return Ok(None) };
        if let Some(log) = &self.log {
            return Ok((device(log)? != Some(here)).then_some(DiskHolds::Data));
        }
        let Some(data) = &self.data else { return Ok(Some(DiskHolds::All)) };
        let same = device(data)? == Some(here);
        Ok(Some(if same { DiskHolds::All } else { DiskHolds::Log }))
    }

    fn room(&self) -> Option<DiskRoom> {
        // Without an answer the newest one grows old.
        let stat = rustix::fs::statvfs(&self.dir).ok()?;
        Some(DiskRoom {
            bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            size: stat.f_blocks.saturating_mul(stat.f_frsize),
            files: (stat.f_files > 0).then_some(stat.f_favail),
            age: Millis::ZERO,
        })
    }

    /// Emptied first, so that it needs room anew, as a new segment of the log does.
    fn write(&self) -> Option<Written> {
        let began = Instant::now();
        let path = self.dir.join(FILE);
        let written = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut file| file.write_all(&BLOCK).and_then(|()| file.sync_data()));
        match written {
            Ok(()) => Some(Written::Ok(began.elapsed().into())),
            Err(error) => failed(&error),
        }
    }
}

fn say(out: &mut impl Write, said: Said) -> io::Result<()> {
    let mut line = serde_json::to_vec(&said)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

fn failed(error: &io::Error) -> Option<Written> {
    let kind = error.kind();
    if kind == ErrorKind::NotFound {
        // The data directory is being exchanged by a rebuild.
        return None;
    }
    let full = matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    Some(if full { Written::NoRoom } else { Written::Failed(error.raw_os_error().unwrap_or(0)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(dir: &Path) -> Probe {
        Probe { dir: dir.to_owned(), log: None, data: None }
    }

    #[test]
    fn a_sound_disk_takes_a_block_and_has_room() {
        let dir = tempfile::tempdir().unwrap();
        let turn = probe(dir.path()).turn();
        assert_eq!(turn.holds, Some(DiskHolds::All));
        assert!(matches!(turn.write, Some(Written::Ok(_))), "{turn:?}");
        assert!(turn.room.is_some_and(|room| room.bytes > 0 && room.size > room.bytes), "{turn:?}");
        assert_eq!(std::fs::read(dir.path().join(FILE)).unwrap(), BLOCK);
    }

    #[test]
    fn a_directory_that_is_not_there_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let turn = probe(&dir.path().join("none")).turn();
        assert_eq!(turn, Turn { holds: None, write: None, room: None });
    }

    #[test]
    fn data_and_log_on_one_file_system_are_looked_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("pg_wal");
        std::fs::create_dir(&log).unwrap();
        let of_log = Probe { data: Some(dir.path().to_owned()), ..probe(&log) };
        let of_data = Probe { log: Some(log), ..probe(dir.path()) };
        assert_eq!(of_log.turn().holds, Some(DiskHolds::All));
        assert_eq!(of_data.turn(), Turn { holds: None, write: None, room: None });
        assert!(!dir.path().join(FILE).exists());
    }

    #[test]
    fn it_ends_when_nobody_hears_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut closed = std::io::pipe().unwrap().1;
        let error = probe(dir.path()).run(getppid(), &mut closed).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        assert!(probe(dir.path()).run(None, &mut Vec::new()).is_err(), "another process's child");
    }
}
