//! The fencing phase: a proof that the old primary cannot acknowledge any more, and a candidate whose position is final.
//! Both are gathered at the same time; the promotion is committed as soon as both are there.

use std::collections::BTreeSet;

use mesh_proto::command::Command;
use mesh_proto::effect::{Effect, Finding, Outcome, Refusal};
use mesh_proto::evidence::{GuardStatus, ProcessState};
use mesh_proto::lease::{Expiry, Proof, Receipt};
use mesh_proto::quorum::{DurabilityProof, QuorumMember};
use mesh_proto::run::{Run, RunKind, Signal, StuckCause};
use mesh_proto::{Epoch, Lsn, Millis};

use super::decide::Step;
use super::durability::{choose, handed_over, next_standbys};
use super::phases::{signal, stuck};
use super::steps::{Standing, find, finding};
use super::{Context, Driver};
use crate::fencers;
use crate::mutants::Mutant;
use crate::plan::candidates::{best, primary_position};
use crate::plan::{Candidate, assess, waived};
use crate::quorum;
use crate::state::{Group, MeshState};

/// How long after its own deadline a fencer's agent may take to say what came of it.
const FENCER_SLACK: Millis = Millis(3_000);

impl Driver {
    pub(super) fn fencing(
        &mut self,
        context: &Context<'_>,
        state: &MeshState,
        group: &Group,
        run: &Run,
    ) -> Step {
        let planned = run.plan.kind == RunKind::Switchover && run.takeovers == 1 && run.promotion.is_none();
        if planned {
            match self.hand_over(context, group, run) {
                HandOver::Step(step) => return step,
                // The old primary vanished in the middle: from here on it is a failover.
                HandOver::Lost => {}
            }
        }
        match self.restart_first(context, group, run) {
            Some(step) => step,
            None => self.fence_and_freeze(context, state, group, run),
        }
    }

    /// The receipt for the lease being ended, from a step's result or from the guard itself.
    pub(super) fn receipt(&self, context: &Context<'_>, group: &Group, run: &Run) -> Option<Receipt> {
        let lease = group.leases.get(&run.ending_instance)?;
        let fits = |receipt: &&Receipt| {
            receipt.term == lease.term
                && receipt.guard == lease.guard
                && receipt.data == lease.data
                && receipt.key.instance == run.ending_instance
        };
        let from_steps = run.steps.values().find_map(|step| match &step.outcome {
            Some(Outcome::Done(Finding::Fenced(receipt))) => Some(receipt).filter(fits),
            Some(Outcome::Done(_) | Outcome::Refused { .. } | Outcome::Unknown { .. }) | None => None,
        });
        let heard = || {
            context.heard.guard(&group.spec.group, &run.ending_instance)?.said.receipt.as_ref().filter(fits)
        };
        from_steps.or_else(heard).cloned()
    }

    fn hand_over(&mut self, context: &Context<'_>, group: &Group, run: &Run) -> HandOver {
        let stop = Effect::HandOver { instance: run.ending_instance.clone(), term: run.ending };
        let receipt = self.receipt(context, group, run);
        let shutdown_at = match (&receipt, find(run, &stop).map(|(_, step)| &step.outcome)) {
            (Some(receipt), _) => match receipt.shutdown_at {
                Some(at) => at,
                // Fenced, but not cleanly: where its WAL ends is not known.
                None => return HandOver::Lost,
            },
            (None, None) => return HandOver::Step(self.start(group, run, &[stop])),
            (None, Some(None)) => {
                // The lease cannot outlive the pledges; when it must be over, so is the hand-over.
                let over = self.in_phase(context, run) > group.timing.lease.plus(group.largest_fence);
                return if over { HandOver::Lost } else { HandOver::Step(Step::Rest) };
            }
            (None, Some(Some(Outcome::Refused { detail, .. }))) => {
                let why = format!("the hand-over was refused: {detail}");
                return HandOver::Step(Step::Go(vec![signal(group, run, Signal::PrimaryReturned, &why)]));
            }
            (None, Some(Some(Outcome::Done(_) | Outcome::Unknown { .. }))) => return HandOver::Lost,
        };
        HandOver::Step(self.confirm(context, group, run, shutdown_at, receipt))
    }

    /// The target must have everything up to the shutdown checkpoint; else the old primary opens again, nothing lost.
    fn confirm(
        &mut self,
        context: &Context<'_>,
        group: &Group,
        run: &Run,
        at: Lsn,
        receipt: Option<Receipt>,
    ) -> Step {
        let Some(target) = run.plan.candidates.first() else {
            return Step::Go(vec![signal(group, run, Signal::PrimaryReturned, "the plan has no candidate")]);
        };
        let wanted = [Effect::Confirm { instance: target.clone(), at }];
        // The old primary is down: nothing that the target lacks can still arrive, so asking again only costs time.
        if let Some(Outcome::Refused { code: Refusal::Failed | Refusal::NotApplicable, detail }) =
            find(run, &wanted[0]).and_then(|(_, step)| step.outcome.as_ref())
        {
            return Step::Go(vec![signal(group, run, Signal::PrimaryReturned, detail)]);
        }
        match self.standing(run, &wanted) {
            Standing::Begin(steps) => Step::Go(vec![self.begin(group, run.id, steps)]),
            Standing::Running if self.in_phase(context, run) > Millis(10_000) => {
                let why = format!("{target} did not confirm that it has everything");
                Step::Go(vec![signal(group, run, Signal::PrimaryReturned, &why)])
            }
            Standing::Running => Step::Rest,
            Standing::Failed(why) => Step::Go(vec![signal(group, run, Signal::PrimaryReturned, &why)]),
            Standing::Done => match (finding(run, &wanted[0]).and_then(|f| candidate(target, f)), receipt) {
                (Some(chosen), Some(receipt)) => {
                    let next = next_standbys(context, group, run, &[], &chosen, true);
                    let durability = handed_over(group, at);
                    Step::Go(vec![promotion(
                        group,
                        run,
                        &chosen,
                        Proof::Receipt(receipt),
                        (durability, next),
                    )])
                }
                (None, _) | (_, None) => {
                    let why = format!("{target} confirmed without saying where it stands");
                    Step::Go(vec![signal(group, run, Signal::PrimaryReturned, &why)])
                }
            },
        }
    }

    fn fence_and_freeze(
        &mut self,
        context: &Context<'_>,
        state: &MeshState,
        group: &Group,
        run: &Run,
    ) -> Step {
        // A new leader collects pledges again before it counts on them.
        let wanted = self.wanted(context, group, run);
        let missing: Vec<_> = wanted.iter().filter(|effect| find(run, effect).is_none()).cloned().collect();
        if !missing.is_empty() && self.pledged(context) {
            return self.start(group, run, &missing);
        }
        let frozen = frozen(context, group, run);
        let waiting = run.steps.values().any(|step| {
            matches!(&step.effect, Effect::Freeze { generation, .. } if *generation == group.generation)
                && step.outcome.is_none()
        });
        // A standby that does not answer its freeze must not hold up the others for longer than a fence may take.
        if waiting && self.in_phase(context, run) < group.timing.fence {
            return Step::Rest;
        }
        if !self.pledged(context) {
            return Step::Rest;
        }
        let reference = primary_position(group, context.heard);
        let standing: Vec<Candidate> = frozen
            .into_iter()
            // A lease for a life of guard or data that is over could never be acquired.
            .filter(|c| {
                context.heard.guard(&group.spec.group, &c.instance).is_some_and(|heard| {
                    heard.said.guard == c.guard && heard.said.data.as_ref().is_none_or(|data| *data == c.data)
                })
            })
            .map(|c| Candidate { line: self::line(context, group, &c), ..c })
            .collect();
        let ended = self.ended(context, group, run);
        let mut barred = Vec::new();
        let asked: Vec<_> = standing
            .iter()
            .filter(|c| match group.barred(&c.instance, &c.guard, ended.as_ref()) {
                Some(why) => {
                    barred.push((c.instance.clone(), why));
                    false
                }
                None => true,
            })
            .filter(|c| {
                run.plan
                    .site
                    .as_ref()
                    .is_none_or(|s| group.instance(&c.instance).is_some_and(|i| i.site == *s))
            })
            .cloned()
            .collect();
        let (chosen, rejected) = if quorum::asked(group) {
            choose(context, group, run, &standing, &asked)
        } else {
            let timeline = reference.map(|p| p.timeline);
            let (chosen, rejected) =
                best(group, &asked, timeline, reference.map(|p| p.have), run.plan.accept_lag);
            (chosen.map(|chosen| (chosen, None)), rejected)
        };
        let Some((chosen, durability)) = chosen else {
            let rejected: Vec<_> = rejected.into_iter().chain(barred).collect();
            return self.nobody(context, group, run, &rejected);
        };
        let nothing_missing = durability.is_some();
        let proof = if context.mutants.has(Mutant::PromoteWithoutWaiting) {
            Some(forged(state, run))
        } else {
            let frozen = || self.frozen_quorum(group, durability.as_ref());
            self.proof(context, group, run).or_else(frozen)
        };
        let proof = match proof {
            Some(Proof::Expired(_) | Proof::Frozen(_)) if fencers::demanded(&group.spec, run) => {
                return self.fencers_awaited(context, group, run);
            }
            proof => proof,
        };
        match proof {
            Some(proof) => {
                if !nothing_missing
                    && let Some(step) = self.instead_of_promoting(context, group, run, chosen, &proof)
                {
                    return step;
                }
                let next = next_standbys(context, group, run, &standing, chosen, false);
                Step::Go(vec![promotion(group, run, chosen, proof, (durability, next))])
            }
            None => Step::Rest,
        }
    }

    /// What this phase wants done: every standby within reach frozen, and the old primary fenced if its guard answers.
    fn wanted(&self, context: &Context<'_>, group: &Group, run: &Run) -> Vec<Effect> {
        let fresh = group.timing.fresh;
        let mut wanted = Vec::new();
        // Starting a stopped server takes longer than comparing running ones: only where nobody runs.
        let zero_loss = quorum::asked(group);
        let running = group.spec.instances.iter().any(|spec| {
            spec.name != run.ending_instance
                && context
                    .heard
                    .fresh_guard(context.now, &group.spec.group, &spec.name, fresh)
                    .is_some_and(|s| s.process == ProcessState::Standby)
        });
        let running = running && (!zero_loss || self.running_cover(context, group, run));
        let others = group.spec.instances.iter().filter(|i| i.name != run.ending_instance);
        // One that is never promoted may still hold, and so vouch for, what was acknowledged.
        for spec in others.filter(|i| i.priority > 0 || zero_loss) {
            let status = context.heard.fresh_guard(context.now, &group.spec.group, &spec.name, fresh);
            if context.mutants.has(Mutant::NoFreeze) {
                // Looked at, but not cut off.
                wanted.push(Effect::Confirm { instance: spec.name.clone(), at: Lsn(0) });
            } else if status.is_some_and(|s| s.process == ProcessState::Standby || (!running && startable(s)))
            {
                wanted.push(Effect::Freeze { instance: spec.name.clone(), generation: group.generation });
            }
        }
        let answers =
            context.heard.fresh_guard(context.now, &group.spec.group, &run.ending_instance, fresh).is_some();
        let unproven = self.receipt(context, group, run).is_none();
        if answers && unproven {
            wanted.push(Effect::Fence { instance: run.ending_instance.clone(), term: run.ending });
        }
        // A guard that answers has its budget first: turning a host off takes everything else on it along.
        if unproven && (!answers || self.in_phase(context, run) > group.timing.fence) {
            wanted.extend(fencers::effects(&group.spec, run));
        }
        wanted
    }

    /// Everything else is there; only a fencer that is required has not turned the host off yet.
    fn fencers_awaited(&self, context: &Context<'_>, group: &Group, run: &Run) -> Step {
        let patience = fencers::patience(&group.spec, &run.ending_instance).plus(FENCER_SLACK);
        if self.in_phase(context, run) < patience {
            return Step::Rest;
        }
        let mut why = fencers::failures(run);
        if why.is_empty() {
            why.push("none of its agents was reached".to_owned());
        }
        let why = format!("the host of {} is not known to be off: {}", run.ending_instance, why.join("; "));
        Step::Go(vec![stuck(group, run, StuckCause::FencerFailed, &why)])
    }

    fn nobody(
        &self,
        context: &Context<'_>,
        group: &Group,
        run: &Run,
        rejected: &[(mesh_proto::InstanceName, String)],
    ) -> Step {
        // Give standbys that just came up a moment to be frozen before concluding that there is nobody.
        if self.in_phase(context, run) < group.timing.fence {
            return Step::Rest;
        }
        let mut why: Vec<_> = rejected.iter().map(|(name, why)| format!("{name} {why}")).collect();
        if why.is_empty() {
            let standings = assess(context.now, group, context.heard, waived(&run.plan));
            why = standings
                .into_iter()
                .map(|s| {
                    format!("{} {}", s.instance, s.rejected.unwrap_or_else(|| "did not freeze".to_owned()))
                })
                .collect();
        }
        let why = format!("no standby can be promoted: {}", why.join("; "));
        if self.primary_may_reopen(context, group) {
            let back =
                if run.promotion.is_some() { Signal::CandidateReturned } else { Signal::PrimaryReturned };
            return Step::Go(vec![signal(group, run, back, &why)]);
        }
        Step::Go(vec![stuck(group, run, StuckCause::NoCandidate, &why)])
    }

    pub(super) fn start(&mut self, group: &Group, run: &Run, effects: &[Effect]) -> Step {
        match self.standing(run, effects) {
            Standing::Begin(steps) => Step::Go(vec![self.begin(group, run.id, steps)]),
            Standing::Running | Standing::Done | Standing::Failed(_) => Step::Rest,
        }
    }
}

/// Whether a server that does not run could be started, frozen, to be compared.
pub(super) fn startable(status: &GuardStatus) -> bool {
    matches!(status.process, ProcessState::Stopped | ProcessState::Died) && status.data.is_some()
}

enum HandOver {
    Step(Step),
    Lost,
}

/// The standbys frozen in the current generation, with where they stand.
fn frozen(context: &Context<'_>, group: &Group, run: &Run) -> Vec<Candidate> {
    let without_freeze = context.mutants.has(Mutant::NoFreeze);
    let steps = run.steps.values().filter_map(|step| match (&step.effect, &step.outcome) {
        (Effect::Freeze { instance, generation }, Some(Outcome::Done(finding)))
            if *generation == group.generation =>
        {
            candidate(instance, finding)
        }
        (Effect::Confirm { instance, .. }, Some(Outcome::Done(finding))) if without_freeze => {
            candidate(instance, finding)
        }
        _ => None,
    });
    steps.filter(|c| c.instance != run.ending_instance).collect()
}

/// The newest epoch that a frozen standby's data is known to be of, by its guard's own word. An older word says an older one.
fn line(context: &Context<'_>, group: &Group, candidate: &Candidate) -> Option<Epoch> {
    let heard = context.heard.guard(&group.spec.group, &candidate.instance)?;
    heard.said.line.filter(|_| !context.mutants.has(Mutant::AnyLine))
}

fn candidate(instance: &mesh_proto::InstanceName, finding: &Finding) -> Option<Candidate> {
    match finding {
        Finding::Frozen { position, data, guard, system_id } => Some(Candidate {
            instance: instance.clone(),
            position: *position,
            data: data.clone(),
            guard: guard.clone(),
            system_id: *system_id,
            line: None,
        }),
        Finding::Nothing
        | Finding::Fenced(_)
        | Finding::Promoted { .. }
        | Finding::Follows { .. }
        | Finding::Scanned { .. }
        | Finding::Off { .. }
        | Finding::Routed { .. }
        | Finding::Named { .. }
        | Finding::Proved { .. }
        | Finding::Ran { .. }
        | Finding::Skipped { .. } => None,
    }
}

fn promotion(
    group: &Group,
    run: &Run,
    chosen: &Candidate,
    proof: Proof,
    (durability, standbys): (Option<DurabilityProof>, BTreeSet<QuorumMember>),
) -> Command {
    Command::PromotionCommitted {
        group: group.spec.group.clone(),
        run: run.id,
        ends: run.ending,
        instance: chosen.instance.clone(),
        data: chosen.data.clone(),
        guard: chosen.guard.clone(),
        freeze: group.generation,
        position: chosen.position,
        proof,
        durability,
        standbys,
    }
}

/// A proof that claims to have waited: what a build without the rule would commit.
fn forged(state: &MeshState, run: &Run) -> Proof {
    Proof::Expired(Expiry {
        term: run.ending,
        pledges: state.electorate.everyone().into_iter().map(|voter| (voter, Millis::ZERO)).collect(),
        waited: Millis(3_600_000),
        electorate: state.electorate.version,
    })
}
