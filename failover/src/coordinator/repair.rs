//! Making things as they should be, outside runs: standbys that do not follow, routes that do not lead to the primary,
//! a primary whose lease was refused by a stray pledge. Level-triggered: what matters is how it is, not how it came so.
//! A repair never delays a failover.

use mesh_proto::command::Command;
use mesh_proto::effect::{Effect, Target};
use mesh_proto::evidence::{GuardStatus, ProcessState};
use mesh_proto::quorum::QuorumMember;
use mesh_proto::spec::RouteSpec;
use mesh_proto::{InstanceName, Millis};

use super::decide::Step;
use super::quorum::named;
use super::{Backoff, Context, Driver};
use crate::plan::holds;
use crate::quorum;
use crate::state::{Group, Repair};
use crate::verdict::observations::route_sight;

/// First pause after a failed repair; it doubles up to [`BACKOFF_MAX`].
const BACKOFF_FIRST: Millis = Millis(2_000);
/// Longest pause between tries of a repair.
const BACKOFF_MAX: Millis = Millis(60_000);
/// A look at a route counts for this long; routes whose systems allow few questions are looked at every minute.
const LOOK_COUNTS: Millis = Millis(90_000);
/// How long a route must have led elsewhere, which takes more than one look: what a run does meanwhile is no drift.
const ASTRAY_FOR: Millis = Millis(500);
/// How long a standby may be without a stream from its primary before it is asked to follow again.
const STREAM_GRACE: Millis = Millis(5_000);

impl Driver {
    pub(super) fn repair(&mut self, context: &Context<'_>, group: &Group) -> Step {
        let (Some(primary), Some(lease)) = (&group.primary, group.lease()) else { return Step::Rest };
        let fresh = group.timing.fresh;
        let name = &group.spec.group;
        let Some(status) = context.heard.fresh_guard(context.now, name, &primary.instance, fresh) else {
            return Step::Rest;
        };
        if !holds(status, lease.term) || status.floored == Some(lease.term) {
            return self.stray_pledge(context, group, status);
        }
        if status.process != ProcessState::Primary {
            return Step::Rest;
        }
        if let Some(step) = self.degrade(context, group, status) {
            return step;
        }
        if let Some(step) = self.quorum(context, group, status) {
            return step;
        }
        if let Some(step) = self.holders(context, group, status) {
            return step;
        }
        self.note_ended(context, group);
        for spec in group.spec.instances.iter().filter(|i| i.name != primary.instance) {
            let Some(standby) = context.heard.fresh_guard(context.now, name, &spec.name, fresh) else {
                continue;
            };
            let key = instance_key(&spec.name);
            if follows(group, &primary.instance, standby) {
                self.note_well(&key);
                continue;
            }
            if !self.may_try(context, group, &key) {
                continue;
            }
            let Some(leader) = group.instance(&primary.instance) else { continue };
            let effect = Effect::Follow {
                instance: spec.name.clone(),
                primary: primary.instance.clone(),
                address: leader.address,
                epoch: group.epoch,
                generation: group.generation,
            };
            return Step::GoAndWait(vec![Command::RepairStarted {
                group: name.clone(),
                effect,
                epoch: group.epoch,
            }]);
        }
        // A run that is not done with them leads the routes itself.
        let routes = group.spec.routes.iter().filter(|_| group.routes_are_free());
        for route in routes {
            let led = group.routes.get(&route.name);
            let right = led.is_some_and(|led| led.instance == primary.instance && led.epoch == group.epoch)
                && !astray(context, group, route);
            if right || !self.may_try(context, group, &format!("route {}", route.name)) {
                continue;
            }
            let effect = Effect::Route { route: route.name.clone(), instance: primary.instance.clone() };
            return Step::GoAndWait(vec![Command::RepairStarted {
                group: name.clone(),
                effect,
                epoch: group.epoch,
            }]);
        }
        Step::Rest
    }

    /// A guard that runs its primary, has not fenced, and does not get its lease although no takeover is open: a pledge
    /// of a takeover that is over forbids its number (PROTOCOL, Taking over 6). It gets the next one at once.
    fn stray_pledge(&self, context: &Context<'_>, group: &Group, status: &GuardStatus) -> Step {
        let (Some(primary), Some(lease)) = (&group.primary, group.lease()) else { return Step::Rest };
        let waited =
            self.lease_seen.is_some_and(|(_, since)| context.now.since(since) > group.timing.probe.times(4));
        let same_life = status.guard == lease.guard && status.data.as_ref() == Some(&primary.data);
        let floored = status.floored == Some(lease.term);
        // A refusal by a floor says it at once, while grants from before the pledge still run.
        let stray = (floored || (waited && status.lease.is_none()))
            && same_life
            && status.process == ProcessState::Primary
            && status.receipt.is_none()
            && group.takeover.is_none();
        if !stray {
            return Step::Rest;
        }
        // The guard has to be heard again before another number could be wanted.
        Step::GoAndWait(vec![Command::LeaseGranted {
            group: group.spec.group.clone(),
            instance: primary.instance.clone(),
            replaces: lease.term,
            data: primary.data.clone(),
            guard: lease.guard.clone(),
            proof: None,
            reason: "its guard runs the primary and does not get the lease it had".to_owned(),
        }])
    }

    fn may_try(&self, context: &Context<'_>, group: &Group, key: &str) -> bool {
        let running = group
            .repairs
            .iter()
            .any(|r| r.outcome.is_none() && r.epoch == group.epoch && target_key(&r.effect) == key);
        !running && self.backoff.get(key).is_none_or(|known| known.until <= context.now)
    }

    /// A repair that ended, well or not, and yet is wanted again, is tried less and less often.
    fn note_ended(&mut self, context: &Context<'_>, group: &Group) {
        // What was repaired under an older primary says nothing of this one, whenever this leader met it.
        if self.backoff_in != group.epoch {
            self.backoff.clear();
            self.backoff_in = group.epoch;
        }
        let ended = |repair: &&Repair| repair.outcome.is_some() && repair.epoch == group.epoch;
        for repair in group.repairs.iter().filter(ended) {
            let key = target_key(&repair.effect);
            let known = self.backoff.get(&key).copied();
            if known.is_some_and(|known| known.repair == repair.id) {
                continue;
            }
            let ended = known.map_or(0, |known| known.ended).saturating_add(1);
            let pause = Millis(BACKOFF_FIRST.0 << ended.min(6).saturating_sub(1)).min(BACKOFF_MAX);
            let until = context.now.after(pause);
            self.backoff.insert(key, Backoff { repair: repair.id, until, ended });
        }
    }

    /// It is as it should be: the next trouble is a new one.
    fn note_well(&mut self, key: &str) {
        if let Some(known) = self.backoff.get_mut(key) {
            known.ended = 0;
        }
    }
}

/// Whether the agent that holds a route found that it does not lead to the primary, and not only at one look: a proxy that
/// was restarted returns to what its file says.
fn astray(context: &Context<'_>, group: &Group, route: &RouteSpec) -> bool {
    let Some(primary) = &group.primary else { return false };
    let Some(report) = context.heard.fresh_report(context.now, &route.agent, group.timing.fresh) else {
        return false;
    };
    route_sight(context.now, report, &group.spec.group, &route.name).is_some_and(|(sight, age)| {
        age <= LOOK_COUNTS
            && sight.instance == primary.instance
            && sight.epoch == group.epoch
            && sight.astray_for.is_some_and(|astray| astray >= ASTRAY_FOR)
    })
}

fn instance_key(name: &InstanceName) -> String {
    format!("instance {name}")
}

fn target_key(effect: &Effect) -> String {
    match effect.target() {
        Target::Instance(name) => instance_key(name),
        Target::Route(name) => format!("route {name}"),
        Target::Errand(name) => format!("errand {name}"),
        Target::Fencer(name) => format!("fencer {name}"),
    }
}

/// Whether a standby is as it should be.
fn follows(group: &Group, primary: &InstanceName, status: &GuardStatus) -> bool {
    match status.process {
        ProcessState::Standby => {}
        // On its way; its guard will say how it ends.
        ProcessState::Starting | ProcessState::Unknown => return true,
        // A stray primary is fenced by its own guard first.
        ProcessState::Primary | ProcessState::Unresponsive => return true,
        ProcessState::Stopped | ProcessState::Died => return false,
    }
    if status.frozen.is_some() {
        return false;
    }
    let Some(address) = group.instance(primary).map(|i| i.address.to_string()) else { return true };
    // A standby under another name supplies no quorum, however well it streams.
    if quorum::asked(group)
        && let (Some(data), Some(receiving)) = (&status.data, &status.receiving)
    {
        let member = QuorumMember { instance: status.instance.clone(), data: data.clone() };
        if !named(group, &member, receiving.name.as_deref()) {
            return false;
        }
    }
    status
        .receiving
        .as_ref()
        .is_some_and(|r| r.from.as_deref() == Some(&address) && (r.streaming || r.advanced < STREAM_GRACE))
}
