//! The crash policy: whether a primary whose server died is replaced, or started again in place.
//!
//! Both ways stand behind the same proof: the receipt of the guard that found it dead. So nothing here decides whether a
//! promotion is safe, only whether it would lose what a restart keeps. It never delays a failover from a host that is lost, cut
//! off or hung, nor one that a person asked for, and it never restarts twice in a row.

use mesh_proto::effect::{Effect, Finding, Outcome};
use mesh_proto::evidence::ProcessState;
use mesh_proto::lease::{FenceCause, Proof};
use mesh_proto::run::{Actor, Phase, Run, RunKind, Signal};
use mesh_proto::spec::{CrashPolicy, Engine};
use mesh_proto::{InstanceName, Lsn, Millis};

use super::decide::Step;
use super::phases::signal;
use super::steps::find;
use super::{Context, Driver};
use crate::plan::{Candidate, assess};
use crate::state::Group;

/// How long reading the dead log may hold up a promotion: a disk that takes longer will not serve a restart either.
const SCAN_WITHIN: Millis = Millis(3_000);

impl Driver {
    /// What the policy wants instead of promoting `chosen`; nothing where it is to be promoted.
    pub(super) fn instead_of_promoting(
        &mut self,
        context: &Context<'_>,
        group: &Group,
        run: &Run,
        chosen: &Candidate,
        proof: &Proof,
    ) -> Option<Step> {
        if group.spec.crash_policy != CrashPolicy::Auto || !self.could_restart(context, group, run, proof) {
            return None;
        }
        let name = &run.ending_instance;
        let scan = scan(name, chosen);
        let restart = |why: String| {
            let why = format!("{why}: {name} is started again in place");
            Some(Step::Go(vec![signal(group, run, Signal::PrimaryReturned, &why)]))
        };
        match find(run, &scan).map(|(_, step)| &step.outcome) {
            None => Some(self.start(group, run, &[scan])),
            Some(None) if self.in_phase(context, run) > SCAN_WITHIN => None,
            Some(None) => Some(Step::Rest),
            Some(Some(Outcome::Done(Finding::Scanned { commits: 0, .. }))) => None,
            Some(Some(Outcome::Done(Finding::Scanned { commits, bytes, .. }))) => restart(format!(
                "{} lacks {commits} commits ({bytes} bytes) that the dead log has",
                chosen.instance
            )),
            // The disk of the dead does not answer in time.
            Some(Some(Outcome::Unknown { .. })) => None,
            Some(Some(Outcome::Done(_) | Outcome::Refused { .. })) => {
                restart(format!("nobody can tell what {} lacks", chosen.instance))
            }
        }
    }

    /// Whether a dead primary is started again before anybody else is looked at.
    pub(super) fn restart_first(&self, context: &Context<'_>, group: &Group, run: &Run) -> Option<Step> {
        if group.spec.crash_policy != CrashPolicy::RestartFirst {
            return None;
        }
        let proof = self.proof(context, group, run)?;
        self.could_restart(context, group, run, &proof).then(|| {
            let why = format!("{} died and is started again in place first", run.ending_instance);
            Step::Go(vec![signal(group, run, Signal::PrimaryReturned, &why)])
        })
    }

    /// Whether this is a crash that a restart in place could end: the first answer to it, of its own accord.
    fn could_restart(&self, context: &Context<'_>, group: &Group, run: &Run, proof: &Proof) -> bool {
        let died = match proof {
            Proof::Receipt(receipt) => receipt.cause == FenceCause::Died,
            Proof::Expired(_) | Proof::Frozen(_) | Proof::External(_) => false,
        };
        let by_itself = run.plan.kind == RunKind::Failover && run.plan.actor == Actor::Mesh;
        let lies = context
            .heard
            .fresh_guard(context.now, &group.spec.group, &run.ending_instance, group.timing.fresh)
            .is_some_and(|status| matches!(status.process, ProcessState::Died | ProcessState::Stopped));
        died && by_itself
            && group.spec.engine == Engine::Postgres
            && run.takeovers == 1
            && run.promotion.is_none()
            && lies
            && self.primary_may_reopen(context, group)
            && !restarted_lately(group, run)
    }

    /// Whether a restart in place has had its time, and somebody is there to be promoted instead.
    pub(super) fn restart_overdue(&self, context: &Context<'_>, group: &Group, run: &Run) -> bool {
        let asked = run.steps.values().any(|step| matches!(step.effect, Effect::Scan { .. }))
            || group.spec.crash_policy == CrashPolicy::RestartFirst;
        let budget = Millis(group.spec.crash_restart_seconds.saturating_mul(1_000));
        asked
            && run.plan.kind == RunKind::Failover
            && self.in_phase(context, run) > budget
            && assess(context.now, group, context.heard, context.waived(run.plan.accept_lag, false))
                .iter()
                .any(|standing| standing.rejected.is_none())
    }
}

fn scan(name: &InstanceName, chosen: &Candidate) -> Effect {
    let held: Lsn = chosen.position.have;
    Effect::Scan {
        instance: name.clone(),
        system_id: chosen.system_id,
        boundary: chosen.position.replayed.min(held),
        held,
    }
}

/// Whether an earlier run of this epoch restarted it in place so lately that this is the same trouble again: a server that
/// crashes over and over is left for a standby. Both times are what leaders wrote into the log.
fn restarted_lately(group: &Group, run: &Run) -> bool {
    let Some((_, begun)) = run.entered.first() else { return false };
    let within = group.spec.hold_down_seconds.saturating_mul(1_000);
    group.history.iter().filter(|past| past.ending.epoch == run.ending.epoch).any(|past| {
        let reopened = past.entered.iter().any(|(phase, _)| *phase == Phase::Reopening);
        let ended = past.entered.last().filter(|(phase, _)| *phase == Phase::Aborted);
        reopened && ended.is_some_and(|(_, at)| begun.0.saturating_sub(at.0) < within)
    })
}
