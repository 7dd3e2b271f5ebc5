//! What each phase of a run does, and what moves it on. Fencing has a file of its own.

use mesh_proto::command::{Command, Verdict};
use mesh_proto::effect::Effect;
use mesh_proto::lease::Proof;
use mesh_proto::run::{Actor, Phase, Run, RunKind, Signal, StuckCause};
use mesh_proto::{GroupName, InstanceName};

use super::decide::Step;
use super::errands::{Prepared, leave};
use super::idle::has_forgotten;
use super::steps::Standing;
use super::{Context, Driver, ROUTES_DEADLINE, TAKEOVERS_MAX};
use crate::fencers;
use crate::lease::CLOCK_BOUNDS;
use crate::lease::takeover::Collector;
use crate::mutants::Mutant;
use crate::plan::assess;
use crate::state::{Group, MeshState};
use crate::verdict::{self, Judgement};

impl Driver {
    /// Keeps the volatile clocks of waits: when this leader saw what first.
    pub(super) fn observe(&mut self, context: &Context<'_>, state: &MeshState, name: &GroupName) {
        let Some(group) = state.groups.get(name) else { return };
        let entered = group.active_run().map(|run| (run.id, run.phase, run.entered.len()));
        match entered {
            Some((id, phase, nth)) => {
                let known = self.phase.is_some_and(|(i, p, n, _)| (i, p, n) == (id, phase, nth));
                if !known {
                    self.phase = Some((id, phase, nth, context.now));
                }
            }
            None => self.phase = None,
        }
        match (group.hold_down, self.hold_down) {
            (Some(run), Some((known, _))) if run == known => {}
            (Some(run), _) => self.hold_down = Some((run, context.now)),
            (None, _) => self.hold_down = None,
        }
        match (&group.proposal, self.proposal) {
            (Some(open), Some((known, _))) if open.id == known => {}
            (Some(open), _) => self.proposal = Some((open.id, context.now)),
            (None, _) => self.proposal = None,
        }
        match (&group.pause, self.pause) {
            (Some(pause), Some((known, _))) if pause.id == known => {}
            (Some(pause), _) => self.pause = Some((pause.id, context.now)),
            (None, _) => self.pause = None,
        }
        let term = group.lease().map(|lease| lease.term);
        if self.lease_seen.map(|(t, _)| t) != term {
            self.lease_seen = term.map(|t| (t, context.now));
        }
        self.drop_known_results(group);
        self.observe_errands(context, group);
        self.collect(context, state, group);
    }

    /// A collector for the takeover that is open: a new leader collects again and counts again.
    fn collect(&mut self, context: &Context<'_>, state: &MeshState, group: &Group) {
        match &group.takeover {
            Some(takeover) => {
                if self.pledges.as_ref().is_none_or(|(term, _)| *term != takeover.term) {
                    let fence = if context.mutants.has(Mutant::NoFenceBudget) {
                        mesh_proto::Millis::ZERO
                    } else {
                        group.largest_fence
                    };
                    let collector = Collector::new(
                        takeover.key.clone(),
                        takeover.term,
                        takeover.run,
                        context.raft_term,
                        state.electorate.clone(),
                        fence,
                        CLOCK_BOUNDS,
                    );
                    self.pledges = Some((takeover.term, collector));
                }
            }
            None => self.pledges = None,
        }
    }

    /// How long this leader has seen the run in its phase; nothing for a phase that is only speculated.
    pub(super) fn in_phase(&self, context: &Context<'_>, run: &Run) -> mesh_proto::Millis {
        match self.phase {
            Some((id, phase, nth, since)) if (id, phase, nth) == (run.id, run.phase, run.entered.len()) => {
                context.now.since(since)
            }
            Some(_) | None => mesh_proto::Millis::ZERO,
        }
    }

    /// Whether a majority has pledged durably, as counted by this leader.
    pub(super) fn pledged(&self, context: &Context<'_>) -> bool {
        if context.mutants.has(Mutant::MinorityPledges) {
            return self.pledges.as_ref().is_some_and(|(_, c)| !c.pledges(context.now).is_empty());
        }
        self.pledges.as_ref().is_some_and(|(_, c)| c.pledged())
    }

    pub(super) fn drive(&mut self, context: &Context<'_>, state: &MeshState, group: &Group) -> Step {
        let Some(run) = group.active_run() else { return Step::Rest };
        match run.phase {
            Phase::Preparing => self.preparing(context, state, group, run),
            Phase::Pledging => self.pledging(context, state, group, run),
            Phase::Fencing => self.fencing(context, state, group, run),
            Phase::Promoting => self.promoting(context, group, run),
            Phase::Staging => self.staging(context, group, run),
            Phase::Finishing => self.finishing(context, group, run),
            Phase::Routing => {
                let effects = routes(group, |route, instance| Effect::Route { route, instance });
                self.route_phase(context, group, run, &effects, StuckCause::RouteFailed)
            }
            Phase::Proving => {
                let effects = routes(group, |route, instance| Effect::Prove { route, instance });
                self.route_phase(context, group, run, &effects, StuckCause::ProofFailed)
            }
            Phase::Reopening => self.reopening(context, group, run),
            Phase::Stuck => self.stuck(context, group, run),
            Phase::Done | Phase::Aborted => Step::Rest,
        }
    }

    fn preparing(&mut self, context: &Context<'_>, state: &MeshState, group: &Group, run: &Run) -> Step {
        // Nothing is pledged yet, so a planned run never stands in the way of a failover.
        let gone = self.judgement(context, state, group).verdict == Verdict::Down;
        if gone || self.silent(context, group, run, &run.plan.from) {
            let why = format!("{} was lost while the switchover was prepared", run.plan.from);
            return Step::Go(vec![signal(group, run, Signal::StepFailed, &why)]);
        }
        let wanted = [Effect::Checkpoint { instance: run.plan.from.clone() }];
        let failed = |why: &str| Step::Go(vec![signal(group, run, Signal::StepFailed, why)]);
        let hooks = match self.prepare_errands(context, group, run) {
            Prepared::Begin(step) => return step,
            Prepared::Failed(why) => return failed(&why),
            Prepared::Wait => Step::Rest,
            Prepared::Done => Step::Go(vec![signal(group, run, Signal::StepsDone, "prepared")]),
        };
        match self.standing(run, &wanted) {
            Standing::Begin(steps) => Step::Go(vec![self.begin(group, run.id, steps)]),
            Standing::Running => Step::Rest,
            Standing::Done => hooks,
            Standing::Failed(why) => failed(&why),
        }
    }

    fn pledging(&mut self, context: &Context<'_>, state: &MeshState, group: &Group, run: &Run) -> Step {
        // Evaluated again right before the first freeze: a primary that turned out well keeps its place.
        if let Some(why) = self.second_thoughts(context, state, group, run) {
            return Step::Go(vec![signal(group, run, Signal::PrimaryReturned, &why)]);
        }
        if self.pledged(context) {
            let count = self.pledges.as_ref().map_or(0, |(_, c)| c.pledges(context.now).len());
            let detail = format!("{count} of {} voters pledged", state.electorate.everyone().len());
            return Step::Go(vec![signal(group, run, Signal::PledgedByMajority, &detail)]);
        }
        Step::Rest
    }

    /// Why a failover that mesh began by itself should not go on, if so.
    fn second_thoughts(
        &self,
        context: &Context<'_>,
        state: &MeshState,
        group: &Group,
        run: &Run,
    ) -> Option<String> {
        let own_idea = run.plan.kind == RunKind::Failover && run.plan.actor == Actor::Mesh;
        if !own_idea || run.promotion.is_some() {
            return None;
        }
        let judgement = self.judgement(context, state, group);
        match judgement.verdict {
            Verdict::Healthy | Verdict::UnreachableButStreaming => {
                Some(format!("the primary turned out well: {}", judgement.summary))
            }
            Verdict::Suspect
            | Verdict::Isolated
            | Verdict::Down
            | Verdict::DownNoCandidate
            | Verdict::Blind
            | Verdict::Unfounded => None,
        }
    }

    /// The judgement on the primary, with the threshold that the best candidate's site calls for.
    pub(super) fn judgement(&self, context: &Context<'_>, state: &MeshState, group: &Group) -> Judgement {
        let home = group.primary.as_ref().and_then(|p| group.instance(&p.instance)).map(|i| &i.site);
        let standings = assess(context.now, group, context.heard, context.waived(false, false));
        let best = standings.iter().find(|s| s.rejected.is_none());
        let leaving = best.is_none_or(|s| Some(&s.site) != home);
        verdict::judge_without(context.mutants, context.now, state, group, context.heard, leaving)
    }

    fn promoting(&mut self, context: &Context<'_>, group: &Group, run: &Run) -> Step {
        // A candidate that returned after it was given up needs a new lease number first.
        if group.takeover.is_some() {
            return match self.grant_again(context, group, run, "the candidate returned") {
                Step::Rest if self.never_again(context, group, run) => self.promotion_failed(
                    group,
                    run,
                    "the candidate was lost again before it got a new lease",
                ),
                step @ (Step::Go(_) | Step::GoAndWait(_) | Step::Rest) => step,
            };
        }
        let (Some(primary), Some(lease)) = (&group.primary, group.lease()) else { return Step::Rest };
        let wanted = [Effect::Promote {
            instance: primary.instance.clone(),
            term: lease.term,
            data: primary.data.clone(),
        }];
        match self.standing(run, &wanted) {
            Standing::Begin(steps) => Step::Go(vec![self.begin(group, run.id, steps)]),
            Standing::Running if self.silent(context, group, run, &primary.instance) => {
                let why = format!("{} fell silent while it was promoted", primary.instance);
                self.promotion_failed(group, run, &why)
            }
            Standing::Running if another_life(context, group) => {
                let why = format!("{} came back with another life of guard or data", primary.instance);
                self.promotion_failed(group, run, &why)
            }
            Standing::Running => Step::Rest,
            Standing::Done => leave(group, run, "the new primary accepts writes"),
            Standing::Failed(why) => self.promotion_failed(group, run, &why),
        }
    }

    fn promotion_failed(&self, group: &Group, run: &Run, why: &str) -> Step {
        if run.takeovers >= TAKEOVERS_MAX {
            return Step::Go(vec![stuck(group, run, StuckCause::PromotionFailed, why)]);
        }
        Step::Go(vec![signal(group, run, Signal::StepFailed, why)])
    }

    fn route_phase(
        &mut self,
        context: &Context<'_>,
        group: &Group,
        run: &Run,
        wanted: &[Effect],
        cause: StuckCause,
    ) -> Step {
        if let Some(step) = self.errands_beside(context, group, run) {
            return step;
        }
        let failed = |why: &str| {
            Step::Go(vec![Command::Signalled {
                group: group.spec.group.clone(),
                run: run.id,
                signal: Signal::StepFailed,
                detail: why.to_owned(),
                cause: Some(cause),
            }])
        };
        match self.standing(run, wanted) {
            Standing::Begin(steps) => {
                let steps = steps
                    .into_iter()
                    .filter(|s| s.attempt == 1 || !self.recently(context, run))
                    .collect::<Vec<_>>();
                if steps.is_empty() { Step::Rest } else { Step::Go(vec![self.begin(group, run.id, steps)]) }
            }
            Standing::Running if self.in_phase(context, run) > ROUTES_DEADLINE => {
                failed("not done within 10 s")
            }
            Standing::Running => Step::Rest,
            Standing::Done => {
                let routing = run.phase == Phase::Routing;
                if routing {
                    return Step::Go(vec![signal(group, run, Signal::StepsDone, "every route leads there")]);
                }
                leave(group, run, "a write came through each route")
            }
            Standing::Failed(why) => failed(&why),
        }
    }

    /// Whether the phase is so young that a failed step should not be repeated yet.
    fn recently(&self, context: &Context<'_>, run: &Run) -> bool {
        self.in_phase(context, run) < super::RESEND
    }

    fn reopening(&mut self, context: &Context<'_>, group: &Group, run: &Run) -> Step {
        let failed = |why: &str| {
            if run.takeovers >= TAKEOVERS_MAX {
                return Step::Go(vec![stuck(group, run, StuckCause::ReopenFailed, why)]);
            }
            Step::Go(vec![signal(group, run, Signal::StepFailed, why)])
        };
        if group.takeover.is_some() {
            if has_forgotten(context, group) {
                return failed("the primary's process is gone, and a standby has what it had in memory");
            }
            return match self.grant_again(context, group, run, "the run ends without a change of primary") {
                Step::Rest if self.never_again(context, group, run) => {
                    failed("the primary was lost again before it got a new lease")
                }
                step @ (Step::Go(_) | Step::GoAndWait(_) | Step::Rest) => step,
            };
        }
        let (Some(primary), Some(lease)) = (&group.primary, group.lease()) else { return Step::Rest };
        let wanted = [Effect::Promote {
            instance: primary.instance.clone(),
            term: lease.term,
            data: primary.data.clone(),
        }];
        match self.standing(run, &wanted) {
            Standing::Begin(steps) => Step::Go(vec![self.begin(group, run.id, steps)]),
            Standing::Running if self.silent(context, group, run, &primary.instance) => {
                failed("the primary fell silent")
            }
            Standing::Running if another_life(context, group) => {
                failed("the primary came back with another life of guard or data")
            }
            Standing::Running if self.restart_overdue(context, group, run) => failed(
                "the primary did not come up within crash_restart_seconds, and a standby can be promoted",
            ),
            Standing::Running => Step::Rest,
            Standing::Done => {
                Step::Go(vec![signal(group, run, Signal::StepsDone, "the primary serves again")])
            }
            Standing::Failed(why) => failed(&why),
        }
    }

    /// Whether a guard has not been heard for so long, in this phase too, that it is not waited for any longer.
    fn silent(&self, context: &Context<'_>, group: &Group, run: &Run, instance: &InstanceName) -> bool {
        let patience = group.timing.lease.plus(group.timing.leave_site_after);
        let heard = context.heard.guard(&group.spec.group, instance);
        self.in_phase(context, run) > patience && heard.is_none_or(|guard| guard.age(context.now) > patience)
    }

    /// Whether a primary that was to get a new lease does not come for it: it fell silent, or its data is not the
    /// epoch's any more, or the proof that another life of its guard needs takes longer than the proof can take.
    fn never_again(&self, context: &Context<'_>, group: &Group, run: &Run) -> bool {
        let Some(primary) = &group.primary else { return false };
        let longest = CLOCK_BOUNDS.stretch(group.timing.lease).plus(group.largest_fence).times(3);
        self.silent(context, group, run, &primary.instance) || self.in_phase(context, run) > longest
    }

    /// The exit of an open takeover (PROTOCOL, Taking over 6): the same instance under the next lease number.
    pub(super) fn grant_again(&self, context: &Context<'_>, group: &Group, run: &Run, reason: &str) -> Step {
        let (Some(primary), Some(lease)) = (&group.primary, group.lease()) else { return Step::Rest };
        let fresh = group.timing.fresh;
        let Some(status) =
            context.heard.fresh_guard(context.now, &group.spec.group, &primary.instance, fresh)
        else {
            return Step::Rest;
        };
        let mut proof = None;
        if status.guard != lease.guard {
            // Another life of the guard: the old life's lease must be over first.
            match self.proof(context, group, run) {
                Some(found) => proof = Some(found),
                None => return Step::Rest,
            }
        }
        if status.data.as_ref() != Some(&primary.data) {
            return Step::Rest;
        }
        Step::Go(vec![Command::LeaseGranted {
            group: group.spec.group.clone(),
            instance: primary.instance.clone(),
            replaces: lease.term,
            data: primary.data.clone(),
            guard: status.guard.clone(),
            proof,
            reason: reason.to_owned(),
        }])
    }

    /// Whether the primary whose lease is being ended could open again under a new lease number: its guard answers,
    /// its data is the epoch's, and it is not hung.
    pub(super) fn primary_may_reopen(&self, context: &Context<'_>, group: &Group) -> bool {
        use mesh_proto::evidence::ProcessState;
        let Some(primary) = &group.primary else { return false };
        let fresh = group.timing.fresh;
        context.heard.fresh_guard(context.now, &group.spec.group, &primary.instance, fresh).is_some_and(
            |status| {
                let usable = match status.process {
                    ProcessState::Primary
                    | ProcessState::Standby
                    | ProcessState::Stopped
                    | ProcessState::Died => true,
                    ProcessState::Starting | ProcessState::Unresponsive | ProcessState::Unknown => false,
                };
                usable && status.data.as_ref() == Some(&primary.data) && status.trouble.is_none()
            },
        ) && !has_forgotten(context, group)
    }

    /// What proves that the lease being ended was ended, by its guard or from outside.
    pub(super) fn ended(&self, context: &Context<'_>, group: &Group, run: &Run) -> Option<Proof> {
        if let Some(receipt) = self.receipt(context, group, run) {
            return Some(Proof::Receipt(receipt));
        }
        let lease = group.leases.get(&run.ending_instance)?;
        fencers::proof(run, &run.ending_instance, lease.term).map(Proof::External)
    }

    /// What proves that the lease being ended is over, if anything does.
    pub(super) fn proof(&self, context: &Context<'_>, group: &Group, run: &Run) -> Option<Proof> {
        if let Some(proof) = self.ended(context, group, run) {
            return Some(proof);
        }
        let lease = group.leases.get(&run.ending_instance)?;
        let (term, collector) = self.pledges.as_ref()?;
        if *term != lease.term || group.pause.is_some() {
            return None;
        }
        let mut expiry = collector.expiry(context.now)?;
        if context.mutants.has(Mutant::NoFenceBudget) {
            // A build without the rule would not ask for it in apply either.
            expiry.waited = expiry.waited.plus(group.largest_fence);
        }
        Some(Proof::Expired(expiry))
    }
}

/// Whether the primary's guard says that it is another life, or guards another life of the data, than the lease was
/// granted to: that lease will never be acquired.
fn another_life(context: &Context<'_>, group: &Group) -> bool {
    let (Some(primary), Some(lease)) = (&group.primary, group.lease()) else { return false };
    let heard =
        context.heard.fresh_guard(context.now, &group.spec.group, &primary.instance, group.timing.fresh);
    heard.is_some_and(|status| {
        status.guard != lease.guard || status.data.as_ref().is_some_and(|data| *data != lease.data)
    })
}

fn routes(group: &Group, effect: impl Fn(mesh_proto::RouteName, InstanceName) -> Effect) -> Vec<Effect> {
    let Some(primary) = &group.primary else { return Vec::new() };
    group.spec.routes.iter().map(|route| effect(route.name.clone(), primary.instance.clone())).collect()
}

pub(super) fn signal(group: &Group, run: &Run, signal: Signal, detail: &str) -> Command {
    Command::Signalled {
        group: group.spec.group.clone(),
        run: run.id,
        signal,
        detail: detail.to_owned(),
        cause: None,
    }
}

pub(super) fn stuck(group: &Group, run: &Run, cause: StuckCause, detail: &str) -> Command {
    Command::Signalled {
        group: group.spec.group.clone(),
        run: run.id,
        signal: Signal::NoCandidate,
        detail: detail.to_owned(),
        cause: Some(cause),
    }
}
