//! Time. The world has one true clock, in microseconds, which nobody in it can read; each host has its own, which starts
//! anywhere and drifts within the stated bound.

use mesh_failover::Moment;
use mesh_proto::Millis;

/// True time since the start of the simulation, in microseconds.
pub type Time = u64;

/// Microseconds of a number of milliseconds.
#[must_use]
pub const fn ms(millis: u64) -> Time {
    millis * 1_000
}

/// Microseconds of a length.
#[must_use]
pub const fn us(length: Millis) -> Time {
    length.0 * 1_000
}

/// Most that one clock may run fast or slow, in parts per million: two clocks at opposite ends differ by 4.8 per mille,
/// just inside the 5 that `lease::CLOCK_BOUNDS` allows.
pub const DRIFT_PPM_MAX: i64 = 2_395;

/// The clock of one host.
#[derive(Debug, Clone, Copy)]
pub struct HostClock {
    offset: u64,
    ppm: i64,
}

impl HostClock {
    /// A clock that shows `offset` microseconds at true time 0 and runs fast by `ppm`.
    #[must_use]
    pub const fn new(offset: u64, ppm: i64) -> Self {
        Self { offset, ppm }
    }

    /// What it shows.
    #[must_use]
    pub const fn at(&self, now: Time) -> Moment {
        let gained = now as i64 * self.ppm / 1_000_000;
        Moment((self.offset + now).saturating_add_signed(gained) / 1_000)
    }

    /// The first true time at which it shows `moment` or later.
    #[must_use]
    pub fn when(&self, moment: Moment) -> Time {
        let shown = (moment.0 * 1_000).saturating_sub(self.offset);
        let mut time = (i128::from(shown) * 1_000_000 / i128::from(1_000_000 + self.ppm)) as u64;
        while self.at(time) < moment {
            time += 50;
        }
        time
    }
}
