//! Status and explanations, from the applied state and what this agent heard. Any agent answers; each hears every guard
//! and every observer.

use mesh_failover::coordinator::degrade;
use mesh_failover::state::{Group, MeshState};
use mesh_failover::verdict::observations::route_sight;
use mesh_failover::verdict::votes;
use mesh_failover::{Moment, plan, quorum};
use mesh_proto::command::Verdict;
use mesh_proto::effect::{Effect, Finding, Outcome, Target};
use mesh_proto::operator::{Answer, GroupStatus, InstanceStatus, NodeView, RouteStatus, StatusView, WhyView};
use mesh_proto::quorum::QuorumView;
use mesh_proto::spec::{InstanceSpec, RouteSpec};
use mesh_proto::{GroupName, Millis, RouteName};

use super::{Asked, Reply};
use crate::clock;

/// How many audit records an explanation rests on at most.
const WHY_RECORDS: usize = 24;

impl Asked {
    pub(super) fn nodes(&self) -> Vec<NodeView> {
        let standing = self.driver.consensus.standing();
        let now = self.driver.clock.now();
        self.driver.consensus.read(|machine| {
            let members = machine.state().members.values();
            members
                .map(|member| {
                    let (heard, edition) = self.driver.with_heard(|c| {
                        let report = c.heard.report(&member.agent);
                        (report.map(|report| report.age(now)), report.map(|report| report.said.edition))
                    });
                    let reachable = heard.map_or(standing.leader.map(|_| false), |age| Some(age.0 < 3_000));
                    NodeView {
                        member: member.clone(),
                        elector: machine.state().electorate.everyone().contains(&member.id),
                        leader: standing.leader == Some(member.id.0),
                        reachable,
                        report_age: heard,
                        edition,
                    }
                })
                .collect()
        })
    }

    /// The status, as this agent knows it.
    pub fn status(&self) -> StatusView {
        let standing = self.driver.consensus.standing();
        let now = self.driver.clock.now();
        let nodes = self.nodes();
        let mut troubles: Vec<_> = standing.fault.iter().cloned().collect();
        troubles.extend(self.credentials.troubles(crate::tls::ends::now()));
        self.driver.consensus.read(|machine| {
            let state = machine.state();
            let leader = state.members.values().find(|member| standing.leader == Some(member.id.0));
            StatusView {
                agent: self.driver.me.clone(),
                mesh: state.mesh.clone(),
                leader: leader.map(|member| member.agent.clone()),
                term: standing.term,
                edition: state.edition,
                applied: standing.applied.map_or(0, |at| at.index),
                electorate: state.electorate.clone(),
                nodes,
                groups: state.groups.values().map(|group| self.group_status(now, state, group)).collect(),
                at: clock::wall(),
                troubles,
            }
        })
    }

    fn quorum_view(&self, now: Moment, group: &Group) -> QuorumView {
        let (stands_still, keep_up) = self.driver.with_heard(|c| {
            let primary = group.primary.as_ref().and_then(|primary| {
                c.heard.fresh_guard(now, &group.spec.group, &primary.instance, group.timing.fresh)
            });
            let still = primary.and_then(|status| degrade::commits_wait(now, &c.heard, group, status));
            let near = primary.map(|status| degrade::keeps_up(now, &c.heard, group, status));
            (still, near.unwrap_or_default())
        });
        QuorumView {
            waits_for: match group.quorum() {
                None => "nobody".to_owned(),
                Some(newest) if newest.k == 0 => "no standby".to_owned(),
                Some(newest) => newest.to_string(),
            },
            not_yet: group.not_yet_zero_loss(),
            stands_still,
            degraded: group.degraded.clone(),
            keep_up,
            size: group.spec.quorum_size,
            open: group.spec.open,
        }
    }

    fn group_status(&self, now: Moment, state: &MeshState, group: &Group) -> GroupStatus {
        let observers = group.primary.as_ref().map_or((0, 0), |primary| {
            self.driver.with_heard(|c| votes::count(now, state, group, &primary.instance, &c.heard).fresh())
        });
        GroupStatus {
            group: group.spec.group.clone(),
            engine: group.spec.engine,
            version: group.version,
            epoch: group.epoch,
            primary: group.primary.as_ref().map(|p| p.instance.clone()),
            verdict: group.verdict.clone(),
            timing: group.timing.clone(),
            automatic: group.spec.automatic,
            majority_lost: group.spec.majority_lost,
            quorum: quorum::asked(group).then(|| self.quorum_view(now, group)),
            blocked: group.verdict.blocked.clone().or_else(|| group.blocked()).or_else(|| {
                self.driver.with_heard(|c| c.heard.rival(self.driver.clock.now(), &group.spec.group))
            }),
            instances: group
                .spec
                .instances
                .iter()
                .map(|i| self.instance_status(now, state, group, i))
                .collect(),
            routes: group
                .spec
                .routes
                .iter()
                .map(|route| {
                    let led = group.routes.get(&route.name);
                    RouteStatus {
                        name: route.name.clone(),
                        listen: route.target.entrance(),
                        leads_to: led.map(|led| led.instance.clone()),
                        epoch: led.map(|led| led.epoch),
                        note: route_words(group, &route.name),
                        astray_for: self.astray(now, group, route),
                    }
                })
                .collect(),
            run: group.run.clone(),
            proposal: group.proposal.clone(),
            pause: group.pause.as_ref().map(|pause| (pause.reason.clone(), pause.length)),
            observers,
        }
    }

    /// How long the agent that holds a route has seen it lead elsewhere.
    fn astray(&self, now: Moment, group: &Group, route: &RouteSpec) -> Option<Millis> {
        self.driver.with_heard(|c| {
            let report = c.heard.report(&route.agent)?;
            let (sight, _) = route_sight(now, report, &group.spec.group, &route.name)?;
            sight.astray_for.filter(|_| sight.epoch == group.epoch)
        })
    }

    fn instance_status(
        &self,
        now: Moment,
        state: &MeshState,
        group: &Group,
        spec: &InstanceSpec,
    ) -> InstanceStatus {
        let name = &spec.name;
        let heard_guard = self.driver.with_heard(|c| {
            c.heard.guard(&group.spec.group, name).map(|heard| (heard.said.clone(), heard.age(now)))
        });
        let reference = self.driver.with_heard(|c| plan::candidates::primary_position(group, &c.heard));
        let is_primary = group.primary.as_ref().is_some_and(|p| p.instance == *name);
        let position = heard_guard.as_ref().and_then(|(status, _)| status.position);
        let lag_bytes = match (reference, position) {
            (Some(reference), Some(position)) if !is_primary => {
                Some(reference.have.bytes_since(position.have))
            }
            (Some(_) | None, Some(_) | None) => None,
        };
        let seen = votes::expected(state, group)
            .into_iter()
            .filter_map(|(agent, _)| {
                let sighting = self.driver.with_heard(|c| {
                    let report = c.heard.report(&agent)?;
                    let found = report.said.sightings.iter().find(|s| s.instance == *name)?;
                    Some(mesh_proto::evidence::Sighting {
                        age: found.age.plus(report.age(now)),
                        ..found.clone()
                    })
                });
                sighting.map(|sighting| (agent, sighting))
            })
            .collect();
        InstanceStatus {
            name: name.clone(),
            site: spec.site.clone(),
            address: spec.address.to_string(),
            lease: group.leases.get(name).cloned(),
            guard: heard_guard,
            lag_bytes,
            seen,
            repair: repair_words(group, Target::Instance(name)),
        }
    }

    pub(super) fn why(&self, wanted: Option<&GroupName>) -> Reply {
        let name = self.group(wanted)?;
        self.driver.consensus.read(|machine| {
            let state = machine.state();
            let Some(group) = state.groups.get(&name) else { return Ok(Answer::Done(String::new())) };
            let about = state.audit.records.iter().filter(|record| record.group.as_ref() == Some(&name));
            let mut records: Vec<_> = about.rev().take(WHY_RECORDS).cloned().collect();
            records.reverse();
            Ok(Answer::Why(Box::new(WhyView {
                group: name.clone(),
                verdict: group.verdict.clone(),
                since: group.verdict_at,
                next: next_words(group),
                records,
            })))
        })
    }
}

/// What stands in the way of a route; once it is led, who did not show it then.
fn route_words(group: &Group, name: &RouteName) -> Option<String> {
    let (led, primary) = (group.routes.get(name), group.primary.as_ref().map(|primary| &primary.instance));
    if !led.is_some_and(|led| Some(&led.instance) == primary && led.epoch == group.epoch) {
        return repair_words(group, Target::Route(name));
    }
    let leads = |effect: &Effect| matches!(effect, Effect::Route { route, .. } if route == name);
    let repaired = group.repairs.iter().find(|repair| leads(&repair.effect) && repair.epoch == group.epoch);
    if let Some(left) = left_sessions(group, name) {
        return Some(left);
    }
    let steps = group.run.iter().flat_map(|run| run.steps.values());
    let stepped = steps.rev().find(|step| leads(&step.effect) && step.epoch == group.epoch);
    let outcome = match repaired {
        Some(repair) => repair.outcome.as_ref(),
        None => stepped.and_then(|step| step.outcome.as_ref()),
    };
    match outcome? {
        Outcome::Done(Finding::Named { lagging, .. }) if !lagging.is_empty() => {
            Some(format!("when it was led, it was not shown by {}", lagging.join("; ")))
        }
        Outcome::Done(_) | Outcome::Refused { .. } | Outcome::Unknown { .. } => None,
    }
}

/// Old sessions that were left when a write had come through the route.
fn left_sessions(group: &Group, name: &RouteName) -> Option<String> {
    let proves = |effect: &Effect| matches!(effect, Effect::Prove { route, .. } if route == name);
    let steps = group.run.iter().flat_map(|run| run.steps.values());
    let step = steps.rev().find(|step| proves(&step.effect) && step.epoch == group.epoch)?;
    match step.outcome.as_ref()? {
        Outcome::Done(Finding::Proved { stragglers: Some(left), .. }) if *left > 0 => {
            Some(format!("when it was proved, {left} sessions to another instance were left"))
        }
        Outcome::Done(_) | Outcome::Refused { .. } | Outcome::Unknown { .. } => None,
    }
}

fn repair_words(group: &Group, target: Target<'_>) -> Option<String> {
    let repair = group.repairs.iter().find(|repair| repair.effect.target() == target)?;
    match &repair.outcome {
        None => Some(format!("{}: going on", repair.effect)),
        Some(Outcome::Refused { detail, .. } | Outcome::Unknown { detail }) => {
            Some(format!("{}: {detail}", repair.effect))
        }
        Some(Outcome::Done(_)) => None,
    }
}

fn next_words(group: &Group) -> String {
    if let Some(run) = group.active_run() {
        return format!("run {} is {}; follow it with `mesh run --follow`", run.id, run.phase);
    }
    if let Some(blocked) = group.blocked() {
        return format!("nothing by itself: {blocked}");
    }
    match group.verdict.verdict {
        Verdict::Unfounded => "waits for `mesh adopt`".to_owned(),
        Verdict::Healthy => format!(
            "fails over when the primary is lost to a majority of the other sites for {} ({} within its site), or when \
             its guard proves that it is fenced",
            group.timing.leave_site_after, group.timing.down_after
        ),
        Verdict::Suspect | Verdict::Isolated | Verdict::UnreachableButStreaming => {
            "watches; acts when the primary is proved lost".to_owned()
        }
        Verdict::Down => "fails over as soon as a majority of voters is willing".to_owned(),
        Verdict::DownNoCandidate => {
            "fails over as soon as a standby can be promoted, or opens the old primary when it is back"
                .to_owned()
        }
        Verdict::Blind => "waits for observers to report again".to_owned(),
    }
}
