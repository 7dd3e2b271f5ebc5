//! What a guard keeps on disk, and what it sees of its server.
//!
//! No deadline is ever stored: a lease is not continued over a restart of the guard, so none would be of use.

use mesh_proto::evidence::{DiskStanding, Position, ProcessState, Receiving, WriteProbe};
use mesh_proto::lease::{Electorate, LeaseTerm, Receipt};
use mesh_proto::quorum::QuorumStanding;
use mesh_proto::spec::{Engine, Timing};
use mesh_proto::{
    DataIncarnation, Epoch, Generation, GroupName, GuardIncarnation, InstanceName, Lsn, Millis,
};
use serde::{Deserialize, Serialize};

/// What a guard is told once, at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardConfig {
    /// The group.
    pub group: GroupName,
    /// The instance it guards.
    pub instance: InstanceName,
    /// What that is.
    pub engine: Engine,
    /// Ed25519 public key that verifies its receipts, in hexadecimal.
    pub public_key: String,
    /// Timing until the log says otherwise.
    pub timing: Timing,
    /// The voters to ask until one of them reports a newer electorate.
    pub electorate: Electorate,
}

/// What only the runtime can draw or read: it is used if the guard needs it, and dropped otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fresh {
    /// The host's boot id.
    pub boot: String,
    /// A life for the guard that was never used before.
    pub guard: GuardIncarnation,
    /// A life for the data that was never used before.
    pub data: DataIncarnation,
}

/// The state file of a guard. Stored with `codec::Kind::GuardState`, on another file system than the data where there is
/// one, fsynced, file and directory. One that does not decode is an error, never "no state".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardState {
    /// Counts the changes.
    pub version: u64,
    /// The group.
    pub group: GroupName,
    /// The instance.
    pub instance: InstanceName,
    /// Boot id of the host when this life of the guard began.
    pub boot: String,
    /// This life of the guard: new after each boot, and after a restart that lost this state.
    pub guard: GuardIncarnation,
    /// Starts of the guard process so far: orders the statuses of one life over its restarts.
    pub starts: u64,
    /// This life of the data: new after rewind and rebuild, and after one of them was interrupted.
    pub data: DataIncarnation,
    /// System identifier of the founded group, once the log said it.
    pub system_id: Option<u64>,
    /// Whether it ever held a lease: before that it only observes (PROTOCOL, Birth).
    pub armed: bool,
    /// Orders below this are refused.
    pub gate: EpochGate,
    /// Highest freeze generation seen.
    pub generation: Generation,
    /// The freeze in force; survives restarts of guard and server.
    pub frozen: Option<Generation>,
    /// The newest lease that it asked for, stored before the first request: never asked for again after a restart.
    pub asked: Option<AskedLease>,
    /// The receipt for the newest fenced lease, until the instance opens again.
    pub receipt: Option<Receipt>,
    /// A rejoin that was begun and not finished.
    pub rejoin: Option<Rejoin>,
    /// The newest lease of the group that it was asked to promise for, or heard of: no older one is promised anything any
    /// more. On disk before anybody is told.
    #[serde(default)]
    pub promised: LeaseTerm,
    /// The newest epoch in which this life of the data was the primary's, or was joined to it.
    #[serde(default)]
    pub line: Option<Epoch>,
}

/// The epoch gate: highest epoch seen, and the highest Raft term of a leader that gave an order in it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EpochGate {
    /// The epoch.
    pub epoch: Epoch,
    /// The Raft term.
    pub raft_term: u64,
}

/// A lease that was asked for, and by which life of the guard: only that life can give a receipt for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedLease {
    /// The lease.
    pub term: LeaseTerm,
    /// The guard's life.
    pub guard: GuardIncarnation,
}

/// What a rejoin was about: enough to do it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejoin {
    /// The primary to follow.
    pub primary: InstanceName,
    /// Its literal address.
    pub address: std::net::SocketAddr,
    /// The epoch of that primary.
    pub epoch: Epoch,
    /// The generation that it carried.
    pub generation: Generation,
    /// How long it may take.
    pub budget: Millis,
}

/// Whether the commit gate is set (`synchronous_standby_names` to a name that never connects).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum CommitGate {
    /// Not set.
    #[default]
    Open,
    /// Set, but not seen in force everywhere.
    Set,
    /// Set, and every walsender shows it (PROTOCOL, The guard: applied is not in force).
    InForce,
}

/// What the runtime saw of the server, all at one moment. Never given to the guard after the result of a task that
/// ended later than this was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFacts {
    /// What the server process does.
    pub process: ProcessState,
    /// System identifier in the data directory; `None` while it cannot be read.
    pub system_id: Option<u64>,
    /// Where the WAL is.
    pub position: Option<Position>,
    /// Replication, on a standby.
    pub receiving: Option<Receiving>,
    /// The write probe, on a primary.
    pub write_probe: WriteProbe,
    /// The file systems under the server.
    pub disks: Vec<DiskStanding>,
    /// The commit gate.
    pub commit_gate: CommitGate,
    /// Clients are shut out until the commit quorum has what the server recovered.
    pub clients_wait: bool,
    /// The commit quorum that was last set, and how far it has come; `None` before one was.
    pub quorum: Option<QuorumStanding>,
    /// Why promise 1 is downgraded on this host.
    pub downgraded: Vec<String>,
    /// What is wrong and what to do, in words.
    pub trouble: Option<String>,
    /// Who else decides here, and what to do about it.
    pub rival: Option<String>,
}

/// The instance was opened as primary under this lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// The lease.
    pub term: LeaseTerm,
    /// The timeline it writes.
    pub timeline: u32,
    /// Where its WAL was after the epoch was written.
    pub at: Lsn,
}

/// Why a guard cannot start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The state file belongs to another instance.
    #[error(
        "the guard's state belongs to {found}, but this guard is configured for {expected}; point it to its own state \
         directory, or remove the state if the instance is new"
    )]
    OtherInstance {
        /// Configured.
        expected: String,
        /// In the file.
        found: String,
    },
}

/// The state of a guard that never ran.
pub(super) fn first(config: &GuardConfig, fresh: Fresh) -> GuardState {
    GuardState {
        version: 1,
        group: config.group.clone(),
        instance: config.instance.clone(),
        boot: fresh.boot,
        guard: fresh.guard,
        starts: 1,
        data: fresh.data,
        system_id: None,
        armed: false,
        gate: EpochGate::default(),
        generation: Generation(0),
        frozen: None,
        asked: None,
        receipt: None,
        rejoin: None,
        promised: LeaseTerm::default(),
        line: None,
    }
}

/// The state of a guard that ran before.
pub(super) fn again(mut state: GuardState, fresh: Fresh) -> GuardState {
    state.version += 1;
    state.starts += 1;
    if state.boot != fresh.boot {
        // PROTOCOL, Identities: a guard's life ends with the boot. The new one can give no receipt for the old one's
        // leases, because the host may have been cloned.
        state.boot = fresh.boot;
        state.guard = fresh.guard;
    }
    if state.rejoin.is_some() {
        // Died in the middle of a rewind or rebuild: whatever lies there now is not what the old life was.
        state.data = fresh.data;
        state.line = None;
    }
    state
}
