//! Forming the mesh, and members that come and go.

use mesh_proto::command::{MemberRecord, Refused};
use mesh_proto::lease::Electorate;
use mesh_proto::{AgentName, MeshId};

use super::MeshState;
use super::apply::{conflict, unknown};

impl MeshState {
    pub(super) fn form(&mut self, mesh: &MeshId, members: &[MemberRecord]) -> Result<(), Refused> {
        if let Some(formed) = &self.mesh {
            return Err(conflict("the mesh", "not formed", formed));
        }
        for member in members {
            self.check_new(member)?;
            self.members.insert(member.agent.clone(), member.clone());
        }
        self.electorate = Electorate::of(1, members.iter().filter(|m| m.voter).map(|m| m.id));
        self.mesh = Some(mesh.clone());
        Ok(())
    }

    pub(super) fn add_member(&mut self, member: &MemberRecord) -> Result<(), Refused> {
        if self.mesh.is_none() {
            return Err(Refused::Forbidden("the mesh is not formed yet; run `mesh form`".to_owned()));
        }
        if let Some(known) = self.members.get(&member.agent)
            && !self.retired.contains(&known.id)
            && known.id == member.id
            && known.address == member.address
            && known.site == member.site
        {
            // The same member again, at most with its vote changed.
            self.members.insert(member.agent.clone(), member.clone());
            return Ok(());
        }
        // One that a recovery of the mesh left behind comes back under a number of its own.
        if self.members.get(&member.agent).is_some_and(|known| self.retired.contains(&known.id)) {
            self.members.remove(&member.agent);
        }
        self.check_new(member)?;
        self.members.insert(member.agent.clone(), member.clone());
        Ok(())
    }

    fn check_new(&self, member: &MemberRecord) -> Result<(), Refused> {
        let taken = |what: &str| Refused::Forbidden(format!("{what}; give the new member one of its own"));
        if self.members.contains_key(&member.agent) {
            return Err(taken(&format!("there is an agent {} already", member.agent)));
        }
        if let Some(other) = self.members.values().find(|m| m.id == member.id) {
            return Err(taken(&format!("Raft number {} belongs to {}", member.id, other.agent)));
        }
        if self.retired.contains(&member.id) {
            return Err(taken(&format!("Raft number {} was used before, by a disk that is gone", member.id)));
        }
        // The address may be that of a dead member, whose place on the same host it takes: who answers there was asked before,
        // and every connection names whom it means.
        Ok(())
    }

    pub(super) fn remove_member(&mut self, agent: &AgentName) -> Result<(), Refused> {
        let member = self.members.get(agent).ok_or_else(|| unknown("agent", agent.as_str()))?;
        if self.electorate.everyone().contains(&member.id) {
            return Err(Refused::Forbidden(format!(
                "{agent} votes on leases; name the voters that shall remain first, with `mesh node voters`, and wait \
                 until the change is over"
            )));
        }
        for group in self.groups.values() {
            let names_it = group.spec.instances.iter().any(|i| i.agent == *agent)
                || group.spec.routes.iter().any(|r| r.agent == *agent)
                || group.spec.services.iter().any(|s| s.agent == *agent)
                || group.spec.hooks.iter().any(|h| h.agents.contains(agent))
                || group.spec.observers.contains(agent);
            if names_it {
                return Err(Refused::Forbidden(format!(
                    "group {} names {agent}; apply a spec without it first",
                    group.spec.group
                )));
            }
        }
        let id = member.id;
        self.members.remove(agent);
        self.retired.insert(id);
        Ok(())
    }
}
