//! Going on without a majority of voters (`majority_lost = "hold"`), at the guard of the primary: it asks the guard of every
//! other instance, at the pace of its renewals, and holds its lease while all of them promise.
//!
//! And the other end of it, at the guard of whoever is primary next: it opens the server only when an older lease that
//! promises may hold is over. That one ends as soon as one of its holders has stopped: this guard itself, whose own last
//! promise it knows; or another one, which says how long its own may still run. It never counts on a promise for anything but
//! the lease that it holds, and never takes silence for the end of one.

use std::collections::{BTreeMap, BTreeSet};

use mesh_proto::evidence::HeldLease;
use mesh_proto::hold::{GuardPeer, HoldAnswer, HoldRequest, HoldStanding, Unended};
use mesh_proto::lease::{LeaseKey, LeaseRecord, LeaseTerm};
use mesh_proto::{InstanceName, Millis};

use super::Guard;
use super::action::Action;
use crate::Moment;
use crate::lease::CLOCK_BOUNDS;
use crate::mutants::Mutant;

/// One round of questions.
#[derive(Debug, Clone, Copy)]
struct Round {
    sent: Moment,
    term: LeaseTerm,
    length: Millis,
}

/// What the guard asked others for.
#[derive(Debug, Clone, Default)]
pub(super) struct Holding {
    rounds: BTreeMap<u64, Round>,
    next_round: u64,
    /// For the lease that is held: when what each other guard promised before it is over.
    stopped: BTreeMap<InstanceName, Moment>,
    /// That lease.
    stopped_for: Option<LeaseTerm>,
    /// It does not open yet: for whose lease it waits, and until when if that is known.
    waits: Option<(InstanceName, Option<Moment>)>,
}

impl Holding {
    /// When it may open, as far as is known.
    pub(super) fn due(&self) -> Option<Moment> {
        self.waits.as_ref().and_then(|(_, at)| *at)
    }
}

impl Guard {
    /// The record of the lease that is held, as the newest view has it.
    fn held_record(&self, held: HeldLease) -> Option<&LeaseRecord> {
        let record = self.view.as_ref()?.own_lease.as_ref()?;
        (self.view_names_me() && record.term == held.term).then_some(record)
    }

    /// Asks every guard whose promise counts, or whose end of promising is waited for: at the pace of the renewals.
    pub(super) fn ask_holders(&mut self, now: Moment) {
        let Some(held) = self.holder.held(now).filter(|_| self.fencing.is_none() && !self.stopping) else {
            return;
        };
        let Some(record) = self.held_record(held).cloned() else { return };
        let Some(view) = self.view.as_ref().and_then(|view| view.hold.clone()) else { return };
        let none = BTreeSet::new();
        let holders = if view.on { &record.holders } else { &none };
        let lax = self.mutants.has(Mutant::HoldOnePromiseIsAll);
        self.holder.hold_by(record.term, holders, if lax { 1 } else { holders.len() });
        let mut whom = holders.clone();
        if self.opened.is_none()
            && let Some(old) = record.waits.as_ref().filter(|old| !self.is_mine(old))
        {
            whom.extend(old.holders.iter().cloned());
        }
        whom.remove(&self.state.instance);
        let to: Vec<GuardPeer> =
            view.guards.into_iter().filter(|peer| whom.contains(&peer.instance)).collect();
        if to.is_empty() {
            return;
        }
        let length = self.timing.lease;
        self.holding.rounds.retain(|_, round| now < round.sent.after(round.length));
        self.holding.next_round += 1;
        let round = self.holding.next_round;
        self.holding.rounds.insert(round, Round { sent: now, term: record.term, length });
        let key = LeaseKey { group: self.state.group.clone(), instance: self.state.instance.clone() };
        let request = HoldRequest { key, term: record.term, guard: self.state.guard.clone(), length };
        self.actions.push(Action::AskHolders { round, to, request: Box::new(request) });
    }

    /// Another guard answered a request of this round. Who it is, is known from its certificate.
    pub fn handle_promise(&mut self, now: Moment, round: u64, giver: &InstanceName, answer: HoldAnswer) {
        // First the end of the lease: a promise that comes after it does not continue it.
        self.watch_lease(now);
        let Some(Round { sent, term, length }) = self.holding.rounds.get(&round).copied() else { return };
        match answer {
            HoldAnswer::Promised { older } => {
                self.holder.promise(now, term, giver, sent, length);
                self.heard_stop(now, term, giver, older);
            }
            HoldAnswer::Stopped { older, why: _ } => self.heard_stop(now, term, giver, older),
            HoldAnswer::Refused(_) => {}
        }
    }

    /// A guard promises nothing any more for leases older than this one: with what remains, by its own clock.
    fn heard_stop(&mut self, now: Moment, term: LeaseTerm, giver: &InstanceName, older: Millis) {
        if self.holding.stopped_for != Some(term) {
            self.holding.stopped.clear();
            self.holding.stopped_for = Some(term);
        }
        let over = now.after(CLOCK_BOUNDS.stretch_at_guard(older));
        let known = self.holding.stopped.entry(giver.clone()).or_insert(over);
        *known = over.min(*known);
    }

    fn is_mine(&self, old: &Unended) -> bool {
        old.instance == self.state.instance && old.guard == self.state.guard
    }

    /// Whether the server may be opened under this lease: no older one can be held by promises any more, and whoever held it
    /// has had the time to fence.
    pub(super) fn may_open(&mut self, now: Moment, held: HeldLease) -> bool {
        let Some(record) = self.held_record(held) else { return false };
        let Some(old) = record.waits.clone().filter(|old| !self.is_mine(old)) else {
            self.holding.waits = None;
            return true;
        };
        // A voter that knows the wait knows this too; without it, the longest that a spec may ask for.
        let fence = self.view.as_ref().and_then(|view| view.hold.as_ref()).map(|hold| hold.fence);
        let fence = CLOCK_BOUNDS.stretch_at_guard(fence.unwrap_or(super::promises::LONGEST_FENCE));
        let own = old.holders.contains(&self.state.instance).then(|| self.own_promises_over());
        let heard = old.holders.iter().filter_map(|holder| {
            let same = self.holding.stopped_for == Some(held.term);
            self.holding.stopped.get(holder).copied().filter(|_| same)
        });
        let over = own.into_iter().chain(heard).min().map(|at| at.after(fence));
        let open = over.is_some_and(|over| over <= now);
        self.holding.waits = (!open).then_some((old.instance, over));
        open
    }

    /// What the status says of it.
    pub(super) fn hold_standing(&self, now: Moment) -> HoldStanding {
        let held = self.holder.held(now);
        let on = self.view.as_ref().and_then(|view| view.hold.as_ref()).is_some_and(|hold| hold.on);
        let holders = held.and_then(|held| self.held_record(held)).filter(|_| on);
        HoldStanding {
            willing: self.willing(now),
            opened: self.opened.map(|opened| opened.term),
            holders: holders.map(|record| record.holders.clone()).unwrap_or_default(),
            promised: self.holder.promisers(now),
            alone: self.holder.alone(now),
            waits: self.holding.waits.as_ref().filter(|_| held.is_some()).map(|(whose, _)| whose.clone()),
        }
    }
}
