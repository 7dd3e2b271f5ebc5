//! `mesh audit live`: asks every place that holds an epoch, now. Guards are taken at their word (each tells every agent several
//! times a second), databases are asked by this agent, routes by the agents that lead them. It changes nothing anywhere.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mesh_adapters::postgres::{ProbeOutcome, ProbeTarget, Prober};
use mesh_failover::state::Group;
use mesh_proto::live::{Holds, LiveAsk, LiveGroup, LiveView, Place, PlaceKind};
use mesh_proto::operator::{Answer, Ask, Question};
use mesh_proto::run::Actor;
use mesh_proto::spec::{Engine, InstanceSpec};
use mesh_proto::{AgentName, Epoch, GroupName};

use super::{Asked, Reply};
use crate::clock;

/// How long a place may take to answer.
const LOOK: Duration = Duration::from_secs(2);
/// How long another agent may take: its own looks, and the way.
const AGENT: Duration = Duration::from_secs(3);

impl Asked {
    /// Looks at every place of every group, or of one.
    pub(super) async fn live(&self, wanted: Option<&GroupName>) -> Reply {
        let wanted = wanted.map(|name| self.group(Some(name))).transpose()?;
        let groups: Vec<Group> = self.driver.consensus.read(|machine| {
            let groups = machine.state().groups.values();
            groups.filter(|g| wanted.as_ref().is_none_or(|name| g.spec.group == *name)).cloned().collect()
        });
        let looked = join_all(groups.iter().map(|group| self.live_group(group))).await;
        let groups = looked.into_iter().flatten().collect();
        Ok(Answer::Live(Box::new(LiveView { agent: self.driver.me.clone(), at: clock::wall(), groups })))
    }

    /// A group without a primary has no epoch that anything could hold.
    async fn live_group(&self, group: &Group) -> Option<LiveGroup> {
        let primary = group.primary.as_ref()?.instance.clone();
        let ask = LiveAsk { group: group.spec.group.clone(), epoch: group.epoch, primary: primary.clone() };
        // What a Redis holds of an epoch its guard has read, and tells with its own.
        let asked = group.spec.instances.iter().filter(|_| group.spec.engine == Engine::Postgres);
        let databases = join_all(asked.map(|instance| self.database(group, instance)));
        let mut agents: Vec<&AgentName> = group.spec.routes.iter().map(|route| &route.agent).collect();
        agents.sort_unstable();
        agents.dedup();
        let routes = join_all(agents.into_iter().map(|agent| self.routes_of(agent, group, &ask)));
        let (databases, routes) = tokio::join!(databases, routes);
        let mut places: Vec<Place> = group.spec.instances.iter().map(|i| self.guard_gate(group, i)).collect();
        places.extend(databases);
        places.extend(routes.into_iter().flatten());
        let running = group.active_run().is_some();
        Some(LiveGroup { group: ask.group, epoch: group.epoch, primary, running, places })
    }

    fn place(&self, kind: PlaceKind, name: &str, holds: Holds) -> Place {
        Place { kind, name: name.to_owned(), by: self.driver.me.clone(), holds }
    }

    fn guard_gate(&self, group: &Group, instance: &InstanceSpec) -> Place {
        let now = self.driver.clock.now();
        let holds = self.driver.with_heard(|coordinator| {
            match coordinator.heard.guard(&group.spec.group, &instance.name) {
                None => Holds::NotSeen("its guard was never heard".to_owned()),
                Some(heard) if heard.age(now) > group.timing.fresh => {
                    Holds::NotSeen(format!("its guard was last heard {} ago", heard.age(now)))
                }
                Some(heard) => Holds::Epoch { epoch: heard.said.gate, of: None },
            }
        });
        self.place(PlaceKind::Guard, instance.name.as_str(), holds)
    }

    async fn database(&self, group: &Group, instance: &InstanceSpec) -> Place {
        let place = |holds| self.place(PlaceKind::Database, instance.name.as_str(), holds);
        let Some(login) = &self.config.probe else {
            return place(Holds::NotSeen(
                "this agent's file has no [probe] section to log in with".to_owned(),
            ));
        };
        let target = ProbeTarget {
            address: instance.address,
            database: group.spec.database.clone(),
            user: login.user.clone(),
            passfile: login.password_file.clone(),
            system_identifier: group.system_id,
        };
        let seen = Prober::new(target).probe(LOOK).await.outcome;
        place(match seen {
            ProbeOutcome::Writable(facts) | ProbeOutcome::ReadOnly(facts) => match facts.epoch {
                Some(seen) => match seen.instance.parse() {
                    Ok(of) => Holds::Epoch { epoch: Epoch(seen.epoch), of: Some(of) },
                    Err(error) => {
                        Holds::Elsewhere(format!("the instance of its newest epoch is no name: {error}"))
                    }
                },
                None => Holds::Nothing,
            },
            ProbeOutcome::WrongSystem { found } => Holds::Elsewhere(format!(
                "a server of another cluster answers there, system identifier {found}"
            )),
            other @ (ProbeOutcome::Refused
            | ProbeOutcome::Unreachable
            | ProbeOutcome::TimedOut
            | ProbeOutcome::Starting
            | ProbeOutcome::TooManyConnections
            | ProbeOutcome::AuthFailed { .. }
            | ProbeOutcome::Other { .. }) => Holds::NotSeen(not_seen(&other)),
        })
    }

    /// The routes of one agent, as it sees them.
    async fn routes_of(&self, agent: &AgentName, group: &Group, ask: &LiveAsk) -> Vec<Place> {
        if *agent == self.driver.me {
            return self.live_here(ask).await;
        }
        let why = match self.driver.consensus.read(|machine| machine.state().members.get(agent).cloned()) {
            None => format!("{agent} is no member"),
            Some(member) => match self.driver.peers.agent(agent, &member.address) {
                Err(error) => crate::cli::with_causes(&error),
                Ok(client) => {
                    let question = Question { actor: Actor::Mesh, ask: Ask::LiveHere(ask.clone()) };
                    match client.ask(&question, AGENT).await {
                        Ok(Answer::LiveHere(places)) => return places,
                        Ok(_) => "it answered something else".to_owned(),
                        Err(error) => error.to_string(),
                    }
                }
            },
        };
        let routes = group.spec.routes.iter().filter(|route| route.agent == *agent);
        let unseen = routes.map(|route| Place {
            by: agent.clone(),
            ..self.place(PlaceKind::Route, route.name.as_str(), Holds::NotSeen(why.clone()))
        });
        unseen.collect()
    }

    /// The places that this agent alone can look at.
    pub(super) async fn live_here(&self, ask: &LiveAsk) -> Vec<Place> {
        let deadline = Instant::now() + LOOK;
        self.driver.routes.live(&self.driver.me, &ask.group, &ask.primary, ask.epoch, deadline).await
    }
}

fn not_seen(outcome: &ProbeOutcome) -> String {
    match outcome {
        ProbeOutcome::Refused => "nobody listens there".to_owned(),
        ProbeOutcome::Unreachable => "it is not reachable from here".to_owned(),
        ProbeOutcome::TimedOut => "it does not answer".to_owned(),
        ProbeOutcome::Starting => "it is starting or stopping".to_owned(),
        ProbeOutcome::TooManyConnections => "it has no connection left".to_owned(),
        ProbeOutcome::AuthFailed { sqlstate } => format!("it refuses the observers' login ({sqlstate})"),
        ProbeOutcome::Other { sqlstate: Some(state) } => format!("it answered with SQLSTATE {state}"),
        ProbeOutcome::Other { sqlstate: None }
        | ProbeOutcome::Writable(_)
        | ProbeOutcome::ReadOnly(_)
        | ProbeOutcome::WrongSystem { .. } => "the session broke".to_owned(),
    }
}
