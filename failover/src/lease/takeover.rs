//! The leader's side of a takeover: pledges of a majority, and the moment from which the old lease is over everywhere.
//!
//! One [`Collector`] belongs to one leader's term and one run. A new leader makes a new one and counts again: nothing of
//! it is replicated (PROTOCOL, Taking over 5). It never decides whether to take over, and knows nothing of receipts: a
//! receipt waives only the *wait*, so a promotion by receipt needs [`Collector::pledged`] all the same (Taking over 4).
//! While a pause is uncleared, [`Collector::expiry`] is no proof (PROTOCOL, Pause); its caller sees to that.

use std::collections::{BTreeMap, BTreeSet};

use mesh_proto::lease::{
    Electorate, Expiry, LeaseKey, LeaseTerm, PledgeAnswer, PledgeReply, PledgeRequest, majority,
};
use mesh_proto::{Millis, NodeId, RunId};

use super::ClockBounds;
use crate::Moment;

/// A durable pledge as the leader counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pledge {
    received: Moment,
    remainder: Millis,
    /// When the voter's grants have surely ended, by the leader's clock.
    over: Moment,
}

/// Pledges collected by one leader for one takeover.
#[derive(Debug, Clone)]
pub struct Collector {
    bounds: ClockBounds,
    key: LeaseKey,
    term: LeaseTerm,
    run: RunId,
    raft_term: u64,
    fence: Millis,
    electorate: Electorate,
    willing: BTreeSet<NodeId>,
    pledges: BTreeMap<NodeId, Pledge>,
    deposed: bool,
}

impl Collector {
    /// Begins to collect, in the asking leader's `raft_term`. `electorate` is the newest in the leader's log; `fence` is
    /// the largest F that any guard of the group may still work with.
    #[must_use]
    pub fn new(
        key: LeaseKey,
        term: LeaseTerm,
        run: RunId,
        raft_term: u64,
        electorate: Electorate,
        fence: Millis,
        bounds: ClockBounds,
    ) -> Self {
        Self {
            bounds,
            key,
            term,
            run,
            raft_term,
            fence,
            electorate,
            willing: BTreeSet::new(),
            pledges: BTreeMap::new(),
            deposed: false,
        }
    }

    /// The request to send to every voter of [`Self::electorate`]: first `durable: false`, and once a majority is
    /// willing, the verdict is fresh and the takeover is committed, `durable: true`.
    #[must_use]
    pub fn request(&self, durable: bool) -> PledgeRequest {
        PledgeRequest {
            raft_term: self.raft_term,
            run: self.run,
            key: self.key.clone(),
            term: self.term,
            electorate: self.electorate.version,
            durable,
        }
    }

    /// An answer to a request that was sent with this `durable`. Answers to another collector's requests must not be
    /// given to this one. Repeats are harmless.
    pub fn answered(&mut self, now: Moment, durable: bool, reply: &PledgeReply) {
        // The newest electorate that any voter reports is the one that counts (PROTOCOL, Granting: electorate).
        if reply.electorate.version > self.electorate.version {
            self.electorate = reply.electorate.clone();
        }
        match reply.answer {
            PledgeAnswer::Pledged { remainder } => {
                self.willing.insert(reply.voter);
                if durable {
                    self.count(now, reply.voter, remainder);
                }
            }
            PledgeAnswer::StaleTerm => self.deposed = true,
            PledgeAnswer::CannotPersist => {
                self.willing.remove(&reply.voter);
            }
        }
    }

    /// Taking over 5: receipt of the answer here, plus the remainder with drift. The floor was durable before either of
    /// two answers of one voter, so the earlier end is as true as the later.
    fn count(&mut self, now: Moment, voter: NodeId, remainder: Millis) {
        let over = now.after(self.bounds.stretch(remainder));
        let pledge = Pledge { received: now, remainder, over };
        let known = self.pledges.entry(voter).or_insert(pledge);
        if over < known.over {
            *known = pledge;
        }
    }

    /// The lease that it ends.
    #[must_use]
    pub const fn term(&self) -> LeaseTerm {
        self.term
    }

    /// The newest electorate that it knows: whom to ask, and a majority of whom counts.
    #[must_use]
    pub const fn electorate(&self) -> &Electorate {
        &self.electorate
    }

    /// A voter knows a newer leader: this one must stop.
    #[must_use]
    pub const fn deposed(&self) -> bool {
        self.deposed
    }

    /// Taking over 2: a majority of the newest electorate was reachable and would pledge.
    #[must_use]
    pub fn willing(&self) -> bool {
        self.electorate.agreed(|voter| self.willing.contains(&voter))
    }

    /// Taking over 4: a majority of the newest electorate pledged durably.
    #[must_use]
    pub fn pledged(&self) -> bool {
        self.electorate.agreed(|voter| self.pledges.contains_key(&voter))
    }

    /// The pledging majority whose grants end first; while the electorate changes, those of both. Any majority will do:
    /// a guard needs one too, and the two have a voter in common, none of whose grants is left.
    fn earliest_majority(&self) -> Option<BTreeMap<NodeId, Pledge>> {
        let mut all = BTreeMap::new();
        for set in self.electorate.sets() {
            let of_set = self.pledges.iter().filter(|(voter, _)| set.contains(voter));
            let mut counted: Vec<_> = of_set.map(|(voter, pledge)| (*voter, *pledge)).collect();
            counted.sort_by_key(|(voter, pledge)| (pledge.over, *voter));
            if counted.len() < majority(set) {
                return None;
            }
            all.extend(counted.into_iter().take(majority(set)));
        }
        Some(all)
    }

    /// From when on no guard can acknowledge under this lease: the largest end over a pledging majority, plus the
    /// largest F with drift. `None` while no majority pledged.
    #[must_use]
    pub fn over_at(&self) -> Option<Moment> {
        let majority = self.earliest_majority()?;
        majority.values().map(|pledge| self.fenced_at(pledge)).max()
    }

    /// When a guard whose lease ended with this voter's grants has surely fenced. The fence budget is counted by the
    /// guard's clock, this wait by the leader's.
    fn fenced_at(&self, pledge: &Pledge) -> Moment {
        pledge.over.after(self.bounds.stretch(self.fence))
    }

    /// The proof for the promotion entry, once [`Self::over_at`] has come.
    #[must_use]
    pub fn expiry(&self, now: Moment) -> Option<Expiry> {
        let majority = self.earliest_majority()?;
        if self.deposed || now < self.over_at()? {
            return None;
        }
        let first = majority.values().map(|pledge| pledge.received).min()?;
        Some(Expiry {
            term: self.term,
            pledges: majority.iter().map(|(voter, pledge)| (*voter, pledge.remainder)).collect(),
            waited: now.since(first),
            electorate: self.electorate.version,
        })
    }

    /// Who pledged durably.
    #[must_use]
    pub fn pledgers(&self) -> BTreeSet<NodeId> {
        self.pledges.keys().copied().collect()
    }

    /// Each durable pledge, with how long until that voter's grants are over, and fenced, by the leader's clock.
    #[must_use]
    pub fn pledges(&self, now: Moment) -> Vec<(NodeId, Millis)> {
        self.pledges.iter().map(|(voter, pledge)| (*voter, self.fenced_at(pledge).since(now))).collect()
    }
}
