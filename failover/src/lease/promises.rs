//! Promises of other guards, as the guard of a primary counts them (`majority_lost = "hold"`): each from when the request for
//! it was sent, all of them or none, and only for the lease that is held. They renew nothing that lapsed, and acquire nothing.

use std::collections::{BTreeMap, BTreeSet};

use mesh_proto::lease::LeaseTerm;
use mesh_proto::{InstanceName, Millis};

use crate::Moment;

/// What one guard promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Promise {
    sent: Moment,
    end: Moment,
}

/// The promises for one lease.
#[derive(Debug, Clone)]
pub(super) struct Promises {
    term: LeaseTerm,
    /// Who must promise: every one of them.
    of: BTreeSet<InstanceName>,
    /// How many of them that is; fewer only in a test that shows that fewer are not enough.
    needed: usize,
    given: BTreeMap<InstanceName, Promise>,
}

impl Promises {
    /// None given yet; `None` where nobody is asked: then there is nothing to hold by.
    pub(super) fn of(term: LeaseTerm, of: &BTreeSet<InstanceName>, needed: usize) -> Option<Self> {
        (!of.is_empty()).then(|| Self { term, of: of.clone(), needed: needed.max(1), given: BTreeMap::new() })
    }

    pub(super) fn is_of(&self, term: LeaseTerm, of: &BTreeSet<InstanceName>) -> bool {
        self.term == term && self.of == *of
    }

    pub(super) const fn term(&self) -> LeaseTerm {
        self.term
    }

    /// A promise that was asked for at `sent`.
    pub(super) fn give(&mut self, giver: &InstanceName, sent: Moment, length: Millis) {
        let promise = Promise { sent, end: sent.after(length) };
        let known = self.given.entry(giver.clone()).or_insert(promise);
        if known.end < promise.end {
            *known = promise;
        }
    }

    /// When the first of them ends, and when the oldest of their requests was sent; `None` while one is missing.
    pub(super) fn unanimous(&self) -> Option<(Moment, Moment)> {
        let given = || self.given.iter().filter(|(giver, _)| self.of.contains(*giver));
        let mut ends: Vec<Moment> = given().map(|(_, promise)| promise.end).collect();
        let mut sents: Vec<Moment> = given().map(|(_, promise)| promise.sent).collect();
        ends.sort_unstable_by_key(|end| std::cmp::Reverse(*end));
        sents.sort_unstable_by_key(|sent| std::cmp::Reverse(*sent));
        let last = self.needed - 1;
        Some((*ends.get(last)?, *sents.get(last)?))
    }

    /// Whose promise runs.
    pub(super) fn running(&self, now: Moment) -> BTreeSet<InstanceName> {
        let running = self.given.iter().filter(|(_, promise)| now < promise.end);
        running.map(|(giver, _)| giver.clone()).collect()
    }
}
