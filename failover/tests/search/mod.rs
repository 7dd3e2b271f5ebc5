//! What the models of the lease share: clocks that differ by all that the bound allows, one lease, and an exhaustive
//! search, breadth first, that ends in a count of states or in a shortest trace to two writers.
//!
//! It never leaves a state out by itself, and never bounds how far it looks: two states are one only where the model's
//! key says so, and a model that does not end is wrong.

// It says how much it searched.
#![allow(clippy::disallowed_macros)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use mesh_failover::lease::ClockBounds;
use mesh_proto::lease::{LeaseKey, LeaseRecord, LeaseTerm};
use mesh_proto::{DataIncarnation, Epoch, GuardIncarnation, LeaseNo, Millis};

/// The drift of the models is 1.5: large, so that one step of time makes a difference.
pub const DRIFT: ClockBounds = ClockBounds { drift_per_mille: 500, rounding: Millis(0) };
/// The same clocks, trusted as if they could not differ: the rule of drift taken away.
pub const NO_DRIFT: ClockBounds = ClockBounds { drift_per_mille: 0, rounding: Millis(0) };

/// How far each clock goes while one step of real time passes.
#[derive(Clone, Copy)]
pub struct Clocks {
    pub guard: u64,
    pub voter: u64,
    pub leader: u64,
}

/// The guard counts slowly.
pub const SLOW_GUARD: Clocks = Clocks { guard: 200, voter: 300, leader: 300 };
/// The leader counts fast.
pub const FAST_LEADER: Clocks = Clocks { guard: 200, voter: 200, leader: 300 };

pub static KEY: LazyLock<LeaseKey> =
    LazyLock::new(|| LeaseKey { group: "g".parse().unwrap(), instance: "i".parse().unwrap() });

pub fn term(lease_no: u64) -> LeaseTerm {
    LeaseTerm { epoch: Epoch(1), lease_no: LeaseNo(lease_no) }
}

pub fn record(term: LeaseTerm) -> LeaseRecord {
    let (guard, data) = (GuardIncarnation("g".into()), DataIncarnation("d".into()));
    LeaseRecord { term, guard, data, index: 1, holders: BTreeSet::new(), waits: None }
}

/// What a state is to the search.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Things go on from here.
    Open,
    /// A promotion, and the old primary can acknowledge no more.
    Promoted,
    /// A promotion, and it can.
    TwoWriters,
}

/// Takes a state that one thing happening leads to: what happens, and to which voter.
pub type Emit<'a, S> = &'a mut dyn FnMut(S, &'static str, Option<usize>);

/// What is searched.
pub trait Searched {
    type State;
    /// What tells a state from another, whatever the time.
    type Key: Ord;

    fn first(&self) -> Self::State;
    fn successors(&self, state: &Self::State, emit: Emit<'_, Self::State>);
    fn key(&self, state: &Self::State) -> Self::Key;
    fn found(&self, state: &Self::State) -> Found;
    /// Which kind of promotion this is, where a model tells some apart.
    fn kind(&self, _: &Self::State) -> &'static str {
        "promotions"
    }
}

/// What an exhaustive search went through. Without a promotion among it, it would show nothing.
pub struct Explored {
    pub states: usize,
    /// How many of each kind.
    pub promotions: BTreeMap<&'static str, usize>,
}

/// What happened, to which voter, and the state from which it did.
type Steps = Vec<(u32, &'static str, Option<usize>)>;

/// Breadth first, so that a trace is as short as any. `Ok`: all states, none bad. `Err`: the trace to a bad one.
pub fn search<M: Searched>(model: &M) -> Result<Explored, Vec<String>> {
    let mut promotions = BTreeMap::new();
    let first = model.first();
    let mut seen = BTreeSet::from([model.key(&first)]);
    let mut steps: Steps = vec![(0, "", None)];
    let mut frontier = vec![(0, first)];
    while !frontier.is_empty() {
        let mut later = Vec::new();
        for (at, state) in frontier {
            let mut bad = None;
            model.successors(&state, &mut |next, what, voter| {
                if !seen.insert(model.key(&next)) {
                    return;
                }
                steps.push((at, what, voter));
                let index = u32::try_from(steps.len() - 1).unwrap();
                match model.found(&next) {
                    Found::Open => later.push((index, next)),
                    Found::Promoted => *promotions.entry(model.kind(&next)).or_default() += 1,
                    // The new primary acts in this instant.
                    Found::TwoWriters => bad = bad.or(Some(index)),
                }
            });
            if let Some(index) = bad {
                return Err(trace(&steps, index));
            }
        }
        frontier = later;
    }
    Ok(Explored { states: seen.len(), promotions })
}

fn trace(steps: &Steps, mut at: u32) -> Vec<String> {
    let mut trace = Vec::new();
    while at != 0 {
        let (from, what, voter) = steps[at as usize];
        let name = voter.and_then(|voter| char::from_digit(voter as u32 + 10, 36));
        trace.push(
            name.map_or_else(|| what.to_owned(), |name| format!("{} {what}", name.to_ascii_uppercase())),
        );
        at = from;
    }
    trace.reverse();
    trace
}

/// The search finds nothing, and it did meet promotions.
pub fn safe<M: Searched>(name: &str, model: &M) -> Explored {
    match search(model) {
        Ok(explored) => {
            let Explored { states, promotions } = &explored;
            assert!(!promotions.is_empty(), "{name}: nothing was ever promoted in {states} states");
            println!("{name}: safe, exhaustive, {states} states, among them {promotions:?}");
            explored
        }
        Err(trace) => panic!("{name}: two writers after {} steps:\n{}", trace.len(), trace.join("\n")),
    }
}

/// The search finds two writers.
pub fn broken<M: Searched>(name: &str, model: &M) {
    match search(model) {
        Ok(Explored { states, .. }) => {
            panic!("{name}: the rule is missing and nothing broke in {states} states")
        }
        Err(trace) => {
            println!("{name}: two writers after {} steps, as it must be", trace.len());
            for step in trace {
                println!("    {step}");
            }
        }
    }
}
