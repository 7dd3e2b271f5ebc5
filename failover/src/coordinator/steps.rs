//! Steps: intents, orders on their way, outcomes, and what is done about an outcome that nobody knows.

use mesh_proto::command::{Command, StepIntent};
use mesh_proto::effect::{Effect, Finding, Outcome, Refusal, StepRef};
use mesh_proto::run::{Run, Step};
use mesh_proto::{Millis, RunId};

use super::errands;
use super::{ATTEMPTS_MAX, Driver, InFlight, RESEND};
use crate::Moment;
use crate::fencers;
use crate::mutants::{Mutant, Mutants};
use crate::state::Group;

/// How the steps of a phase stand.
pub(super) enum Standing {
    /// Intents that must be committed before anything is called.
    Begin(Vec<StepIntent>),
    /// Under way.
    Running,
    /// All done.
    Done,
    /// One failed for good.
    Failed(String),
}

impl Driver {
    /// An outcome came back.
    pub(super) fn took(
        &mut self,
        now: Moment,
        step: StepRef,
        flight: InFlight,
        outcome: Outcome,
        mutants: &Mutants,
    ) {
        match &outcome {
            Outcome::Unknown { .. } if mutants.has(Mutant::UnknownIsDone) => {
                self.results.insert(step, Outcome::Done(Finding::Nothing));
            }
            // Nobody received it: nothing happened, and the same attempt may be sent again.
            Outcome::Refused { code: Refusal::NotDelivered, .. } => {
                self.not_before.insert(step, now.after(RESEND));
            }
            // Nobody knows: verified before it is repeated.
            Outcome::Unknown { .. } => {
                self.mine.remove(&step);
                self.not_before.insert(step, now.after(RESEND));
            }
            // Verified, and it is not so: now it may be done. An effect that some earlier call still does meanwhile
            // comes to the same, since each is idempotent at its executor.
            Outcome::Refused { code: Refusal::NotSo, .. } if flight.verify => {
                self.mine.insert(step);
            }
            Outcome::Done(_) | Outcome::Refused { .. } => {
                self.results.insert(step, outcome);
            }
        }
    }

    /// The next result that the log, or what is speculated upon it, does not have yet.
    pub(super) fn result_for_the_log(&self, group: &Group) -> Option<Command> {
        self.results.iter().find_map(|(step, outcome)| wanted(group, *step, outcome))
    }

    /// Drops the results that nobody waits for any more. By the applied state only: a result that was merely proposed
    /// may be lost with its proposal, and must neither be forgotten nor be asked for again meanwhile.
    pub(super) fn drop_known_results(&mut self, group: &Group) {
        self.results.retain(|step, outcome| wanted(group, *step, outcome).is_some());
    }

    /// How the wanted effects stand as steps of the run, by the applied (or speculated) state.
    pub(super) fn standing(&self, run: &Run, wanted: &[Effect]) -> Standing {
        let mut begin = Vec::new();
        let mut running = false;
        let mut next = run.steps.keys().next_back().map_or(1, |last| last + 1);
        for effect in wanted {
            match find(run, effect) {
                None => {
                    begin.push(StepIntent { step: next, attempt: 1, effect: effect.clone() });
                    next += 1;
                }
                Some((number, step)) => match &step.outcome {
                    // Begun in another phase, by an entry that was late: nobody sends it now, so it is begun anew.
                    None if !errands::due_in(effect, step.phase, run.phase) => {
                        begin.push(StepIntent {
                            step: number,
                            attempt: step.attempts + 1,
                            effect: effect.clone(),
                        });
                    }
                    None => running = true,
                    Some(Outcome::Done(_)) => {}
                    Some(Outcome::Refused { code, detail }) => {
                        if retryable(*code) && step.attempts < attempts(*code) {
                            begin.push(StepIntent {
                                step: number,
                                attempt: step.attempts + 1,
                                effect: effect.clone(),
                            });
                        } else {
                            return Standing::Failed(format!("{effect}: {detail}"));
                        }
                    }
                    Some(Outcome::Unknown { detail }) => {
                        return Standing::Failed(format!("{effect}: {detail}"));
                    }
                },
            }
        }
        if !begin.is_empty() {
            Standing::Begin(begin)
        } else if running {
            Standing::Running
        } else {
            Standing::Done
        }
    }

    /// Commits the intents, and remembers that they are this leader's own. One that stands without an outcome is not: some
    /// leader may have sent it in the phase in which it was begun, so it is verified first.
    pub(super) fn begin(&mut self, group: &Group, run: RunId, steps: Vec<StepIntent>) -> Command {
        let known = group.active_run().map(|run| &run.steps);
        let open = |step: u32| known.and_then(|steps| steps.get(&step)).is_some_and(|s| s.outcome.is_none());
        for intent in steps.iter().filter(|intent| !open(intent.step)) {
            self.mine.insert(StepRef { run, step: intent.step, attempt: intent.attempt });
        }
        Command::StepsStarted { group: group.spec.group.clone(), run, steps }
    }
}

fn wanted(group: &Group, step: StepRef, outcome: &Outcome) -> Option<Command> {
    let name = group.spec.group.clone();
    let outcome = outcome.clone();
    if let Some(repair) = group.repairs.iter().find(|r| r.id == step.run.0 && r.outcome.is_none()) {
        return Some(Command::RepairEnded { group: name, repair: repair.id, outcome });
    }
    let run = group.active_run().filter(|run| run.id == step.run)?;
    let known = run.steps.get(&step.step)?;
    (known.attempts == step.attempt && known.outcome.is_none()).then_some(Command::StepEnded {
        group: name,
        run: step.run,
        step: step.step,
        attempt: step.attempt,
        outcome,
    })
}

/// The step of a run that has this effect.
pub(super) fn find<'a>(run: &'a Run, effect: &Effect) -> Option<(u32, &'a Step)> {
    run.steps.iter().find(|(_, step)| step.effect == *effect).map(|(number, step)| (*number, step))
}

/// What a done step found, if it is done.
pub(super) fn finding<'a>(run: &'a Run, effect: &Effect) -> Option<&'a Finding> {
    match find(run, effect)?.1.outcome.as_ref()? {
        Outcome::Done(finding) => Some(finding),
        Outcome::Refused { .. } | Outcome::Unknown { .. } => None,
    }
}

const fn retryable(code: Refusal) -> bool {
    match code {
        Refusal::NotSo | Refusal::NotDelivered | Refusal::NoLease | Refusal::Failed => true,
        Refusal::StaleEpoch
        | Refusal::StaleGeneration
        | Refusal::NotApplicable
        | Refusal::NotConfigured
        | Refusal::Drift => false,
    }
}

const fn attempts(code: Refusal) -> u32 {
    match code {
        // Verified as not done: repeating it is what the verification was for.
        Refusal::NotSo | Refusal::NotDelivered => u32::MAX,
        Refusal::NoLease
        | Refusal::Failed
        | Refusal::StaleEpoch
        | Refusal::StaleGeneration
        | Refusal::NotApplicable
        | Refusal::NotConfigured
        | Refusal::Drift => ATTEMPTS_MAX,
    }
}

/// How long an executor may take for an effect.
pub(super) fn budget(effect: &Effect, group: &Group) -> Millis {
    match effect {
        Effect::Checkpoint { .. } => Millis(60_000),
        // The pledges stop the renewals, so the hand-over must be over before the lease is.
        Effect::HandOver { .. } => group.timing.lease,
        Effect::Fence { .. } => group.timing.fence,
        Effect::Freeze { .. } | Effect::Confirm { .. } | Effect::Scan { .. } => Millis(2_000),
        // Replaying what was received may take a while; a silent guard ends the wait earlier.
        Effect::Promote { .. } => Millis(60_000),
        // A rebuild copies the whole database; the guard bounds it by progress.
        Effect::Follow { .. } => Millis(3_600_000),
        Effect::Route { .. } | Effect::Prove { .. } => Millis(2_000),
        Effect::TurnOff { fencer, .. } => fencers::deadline(&group.spec, fencer),
        Effect::Errand { .. } => errands::deadline(group, effect).unwrap_or_default(),
    }
}
