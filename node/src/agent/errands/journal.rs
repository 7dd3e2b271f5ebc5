//! What this agent began last for each service and hook, and how that ended: on disk before anything is executed, so that a
//! restarted agent neither repeats what it does not know nor calls done what it did not see end. It holds the epoch gate too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mesh_proto::Epoch;
use mesh_proto::codec::{self, CodecError, Kind};
use mesh_proto::effect::{Order, Outcome, StepRef};
use serde::{Deserialize, Serialize};

use crate::agent::gates::replace;

/// The journal, as on disk.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    lines: BTreeMap<String, Line>,
}

/// The newest errand of one service or hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    epoch: Epoch,
    raft_term: u64,
    step: StepRef,
    outcome: Option<Outcome>,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Reading or writing failed.
    #[error("cannot {doing} the record of services and hooks in {}; check space and permissions there", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file does not decode. It is never taken for empty.
    #[error("the record of services and hooks in {} is damaged; restore the file, or, with every service looked at by hand, remove it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: CodecError,
    },
}

/// Whether an order may be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// It may, and is on disk as begun.
    New,
    /// It was begun before, and ended so; `None`: its end is not known.
    Again(Option<Outcome>),
    /// A higher epoch, a newer leader or a later attempt was here before.
    Stale {
        /// The epoch that was here.
        seen: Epoch,
    },
}

impl Journal {
    /// Reads the journal of an agent; none yet is a new agent's state.
    ///
    /// # Errors
    /// [`JournalError`] when the file cannot be read or is damaged.
    pub fn open(data_dir: &Path) -> Result<Self, JournalError> {
        let path = data_dir.join("errands");
        let lines = match std::fs::read(&path) {
            Ok(bytes) => codec::decode(Kind::Errands, &bytes)
                .map_err(|source| JournalError::Damaged { path: path.clone(), source })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(JournalError::Io { doing: "read", path, source }),
        };
        Ok(Self { path, lines })
    }

    /// Lets an order in, on disk before it returns.
    ///
    /// # Errors
    /// [`JournalError`] when that it begins cannot be made durable: it must not be executed then.
    pub fn begin(&mut self, key: &str, order: &Order) -> Result<Begin, JournalError> {
        let known = self.lines.get(key);
        if let Some(seen) = known.filter(|line| stale(line, order)) {
            return Ok(Begin::Stale { seen: seen.epoch });
        }
        let again = known.filter(|line| line.step == order.step).map(|line| line.outcome.clone());
        let (epoch, raft_term) = (order.epoch, order.raft_term);
        let line = Line { epoch, raft_term, step: order.step, outcome: again.clone().flatten() };
        if known != Some(&line) {
            self.save(key, line)?;
        }
        Ok(again.map_or(Begin::New, Begin::Again))
    }

    /// What is known of an order, without beginning it: as [`Self::begin`], where [`Begin::New`] means that it never was.
    #[must_use]
    pub fn look(&self, key: &str, order: &Order) -> Begin {
        match self.lines.get(key) {
            Some(line) if stale(line, order) => Begin::Stale { seen: line.epoch },
            Some(line) if line.step == order.step => Begin::Again(line.outcome.clone()),
            Some(_) | None => Begin::New,
        }
    }

    /// An errand ended. Ignored when a newer one was begun meanwhile.
    ///
    /// # Errors
    /// [`JournalError`]: then a restarted agent will not know how it ended, and says so.
    pub fn end(&mut self, key: &str, step: StepRef, outcome: &Outcome) -> Result<(), JournalError> {
        match self.lines.get(key) {
            Some(line) if line.step == step => {
                let line = Line { outcome: Some(outcome.clone()), ..line.clone() };
                self.save(key, line)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn save(&mut self, key: &str, line: Line) -> Result<(), JournalError> {
        let mut lines = self.lines.clone();
        lines.insert(key.to_owned(), line);
        let path = || self.path.clone();
        let bytes = codec::encode(Kind::Errands, &lines)
            .map_err(|source| JournalError::Damaged { path: path(), source })?;
        replace(&self.path, &bytes).map_err(|(doing, source)| JournalError::Io {
            doing,
            path: path(),
            source,
        })?;
        self.lines = lines;
        Ok(())
    }
}

fn stale(line: &Line, order: &Order) -> bool {
    (line.epoch, line.raft_term) > (order.epoch, order.raft_term) || line.step > order.step
}

#[cfg(test)]
mod tests {
    use mesh_proto::effect::{Effect, Finding};
    use mesh_proto::spec::{Point, Work};
    use mesh_proto::{Millis, RunId};

    use super::*;

    fn order(epoch: u64, raft_term: u64, run: u64, attempt: u32) -> Order {
        Order {
            group: "orders".parse().unwrap(),
            step: StepRef { run: RunId(run), step: 4, attempt },
            epoch: Epoch(epoch),
            raft_term,
            effect: Effect::Errand {
                errand: "page".parse().unwrap(),
                agent: "dr-1".parse().unwrap(),
                work: Work::Hook,
                at: Point::BesideRoutes,
                instance: "pg-dr".parse().unwrap(),
            },
            verify_only: false,
            index: 9,
            budget: Millis(1_000),
        }
    }

    #[test]
    fn what_was_begun_is_known_after_a_restart_and_older_orders_stay_out() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Journal::open(dir.path()).unwrap();
        let first = order(2, 7, 40, 1);
        assert_eq!(open().look("k", &first), Begin::New);
        assert_eq!(open().begin("k", &first).unwrap(), Begin::New);
        // Begun, and nobody saw the end.
        assert_eq!(open().begin("k", &first).unwrap(), Begin::Again(None));
        let done = Outcome::Done(Finding::Nothing);
        open().end("k", first.step, &done).unwrap();
        // The next leader asks about the same step.
        assert_eq!(open().look("k", &order(2, 8, 40, 1)), Begin::Again(Some(done.clone())));
        assert_eq!(open().begin("k", &order(2, 8, 40, 1)).unwrap(), Begin::Again(Some(done)));
        assert_eq!(open().begin("k", &first).unwrap(), Begin::Stale { seen: Epoch(2) }, "an older leader");
        assert_eq!(open().begin("k", &order(2, 8, 40, 2)).unwrap(), Begin::New, "a retry");
        assert_eq!(open().begin("k", &order(2, 8, 40, 1)).unwrap(), Begin::Stale { seen: Epoch(2) });
        assert_eq!(open().begin("k", &order(3, 9, 60, 1)).unwrap(), Begin::New);
        assert_eq!(open().begin("k", &order(2, 10, 40, 3)).unwrap(), Begin::Stale { seen: Epoch(3) });
        assert_eq!(open().begin("other", &first).unwrap(), Begin::New);
    }

    #[test]
    fn a_damaged_journal_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("errands"), b"MESHgarbage").unwrap();
        assert!(matches!(Journal::open(dir.path()), Err(JournalError::Damaged { .. })));
    }

    #[test]
    fn fuzz_errands() {
        mesh_fuzz::fuzz!("errands", |bytes| {
            let dir = tempfile::tempdir().unwrap();
            let open = |bytes: &[u8]| {
                std::fs::write(dir.path().join("errands"), bytes).unwrap();
                mesh_fuzz::bounded(bytes.len(), || Journal::open(dir.path()).map(|found| found.lines))
            };
            let Ok(found) = open(bytes) else { return };
            let written = codec::encode(Kind::Errands, &found).unwrap();
            for cut in [0, bytes.len() / 2, bytes.len() - 1] {
                assert!(open(&bytes[..cut]).is_err(), "a file that ends early is no whole one");
            }
            let damaged = mesh_fuzz::flipped(&written, bytes).unwrap();
            assert!(open(&damaged).is_err(), "a turned bit was not noticed");
            assert_eq!(open(&written).unwrap(), found);
        });
    }
}
