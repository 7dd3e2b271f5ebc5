//! A model of a committed log: one leader a term, commits only with a majority, leaders lost at any instant, proposals
//! lost or of unknown fate, followers that lag. openraft itself has its own tests; what matters here is everything that
//! it may legally do to its caller.

use std::collections::BTreeMap;

use mesh_failover::coordinator::ProposalResult;
use mesh_proto::GroupName;
use mesh_proto::command::{Applied, Command, Entry};

use super::clock::{Time, ms};
use super::world::{Event, World};

const TICK: Time = ms(30);

/// An entry of the log; an empty one opens a leader's term.
#[derive(Debug, Clone)]
pub(super) struct Logged {
    pub term: u64,
    pub entry: Option<Entry>,
    /// Who waits for it: agent, its life, and the coordinator's ticket.
    pub proposal: Option<(usize, u64, Option<GroupName>, u64)>,
}

/// A proposal whose fate is open.
#[derive(Debug, Clone)]
struct Proposal {
    host: usize,
    life: u64,
    term: u64,
    group: Option<GroupName>,
    ticket: u64,
    entry: Entry,
}

/// The log.
#[derive(Debug, Default)]
pub(super) struct Raft {
    pub term: u64,
    pub leader: Option<usize>,
    /// The index of the current leader's own first entry.
    pub led_from: u64,
    pub entries: Vec<Logged>,
    proposals: BTreeMap<u64, Proposal>,
    next: u64,
    lost_since: Option<Time>,
    patience: Time,
    /// Who leads first; for tests that need to know.
    pub prefer: Option<usize>,
}

impl Raft {
    /// Whether an agent hears the leader's log.
    pub(super) fn reaches_log(&self, world: &World, host: usize) -> bool {
        self.leader
            .is_some_and(|leader| leader == host || (world.works(leader) && world.net.talks(leader, host)))
    }
}

impl World {
    /// Whether an agent runs at all.
    pub(super) fn works(&self, host: usize) -> bool {
        self.hosts[host].up && !self.hosts[host].frozen && self.agents[host].up
    }

    fn has_majority(&self, host: usize) -> bool {
        let reached = (0..self.hosts.len())
            .filter(|other| self.works(*other) && (*other == host || self.net.talks(host, *other)))
            .count();
        self.works(host) && reached * 2 > self.hosts.len()
    }

    pub(super) fn raft_tick(&mut self) {
        self.after(TICK, Event::Raft);
        for host in 0..self.hosts.len() {
            // Terms travel with heartbeats.
            if self.works(host) && self.raft.reaches_log(self, host) {
                self.agents[host].term = self.agents[host].term.max(self.raft.term);
                self.after(0, Event::Apply { host });
            }
            if self.agents[host].leading.is_some()
                && self.raft.leader == Some(host)
                && self.agents[host].leading == Some(self.raft.term)
                && self.has_majority(host)
            {
                self.agents[host].majority_at = self.now;
            }
        }
        if self.raft.leader.is_some_and(|leader| self.has_majority(leader)) {
            self.raft.lost_since = None;
            return;
        }
        let since = *self.raft.lost_since.get_or_insert(self.now);
        if self.raft.patience == 0 {
            self.raft.patience = self.rng.range(ms(300), ms(1_200));
        }
        if self.raft.term > 0 && self.now - since < self.raft.patience {
            return;
        }
        self.elect(None);
    }

    /// A new leader, if there can be one.
    pub(super) fn elect(&mut self, not: Option<usize>) {
        let able: Vec<usize> =
            (0..self.hosts.len()).filter(|host| self.has_majority(*host) && Some(*host) != not).collect();
        let preferred = self.raft.prefer.filter(|host| able.contains(host));
        let Some(leader) = preferred.or_else(|| self.rng.pick(&able)) else { return };
        self.raft.patience = 0;
        self.raft.lost_since = None;
        // What the old leader had sent out may survive it, or not.
        let open = std::mem::take(&mut self.raft.proposals);
        let old = self.raft.term;
        self.raft.term += 1;
        self.raft.leader = Some(leader);
        for (_, proposal) in open {
            if proposal.term == old && self.rng.chance(500) {
                let waiter = (proposal.host, proposal.life, proposal.group, proposal.ticket);
                self.append(Some(proposal.entry), Some(waiter));
            }
        }
        self.append(None, None);
        self.raft.led_from = self.raft.entries.len() as u64;
        let term = self.raft.term;
        self.say(|| format!("agent {leader} is elected in term {term}"));
        self.after(ms(1), Event::Apply { host: leader });
    }

    pub(super) fn propose(
        &mut self,
        host: usize,
        term: u64,
        group: Option<GroupName>,
        ticket: u64,
        entry: Entry,
    ) {
        let life = self.agents[host].life;
        for command in &entry.commands {
            self.say(|| format!("{host} proposes {}", words(command)));
        }
        if self.inject_at_proposal(host, &entry) {
            return;
        }
        self.raft.next += 1;
        let id = self.raft.next;
        self.raft.proposals.insert(id, Proposal { host, life, term, group, ticket, entry });
        let round_trip =
            2 * self.rng.range(self.net.delay.0, self.net.delay.1) + self.rng.range(ms(1), ms(4));
        self.after(round_trip, Event::Commit { proposal: id });
        self.after(ms(1_500), Event::ProposalLost { proposal: id });
    }

    pub(super) fn commit(&mut self, id: u64) {
        let Some(proposal) = self.raft.proposals.get(&id) else { return };
        let leads = self.raft.leader == Some(proposal.host) && self.raft.term == proposal.term;
        if !leads {
            return;
        }
        if !self.has_majority(proposal.host) {
            self.after(ms(50), Event::Commit { proposal: id });
            return;
        }
        let Some(proposal) = self.raft.proposals.remove(&id) else { return };
        let waiter = (proposal.host, proposal.life, proposal.group, proposal.ticket);
        self.append(Some(proposal.entry), Some(waiter));
    }

    /// The proposer stops waiting; what it proposed may yet be committed.
    pub(super) fn proposal_lost(&mut self, id: u64) {
        // Also proposals that were dropped at an election are answered here.
        let Some(proposal) = self.raft.proposals.get(&id) else { return };
        let (host, life) = (proposal.host, proposal.life);
        let (group, ticket) = (proposal.group.clone(), proposal.ticket);
        if self.agents[host].up && self.agents[host].life == life {
            self.agents[host].coordinator.proposed(group.as_ref(), ticket, &ProposalResult::Lost);
        }
    }

    /// An entry is committed.
    pub(super) fn append(
        &mut self,
        entry: Option<Entry>,
        proposal: Option<(usize, u64, Option<GroupName>, u64)>,
    ) {
        let term = self.raft.term;
        let index = self.raft.entries.len() as u64 + 1;
        self.raft.entries.push(Logged { term, entry: entry.clone(), proposal });
        if let Some(entry) = entry {
            let before = self.truth.without_audit();
            match self.truth.apply(index, &entry) {
                Ok(applied) => {
                    let refused = match &applied {
                        Applied::Done { .. } => String::new(),
                        Applied::Refused(why) => format!(" REFUSED: {why}"),
                    };
                    for command in &entry.commands {
                        self.say(|| format!("[{index}] {}{refused}", words(command)));
                    }
                    if matches!(applied, Applied::Done { .. }) {
                        self.check_entry(&before, &entry);
                    }
                }
                Err(why) => self.fail(format!("entry {index} cannot be applied: {why}")),
            }
            self.inject_at_commit(&entry);
        }
        for host in 0..self.hosts.len() {
            let delay = if self.raft.leader == Some(host) { 0 } else { self.rng.range(ms(1), ms(25)) };
            self.after(delay, Event::Apply { host });
        }
    }
}

/// A command, in a line.
pub(super) fn words(command: &Command) -> String {
    match command {
        Command::StepsStarted { run, steps, .. } => {
            let all: Vec<_> =
                steps.iter().map(|s| format!("{}.{}/{} {}", run, s.step, s.attempt, s.effect)).collect();
            format!("begin {}", all.join("; "))
        }
        Command::StepEnded { run, step, attempt, outcome, .. } => {
            format!("ended {run}.{step}/{attempt}: {outcome:?}")
        }
        Command::Signalled { run, signal, detail, cause, .. } => {
            format!("{run} {signal} {cause:?}: {detail}")
        }
        Command::ErrandSkipped { run, errand, .. } => format!("{run} skips {errand}"),
        Command::RunOpened { plan } => {
            format!("{} from {}: candidates {:?}, {}", plan.kind, plan.from, plan.candidates, plan.reason)
        }
        Command::PromotionCommitted { instance, ends, proof, .. } => {
            format!("PROMOTION of {instance}, ending {ends} by {proof:?}")
        }
        Command::LeaseGranted { instance, replaces, reason, .. } => {
            format!("lease anew for {instance} after {replaces}: {reason}")
        }
        Command::VerdictChanged { verdict, .. } => {
            format!("verdict {}: {} blocked {:?}", verdict.verdict, verdict.summary, verdict.blocked)
        }
        Command::RepairStarted { effect, .. } => format!("repair: {effect}"),
        Command::RepairEnded { repair, outcome, .. } => format!("repair {repair} ended: {outcome:?}"),
        Command::MeshFormed { .. }
        | Command::MeshRecovered { .. }
        | Command::MemberAdded { .. }
        | Command::MemberRemoved { .. }
        | Command::AccessDenied { .. }
        | Command::TokenTried { .. }
        | Command::RunProposed { .. }
        | Command::RunApproved { .. }
        | Command::ProposalEnded { .. }
        | Command::ElectorateChanging { .. }
        | Command::ElectorateChanged { .. }
        | Command::ElectorateKept { .. }
        | Command::SpecApplied { .. }
        | Command::Founded { .. }
        | Command::Paused { .. }
        | Command::Resumed { .. }
        | Command::QuorumChanged { .. }
        | Command::QuorumConfirmed { .. }
        | Command::DegradeBegun { .. }
        | Command::DegradeEnded { .. }
        | Command::HoldersKnown { .. }
        | Command::Acknowledged { .. }
        | Command::RunOverridden { .. } => format!("{command:?}"),
    }
}
