//! Single, plain scenarios in an otherwise healthy mesh: what an operator would try first.

use std::collections::BTreeSet;

use mesh_proto::effect::EffectKind;
use mesh_proto::run::{Phase, RunKind, StuckCause};
use mesh_proto::spec::{CrashPolicy, Durability, Open, Profile};

use super::clock::ms;
use super::rng::Rng;
use super::setup::{Setup, Shape};
use super::steps::{Injection, Place};
use super::world::World;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// The primary's postmaster is killed.
    Crash,
    /// The same where the dead log is read, and the primary started again if the standby lacks something.
    CrashScan,
    /// The primary's host dies, for good.
    HostLost,
    /// The same in a zero-loss group that opens early, in which commits wait for the other standby.
    EarlyHostLost,
    /// The primary's host dies, and nobody is promoted before a fencer says that it is off.
    Fenced,
    /// An operator asks for a planned switchover.
    Switchover,
    /// The same with services and hooks that move along.
    Services,
}

impl Scenario {
    /// Every scenario.
    pub const ALL: [Self; 7] = [
        Self::Crash,
        Self::CrashScan,
        Self::HostLost,
        Self::EarlyHostLost,
        Self::Fenced,
        Self::Switchover,
        Self::Services,
    ];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::CrashScan => "crash-scan",
            Self::HostLost => "host-lost",
            Self::EarlyHostLost => "early-host-lost",
            Self::Fenced => "fenced",
            Self::Switchover => "switchover",
            Self::Services => "services",
        }
    }
}

/// How it ended.
#[derive(Debug, Clone)]
pub struct Ending {
    /// The phase of the group's last run; `None` when there was none.
    pub phase: Option<Phase>,
    /// Why it is stuck, if it is.
    pub stuck: Option<StuckCause>,
    /// The fault was injected.
    pub fired: bool,
    /// Milliseconds from the event to the run's end.
    pub took_ms: u64,
    /// Milliseconds from the event to the first write that another instance than the first primary acknowledged.
    pub written_ms: Option<u64>,
    /// Which instance is the primary.
    pub primary: Option<usize>,
    /// The group is held down.
    pub held_down: bool,
    /// Promotions committed.
    pub promotions: u64,
    /// Every kind of effect whose intent was committed.
    pub kinds: BTreeSet<EffectKind>,
}

/// Plays a scenario, with at most one injected fault, and lets it come right.
///
/// # Errors
/// What promise was broken, in words.
pub fn play(
    seed: u64,
    shape: Shape,
    scenario: Scenario,
    leader: usize,
    fault: Option<(EffectKind, Place)>,
    trace: bool,
) -> Result<Ending, String> {
    let mut setup = Setup::new(shape, Profile::Lan, 600);
    if scenario == Scenario::Services {
        setup = setup.with_errands(&mut Rng::new(seed));
    }
    if scenario == Scenario::CrashScan {
        setup.spec.crash_policy = CrashPolicy::Auto;
    }
    if scenario == Scenario::Fenced {
        setup = setup.with_fencers(true);
    }
    if scenario == Scenario::EarlyHostLost {
        setup.spec.durability = Durability::ZeroLoss;
        setup.spec.open = Open::DurabilityOnly;
    }
    let mut world = World::new(setup, seed, None, trace);
    world.raft.prefer = Some(leader);
    // Writes and the stream go by fixed periods: by the seed, the standby has received the last write or has not.
    let phase = if scenario == Scenario::CrashScan { ms(seed % 20) } else { 0 };
    if scenario == Scenario::EarlyHostLost {
        // The other standby was repaired once, under this primary: whoever leads next finds that in the log.
        world.run_until(ms(1_500));
        world.kill_postmaster(2);
        world.run_until(ms(7_500));
    }
    let formed = world.now.max(ms(2_500));
    world.run_until(formed + phase);
    if let Some((kind, place)) = fault {
        // With a host lost, the leader's is the second of three: away for longer than a lease, nobody could renew.
        let away = match scenario {
            Scenario::Crash | Scenario::CrashScan | Scenario::Switchover | Scenario::Services => 4_000,
            Scenario::HostLost | Scenario::EarlyHostLost | Scenario::Fenced => 1_000,
        };
        world.injection = Injection::new(kind, place, away);
    }
    world.raft.prefer = None;
    // What formed the mesh is no part of what is to be broken.
    world.checks.kinds.clear();
    let began = world.now;
    match scenario {
        Scenario::Crash | Scenario::CrashScan => world.kill_postmaster(0),
        Scenario::HostLost | Scenario::EarlyHostLost | Scenario::Fenced => world.crash_host(0, ms(20_000)),
        Scenario::Switchover | Scenario::Services => world.ask(RunKind::Switchover, None, false),
    }
    let (mut ended, mut written) = (None, None);
    for _ in 0..240 {
        let next = world.now + ms(50);
        world.run_until(next);
        if ended.is_none() && world.group().run.as_ref().is_some_and(|run| run.phase.is_final()) {
            ended = Some(world.now);
        }
        if written.is_none() && world.oracle.writes.iter().any(|write| write.instance != 0) {
            written = Some((world.now - began) / 1_000);
        }
    }
    if world.failure.is_none() {
        world.settle();
    }
    if let Some(why) = &world.failure {
        return Err(why.clone());
    }
    let group = world.group();
    Ok(Ending {
        phase: group.run.as_ref().map(|run| run.phase),
        stuck: group.run.as_ref().and_then(|run| run.stuck.as_ref().map(|(cause, _)| *cause)),
        fired: world.injection.fired,
        took_ms: ended.map_or(0, |at| (at - began) / 1_000),
        written_ms: written,
        primary: group.primary.as_ref().and_then(|p| world.setup.instance(&p.instance)),
        held_down: group.hold_down.is_some(),
        promotions: world.checks.failovers,
        kinds: world.checks.kinds.clone(),
    })
}
