//! A PostgreSQL server as far as a failover can tell: processes that may acknowledge writes, and WAL.
//!
//! WAL is a list of records; a record knows everything before it by a running hash, so two histories are the same up to
//! a length iff their hashes there are.

use mesh_proto::evidence::{Position, ProcessState};
use mesh_proto::quorum::QuorumMember;
use mesh_proto::{Epoch, Lsn};

use super::clock::Time;
use super::quorum::Sync;

/// What runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Processes {
    /// Nothing.
    None,
    /// Being started or recovering; answers nobody.
    Starting,
    /// Running as a primary.
    Primary,
    /// Running as a standby.
    Standby,
    /// The postmaster is dead, its backends live on: of a primary they go on acknowledging.
    Orphans,
}

/// The model of one server.
#[derive(Debug, Clone)]
pub struct Postgres {
    /// What runs.
    pub processes: Processes,
    /// The postmaster died by itself and nobody stopped or started the server since.
    pub died: bool,
    /// The boot gate is open: clients are let in.
    pub clients: bool,
    /// It came up from its own log, so many records long, as the primary, and clients were not let in since.
    pub recovered: Option<usize>,
    /// `standby.signal` is on disk: whoever starts it, it comes up as a standby.
    pub signal: bool,
    /// The commit gate is in force.
    pub gated: bool,
    /// Every process is stopped by a signal.
    pub frozen: bool,
    /// The disk hangs: nothing is written, nothing dies.
    pub hung: bool,
    /// Running hash after each record.
    pub wal: Vec<u64>,
    /// Timeline it writes or replays.
    pub timeline: u32,
    /// The instance it is configured to stream from.
    pub upstream: Option<usize>,
    /// Whether it streams.
    pub streaming: bool,
    /// When its WAL last grew.
    pub advanced: Time,
    /// Epoch in `mesh.epoch`, as far as its own WAL says.
    pub epoch: Epoch,
    /// Since when the guard's write probe gets no answer.
    pub probe_waits: Option<Time>,
    /// When the write probe last succeeded.
    pub probe_ok: Time,
    /// What commits wait for.
    pub sync: Sync,
    /// As whom, and as a standby of which epoch, it streams.
    pub name: Option<(QuorumMember, Epoch)>,
    /// Its receiver is connected and gets nothing.
    pub stalled: bool,
    /// Each start, stop and kill has a number: what an earlier life still wanted to do is void.
    pub life: u64,
}

/// Bytes of a record.
pub(super) const RECORD_BYTES: u64 = 64;
/// Where the first record lies.
const FIRST: u64 = 0x100_0000;

/// The position after so many records.
#[must_use]
pub const fn lsn(records: usize) -> Lsn {
    Lsn(FIRST + RECORD_BYTES * records as u64)
}

impl Postgres {
    /// A server that does not run.
    #[must_use]
    pub fn new() -> Self {
        Self {
            processes: Processes::None,
            died: false,
            clients: false,
            recovered: None,
            signal: false,
            gated: false,
            frozen: false,
            hung: false,
            wal: Vec::new(),
            timeline: 1,
            upstream: None,
            streaming: false,
            advanced: 0,
            epoch: Epoch(0),
            probe_waits: None,
            probe_ok: 0,
            sync: Sync::default(),
            name: None,
            stalled: false,
            life: 0,
        }
    }

    /// Whether a client could get a write acknowledged right now, connected directly.
    #[must_use]
    pub const fn can_acknowledge(&self) -> bool {
        matches!(self.processes, Processes::Primary | Processes::Orphans)
            && self.clients
            && !self.gated
            && !self.frozen
            && !self.hung
    }

    /// Whether it answers connections of mesh and of standbys.
    #[must_use]
    pub const fn answers(&self) -> bool {
        matches!(self.processes, Processes::Primary | Processes::Standby) && !self.frozen && !self.hung
    }

    /// Appends a record.
    pub fn write(&mut self, now: Time, content: u64) {
        let before = self.wal.last().copied().unwrap_or(0);
        let mixed = (before ^ content.wrapping_mul(0x9e37_79b9_7f4a_7c15)).rotate_left(29);
        self.wal.push(mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ (content << 1 | 1));
        self.advanced = now;
    }

    /// Where its WAL ends.
    #[must_use]
    pub const fn end(&self) -> Lsn {
        lsn(self.wal.len())
    }

    /// Where it stands.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position { timeline: self.timeline, have: self.end(), replayed: self.end() }
    }

    /// How many records two servers have in common.
    #[must_use]
    pub fn common(&self, other: &Self) -> usize {
        let shorter = self.wal.len().min(other.wal.len());
        if shorter == 0 || self.wal[shorter - 1] == other.wal[shorter - 1] {
            return shorter;
        }
        // Histories branch once: the common part is found by halving.
        let (mut same, mut differs) = (0, shorter);
        while same + 1 < differs {
            let middle = (same + differs) / 2;
            if self.wal[middle - 1] == other.wal[middle - 1] {
                same = middle;
            } else {
                differs = middle;
            }
        }
        same
    }

    /// Everything is killed.
    pub fn kill(&mut self) {
        self.life += 1;
        self.processes = Processes::None;
        self.clients = false;
        self.recovered = None;
        self.gated = false;
        self.frozen = false;
        self.streaming = false;
        self.probe_waits = None;
        // Who waited was told nothing.
        self.sync = Sync::default();
    }

    /// What its guard sees of the process.
    #[must_use]
    pub const fn process_state(&self) -> ProcessState {
        match self.processes {
            Processes::None if self.died => ProcessState::Died,
            Processes::None => ProcessState::Stopped,
            Processes::Orphans => ProcessState::Died,
            Processes::Starting => ProcessState::Starting,
            Processes::Primary | Processes::Standby if self.frozen || self.hung => ProcessState::Unresponsive,
            Processes::Primary => ProcessState::Primary,
            Processes::Standby => ProcessState::Standby,
        }
    }
}

impl Default for Postgres {
    fn default() -> Self {
        Self::new()
    }
}
