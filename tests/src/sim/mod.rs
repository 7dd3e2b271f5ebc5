//! A seeded simulation of the whole mesh: the real coordinator, voters and guards over a model of everything around them
//! (clocks, disks, network, PostgreSQL, an agreed log), with faults, and the promises checked after every event.
//!
//! One thread, one queue, one seed: a run is the same for ever. `mesh-sim --seed N --trace` shows it, a line an event.
//! First faults come ([`run`]), then they stop and everything must come right ([`liveness`]). What the simulator can
//! find is shown by taking rules away ([`mutant`]).

mod agent;
mod checks;
pub mod clock;
mod electors;
mod errands;
mod faults;
mod fencer;
mod guard;
mod hold;
mod liveness;
pub mod mutant;
pub mod net;
mod opening;
mod oracle;
pub mod postgres;
pub mod quorum;
mod raft;
pub mod rng;
mod route;
pub mod scenario;
pub mod setup;
pub mod steps;
mod stranger;
mod task;
pub mod trace;
mod voter;
pub mod world;

use mesh_proto::spec::{CrashPolicy, Open, Profile};

use clock::ms;
use mutant::Mutation;
use rng::Rng;
use setup::{Setup, Shape};
use world::{Event, World};

/// What to simulate.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// A rule that is missing.
    pub mutation: Option<Mutation>,
    /// Print every event.
    pub trace: bool,
    /// The group has services and hooks.
    pub errands: bool,
    /// The group is a zero-loss group.
    pub zero_loss: bool,
    /// A crashed primary may be started again in place: by the seed, after a look at its log or at once.
    pub restarts: bool,
    /// Servers are started by others than their guards: by hand, by a unit of the distribution, at boot.
    pub strangers: bool,
    /// Who votes on leases changes.
    pub elects: bool,
    /// A zero-loss group opens on durability alone.
    pub early: bool,
    /// A zero-loss group's commits go on without standbys after a while, or when an operator says so.
    pub degrades: bool,
    /// Hosts are turned off from outside; by the seed, nobody is promoted before that.
    pub fencers: bool,
    /// The group goes on without a majority of voters while every other guard promises.
    pub hold: bool,
}

/// What happened in a run in which every promise was kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Summary {
    /// Promotions committed.
    pub promotions: u64,
    /// Of them, clean switchovers.
    pub switchovers: u64,
    /// Runs that ended without a change of primary.
    pub aborted: u64,
    /// Changes of voters that came to their end.
    pub elected: u64,
    /// Epochs in which the primary served without a majority of voters, by promises.
    pub alone: u64,
    /// Log entries.
    pub entries: u64,
    /// Writes that clients saw acknowledged.
    pub acknowledged: u64,
    /// Simulated time in milliseconds.
    pub simulated_ms: u64,
}

/// A promise was broken.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// Which promise, and how.
    pub why: String,
    /// When, in simulated milliseconds.
    pub at_ms: u64,
    /// With services and hooks.
    pub errands: bool,
    /// In a zero-loss group.
    pub zero_loss: bool,
    /// With restarts in place.
    pub restarts: bool,
    /// With servers that others start.
    pub strangers: bool,
    /// With voters that change.
    pub elects: bool,
    /// In a zero-loss group that opens on durability alone.
    pub early: bool,
    /// In a zero-loss group whose commits may go on without standbys.
    pub degrades: bool,
    /// With hosts that are turned off from outside.
    pub fencers: bool,
    /// In a group that holds.
    pub hold: bool,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "seed {} after {} ms: {}\n  replay: cargo run -p mesh-tests --bin mesh-sim -- --seed {}{}{}{}{}{}{}{}{}{} --trace",
            self.seed,
            self.at_ms,
            self.why,
            self.seed,
            if self.errands { " --errands" } else { "" },
            if self.zero_loss { " --zero-loss" } else { "" },
            if self.restarts { " --restarts" } else { "" },
            if self.strangers { " --strangers" } else { "" },
            if self.elects { " --elects" } else { "" },
            if self.early { " --early" } else { "" },
            if self.degrades { " --degrades" } else { "" },
            if self.fencers { " --fencers" } else { "" },
            if self.hold { " --hold" } else { "" }
        )
    }
}

/// Runs one seed: some healthy time, faults, then peace.
///
/// # Errors
/// [`Failure`]: the first promise that was broken.
pub fn run(seed: u64, options: Options) -> Result<Summary, Failure> {
    let mut rng = Rng::new(seed ^ 0x005e_7550);
    let shape = rng.pick(&[Shape::Three, Shape::ThreeAndStandby, Shape::Five]).unwrap_or(Shape::Three);
    let profile = if rng.chance(500) { Profile::Lan } else { Profile::Fast };
    let hold_down = rng.pick(&[0, 1, 3, 8]).unwrap_or(0);
    let shape = if options.elects { Shape::Five } else { shape };
    let mut setup = Setup::new(shape, profile, hold_down);
    setup.elects = options.elects;
    if options.errands {
        setup = setup.with_errands(&mut rng);
    }
    if options.zero_loss || options.early || options.degrades {
        setup = setup.with_zero_loss(&mut rng);
    }
    if options.early {
        setup.spec.open = Open::DurabilityOnly;
    }
    if options.degrades {
        setup = setup.with_degrade(&mut rng);
    }
    if options.restarts {
        let last = rng.chance(200);
        setup.spec.crash_policy = if last { CrashPolicy::RestartFirst } else { CrashPolicy::Auto };
    }
    if options.fencers {
        setup = setup.with_fencers(rng.chance(500));
    }
    if options.hold {
        setup = setup.with_hold();
    }
    let mut world = World::new(setup, seed, options.mutation, options.trace);
    world.strangers = options.strangers;
    world.run_until(ms(3_000));
    world.faulty = true;
    let calm = rng.range(200, 4_000);
    world.faults = faults::Plan { pause: (ms(calm / 4), ms(calm)), lasts: ms(rng.range(300, 8_000)) };
    world.after(0, Event::Fault);
    let until = ms(rng.range(12_000, 35_000));
    world.run_until(until);
    if world.failure.is_none() {
        world.settle();
    }
    if world.failure.is_some() && options.trace {
        world.dump();
    }
    world.outcome(seed)
}

impl World {
    /// Everything that a reader of a failed run's trace may want to see of its end.
    fn dump(&self) {
        for (at, guard) in self.guards.iter().enumerate() {
            println!("guard {at} up {} running {:?}: {:#?}", guard.up, guard.running, guard.guard);
        }
        println!(
            "servers: {:?}",
            self.servers.iter().map(|s| (s.processes, s.wal.len(), s.timeline)).collect::<Vec<_>>()
        );
        println!("group: {:#?}", self.group());
    }

    /// How it went.
    pub(crate) fn outcome(&self, seed: u64) -> Result<Summary, Failure> {
        match &self.failure {
            Some(why) => {
                let errands = !self.setup.spec.services.is_empty();
                let early = self.setup.opens_early();
                let degrades = self.setup.degrades();
                let zero_loss = self.setup.zero_loss() && !early && !degrades;
                let restarts = self.setup.spec.crash_policy != CrashPolicy::FailoverFirst;
                let (why, at_ms, strangers) = (why.clone(), self.now / 1_000, self.strangers);
                let (elects, fencers) = (self.setup.elects, !self.setup.spec.fencers.is_empty());
                Err(Failure {
                    seed,
                    why,
                    at_ms,
                    errands,
                    zero_loss,
                    restarts,
                    strangers,
                    elects,
                    early,
                    degrades,
                    fencers,
                    hold: self.setup.holds(),
                })
            }
            None => Ok(Summary {
                promotions: self.checks.failovers,
                switchovers: self.checks.switchovers,
                aborted: self.checks.aborted,
                elected: self.elected(),
                alone: self.checks.alone.len() as u64,
                entries: self.raft.entries.len() as u64,
                acknowledged: self.oracle.writes.len() as u64,
                simulated_ms: self.now / 1_000,
            }),
        }
    }
}
