//! Carrying out what is committed: orders for steps and repairs whose intent is in the applied state, pledges for the
//! takeover that is open. Nothing is sent for an intent that is not applied yet.

use mesh_proto::effect::{Effect, Order, Outcome, Refusal, StepRef, Target};
use mesh_proto::run::Run;
use mesh_proto::{Epoch, GroupName, Millis, RunId};

use super::errands;
use super::steps::budget;
use super::{Context, Driver, Executor, InFlight, Todo};
use crate::mutants::Mutant;
use crate::state::{Group, MeshState};

/// How long after an order's own budget its answer may still arrive.
const ANSWER_SLACK: Millis = Millis(500);
/// Longest that an answer is waited for before it is asked how things stand: a message may be lost, and an effect that
/// takes longer (a rebuild, say) answers that it is still at it.
const PATIENCE: Millis = Millis(2_000);
/// How long a pledge request may take before it is sent again.
const PLEDGE_RETRY: Millis = Millis(200);

impl Driver {
    pub(super) fn dispatch(
        &mut self,
        context: &Context<'_>,
        state: &MeshState,
        name: &GroupName,
        todo: &mut Vec<Todo>,
    ) {
        let Some(group) = state.groups.get(name) else { return };
        self.drop_overdue(context);
        self.drop_late_errands(context, group);
        if let Some(run) = group.active_run() {
            self.send_steps(context, group, run, todo);
            // In whatever phase: a takeover that is left through a new lease may need the proof as well.
            if group.takeover.is_some() {
                self.send_pledges(context, state, true, todo);
            }
        }
        self.send_repairs(context, group, todo);
        if group.free_for_a_run() {
            self.send_pledges(context, state, false, todo);
        }
    }

    /// An order whose answer never came is unknown.
    fn drop_overdue(&mut self, context: &Context<'_>) {
        let overdue: Vec<_> =
            self.in_flight.iter().filter(|(_, f)| f.until <= context.now).map(|(s, f)| (*s, *f)).collect();
        for (step, flight) in overdue {
            self.in_flight.remove(&step);
            let outcome = Outcome::Unknown { detail: "no answer in time".to_owned() };
            self.took(context.now, step, flight, outcome, context.mutants);
        }
        self.asked.retain(|_, until| *until > context.now);
    }

    fn send_steps(&mut self, context: &Context<'_>, group: &Group, run: &Run, todo: &mut Vec<Todo>) {
        for (number, step) in &run.steps {
            // A step of an earlier phase that never ended is left alone: its phase went on without it, and its epoch
            // or generation makes it harmless. If this phase wants it too, `standing` begins it anew.
            if step.outcome.is_some() || !errands::due_in(&step.effect, step.phase, run.phase) {
                continue;
            }
            let at = StepRef { run: run.id, step: *number, attempt: step.attempts };
            self.send(context, group, at, &step.effect, step.epoch, todo);
        }
    }

    fn send_repairs(&mut self, context: &Context<'_>, group: &Group, todo: &mut Vec<Todo>) {
        if !group.free_for_a_run() {
            return;
        }
        for repair in group.repairs.iter().filter(|r| r.outcome.is_none() && r.epoch == group.epoch) {
            let at = StepRef { run: RunId(repair.id), step: 0, attempt: 1 };
            self.send(context, group, at, &repair.effect, repair.epoch, todo);
        }
    }

    fn send(
        &mut self,
        context: &Context<'_>,
        group: &Group,
        at: StepRef,
        effect: &Effect,
        epoch: Epoch,
        todo: &mut Vec<Todo>,
    ) {
        let waits = self.not_before.get(&at).is_some_and(|moment| *moment > context.now);
        if waits || self.in_flight.contains_key(&at) || self.results.contains_key(&at) {
            return;
        }
        let Some(to) = executor(group, effect) else {
            let detail = "the spec names nobody who could do it".to_owned();
            self.results.insert(at, Outcome::Refused { code: Refusal::NotConfigured, detail });
            return;
        };
        // An intent that another leader committed, or whose answer was lost, is verified first.
        let verify = !self.mine.contains(&at) && !context.mutants.has(Mutant::RepeatedUnasked);
        let budget = if verify { Millis(2_000) } else { budget(effect, group) };
        let until = context.now.after(budget.min(PATIENCE).plus(ANSWER_SLACK));
        self.in_flight.insert(at, InFlight { until, verify });
        let order = Order {
            group: group.spec.group.clone(),
            step: at,
            epoch,
            raft_term: context.raft_term,
            effect: effect.clone(),
            verify_only: verify,
            index: context.applied,
            budget,
        };
        todo.push(Todo::Execute { to, order: Box::new(order) });
    }

    fn send_pledges(
        &mut self,
        context: &Context<'_>,
        state: &MeshState,
        durable: bool,
        todo: &mut Vec<Todo>,
    ) {
        let collector = if durable {
            self.pledges.as_ref().map(|(_, collector)| collector)
        } else {
            self.willing.as_ref().map(|(_, collector, _)| collector)
        };
        let Some(collector) = collector else { return };
        let answered: Vec<_> = collector.pledges(context.now).iter().map(|(voter, _)| *voter).collect();
        if !durable && collector.willing() {
            return;
        }
        for voter in &state.electorate.everyone() {
            if answered.contains(voter) || self.asked.contains_key(&(*voter, durable)) {
                continue;
            }
            self.asked.insert((*voter, durable), context.now.after(PLEDGE_RETRY));
            todo.push(Todo::Pledge { to: *voter, request: collector.request(durable) });
        }
    }
}

fn executor(group: &Group, effect: &Effect) -> Option<Executor> {
    match effect.target() {
        Target::Instance(name) => {
            let spec = group.instance(name)?;
            Some(Executor::Guard { instance: name.clone(), address: spec.guard })
        }
        Target::Route(name) => {
            let spec = group.spec.routes.iter().find(|route| route.name == *name)?;
            Some(Executor::Agent(spec.agent.clone()))
        }
        Target::Errand(_) | Target::Fencer(_) => {
            let (Effect::Errand { agent, .. } | Effect::TurnOff { agent, .. }) = effect else { return None };
            Some(Executor::Agent(agent.clone()))
        }
    }
}
