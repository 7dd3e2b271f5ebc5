//! `mesh-sim --seed N [--trace] [--mutant NAME]` replays one run of the simulator; `mesh-sim --seeds A..B` runs many;
//! `mesh-sim --seed N --scenario crash --trace` shows one plain failover.

use std::process::ExitCode;

use mesh_proto::effect::EffectKind;
use mesh_tests::sim::mutant::Mutation;
use mesh_tests::sim::scenario::{Scenario, play};
use mesh_tests::sim::setup::Shape;
use mesh_tests::sim::steps::Place;
use mesh_tests::sim::{Options, run};

const USAGE: &str = "mesh-sim --seed N [--errands] [--zero-loss] [--restarts] [--strangers] [--elects] [--early] [--degrades] [--fencers] [--hold] [--trace] [--mutant NAME] | --seeds A..B [--errands] [--zero-loss] [--restarts] [--strangers] [--elects] [--early] [--degrades] [--fencers] [--hold] [--mutant NAME] \
    [--keep-going] | --seed N --scenario crash|crash-scan|host-lost|fenced|switchover|services [--leader N] [--fault EFFECT/PLACE] [--trace]";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (mut seeds, mut options, mut keep_going, mut scenario) = (None, Options::default(), false, None);
    let (mut leader, mut fault) = (None, None);
    while let Some(word) = words.next() {
        let known = match word.as_str() {
            "--seed" => words.next().and_then(|n| n.parse::<u64>().ok()).map(|n| seeds = Some(n..n + 1)),
            "--seeds" => words.next().and_then(|text| range(&text)).map(|found| seeds = Some(found)),
            "--trace" => {
                options.trace = true;
                Some(())
            }
            "--errands" => {
                options.errands = true;
                Some(())
            }
            "--zero-loss" => {
                options.zero_loss = true;
                Some(())
            }
            "--restarts" => {
                options.restarts = true;
                Some(())
            }
            "--strangers" => {
                options.strangers = true;
                Some(())
            }
            "--early" => {
                options.early = true;
                Some(())
            }
            "--degrades" => {
                options.degrades = true;
                Some(())
            }
            "--fencers" => {
                options.fencers = true;
                Some(())
            }
            "--hold" => {
                options.hold = true;
                Some(())
            }
            "--elects" => {
                options.elects = true;
                Some(())
            }
            "--scenario" => words.next().and_then(|name| {
                scenario = Some(Scenario::ALL.into_iter().find(|known| known.name() == name)?);
                Some(())
            }),
            "--leader" => words.next().and_then(|n| n.parse::<usize>().ok()).map(|n| leader = Some(n)),
            "--fault" => words.next().and_then(|text| {
                fault = Some(place(&text)?);
                Some(())
            }),
            "--keep-going" => {
                keep_going = true;
                Some(())
            }
            "--mutant" => words.next().and_then(|name| {
                let found = Mutation::ALL.iter().find(|(known, _)| *known == name)?;
                options.mutation = Some(found.1);
                Some(())
            }),
            _ => None,
        };
        if known.is_none() {
            eprintln!("{word}: not understood\nusage: {USAGE}\nmutants:");
            for (name, _) in Mutation::ALL {
                eprintln!("  {name}");
            }
            return ExitCode::from(2);
        }
    }
    let Some(seeds) = seeds else {
        eprintln!("usage: {USAGE}");
        return ExitCode::from(2);
    };
    if let Some(scenario) = scenario {
        let seed = seeds.start;
        let leader = leader.unwrap_or(seed as usize % 3);
        let shape = if scenario == Scenario::EarlyHostLost { Shape::ThreeAndStandby } else { Shape::Three };
        let ending = play(seed, shape, scenario, leader, fault, options.trace);
        println!("{ending:?}");
        return if ending.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let (mut runs, mut promotions, mut switchovers, mut alone, mut failures) = (0_u64, 0, 0, 0, 0_u64);
    for seed in seeds {
        runs += 1;
        match run(seed, options) {
            Ok(summary) => {
                promotions += summary.promotions;
                switchovers += summary.switchovers;
                alone += summary.alone;
                if options.trace {
                    println!("{summary:?}");
                }
            }
            Err(failure) => {
                failures += 1;
                println!("{failure}");
                if !keep_going {
                    break;
                }
            }
        }
    }
    println!(
        "{runs} seeds, {promotions} promotions of which {switchovers} clean switchovers, {failures} failures"
    );
    if options.hold {
        println!("{alone} primaries served without a majority of voters for a while");
    }
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// `Promote/AfterIntent`: an effect, and where at it the fault is.
fn place(text: &str) -> Option<(EffectKind, Place)> {
    let (kind, place) = text.split_once('/')?;
    let kind = EffectKind::ALL.into_iter().find(|known| format!("{known:?}") == kind)?;
    Some((kind, Place::ALL.into_iter().find(|known| format!("{known:?}") == place)?))
}

fn range(text: &str) -> Option<std::ops::Range<u64>> {
    let (from, to) = text.split_once("..")?;
    Some(from.parse().ok()?..to.parse().ok()?)
}
