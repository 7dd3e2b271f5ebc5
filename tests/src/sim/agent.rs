//! An agent: the real coordinator, the real granter over a modelled disk, and an observer.

use std::collections::BTreeMap;

use mesh_failover::Moment;
use mesh_failover::coordinator::{Coordinator, Executor, ProposalResult, Todo};
use mesh_failover::lease::CLOCK_BOUNDS;
use mesh_failover::lease::granter::{Granter, VoterState};
use mesh_failover::state::MeshState;
use mesh_proto::command::Entry;
use mesh_proto::effect::{Order, Outcome, Refusal};
use mesh_proto::evidence::{Report, Seen, Sighting};
use mesh_proto::{Epoch, ErrandName, InstanceName, Millis, Wall};

use super::clock::{Time, ms, us};
use super::mutant::Mutation;
use super::setup::host_of;
use super::world::{Event, Message, OrderTo, World};

/// How often a leader looks what to do.
const POLL: Time = ms(10);
/// One agent.
#[derive(Debug)]
pub(super) struct Agent {
    pub up: bool,
    /// Each start has a number: what an earlier process still waited for is void.
    pub life: u64,
    pub coordinator: Coordinator,
    pub granter: Granter,
    /// What is on the voter's disk.
    pub disk: VoterState,
    pub disk_delay: (Time, Time),
    pub disk_full: bool,
    /// The applied state and its index. Kept over a restart, as the log is.
    pub state: MeshState,
    pub applied: u64,
    /// Newest Raft term it knows.
    pub term: u64,
    /// The term in which it believes to lead, and since when it has not heard a majority.
    pub leading: Option<u64>,
    pub majority_at: Time,
    seen: BTreeMap<usize, Probe>,
    heard: BTreeMap<usize, Moment>,
    generation: u64,
    ticked: Option<Moment>,
    starved: Option<Moment>,
    /// Since when the proxy does not lead to the primary that it knew.
    pub astray: Option<((InstanceName, Epoch), Moment)>,
    /// What its disk says of services and hooks.
    pub errands: BTreeMap<ErrandName, super::errands::Line>,
}

#[derive(Debug, Clone, Copy)]
struct Probe {
    seen: Seen,
    at: Moment,
    lost_since: Option<Moment>,
}

impl Agent {
    pub(super) fn new(world: &World, host: usize) -> Self {
        Self {
            up: false,
            life: 0,
            coordinator: Coordinator::new(world.setup.hosts[host].0.clone()),
            granter: Granter::restarted(world.clock(host), VoterState::default(), CLOCK_BOUNDS),
            disk: VoterState::default(),
            disk_delay: (ms(1), ms(8)),
            disk_full: false,
            state: MeshState::default(),
            applied: 0,
            term: 0,
            leading: None,
            majority_at: 0,
            seen: BTreeMap::new(),
            heard: BTreeMap::new(),
            generation: 0,
            ticked: None,
            starved: None,
            astray: None,
            errands: BTreeMap::new(),
        }
    }
}

impl World {
    /// Starts an agent's process with what its disk has.
    pub(super) fn start_agent(&mut self, host: usize) {
        let now = self.clock(host);
        let name = self.setup.hosts[host].0.clone();
        let mutants = self.mutation.and_then(Mutation::rule);
        let mut stored = self.agents[host].disk.clone();
        if self.mutation == Some(Mutation::RestartForgetsGrants) {
            stored.largest_lease = Millis::ZERO;
        }
        let agent = &mut self.agents[host];
        agent.up = true;
        agent.life += 1;
        agent.coordinator = match mutants {
            Some(rule) => Coordinator::with_mutants(name, mesh_failover::mutants::Mutants::one(rule)),
            None => Coordinator::new(name),
        };
        agent.granter = Granter::restarted(now, stored, CLOCK_BOUNDS);
        agent.leading = None;
        agent.seen.clear();
        agent.heard.clear();
        agent.generation = 0;
        agent.ticked = None;
        agent.starved = None;
        agent.astray = None;
        if self.mutation == Some(Mutation::ErrandsForgotten) {
            agent.errands.clear();
        }
        let life = agent.life;
        self.say(|| format!("{} starts", self_name(host)));
        // A restarted agent may know less of the commits than it had applied.
        if life > 1 && self.rng.chance(300) {
            let back = self.agents[host].applied.saturating_sub(self.rng.range(0, 6)).max(3);
            self.rebuild(host, back);
        }
        self.after(0, Event::Apply { host });
        let jitter = self.rng.range(0, us(self.setup.timing.probe));
        self.after(jitter, Event::AgentTick { host, life });
    }

    fn rebuild(&mut self, host: usize, up_to: u64) {
        let mut state = MeshState::default();
        for index in 1..=up_to {
            if let Some(entry) = &self.raft.entries[index as usize - 1].entry
                && let Err(why) = state.apply(index, entry)
            {
                self.fail(format!("the log does not apply again: {why}"));
            }
        }
        self.agents[host].state = state;
        self.agents[host].applied = up_to;
    }

    /// Kills an agent's process.
    pub(super) fn kill_agent(&mut self, host: usize) {
        let agent = &mut self.agents[host];
        agent.up = false;
        agent.life += 1;
        agent.leading = None;
        self.say(|| format!("agent {host} is killed"));
    }

    /// Probes every instance, reports to everybody.
    pub(super) fn agent_tick(&mut self, host: usize, life: u64) {
        if !self.agents[host].up || self.agents[host].life != life {
            return;
        }
        let now = self.clock(host);
        let timing = self.setup.timing.clone();
        let last = self.agents[host].ticked.replace(now);
        if last.is_some_and(|last| now.since(last) > timing.probe.times(2)) {
            self.agents[host].starved = Some(now);
        }
        for instance in 0..self.servers.len() {
            let seen = self.probe(host, instance);
            let agent = &mut self.agents[host];
            let before = agent.seen.get(&instance).and_then(|probe| probe.lost_since);
            let lost_since = seen.is_lost().then(|| before.unwrap_or(now));
            agent.seen.insert(instance, Probe { seen, at: now, lost_since });
        }
        self.learn_electorate(host);
        let report = self.report(host, now);
        for to in 0..self.hosts.len() {
            let message = Message::Report { report: Box::new(report.clone()) };
            self.send(host, to, message);
        }
        let delay = us(timing.probe) + self.rng.range(0, ms(10));
        self.after(delay, Event::AgentTick { host, life });
    }

    fn probe(&self, host: usize, instance: usize) -> Seen {
        let there = self.host(instance);
        let server = &self.servers[instance];
        if !self.hosts[there].up || !self.net.talks(host, there) {
            return Seen::Unreachable;
        }
        if self.hosts[there].frozen {
            return Seen::TimedOut;
        }
        match server.processes {
            super::postgres::Processes::None | super::postgres::Processes::Orphans => Seen::Refused,
            super::postgres::Processes::Starting => Seen::Starting,
            super::postgres::Processes::Primary | super::postgres::Processes::Standby
                if server.frozen || server.hung =>
            {
                Seen::TimedOut
            }
            super::postgres::Processes::Primary => Seen::Writable { epoch: Some(server.epoch) },
            super::postgres::Processes::Standby => Seen::ReadOnly,
        }
    }

    fn report(&mut self, host: usize, now: Moment) -> Report {
        let fresh = self.setup.timing.fresh;
        let instances = self.setup.instances.clone();
        let group = self.group_name().clone();
        let names: Vec<_> = self.setup.hosts.iter().map(|(agent, _)| agent.clone()).collect();
        let routes = self.look_at_proxy(host, now);
        let agent = &mut self.agents[host];
        agent.generation += 1;
        Report {
            agent: names[host].clone(),
            boot: agent.life,
            generation: agent.generation,
            sightings: instances
                .iter()
                .enumerate()
                .filter_map(|(at, (instance, _))| {
                    let probe = agent.seen.get(&at)?;
                    Some(Sighting {
                        group: group.clone(),
                        instance: instance.clone(),
                        seen: probe.seen,
                        age: now.since(probe.at),
                        lost_for: probe.lost_since.map(|since| now.since(since)),
                    })
                })
                .collect(),
            reaches: agent
                .heard
                .iter()
                .filter(|(other, at)| **other != host && now.since(**at) <= fresh)
                .map(|(other, _)| names[*other].clone())
                .collect(),
            starved: agent.starved.map(|at| now.since(at)),
            routes,
            electorate: agent.granter.known_electorate(),
            edition: mesh_proto::edition::EDITION,
        }
    }

    /// A leading agent carries out what its coordinator wants.
    pub(super) fn agent_poll(&mut self, host: usize, life: u64) {
        let agent = &self.agents[host];
        if !agent.up || agent.life != life {
            return;
        }
        let Some(term) = agent.leading else { return };
        let now = self.clock(host);
        let agent = &mut self.agents[host];
        let todo = agent.coordinator.poll(now, agent.applied, &agent.state);
        for what in todo {
            self.carry_out(host, term, what);
        }
        // The permission to lead is bounded: without a majority it ends by itself (DESIGN: never "I am leader").
        let heard = self.agents[host].majority_at;
        if self.now.saturating_sub(heard) > ms(1_000) {
            self.step_down(host);
            return;
        }
        self.after(POLL, Event::AgentPoll { host, life });
    }

    pub(super) fn step_down(&mut self, host: usize) {
        self.agents[host].leading = None;
        self.agents[host].coordinator.follow();
        self.say(|| format!("agent {host} leads no more"));
    }

    fn carry_out(&mut self, host: usize, term: u64, what: Todo) {
        let life = self.agents[host].life;
        match what {
            Todo::Propose { group, ticket, actor, commands } => {
                let by = self.setup.hosts[host].0.clone();
                let entry = Entry { by, actor, at: Wall(self.now / 1_000), commands };
                self.propose(host, term, group, ticket, entry);
            }
            Todo::Pledge { to, request } => {
                self.say(|| format!("{host} asks voter {to} to pledge, durable {}", request.durable));
                self.send(host, host_of(to), Message::Pledge { from: host, life, request });
            }
            Todo::Execute { to, order } => {
                let to = match to {
                    Executor::Guard { instance, .. } => {
                        self.setup.instance(&instance).map(|at| (self.host(at), OrderTo::Guard(at)))
                    }
                    Executor::Agent(agent) => {
                        let at = self.setup.hosts.iter().position(|(name, _)| *name == agent);
                        at.map(|at| (at, OrderTo::Agent(at)))
                    }
                };
                let Some((there, to)) = to else { return };
                self.check_asked_first(host, &order);
                let verify = if order.verify_only { "verify: " } else { "" };
                self.say(|| format!("{host} orders {} {verify}{}", order.step, order.effect));
                self.send(host, there, Message::Order { from: host, life, to, order });
            }
        }
    }

    pub(super) fn deliver(&mut self, to: usize, message: Message) {
        match message {
            Message::RenewReply { instance, life, round, reply } => {
                self.guard_reply(instance, life, round, &reply);
            }
            Message::Order { to: OrderTo::Guard(instance), .. } if self.guards[instance].deaf => {}
            Message::Order { from, life, to: OrderTo::Guard(instance), order } => {
                if self.guards[instance].up {
                    self.guard_order(instance, from, life, *order);
                } else {
                    self.not_delivered(to, from, life, order);
                }
            }
            Message::Order { from, life, to: OrderTo::Agent(host), order } => {
                if self.agents[host].up {
                    let delay = self.rng.range(ms(1), ms(30));
                    let mine = self.agents[host].life;
                    let event = Event::RouteDone { host, life: mine, from, from_life: life, order };
                    self.after(delay, event);
                } else {
                    self.not_delivered(to, from, life, order);
                }
            }
            Message::Hold { from, life, round, to, request } => {
                self.asked_to_hold(to, (from, life, round), &request);
            }
            Message::HoldReply { instance, life, round, giver, answer } => {
                self.heard_promise(instance, life, round, &giver, answer);
            }
            Message::Renew { .. }
            | Message::Report { .. }
            | Message::Pledge { .. }
            | Message::PledgeReply { .. }
            | Message::OrderAnswer { .. } => self.deliver_to_agent(to, message),
        }
    }

    fn not_delivered(&mut self, host: usize, from: usize, life: u64, order: Box<Order>) {
        let outcome =
            Outcome::Refused { code: Refusal::NotDelivered, detail: "connection refused".to_owned() };
        self.send(host, from, Message::OrderAnswer { life, order, outcome });
    }

    fn deliver_to_agent(&mut self, host: usize, message: Message) {
        if !self.agents[host].up {
            return;
        }
        let now = self.clock(host);
        match message {
            Message::Renew { ref request, .. } => {
                self.agents[host].coordinator.heard_guard(now, request.status.clone());
                self.renew(host, 0, message);
            }
            Message::Report { report } => {
                if let Some(from) = self.setup.hosts.iter().position(|(name, _)| *name == report.agent) {
                    self.agents[host].heard.insert(from, now);
                }
                self.agents[host].coordinator.heard_report(now, *report);
            }
            Message::Pledge { from, life, request } => self.pledge(host, from, life, request),
            Message::PledgeReply { life, request, reply } => {
                if self.agents[host].life == life {
                    self.agents[host].coordinator.pledge_reply(now, &request, &reply);
                }
            }
            Message::OrderAnswer { life, order, outcome } => {
                if self.agents[host].life == life {
                    self.say(|| format!("{host} hears of {}: {outcome:?}", order.step));
                    self.heard_of(host, &order, &outcome);
                    let group = order.group.clone();
                    self.agents[host].coordinator.executed(now, &group, order.step, outcome);
                }
            }
            Message::RenewReply { .. }
            | Message::Order { .. }
            | Message::Hold { .. }
            | Message::HoldReply { .. } => {}
        }
    }

    /// Applies what is committed and known here; answers who proposed it; begins to lead.
    pub(super) fn apply(&mut self, host: usize) {
        if !self.agents[host].up || !self.raft.reaches_log(self, host) {
            return;
        }
        let now = self.clock(host);
        while (self.agents[host].applied as usize) < self.raft.entries.len() {
            let index = self.agents[host].applied + 1;
            let logged = self.raft.entries[index as usize - 1].clone();
            let agent = &mut self.agents[host];
            agent.applied = index;
            agent.term = agent.term.max(logged.term);
            let Some(entry) = logged.entry else { continue };
            match agent.state.apply(index, &entry) {
                Ok(result) => {
                    if let Some((by, life, group, ticket)) = logged.proposal
                        && by == host
                        && life == agent.life
                    {
                        agent.coordinator.proposed(group.as_ref(), ticket, &ProposalResult::Applied(result));
                    }
                }
                Err(why) => {
                    self.fail(format!("agent {host} cannot apply entry {index}: {why}"));
                    return;
                }
            }
        }
        if self.raft.leader == Some(host)
            && self.agents[host].leading != Some(self.raft.term)
            && self.agents[host].applied >= self.raft.led_from
        {
            let term = self.raft.term;
            let agent = &mut self.agents[host];
            agent.term = term;
            agent.leading = Some(term);
            agent.majority_at = self.now;
            agent.coordinator.lead(now, term);
            let life = agent.life;
            self.say(|| format!("agent {host} leads in term {term}"));
            self.after(0, Event::AgentPoll { host, life });
        }
    }
}

fn self_name(host: usize) -> String {
    format!("agent {host}")
}
