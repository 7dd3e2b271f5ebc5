//! What a voter is started with, and the checks that refuse unsafe timings.

use std::path::PathBuf;
use std::time::Duration;

use openraft::SnapshotPolicy;

use crate::network::PeerCheck;
use crate::types::NodeId;

/// What an agent says of its build when somebody asks who it is. Nothing here knows what the numbers mean; a build that does not
/// say them says 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Build {
    /// The messages between agents that it speaks.
    pub messages: u32,
    /// The commands that its machine can apply.
    pub edition: u32,
}

/// How long voters wait for each other.
///
/// A crashed leader is replaced after `election_max` (its lease) plus a time between `election_min` and
/// `election_max` (drawn once per process) plus up to one tick (1.5 heartbeats).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// Interval of heartbeats; also the deadline of every append, so it must be long enough for a round trip.
    pub heartbeat: Duration,
    /// Shortest time without a leader after which a voter stands for election.
    pub election_min: Duration,
    /// Longest; also the lease within which voters refuse to elect another leader.
    pub election_max: Duration,
    /// Deadline of sending and installing a whole snapshot.
    pub install: Duration,
    /// The longest round trip between two voters in ordinary times.
    pub worst_rtt: Duration,
    /// The 99th percentile of a durable write on a voter's disk.
    pub worst_sync: Duration,
}

impl Timings {
    /// Voters a few milliseconds apart. Leader crash to new leader: 750 to 1050 ms where the first in turn lives, some 200 ms
    /// more for each that does not (`gate`): less than any lease, so that the loss of leader and primary together takes no
    /// longer than that of the primary alone. Heartbeats twice as often would shorten no failover.
    pub const LAN: Self = Self {
        heartbeat: Duration::from_millis(100),
        election_min: Duration::from_millis(300),
        election_max: Duration::from_millis(450),
        install: Duration::from_secs(10),
        worst_rtt: Duration::from_millis(10),
        worst_sync: Duration::from_millis(20),
    };

    /// Voters up to 90 ms apart. Leader crash to new leader: 1.8 to 2.7 s.
    pub const WAN: Self = Self {
        heartbeat: Duration::from_millis(200),
        election_min: Duration::from_millis(600),
        election_max: Duration::from_millis(1200),
        install: Duration::from_secs(30),
        worst_rtt: Duration::from_millis(90),
        worst_sync: Duration::from_millis(20),
    };

    /// The lease, as messages carry it.
    pub(crate) fn lease_ms(&self) -> u64 {
        u64::try_from(self.election_max.as_millis()).unwrap_or(u64::MAX)
    }

    fn check(&self) -> Result<(), OptionsError> {
        let needed = self.worst_rtt * 2 + self.worst_sync;
        if self.heartbeat < needed {
            return Err(OptionsError::HeartbeatTooShort { heartbeat: self.heartbeat, needed });
        }
        // Heartbeats go out on ticks of 1.5 heartbeats; one lost heartbeat must not cost the leadership.
        if self.election_min < self.heartbeat * 3 {
            return Err(OptionsError::ElectionTooShort {
                min: self.election_min,
                needed: self.heartbeat * 3,
            });
        }
        if self.election_max < self.election_min * 3 / 2 {
            return Err(OptionsError::NoSpread { min: self.election_min, max: self.election_max });
        }
        // A snapshot that never finishes within its deadline is sent for ever.
        if self.install < Duration::from_secs(10) {
            return Err(OptionsError::InstallTooShort { install: self.install });
        }
        Ok(())
    }
}

/// What a voter is started with.
#[derive(Clone)]
pub struct Options {
    /// The store's file, made by [`crate::create_store`].
    pub path: PathBuf,
    /// Who this agent is; the store must agree.
    pub node: NodeId,
    /// Which mesh it belongs to; the store and every message must agree.
    pub mesh: String,
    /// The waits.
    pub timings: Timings,
    /// Proposals under way at a time. openraft 0.9 syncs each alone, so a longer queue than the election timeout
    /// has room for costs the leadership.
    pub proposals: usize,
    /// Bytes of the largest command.
    pub command_limit: usize,
    /// Bytes of the largest snapshot, which travels as one message.
    pub snapshot_limit: usize,
    /// Entries between snapshots.
    pub snapshot_every: u64,
    /// Entries kept behind a snapshot, for followers that are only a little late.
    pub keep_entries: u64,
    /// Decides whether a connection may speak for the node that its message names.
    pub peer_check: PeerCheck,
    /// What it says of its build.
    pub build: Build,
}

impl Options {
    /// Options with the defaults for voters on one LAN.
    #[must_use]
    pub fn new(
        path: impl Into<PathBuf>,
        node: NodeId,
        mesh: impl Into<String>,
        peer_check: PeerCheck,
    ) -> Self {
        Self {
            path: path.into(),
            node,
            mesh: mesh.into(),
            timings: Timings::LAN,
            proposals: 8,
            command_limit: 1 << 20,
            snapshot_limit: 64 << 20,
            snapshot_every: 2000,
            keep_entries: 500,
            peer_check,
            build: Build::default(),
        }
    }

    /// Checks the relations between the values.
    ///
    /// # Errors
    /// Names the unsafe combination and what would be enough.
    pub fn check(&self) -> Result<(), OptionsError> {
        self.timings.check()?;
        if self.mesh.is_empty() {
            return Err(OptionsError::NoMesh);
        }
        if self.proposals == 0 {
            return Err(OptionsError::Zero { what: "proposals" });
        }
        if self.snapshot_every == 0 {
            return Err(OptionsError::Zero { what: "snapshot_every" });
        }
        // The batches of the log are cut at 8 MiB, plus at most one command.
        if self.command_limit == 0 || self.command_limit > 16 << 20 {
            return Err(OptionsError::CommandLimit { limit: self.command_limit });
        }
        Ok(())
    }

    pub(crate) fn raft(&self) -> Result<openraft::Config, String> {
        let config = openraft::Config {
            cluster_name: self.mesh.clone(),
            heartbeat_interval: millis(self.timings.heartbeat),
            election_timeout_min: millis(self.timings.election_min),
            election_timeout_max: millis(self.timings.election_max),
            install_snapshot_timeout: millis(self.timings.install),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.keep_entries,
            // A follower this far behind gets a snapshot; it must exceed the snapshot interval or it never helps.
            replication_lag_threshold: self.snapshot_every + self.keep_entries,
            // The election gate opens it when an election would be welcome.
            enable_elect: false,
            ..openraft::Config::default()
        };
        config.validate().map_err(|error| error.to_string())
    }

    /// The largest message: a snapshot, or a batch of entries, and its envelope.
    pub(crate) fn message_limit(&self) -> usize {
        self.snapshot_limit.max(32 << 20) + (1 << 20)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A combination of options that is unsafe or cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Appends would time out before they can be answered: a leader, but no commits.
    #[error("a heartbeat of {heartbeat:?} is too short: 2 round trips and a durable write need {needed:?}")]
    HeartbeatTooShort {
        /// As configured.
        heartbeat: Duration,
        /// The least that works.
        needed: Duration,
    },
    /// One lost heartbeat would start an election.
    #[error("an election timeout of {min:?} is too short: it must be at least 3 heartbeats, {needed:?}")]
    ElectionTooShort {
        /// As configured.
        min: Duration,
        /// The least that works.
        needed: Duration,
    },
    /// Voters would stand at the same time again and again.
    #[error(
        "election timeouts of {min:?} to {max:?} are too close: the longest must be 1.5 times the shortest"
    )]
    NoSpread {
        /// Shortest.
        min: Duration,
        /// Longest.
        max: Duration,
    },
    /// A large snapshot would never arrive.
    #[error("a snapshot deadline of {install:?} is too short: at least 10 s")]
    InstallTooShort {
        /// As configured.
        install: Duration,
    },
    /// The mesh needs a name.
    #[error("the mesh has no id")]
    NoMesh,
    /// A bound of zero lets nothing through.
    #[error("{what} must not be 0")]
    Zero {
        /// Which bound.
        what: &'static str,
    },
    /// Commands must fit into a message.
    #[error("a command limit of {limit} bytes is out of range: 1 byte to 16 MiB")]
    CommandLimit {
        /// As configured.
        limit: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_accepted_and_a_heartbeat_shorter_than_the_round_trip_is_not() {
        assert_eq!(Timings::LAN.check(), Ok(()));
        assert_eq!(Timings::WAN.check(), Ok(()));
        let far = Timings { worst_rtt: Duration::from_millis(100), ..Timings::LAN };
        let needed = Duration::from_millis(220);
        assert_eq!(
            far.check(),
            Err(OptionsError::HeartbeatTooShort { heartbeat: Timings::LAN.heartbeat, needed })
        );
        let narrow = Timings { election_max: Duration::from_millis(160), ..Timings::LAN };
        assert!(matches!(narrow.check(), Err(OptionsError::NoSpread { .. })));
        let hasty = Timings { election_min: Duration::from_millis(100), ..Timings::LAN };
        assert!(matches!(hasty.check(), Err(OptionsError::ElectionTooShort { .. })));
        let short = Timings { install: Duration::from_millis(200), ..Timings::LAN };
        assert!(matches!(short.check(), Err(OptionsError::InstallTooShort { .. })));
    }
}
