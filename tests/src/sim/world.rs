//! The whole mesh in one thread: hosts with their clocks, agents, guards, servers, a network, a log and a route; and one
//! queue of events. Everything that happens is an event, so a seed gives the same run for ever.

use std::collections::BTreeMap;

use mesh_proto::effect::{Order, Outcome};
use mesh_proto::evidence::Report;
use mesh_proto::hold::{HoldAnswer, HoldRequest};
use mesh_proto::lease::{PledgeReply, PledgeRequest, RenewReply, RenewRequest};
use mesh_proto::{Epoch, GroupName, InstanceName};

use super::agent::Agent;
use super::checks::Checks;
use super::clock::{HostClock, Time, ms};
use super::guard::GuardHost;
use super::mutant::Mutation;
use super::net::Net;
use super::oracle::Oracle;
use super::postgres::Postgres;
use super::raft::Raft;
use super::rng::Rng;
use super::setup::{SYSTEM_ID, Setup};
use super::steps::Injection;
use super::trace::Trace;
use mesh_failover::Moment;
use mesh_failover::state::MeshState;

/// A message between processes.
#[derive(Debug, Clone)]
pub(super) enum Message {
    Renew { instance: usize, life: u64, round: u64, request: Box<RenewRequest> },
    RenewReply { instance: usize, life: u64, round: u64, reply: Box<RenewReply> },
    Report { report: Box<Report> },
    Pledge { from: usize, life: u64, request: PledgeRequest },
    PledgeReply { life: u64, request: PledgeRequest, reply: PledgeReply },
    Order { from: usize, life: u64, to: OrderTo, order: Box<Order> },
    OrderAnswer { life: u64, order: Box<Order>, outcome: Outcome },
    Hold { from: usize, life: u64, round: u64, to: usize, request: Box<HoldRequest> },
    HoldReply { instance: usize, life: u64, round: u64, giver: InstanceName, answer: HoldAnswer },
}

/// Who executes an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OrderTo {
    Guard(usize),
    Agent(usize),
}

/// Something that happens.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Deliver {
        to: usize,
        message: Message,
    },
    /// An agent probes and reports.
    AgentTick {
        host: usize,
        life: u64,
    },
    /// A leading agent looks what to do.
    AgentPoll {
        host: usize,
        life: u64,
    },
    /// An agent applies what is committed.
    Apply {
        host: usize,
    },
    /// A voter waits for its log before it answers a renewal.
    RenewAgain {
        host: usize,
        life: u64,
        tries: u32,
        message: Box<Message>,
    },
    /// A voter's state reached its disk, or did not.
    VoterDisk {
        host: usize,
        life: u64,
        write: super::voter::Write,
    },
    /// A route's executor is done.
    RouteDone {
        host: usize,
        life: u64,
        from: usize,
        from_life: u64,
        order: Box<Order>,
    },
    /// A program of a service or hook is over.
    ErrandDone {
        host: usize,
        life: u64,
        from: usize,
        from_life: u64,
        order: Box<Order>,
        fails: bool,
    },
    GuardWake {
        instance: usize,
        life: u64,
        token: u64,
    },
    GuardFacts {
        instance: usize,
        life: u64,
        again: bool,
    },
    GuardDisk {
        instance: usize,
        life: u64,
        write: Box<mesh_failover::guard::GuardState>,
    },
    Task {
        instance: usize,
        life: u64,
        job: u64,
        stage: super::task::Stage,
    },
    Leash {
        instance: usize,
        token: u64,
    },
    /// Somebody else than its guard starts a server.
    Stranger {
        instance: usize,
    },
    Gate {
        instance: usize,
        server: u64,
        set: bool,
    },
    /// A commit quorum comes into force.
    Quorum {
        instance: usize,
        server: u64,
        version: u64,
    },
    Stream,
    Raft,
    Commit {
        proposal: u64,
    },
    ProposalLost {
        proposal: u64,
    },
    Client,
    Fault,
    Undo(super::faults::Undo),
    Watch,
}

/// One host.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub clock: HostClock,
    pub up: bool,
    /// Every process is stopped until then; the clock runs.
    pub frozen: bool,
    /// What should have happened on it meanwhile.
    pub deferred: Vec<Event>,
    pub boot: u64,
}

/// What the proxy does: outside every agent, it keeps its setting when the agent beside it dies.
#[derive(Debug, Clone, Default)]
pub(super) struct Proxy {
    pub leads_to: Option<usize>,
    pub epoch: Epoch,
}

/// The world.
#[derive(Debug)]
pub struct World {
    pub(super) now: Time,
    pub(super) rng: Rng,
    pub(super) setup: Setup,
    pub(super) net: Net,
    pub(super) hosts: Vec<Host>,
    pub(super) agents: Vec<Agent>,
    pub(super) guards: Vec<GuardHost>,
    pub(super) servers: Vec<Postgres>,
    pub(super) proxy: Proxy,
    pub(super) programs: super::errands::Programs,
    pub(super) raft: Raft,
    /// The state that everything committed so far gives.
    pub(super) truth: MeshState,
    pub(super) oracle: Oracle,
    pub(super) checks: Checks,
    pub(super) trace: Trace,
    pub(super) mutation: Option<Mutation>,
    pub(super) injection: Injection,
    /// Faults still come.
    pub(super) faulty: bool,
    /// Until then no other fault comes, and none is mended.
    pub(super) story_until: Time,
    /// Servers are started by others than their guards.
    pub(super) strangers: bool,
    pub(super) faults: super::faults::Plan,
    queue: BTreeMap<(Time, u64), Event>,
    order: u64,
    fresh: u64,
    /// Why the run failed.
    pub(super) failure: Option<String>,
}

impl World {
    /// A healthy mesh, just founded.
    #[must_use]
    pub fn new(setup: Setup, seed: u64, mutation: Option<Mutation>, trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let hosts = setup
            .hosts
            .iter()
            .map(|_| {
                let ppm = super::clock::DRIFT_PPM_MAX * (rng.range(0, 2) as i64 - 1);
                let clock = HostClock::new(rng.range(ms(5_000), ms(900_000)), ppm);
                Host { clock, up: true, frozen: false, deferred: Vec::new(), boot: 1 }
            })
            .collect();
        let delay = (rng.range(100, 2_000), rng.range(2_000, 12_000));
        let mut world = Self {
            now: 0,
            net: Net::new(delay),
            hosts,
            agents: Vec::new(),
            guards: Vec::new(),
            servers: Vec::new(),
            proxy: Proxy { leads_to: Some(0), epoch: Epoch(0) },
            programs: super::errands::Programs::default(),
            raft: Raft::default(),
            truth: MeshState::default(),
            oracle: Oracle::default(),
            checks: Checks::default(),
            trace: Trace::new(trace),
            mutation,
            injection: Injection::default(),
            faulty: false,
            story_until: 0,
            strangers: false,
            faults: super::faults::Plan::default(),
            queue: BTreeMap::new(),
            order: 0,
            fresh: 0,
            failure: None,
            rng,
            setup,
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        for host in 0..self.hosts.len() {
            self.agents.push(Agent::new(self, host));
        }
        for instance in 0..self.setup.instances.len() {
            self.servers.push(Postgres::new());
            let server = &mut self.servers[instance];
            for record in 0..10 {
                server.write(0, record);
            }
            server.processes = match instance {
                0 => super::postgres::Processes::Primary,
                _ => super::postgres::Processes::Standby,
            };
            server.clients = true;
            server.signal = instance > 0;
            server.upstream = (instance > 0).then_some(0);
        }
        for instance in 0..self.setup.instances.len() {
            let guard = GuardHost::new(self, instance);
            self.guards.push(guard);
            if instance > 0 {
                self.name_standby(instance, Epoch(1));
            }
        }
        let first = self.guards[0].guard.state().clone();
        for entry in self.setup.founding(&first.data, &first.guard) {
            self.append(Some(entry), None);
        }
        for host in 0..self.hosts.len() {
            self.start_agent(host);
        }
        for instance in 0..self.setup.instances.len() {
            self.started_guard(instance);
        }
        self.after(0, Event::Raft);
        self.after(ms(5), Event::Stream);
        self.after(ms(7), Event::Client);
        self.after(ms(11), Event::Watch);
    }

    /// The group as everything committed so far has it.
    pub(super) fn group(&self) -> &mesh_failover::state::Group {
        &self.truth.groups[self.setup.group()]
    }

    pub(super) const fn group_name(&self) -> &GroupName {
        self.setup.group()
    }

    /// The system identifier of every server.
    pub(super) const fn system_id(&self) -> u64 {
        SYSTEM_ID
    }

    /// A number that was never used before.
    pub(super) const fn fresh(&mut self) -> u64 {
        self.fresh += 1;
        self.fresh
    }

    /// What a host's clock shows.
    pub(super) fn clock(&self, host: usize) -> Moment {
        self.hosts[host].clock.at(self.now)
    }

    /// The host of an instance.
    pub(super) fn host(&self, instance: usize) -> usize {
        self.setup.instances[instance].1
    }

    pub(super) fn after(&mut self, delay: Time, event: Event) {
        self.order += 1;
        self.queue.insert((self.now + delay, self.order), event);
    }

    /// A violation: the first one is what the run failed by.
    pub(super) fn fail(&mut self, why: String) {
        if self.failure.is_none() {
            self.say(|| format!("VIOLATION {why}"));
            self.failure = Some(why);
        }
    }

    pub(super) fn say(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        self.trace.line(now, line);
    }

    /// Sends a message between hosts.
    pub(super) fn send(&mut self, from: usize, to: usize, message: Message) {
        for delay in self.net.deliveries(&mut self.rng, from, to) {
            self.after(delay, Event::Deliver { to, message: message.clone() });
        }
    }

    /// Whether an instance could acknowledge a write right now.
    pub(super) fn able(&self, instance: usize) -> bool {
        let host = &self.hosts[self.host(instance)];
        host.up && !host.frozen && self.servers[instance].can_acknowledge()
    }

    /// Goes on until `until`, or until something is wrong.
    pub(super) fn run_until(&mut self, until: Time) {
        while self.failure.is_none() && self.step(until) {}
    }

    /// The next event, if it comes before `until`.
    pub(super) fn step(&mut self, until: Time) -> bool {
        let Some(((at, _), _)) = self.queue.first_key_value() else { return false };
        if *at > until {
            self.now = until;
            return false;
        }
        let Some(((at, _), event)) = self.queue.pop_first() else { return false };
        self.now = self.now.max(at);
        self.handle(event);
        self.check_step();
        true
    }

    fn handle(&mut self, event: Event) {
        if let Some(host) = self.place(&event) {
            if !self.hosts[host].up {
                self.bounce(event);
                return;
            }
            if self.hosts[host].frozen {
                self.hosts[host].deferred.push(event);
                return;
            }
        }
        match event {
            Event::Deliver { to, message } => self.deliver(to, message),
            Event::AgentTick { host, life } => self.agent_tick(host, life),
            Event::AgentPoll { host, life } => self.agent_poll(host, life),
            Event::Apply { host } => self.apply(host),
            Event::RenewAgain { host, life, tries, message } => {
                self.renew_again(host, life, tries, *message);
            }
            Event::VoterDisk { host, life, write } => self.voter_disk(host, life, write),
            Event::RouteDone { host, life, from, from_life, order } => {
                self.route_done(host, life, (from, from_life), *order);
            }
            Event::ErrandDone { host, life, from, from_life, order, fails } => {
                self.errand_done(host, life, (from, from_life), *order, fails);
            }
            Event::GuardWake { instance, life, token } => self.guard_wake(instance, life, token),
            Event::GuardFacts { instance, life, again } => self.guard_facts(instance, life, again),
            Event::GuardDisk { instance, life, write } => self.guard_disk(instance, life, *write),
            Event::Task { instance, life, job, stage } => self.task_stage(instance, life, job, stage),
            Event::Leash { instance, token } => self.leash_pulls(instance, token),
            Event::Stranger { instance } => self.stranger_starts(instance),
            Event::Gate { instance, server, set } => self.gate(instance, server, set),
            Event::Quorum { instance, server, version } => self.quorum_in_force(instance, server, version),
            Event::Stream => self.stream(),
            Event::Raft => self.raft_tick(),
            Event::Commit { proposal } => self.commit(proposal),
            Event::ProposalLost { proposal } => self.proposal_lost(proposal),
            Event::Client => self.client(),
            Event::Fault => self.fault(),
            Event::Undo(undo) => self.undo(undo),
            Event::Watch => self.watch(),
        }
    }

    /// The host on which an event happens, if it is one that a stopped host does not see.
    fn place(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Deliver { to, .. } => Some(*to),
            Event::AgentTick { host, .. }
            | Event::AgentPoll { host, .. }
            | Event::Apply { host }
            | Event::RenewAgain { host, .. }
            | Event::VoterDisk { host, .. }
            | Event::ErrandDone { host, .. }
            | Event::RouteDone { host, .. } => Some(*host),
            Event::GuardWake { instance, .. }
            | Event::GuardFacts { instance, .. }
            | Event::GuardDisk { instance, .. }
            | Event::Task { instance, .. }
            | Event::Gate { instance, .. }
            | Event::Quorum { instance, .. }
            | Event::Stranger { instance }
            | Event::Leash { instance, .. } => Some(self.host(*instance)),
            Event::Stream
            | Event::Raft
            | Event::Commit { .. }
            | Event::ProposalLost { .. }
            | Event::Client
            | Event::Fault
            | Event::Undo(_)
            | Event::Watch => None,
        }
    }

    /// A host that is down answers nothing.
    fn bounce(&mut self, event: Event) {
        drop(event);
    }
}
