//! What the agent tells the service manager that started it: that it is ready, and that it still decides. Without a service
//! manager there is nobody to tell, and nothing is said.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// Every listener answers.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// It was told to stop, or must.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager was not reached");
    }
}

/// The watchdog's food. Given by the loop that decides, so that a loop that hangs is noticed and the agent replaced.
#[derive(Debug)]
pub(super) struct Pulse {
    every: Option<Duration>,
    last: Option<Instant>,
}

impl Pulse {
    /// As often as the unit's `WatchdogSec` asks for, three times over; never without one.
    pub(super) fn of_unit() -> Self {
        Self::every(sd_notify::watchdog_enabled().map(|limit| limit / 3))
    }

    const fn every(every: Option<Duration>) -> Self {
        Self { every, last: None }
    }

    /// Called at every turn of the loop.
    pub(super) fn beat(&mut self, now: Instant) {
        if self.due(now) {
            tell(&[NotifyState::Watchdog]);
        }
    }

    fn due(&mut self, now: Instant) -> bool {
        let Some(every) = self.every else { return false };
        let due = self.last.is_none_or(|last| now.saturating_duration_since(last) >= every);
        if due {
            self.last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_beats_as_often_as_asked_and_never_unasked() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut pulse = Pulse::every(Some(Duration::from_millis(100)));
        let beats = (0..10).filter(|n| pulse.due(at(n * 50))).count();
        assert_eq!(beats, 5);
        assert!(!Pulse::every(None).due(start));
    }
}
