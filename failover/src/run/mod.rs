//! The phases of a run: one total function over (phase, signal), with nothing hidden elsewhere.
//!
//! The matrix and the graph are golden files (`tests/golden/phase_matrix.txt`, `phase.dot`); tests walk the graph and
//! demand that every phase has an exit, that promoting is reachable only through a committed promotion, and that no run
//! is aborted after one.

use mesh_proto::run::{Phase, RunKind, Signal};

/// What a signal does to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Go there.
    Enter(Phase),
    /// The signal changes nothing in this phase.
    Stay,
    /// The signal cannot come in this phase: refused, and the state is left alone.
    Impossible,
}

/// The phase a run begins in. A switchover prepares while everything still runs; a failover pledges at once.
#[must_use]
pub const fn first(kind: RunKind) -> Phase {
    match kind {
        RunKind::Failover => Phase::Pledging,
        RunKind::Switchover => Phase::Preparing,
    }
}

/// The transition table.
#[must_use]
#[allow(clippy::match_same_arms, clippy::enum_glob_use)] // one line a cell: the table is read as a table
pub const fn next(phase: Phase, signal: Signal) -> Next {
    use Next::{Enter, Impossible, Stay};
    use Phase::*;
    use Signal::*;
    match (phase, signal) {
        (Preparing, StepsDone) => Enter(Pledging),
        // A primary that cannot even write a checkpoint is not well enough for a planned hand-over.
        (Preparing, StepFailed) => Enter(Aborted),
        (Preparing, NoCandidate | PrimaryReturned | OperatorAbort) => Enter(Aborted),
        (Preparing, Retry | RetryRoutes | RetryErrands | ErrandSkipped) => Stay,
        (Preparing, PledgedByMajority | PromotionCommitted | CandidateReturned | ErrandsLeft) => Impossible,

        (Pledging, PledgedByMajority) => Enter(Fencing),
        // A pledge may be durable somewhere: the primary can only go on under a new lease number.
        (Pledging, PrimaryReturned | OperatorAbort) => Enter(Reopening),
        // The epoch has changed already: its instance gets a new lease number and goes on.
        (Pledging, CandidateReturned) => Enter(Promoting),
        (Pledging, NoCandidate) => Enter(Stuck),
        (Pledging, StepsDone | Retry | RetryRoutes | RetryErrands | ErrandSkipped) => Stay,
        (Pledging, StepFailed | PromotionCommitted | ErrandsLeft) => Impossible,

        (Fencing, PromotionCommitted) => Enter(Promoting),
        (Fencing, NoCandidate) => Enter(Stuck),
        // Before a promotion is committed there is a way back, through a new lease number.
        (Fencing, PrimaryReturned | OperatorAbort) => Enter(Reopening),
        (Fencing, CandidateReturned) => Enter(Promoting),
        // A fence that fails proves nothing; the lease's end will.
        (Fencing, StepsDone | StepFailed | PledgedByMajority) => Stay,
        (Fencing, Retry | RetryRoutes | RetryErrands | ErrandSkipped) => Stay,
        (Fencing, ErrandsLeft) => Impossible,

        (Promoting, StepsDone) => Enter(Routing),
        (Promoting, ErrandsLeft) => Enter(Staging),
        // The candidate failed. A second candidate is a second epoch with a full proof against the first.
        (Promoting, StepFailed) => Enter(Pledging),
        (Promoting, NoCandidate) => Enter(Stuck),
        // The epoch has changed: there is nothing to return to, only forward.
        (Promoting, PrimaryReturned | OperatorAbort) => Stay,
        (Promoting, PledgedByMajority | CandidateReturned) => Stay,
        (Promoting, Retry | RetryRoutes | RetryErrands | ErrandSkipped) => Stay,
        (Promoting, PromotionCommitted) => Impossible,

        // Whatever came of the errands: a route is not left on a fenced primary because of them.
        (Staging, StepsDone) => Enter(Routing),
        (Staging, PledgedByMajority | NoCandidate | PrimaryReturned | CandidateReturned) => Stay,
        (Staging, OperatorAbort | Retry | RetryRoutes | RetryErrands | ErrandSkipped) => Stay,
        (Staging, StepFailed | PromotionCommitted | ErrandsLeft) => Impossible,

        (Routing, StepsDone) => Enter(Proving),
        (Routing, StepFailed) => Enter(Stuck),
        (Routing, PledgedByMajority | NoCandidate | PrimaryReturned | CandidateReturned) => Stay,
        (Routing, OperatorAbort | Retry | RetryRoutes | RetryErrands | ErrandSkipped) => Stay,
        (Routing, PromotionCommitted | ErrandsLeft) => Impossible,

        (Proving, StepsDone) => Enter(Done),
        (Proving, ErrandsLeft) => Enter(Finishing),
        (Proving, StepFailed) => Enter(Stuck),
        (Proving, PledgedByMajority | NoCandidate | PrimaryReturned | CandidateReturned) => Stay,
        (Proving, OperatorAbort | Retry | RetryRoutes | RetryErrands | ErrandSkipped) => Stay,
        (Proving, PromotionCommitted) => Impossible,

        (Finishing, StepsDone) => Enter(Done),
        (Finishing, StepFailed) => Enter(Stuck),
        (Finishing, PledgedByMajority | NoCandidate | PrimaryReturned | CandidateReturned) => Stay,
        (Finishing, OperatorAbort | Retry | RetryRoutes | RetryErrands | ErrandSkipped) => Stay,
        (Finishing, PromotionCommitted | ErrandsLeft) => Impossible,

        (Reopening, StepsDone) => Enter(Aborted),
        // The old primary does not come back: look for a candidate again, against its new lease number.
        (Reopening, StepFailed) => Enter(Pledging),
        (Reopening, NoCandidate) => Enter(Stuck),
        (Reopening, PledgedByMajority | PrimaryReturned | OperatorAbort | Retry | RetryRoutes) => Stay,
        (Reopening, RetryErrands | ErrandSkipped) => Stay,
        (Reopening, PromotionCommitted | CandidateReturned | ErrandsLeft) => Impossible,

        (Stuck, Retry) => Enter(Pledging),
        (Stuck, RetryRoutes) => Enter(Routing),
        (Stuck, RetryErrands | ErrandSkipped) => Enter(Finishing),
        (Stuck, PrimaryReturned | OperatorAbort) => Enter(Reopening),
        (Stuck, CandidateReturned) => Enter(Promoting),
        (Stuck, StepsDone | StepFailed | PledgedByMajority | NoCandidate) => Stay,
        (Stuck, PromotionCommitted | ErrandsLeft) => Impossible,

        (Done | Aborted, StepsDone | StepFailed | PledgedByMajority | PromotionCommitted) => Impossible,
        (Done | Aborted, NoCandidate | PrimaryReturned | CandidateReturned | ErrandsLeft) => Impossible,
        (Done | Aborted, OperatorAbort | Retry | RetryRoutes | RetryErrands | ErrandSkipped) => Impossible,
    }
}

/// What decides, beside a run's phase, which signals it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// A promotion is committed: nothing may lead back to the old primary.
    pub promoted: bool,
    /// The new primary serves: only routes and errands are left to do.
    pub serves: bool,
    /// It is stuck with services or hooks alone to do: its routes are led and proved.
    pub errands_only: bool,
}

/// Why a signal that the table knows must not be taken by this run all the same.
#[must_use]
pub const fn forbidden(signal: Signal, facts: Facts) -> Option<&'static str> {
    match signal {
        Signal::PrimaryReturned | Signal::OperatorAbort if facts.promoted => Some(
            "the promotion is committed: the old primary lost its epoch, and the run can only go forward",
        ),
        Signal::CandidateReturned if !facts.promoted => {
            Some("no promotion is committed, so there is no candidate to return to")
        }
        Signal::Retry if facts.serves => {
            Some("the new primary serves; only its routes and services can be tried again")
        }
        Signal::RetryRoutes if !facts.serves => {
            Some("no new primary serves yet, so there is nothing to lead routes to")
        }
        Signal::RetryErrands | Signal::ErrandSkipped if !facts.errands_only => {
            Some("the run is not stuck with a service or hook")
        }
        Signal::StepsDone
        | Signal::StepFailed
        | Signal::PledgedByMajority
        | Signal::PromotionCommitted
        | Signal::NoCandidate
        | Signal::PrimaryReturned
        | Signal::CandidateReturned
        | Signal::OperatorAbort
        | Signal::Retry
        | Signal::RetryRoutes
        | Signal::ErrandsLeft
        | Signal::ErrandSkipped
        | Signal::RetryErrands => None,
    }
}

/// The matrix as text, a row a phase: the golden file of the tests.
#[must_use]
pub fn matrix() -> String {
    let mut text = format!("{:<11}", "");
    for signal in Signal::ALL {
        text.push_str(&format!(" {signal:<20}"));
    }
    for phase in Phase::ALL {
        text = text.trim_end().to_owned() + &format!("\n{phase:<11}");
        for signal in Signal::ALL {
            let cell = match next(phase, signal) {
                Next::Enter(to) => to.to_string(),
                Next::Stay => ".".to_owned(),
                Next::Impossible => "impossible".to_owned(),
            };
            text.push_str(&format!(" {cell:<20}"));
        }
    }
    text.trim_end().to_owned() + "\n"
}

/// The graph for Graphviz: the golden file of the tests.
#[must_use]
pub fn graph() -> String {
    let mut text = String::from("digraph run {\n  rankdir=LR;\n");
    for phase in Phase::ALL {
        for signal in Signal::ALL {
            if let Next::Enter(to) = next(phase, signal) {
                text.push_str(&format!("  \"{phase}\" -> \"{to}\" [label=\"{signal}\"];\n"));
            }
        }
    }
    text + "}\n"
}
