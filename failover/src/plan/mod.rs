//! From facts to a plan: who may be promoted, in which order, and why the others may not; and a separate checker.

pub mod candidates;

use mesh_proto::evidence::{GuardStatus, ProcessState};
use mesh_proto::lease::LeaseTerm;
use mesh_proto::run::{Actor, Plan, RunKind};
use mesh_proto::{InstanceName, SiteName};

use crate::Moment;
use crate::errands;
use crate::state::Group;
use crate::verdict::observations::Observations;
pub use candidates::{Candidate, Standing, Waived, assess, best};

/// What a plan is wanted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Failover or switchover.
    pub kind: RunKind,
    /// Only candidates of this site.
    pub site: Option<SiteName>,
    /// Only this candidate.
    pub instance: Option<InstanceName>,
    /// Who asks.
    pub actor: Actor,
    /// Why.
    pub reason: String,
    /// Waive the lag limit.
    pub accept_lag: bool,
    /// Accept that acknowledged writes may be lost, in a zero-loss group.
    pub accept_loss: bool,
    /// How long the primary has been lost, by the leader's evidence.
    pub lost_for: Option<mesh_proto::Millis>,
}

impl Wish {
    /// The limits that it waives.
    #[must_use]
    pub const fn waived(&self) -> Waived {
        Waived { lag: self.accept_lag, loss: self.accept_loss }
    }
}

/// The limits that a plan waives.
#[must_use]
pub const fn waived(plan: &Plan) -> Waived {
    Waived { lag: plan.accept_lag, loss: plan.accept_loss }
}

/// Makes a plan from what is known now. It may have no candidate; the checker says so.
#[must_use]
pub fn make(now: Moment, group: &Group, heard: &Observations, wish: &Wish) -> Option<Plan> {
    let primary = group.primary.as_ref()?;
    let parent = group.lease()?.term;
    let mut candidates = Vec::new();
    let mut rejected = Vec::new();
    let mut waived = wish.waived();
    // A clean stop is its own proof; should it come to a failover, the frozen standbys are compared.
    waived.loss |= wish.kind == RunKind::Switchover;
    for standing in assess(now, group, heard, waived) {
        let wanted = |instance: &InstanceName, site: &SiteName| {
            wish.site.as_ref().is_none_or(|s| s == site)
                && wish.instance.as_ref().is_none_or(|i| i == instance)
        };
        match standing.rejected {
            Some(why) => rejected.push((standing.instance, why)),
            None if wanted(&standing.instance, &standing.site) => candidates.push(standing.instance),
            None => rejected.push((standing.instance, "not where the new primary is wanted".to_owned())),
        }
    }
    let errands = errands::planned(&group.spec, wish.kind, &primary.instance, &candidates);
    Some(Plan {
        errands,
        kind: wish.kind,
        group: group.spec.group.clone(),
        parent,
        from: primary.instance.clone(),
        candidates,
        rejected,
        site: wish.site.clone(),
        actor: wish.actor.clone(),
        reason: wish.reason.clone(),
        accept_lag: wish.accept_lag,
        accept_loss: wish.accept_loss,
        lost_for: wish.lost_for,
    })
}

/// What speaks against executing a plan now. Empty: it may be executed.
#[must_use]
pub fn check(now: Moment, group: &Group, heard: &Observations, plan: &Plan) -> Vec<String> {
    let mut findings = Vec::new();
    let current = group.lease().map(|lease| lease.term).unwrap_or_default();
    if plan.parent != current {
        findings.push(format!("the plan ends {}, but {current} is in force", plan.parent));
    }
    if plan.candidates.is_empty() {
        findings.push("no standby can be promoted".to_owned());
    }
    if let Some(pause) = &group.pause {
        findings.push(format!("the group is paused: {}", pause.reason));
    }
    if !group.free_for_a_run() {
        findings.push("another run is going on".to_owned());
    }
    if plan.candidates.contains(&plan.from) {
        findings.push(format!("{} would succeed itself", plan.from));
    }
    if plan.kind == RunKind::Switchover {
        findings.extend(switchover_findings(now, group, heard, plan, current));
    }
    findings
}

/// A clean hand-over needs a primary that answers and a standby that streams from it.
fn switchover_findings(
    now: Moment,
    group: &Group,
    heard: &Observations,
    plan: &Plan,
    current: LeaseTerm,
) -> Vec<String> {
    let mut findings = Vec::new();
    let fresh = group.timing.fresh;
    match heard.fresh_guard(now, &group.spec.group, &plan.from, fresh) {
        None => findings.push(format!("the guard of {} does not answer", plan.from)),
        Some(status) => {
            if status.process != ProcessState::Primary || !holds(status, current) {
                findings.push(format!("{} does not serve under {current}", plan.from));
            }
        }
    }
    let Some(from) = group.instance(&plan.from) else { return findings };
    let streams = |name: &InstanceName| {
        heard.fresh_guard(now, &group.spec.group, name, fresh).is_some_and(|status| {
            status
                .receiving
                .as_ref()
                .is_some_and(|r| r.streaming && r.from.as_deref() == Some(&from.address.to_string()))
        })
    };
    if let Some(first) = plan.candidates.first()
        && !plan.candidates.iter().any(streams)
    {
        findings.push(format!("{first} does not stream from {}", plan.from));
    }
    findings
}

/// Whether a guard holds this lease.
#[must_use]
pub fn holds(status: &GuardStatus, term: LeaseTerm) -> bool {
    status.lease.is_some_and(|held| held.term == term)
}
