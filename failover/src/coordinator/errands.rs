//! Services and hooks of a run: when they are begun, how long they are waited for, and what their failures come to.
//!
//! Nothing here holds up a promotion, and a route waits at most for the deadlines that the operator stated: a route is
//! never left on a fenced primary because a service does not start.

use mesh_proto::command::{Command, StepIntent};
use mesh_proto::effect::{Effect, Outcome, Refusal, StepRef};
use mesh_proto::run::{Phase, Run, Signal, StuckCause};
use mesh_proto::spec::{OnFailure, Point};
use mesh_proto::{InstanceName, Millis};

use super::decide::Step;
use super::phases::signal;
use super::steps::find;
use super::{Context, Driver};
use crate::Moment;
use crate::errands::{self, Board};
use crate::state::Group;

/// How long after an errand's own deadline its executor may take to say so: it kills and collects processes first.
const GRACE: Millis = Millis(5_000);

/// An errand that has begun, as this leader has seen it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    /// Since when.
    since: Moment,
    /// Whether its executor ever took an order for it.
    delivered: bool,
}

impl Driver {
    /// Keeps the clocks of the errands under way: a new leader counts anew, so each is bounded under every leader.
    pub(super) fn observe_errands(&mut self, context: &Context<'_>, group: &Group) {
        let mut open = std::collections::BTreeMap::new();
        for (run, number, step) in group.active_run().into_iter().flat_map(steps) {
            if step.outcome.is_none() {
                let at = StepRef { run, step: number, attempt: step.attempts };
                let new = Begun { since: context.now, delivered: false };
                open.insert(at, self.errands.get(&at).copied().unwrap_or(new));
            }
        }
        self.errands = open;
    }

    /// An outcome came back for what may be an errand: then somebody took the order, unless it says otherwise.
    pub(super) fn heard_of_errand(&mut self, step: StepRef, outcome: &Outcome) {
        let lost = matches!(outcome, Outcome::Refused { code: Refusal::NotDelivered, .. });
        if let Some(begun) = self.errands.get_mut(&step).filter(|_| !lost) {
            begun.delivered = true;
        }
    }

    /// An errand whose executor stays away is over at the end of its time: what it does not know, nobody does.
    pub(super) fn drop_late_errands(&mut self, context: &Context<'_>, group: &Group) {
        let Some(run) = group.active_run() else { return };
        for (at, begun) in &self.errands {
            let Some(step) = run.steps.get(&at.step).filter(|_| at.run == run.id) else { continue };
            let Some(errand) = errands::of_step(&run.plan, &step.effect) else { continue };
            if context.now.since(begun.since) <= errand.deadline.plus(GRACE) || self.results.contains_key(at)
            {
                continue;
            }
            self.in_flight.remove(at);
            let (agent, deadline) = (&errand.agent, errand.deadline);
            let outcome = if begun.delivered {
                Outcome::Unknown {
                    detail: format!("agent {agent} did not say within {deadline} what came of it"),
                }
            } else {
                let detail = format!("agent {agent} was not reached within {deadline}");
                Outcome::Refused { code: Refusal::NotDelivered, detail }
            };
            self.results.insert(*at, outcome);
        }
    }

    /// Errands that may begin now; `None` when there are none.
    fn begin_errands(&mut self, group: &Group, run: &Run, board: &Board<'_>, up_to: Point) -> Option<Step> {
        let from = if up_to == Point::Prepare { Point::Prepare } else { Point::BeforeRoutes };
        let goal = errands::goal(run)?.clone();
        let intents = intents(run, board, &board.ready(from, up_to), &goal);
        (!intents.is_empty()).then(|| Step::Go(vec![self.begin(group, run.id, intents)]))
    }

    /// Hooks before a switchover: what to do first, or why it must not go on.
    pub(super) fn prepare_errands(&mut self, context: &Context<'_>, group: &Group, run: &Run) -> Prepared {
        let board = Board::of(run, &group.spec).with_mutants(context.mutants);
        let first = board
            .failed(|policy| policy != OnFailure::Warn)
            .find(|at| board.errands[*at].at == Point::Prepare);
        if let Some(at) = first {
            return Prepared::Failed(told(run, &board, at));
        }
        match self.begin_errands(group, run, &board, Point::Prepare) {
            Some(step) => Prepared::Begin(step),
            None if board.running(Point::Prepare, Point::Prepare) => Prepared::Wait,
            None => Prepared::Done,
        }
    }

    /// Begins what may run beside the routes, in whatever phase the routes are.
    pub(super) fn errands_beside(&mut self, context: &Context<'_>, group: &Group, run: &Run) -> Option<Step> {
        let board = Board::of(run, &group.spec).with_mutants(context.mutants);
        self.begin_errands(group, run, &board, Point::BesideRoutes)
    }

    /// Waits for what routes wait for.
    pub(super) fn staging(&mut self, context: &Context<'_>, group: &Group, run: &Run) -> Step {
        if let Some(step) = self.errands_beside(context, group, run) {
            return step;
        }
        if Board::of(run, &group.spec).holds_routes() {
            return Step::Rest;
        }
        Step::Go(vec![signal(group, run, Signal::StepsDone, "what routes wait for is over")])
    }

    /// Does everything that is left, and ends the run: done, or stuck with what failed.
    pub(super) fn finishing(&mut self, context: &Context<'_>, group: &Group, run: &Run) -> Step {
        let board = Board::of(run, &group.spec).with_mutants(context.mutants);
        if let Some(step) = self.begin_errands(group, run, &board, Point::AfterRoutes) {
            return step;
        }
        if board.running(Point::BeforeRoutes, Point::AfterRoutes) {
            return Step::Rest;
        }
        let blocking: Vec<_> = board.failed(|policy| policy != OnFailure::Warn).collect();
        if blocking.is_empty() {
            let warned = run.steps.values().filter(|step| warned(run, step)).count();
            let detail = match warned {
                0 => "services and hooks are done".to_owned(),
                _ => format!("services and hooks are over; {warned} failed, which is only a warning"),
            };
            return Step::Go(vec![signal(group, run, Signal::StepsDone, &detail)]);
        }
        let why: Vec<_> = blocking.into_iter().map(|at| told(run, &board, at)).collect();
        Step::Go(vec![Command::Signalled {
            group: group.spec.group.clone(),
            run: run.id,
            signal: Signal::StepFailed,
            detail: why.join("; "),
            cause: Some(StuckCause::ErrandFailed),
        }])
    }
}

/// How hooks before a switchover stand.
pub(super) enum Prepared {
    /// These begin now.
    Begin(Step),
    /// Some are under way.
    Wait,
    /// Nothing stands in the way.
    Done,
    /// One failed, and its policy is not to go on.
    Failed(String),
}

/// The signal that leaves a phase which did its own: onwards, or to the errands that come first.
pub(super) fn leave(group: &Group, run: &Run, done: &str) -> Step {
    let board = Board::of(run, &group.spec);
    let (from, up_to) = match run.phase {
        Phase::Promoting => (Point::BeforeRoutes, Point::BeforeRoutes),
        Phase::Preparing
        | Phase::Pledging
        | Phase::Fencing
        | Phase::Staging
        | Phase::Routing
        | Phase::Proving
        | Phase::Finishing
        | Phase::Reopening
        | Phase::Done
        | Phase::Aborted
        | Phase::Stuck => (Point::BeforeRoutes, Point::AfterRoutes),
    };
    // A failure that is only a warning is said at the run's end, so it has one of its own.
    let left = board.unsettled(from, up_to)
        || (run.phase == Phase::Proving && run.steps.values().any(|s| warned(run, s)));
    let kind = if left { Signal::ErrandsLeft } else { Signal::StepsDone };
    Step::Go(vec![signal(group, run, kind, done)])
}

/// How long an executor may take for an errand.
pub(super) fn deadline(group: &Group, effect: &Effect) -> Option<Millis> {
    let run = group.active_run()?;
    Some(errands::of_step(&run.plan, effect)?.deadline)
}

/// Whether a step of this phase is to be sent in that phase of its run.
pub(super) fn due_in(effect: &Effect, began_in: Phase, now: Phase) -> bool {
    let Effect::Errand { at, .. } = effect else { return began_in == now };
    match at {
        Point::Prepare => now == Phase::Preparing,
        Point::BeforeRoutes | Point::BesideRoutes | Point::AfterRoutes => true,
    }
}

fn steps(run: &Run) -> impl Iterator<Item = (mesh_proto::RunId, u32, &mesh_proto::run::Step)> {
    let errand = |step: &&mesh_proto::run::Step| matches!(step.effect, Effect::Errand { .. });
    run.steps.iter().map(|(number, step)| (run.id, *number, step)).filter(move |(_, _, step)| errand(step))
}

fn warned(run: &Run, step: &mesh_proto::run::Step) -> bool {
    errands::of_step(&run.plan, &step.effect).is_some_and(|errand| errand.on_failure == OnFailure::Warn)
        && errands::standing(Some(step)) == errands::Standing::Failed
}

fn intents(run: &Run, board: &Board<'_>, ready: &[usize], goal: &InstanceName) -> Vec<StepIntent> {
    let mut next = run.steps.keys().next_back().map_or(1, |last| last + 1);
    let mut intents = Vec::new();
    for at in ready {
        let effect = errands::effect(board.errands[*at], goal);
        let (step, attempt) = match find(run, &effect) {
            Some((number, step)) => (number, step.attempts + 1),
            None => {
                next += 1;
                (next - 1, 1)
            }
        };
        intents.push(StepIntent { step, attempt, effect });
    }
    intents
}

/// A failed errand and why it failed, for people.
fn told(run: &Run, board: &Board<'_>, at: usize) -> String {
    let errand = board.errands[at];
    let step =
        run.steps.values().rev().find(|step| errands::of_step(&run.plan, &step.effect) == Some(errand));
    match step.and_then(|step| step.outcome.as_ref()) {
        Some(Outcome::Refused { detail, .. } | Outcome::Unknown { detail }) => format!("{errand}: {detail}"),
        Some(Outcome::Done(_)) | None => errand.to_string(),
    }
}
