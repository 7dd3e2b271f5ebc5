//! The runtime around the real guard: its disk, its leash, its clock and messages. Every restart is a new process with
//! what the disk kept.

use std::collections::BTreeMap;

use mesh_failover::guard::{
    Action, CommitGate, Fresh, Guard, GuardConfig, GuardState, Leash, LocalFacts, Task, TaskResult,
};
use mesh_failover::mutants::Mutants;
use mesh_proto::effect::Order;
use mesh_proto::evidence::{ProcessState, Receiving, WriteProbe};
use mesh_proto::lease::{Electorate, RenewReply};
use mesh_proto::{DataIncarnation, GuardIncarnation, Millis};

use super::clock::{Time, ms, us};
use super::mutant::Mutation;
use super::postgres::Processes;
use super::setup::{host_of, node};
use super::world::{Event, Message, World};

/// A guard's process and disk.
#[derive(Debug)]
pub(super) struct GuardHost {
    pub up: bool,
    pub life: u64,
    pub guard: Guard,
    /// What is on its disk.
    pub disk: Option<GuardState>,
    pub disk_delay: (Time, Time),
    pub disk_full: bool,
    /// The task that runs.
    pub running: Option<(u64, Task)>,
    pub leash: Leash,
    leash_token: u64,
    wake_token: u64,
    /// Who asked what, by the guard's id for it.
    orders: BTreeMap<u64, (usize, u64, Box<Order>)>,
    next_order: u64,
    /// Who asked for a promise (instance, life, round), by the guard's id for it.
    pub promises: BTreeMap<u64, (usize, u64, u64)>,
    /// No voter hears it.
    pub blocked: bool,
    /// No order of an agent reaches it.
    pub deaf: bool,
}

impl GuardHost {
    pub(super) fn new(world: &mut World, instance: usize) -> Self {
        let guard = start(world, instance, None);
        Self {
            up: false,
            life: 0,
            guard,
            disk: None,
            disk_delay: (ms(1), ms(6)),
            disk_full: false,
            running: None,
            leash: Leash::Off,
            leash_token: 0,
            wake_token: 0,
            orders: BTreeMap::new(),
            next_order: 1,
            promises: BTreeMap::new(),
            blocked: false,
            deaf: false,
        }
    }
}

fn start(world: &mut World, instance: usize, disk: Option<GuardState>) -> Guard {
    let host = world.host(instance);
    let config = GuardConfig {
        group: world.group_name().clone(),
        instance: world.setup.instances[instance].0.clone(),
        engine: mesh_proto::spec::Engine::Postgres,
        public_key: "sim".to_owned(),
        timing: world.setup.timing.clone(),
        electorate: first_electorate(world),
    };
    let number = world.fresh();
    let fresh = Fresh {
        boot: format!("boot-{host}-{}", world.hosts[host].boot),
        guard: GuardIncarnation(format!("g{instance}.{number}")),
        data: DataIncarnation(format!("d{instance}.{number}")),
    };
    match Guard::start(world.clock(host), config, disk, fresh) {
        Ok(guard) => match world.mutation.and_then(Mutation::rule) {
            Some(rule) => guard.with_mutants(Mutants::one(rule)),
            None => guard,
        },
        Err(why) => panic!("{why}"),
    }
}

/// As the host's file names it: older than whatever the log says, where that changes.
fn first_electorate(world: &World) -> Electorate {
    if world.setup.elects {
        Electorate::of(0, (0..3).map(node))
    } else {
        Electorate::of(1, (0..world.hosts.len()).map(node))
    }
}

impl World {
    /// Starts a guard's process.
    pub(super) fn start_guard(&mut self, instance: usize) {
        let disk = self.guards[instance].disk.clone();
        self.guards[instance].guard = start(self, instance, disk);
        self.started_guard(instance);
    }

    pub(super) fn started_guard(&mut self, instance: usize) {
        let guard = &mut self.guards[instance];
        guard.up = true;
        guard.life += 1;
        guard.running = None;
        guard.orders.clear();
        guard.promises.clear();
        guard.leash = Leash::Off;
        guard.leash_token += 1;
        let life = guard.life;
        self.say(|| format!("guard {instance} starts"));
        self.after(0, Event::GuardFacts { instance, life, again: true });
    }

    /// Kills a guard's process; its leash then kills the server.
    pub(super) fn kill_guard(&mut self, instance: usize) {
        let guard = &mut self.guards[instance];
        if !guard.up {
            return;
        }
        guard.up = false;
        guard.life += 1;
        guard.leash_token += 1;
        guard.running = None;
        let (token, leash) = (guard.leash_token, guard.leash);
        self.say(|| format!("guard {instance} is killed, its leash is {leash:?}"));
        match leash {
            Leash::Off => {}
            Leash::Bound | Leash::Until(_) | Leash::Now => {
                let delay = self.rng.range(ms(1), ms(40));
                self.after(delay, Event::Leash { instance, token });
            }
        }
    }

    pub(super) fn leash_pulls(&mut self, instance: usize, token: u64) {
        if self.guards[instance].leash_token == token {
            self.say(|| format!("the leash of {instance} kills the server"));
            if self.servers[instance].processes != Processes::None {
                self.servers[instance].kill();
                self.tell_facts(instance);
            }
        }
    }

    /// The guard sees its server at once (its death comes by pidfd).
    pub(super) fn tell_facts(&mut self, instance: usize) {
        let life = self.guards[instance].life;
        let delay = self.rng.range(ms(1), ms(12));
        self.after(delay, Event::GuardFacts { instance, life, again: false });
    }

    pub(super) fn guard_facts(&mut self, instance: usize, life: u64, again: bool) {
        if !self.guards[instance].up || self.guards[instance].life != life {
            return;
        }
        self.write_probe(instance);
        self.feed_facts(instance);
        self.poll_guard(instance);
        if again {
            let delay = us(self.setup.timing.probe);
            self.after(delay, Event::GuardFacts { instance, life, again: true });
        }
    }

    /// The guard's own write, at level `local`, every probe interval.
    fn write_probe(&mut self, instance: usize) {
        let now = self.now;
        let content = self.fresh();
        let server = &mut self.servers[instance];
        if server.processes != Processes::Primary {
            server.probe_waits = None;
        } else if server.frozen || server.hung {
            server.probe_waits.get_or_insert(now);
        } else {
            server.probe_waits = None;
            server.probe_ok = now;
            server.write(now, content);
        }
    }

    pub(super) fn feed_facts(&mut self, instance: usize) {
        let host = self.host(instance);
        let server = &self.servers[instance];
        let waiting = server.probe_waits.map(|since| Millis((self.now - since) / 1_000));
        let probe = match (server.processes, waiting) {
            (Processes::Primary, Some(waiting)) => WriteProbe::Late { waiting },
            (Processes::Primary, None) => {
                WriteProbe::Ok { age: Millis((self.now - server.probe_ok) / 1_000) }
            }
            (Processes::None | Processes::Starting | Processes::Standby | Processes::Orphans, _) => {
                WriteProbe::NotApplicable
            }
        };
        let runs = matches!(server.processes, Processes::Primary | Processes::Standby);
        let mut process = server.process_state();
        if process == ProcessState::Unresponsive && waiting.is_some_and(|w| w.0 < 500) {
            process = ProcessState::Primary;
        }
        // A build whose freeze is not final takes the receiver for cut.
        let hidden = self.mutation == Some(Mutation::FreezeNotFinal)
            && self.guards[instance].guard.state().frozen.is_some();
        let facts = LocalFacts {
            process,
            system_id: Some(self.system_id()),
            position: (runs && server.answers()).then(|| server.position()),
            receiving: (server.processes == Processes::Standby).then(|| Receiving {
                streaming: server.streaming && !hidden,
                from: server
                    .upstream
                    .filter(|_| !hidden)
                    .map(|up| self.setup.spec.instances[up].address.to_string()),
                advanced: Millis((self.now - server.advanced) / 1_000),
                name: server.name.as_ref().map(|(member, epoch)| member.application_name(*epoch)),
            }),
            write_probe: probe,
            disks: Vec::new(),
            commit_gate: if server.gated { CommitGate::InForce } else { CommitGate::Open },
            clients_wait: server.recovered.is_some() && server.processes == Processes::Primary,
            quorum: server.sync.standing(),
            downgraded: Vec::new(),
            trouble: None,
            rival: None,
        };
        let now = self.clock(host);
        self.guards[instance].guard.handle_facts(now, facts);
    }

    pub(super) fn guard_wake(&mut self, instance: usize, life: u64, token: u64) {
        let guard = &self.guards[instance];
        if guard.up && guard.life == life && guard.wake_token == token {
            self.poll_guard(instance);
        }
    }

    pub(super) fn guard_reply(&mut self, instance: usize, life: u64, round: u64, reply: &RenewReply) {
        if !self.guards[instance].up || self.guards[instance].life != life {
            return;
        }
        let now = self.clock(self.host(instance));
        self.guards[instance].guard.handle_reply(now, round, reply);
        self.poll_guard(instance);
    }

    pub(super) fn guard_order(&mut self, instance: usize, from: usize, life: u64, order: Order) {
        if !self.accept_order(&order) {
            return;
        }
        let copies = self.inject_copies(&order);
        for _ in 0..copies {
            let now = self.clock(self.host(instance));
            let guard = &mut self.guards[instance];
            let id = guard.next_order;
            guard.next_order += 1;
            guard.orders.insert(id, (from, life, Box::new(order.clone())));
            guard.guard.handle_order(now, id, order.clone());
            self.poll_guard(instance);
        }
    }

    pub(super) fn guard_disk(&mut self, instance: usize, life: u64, state: GuardState) {
        let now = self.clock(self.host(instance));
        let guard = &mut self.guards[instance];
        if !guard.up || guard.life != life {
            return;
        }
        if guard.disk_full {
            guard.guard.handle_persist_failed(now);
        } else {
            let version = state.version;
            if guard.disk.as_ref().is_none_or(|disk| disk.version <= version) {
                guard.disk = Some(state);
            }
            guard.guard.handle_persisted(now, version);
        }
        self.poll_guard(instance);
    }

    /// Everything the guard wants now, and when it wants to be woken.
    pub(super) fn poll_guard(&mut self, instance: usize) {
        let host = self.host(instance);
        // A poll may make the next one useful at once; it never goes on for ever.
        let now = self.clock(host);
        let actions = self.guards[instance].guard.poll(now);
        for action in actions {
            self.act(instance, action);
        }
        let next = self.guards[instance].guard.next_wakeup(now);
        let clock = self.hosts[host].clock;
        let late = self.rng.range(0, ms(3));
        let guard = &mut self.guards[instance];
        guard.wake_token += 1;
        let (life, token) = (guard.life, guard.wake_token);
        let delay = clock.when(next).saturating_sub(self.now) + late;
        self.after(delay.max(200), Event::GuardWake { instance, life, token });
    }

    fn act(&mut self, instance: usize, action: Action) {
        let host = self.host(instance);
        let life = self.guards[instance].life;
        match action {
            Action::Leash(leash) => self.set_leash(instance, leash),
            Action::Persist(state) => {
                let (low, high) = self.guards[instance].disk_delay;
                let delay = self.rng.range(low, high);
                self.after(delay, Event::GuardDisk { instance, life, write: state });
            }
            Action::Ask { .. } if self.guards[instance].blocked => {}
            Action::Ask { round, voters, request } => {
                for voter in voters {
                    let request = request.clone();
                    let message = Message::Renew { instance, life, round, request };
                    self.send(host, host_of(voter), message);
                }
            }
            Action::AskHolders { round, to, request } => self.ask_holders(instance, round, &to, &request),
            Action::Promise { id, answer } => self.answer_holder(instance, id, answer),
            Action::GateCommits => self.gate_later(instance, true),
            Action::SetQuorum(config) => self.set_quorum(instance, *config),
            Action::UngateCommits => self.gate_later(instance, false),
            Action::Do { job, task, until } => self.begin_task(instance, job, task, until),
            Action::Answer { id, outcome } => {
                let Some((from, asker, order)) = self.guards[instance].orders.remove(&id) else { return };
                if self.inject_at_answer(&order, &outcome) {
                    return;
                }
                let message = Message::OrderAnswer { life: asker, order, outcome };
                self.send(host, from, message);
            }
        }
    }

    fn gate_later(&mut self, instance: usize, set: bool) {
        self.say(|| format!("guard {instance} {} commits", if set { "gates" } else { "ungates" }));
        let server = self.servers[instance].life;
        let delay = self.rng.range(ms(5), ms(60));
        self.after(delay, Event::Gate { instance, server, set });
    }

    pub(super) fn gate(&mut self, instance: usize, server: u64, set: bool) {
        let it = &mut self.servers[instance];
        if it.life == server && !it.frozen && !it.hung {
            it.gated = set;
            let life = self.guards[instance].life;
            self.after(0, Event::GuardFacts { instance, life, again: false });
        }
    }

    fn set_leash(&mut self, instance: usize, leash: Leash) {
        let clock = self.hosts[self.host(instance)].clock;
        let now = self.now;
        let guard = &mut self.guards[instance];
        guard.leash = leash;
        guard.leash_token += 1;
        let token = guard.leash_token;
        let lax = self.mutation == Some(Mutation::NoSelfFence);
        match leash {
            Leash::Off | Leash::Bound => {}
            Leash::Until(_) | Leash::Now if lax => {}
            Leash::Until(at) => {
                let delay = clock.when(at).saturating_sub(now) + self.rng.range(0, ms(10));
                self.after(delay, Event::Leash { instance, token });
            }
            Leash::Now => {
                let delay = self.rng.range(ms(1), ms(30));
                self.after(delay, Event::Leash { instance, token });
            }
        }
    }

    pub(super) fn task_over(&mut self, instance: usize, job: u64, result: TaskResult) {
        let now = self.clock(self.host(instance));
        self.say(|| format!("guard {instance}: {result:?}"));
        self.guards[instance].guard.handle_done(now, job, result);
        self.feed_facts(instance);
        self.poll_guard(instance);
    }
}
