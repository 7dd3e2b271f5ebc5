//! The faults, and how a round of them is drawn. Pure: a seed gives the same rounds for ever.

use anyhow::{Result, bail};
use serde::Serialize;

use crate::sim::rng::Rng;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// SIGKILL to the postmaster, whose backends are busy.
    PostmasterKill,
    /// SIGSTOP to the postmaster alone: sessions that are open go on.
    PostmasterStop,
    /// SIGSTOP to every process of the server; they thaw when the round is mended.
    ServerFreeze,
    /// SIGKILL to the agent.
    AgentKill,
    /// SIGSTOP to the agent.
    AgentStop,
    /// SIGKILL to the guard.
    GuardKill,
    /// SIGSTOP to the guard.
    GuardStop,
    /// SIGKILL to agent and guard at once.
    AgentAndGuardKill,
    /// SIGSTOP to agent and guard at once.
    AgentAndGuardStop,
    /// Everything on the host dies at once.
    HostLost,
    /// The host is cut off from everyone.
    Partition,
    /// The host hears nobody.
    Deaf,
    /// Nobody hears the host.
    Mute,
    /// The host is cut off from the other databases' hosts alone; all see the witness.
    StandbyCut,
    /// Agents and guards of the host are cut off from those of the others; clients and the stream are not.
    MeshCut,
    /// The link goes away and comes back, several times a second.
    Flapping,
    /// More runs at normal priority than the host has processors for.
    Load,
    /// Agent and guard of the host get a tenth of a processor, in pieces.
    Starved,
    /// The wall clock of the host is stepped an hour forwards, and back when the round is mended.
    ClockForward,
    /// The wall clock of the host is stepped an hour backwards, and forth when the round is mended.
    ClockBack,
    /// No room on the disk of the data and its log.
    DiskFull,
    /// Every write to that disk waits.
    DiskHang,
    /// The command that archives the log does not end.
    ArchiveHang,
    /// An operator moves the primary by plan.
    Switchover,
    /// SIGKILL to the agent that leads.
    LeaderKill,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 25] = [
        Self::PostmasterKill,
        Self::PostmasterStop,
        Self::ServerFreeze,
        Self::AgentKill,
        Self::AgentStop,
        Self::GuardKill,
        Self::GuardStop,
        Self::AgentAndGuardKill,
        Self::AgentAndGuardStop,
        Self::HostLost,
        Self::Partition,
        Self::Deaf,
        Self::Mute,
        Self::StandbyCut,
        Self::MeshCut,
        Self::Flapping,
        Self::Load,
        Self::Starved,
        Self::ClockForward,
        Self::ClockBack,
        Self::DiskFull,
        Self::DiskHang,
        Self::ArchiveHang,
        Self::Switchover,
        Self::LeaderKill,
    ];

    /// Its name on the command line and in the results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PostmasterKill => "postmaster-kill",
            Self::PostmasterStop => "postmaster-stop",
            Self::ServerFreeze => "server-freeze",
            Self::AgentKill => "agent-kill",
            Self::AgentStop => "agent-stop",
            Self::GuardKill => "guard-kill",
            Self::GuardStop => "guard-stop",
            Self::AgentAndGuardKill => "agent-and-guard-kill",
            Self::AgentAndGuardStop => "agent-and-guard-stop",
            Self::HostLost => "host-lost",
            Self::Partition => "partition",
            Self::Deaf => "deaf",
            Self::Mute => "mute",
            Self::StandbyCut => "standby-cut",
            Self::MeshCut => "mesh-cut",
            Self::Flapping => "flapping",
            Self::Load => "load",
            Self::Starved => "starved",
            Self::ClockForward => "clock-forward",
            Self::ClockBack => "clock-back",
            Self::DiskFull => "disk-full",
            Self::DiskHang => "disk-hang",
            Self::ArchiveHang => "archive-hang",
            Self::Switchover => "switchover",
            Self::LeaderKill => "leader-kill",
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

    /// Whether it takes the whole host, and so the route where the host has it.
    #[must_use]
    pub const fn takes_the_host(self) -> bool {
        matches!(self, Self::HostLost | Self::Partition | Self::Deaf | Self::Mute | Self::Flapping)
    }
}

/// Where, seen from the primary at the beginning of the round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Where {
    /// At the primary.
    Primary,
    /// At the next node after it.
    Next,
    /// At the one after that.
    Other,
}

/// One fault of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Blow {
    /// What.
    pub fault: Fault,
    /// Where.
    pub at: Where,
    /// How long after the one before, in milliseconds.
    pub after_ms: u64,
}

/// One round: one fault, often another while the mesh still answers the first, and how long they last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// What is done, in this order.
    pub blows: Vec<Blow>,
    /// How long after the last one everything is mended, in milliseconds.
    pub hold_ms: u64,
}

impl Plan {
    /// Draws a round from some faults.
    #[must_use]
    pub fn draw(rng: &mut Rng, faults: &[Fault]) -> Self {
        let mut blows = vec![blow(rng, faults, 0)];
        // Inside what a failover takes: the moments between its steps are what is to be hit.
        if rng.chance(350) {
            let after = rng.range(0, 1_200);
            blows.push(blow(rng, faults, after));
        }
        // Now and then over before anybody has decided anything, mostly long enough for a failover by lease.
        let hold_ms = if rng.chance(300) { rng.range(50, 2_000) } else { rng.range(2_000, 9_000) };
        Self { blows, hold_ms }
    }
}

fn blow(rng: &mut Rng, faults: &[Fault], after_ms: u64) -> Blow {
    let fault = rng.pick(faults).unwrap_or(Fault::PostmasterKill);
    let at = match rng.below(10) {
        0..=5 => Where::Primary,
        6 | 7 => Where::Next,
        _ => Where::Other,
    };
    Blow { fault, at, after_ms }
}

#[cfg(test)]
mod tests {
    use super::{Fault, Plan, Rng};

    #[test]
    fn a_seed_gives_the_same_rounds_and_every_fault_comes() {
        let draw = |seed| -> Vec<Plan> {
            let mut rng = Rng::new(seed);
            (0..400).map(|_| Plan::draw(&mut rng, &Fault::ALL)).collect()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        for fault in Fault::ALL {
            assert_eq!(Fault::named(fault.name()).ok(), Some(fault));
            let comes = |plan: &Plan| plan.blows.iter().any(|blow| blow.fault == fault);
            assert!(draw(7).iter().any(comes), "{}", fault.name());
        }
    }
}
