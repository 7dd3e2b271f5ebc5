//! What this voter heard from a leader, and what it promised as one.
//!
//! openraft 0.9 lets a leader vote for somebody else as soon as its own election is one lease old, however many
//! voters confirm it. [`Contact::promise`] closes that: while a confirmed permission to act may still be in use, this
//! voter gives its own vote to nobody.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{RwLock, RwLockReadGuard};

#[derive(Debug, Default)]
pub(crate) struct Contact {
    heard: Mutex<Option<Instant>>,
    promised: Mutex<Option<Instant>>,
    /// Held shared while a vote is given, exclusively for the moment in which a promise is made: no vote that was
    /// let through before the promise is still on its way to the core after it.
    votes: RwLock<()>,
}

fn whole<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Contact {
    /// A leader's message was accepted.
    pub(crate) fn hear(&self, at: Instant) {
        *whole(&self.heard) = Some(at);
    }

    /// How long ago a leader's message was accepted.
    pub(crate) fn silence(&self, now: Instant) -> Option<Duration> {
        whole(&self.heard).map(|heard| now.saturating_duration_since(heard))
    }

    /// Promises to vote for nobody before `until`; returns what [`Contact::retract`] goes back to.
    pub(crate) async fn promise(&self, until: Instant) -> Option<Instant> {
        let _alone = self.votes.write().await;
        let mut promised = whole(&self.promised);
        let before = *promised;
        *promised = before.max(Some(until));
        before
    }

    /// Takes a promise back under which no permission was given, unless a later one was made meanwhile: a leader
    /// that asks in vain again and again must not withhold its vote from its successor.
    pub(crate) fn retract(&self, until: Instant, before: Option<Instant>) {
        let mut promised = whole(&self.promised);
        if *promised == Some(until) {
            *promised = before;
        }
    }

    /// Lets a vote be given unless that is promised away; the guard is held until the vote is given.
    pub(crate) async fn voting(&self, now: impl FnOnce() -> Instant) -> Option<RwLockReadGuard<'_, ()>> {
        let guard = self.votes.read().await;
        let free = whole(&self.promised).is_none_or(|until| until <= now());
        free.then_some(guard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_promises_that_were_used_withhold_the_vote() {
        let contact = Contact::default();
        let now = Instant::now();
        let at = |millis| now + Duration::from_millis(millis);
        assert!(contact.voting(|| now).await.is_some());
        contact.promise(at(100)).await;
        assert!(contact.voting(|| at(99)).await.is_none());
        assert!(contact.voting(|| at(100)).await.is_some());
        let before = contact.promise(at(200)).await;
        contact.retract(at(200), before);
        assert!(contact.voting(|| at(99)).await.is_none());
        assert!(contact.voting(|| at(150)).await.is_some());
        let before = contact.promise(at(300)).await;
        contact.promise(at(400)).await;
        contact.retract(at(300), before);
        assert!(contact.voting(|| at(350)).await.is_none());
    }
}
