//! The disks under an instance, each looked at by a process of its own ([`probe`]). A disk that hangs holds up that process and
//! nothing else: how long it has is seen from here.
//!
//! It judges nothing, and touches no disk itself.

mod probe;

use std::io::{self, BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_proto::Millis;
use mesh_proto::evidence::{DiskHolds, DiskRoom, DiskStanding, DiskSync};

use super::engine::Engine;
pub use probe::Probe;
use probe::{EVERY, Said, Turn, Written};

/// Pause before a probe that ended is started again.
const AGAIN: Duration = Duration::from_secs(1);

/// What one probe found.
#[derive(Debug, Default)]
struct Seen {
    began: Option<Instant>,
    ended: Option<(Instant, Written)>,
    room: Option<(Instant, DiskRoom)>,
    holds: Option<DiskHolds>,
}

/// One directory, and what is known of it.
#[derive(Debug)]
struct Watched {
    probe: Probe,
    seen: Mutex<Seen>,
}

/// The disks of one instance.
#[derive(Debug)]
pub(super) struct Disks {
    watched: Vec<Arc<Watched>>,
}

impl Disks {
    pub(super) fn of(engine: &Engine) -> Self {
        let data = engine.data_dir().to_owned();
        let probes = match engine {
            Engine::Postgres(_) => {
                let log = data.join("pg_wal");
                vec![
                    Probe { dir: log.clone(), log: None, data: Some(data.clone()) },
                    Probe { dir: data, log: Some(log), data: None },
                ]
            }
            Engine::Redis(_) => vec![Probe { dir: data, log: None, data: None }],
        };
        let watched = probes.into_iter().map(|probe| Arc::new(Watched { probe, seen: Mutex::default() }));
        Self { watched: watched.collect() }
    }

    /// Starts a probe for each, and a thread that hears it. They live as long as the process.
    pub(super) fn start(&self) -> io::Result<()> {
        for watched in &self.watched {
            let watched = Arc::clone(watched);
            std::thread::Builder::new().name("disk".to_owned()).spawn(move || {
                loop {
                    if let Err(error) = watched.hear() {
                        tracing::warn!(%error, dir = %watched.probe.dir.display(), "the disk is not looked at");
                    }
                    std::thread::sleep(AGAIN);
                }
            })?;
        }
        Ok(())
    }

    /// What is known of each, now.
    pub(super) fn standing(&self, now: Instant) -> Vec<DiskStanding> {
        self.watched.iter().filter_map(|watched| watched.standing(now)).collect()
    }
}

impl Watched {
    /// Never held during anything that may wait.
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the probe and notes what it says, until it ends.
    fn hear(&self) -> io::Result<()> {
        let mut child = self.child()?;
        let out = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        for line in BufReader::new(out).lines() {
            self.note(serde_json::from_str(&line?)?);
        }
        let status = child.wait()?;
        Err(io::Error::other(format!("its probe ended: {status}")))
    }

    fn child(&self) -> io::Result<Child> {
        // The running file itself, also when an upgrade has replaced it on disk meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg("disk-probe").arg("--guard").arg(std::process::id().to_string());
        for (flag, path) in [("--log", &self.probe.log), ("--data", &self.probe.data)] {
            if let Some(path) = path {
                command.arg(flag).arg(path);
            }
        }
        command.arg("--").arg(&self.probe.dir).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()
    }

    fn note(&self, said: Said) {
        let now = Instant::now();
        let mut seen = self.seen();
        match said {
            Said::Begun => seen.began = Some(now),
            Said::Ended(Turn { holds, write, room }) => {
                seen.began = None;
                seen.ended = write.map(|written| (now, written));
                match (holds, write) {
                    // While it is not known what is there, what was known last holds.
                    (None, Some(_)) => {}
                    (None, None) => (seen.holds, seen.room) = (None, None),
                    (Some(holds), _) => {
                        seen.holds = Some(holds);
                        seen.room = room.map(|room| (now, room)).or(seen.room);
                    }
                }
            }
        }
    }

    fn standing(&self, now: Instant) -> Option<DiskStanding> {
        let seen = self.seen();
        let age = |at: Instant| Millis::from(now.saturating_duration_since(at));
        let holds = seen.holds?;
        let late = seen.began.map(age).filter(|waiting| waiting.duration() >= EVERY);
        let sync = match (late, seen.ended) {
            (Some(waiting), _) => DiskSync::Waiting { waiting },
            (None, Some((at, Written::Ok(took)))) => DiskSync::Ok { took, age: age(at) },
            (None, Some((at, Written::NoRoom))) => DiskSync::NoRoom { age: age(at) },
            (None, Some((at, Written::Failed(errno)))) => DiskSync::Failed { errno, age: age(at) },
            (None, None) => DiskSync::NotYet,
        };
        let room = seen.room.map(|(at, room)| DiskRoom { age: age(at), ..room });
        Some(DiskStanding { at: self.probe.dir.display().to_string(), holds, sync, room })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched() -> Watched {
        let probe = Probe { dir: "/data".into(), log: None, data: None };
        Watched { probe, seen: Mutex::default() }
    }

    fn room() -> DiskRoom {
        DiskRoom { bytes: 7, size: 9, files: None, age: Millis::ZERO }
    }

    #[test]
    fn what_was_seen_has_an_age_and_a_write_that_waits_is_seen_while_it_does() {
        let watched = watched();
        assert_eq!(watched.standing(Instant::now()), None, "nothing is said of what was not looked at");
        let ended = Said::Ended(Turn {
            holds: Some(DiskHolds::All),
            write: Some(Written::Ok(Millis(3))),
            room: Some(room()),
        });
        watched.note(Said::Begun);
        watched.note(ended);
        let later = Instant::now() + Duration::from_secs(7);
        let standing = watched.standing(later).unwrap();
        let DiskSync::Ok { took: Millis(3), age } = standing.sync else { panic!("{standing:?}") };
        assert!(age >= Millis(7_000) && standing.room.is_some_and(|room| room.bytes == 7), "{standing:?}");
        watched.note(Said::Begun);
        let sync = watched.standing(Instant::now() + Duration::from_secs(30)).unwrap().sync;
        assert!(matches!(sync, DiskSync::Waiting { waiting } if waiting >= Millis(29_000)), "{sync:?}");
        // It goes on with an error, and what is there is not known: what was known holds.
        watched.note(Said::Ended(Turn { holds: None, write: Some(Written::Failed(5)), room: None }));
        let standing = watched.standing(Instant::now()).unwrap();
        assert!(matches!(standing.sync, DiskSync::Failed { errno: 5, .. }) && standing.room.is_some());
        // Its directory is being exchanged, or is another one's by now.
        watched.note(Said::Ended(Turn { holds: None, write: None, room: None }));
        assert_eq!(watched.standing(Instant::now()), None);
    }

    #[test]
    fn what_a_probe_says_is_read_as_it_was_written() {
        let turn = Turn { holds: Some(DiskHolds::Log), write: Some(Written::NoRoom), room: Some(room()) };
        for said in [Said::Begun, Said::Ended(turn)] {
            let line = serde_json::to_string(&said).unwrap();
            assert_eq!(serde_json::from_str::<Said>(&line).unwrap(), said, "{line}");
        }
    }
}
