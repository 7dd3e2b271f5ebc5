//! Runs in the replicated state: opened, stepped, signalled, promoted; and repairs beside them.

use std::collections::BTreeSet;

use mesh_proto::command::{Refused, StepIntent};
use mesh_proto::effect::{Effect, Finding, Outcome, Refusal, Target};
use mesh_proto::evidence::Position;
use mesh_proto::lease::{Electorate, LeaseKey, LeaseTerm, Proof};
use mesh_proto::quorum::{DurabilityProof, QuorumMember};
use mesh_proto::run::{Actor, Phase, Plan, Promotion, Run, RunKind, Signal, Step, StuckCause};
use mesh_proto::{DataIncarnation, Epoch, ErrandName, Generation, GuardIncarnation, InstanceName, RunId};

use super::apply::{Stamp, compare, conflict, unknown};
use super::proposals::two_needed;
use super::{Group, HISTORY, Led, Primary, Repair, Takeover};
use crate::errands;
use crate::run::{Facts, Next, first, forbidden, next};

/// What a promotion entry names.
pub(super) struct Wanted<'a> {
    pub ends: LeaseTerm,
    pub instance: &'a InstanceName,
    pub data: &'a DataIncarnation,
    pub guard: &'a GuardIncarnation,
    pub freeze: Generation,
    pub position: Position,
    pub proof: &'a Proof,
    pub durability: Option<&'a DurabilityProof>,
    pub standbys: &'a BTreeSet<QuorumMember>,
}

/// Routes are tried again from the beginning: what was done before need not be so any more (a proxy restarted, say).
fn routes_again(run: &mut Run) {
    let of_routes = |step: &&mut Step| matches!(step.effect, Effect::Route { .. } | Effect::Prove { .. });
    for step in run.steps.values_mut().filter(of_routes) {
        step.outcome = Some(Outcome::Refused { code: Refusal::NotSo, detail: "to be done again".to_owned() });
    }
}

/// The services and hooks that a run is stuck with are tried again; one whose failure was only worth a warning is not.
fn errands_again(run: &mut Run) {
    let plan = &run.plan;
    for step in run.steps.values_mut() {
        let waits = errands::of_step(plan, &step.effect)
            .is_some_and(|errand| errand.on_failure != mesh_proto::spec::OnFailure::Warn);
        if waits && errands::standing(Some(step)) == errands::Standing::Failed {
            step.outcome =
                Some(Outcome::Refused { code: Refusal::NotSo, detail: "to be done again".to_owned() });
        }
    }
}

/// Whether the run's new primary serves, so that only routes and errands are left to do.
pub(super) fn serves(run: &Run) -> bool {
    match run.phase {
        Phase::Staging | Phase::Routing | Phase::Proving | Phase::Finishing | Phase::Done => true,
        Phase::Stuck => matches!(
            run.stuck,
            Some((StuckCause::RouteFailed | StuckCause::ProofFailed | StuckCause::ErrandFailed, _))
        ),
        Phase::Preparing
        | Phase::Pledging
        | Phase::Fencing
        | Phase::Promoting
        | Phase::Reopening
        | Phase::Aborted => false,
    }
}

/// Whether the run is stuck because nobody could be promoted, or opened again.
#[must_use]
pub fn wants_a_primary(run: &Run) -> bool {
    run.phase == Phase::Stuck
        && run.stuck.as_ref().is_some_and(|(cause, _)| match cause {
            StuckCause::NoCandidate | StuckCause::PromotionFailed | StuckCause::ReopenFailed => true,
            StuckCause::RouteFailed | StuckCause::ProofFailed | StuckCause::ErrandFailed => false,
            StuckCause::FencerFailed => true,
        })
}

/// Whether routes are led and proved, so that only services and hooks are left to do.
pub(super) fn errands_only(run: &Run) -> bool {
    match (run.phase, &run.stuck) {
        (Phase::Stuck, Some((cause, _))) => *cause == StuckCause::ErrandFailed,
        (Phase::Finishing, _) => true,
        (
            Phase::Stuck
            | Phase::Preparing
            | Phase::Pledging
            | Phase::Fencing
            | Phase::Promoting
            | Phase::Staging
            | Phase::Routing
            | Phase::Proving
            | Phase::Reopening
            | Phase::Done
            | Phase::Aborted,
            _,
        ) => false,
    }
}

impl Group {
    /// Plans a run and, for a failover, opens its takeover in the same entry: before the first durable pledge
    /// (PROTOCOL, Taking over 3). Committing the plan is a compare-and-set on its parent.
    pub(super) fn open_run(&mut self, stamp: Stamp, plan: &Plan) -> Result<(), Refused> {
        if self.plan_takes_two(plan) {
            return Err(two_needed());
        }
        self.begin_run(stamp, plan)
    }

    /// The same, of a plan that as many persons have approved as it takes.
    pub(super) fn begin_run(&mut self, stamp: Stamp, plan: &Plan) -> Result<(), Refused> {
        let Some(primary) = &self.primary else {
            return Err(Refused::Forbidden("the group has no primary yet; use `mesh adopt`".to_owned()));
        };
        if !self.free_for_a_run() {
            return Err(Refused::Forbidden("another run is going on".to_owned()));
        }
        if let Some(pause) = &self.pause {
            return Err(Refused::Forbidden(format!("the group is paused: {}", pause.reason)));
        }
        let current = self.lease().map(|lease| lease.term).unwrap_or_default();
        compare("the lease to end", &plan.parent, &current)?;
        compare("the primary", &plan.from.as_str(), &primary.instance.as_str())?;
        if let Some(old) = self.run.take() {
            self.history.push(old);
            if self.history.len() > HISTORY {
                self.history.remove(0);
            }
        }
        let mut run = Run {
            id: RunId(stamp.index),
            plan: plan.clone(),
            phase: first(plan.kind),
            ending: plan.parent,
            ending_instance: plan.from.clone(),
            steps: std::collections::BTreeMap::new(),
            promotion: None,
            stuck: None,
            entered: Vec::new(),
            takeovers: 0,
        };
        run.entered.push((run.phase, stamp.at));
        let phase = run.phase;
        self.run = Some(run);
        self.entering(phase);
        Ok(())
    }

    /// What entering a phase does to the rest of the group.
    fn entering(&mut self, phase: Phase) {
        let Some(run) = self.run.as_mut() else { return };
        match phase {
            Phase::Pledging => {
                // The lease to end is the current primary's: the plan's at first, a failed candidate's afterwards.
                let Some(primary) = &self.primary else { return };
                let Some(lease) = self.leases.get(&primary.instance) else { return };
                run.ending = lease.term;
                run.ending_instance = primary.instance.clone();
                run.takeovers += 1;
                run.stuck = None;
                self.generation = self.generation.next();
                self.takeover = Some(Takeover {
                    key: LeaseKey { group: self.spec.group.clone(), instance: primary.instance.clone() },
                    term: lease.term,
                    run: run.id,
                });
            }
            Phase::Done => {
                run.stuck = None;
                if run.plan.actor == Actor::Mesh && run.plan.kind == RunKind::Failover {
                    self.hold_down = Some(run.id);
                }
            }
            Phase::Preparing
            | Phase::Fencing
            | Phase::Promoting
            | Phase::Staging
            | Phase::Routing
            | Phase::Proving
            | Phase::Finishing
            | Phase::Reopening
            | Phase::Aborted => run.stuck = None,
            Phase::Stuck => {}
        }
    }

    pub(super) fn run_mut(&mut self, id: RunId) -> Result<&mut Run, Refused> {
        match self.run.as_mut() {
            Some(run) if run.id == id && !run.phase.is_final() => Ok(run),
            Some(run) if run.id == id => Err(Refused::Forbidden(format!("run {id} is {}", run.phase))),
            Some(_) | None => Err(unknown("running run", &id.to_string())),
        }
    }

    /// The intent: committed before the call.
    pub(super) fn start_steps(
        &mut self,
        stamp: Stamp,
        id: RunId,
        steps: &[StepIntent],
    ) -> Result<(), Refused> {
        let epoch = self.epoch;
        let run = self.run_mut(id)?;
        for intent in steps {
            match run.steps.get_mut(&intent.step) {
                None => {
                    compare("the attempt", &intent.attempt, &1)?;
                    let step = Step {
                        effect: intent.effect.clone(),
                        phase: run.phase,
                        epoch,
                        attempts: 1,
                        outcome: None,
                        began: stamp.at,
                        ended: None,
                    };
                    run.steps.insert(intent.step, step);
                }
                Some(step) => {
                    if step.effect != intent.effect {
                        return Err(conflict("the effect of the step", &step.effect, &intent.effect));
                    }
                    compare("the attempt", &intent.attempt, &(step.attempts + 1))?;
                    if matches!(step.outcome, Some(Outcome::Done(_))) {
                        return Err(Refused::Forbidden(format!("step {} is done", intent.step)));
                    }
                    // An entry that was late may have begun it in a phase in which it is never sent.
                    step.phase = run.phase;
                    step.epoch = epoch;
                    step.attempts = intent.attempt;
                    step.outcome = None;
                    step.ended = None;
                }
            }
        }
        Ok(())
    }

    /// The result.
    pub(super) fn end_step(
        &mut self,
        stamp: Stamp,
        id: RunId,
        number: u32,
        attempt: u32,
        outcome: &Outcome,
    ) -> Result<(), Refused> {
        let run = self.run_mut(id)?;
        let step = run.steps.get_mut(&number).ok_or_else(|| unknown("step", &number.to_string()))?;
        compare("the attempt", &attempt, &step.attempts)?;
        if matches!(step.outcome, Some(Outcome::Done(_))) {
            return Err(Refused::Forbidden(format!("step {number} is done")));
        }
        step.outcome = Some(outcome.clone());
        step.ended = Some(stamp.at);
        let (effect, epoch) = (step.effect.clone(), step.epoch);
        self.note_done(&effect, epoch, outcome);
        Ok(())
    }

    /// What a done effect changes in the group beside its run.
    fn note_done(&mut self, effect: &Effect, epoch: Epoch, outcome: &Outcome) {
        if let (
            Effect::Route { route, instance },
            Outcome::Done(Finding::Routed { .. } | Finding::Named { .. }),
        ) = (effect, outcome)
            && self.routes.get(route).is_none_or(|led| led.epoch <= epoch)
        {
            self.routes.insert(route.clone(), Led { instance: instance.clone(), epoch });
        }
    }

    pub(super) fn signal(
        &mut self,
        stamp: Stamp,
        id: RunId,
        signal: Signal,
        detail: &str,
        cause: Option<StuckCause>,
    ) -> Result<(), Refused> {
        let run = self.run_mut(id)?;
        let facts = Facts {
            promoted: run.promotion.is_some(),
            serves: serves(run),
            errands_only: run.phase == Phase::Stuck && errands_only(run),
        };
        if let Some(why) = forbidden(signal, facts) {
            return Err(Refused::Forbidden(why.to_owned()));
        }
        match next(run.phase, signal) {
            Next::Stay => Ok(()),
            Next::Impossible => {
                Err(Refused::Forbidden(format!("{signal} cannot come while run {id} is {}", run.phase)))
            }
            Next::Enter(to) => {
                if to == Phase::Aborted && self.takeover.is_some() {
                    return Err(Refused::Forbidden(
                        "a takeover is open: the primary needs a new lease before the run may end".to_owned(),
                    ));
                }
                let run = self.run_mut(id)?;
                if signal == Signal::RetryRoutes {
                    routes_again(run);
                }
                if signal == Signal::RetryErrands {
                    errands_again(run);
                }
                if to == Phase::Stuck {
                    let Some(cause) = cause else {
                        return Err(Refused::Forbidden("a stuck run must name its cause".to_owned()));
                    };
                    run.stuck = Some((cause, detail.to_owned()));
                }
                run.phase = to;
                run.entered.push((to, stamp.at));
                self.entering(to);
                Ok(())
            }
        }
    }

    /// An operator has the run go on without a service or hook that failed.
    pub(super) fn skip_errand(
        &mut self,
        stamp: Stamp,
        id: RunId,
        name: &ErrandName,
        reason: &str,
    ) -> Result<(), Refused> {
        let run = self.run_mut(id)?;
        let own = |effect: &Effect| effect.target() == Target::Errand(name);
        if !run.plan.errands.iter().any(|errand| errand.name == *name) {
            return Err(unknown("service or hook of this run", name.as_str()));
        }
        let failed = |step: &&mut Step| {
            own(&step.effect) && errands::standing(Some(step)) == errands::Standing::Failed
        };
        let mut skipped = 0;
        for step in run.steps.values_mut().filter(failed) {
            step.outcome = Some(Outcome::Done(Finding::Skipped { reason: reason.to_owned() }));
            step.ended = Some(stamp.at);
            skipped += 1;
        }
        if skipped == 0 {
            let why = format!("{name} has not failed in run {id}: there is nothing to skip");
            return Err(Refused::Forbidden(why));
        }
        if run.phase == Phase::Stuck && errands_only(run) {
            return self.signal(stamp, id, Signal::ErrandSkipped, reason, None);
        }
        Ok(())
    }

    /// The decision (PROTOCOL, Taking over 7): a compare-and-set on the lease that ends, with the proof beside it.
    pub(super) fn promote(
        &mut self,
        stamp: Stamp,
        id: RunId,
        wanted: Wanted<'_>,
        electorate: &Electorate,
    ) -> Result<(), Refused> {
        let Some(takeover) = &self.takeover else {
            return Err(Refused::Forbidden(
                "no takeover is open: pledges come before a promotion".to_owned(),
            ));
        };
        compare("the takeover's run", &id, &takeover.run)?;
        compare("the takeover's lease", &wanted.ends, &takeover.term)?;
        let ending = takeover.key.instance.clone();
        let current = self.lease().map(|lease| lease.term).unwrap_or_default();
        compare("the lease to end", &wanted.ends, &current)?;
        compare("the generation of the freeze", &wanted.freeze, &self.generation)?;
        if *wanted.instance == ending {
            return Err(Refused::Forbidden(format!(
                "{ending} cannot succeed itself; it gets a new lease instead"
            )));
        }
        match self.instance(wanted.instance) {
            None => return Err(unknown("instance", wanted.instance.as_str())),
            Some(spec) if spec.priority == 0 => {
                return Err(Refused::Forbidden(format!(
                    "{} has priority 0 and is never promoted",
                    spec.name
                )));
            }
            Some(_) => {}
        }
        self.check_proof(&ending, wanted.ends, wanted.proof, electorate)?;
        self.check_fencer(wanted.proof)?;
        if let Some(why) = self.barred(wanted.instance, wanted.guard, Some(wanted.proof)) {
            return Err(Refused::Forbidden(why));
        }
        let chosen = QuorumMember { instance: wanted.instance.clone(), data: wanted.data.clone() };
        let accept_loss = self.run_mut(id)?.plan.accept_loss;
        self.check_durability(&chosen, wanted.proof, wanted.durability, accept_loss)?;
        self.signal(stamp, id, Signal::PromotionCommitted, "", None)?;

        self.supersede(Some(wanted.proof));
        self.epoch = self.epoch.next();
        self.generation = self.generation.next();
        self.takeover = None;
        self.primary = Some(Primary { instance: wanted.instance.clone(), data: wanted.data.clone() });
        let term = self.set_lease(stamp, wanted.instance, wanted.data, wanted.guard);
        self.branch_off(wanted.position.have);
        self.promote_quorum(wanted.standbys);
        let run = self.run_mut(id)?;
        run.promotion = Some(Promotion {
            instance: wanted.instance.clone(),
            data: wanted.data.clone(),
            guard: wanted.guard.clone(),
            term,
            position: wanted.position,
            proof: wanted.proof.clone(),
            durability: wanted.durability.cloned(),
        });
        Ok(())
    }

    pub(super) fn start_repair(
        &mut self,
        stamp: Stamp,
        effect: &Effect,
        epoch: Epoch,
    ) -> Result<(), Refused> {
        compare("the epoch", &epoch, &self.epoch)?;
        if !self.free_for_a_run() {
            return Err(Refused::Forbidden("a run is going on; repairs wait for it".to_owned()));
        }
        match effect.target() {
            Target::Instance(name) => {
                self.instance(name).ok_or_else(|| unknown("instance", name.as_str()))?;
            }
            Target::Route(name) => {
                if !self.spec.routes.iter().any(|route| route.name == *name) {
                    return Err(unknown("route", name.as_str()));
                }
            }
            Target::Fencer(name) => {
                return Err(Refused::Forbidden(format!("{name} turns a host off in runs alone")));
            }
            Target::Errand(name) => {
                return Err(Refused::Forbidden(format!("{name} is started, stopped or run by runs alone")));
            }
        }
        // A repair is named by its entry's index, so an entry has room for one.
        if self.repairs.iter().any(|repair| repair.id == stamp.index) {
            return Err(Refused::Forbidden("an entry can begin only one repair".to_owned()));
        }
        self.repairs.retain(|repair| repair.effect.target() != effect.target());
        self.repairs.push(Repair {
            id: stamp.index,
            effect: effect.clone(),
            epoch,
            outcome: None,
            at: stamp.at,
        });
        Ok(())
    }

    pub(super) fn end_repair(&mut self, id: u64, outcome: &Outcome) -> Result<(), Refused> {
        let Some(repair) = self.repairs.iter_mut().find(|repair| repair.id == id && repair.outcome.is_none())
        else {
            return Err(unknown("running repair", &id.to_string()));
        };
        repair.outcome = Some(outcome.clone());
        let (effect, epoch) = (repair.effect.clone(), repair.epoch);
        self.note_done(&effect, epoch, outcome);
        Ok(())
    }
}
