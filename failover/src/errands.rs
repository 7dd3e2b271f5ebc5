//! Services and hooks of a run: which ones a plan carries, in which order they may be begun, and how they stand.
//!
//! It never decides whether a primary is promoted or a route is led: whatever fails here, those go on. Between the loss of
//! a primary and the promotion of the next there is no place for an errand.

mod check;

use std::collections::BTreeSet;

use mesh_proto::effect::{Effect, Outcome, Refusal};
use mesh_proto::run::{Phase, Plan, Run, RunKind, Step};
use mesh_proto::spec::{Errand, GroupSpec, Moves, OnFailure, Point, When, Work};
use mesh_proto::{InstanceName, Millis, SiteName};

use crate::mutants::{Mutant, Mutants};
pub use check::{beside, check, needed};

/// The errands of a run from one instance to one of the candidates: for each site that it may lead to.
#[must_use]
pub fn planned(
    spec: &GroupSpec,
    kind: RunKind,
    from: &InstanceName,
    candidates: &[InstanceName],
) -> Vec<Errand> {
    let Some(home) = site_of(spec, from) else { return Vec::new() };
    let goals: BTreeSet<&SiteName> = candidates.iter().filter_map(|name| site_of(spec, name)).collect();
    let leaves = goals.iter().any(|site| *site != home);
    let mut errands = Vec::new();
    for service in &spec.services {
        let (starts, stops) = match service.moves {
            Moves::Start => (true, false),
            Moves::Stop => (false, true),
            Moves::Both => (true, true),
        };
        let (work, when) = if stops && leaves && service.site == *home {
            (Work::Stop, When::AwayFrom(home.clone()))
        } else if starts && service.site != *home && goals.contains(&service.site) {
            (Work::Start, When::To(service.site.clone()))
        } else {
            continue;
        };
        errands.push(Errand {
            name: service.name.clone(),
            agent: service.agent.clone(),
            work,
            at: service.at,
            when,
            after: service.after.clone(),
            needs: if work == Work::Stop { Vec::new() } else { service.needs.clone() },
            deadline: seconds(service.deadline_seconds),
            on_failure: service.on_failure,
        });
    }
    for hook in &spec.hooks {
        let wanted = hook.only_to.as_ref().is_none_or(|site| goals.contains(site));
        if !wanted || (hook.at == Point::Prepare && kind != RunKind::Switchover) {
            continue;
        }
        for agent in &hook.agents {
            errands.push(Errand {
                name: hook.name.clone(),
                agent: agent.clone(),
                work: Work::Hook,
                at: hook.at,
                when: hook.only_to.clone().map_or(When::Always, When::To),
                after: hook.after.clone(),
                needs: hook.needs.clone(),
                deadline: seconds(hook.deadline_seconds),
                on_failure: hook.on_failure,
            });
        }
    }
    errands
}

const fn seconds(count: u64) -> Millis {
    Millis(count.saturating_mul(1_000))
}

fn site_of<'a>(spec: &'a GroupSpec, instance: &InstanceName) -> Option<&'a SiteName> {
    spec.instances.iter().find(|known| known.name == *instance).map(|known| &known.site)
}

/// Where a run leads: the promoted instance, before that the best candidate.
#[must_use]
pub fn goal(run: &Run) -> Option<&InstanceName> {
    run.promotion.as_ref().map(|promotion| &promotion.instance).or_else(|| run.plan.candidates.first())
}

/// The errands of a plan that leads to this instance, as they stand in it.
#[must_use]
pub fn towards<'a>(plan: &'a Plan, spec: &GroupSpec, goal: &InstanceName) -> Vec<&'a Errand> {
    let Some(site) = site_of(spec, goal) else { return Vec::new() };
    plan.errands.iter().filter(|errand| errand.when.holds(site)).collect()
}

/// The errands that must be over before one may begin, by their places. A service is started after what it names is started,
/// or, at another site, stopped; it is stopped after what names it is stopped.
#[must_use]
pub fn waits_for(errands: &[&Errand], at: usize) -> Vec<usize> {
    let Some(own) = errands.get(at) else { return Vec::new() };
    let first = |other: &Errand| match (own.work, other.work) {
        (Work::Stop, Work::Stop) => other.after.contains(&own.name),
        (Work::Stop, Work::Hook) => own.after.contains(&other.name),
        (Work::Stop, Work::Start) => false,
        (Work::Start | Work::Hook, Work::Start | Work::Stop | Work::Hook) => own.after.contains(&other.name),
    };
    let others = errands.iter().enumerate().filter(|(place, other)| *place != at && first(other));
    others.map(|(place, _)| place).collect()
}

/// Everything that must be over before one may be, itself included.
#[must_use]
pub fn closure(errands: &[&Errand], at: usize) -> BTreeSet<usize> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![at]);
    while let Some(next) = open.pop() {
        if seen.insert(next) {
            open.extend(waits_for(errands, next));
        }
    }
    seen
}

/// The step that does an errand.
#[must_use]
pub fn effect(errand: &Errand, instance: &InstanceName) -> Effect {
    Effect::Errand {
        errand: errand.name.clone(),
        agent: errand.agent.clone(),
        work: errand.work,
        at: errand.at,
        instance: instance.clone(),
    }
}

/// The errand that a step does.
#[must_use]
pub fn of_step<'a>(plan: &'a Plan, effect: &Effect) -> Option<&'a Errand> {
    match effect {
        Effect::Errand { errand, agent, work, .. } => {
            plan.errands.iter().find(|e| e.name == *errand && e.agent == *agent && e.work == *work)
        }
        Effect::Checkpoint { .. }
        | Effect::HandOver { .. }
        | Effect::Fence { .. }
        | Effect::Freeze { .. }
        | Effect::Confirm { .. }
        | Effect::Promote { .. }
        | Effect::Follow { .. }
        | Effect::Scan { .. }
        | Effect::TurnOff { .. }
        | Effect::Route { .. }
        | Effect::Prove { .. } => None,
    }
}

/// How an errand stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not begun, or to be done again.
    Open,
    /// Begun; nobody knows its end yet.
    Running,
    /// Done, or skipped by an operator.
    Done,
    /// It failed.
    Failed,
}

/// How a step says that its errand stands.
#[must_use]
pub const fn standing(step: Option<&Step>) -> Standing {
    match step {
        None => Standing::Open,
        Some(step) => match &step.outcome {
            None => Standing::Running,
            Some(Outcome::Done(_)) => Standing::Done,
            Some(Outcome::Refused { code: Refusal::NotSo, .. }) => Standing::Open,
            Some(Outcome::Refused { .. } | Outcome::Unknown { .. }) => Standing::Failed,
        },
    }
}

/// All errands of a run towards one instance, and how they stand.
#[derive(Debug, Default)]
pub struct Board<'a> {
    /// The errands, in the order of the plan.
    pub errands: Vec<&'a Errand>,
    /// How each stands.
    pub standing: Vec<Standing>,
    /// Whether the stated order counts; always, but in a test that proves that it must.
    pub ordered: bool,
}

impl<'a> Board<'a> {
    /// The board of a run, by the instance that it leads to.
    #[must_use]
    pub fn of(run: &'a Run, spec: &GroupSpec) -> Self {
        let Some(goal) = goal(run) else { return Self::default() };
        let errands = towards(&run.plan, spec, goal);
        let step = |errand: &&Errand| {
            let effect = effect(errand, goal);
            standing(run.steps.values().find(|step| step.effect == effect))
        };
        // What was prepared is behind a run that goes on, wherever it leads in the end.
        let behind = |errand: &&Errand| errand.at == Point::Prepare && run.phase != Phase::Preparing;
        let standing = errands.iter().map(|e| if behind(e) { Standing::Done } else { step(e) }).collect();
        Self { errands, standing, ordered: true }
    }

    /// The same without regard to the order, for a test.
    #[must_use]
    pub fn with_mutants(mut self, mutants: &Mutants) -> Self {
        self.ordered = !mutants.has(Mutant::ErrandsUnordered);
        self
    }

    /// Whether what comes after an errand may begin.
    #[must_use]
    pub fn settled(&self, at: usize) -> bool {
        match self.standing[at] {
            Standing::Done => true,
            Standing::Failed => self.errands[at].on_failure == OnFailure::Warn,
            Standing::Open | Standing::Running => false,
        }
    }

    /// Places of the errands that may be begun now, up to a point of the run.
    #[must_use]
    pub fn ready(&self, from: Point, up_to: Point) -> Vec<usize> {
        let halted = self.failed(|policy| policy == OnFailure::Stop).next().is_some();
        if halted {
            return Vec::new();
        }
        let due = |at: &usize| {
            (from..=up_to).contains(&self.errands[*at].at)
                && self.standing[*at] == Standing::Open
                && (!self.ordered
                    || waits_for(&self.errands, *at).into_iter().all(|first| self.settled(first)))
        };
        (0..self.errands.len()).filter(due).collect()
    }

    /// Whether anything of these points is under way.
    #[must_use]
    pub fn running(&self, from: Point, up_to: Point) -> bool {
        let here = |at: usize| (from..=up_to).contains(&self.errands[at].at);
        (0..self.errands.len()).any(|at| here(at) && self.standing[at] == Standing::Running)
    }

    /// Places of the errands that failed and whose policy is one of these.
    pub fn failed(&self, policy: impl Fn(OnFailure) -> bool) -> impl Iterator<Item = usize> {
        (0..self.errands.len())
            .filter(move |at| self.standing[*at] == Standing::Failed && policy(self.errands[*at].on_failure))
    }

    /// Whether an errand of this point exists that has not been settled.
    #[must_use]
    pub fn unsettled(&self, from: Point, up_to: Point) -> bool {
        (0..self.errands.len()).any(|at| (from..=up_to).contains(&self.errands[at].at) && !self.settled(at))
    }

    /// Whether routes still wait: something that they wait for is under way, or is to be begun now.
    #[must_use]
    pub fn holds_routes(&self) -> bool {
        let mut needed = BTreeSet::new();
        for at in (0..self.errands.len()).filter(|at| self.errands[*at].at == Point::BeforeRoutes) {
            needed.extend(closure(&self.errands, at));
        }
        let ready = self.ready(Point::BeforeRoutes, Point::BesideRoutes);
        needed.iter().any(|at| self.standing[*at] == Standing::Running || ready.contains(at))
    }
}

/// The errand that would come before itself, in some run between two sites of the spec; and one that routes wait for and
/// that itself waits for the routes.
#[must_use]
pub fn contradiction(spec: &GroupSpec) -> Option<(mesh_proto::ErrandName, &'static str)> {
    for from in &spec.instances {
        for goal in spec.instances.iter().filter(|goal| goal.site != from.site) {
            let all = planned(spec, RunKind::Switchover, &from.name, std::slice::from_ref(&goal.name));
            let errands: Vec<&Errand> = all.iter().filter(|e| e.when.holds(&goal.site)).collect();
            for (at, errand) in errands.iter().enumerate() {
                let before: BTreeSet<usize> =
                    waits_for(&errands, at).into_iter().flat_map(|first| closure(&errands, first)).collect();
                if before.contains(&at) {
                    return Some((errand.name.clone(), "it would have to come before itself"));
                }
                if before.iter().any(|first| begins(errands[*first].at) > begins(errand.at)) {
                    return Some((errand.name.clone(), "it comes after something that a later point begins"));
                }
            }
        }
    }
    None
}

/// Points in the order in which their errands may begin.
const fn begins(at: Point) -> u8 {
    match at {
        Point::Prepare => 0,
        Point::BeforeRoutes | Point::BesideRoutes => 1,
        Point::AfterRoutes => 2,
    }
}

/// The chain that takes longest in the worst case, when everything uses up its deadline: from first to last.
#[must_use]
pub fn longest<'a>(errands: &[&'a Errand]) -> (Vec<&'a Errand>, Millis) {
    fn ending_at(errands: &[&Errand], at: usize, depth: usize) -> (Vec<usize>, u64) {
        // A plan has no circle; the depth keeps one made by hand from turning for ever.
        let before = if depth > errands.len() { Vec::new() } else { waits_for(errands, at) };
        let best =
            before.into_iter().map(|first| ending_at(errands, first, depth + 1)).max_by_key(|(_, t)| *t);
        let (mut chain, time) = best.unwrap_or_default();
        chain.push(at);
        (chain, time.saturating_add(errands[at].deadline.0))
    }
    let chains = (0..errands.len()).map(|at| ending_at(errands, at, 0));
    let (chain, time) = chains.max_by_key(|(_, time)| *time).unwrap_or_default();
    (chain.into_iter().map(|at| errands[at]).collect(), Millis(time))
}

/// The steps of a run that its length depended on, from first to last: each began when the one before it had ended.
#[must_use]
pub fn critical_path(run: &Run) -> Vec<u32> {
    let ended = |step: &Step| step.ended;
    let mut path = Vec::new();
    let last = run.steps.iter().filter(|(_, step)| step.ended.is_some()).max_by_key(|(_, s)| ended(s));
    let mut next = last.map(|(number, step)| (*number, step));
    while let Some((number, step)) = next {
        path.push(number);
        let before = run.steps.iter().filter(|(other, s)| {
            **other != number && !path.contains(other) && s.ended.is_some_and(|end| end <= step.began)
        });
        next = before.max_by_key(|(other, s)| (s.ended, **other)).map(|(other, s)| (*other, s));
    }
    path.reverse();
    path
}

#[cfg(test)]
mod tests;
