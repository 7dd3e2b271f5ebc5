//! Promises of this guard to the guard of the primary (`majority_lost = "hold"`): "my instance is not opened while this
//! lasts". A promise binds nobody but this guard, which keeps it by waiting with its own opening (`hold.rs`).
//!
//! It never promises for an older lease than the newest that it heard of, and that is on disk before anybody hears of it:
//! whoever opens next counts on it. How long a promise lasts is kept in memory alone; after a restart every one that an
//! earlier process may have given counts from the start of this one, as long as any lease may be.

use mesh_proto::Millis;
use mesh_proto::hold::{HoldAnswer, HoldRequest, NoPromise};
use mesh_proto::lease::LeaseTerm;

use super::Guard;
use super::action::Action;
use crate::Moment;
use crate::lease::CLOCK_BOUNDS;
use crate::mutants::Mutant;

/// The longest lease and fence budget that a spec may ask for (`policy::check`): what counts until the log said another.
const LONGEST_LEASE: Millis = Millis(60_000);
pub(super) const LONGEST_FENCE: Millis = Millis(30_000);

/// Answers that may wait for the disk. Guards ask again all the time; more is a fault, and left unanswered.
const ANSWERS_MAX: usize = 64;

/// What the guard promised.
#[derive(Debug, Clone)]
pub(super) struct Given {
    /// When this process began: what an earlier one promised, it may have promised just before.
    began: Moment,
    /// No state was found: an earlier process, if there was one, may have promised and stopped as nobody knows.
    born: bool,
    /// The end of the longest promise for the newest lease asked for.
    until: Moment,
    /// The end of the longest promise for older ones.
    older_until: Moment,
    /// The version of the state from which on that lease is on disk.
    noted_at: u64,
    /// (state version that must be on disk, request id, answer)
    answers: Vec<(u64, u64, HoldAnswer)>,
}

impl Given {
    pub(super) const fn none_yet(began: Moment, born: bool) -> Self {
        let never = Moment(0);
        Self { began, born, until: never, older_until: never, noted_at: 0, answers: Vec::new() }
    }
}

impl Guard {
    /// The guard of another instance asks this one to promise, under an id by which it is answered.
    pub fn handle_hold(&mut self, now: Moment, id: u64, request: &HoldRequest) {
        let answer = match self.unheard(request) {
            Some(why) => HoldAnswer::Refused(why),
            None => {
                self.note_newest(request.term);
                let older = self.older_over().since(now);
                match self.no_promise(now) {
                    Some(why) => HoldAnswer::Stopped { older, why },
                    None => {
                        self.note_promise(now, request.length);
                        HoldAnswer::Promised { older }
                    }
                }
            }
        };
        if self.given.answers.len() < ANSWERS_MAX {
            self.given.answers.push((self.given.noted_at, id, answer));
        }
    }

    fn note_promise(&mut self, now: Moment, length: Millis) {
        if self.mutants.has(Mutant::HoldPromiseNotNoted) {
            return;
        }
        // The other guard counts from when it sent, by its own clock.
        let end = now.after(CLOCK_BOUNDS.stretch_at_guard(length));
        self.given.until = self.given.until.max(end);
    }

    /// Leases older than this one are promised nothing any more.
    pub(super) fn note_newest(&mut self, term: LeaseTerm) {
        if term > self.state.promised {
            self.state.promised = term;
            self.changed();
            self.given.noted_at = self.state.version;
            self.given.older_until = self.given.older_until.max(self.given.until);
            self.given.until = Moment(0);
        }
    }

    /// Why a request is none that this guard can act on.
    fn unheard(&self, request: &HoldRequest) -> Option<NoPromise> {
        if request.key.group != self.state.group || request.key.instance == self.state.instance {
            return Some(NoPromise::NotAsked);
        }
        let hold = self.view.as_ref().and_then(|view| view.hold.as_ref());
        if hold.is_some_and(|hold| hold.guards.iter().all(|peer| peer.instance != request.key.instance)) {
            return Some(NoPromise::NotAsked);
        }
        let old = request.term < self.state.promised || request.term.epoch < self.state.gate.epoch;
        old.then_some(NoPromise::NewerLease)
    }

    /// Why it promises nothing now, whoever asks.
    fn no_promise(&self, now: Moment) -> Option<NoPromise> {
        let on = self.view.as_ref().and_then(|view| view.hold.as_ref()).is_some_and(|hold| hold.on);
        let own = self.holder.held(now).is_some()
            || self.holder.asking().is_some()
            || self.pending.is_some()
            || self.opened.is_some()
            || self.fencing.as_ref().is_some_and(|fencing| fencing.level.is_none());
        let forgotten = self.given.began.after(self.longest()).after(self.longest_fence());
        if !on {
            Some(NoPromise::PolicyOff)
        } else if self.stopping {
            Some(NoPromise::Stopping)
        } else if own {
            Some(NoPromise::HoldsLease)
        } else if self.state.frozen.is_some() {
            Some(NoPromise::Frozen)
        } else if self.given.born && now < forgotten {
            Some(NoPromise::JustBorn)
        } else {
            None
        }
    }

    /// Whether it would promise for the lease in force.
    pub(super) fn willing(&self, now: Moment) -> bool {
        let current = self.view.as_ref().and_then(|view| view.hold.as_ref()).and_then(|hold| hold.current);
        current.is_some_and(|term| term.epoch == self.state.gate.epoch) && self.no_promise(now).is_none()
    }

    fn longest(&self) -> Millis {
        let said = self.view.as_ref().and_then(|view| view.hold.as_ref()).map(|hold| hold.longest);
        CLOCK_BOUNDS.stretch_at_guard(said.unwrap_or(LONGEST_LEASE))
    }

    fn longest_fence(&self) -> Millis {
        let said = self.view.as_ref().and_then(|view| view.hold.as_ref()).map(|hold| hold.fence);
        CLOCK_BOUNDS.stretch_at_guard(said.unwrap_or(LONGEST_FENCE))
    }

    /// When everything that an earlier process promised is over.
    fn forgotten_over(&self) -> Moment {
        if self.mutants.has(Mutant::HoldRestartForgetsPromises) {
            return Moment(0);
        }
        self.given.began.after(self.longest())
    }

    /// When everything that was promised for older leases is over.
    fn older_over(&self) -> Moment {
        self.given.older_until.max(self.forgotten_over())
    }

    /// When everything that was promised to anybody is over.
    pub(super) fn own_promises_over(&self) -> Moment {
        self.given.until.max(self.older_over())
    }

    /// Answers whose lease is on disk.
    pub(super) fn send_promises(&mut self) {
        let durable = self.durable;
        for (_, id, answer) in self.given.answers.extract_if(.., |(needs, ..)| *needs <= durable) {
            self.actions.push(Action::Promise { id, answer });
        }
    }
}
