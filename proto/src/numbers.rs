//! Numbers that order things: epochs, lease numbers, incarnations, runs, durations.

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $type:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(pub u64);

        impl $type {
            /// The number after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&format!(concat!($prefix, "{}"), self.0))
            }
        }
    };
}

number!(
    /// The fencing number of a group's primary: one higher at each change of primary. `Epoch(0)` means "none yet";
    /// the first primary has epoch 1 (PROTOCOL, Birth).
    Epoch, "");
number!(
    /// The number of an acquisition of a lease, per (group, instance); never reset. 0 means "never held".
    LeaseNo, "");
number!(
    /// The generation of a freeze: an instruction of a lower generation is refused.
    Generation, "");
number!(
    /// A Raft member's number. Never reused for another disk.
    NodeId, "");
number!(
    /// One run, named by the log index of the entry that planned it: unique, and the same everywhere.
    RunId, "r");

number!(
    /// A run that waits for a second person, named by the log index of the entry that proposed it.
    ProposalId, "p");

/// A text that names no proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("proposals are named like p42; `mesh approve --list` shows those that wait")]
pub struct NoProposal;

impl std::str::FromStr for ProposalId {
    type Err = NoProposal;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        number_after('p', text).map(Self).ok_or(NoProposal)
    }
}

/// The number after a letter, which may be left out.
fn number_after(letter: char, text: &str) -> Option<u64> {
    let digits = text.strip_prefix(letter).unwrap_or(text);
    // The standard library takes a sign too.
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// A text that names no run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("runs are named like r42; `mesh run` shows the newest")]
pub struct NoRun;

impl std::str::FromStr for RunId {
    type Err = NoRun;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        number_after('r', text).map(Self).ok_or(NoRun)
    }
}

/// A length of time in milliseconds. Never a point in time: those belong to one process and stay there.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// The same length as a [`std::time::Duration`].
    #[must_use]
    pub const fn duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
    /// `self - other`, or zero.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
    /// `self + other`.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
    /// `self * factor`.
    #[must_use]
    pub const fn times(self, factor: u64) -> Self {
        Self(self.0.saturating_mul(factor))
    }
}

impl From<std::time::Duration> for Millis {
    fn from(value: std::time::Duration) -> Self {
        Self(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }
}

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let minutes = self.0 / 60_000;
        match self.0 {
            0..1_000 => f.pad(&format!("{} ms", self.0)),
            // Whole minutes and hours are what a person asked for; anything else was measured.
            _ if minutes >= 60 && self.0.is_multiple_of(3_600_000) => f.pad(&format!("{} h", minutes / 60)),
            _ if minutes > 0 && self.0.is_multiple_of(60_000) => f.pad(&format!("{minutes} min")),
            _ => f.pad(&format!("{}.{:02} s", self.0 / 1000, self.0 % 1000 / 10)),
        }
    }
}

/// Milliseconds since 1970 by the wall clock of whoever stamped it. For people and the audit only: no decision may
/// read it, because wall clocks step.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Wall(pub u64);

/// One life of a guard: new after each boot, and after each restart that lost state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GuardIncarnation(pub String);

/// One life of an instance's data: new after rebuild, rewind, restore or snapshot revert.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DataIncarnation(pub String);

impl std::fmt::Display for GuardIncarnation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}
impl std::fmt::Display for DataIncarnation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}
