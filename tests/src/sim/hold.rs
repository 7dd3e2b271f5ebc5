//! Groups that go on without a majority of voters: guards that ask each other, agents that are killed until no majority is
//! left, and what of promise 1 looks different then.

use mesh_failover::guard::Guard;
use mesh_proto::InstanceName;
use mesh_proto::hold::{GuardPeer, HoldAnswer, HoldRequest};
use mesh_proto::run::RunKind;
use mesh_proto::spec::MajorityLost;

use super::clock::{Time, ms, us};
use super::faults::Undo;
use super::setup::Setup;
use super::world::{Event, Message, World};

impl Setup {
    /// The group holds.
    #[must_use]
    pub fn with_hold(mut self) -> Self {
        self.spec.majority_lost = MajorityLost::Hold;
        self
    }

    /// Whether it holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.spec.majority_lost == MajorityLost::Hold
    }
}

impl World {
    /// A guard asks others for promises.
    pub(super) fn ask_holders(
        &mut self,
        instance: usize,
        round: u64,
        to: &[GuardPeer],
        request: &HoldRequest,
    ) {
        let (host, life) = (self.host(instance), self.guards[instance].life);
        for peer in to {
            let Some(other) = self.setup.instance(&peer.instance) else { continue };
            let request = Box::new(request.clone());
            let message = Message::Hold { from: instance, life, round, to: other, request };
            self.send(host, self.host(other), message);
        }
    }

    pub(super) fn asked_to_hold(&mut self, instance: usize, asker: (usize, u64, u64), request: &HoldRequest) {
        if !self.guards[instance].up {
            return;
        }
        let now = self.clock(self.host(instance));
        let id = self.fresh();
        self.guards[instance].promises.insert(id, asker);
        self.guards[instance].guard.handle_hold(now, id, request);
        self.poll_guard(instance);
    }

    pub(super) fn answer_holder(&mut self, instance: usize, id: u64, answer: HoldAnswer) {
        let Some((asker, life, round)) = self.guards[instance].promises.remove(&id) else { return };
        let giver = self.setup.instances[instance].0.clone();
        let message = Message::HoldReply { instance: asker, life, round, giver, answer };
        self.send(self.host(instance), self.host(asker), message);
    }

    pub(super) fn heard_promise(
        &mut self,
        instance: usize,
        life: u64,
        round: u64,
        giver: &InstanceName,
        answer: HoldAnswer,
    ) {
        if !self.guards[instance].up || self.guards[instance].life != life {
            return;
        }
        let now = self.clock(self.host(instance));
        self.guards[instance].guard.handle_promise(now, round, giver, answer);
        self.poll_guard(instance);
    }

    /// Where the group holds, what makes it hold may come in this moment: a majority of the agents dies, the primary reaches
    /// the hosts of its group alone, or the agents' ports are closed to its guard.
    pub(super) fn perhaps_a_lost_majority(&mut self, primary: usize, lasts: Time) {
        if !self.setup.holds() || !self.rng.chance(600) {
            return;
        }
        let serves = self.primary_at().filter(|at| self.able(*at));
        let holding = self.group().lease().is_some_and(|lease| !lease.holders.is_empty());
        let calm = holding && self.group().active_run().is_none();
        match self.rng.below(4) {
            2 | 3 if calm => {
                if let Some(primary) = serves {
                    self.block_renewals(primary);
                }
            }
            0 => self.lose_a_majority(lasts),
            1 => self.reach_the_group_alone(primary, lasts),
            _ => {}
        }
    }

    fn lose_a_majority(&mut self, lasts: Time) {
        self.say(|| "a majority of the agents dies".to_owned());
        let hosts = self.hosts.len();
        let mut left: Vec<usize> = (0..hosts).collect();
        while left.len() * 2 > hosts {
            let host = left.remove(self.rng.below(left.len()));
            let away = self.rng.range(ms(500), lasts.max(ms(600)));
            self.crash_agent(host, away);
        }
    }

    /// No voter hears the guard, perhaps it hears no agent either, and everything else of its host is reached; perhaps another guard hears nobody else. When the
    /// voters' grants are over, a person may want another primary, and a guard that promised may be killed in the middle of it.
    /// Nothing else breaks meanwhile, and nothing is mended.
    fn block_renewals(&mut self, primary: usize) {
        self.say(|| format!("the agents' ports are closed to guard {primary}"));
        self.guards[primary].blocked = true;
        // Without a receipt the takeover has to wait for the ends of grants and promises.
        self.guards[primary].deaf = self.rng.chance(500);
        let (home, hosts) = (self.host(primary), self.hosts.len());
        let other = self.rng.below(self.servers.len());
        if self.servers.len() > 2 && other != primary && self.rng.chance(400) {
            let there = self.host(other);
            for host in (0..hosts).filter(|host| *host != home && *host != there) {
                self.net.cut(there, host);
                self.net.cut(host, there);
            }
        }
        let granted = us(self.setup.timing.lease);
        let asked = self.rng.range(granted, granted * 2);
        self.after(asked, Event::Undo(Undo::AskFailover));
        if other != primary && self.rng.chance(700) {
            // From when the standbys are frozen until one of them is promoted.
            let soon = self.rng.range(ms(60), us(self.setup.timing.fence));
            self.after(asked + soon, Event::Undo(Undo::RestartGuard(other)));
        }
        self.story_until = self.now + granted * 5;
        self.after(granted * 5, Event::Undo(Undo::Heal));
    }

    fn primary_at(&self) -> Option<usize> {
        self.group().primary.as_ref().and_then(|primary| self.setup.instance(&primary.instance))
    }

    pub(super) fn ask_for_another(&mut self) {
        if self.faulty {
            self.ask(RunKind::Failover, None, true);
        }
    }

    pub(super) fn unblock(&mut self) {
        for guard in &mut self.guards {
            guard.blocked = false;
            guard.deaf = false;
        }
    }

    pub(super) fn restart_guard(&mut self, instance: usize) {
        self.kill_guard(instance);
        let away = self.rng.range(ms(20), ms(250));
        self.after(away, Event::Undo(Undo::StartGuard(instance)));
    }

    fn reach_the_group_alone(&mut self, primary: usize, lasts: Time) {
        let (home, hosts) = (self.host(primary), self.hosts.len());
        self.say(|| format!("host {home} reaches the hosts of its group alone"));
        for host in (0..hosts).filter(|host| *host != home) {
            if (0..self.servers.len()).any(|other| self.host(other) == host) {
                if self.rng.chance(400) {
                    self.crash_agent(host, lasts);
                }
            } else {
                self.net.cut(home, host);
                self.net.cut(host, home);
            }
        }
        self.after(lasts, Event::Undo(Undo::Heal));
    }

    /// Whether a server may serve although the log has another primary: promises hold its lease, the new primary waits for
    /// their end, and has never served. From then on, two that are able at once are what is wrong.
    pub(super) fn still_held(&self, instance: usize) -> bool {
        let group = self.group();
        let old = group.lease().and_then(|lease| lease.waits.as_ref());
        old.is_some_and(|old| self.setup.instance(&old.instance) == Some(instance))
            && !self.checks.served(group.epoch)
    }

    /// A primary that serves without a majority of voters.
    pub(super) fn check_alone(&mut self, instance: usize) {
        if self.setup.holds() {
            let (now, epoch) = (self.clock(self.host(instance)), self.group().epoch);
            let guard: &Guard = &self.guards[instance].guard;
            if self.guards[instance].up && guard.holder().alone(now) {
                self.checks.alone.insert(epoch);
            }
        }
    }

    /// What the log should say of the lease in force, if it does not.
    pub(super) fn holders_not_known(&self) -> Option<String> {
        let group = self.group();
        let lease = group.lease()?;
        let known = lease.holders == group.wanted_holders() && group.unended.is_none();
        (!known).then(|| format!("the holders of {} are not known: {:?}", lease.term, lease.holders))
    }
}
