//! The epoch gates of the routes this agent changes: the highest epoch and Raft term seen for each, on disk before the
//! effect. An order of an older epoch, or of an older leader in the same epoch, is refused.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use mesh_proto::codec::{self, CodecError, Kind};
use mesh_proto::{Epoch, GroupName, RouteName};
use serde::{Deserialize, Serialize};

/// The gates, as on disk.
#[derive(Debug)]
pub struct Gates {
    path: PathBuf,
    gates: BTreeMap<String, Gate>,
}

/// One gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Gate {
    epoch: Epoch,
    raft_term: u64,
}

/// Why the gates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// Reading or writing failed.
    #[error("cannot {doing} the route gates in {}; check space and permissions there", path.display())]
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
    #[error("the route gates in {} are damaged; restore the file, or, with every route checked by hand, remove it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: CodecError,
    },
}

/// Whether an order may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// It may.
    Open,
    /// A higher epoch, or a newer leader, was here before.
    Stale {
        /// The epoch that was here.
        seen: Epoch,
    },
}

impl Gates {
    /// Reads the gates of an agent; none yet is a new agent's state.
    ///
    /// # Errors
    /// [`GateError`] when the file cannot be read or is damaged.
    pub fn open(data_dir: &Path) -> Result<Self, GateError> {
        let path = data_dir.join("route-gates");
        let gates = match std::fs::read(&path) {
            Ok(bytes) => codec::decode(Kind::RouteGates, &bytes)
                .map_err(|source| GateError::Damaged { path: path.clone(), source })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(GateError::Io { doing: "read", path, source }),
        };
        Ok(Self { path, gates })
    }

    /// Checks an order, and raises the gate on disk before it lets it pass.
    ///
    /// # Errors
    /// [`GateError`] when the raised gate cannot be made durable: the order must not pass then.
    pub fn pass(
        &mut self,
        group: &GroupName,
        route: &RouteName,
        epoch: Epoch,
        raft_term: u64,
    ) -> Result<Passage, GateError> {
        let key = format!("{group}/{route}");
        let wanted = Gate { epoch, raft_term };
        match self.gates.get(&key) {
            Some(seen) if *seen > wanted => return Ok(Passage::Stale { seen: seen.epoch }),
            Some(seen) if *seen == wanted => return Ok(Passage::Open),
            Some(_) | None => {}
        }
        let mut raised = self.gates.clone();
        raised.insert(key, wanted);
        self.save(&raised)?;
        self.gates = raised;
        Ok(Passage::Open)
    }

    /// The highest epoch that a route's gate has seen.
    #[must_use]
    pub fn seen(&self, group: &GroupName, route: &RouteName) -> Option<Epoch> {
        self.gates.get(&format!("{group}/{route}")).map(|gate| gate.epoch)
    }

    fn save(&self, gates: &BTreeMap<String, Gate>) -> Result<(), GateError> {
        let bytes = codec::encode(Kind::RouteGates, gates)
            .map_err(|source| GateError::Damaged { path: self.path.clone(), source })?;
        replace(&self.path, &bytes).map_err(|(doing, source)| GateError::Io {
            doing,
            path: self.path.clone(),
            source,
        })
    }
}

/// Replaces a file whole, on disk before this returns; what could not be done is named.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), (&'static str, std::io::Error)> {
    let failed = |doing| move |source| (doing, source);
    let fresh = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut file =
        options.write(true).create(true).truncate(true).mode(0o600).open(&fresh).map_err(failed("create"))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed("write"))?;
    std::fs::rename(&fresh, path).map_err(failed("replace"))?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_epoch_or_leader_never_passes_even_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (group, route) = ("orders".parse().unwrap(), "pg".parse().unwrap());
        let mut gates = Gates::open(dir.path()).unwrap();
        assert_eq!(gates.seen(&group, &route), None);
        assert_eq!(gates.pass(&group, &route, Epoch(2), 7).unwrap(), Passage::Open);
        assert_eq!(gates.seen(&group, &route), Some(Epoch(2)));
        drop(gates);
        let mut gates = Gates::open(dir.path()).unwrap();
        assert_eq!(gates.pass(&group, &route, Epoch(1), 9).unwrap(), Passage::Stale { seen: Epoch(2) });
        assert_eq!(gates.pass(&group, &route, Epoch(2), 6).unwrap(), Passage::Stale { seen: Epoch(2) });
        assert_eq!(gates.pass(&group, &route, Epoch(2), 7).unwrap(), Passage::Open);
        assert_eq!(gates.pass(&group, &route, Epoch(3), 1).unwrap(), Passage::Open);
    }

    #[test]
    fn damaged_gates_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("route-gates"), b"MESHgarbage").unwrap();
        assert!(matches!(Gates::open(dir.path()), Err(GateError::Damaged { .. })));
    }

    #[test]
    fn fuzz_gates() {
        mesh_fuzz::fuzz!("gates", |bytes| {
            let dir = tempfile::tempdir().unwrap();
            let open = |bytes: &[u8]| {
                std::fs::write(dir.path().join("route-gates"), bytes).unwrap();
                mesh_fuzz::bounded(bytes.len(), || Gates::open(dir.path()).map(|found| found.gates))
            };
            let Ok(found) = open(bytes) else { return };
            let written = codec::encode(Kind::RouteGates, &found).unwrap();
            for cut in [0, bytes.len() / 2, bytes.len() - 1] {
                assert!(open(&bytes[..cut]).is_err(), "a file that ends early is no whole one");
            }
            let damaged = mesh_fuzz::flipped(&written, bytes).unwrap();
            assert!(open(&damaged).is_err(), "a turned bit was not noticed");
            assert_eq!(open(&written).unwrap(), found);
        });
    }
}
