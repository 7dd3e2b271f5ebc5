//! Between runs: verdicts, the decision to fail over, operators' requests, pauses and hold-downs.

use mesh_proto::command::{Command, ResumeProof, Verdict};
use mesh_proto::evidence::ProcessState;
use mesh_proto::lease::LeaseKey;
use mesh_proto::proposal::{Approved, PROPOSAL_LASTS, ProposalEnd};
use mesh_proto::run::{Actor, Plan, RunKind, Signal, StuckCause};
use mesh_proto::spec::Engine;
use mesh_proto::{Millis, RunId};

use super::decide::Step;
use super::phases::signal;
use super::{Context, Driver, Request};
use crate::lease::CLOCK_BOUNDS;
use crate::lease::takeover::Collector;
use crate::plan::{self, Wish, holds};
use crate::state::{Group, MeshState};
use crate::verdict::Judgement;

/// How long a lease must have been in force before the primary that was fenced under it opens again in place.
const OPEN_AGAIN_AFTER: Millis = Millis(2_000);
/// How long a non-durable round counts before it is repeated.
const WILLING_LASTS: Millis = Millis(1_000);

impl Driver {
    pub(super) fn idle(&mut self, context: &Context<'_>, state: &MeshState, group: &Group) -> Step {
        if group.primary.is_none() {
            return Step::Rest;
        }
        if let Some(step) = self.pause_and_hold_down(context, group) {
            return step;
        }
        let judgement = self.judgement(context, state, group);
        let down = judgement.verdict == Verdict::Down;
        if judgement.verdict == Verdict::Healthy {
            self.healthy = Some(context.now);
        }
        if down && let Some(step) = self.consider_failover(context, state, group, &judgement) {
            return step;
        }
        if !down {
            self.willing = None;
        }
        if let Some(step) = self.record_verdict(context, state, group, judgement) {
            return step;
        }
        if group.pause.is_none() && !down {
            return self.repair(context, group);
        }
        Step::Rest
    }

    fn consider_failover(
        &mut self,
        context: &Context<'_>,
        state: &MeshState,
        group: &Group,
        judgement: &Judgement,
    ) -> Option<Step> {
        if group.blocked().is_some() || context.heard.rival(context.now, &group.spec.group).is_some() {
            self.willing = None;
            return if group.pause.is_none() { self.open_in_place(context, group) } else { None };
        }
        let wish = Wish {
            kind: RunKind::Failover,
            site: None,
            instance: None,
            actor: Actor::Mesh,
            reason: judgement.summary.clone(),
            accept_lag: false,
            accept_loss: false,
            lost_for: self.healthy.map(|at| context.now.since(at)),
        };
        let plan = plan::make(context.now, group, context.heard, &wish)?;
        // Nobody to promote: only worth a takeover if the primary itself could open again under a new lease.
        if plan.candidates.is_empty() && !self.primary_may_reopen(context, group) {
            self.willing = None;
            return None;
        }
        let findings = plan::check(context.now, group, context.heard, &plan);
        if findings.iter().any(|f| f != "no standby can be promoted") {
            return None;
        }
        if !self.willing_majority(context, state, group) {
            return None;
        }
        let name = group.spec.group.clone();
        Some(Step::GoAndWait(vec![
            Command::VerdictChanged { group: name, verdict: judgement.record(None) },
            Command::RunOpened { plan },
        ]))
    }

    /// What a hold-down, or `automatic = false`, forbids is another primary. The same one, fenced by its own guard (it crashed,
    /// or lost the majority for longer than its lease), may open again: same life of guard and data, the next number.
    fn open_in_place(&self, context: &Context<'_>, group: &Group) -> Option<Step> {
        let (primary, lease) = (group.primary.as_ref()?, group.lease()?);
        let fresh = group.timing.fresh;
        let status = context.heard.fresh_guard(context.now, &group.spec.group, &primary.instance, fresh)?;
        let same = status.guard == lease.guard && status.data.as_ref() == Some(&primary.data);
        let fenced = status.receipt.as_ref().is_some_and(|receipt| receipt.term == lease.term);
        let down = matches!(status.process, ProcessState::Stopped | ProcessState::Died);
        // One that crashes at every start is not started as fast as it can crash.
        let rested = self.lease_seen.is_some_and(|(_, since)| context.now.since(since) >= OPEN_AGAIN_AFTER);
        let free = group.takeover.is_none() && group.active_run().is_none();
        (same && fenced && down && rested && free && !has_forgotten(context, group)).then(|| {
            Step::Go(vec![Command::LeaseGranted {
                group: group.spec.group.clone(),
                instance: primary.instance.clone(),
                replaces: lease.term,
                data: primary.data.clone(),
                guard: lease.guard.clone(),
                proof: None,
                reason: "its guard has fenced it, and no other may be promoted now: it opens again"
                    .to_owned(),
            }])
        })
    }

    /// PROTOCOL, Taking over 2: a majority reachable and willing, or nothing is poisoned.
    fn willing_majority(&mut self, context: &Context<'_>, state: &MeshState, group: &Group) -> bool {
        let (Some(primary), Some(lease)) = (&group.primary, group.lease()) else { return false };
        let stale = self
            .willing
            .as_ref()
            .is_none_or(|(term, _, since)| *term != lease.term || context.now.since(*since) > WILLING_LASTS);
        if stale {
            let key = LeaseKey { group: group.spec.group.clone(), instance: primary.instance.clone() };
            let collector = Collector::new(
                key,
                lease.term,
                RunId(0),
                context.raft_term,
                state.electorate.clone(),
                group.largest_fence,
                CLOCK_BOUNDS,
            );
            self.willing = Some((lease.term, collector, context.now));
        }
        self.willing.as_ref().is_some_and(|(_, collector, _)| collector.willing())
    }

    /// Records a changed verdict once it has lasted for two probe intervals.
    fn record_verdict(
        &mut self,
        context: &Context<'_>,
        state: &MeshState,
        group: &Group,
        judgement: Judgement,
    ) -> Option<Step> {
        let _ = state;
        // A new leader has heard nobody yet: it says nothing before everybody had the time to report.
        if context.now.since(context.since) < group.timing.fresh {
            return None;
        }
        let mut judgement = judgement;
        let mut blocked = None;
        if judgement.verdict == Verdict::Down {
            blocked = group.blocked().or_else(|| context.heard.rival(context.now, &group.spec.group));
            if blocked.is_none() {
                let standings = plan::assess(context.now, group, context.heard, context.waived(false, false));
                if standings.iter().all(|s| s.rejected.is_some()) {
                    judgement.verdict = Verdict::DownNoCandidate;
                    let why: Vec<_> = standings
                        .iter()
                        .filter_map(|s| s.rejected.as_ref().map(|why| format!("{} {why}", s.instance)))
                        .collect();
                    blocked = Some(format!("no standby can be promoted: {}", why.join("; ")));
                } else {
                    blocked = Some("waiting for a majority of voters that is willing".to_owned());
                }
            }
        }
        // "Healthy" is said of one primary in one epoch: after a planned change it is said again, of the new one.
        let same = judgement.verdict == group.verdict.verdict
            && (judgement.verdict != Verdict::Healthy || judgement.summary == group.verdict.summary);
        if same && blocked == group.verdict.blocked {
            self.verdict = None;
            return None;
        }
        let since = match self.verdict {
            Some((verdict, since)) if verdict == judgement.verdict => since,
            Some(_) | None => {
                self.verdict = Some((judgement.verdict, context.now));
                context.now
            }
        };
        if context.now.since(since) < group.timing.probe.times(2) {
            return None;
        }
        self.verdict = None;
        let name = group.spec.group.clone();
        Some(Step::Go(vec![Command::VerdictChanged { group: name, verdict: judgement.record(blocked) }]))
    }

    fn pause_and_hold_down(&mut self, context: &Context<'_>, group: &Group) -> Option<Step> {
        let name = || group.spec.group.clone();
        if let (Some(_), Some((_, since))) = (group.hold_down, self.hold_down)
            && context.now.since(since) >= Millis(group.spec.hold_down_seconds.saturating_mul(1_000))
        {
            return Some(Step::Go(vec![Command::Acknowledged { group: name() }]));
        }
        let (Some(pause), Some((_, since))) = (&group.pause, self.pause) else { return None };
        let ended = |how| Some(Step::Go(vec![Command::Resumed { group: name(), pause: pause.id, how }]));
        // The guard holds a lease that it acquired after the pause began.
        if let Some(lease) = group.lease()
            && lease.term.lease_no > pause.lease_no
            && let Some(primary) = &group.primary
            && context
                .heard
                .fresh_guard(context.now, &name(), &primary.instance, group.timing.fresh)
                .is_some_and(|status| holds(status, lease.term))
        {
            return ended(ResumeProof::HoldsLease(lease.term.lease_no));
        }
        let whole = CLOCK_BOUNDS.stretch(pause.length.plus(group.timing.lease)).plus(group.largest_fence);
        if context.now.since(since) >= whole {
            return ended(ResumeProof::Waited(whole));
        }
        None
    }

    /// What operators asked for. A request that cannot be carried out any more is dropped: the asking command follows
    /// the state and sees it.
    pub(super) fn take_requests(
        &mut self,
        context: &Context<'_>,
        state: &MeshState,
        group: &Group,
    ) -> Option<(Step, Actor)> {
        let _ = state;
        while let Some(request) = self.requests.first().cloned() {
            let step = match &request {
                Request::Run(wish) => plan_for(context, group, wish)
                    .map(|plan| Step::GoAndWait(vec![Command::RunOpened { plan }])),
                Request::Approved(proposal, _, wish) => plan_for(context, group, wish).map(|plan| {
                    let (group, opens) = (group.spec.group.clone(), Approved::Run(Box::new(plan)));
                    Step::GoAndWait(vec![Command::RunApproved { group, proposal: *proposal, opens }])
                }),
                Request::Resume => self.resume_step(context, group),
                Request::Abort(run, why) => signal_for(group, *run, Signal::OperatorAbort, why),
                Request::Retry(run, why) => {
                    let kind = match group.active_run().and_then(|run| run.stuck.as_ref()) {
                        Some((StuckCause::ErrandFailed, _)) => Signal::RetryErrands,
                        _ if group.free_for_a_run() => Signal::RetryRoutes,
                        _ => Signal::Retry,
                    };
                    signal_for(group, *run, kind, why)
                }
                Request::Rejoin(instance) => {
                    if let Some(backoff) = self.backoff.get_mut(&format!("instance {instance}")) {
                        backoff.until = context.now;
                    }
                    None
                }
            };
            self.requests.remove(0);
            if let Some(step) = step {
                let actor = match request {
                    Request::Run(wish) => wish.actor,
                    Request::Approved(_, by, _) => by,
                    Request::Resume | Request::Abort(..) | Request::Retry(..) | Request::Rejoin(_) => {
                        Actor::Mesh
                    }
                };
                return Some((step, actor));
            }
        }
        None
    }

    /// A proposal that nobody approved in time, counted from when this leader saw it first.
    pub(super) fn proposal_over(&self, context: &Context<'_>, group: &Group) -> Option<Command> {
        let (proposal, since) = self.proposal?;
        let open = group.proposal.as_ref().filter(|open| open.id == proposal)?;
        let group = group.spec.group.clone();
        (context.now.since(since) >= PROPOSAL_LASTS).then_some(Command::ProposalEnded {
            group,
            proposal: open.id,
            how: ProposalEnd::Expired,
        })
    }

    /// A pause ends once the guard holds a fresh lease number: grant one.
    fn resume_step(&self, context: &Context<'_>, group: &Group) -> Option<Step> {
        let pause = group.pause.as_ref()?;
        let name = group.spec.group.clone();
        let (Some(primary), Some(lease)) = (&group.primary, group.lease()) else {
            let how = ResumeProof::NothingHeld;
            return Some(Step::Go(vec![Command::Resumed { group: name, pause: pause.id, how }]));
        };
        if lease.term.lease_no > pause.lease_no {
            return None;
        }
        let status = context.heard.fresh_guard(context.now, &name, &primary.instance, group.timing.fresh)?;
        if status.guard != lease.guard {
            return None;
        }
        if has_forgotten(context, group) {
            // Its lease ends with the pause, not the other way round: what follows is an ordinary failover.
            let receipt = status.receipt.clone().filter(|receipt| receipt.term == lease.term)?;
            let how = ResumeProof::Fenced(Box::new(receipt));
            return Some(Step::Go(vec![Command::Resumed { group: name, pause: pause.id, how }]));
        }
        Some(Step::Go(vec![Command::LeaseGranted {
            group: name,
            instance: primary.instance.clone(),
            replaces: lease.term,
            data: primary.data.clone(),
            guard: lease.guard.clone(),
            proof: None,
            reason: "the pause ends".to_owned(),
        }]))
    }
}

/// Whether the primary lost with its process what a standby still has: a Redis keeps in its memory what it has not saved, and
/// would lead its replicas to take over the little that it starts with. However far behind such a replica may be.
pub(super) fn has_forgotten(context: &Context<'_>, group: &Group) -> bool {
    match group.spec.engine {
        Engine::Postgres => return false,
        Engine::Redis => {}
    }
    let Some(primary) = &group.primary else { return false };
    let fresh = group.timing.fresh;
    let runs_no_more = context
        .heard
        .fresh_guard(context.now, &group.spec.group, &primary.instance, fresh)
        .is_some_and(|status| matches!(status.process, ProcessState::Stopped | ProcessState::Died));
    let waived = plan::Waived { lag: true, loss: true };
    runs_no_more
        && plan::assess(context.now, group, context.heard, waived).iter().any(|s| s.rejected.is_none())
}

/// A plan for what was asked for, if nothing speaks against executing it now.
fn plan_for(context: &Context<'_>, group: &Group, wish: &Wish) -> Option<Plan> {
    let plan = plan::make(context.now, group, context.heard, wish)?;
    plan::check(context.now, group, context.heard, &plan).is_empty().then_some(plan)
}

fn signal_for(group: &Group, run: mesh_proto::RunId, kind: Signal, why: &str) -> Option<Step> {
    let run = group.active_run().filter(|active| active.id == run)?;
    Some(Step::Go(vec![signal(group, run, kind, why)]))
}
