//! Points in time, as an argument. The core never reads a clock: whoever drives it passes the moment in.

use mesh_proto::Millis;

/// A point in time on one process's own clock, in milliseconds since an arbitrary start. Moments of different
/// processes, or of one process before and after its restart, must never be compared.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// This moment plus a length.
    #[must_use]
    pub const fn after(self, length: Millis) -> Self {
        Self(self.0.saturating_add(length.0))
    }
    /// Time from `earlier` to this moment; zero if it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }
}
