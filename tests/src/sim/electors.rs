//! Voters on leases that change while everything else goes on: an operator names others, or takes it back.

use mesh_proto::command::{Command, Entry};
use mesh_proto::run::Actor;
use mesh_proto::{NodeId, Wall};

use super::setup::node;
use super::world::World;

impl World {
    /// Changes of voters that came to their end, a few refused ones among them.
    pub(super) fn elected(&self) -> u64 {
        let ended = |logged: &super::raft::Logged| {
            let commands = logged.entry.iter().flat_map(|entry| &entry.commands);
            commands.filter(|command| matches!(command, Command::ElectorateChanged { .. })).count() as u64
        };
        self.raft.entries.iter().map(ended).sum()
    }

    /// Where voters change, somebody may ask for it in this moment, as `mesh node voters` does: of the leader, after a look
    /// whether the guards are ready.
    pub(super) fn perhaps_other_voters(&mut self) {
        if !self.setup.elects || !self.rng.chance(500) {
            return;
        }
        let Some(leader) = self.raft.leader.filter(|leader| self.works(*leader)) else { return };
        let (now, agent) = (self.clock(leader), &self.agents[leader]);
        let Some(term) = agent.leading else { return };
        let electorate = agent.state.electorate.clone();
        let command = if electorate.changes() {
            if !self.rng.chance(60) {
                return;
            }
            Command::ElectorateKept { replaces: electorate.version }
        } else {
            let size = self.rng.pick(&[3, 3, 5]).unwrap_or(3);
            let mut hosts: Vec<NodeId> = (0..self.hosts.len()).map(node).collect();
            while hosts.len() > size {
                let at = self.rng.below(hosts.len());
                hosts.remove(at);
            }
            let members = hosts.into_iter().collect();
            let agent = &self.agents[leader];
            if let Err(why) = agent.coordinator.ready_for_voters(now, &agent.state, &members) {
                self.say(|| format!("other voters are refused: {why}"));
                return;
            }
            Command::ElectorateChanging { replaces: electorate.version, members }
        };
        let entry = Entry {
            by: self.setup.hosts[leader].0.clone(),
            actor: Actor::Operator("ann".to_owned()),
            at: Wall(self.now / 1_000),
            commands: vec![command],
        };
        // Nobody waits for the answer under this ticket.
        self.propose(leader, term, None, 0, entry);
    }
}
