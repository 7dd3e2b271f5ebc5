//! The disks under an instance: a small file of mesh's own on each, written and fsynced once a second by a thread of its own, and
//! the room that is left. A disk that hangs holds up that thread and nothing else: how long it has is seen from outside.
//!
//! It judges nothing, and writes nothing but that file.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_proto::Millis;
use mesh_proto::evidence::{DiskHolds, DiskRoom, DiskStanding, DiskSync};

use super::engine::Engine;

/// One fsync of one block a second is nothing beside what a database writes.
const EVERY: Duration = Duration::from_secs(1);
/// The file. PostgreSQL and Redis leave files alone whose names they do not know, also in `pg_wal`.
const FILE: &str = "mesh-disk-probe";
/// A block: less could be kept in an inode, and would need no room.
const BLOCK: [u8; 4096] = [b'm'; 4096];

/// What one thread found.
#[derive(Debug, Default)]
struct Seen {
    began: Option<Instant>,
    ended: Option<(Instant, Ended)>,
    room: Option<(Instant, DiskRoom)>,
    holds: Option<DiskHolds>,
}

#[derive(Debug, Clone, Copy)]
enum Ended {
    Ok(Duration),
    NoRoom,
    Failed(i32),
}

/// One directory that is looked at.
#[derive(Debug)]
struct Probe {
    dir: PathBuf,
    /// The directory of the log, where this one is not it.
    log: Option<PathBuf>,
    /// The directory of the data, where this one is the log's.
    data: Option<PathBuf>,
    seen: Mutex<Seen>,
}

/// The disks of one instance.
#[derive(Debug)]
pub(super) struct Disks {
    probes: Vec<Arc<Probe>>,
}

impl Disks {
    pub(super) fn of(engine: &Engine) -> Self {
        let data = engine.data_dir().to_owned();
        let probe = |dir, log, data| Arc::new(Probe { dir, log, data, seen: Mutex::default() });
        let probes = match engine {
            Engine::Postgres(_) => {
                let log = data.join("pg_wal");
                vec![probe(log.clone(), None, Some(data.clone())), probe(data, Some(log), None)]
            }
            Engine::Redis(_) => vec![probe(data, None, None)],
        };
        Self { probes }
    }

    /// Starts a thread for each. They live as long as the process.
    pub(super) fn start(&self) -> io::Result<()> {
        for probe in &self.probes {
            let probe = Arc::clone(probe);
            std::thread::Builder::new().name("disk".to_owned()).spawn(move || {
                loop {
                    probe.turn();
                    std::thread::sleep(EVERY);
                }
            })?;
        }
        Ok(())
    }

    /// What is known of each, now.
    pub(super) fn standing(&self, now: Instant) -> Vec<DiskStanding> {
        self.probes.iter().filter_map(|probe| probe.standing(now)).collect()
    }
}

impl Probe {
    /// Never held during anything that may wait.
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks once: what is on it, what is left, and whether a write becomes durable.
    fn turn(&self) {
        self.seen().began = Some(Instant::now());
        let holds = self.holds();
        if let Ok(holds) = &holds {
            self.seen().holds = *holds;
        }
        let ended = match holds {
            Ok(Some(_)) => {
                self.look_at_room();
                self.write()
            }
            // Another thread's, or no data directory at all.
            Ok(None) => None,
            Err(error) => failed(&error),
        };
        let mut seen = self.seen();
        seen.began = None;
        seen.ended = ended.map(|ended| (Instant::now(), ended));
        if seen.ended.is_none() {
            seen.room = None;
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

    fn look_at_room(&self) {
        // Without an answer the newest one grows old.
        let Ok(stat) = rustix::fs::statvfs(&self.dir) else { return };
        let room = DiskRoom {
            bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            size: stat.f_blocks.saturating_mul(stat.f_frsize),
            files: (stat.f_files > 0).then_some(stat.f_favail),
            age: Millis::ZERO,
        };
        self.seen().room = Some((Instant::now(), room));
    }

    /// Emptied first, so that it needs room anew, as a new segment of the log does.
    fn write(&self) -> Option<Ended> {
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
            Ok(()) => Some(Ended::Ok(began.elapsed())),
            Err(error) => failed(&error),
        }
    }

    fn standing(&self, now: Instant) -> Option<DiskStanding> {
        let seen = self.seen();
        let age = |at: Instant| Millis::from(now.saturating_duration_since(at));
        // While a turn hangs before it knows, what it knew last holds.
        let holds = seen.holds?;
        let late = seen.began.map(age).filter(|waiting| waiting.duration() >= EVERY);
        let sync = match (late, seen.ended) {
            (Some(waiting), _) => DiskSync::Waiting { waiting },
            (None, Some((at, Ended::Ok(took)))) => DiskSync::Ok { took: took.into(), age: age(at) },
            (None, Some((at, Ended::NoRoom))) => DiskSync::NoRoom { age: age(at) },
            (None, Some((at, Ended::Failed(errno)))) => DiskSync::Failed { errno, age: age(at) },
            (None, None) => DiskSync::NotYet,
        };
        let room = seen.room.map(|(at, room)| DiskRoom { age: age(at), ..room });
        Some(DiskStanding { at: self.dir.display().to_string(), holds, sync, room })
    }
}

fn failed(error: &io::Error) -> Option<Ended> {
    let kind = error.kind();
    if kind == ErrorKind::NotFound {
        // The data directory is being exchanged by a rebuild.
        return None;
    }
    let full = matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    Some(if full { Ended::NoRoom } else { Ended::Failed(error.raw_os_error().unwrap_or(0)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(dir: &Path) -> Probe {
        Probe { dir: dir.to_owned(), log: None, data: None, seen: Mutex::default() }
    }

    #[test]
    fn a_sound_disk_has_a_result_with_an_age_and_room() {
        let dir = tempfile::tempdir().unwrap();
        let probe = probe(dir.path());
        assert_eq!(probe.standing(Instant::now()), None, "nothing is said of what was not looked at");
        probe.turn();
        let later = Instant::now() + Duration::from_secs(7);
        let standing = probe.standing(later).unwrap();
        let DiskSync::Ok { age, .. } = standing.sync else { panic!("{standing:?}") };
        assert!(age.duration() >= Duration::from_secs(7) && standing.holds == DiskHolds::All, "{standing:?}");
        assert!(standing.room.is_some_and(|room| room.bytes > 0 && room.size > room.bytes), "{standing:?}");
        assert_eq!(std::fs::read(dir.path().join(FILE)).unwrap(), BLOCK);
    }

    #[test]
    fn a_write_that_does_not_return_is_seen_while_it_waits() {
        let dir = tempfile::tempdir().unwrap();
        let probe = Arc::new(probe(dir.path()));
        probe.turn();
        // Opening a pipe that nobody reads waits, as everything does on a disk that hangs.
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join(FILE),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let stuck = Arc::clone(&probe);
        let thread = std::thread::spawn(move || stuck.turn());
        while probe.seen().began.is_none() {
            std::thread::yield_now();
        }
        let sync = probe.standing(Instant::now() + Duration::from_secs(30)).unwrap().sync;
        assert!(matches!(sync, DiskSync::Waiting { waiting } if waiting >= Millis(29_000)), "{sync:?}");
        // It goes on, and what it wrote is no file: said, and nothing waits any more.
        let reader = std::fs::File::open(dir.path().join(FILE)).unwrap();
        thread.join().unwrap();
        drop(reader);
        let sync = probe.standing(Instant::now()).unwrap().sync;
        assert!(matches!(sync, DiskSync::Failed { .. }), "{sync:?}");
    }

    #[test]
    fn a_directory_that_is_not_there_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let probe = probe(&dir.path().join("none"));
        probe.turn();
        assert_eq!(probe.standing(Instant::now()), None);
    }

    #[test]
    fn data_and_log_on_one_file_system_are_looked_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("pg_wal");
        std::fs::create_dir(&log).unwrap();
        let of_log = Probe { data: Some(dir.path().to_owned()), ..probe(&log) };
        let of_data = Probe { log: Some(log), ..probe(dir.path()) };
        of_log.turn();
        of_data.turn();
        assert_eq!(of_log.standing(Instant::now()).unwrap().holds, DiskHolds::All);
        assert_eq!(of_data.standing(Instant::now()), None);
        assert!(!dir.path().join(FILE).exists());
    }
}
