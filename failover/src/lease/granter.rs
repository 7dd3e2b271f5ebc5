//! The voter's side of a lease: grants, remembered for pledges to read, and floors, which forbid grants for good.
//!
//! It never grants against a floor, never lowers one, and never answers a pledge from before its floor was on disk.
//! It decides and remembers; the runtime stores [`VoterState`] where it says so, and answers the wire.

use std::collections::BTreeMap;

use mesh_proto::lease::{
    Electorate, LeaseKey, LeaseRecord, PledgeAnswer, PledgeRequest, RenewAnswer, RenewLease,
};
use mesh_proto::{LeaseNo, Millis};
use serde::{Deserialize, Serialize};

use super::ClockBounds;
use crate::Moment;

/// What a voter must find again after a restart. Stored with `codec::Kind::VoterState`, fsynced, file and directory.
/// A voter whose state is gone or does not decode must not come back under its id (PROTOCOL, Granting: new id).
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoterState {
    /// Counts the changes: a stored state never replaces a newer one.
    pub version: u64,
    /// For each key, the highest lease number that is never granted again.
    #[serde(with = "floors_as_pairs")]
    pub floors: BTreeMap<LeaseKey, LeaseNo>,
    /// The newest electorate that this voter counts itself bound by: it is named to every guard from then on, also by a
    /// later process whose log lags at its start.
    #[serde(default)]
    pub electorate: Electorate,
    /// The longest L ever granted: what a restarted voter must assume of every grant it forgot (PROTOCOL H15).
    pub largest_lease: Millis,
}

/// JSON has no maps with structured keys.
mod floors_as_pairs {
    use std::collections::BTreeMap;

    use mesh_proto::LeaseNo;
    use mesh_proto::lease::LeaseKey;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        floors: &BTreeMap<LeaseKey, LeaseNo>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(floors)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<LeaseKey, LeaseNo>, D::Error> {
        Ok(Vec::<(LeaseKey, LeaseNo)>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// What to do with a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Answer [`RenewAnswer::Granted`]; the grant is remembered.
    Grant,
    /// Answer this.
    Refuse(RenewAnswer),
    /// Store this state durably, call [`Granter::persisted`], then call [`Granter::renew`] again. A disk that does not
    /// take it: [`Granter::not_persisted`], and no answer.
    PersistFirst(VoterState),
}

/// What to do with a request for a pledge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PledgeDecision {
    /// Answer this.
    Answer(PledgeAnswer),
    /// Store this state durably, call [`Granter::persisted`], then call [`Granter::pledge`] again with the moment of
    /// then: the remainder is computed after the fsync. A disk that does not take it (no room): call
    /// [`Granter::not_persisted`] and answer [`PledgeAnswer::CannotPersist`]. A failed fsync: abort the process.
    PersistFirst(VoterState),
}

/// A voter's grants and floors.
#[derive(Debug, Clone)]
pub struct Granter {
    bounds: ClockBounds,
    /// As this process obeys it: floors count from here at once.
    state: VoterState,
    /// As it is on disk: only this may be answered for.
    durable: VoterState,
    /// When every grant that an earlier process forgot has surely ended.
    forgotten_until: Moment,
    /// End of the longest grant of each key, of whatever lease number.
    grants: BTreeMap<LeaseKey, Moment>,
    disk_failed: bool,
}

impl Granter {
    /// A voter at the start of its process, with the state it found on disk ([`VoterState::default`] only for a voter
    /// id that never ran before). It grants and answers pledges at once; the remainder of a pledge is at least what a
    /// grant of the process before could still have (PROTOCOL, Granting: a restarted voter).
    #[must_use]
    pub fn restarted(now: Moment, state: VoterState, bounds: ClockBounds) -> Self {
        let forgotten_until = match state.largest_lease {
            // Nothing was ever granted under this id.
            Millis::ZERO => now,
            longest => now.after(bounds.stretch(longest)),
        };
        Self {
            bounds,
            durable: state.clone(),
            state,
            forgotten_until,
            grants: BTreeMap::new(),
            disk_failed: false,
        }
    }

    /// A guard asks. `current` is the lease of that key as this voter's applied log has it, `applied` the log index up
    /// to which that is so. PROTOCOL, Granting: granted iff the applied log says that (epoch, lease number) is current,
    /// for this life of guard and data, and the floor does not forbid it.
    ///
    /// The runtime waits (bounded) for `request.index` to be applied before it calls this.
    #[must_use]
    pub fn renew(
        &mut self,
        now: Moment,
        request: &RenewLease,
        current: Option<&LeaseRecord>,
        applied: u64,
    ) -> Decision {
        // The floor in memory counts, durable or not: a grant during the fsync would outlive the remainder (H23).
        if request.term.lease_no <= self.floor(&request.key) {
            return Decision::Refuse(RenewAnswer::Floor);
        }
        let is_current = current.is_some_and(|record| {
            record.term == request.term && record.guard == request.guard && record.data == request.data
        });
        if !is_current {
            let answer = if applied < request.index { RenewAnswer::Behind } else { RenewAnswer::NotCurrent };
            return Decision::Refuse(answer);
        }
        if request.length > self.durable.largest_lease {
            if request.length > self.state.largest_lease {
                self.state.largest_lease = request.length;
                self.state.version += 1;
            }
            return Decision::PersistFirst(self.state.clone());
        }
        self.grants.retain(|_, end| *end > now);
        // The guard counts this length by its own clock, which may be slower than this one: the grant is remembered
        // for longer than it was asked for. Stretching the remainder at the leader instead is not enough: a pledge
        // asked for when this clock has counted L and the guard's has not would find a remainder of nothing, and
        // nothing stretches to nothing (`tests/lease_model.rs`, without VoterDrift: two writers after 8 steps).
        let end = now.after(self.bounds.stretch(request.length));
        let longest = self.grants.entry(request.key.clone()).or_insert(end);
        *longest = (*longest).max(end);
        Decision::Grant
    }

    /// The leader asks for a pledge, or (`durable: false`) whether there would be one. `raft_term` is this voter's own.
    /// PROTOCOL, Taking over 4: the floor is raised in memory first, then stored, then the remainder is computed.
    #[must_use]
    pub fn pledge(&mut self, now: Moment, request: &PledgeRequest, raft_term: u64) -> PledgeDecision {
        if request.raft_term < raft_term {
            return PledgeDecision::Answer(PledgeAnswer::StaleTerm);
        }
        if !request.durable {
            // Taking over 2: asks only, poisons nothing.
            let answer = if self.disk_failed {
                PledgeAnswer::CannotPersist
            } else {
                PledgeAnswer::Pledged { remainder: self.remainder(now, &request.key) }
            };
            return PledgeDecision::Answer(answer);
        }
        if request.term.lease_no > self.floor(&request.key) {
            self.state.floors.insert(request.key.clone(), request.term.lease_no);
            self.state.version += 1;
        }
        let durable = self.durable.floors.get(&request.key).copied().unwrap_or_default();
        if request.term.lease_no > durable {
            return PledgeDecision::PersistFirst(self.state.clone());
        }
        PledgeDecision::Answer(PledgeAnswer::Pledged { remainder: self.remainder(now, &request.key) })
    }

    /// The electorate of this voter's applied log: the state to store if it is newer than the one on disk. The leader
    /// counts a voter as knowing it only then ([`Self::known_electorate`]).
    pub fn learn(&mut self, applied: &Electorate) -> Option<VoterState> {
        if applied.version <= self.durable.electorate.version {
            return None;
        }
        if applied.version > self.state.electorate.version {
            self.state.electorate = applied.clone();
            self.state.version += 1;
        }
        Some(self.state.clone())
    }

    /// What to name to guards and leaders: the newer of the applied log's and the one on disk.
    #[must_use]
    pub fn newest_electorate(&self, applied: Electorate) -> Electorate {
        let known = &self.durable.electorate;
        if known.version > applied.version { known.clone() } else { applied }
    }

    /// Version of the electorate on disk.
    #[must_use]
    pub const fn known_electorate(&self) -> u64 {
        self.durable.electorate.version
    }

    /// A state is durable: written and fsynced.
    pub fn persisted(&mut self, state: &VoterState) {
        if state.version >= self.durable.version {
            self.durable = state.clone();
        }
        self.disk_failed = false;
    }

    /// A state could not be stored, for want of room. What was raised in memory stays raised: whether a part of it
    /// reached the disk is not known. The voter is not willing to pledge until a state was stored.
    pub fn not_persisted(&mut self) {
        self.disk_failed = true;
    }

    /// The state that should be on disk and is not: to be tried again after [`Self::not_persisted`].
    #[must_use]
    pub fn unwritten(&self) -> Option<&VoterState> {
        (self.state != self.durable).then_some(&self.state)
    }

    /// The highest lease number of this key that is not granted any more.
    #[must_use]
    pub fn floor(&self, key: &LeaseKey) -> LeaseNo {
        self.state.floors.get(key).copied().unwrap_or_default()
    }

    /// How long the longest grant of this key may still run by this voter's clock, remembered or forgotten.
    #[must_use]
    pub fn remainder(&self, now: Moment, key: &LeaseKey) -> Millis {
        let remembered = self.grants.get(key).map_or(Millis::ZERO, |end| end.since(now));
        remembered.max(self.forgotten_until.since(now))
    }
}
