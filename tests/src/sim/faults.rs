//! What goes wrong, at random: processes and hosts die, stop, come back; disks hang or fill; the network is cut, in one
//! direction or both, or loses; leaders change; operators ask for things at the wrong moment.

use mesh_failover::coordinator::Request;
use mesh_failover::plan::Wish;
use mesh_failover::state::wants_a_primary;
use mesh_proto::command::{Command, Entry};
use mesh_proto::lease::StatusRef;
use mesh_proto::quorum::DegradedBy;
use mesh_proto::run::{Actor, RunKind, Signal};
use mesh_proto::{GroupName, Millis, RunId, Wall};

use super::clock::{Time, ms};
use super::postgres::Processes;
use super::world::{Event, World};

/// How the faults of a run are drawn.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Plan {
    /// Pause between two faults, in microseconds: least and most.
    pub pause: (Time, Time),
    /// Longest that a fault lasts.
    pub lasts: Time,
}

/// The end of a fault.
#[derive(Debug, Clone, Copy)]
pub(super) enum Undo {
    StartAgent(usize),
    StartGuard(usize),
    StartHost(usize),
    Thaw(usize),
    Continue(usize),
    Unhang(usize),
    Heal,
    Disks(usize),
    GuardDisk(usize),
    Unstall(usize),
    /// A guard is killed, and comes back at once.
    RestartGuard(usize),
    /// A person asks for another primary.
    AskFailover,
}

impl World {
    pub(super) fn fault(&mut self) {
        if !self.faulty {
            return;
        }
        if self.now < self.story_until {
            self.after(self.story_until - self.now, Event::Fault);
            return;
        }
        let (low, high) = self.faults.pause;
        let pause = self.rng.range(low, high);
        self.after(pause, Event::Fault);
        let lasts = self.rng.range(ms(50), self.faults.lasts);
        let hosts = self.hosts.len();
        let host = self.rng.below(hosts);
        let instance = self.likely_primary();
        self.perhaps_a_stranger(instance);
        self.perhaps_other_voters();
        self.perhaps_a_lost_majority(instance, lasts);
        if self.now < self.story_until {
            return;
        }
        let kinds = if self.setup.zero_loss() { 30 } else { 25 };
        match self.rng.below(kinds) {
            0 | 1 => self.kill_postmaster(instance),
            2 => self.stop_server(instance, lasts),
            3 => self.hang_disk(instance, lasts),
            4 => self.crash_agent(host, lasts),
            5 => {
                let leader = self.raft.leader.unwrap_or(host);
                self.crash_agent(leader, lasts);
            }
            6 => {
                let leader = self.raft.leader;
                self.say(|| "an election for no reason".to_owned());
                self.elect(leader);
            }
            7 => {
                self.kill_guard(instance);
                self.after(lasts, Event::Undo(Undo::StartGuard(instance)));
            }
            8 | 9 => self.crash_host(host, lasts),
            10 => {
                let host = self.host(instance);
                self.crash_host(host, lasts);
            }
            11 | 12 => self.freeze_host(host, lasts),
            13 | 14 => self.partition(lasts),
            15 => {
                let home = self.host(instance);
                self.say(|| format!("host {home} is cut off"));
                self.net.split(&[home], hosts);
                self.after(lasts, Event::Undo(Undo::Heal));
            }
            16 => {
                let other = self.rng.below(hosts);
                self.say(|| format!("messages from {host} to {other} are lost"));
                self.net.cut(host, other);
                self.after(lasts, Event::Undo(Undo::Heal));
            }
            17 => {
                self.net.loss = self.rng.range(20, 400);
                self.net.twice = self.rng.range(0, 200);
                let loss = self.net.loss;
                self.say(|| format!("the network loses {loss} per mille"));
                self.after(lasts, Event::Undo(Undo::Heal));
            }
            18 => self.slow_disks(host, instance, lasts),
            19 | 20 => self.operator(),
            21 => self.cut_link(host, lasts),
            22 | 23 => self.cut_off_and_restart(instance, lasts),
            25 | 26 => self.restore_standby(lasts),
            27..=29 => self.stall(lasts),
            _ => self.pause_or_resume(),
        }
    }

    /// The primary more often than others.
    fn likely_primary(&mut self) -> usize {
        let primary = self.group().primary.as_ref().and_then(|p| self.setup.instance(&p.instance));
        match primary {
            Some(primary) if self.rng.chance(700) => primary,
            Some(_) | None => self.rng.below(self.servers.len()),
        }
    }

    pub(super) fn kill_postmaster(&mut self, instance: usize) {
        let orphans = self.rng.chance(600);
        let server = &mut self.servers[instance];
        match server.processes {
            Processes::Primary if orphans => {
                // The postmaster only: its backends go on.
                server.processes = Processes::Orphans;
            }
            Processes::Primary | Processes::Standby | Processes::Starting => server.kill(),
            Processes::None | Processes::Orphans => return,
        }
        self.servers[instance].died = true;
        self.say(|| format!("postmaster {instance} is killed"));
        self.tell_facts(instance);
    }

    pub(super) fn stop_server(&mut self, instance: usize, lasts: Time) {
        if self.servers[instance].processes == Processes::None {
            return;
        }
        self.say(|| format!("every process of server {instance} is stopped"));
        self.servers[instance].frozen = true;
        self.after(lasts, Event::Undo(Undo::Continue(instance)));
    }

    fn hang_disk(&mut self, instance: usize, lasts: Time) {
        self.say(|| format!("the disk of server {instance} hangs"));
        self.servers[instance].hung = true;
        self.after(lasts, Event::Undo(Undo::Unhang(instance)));
    }

    pub(super) fn crash_agent(&mut self, host: usize, lasts: Time) {
        if self.hosts[host].up && self.agents[host].up {
            self.kill_agent(host);
            self.after(lasts, Event::Undo(Undo::StartAgent(host)));
        }
    }

    pub(super) fn crash_host(&mut self, host: usize, lasts: Time) {
        if !self.hosts[host].up {
            return;
        }
        self.say(|| format!("host {host} dies"));
        let it = &mut self.hosts[host];
        it.up = false;
        it.frozen = false;
        it.deferred.clear();
        it.boot += 1;
        self.kill_agent(host);
        for instance in 0..self.servers.len() {
            if self.host(instance) == host {
                self.kill_guard(instance);
                self.servers[instance].kill();
                self.servers[instance].died = false;
                self.servers[instance].hung = false;
            }
        }
        self.after(lasts, Event::Undo(Undo::StartHost(host)));
    }

    fn freeze_host(&mut self, host: usize, lasts: Time) {
        if !self.hosts[host].up || self.hosts[host].frozen {
            return;
        }
        self.say(|| format!("host {host} freezes"));
        self.hosts[host].frozen = true;
        self.after(lasts, Event::Undo(Undo::Thaw(host)));
    }

    /// Everything that was due on a frozen host happens now. The guard and its leash come first: on a real host that
    /// takes a kernel-side deadline, and where there is none, status says so (PROTOCOL, The guard: thaw).
    fn thaw(&mut self, host: usize) {
        if !self.hosts[host].frozen {
            return;
        }
        self.say(|| format!("host {host} thaws"));
        self.hosts[host].frozen = false;
        let deferred = std::mem::take(&mut self.hosts[host].deferred);
        for instance in 0..self.servers.len() {
            if self.host(instance) == host {
                let now = self.clock(host);
                let guard = &self.guards[instance];
                let armed = guard.disk.as_ref().is_some_and(|disk| disk.armed);
                if armed && (!guard.up || guard.guard.held(now).is_none()) {
                    self.servers[instance].clients = false;
                }
                if self.guards[instance].up {
                    self.poll_guard(instance);
                }
            }
        }
        for event in deferred {
            self.after(0, event);
        }
    }

    fn partition(&mut self, lasts: Time) {
        let hosts = self.hosts.len();
        let side: Vec<usize> = (0..hosts).filter(|_| self.rng.chance(500)).collect();
        self.say(|| format!("hosts {side:?} are cut off from the others"));
        self.net.split(&side, hosts);
        self.after(lasts, Event::Undo(Undo::Heal));
    }

    /// Two sites lose the link between them; a third still reaches both.
    fn cut_link(&mut self, host: usize, lasts: Time) {
        let others: Vec<usize> = (0..self.hosts.len())
            .filter(|other| self.setup.hosts[*other].1 != self.setup.hosts[host].1)
            .collect();
        let Some(other) = self.rng.pick(&others) else { return };
        let (a, b) = (self.setup.hosts[host].1.clone(), self.setup.hosts[other].1.clone());
        self.say(|| format!("the link between {a} and {b} is cut"));
        for here in 0..self.hosts.len() {
            for there in 0..self.hosts.len() {
                let sites = (&self.setup.hosts[here].1, &self.setup.hosts[there].1);
                if sites == (&a, &b) || sites == (&b, &a) {
                    self.net.cut(here, there);
                }
            }
        }
        self.after(lasts, Event::Undo(Undo::Heal));
    }

    /// A primary's host is cut off, and what the other voters have in memory is lost: each restarts for a moment.
    fn cut_off_and_restart(&mut self, instance: usize, lasts: Time) {
        let home = self.host(instance);
        self.say(|| format!("host {home} is cut off, and the other agents restart"));
        self.net.split(&[home], self.hosts.len());
        self.after(lasts, Event::Undo(Undo::Heal));
        for host in (0..self.hosts.len()).filter(|host| *host != home) {
            let away = self.rng.range(ms(5), ms(150));
            self.crash_agent(host, away);
        }
    }

    fn slow_disks(&mut self, host: usize, instance: usize, lasts: Time) {
        let full = self.rng.chance(400);
        if self.rng.chance(600) {
            self.say(|| format!("the voter's disk on {host} is {}", if full { "full" } else { "slow" }));
            self.agents[host].disk_full = full;
            self.agents[host].disk_delay = (ms(50), ms(900));
            self.after(lasts, Event::Undo(Undo::Disks(host)));
        } else {
            self.say(|| format!("the disk of guard {instance} is {}", if full { "full" } else { "slow" }));
            self.guards[instance].disk_full = full;
            self.guards[instance].disk_delay = (ms(50), ms(900));
            self.after(lasts, Event::Undo(Undo::GuardDisk(instance)));
        }
    }

    /// Asks the leader for a run.
    pub(super) fn ask(&mut self, kind: RunKind, site: Option<usize>, accept_lag: bool) {
        self.ask_at_any_cost(kind, site, accept_lag, false);
    }

    /// The same, perhaps accepting the loss of acknowledged writes.
    pub(super) fn ask_at_any_cost(
        &mut self,
        kind: RunKind,
        site: Option<usize>,
        accept_lag: bool,
        accept_loss: bool,
    ) {
        let Some(leader) = self.raft.leader.filter(|leader| self.works(*leader)) else { return };
        let wish = Wish {
            kind,
            site: site.map(|host| self.setup.hosts[host].1.clone()),
            instance: None,
            actor: Actor::Operator("ann".to_owned()),
            reason: "because".to_owned(),
            lost_for: None,
            accept_lag,
            accept_loss,
        };
        self.say(|| format!("ann asks for a {kind} at {site:?}"));
        let group = self.group_name().clone();
        self.agents[leader].coordinator.request(&group, Request::Run(wish));
    }

    fn operator(&mut self) {
        let Some(leader) = self.raft.leader.filter(|leader| self.works(*leader)) else { return };
        let group = self.group_name().clone();
        let run = self.group().active_run().map(|run| run.id);
        let site = self.rng.chance(300).then(|| self.rng.below(self.hosts.len()));
        match (self.rng.below(8), run) {
            (0..=3, _) => self.ask(RunKind::Switchover, site, false),
            (4, _) => {
                let accept = self.rng.chance(500);
                self.ask(RunKind::Failover, site, accept);
            }
            (5, Some(run)) => {
                self.say(|| format!("ann aborts {run}"));
                self.agents[leader].coordinator.request(&group, Request::Abort(run, "stop".to_owned()));
            }
            (6, Some(run))
                if self.group().active_run().is_some_and(wants_a_primary) && self.rng.chance(500) =>
            {
                self.override_run(leader, run);
            }
            (6, Some(run)) => {
                self.agents[leader].coordinator.request(&group, Request::Retry(run, "again".to_owned()));
            }
            (_, _) => {
                if let Some((instance, _)) = self.rng.pick(&self.setup.instances) {
                    self.agents[leader].coordinator.request(&group, Request::Rejoin(instance));
                }
            }
        }
    }

    /// What `mesh failover --force` commits while a run is stuck.
    pub(super) fn override_run(&mut self, leader: usize, run: RunId) {
        let accept_loss = self.setup.zero_loss();
        let group = self.group_name().clone();
        let commands = vec![
            Command::RunOverridden {
                group: group.clone(),
                run,
                site: None,
                accept_loss,
                reason: "it costs more".to_owned(),
            },
            Command::Signalled {
                group: group.clone(),
                run,
                signal: Signal::Retry,
                detail: "it costs more".to_owned(),
                cause: None,
            },
        ];
        self.propose_for_ann(leader, group, commands);
    }

    fn propose_for_ann(&mut self, leader: usize, group: GroupName, commands: Vec<Command>) {
        let entry = Entry {
            by: self.setup.hosts[leader].0.clone(),
            actor: Actor::Operator("ann".to_owned()),
            at: Wall(self.now / 1_000),
            commands,
        };
        let term = self.raft.term;
        self.propose(leader, term, Some(group), 0, entry);
    }

    fn pause_or_resume(&mut self) {
        let Some(leader) = self.raft.leader.filter(|leader| self.works(*leader)) else { return };
        let group = self.group_name().clone();
        if self.setup.degrades() && self.rng.chance(500) {
            return self.degrade_or_end(leader, group);
        }
        if self.group().pause.is_some() {
            self.say(|| "ann resumes".to_owned());
            self.agents[leader].coordinator.request(&group, Request::Resume);
            return;
        }
        let Some(primary) = self.group().primary.as_ref().map(|p| p.instance.clone()) else { return };
        let heard = self.agents[leader].coordinator.heard.guard(&group, &primary);
        let counted_from =
            heard.map(|heard| StatusRef { guard: heard.said.guard.clone(), seq: heard.said.seq });
        let length = Millis(self.rng.range(1_000, 9_000));
        let command =
            Command::Paused { group: group.clone(), length, counted_from, reason: "work".to_owned() };
        self.propose_for_ann(leader, group, vec![command]);
    }

    /// Whether a person let commits go on without standbys.
    pub(super) fn degraded_by_hand(&self) -> bool {
        self.group().degraded.as_ref().is_some_and(|known| known.by == DegradedBy::Hand)
    }

    pub(super) fn end_degrade(&mut self) {
        let group = self.group_name().clone();
        if let Some(leader) = self.raft.leader.filter(|leader| self.works(*leader)) {
            self.degrade_or_end(leader, group);
        }
    }

    /// Ann lets commits go on without standbys, or has them wait again, whoever let them go.
    fn degrade_or_end(&mut self, leader: usize, group: GroupName) {
        let reason = "ann says so".to_owned();
        let command = match self.group().degraded.as_ref().map(|known| known.by) {
            Some(by) => Command::DegradeEnded { group: group.clone(), by, reason },
            None => Command::DegradeBegun { group: group.clone(), by: DegradedBy::Hand, reason },
        };
        self.say(|| format!("ann: {command:?}"));
        self.propose_for_ann(leader, group, vec![command]);
    }

    pub(super) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::StartAgent(host) if self.hosts[host].up && !self.agents[host].up => self.start_agent(host),
            Undo::StartGuard(at) if self.hosts[self.host(at)].up && !self.guards[at].up => {
                self.start_guard(at);
            }
            Undo::StartHost(host) if !self.hosts[host].up => {
                self.say(|| format!("host {host} boots"));
                self.hosts[host].up = true;
                self.start_agent(host);
                for instance in 0..self.servers.len() {
                    if self.host(instance) == host {
                        self.start_guard(instance);
                        self.perhaps_a_stranger(instance);
                    }
                }
            }
            Undo::StartAgent(_) | Undo::StartGuard(_) | Undo::StartHost(_) => {}
            Undo::Thaw(host) => self.thaw(host),
            Undo::Continue(instance) => self.servers[instance].frozen = false,
            Undo::Unhang(instance) => self.servers[instance].hung = false,
            Undo::Heal if self.now < self.story_until => {
                self.after(self.story_until - self.now, Event::Undo(Undo::Heal));
            }
            Undo::Heal => {
                self.say(|| "the network is well".to_owned());
                self.net.heal();
                self.unblock();
            }
            Undo::RestartGuard(instance) => self.restart_guard(instance),
            Undo::AskFailover => self.ask_for_another(),
            Undo::Unstall(instance) => self.servers[instance].stalled = false,
            Undo::Disks(host) => {
                self.agents[host].disk_full = false;
                self.agents[host].disk_delay = (ms(1), ms(8));
            }
            Undo::GuardDisk(instance) => {
                self.guards[instance].disk_full = false;
                self.guards[instance].disk_delay = (ms(1), ms(6));
            }
        }
    }

    /// Faults stop, and everything that was broken is mended.
    pub(super) fn heal_everything(&mut self) {
        self.say(|| "FAULTS STOP".to_owned());
        self.faulty = false;
        self.story_until = 0;
        self.net.heal();
        self.unblock();
        for host in 0..self.hosts.len() {
            self.undo(Undo::Thaw(host));
            self.undo(Undo::StartHost(host));
            self.undo(Undo::StartAgent(host));
            self.undo(Undo::Disks(host));
        }
        for instance in 0..self.servers.len() {
            self.undo(Undo::Continue(instance));
            self.undo(Undo::Unhang(instance));
            self.undo(Undo::Unstall(instance));
            self.undo(Undo::GuardDisk(instance));
            self.undo(Undo::StartGuard(instance));
        }
        self.raft.prefer = None;
    }
}
