//! The voter's half of an agent: the real granter over a modelled disk, which takes its time, or is full.

use mesh_failover::lease::granter::{Decision, PledgeDecision, VoterState};
use mesh_proto::Millis;
use mesh_proto::lease::{PledgeAnswer, PledgeReply, PledgeRequest, RenewReply, RenewRequest, VoterPeer};

use super::clock::{Time, ms};
use super::mutant::Mutation;
use super::setup::node;
use super::world::{Event, Message, World};

/// How long a voter waits for its log before it answers a renewal: this often, this long.
const RENEW_TRIES: u32 = 20;
const RENEW_AGAIN: Time = ms(10);

/// A write of a voter's state, and what waits for it.
#[derive(Debug, Clone)]
pub(super) struct Write {
    state: VoterState,
    then: Then,
}

#[derive(Debug, Clone)]
enum Then {
    Renew(Box<Message>),
    Pledge { from: usize, life: u64, request: PledgeRequest },
    Again,
}

impl World {
    pub(super) fn renew_again(&mut self, host: usize, life: u64, tries: u32, message: Message) {
        if self.agents[host].up && self.agents[host].life == life {
            self.renew(host, tries, message);
        }
    }

    pub(super) fn renew(&mut self, host: usize, tries: u32, message: Message) {
        let Message::Renew { instance, life: asker, round, request } = &message else { return };
        let now = self.clock(host);
        let agent = &mut self.agents[host];
        let life = agent.life;
        let answer = match &request.lease {
            None => None,
            Some(lease) if agent.applied < lease.index && tries < RENEW_TRIES => {
                let event = Event::RenewAgain { host, life, tries: tries + 1, message: Box::new(message) };
                self.after(RENEW_AGAIN, event);
                return;
            }
            Some(lease) => {
                let current = agent.state.current_lease(&lease.key).cloned();
                let mut lease = lease.clone();
                if self.mutation == Some(Mutation::GrantForgottenEarly) {
                    lease.length = Millis(lease.length.0 / 2);
                }
                match agent.granter.renew(now, &lease, current.as_ref(), agent.applied) {
                    Decision::Grant => Some(mesh_proto::lease::RenewAnswer::Granted),
                    Decision::Refuse(answer) => Some(answer),
                    Decision::PersistFirst(state) => {
                        self.write_voter(host, state, Then::Renew(Box::new(message)));
                        return;
                    }
                }
            }
        };
        let reply = self.renew_reply(host, request, answer);
        let (instance, asker, round) = (*instance, *asker, *round);
        let to = self.host(instance);
        self.send(host, to, Message::RenewReply { instance, life: asker, round, reply: Box::new(reply) });
    }

    fn renew_reply(
        &self,
        host: usize,
        request: &RenewRequest,
        answer: Option<mesh_proto::lease::RenewAnswer>,
    ) -> RenewReply {
        let agent = &self.agents[host];
        RenewReply {
            voter: node(host),
            answer,
            electorate: agent.granter.newest_electorate(agent.state.electorate.clone()),
            peers: self.voter_peers(host),
            view: agent.state.group_view(&request.status.group, &request.status.instance, agent.applied),
        }
    }

    fn voter_peers(&self, host: usize) -> Vec<VoterPeer> {
        // Where voters never change, everybody is one from the beginning.
        if !self.setup.elects {
            return Vec::new();
        }
        self.agents[host].state.voter_peers()
    }

    /// The voter notes a new electorate before it says that it knows it.
    pub(super) fn learn_electorate(&mut self, host: usize) {
        let agent = &mut self.agents[host];
        if self.setup.elects
            && let Some(state) = agent.granter.learn(&agent.state.electorate)
        {
            self.write_voter(host, state, Then::Again);
        }
    }

    pub(super) fn pledge(&mut self, host: usize, from: usize, life: u64, request: PledgeRequest) {
        let now = self.clock(host);
        let agent = &mut self.agents[host];
        match agent.granter.pledge(now, &request, agent.term) {
            PledgeDecision::Answer(answer) => self.answer_pledge(host, from, life, request, answer),
            PledgeDecision::PersistFirst(state) => {
                if self.mutation == Some(Mutation::PledgeNotPersisted) {
                    agent.granter.persisted(&state);
                    self.pledge(host, from, life, request);
                    return;
                }
                self.write_voter(host, state, Then::Pledge { from, life, request });
            }
        }
    }

    fn answer_pledge(
        &mut self,
        host: usize,
        to: usize,
        life: u64,
        request: PledgeRequest,
        answer: PledgeAnswer,
    ) {
        let agent = &self.agents[host];
        let electorate = agent.granter.newest_electorate(agent.state.electorate.clone());
        let reply = PledgeReply { voter: node(host), electorate, answer };
        self.say(|| format!("voter {host} answers {:?} (durable {})", reply.answer, request.durable));
        self.send(host, to, Message::PledgeReply { life, request, reply });
    }

    fn write_voter(&mut self, host: usize, state: VoterState, then: Then) {
        let (low, high) = self.agents[host].disk_delay;
        let delay = self.rng.range(low, high);
        let life = self.agents[host].life;
        self.after(delay, Event::VoterDisk { host, life, write: Write { state, then } });
    }

    pub(super) fn voter_disk(&mut self, host: usize, life: u64, write: Write) {
        if !self.agents[host].up || self.agents[host].life != life {
            return;
        }
        let agent = &mut self.agents[host];
        if agent.disk_full {
            agent.granter.not_persisted();
            if let Then::Pledge { from, life, request } = write.then {
                self.answer_pledge(host, from, life, request, PledgeAnswer::CannotPersist);
            }
            self.after(
                ms(500),
                Event::VoterDisk { host, life, write: Write { state: write.state, then: Then::Again } },
            );
            return;
        }
        if write.state.version >= agent.disk.version {
            agent.disk = write.state.clone();
        }
        agent.granter.persisted(&write.state);
        match write.then {
            Then::Renew(message) => self.renew(host, RENEW_TRIES, *message),
            Then::Pledge { from, life, request } => self.pledge(host, from, life, request),
            Then::Again => {}
        }
    }
}
