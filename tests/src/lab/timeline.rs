//! A run's phases in milliseconds, as the audit has them, counted from a fault.
//!
//! All agents of a lab share one host and so one wall clock; elsewhere such a table would need care.

use mesh_proto::run::{Phase, Run};
use serde::Serialize;

/// One stretch of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stretch {
    /// What was done in it.
    pub name: &'static str,
    /// Its length in milliseconds.
    pub ms: i64,
    /// Its end, in milliseconds after the fault.
    pub until: i64,
}

/// The stretches of a run that began after a fault at `fault` (milliseconds of the wall clock).
#[must_use]
pub fn stretches(run: &Run, fault: u64) -> Vec<Stretch> {
    let mut found = Vec::new();
    let mut name = "detect";
    let mut before = 0;
    for (phase, at) in &run.entered {
        let until = signed(at.0) - signed(fault);
        found.push(Stretch { name, ms: until - before, until });
        before = until;
        name = match phase {
            Phase::Preparing => "prepare",
            Phase::Pledging => "agree",
            Phase::Fencing => "fence",
            Phase::Promoting => "promote",
            Phase::Routing => "route",
            Phase::Proving => "verify",
            Phase::Staging => "stage",
            Phase::Finishing => "finish",
            Phase::Reopening => "reopen",
            Phase::Done | Phase::Aborted | Phase::Stuck => "after",
        };
    }
    found
}

/// Milliseconds of the wall clock now.
#[must_use]
pub fn wall() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}
