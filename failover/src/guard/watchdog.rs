//! How long the host may go on when this guard does nothing any more: what a watchdog device is written to by (PROTOCOL, The
//! guard). It knows no device and no timeout.

use mesh_proto::Millis;

use super::Guard;
use crate::Moment;

/// Until when nothing here acknowledges a write that it must not, whatever the guard does from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Safe {
    /// For ever: no lease is held, or what held it is proven to acknowledge nothing any more.
    ForEver,
    /// The end of the lease and the fence budget, or the end of that budget once a fence has begun.
    Until(Moment),
}

impl Guard {
    /// Until when the host may go on without this guard.
    #[must_use]
    pub fn safe(&self, now: Moment) -> Safe {
        match &self.fencing {
            Some(fencing) if fencing.level.is_some() => Safe::ForEver,
            Some(fencing) => Safe::Until(fencing.due),
            None => match self.holder.held(now).and_then(|_| self.holder.held_until()) {
                Some(until) => Safe::Until(until.after(self.timing.fence)),
                None => Safe::ForEver,
            },
        }
    }

    /// Longest timeout of a device that can be put off all the time while the lease is renewed: what a lease and the fence
    /// budget last, less three probe intervals that may lie between two grants, and a hundredth for clocks that differ.
    #[must_use]
    pub fn watchdog_fits(&self) -> Millis {
        let whole = self.timing.lease.plus(self.timing.fence).0;
        let late = self.timing.probe.times(3).0;
        Millis(whole.saturating_sub(late).saturating_mul(99) / 100)
    }

    /// Whether a watchdog is to be armed: the guard has held a lease, and so fences.
    #[must_use]
    pub const fn armed(&self) -> bool {
        self.state.armed
    }
}
