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
