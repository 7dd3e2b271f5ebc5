//! This process's clock, as the lease needs it.
//!
//! Two kernel clocks run side by side: `CLOCK_BOOTTIME`, which time daemons slew by several per cent and which counts
//! suspension, and `CLOCK_MONOTONIC_RAW`, which nobody slews and which stands still while the host is suspended. A
//! guard takes the one that ran more, a voter or leader the one that ran less (PROTOCOL, Granting and holding), and
//! it takes it anew for each stretch between two readings: comparing only the sums since the start would let an old
//! surplus of one clock hide a later lead of the other. It never tells wall time to anything that decides.

use std::sync::{Mutex, PoisonError};

use mesh_failover::Moment;
use mesh_proto::Wall;
use rustix::time::{ClockId, clock_gettime};

/// Readings of both kernel clocks, in nanoseconds. Only meaningful on this host and in this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// `CLOCK_BOOTTIME`.
    pub boot: u64,
    /// `CLOCK_MONOTONIC_RAW`.
    pub raw: u64,
}

impl Reading {
    /// Reads both clocks.
    #[must_use]
    pub fn now() -> Self {
        Self { boot: nanos(ClockId::Boottime), raw: nanos(ClockId::MonotonicRaw) }
    }

    /// Both clocks plus a length in milliseconds.
    #[must_use]
    pub const fn after(self, length: mesh_proto::Millis) -> Self {
        let nanos = length.0.saturating_mul(1_000_000);
        Self { boot: self.boot.saturating_add(nanos), raw: self.raw.saturating_add(nanos) }
    }

    /// Whether either clock has reached `deadline`: the cautious reading of "it is over".
    #[must_use]
    pub const fn reached(self, deadline: Self) -> bool {
        self.boot >= deadline.boot || self.raw >= deadline.raw
    }

    /// Nanoseconds until the first clock reaches `deadline`.
    #[must_use]
    pub fn until(self, deadline: Self) -> u64 {
        deadline.boot.saturating_sub(self.boot).min(deadline.raw.saturating_sub(self.raw))
    }
}

fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    // Both clocks start at or after zero and the kernel keeps nanoseconds in 0..10^9.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let rest = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

/// Which of the two clocks counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Longer,
    Shorter,
}

/// Elapsed time since the clock was made, in one of the two cautious ways.
#[derive(Debug)]
pub struct Clock {
    mode: Mode,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last: Reading,
    elapsed: u64,
}

impl Clock {
    /// For a guard: never shows less time than either kernel clock.
    #[must_use]
    pub fn for_guard() -> Self {
        Self::new(Mode::Longer)
    }

    /// For a voter or a leader: never shows more time than either kernel clock.
    #[must_use]
    pub fn for_voter() -> Self {
        Self::new(Mode::Shorter)
    }

    fn new(mode: Mode) -> Self {
        Self { mode, state: Mutex::new(State { last: Reading::now(), elapsed: 0 }) }
    }

    /// Now, in whole milliseconds since the clock was made.
    #[must_use]
    pub fn now(&self) -> Moment {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Reading::now();
        advance(&mut state, now, self.mode);
        Moment(state.elapsed / 1_000_000)
    }
}

fn advance(state: &mut State, now: Reading, mode: Mode) {
    let boot = now.boot.saturating_sub(state.last.boot);
    let raw = now.raw.saturating_sub(state.last.raw);
    let step = match mode {
        Mode::Longer => boot.max(raw),
        Mode::Shorter => boot.min(raw),
    };
    state.elapsed = state.elapsed.saturating_add(step);
    state.last = now;
}

/// The name of this boot of the host. Deadlines on disk carry it: after a reboot they are void.
///
/// # Errors
/// If `/proc` is not there.
pub fn boot_id() -> std::io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned())
}

/// The wall clock, for people and the audit only.
#[must_use]
pub fn wall() -> Wall {
    Wall(u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(mode: Mode, steps: &[(u64, u64)]) -> u64 {
        let mut last = Reading { boot: 7, raw: 3 };
        let mut state = State { last, elapsed: 0 };
        for (boot, raw) in steps {
            last = Reading { boot: last.boot + boot, raw: last.raw + raw };
            advance(&mut state, last, mode);
        }
        state.elapsed
    }

    #[test]
    fn an_old_surplus_of_one_clock_hides_no_later_lead_of_the_other() {
        // A host was suspended for 1000 (boot ran, raw did not); then boot is slewed to run slow.
        let steps = [(1000, 0), (92, 100), (92, 100)];
        assert_eq!(run(Mode::Longer, &steps), 1200);
        assert_eq!(run(Mode::Shorter, &steps), 184);
    }

    #[test]
    fn clocks_advance_and_keep_their_order() {
        let (guard, voter) = (Clock::for_guard(), Clock::for_voter());
        let (g0, v0) = (guard.now(), voter.now());
        std::thread::sleep(std::time::Duration::from_millis(20));
        let (g, v) = (guard.now().since(g0), voter.now().since(v0));
        assert!(g.0 >= 19 && v.0 >= 19, "{g} {v}");
        let now = Reading::now();
        assert!(!now.reached(now.after(mesh_proto::Millis(50))));
        assert!(Reading { boot: now.boot + 1, ..now }.reached(Reading { boot: now.boot + 1, raw: u64::MAX }));
        assert_eq!(boot_id().unwrap().len(), 36);
    }
}
