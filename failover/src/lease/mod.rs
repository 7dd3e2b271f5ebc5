//! The quorum lease: who may accept writes, until when (PROTOCOL, Granting and holding, Taking over).
//!
//! Four parts, each driven by whoever owns it, none of which reads a clock or touches a disk:
//! - [`granter`]: a voter. Grants and remembers; pledges, durably, to grant no more.
//! - [`holder`]: a guard. Counts each grant from when it sent that request; never continues a lease that lapsed.
//! - `promises`: what a guard may hold by without a majority, where the group says so.
//! - [`takeover`]: the leader. Collects pledges of a majority and says when the lease is over everywhere.
//!
//! A lease is never counted by a wall clock, and no moment ever leaves the process that measured it: remainders travel.
//!
//! # Clocks
//! Whoever drives these types turns two kernel clocks into one [`Moment`](crate::Moment): at each reading it adds to the
//! last moment the *larger* of the two clocks' advances since then at a guard, the *smaller* at voters and the leader
//! (CLOCK_BOOTTIME and CLOCK_MONOTONIC_RAW). The choice is made per advance: comparing totals since the start would let
//! one clock's old lead hide the other's lag.

//!
//! # Stricter than PROTOCOL, with the traces
//! - *The voter stretches too.* "Remainder times drift bound" alone leaves two writers: the guard's clock is slow by rho;
//!   it is granted at 0; the voter has counted L when the pledge comes and answers a remainder of nothing, which
//!   stretches to nothing; the leader waits F; the guard's L ends rho x L later and its fence takes all of F. So a voter
//!   remembers each grant, and what it forgot, for L stretched. `tests/lease_model.rs` finds this in 8 steps.
//! - *F is stretched* at the leader: the guard counts its budget by its own clock.
//! - *A pause is counted from a status that the leader had seen before it proposed it.* A guard that counted from its
//!   first sight of a committed pause could see it, through a voter whose log lags, long after the leader began to
//!   count; it would hold its lease when the leader takes the pause for over.

pub mod granter;
pub mod holder;
mod promises;
pub mod takeover;

#[cfg(test)]
mod tests;

use mesh_proto::Millis;

/// How far clocks may lie: the stated assumption behind promise 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockBounds {
    /// The drift bound rho, per mille: while one clock of the mesh counts 1000, any other counts at most this much more.
    pub drift_per_mille: u64,
    /// What is lost by counting in whole steps: one step where a remainder is computed, one where it is waited out.
    pub rounding: Millis,
}

/// The bounds in force.
///
/// rho is 5 per mille. Slewing is out by the choice of clocks above: CLOCK_MONOTONIC_RAW is never slewed, and the larger
/// of two at the guard, the smaller at voters and leader, can only err to the safe side. What is left is the oscillator:
/// server crystals keep 0.1 per mille over temperature and age, and a guest's calibration of its counter is trusted by
/// the kernel within 0.5 per mille. Two clocks that err in opposite directions by all of that differ by 1.2 per mille;
/// four times that is 5. It costs 25 ms of a takeover at L = 2.5 s.
pub const CLOCK_BOUNDS: ClockBounds = ClockBounds { drift_per_mille: 5, rounding: Millis(2) };

impl ClockBounds {
    /// The length that has surely passed on every other clock when this clock counted the result for `length`.
    #[must_use]
    pub const fn stretch(self, length: Millis) -> Millis {
        let more = length.0.saturating_mul(self.drift_per_mille).div_ceil(1000);
        Millis(length.0.saturating_add(more)).plus(self.rounding)
    }

    /// The same for a length that a guard waits for: its clock takes the larger of two advances, and one of the two may be
    /// slewed. The kernel lets nobody slew by more than a tenth (the bounds of `tick` in adjtimex) and 0.5 per mille.
    #[must_use]
    pub const fn stretch_at_guard(self, length: Millis) -> Millis {
        let slewed = length.0.saturating_mul(1_101).div_ceil(1000);
        self.stretch(Millis(slewed))
    }

    /// How long majorities of old and new voters must have known of a change of the electorate before the new ones
    /// count alone: what a guard may still hold that heard of it from nobody, and its fence. PROTOCOL, Granting:
    /// L(1 + 2 rho) + F. `lease` and `fence` are the largest that any guard may still work with.
    #[must_use]
    pub const fn electorate_wait(self, lease: Millis, fence: Millis) -> Millis {
        self.stretch(self.stretch(lease)).plus(self.stretch(fence))
    }
}
