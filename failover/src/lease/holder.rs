//! The guard's side of a lease: which acquisition it holds, and until when.
//!
//! It never counts a grant from its answer, never continues a lease that lapsed, and never asks again for a lease number
//! that it lapsed from or gave a receipt for. It starts nothing and stops nothing: [`crate::guard`] acts on what it says.

use std::collections::{BTreeMap, BTreeSet};

use mesh_proto::evidence::HeldLease;
use mesh_proto::lease::{
    Electorate, LeaseKey, LeaseRecord, LeaseTerm, RenewAnswer, RenewLease, RenewReply, majority,
};
use mesh_proto::{InstanceName, LeaseNo, Millis, NodeId};

use super::promises::Promises;
use crate::Moment;

/// A grant of one voter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Grant {
    /// When the request was sent: the lease is counted from here.
    sent: Moment,
    end: Moment,
}

/// One acquisition and the grants it has.
#[derive(Debug, Clone)]
struct Acquisition {
    record: LeaseRecord,
    grants: BTreeMap<NodeId, Grant>,
}

/// One request for a lease, sent to every voter of the electorate at one moment.
#[derive(Debug, Clone, Copy)]
struct Round {
    sent: Moment,
    term: LeaseTerm,
    length: Millis,
}

/// A pause that the guard is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pause {
    id: u64,
    until: Moment,
}

/// The lease of one instance, as its guard has it.
#[derive(Debug, Clone)]
pub struct Holder {
    electorate: Electorate,
    /// Who votes in the agreement, as the newest answer says: their grants count as soon as an electorate has them.
    peers: BTreeSet<NodeId>,
    /// Highest lease number that is never asked for again.
    spent: LeaseNo,
    /// Had a majority, and has not lapsed since.
    held: Option<Acquisition>,
    /// Being acquired; takes the place of `held` when it has a majority.
    wanted: Option<Acquisition>,
    pause: Option<Pause>,
    /// What other guards promised for the lease that is held.
    promises: Option<Promises>,
    rounds: BTreeMap<u64, Round>,
    next_round: u64,
}

impl Holder {
    /// Holds nothing. `spent` is the highest lease number that an earlier process asked for, lapsed from or gave a
    /// receipt for: after a restart no lease is continued.
    #[must_use]
    pub fn new(spent: LeaseNo) -> Self {
        Self {
            electorate: Electorate::default(),
            peers: BTreeSet::new(),
            spent,
            held: None,
            wanted: None,
            pause: None,
            promises: None,
            rounds: BTreeMap::new(),
            next_round: 1,
        }
    }

    /// An electorate, from configuration, the log or an answer. The newest seen is the one that must be satisfied.
    pub fn learn(&mut self, electorate: &Electorate) {
        if electorate.version > self.electorate.version || self.electorate.members.is_empty() {
            self.electorate = electorate.clone();
        }
    }

    /// The newest electorate seen: whose grants count.
    #[must_use]
    pub const fn electorate(&self) -> &Electorate {
        &self.electorate
    }

    /// Whom to ask: those whose grants count, and those whose grants may count next.
    #[must_use]
    pub fn everyone(&self) -> BTreeSet<NodeId> {
        self.electorate.everyone().union(&self.peers).copied().collect()
    }

    /// Begins an acquisition that the log allows. What is held stays held until the new one has a majority, or it
    /// lapses. `false`: already begun, or a number that is spent or older than what is held.
    ///
    /// The caller has checked that the record names this life of guard and data.
    pub fn begin(&mut self, record: &LeaseRecord) -> bool {
        let newest = [&self.held, &self.wanted]
            .into_iter()
            .flatten()
            .map(|a| a.record.term)
            .max_by_key(|term| (term.lease_no, term.epoch));
        let old =
            record.term.lease_no <= self.spent || newest.is_some_and(|n| record.term.lease_no <= n.lease_no);
        if !old {
            self.wanted = Some(Acquisition { record: record.clone(), grants: BTreeMap::new() });
        }
        !old
    }

    /// The acquisition that requests are for: the newest begun.
    #[must_use]
    pub fn asking(&self) -> Option<&LeaseRecord> {
        self.wanted.as_ref().or(self.held.as_ref()).map(|a| &a.record)
    }

    /// A request that is sent to every voter of the electorate now: its number, and its lease part. `with_lease: false`
    /// sends only the status. Grants count from `now`, so it must be read before the first byte is sent.
    pub fn ask(
        &mut self,
        now: Moment,
        key: &LeaseKey,
        length: Millis,
        with_lease: bool,
    ) -> (u64, Option<RenewLease>) {
        let record = self.asking().filter(|_| with_lease).cloned();
        let round = self.next_round;
        self.next_round += 1;
        if let Some(record) = &record {
            // A grant of a request that is older than its length is worth nothing.
            self.rounds.retain(|_, round| now < round.sent.after(round.length));
            self.rounds.insert(round, Round { sent: now, term: record.term, length });
        }
        let request = record.map(|r| RenewLease {
            key: key.clone(),
            term: r.term,
            guard: r.guard,
            data: r.data,
            length,
            index: r.index,
        });
        (round, request)
    }

    /// An answer to the request `round`. Returns the lease that it was about and the answer, if any.
    pub fn answered(
        &mut self,
        now: Moment,
        round: u64,
        reply: &RenewReply,
    ) -> Option<(LeaseTerm, RenewAnswer)> {
        self.learn(&reply.electorate);
        if !reply.peers.is_empty() {
            self.peers = reply.peers.iter().map(|peer| peer.id).collect();
        }
        let alive = self.held(now).is_some();
        let Round { sent, term, length } = *self.rounds.get(&round)?;
        let answer = reply.answer?;
        if answer == RenewAnswer::Granted {
            let grant = Grant { sent, end: sent.after(length) };
            // A grant that comes when the lease is over does not continue it, even before `lapse` has noticed.
            let held = self.held.as_mut().filter(|_| alive);
            let acquisitions = [self.wanted.as_mut(), held].into_iter().flatten();
            for acquisition in acquisitions.filter(|a| a.record.term == term) {
                let known = acquisition.grants.entry(reply.voter).or_insert(grant);
                if known.end < grant.end {
                    *known = grant;
                }
            }
            self.take(now);
        }
        Some((term, answer))
    }

    /// The wanted acquisition becomes the held one as soon as a majority of its grants is unexpired.
    fn take(&mut self, now: Moment) {
        let ready = self
            .wanted
            .as_ref()
            .is_some_and(|wanted| self.majority_until(wanted).is_some_and(|until| now < until));
        if ready {
            self.held = self.wanted.take();
        }
    }

    /// The moment up to which a majority of the newest electorate granted.
    fn majority_until(&self, acquisition: &Acquisition) -> Option<Moment> {
        self.nth_newest(acquisition, |grant| grant.end)
    }

    /// The same of another moment of the grants. While the electorate changes, of both majorities the worse.
    fn nth_newest(&self, acquisition: &Acquisition, what: fn(&Grant) -> Moment) -> Option<Moment> {
        let mut worst: Option<Moment> = None;
        for set in self.electorate.sets() {
            let of_set = acquisition.grants.iter().filter(|(voter, _)| set.contains(voter));
            let mut moments: Vec<_> = of_set.map(|(_, grant)| what(grant)).collect();
            moments.sort_unstable();
            let at = moments.len().checked_sub(majority(set))?;
            let moment = *moments.get(at)?;
            worst = Some(worst.map_or(moment, |worst| worst.min(moment)));
        }
        worst
    }

    /// The moment at which what is held is over, if nothing more is granted.
    #[must_use]
    pub fn held_until(&self) -> Option<Moment> {
        let held = self.held.as_ref()?;
        let granted = self.majority_until(held).unwrap_or_default();
        let promised = self.promised().map_or(granted, |(end, _)| end.max(granted));
        Some(self.pause.map_or(promised, |pause| pause.until.max(promised)))
    }

    /// Up to when everybody promised, and when the oldest of those requests was sent.
    fn promised(&self) -> Option<(Moment, Moment)> {
        let held = self.held.as_ref()?;
        self.promises.as_ref().filter(|promises| promises.term() == held.record.term)?.unanimous()
    }

    /// From now on the lease that is held may be held by the promises of all of these (`needed` is how
    /// many they are), or of nobody.
    pub fn hold_by(&mut self, term: LeaseTerm, of: &BTreeSet<InstanceName>, needed: usize) {
        if self.promises.as_ref().is_none_or(|promises| !promises.is_of(term, of)) {
            self.promises = Promises::of(term, of, needed);
        }
    }

    /// A guard promised what it was asked for at `sent`. Like a grant that comes too late, it continues nothing that is over.
    pub fn promise(
        &mut self,
        now: Moment,
        term: LeaseTerm,
        giver: &InstanceName,
        sent: Moment,
        length: Millis,
    ) {
        if self.held(now).is_some_and(|held| held.term == term)
            && let Some(promises) = self.promises.as_mut().filter(|promises| promises.term() == term)
        {
            promises.give(giver, sent, length);
        }
    }

    /// Whose promise for the held lease runs.
    #[must_use]
    pub fn promisers(&self, now: Moment) -> BTreeSet<InstanceName> {
        self.promises.as_ref().map(|promises| promises.running(now)).unwrap_or_default()
    }

    /// Whether what is held is held by promises alone: no majority of voters grants it.
    #[must_use]
    pub fn alone(&self, now: Moment) -> bool {
        let granted = self.held.as_ref().and_then(|held| self.majority_until(held)).unwrap_or_default();
        self.pause.is_none() && granted <= now && self.held(now).is_some()
    }

    /// Whether a lease is held at this moment, and which.
    #[must_use]
    pub fn held(&self, now: Moment) -> Option<HeldLease> {
        let term = self.held.as_ref()?.record.term;
        let until = self.held_until().filter(|until| now < *until)?;
        Some(HeldLease { term, remaining: until.since(now) })
    }

    /// Ends what is held if its time is over, for good: its number is spent. Returns the lease that lapsed, once.
    pub fn lapse(&mut self, now: Moment) -> Option<LeaseTerm> {
        if self.pause.is_some_and(|pause| pause.until <= now) {
            self.pause = None;
        }
        let term = self.held.as_ref()?.record.term;
        if self.held(now).is_some() {
            return None;
        }
        self.spend(term.lease_no);
        Some(term)
    }

    /// Never again: this lease number and those below are given up (a receipt, a lapse, a newer view of the log).
    pub fn spend(&mut self, lease_no: LeaseNo) {
        self.spent = self.spent.max(lease_no);
        let spent = |a: &Acquisition| a.record.term.lease_no <= lease_no;
        if self.held.as_ref().is_some_and(spent) {
            self.held = None;
            self.pause = None;
            self.promises = None;
        }
        if self.wanted.as_ref().is_some_and(spent) {
            self.wanted = None;
        }
    }

    /// Highest lease number that is never asked for again.
    #[must_use]
    pub const fn spent(&self) -> LeaseNo {
        self.spent
    }

    /// When the newest request was sent that a majority granted, or everybody promised: renewals are late by the time since then.
    #[must_use]
    pub fn renewed_at(&self) -> Option<Moment> {
        let granted = self.held.as_ref().and_then(|held| self.nth_newest(held, |grant| grant.sent));
        granted.max(self.promised().map(|(_, sent)| sent))
    }

    /// The moment from which on renewals are late: no majority granted, nor everybody promised, a request of the last `gate_after`. Never while
    /// in a pause, nor when nothing is held.
    #[must_use]
    pub fn late_from(&self, gate_after: Millis) -> Option<Moment> {
        if self.pause.is_some() {
            return None;
        }
        self.held.as_ref()?;
        Some(self.renewed_at().unwrap_or_default().after(gate_after))
    }

    /// Enters a committed pause: what is held is held until `until`, whatever is granted (PROTOCOL, Pause). Only while
    /// something is held; the caller has counted `until` from before the pause was asked for.
    pub fn enter_pause(&mut self, now: Moment, id: u64, until: Moment) -> bool {
        let enter = self.pause.is_none() && now < until && self.held(now).is_some();
        if enter {
            self.pause = Some(Pause { id, until });
        }
        enter
    }

    /// The pause is over: committed `resumed`, or its own end. What is held is held by its grants again.
    pub fn leave_pause(&mut self) {
        self.pause = None;
    }

    /// The pause that it is in, and its end.
    #[must_use]
    pub fn pause(&self) -> Option<(u64, Moment)> {
        self.pause.map(|pause| (pause.id, pause.until))
    }

    /// Each voter's grant of what is held (or, when nothing is, of what is being acquired) and what remains of it.
    #[must_use]
    pub fn grants(&self, now: Moment) -> Vec<(NodeId, Millis)> {
        let of = self.held.as_ref().or(self.wanted.as_ref());
        of.into_iter().flat_map(|a| &a.grants).map(|(voter, grant)| (*voter, grant.end.since(now))).collect()
    }
}
