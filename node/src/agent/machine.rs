//! The replicated machine that the agreement drives: decodes entries, hands them to the pure core, encodes answers.
//! It never decides anything itself.

use mesh_consensus::{EntryId, Machine, MachineError};
use mesh_failover::state::MeshState;
use mesh_proto::codec::{self, Kind};
use mesh_proto::command::Entry;

/// The mesh's state behind the agreement.
#[derive(Debug, Default)]
pub struct MeshMachine {
    state: MeshState,
    applied: u64,
}

impl MeshMachine {
    /// One that begins with this state, as of that place in the log.
    #[must_use]
    pub const fn beginning(state: MeshState, applied: u64) -> Self {
        Self { state, applied }
    }

    /// The applied state.
    #[must_use]
    pub const fn state(&self) -> &MeshState {
        &self.state
    }

    /// The log index of the newest entry of ours that the state contains.
    #[must_use]
    pub const fn applied(&self) -> u64 {
        self.applied
    }
}

/// What a snapshot holds.
#[derive(serde::Serialize, serde::Deserialize)]
struct Snapshot {
    applied: u64,
    state: MeshState,
}

fn broken(what: &str, error: &dyn std::error::Error) -> MachineError {
    MachineError(format!("{what}: {}", crate::cli::with_causes(error)))
}

impl Machine for MeshMachine {
    fn apply(&mut self, at: EntryId, command: &[u8]) -> Result<Vec<u8>, MachineError> {
        let entry: Entry = codec::decode(Kind::Entry, command)
            .map_err(|e| broken(&format!("log entry {at} does not decode"), &e))?;
        let applied = self
            .state
            .apply(at.index, &entry)
            .map_err(|e| broken(&format!("log entry {at} leaves no audit record"), &e))?;
        self.applied = at.index;
        codec::encode(Kind::Applied, &applied).map_err(|e| broken("the answer does not encode", &e))
    }

    fn snapshot(&self) -> Result<Vec<u8>, MachineError> {
        let snapshot = Snapshot { applied: self.applied, state: self.state.clone() };
        codec::encode(Kind::Snapshot, &snapshot).map_err(|e| broken("the state does not encode", &e))
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), MachineError> {
        let snapshot: Snapshot =
            codec::decode(Kind::Snapshot, bytes).map_err(|e| broken("the snapshot does not decode", &e))?;
        snapshot
            .state
            .check_invariants()
            .map_err(|what| MachineError(format!("the snapshot is not sound: {what}")))?;
        self.applied = snapshot.applied;
        self.state = snapshot.state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any agent's entries, a line each; what is no entry is left out, as a damaged one never gets here.
    #[test]
    fn fuzz_log() {
        mesh_fuzz::fuzz!("log", 4, |bytes| {
            let mut machine = MeshMachine::default();
            for (line, index) in bytes.split(|byte| *byte == b'\n').zip(1..) {
                let Ok(entry) = serde_json::from_slice::<Entry>(line) else { continue };
                let record = codec::encode(Kind::Entry, &entry).unwrap();
                let answer = machine.apply(EntryId { term: 1, index }, &record).unwrap();
                codec::decode::<mesh_proto::command::Applied>(Kind::Applied, &answer).unwrap();
                machine.state.check_invariants().unwrap();
            }
            let kept = machine.snapshot().unwrap();
            let mut other = MeshMachine::default();
            other.restore(&kept).unwrap();
            assert_eq!(other.snapshot().unwrap(), kept);
            let damaged = mesh_fuzz::flipped(&kept, bytes).unwrap();
            assert!(other.restore(&damaged).is_err(), "a turned bit was not noticed");
            assert_eq!(other.snapshot().unwrap(), kept, "a refused snapshot changes nothing");
        });
    }
}
