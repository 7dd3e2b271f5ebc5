//! The five faults.

use anyhow::{Result, bail};
use serde::Serialize;

/// What is done to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// SIGKILL to the postmaster; everything else on the host lives.
    PostmasterKill,
    /// Every process on the host dies at once.
    HostLost,
    /// The host is cut off from everyone.
    Partition,
    /// Every process of the database is stopped (SIGSTOP); the agent lives.
    Hang,
    /// Nothing is wrong: an operator asks.
    Planned,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 5] =
        [Self::PostmasterKill, Self::HostLost, Self::Partition, Self::Hang, Self::Planned];

    /// Those that a whole site can have.
    pub const OF_A_SITE: [Self; 3] = [Self::HostLost, Self::Partition, Self::Planned];

    /// Its name on the command line and in the results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PostmasterKill => "postmaster-kill",
            Self::HostLost => "host-lost",
            Self::Partition => "partition",
            Self::Hang => "hang",
            Self::Planned => "planned",
        }
    }

    /// Finds it by its name.
    ///
    /// # Errors
    /// When there is none.
    pub fn named(name: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|fault| fault.name() == name) {
            Some(fault) => Ok(fault),
            None => bail!("there is no fault {name:?}; take {}", Self::ALL.map(Self::name).join(", ")),
        }
    }
}
