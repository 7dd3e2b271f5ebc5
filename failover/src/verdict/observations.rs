//! What the leader has heard: the newest status of each guard, the newest report of each observer, each with the moment
//! it arrived. Volatile: a new leader begins empty, and knows nothing until it is told.

use std::collections::BTreeMap;

use mesh_proto::evidence::{GuardStatus, Position, Report, RouteSight, Sighting};
use mesh_proto::{AgentName, GroupName, GuardIncarnation, InstanceName, Millis, RouteName};

use crate::Moment;
use crate::state::MeshState;

/// How often a life of a guard must speak again after another one had taken its place until there are two. A restart never
/// goes back; one late message makes two returns, of the former life and of the present one.
const RETURNS: u32 = 3;
/// How long the last of these returns counts: many times what guards let pass between two statuses.
const RETURN_LASTS: Millis = Millis(10_000);

/// Evidence with the moment it arrived here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard<T> {
    /// What was said.
    pub said: T,
    /// When it arrived, by the leader's clock.
    pub at: Moment,
}

impl<T> Heard<T> {
    /// How old it is.
    #[must_use]
    pub const fn age(&self, now: Moment) -> Millis {
        now.since(self.at)
    }
}

/// Everything heard.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Observations {
    guards: BTreeMap<(GroupName, InstanceName), Heard<GuardStatus>>,
    /// Where each instance last said that it stood: a dead one says nothing any more, and how much its successor lacks
    /// must be known all the same.
    positions: BTreeMap<(GroupName, InstanceName), Position>,
    reports: BTreeMap<AgentName, Heard<Report>>,
    /// Lives of guards that took turns.
    turns: BTreeMap<(GroupName, InstanceName), Turns>,
}

/// Which life of a guard spoke before the present one, and how often one of them came back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Turns {
    former: GuardIncarnation,
    returns: u32,
    at: Moment,
}

impl Observations {
    /// A guard said how its instance is. An older status of the same life never replaces a newer one.
    pub fn heard_guard(&mut self, now: Moment, status: GuardStatus) {
        let key = (status.group.clone(), status.instance.clone());
        if let Some(known) = self.guards.get(&key)
            && known.said.guard == status.guard
            && known.said.seq >= status.seq
        {
            return;
        }
        if let Some(known) = self.guards.get(&key).filter(|known| known.said.guard != status.guard) {
            let former = known.said.guard.clone();
            let turns = self.turns.get(&key);
            let returns = match turns {
                Some(turns) if turns.former == status.guard && now.since(turns.at) <= RETURN_LASTS => {
                    turns.returns.saturating_add(1)
                }
                Some(turns) if turns.former == status.guard => 1,
                Some(_) | None => 0,
            };
            self.turns.insert(key.clone(), Turns { former, returns, at: now });
        }
        if let Some(position) = status.position {
            self.positions.insert(key.clone(), position);
        }
        self.guards.insert(key, Heard { said: status, at: now });
    }

    /// An observer reported. An older report of the same life never replaces a newer one.
    pub fn heard_report(&mut self, now: Moment, report: Report) {
        if let Some(known) = self.reports.get(&report.agent)
            && known.said.boot == report.boot
            && known.said.generation >= report.generation
        {
            return;
        }
        self.reports.insert(report.agent.clone(), Heard { said: report, at: now });
    }

    /// Members that are not known to apply commands of this edition: an older build, or one that was not heard yet. However
    /// old a report is: whoever takes an older build again does so knowingly. Nobody is waited for once such a command is in
    /// the log: a lost site must not hold back what is needed for its loss.
    #[must_use]
    pub fn older(&self, state: &MeshState, edition: u32) -> Vec<AgentName> {
        let knows = |agent: &AgentName| {
            edition <= state.edition
                || self.reports.get(agent).is_some_and(|report| report.said.edition >= edition)
        };
        state.members.keys().filter(|agent| !knows(agent)).cloned().collect()
    }

    /// The newest status of a guard, however old.
    #[must_use]
    pub fn guard(&self, group: &GroupName, instance: &InstanceName) -> Option<&Heard<GuardStatus>> {
        self.guards.get(&(group.clone(), instance.clone()))
    }

    /// Where an instance last said that it stood, however long ago.
    #[must_use]
    pub fn last_position(&self, group: &GroupName, instance: &InstanceName) -> Option<Position> {
        self.positions.get(&(group.clone(), instance.clone())).copied()
    }

    /// The newest status of a guard, if it is fresh.
    #[must_use]
    pub fn fresh_guard(
        &self,
        now: Moment,
        group: &GroupName,
        instance: &InstanceName,
        fresh: Millis,
    ) -> Option<&GuardStatus> {
        self.guard(group, instance).filter(|heard| heard.age(now) <= fresh).map(|heard| &heard.said)
    }

    /// Who else decides about a group's instances, as their guards said last: beside somebody like that nothing is done
    /// without an operator. A dead instance's last word counts. So does an instance that is there twice: a host that was copied
    /// with its identity, of which nobody can tell which one is meant.
    #[must_use]
    pub fn rival(&self, now: Moment, group: &GroupName) -> Option<String> {
        let twice = self.turns.iter().find(|((of, _), turns)| {
            of == group && turns.returns >= RETURNS && now.since(turns.at) <= RETURN_LASTS
        });
        if let Some(((_, instance), _)) = twice {
            return Some(format!(
                "two guards say that they are {instance}: a host was copied with its name and certificate; stop the copy"
            ));
        }
        let of_group = self.guards.iter().filter(|((of, _), _)| of == group);
        let mut rivals = of_group.filter_map(|((_, instance), heard)| {
            heard.said.rival.as_ref().map(|rival| format!("at {instance}: {rival}"))
        });
        rivals.next()
    }

    /// The newest report of an observer, however old.
    #[must_use]
    pub fn report(&self, agent: &AgentName) -> Option<&Heard<Report>> {
        self.reports.get(agent)
    }

    /// The newest report of an observer, if it is fresh.
    #[must_use]
    pub fn fresh_report(&self, now: Moment, agent: &AgentName, fresh: Millis) -> Option<&Heard<Report>> {
        self.reports.get(agent).filter(|heard| heard.age(now) <= fresh)
    }
}

/// Where a route leads, as the agent that holds it found, with the age that has by now.
#[must_use]
pub fn route_sight<'a>(
    now: Moment,
    report: &'a Heard<Report>,
    group: &GroupName,
    route: &RouteName,
) -> Option<(&'a RouteSight, Millis)> {
    let found = report.said.routes.iter().find(|s| s.group == *group && s.route == *route)?;
    Some((found, found.age.plus(report.age(now))))
}

/// What an observer saw of an instance, with the age it has by now.
#[must_use]
pub fn sighting<'a>(
    now: Moment,
    report: &'a Heard<Report>,
    group: &GroupName,
    instance: &InstanceName,
) -> Option<(&'a Sighting, Millis)> {
    let found = report.said.sightings.iter().find(|s| s.group == *group && s.instance == *instance)?;
    Some((found, found.age.plus(report.age(now))))
}
