//! The lease electorate: whose grants and pledges count, and how it changes while leases run (PROTOCOL, Granting).
//!
//! A change goes through a time in which a majority of the old voters and one of the new ones are needed. It never ends
//! before every guard that could count on the old voters alone has lost its lease, and nothing of it is proposed while a
//! takeover counts pledges.

use std::collections::BTreeSet;

use mesh_proto::command::Refused;
use mesh_proto::lease::{Electorate, VoterPeer};
use mesh_proto::{Millis, NodeId};

use super::MeshState;
use super::apply::compare;
use crate::lease::CLOCK_BOUNDS;

impl MeshState {
    pub(super) fn change_electorate(
        &mut self,
        replaces: u64,
        members: &BTreeSet<NodeId>,
    ) -> Result<(), Refused> {
        self.check_still(replaces)?;
        if self.electorate.changes() {
            return Err(Refused::Forbidden(format!(
                "the voters are being changed to {} already; wait for it, or name the old ones to give it up",
                self.names(&self.electorate.members)
            )));
        }
        if *members == self.electorate.members {
            return Err(Refused::Forbidden("these are the voters already".to_owned()));
        }
        if !matches!(members.len(), 1 | 3 | 5 | 7) {
            return Err(Refused::Forbidden(format!(
                "{} voters: name 3, 5 or 7 (1 only to try things out); an even number bears no more losses than one less",
                members.len()
            )));
        }
        let votes = |id: &NodeId| self.members.values().any(|member| member.id == *id && member.voter);
        if let Some(none) = members.iter().find(|id| !votes(id)) {
            return Err(Refused::Forbidden(format!(
                "number {none} does not vote in the log; add it with `mesh node add --voter` first"
            )));
        }
        let leaving = std::mem::take(&mut self.electorate.members);
        self.electorate = Electorate { version: replaces + 1, members: members.clone(), leaving };
        Ok(())
    }

    pub(super) fn end_electorate_change(&mut self, replaces: u64, waited: Millis) -> Result<(), Refused> {
        self.check_still(replaces)?;
        self.check_changes()?;
        let needed = self.electorate_wait();
        if waited < needed {
            return Err(Refused::Forbidden(format!(
                "waiting {waited} does not cover leases that old voters granted: {needed}"
            )));
        }
        let members = std::mem::take(&mut self.electorate.members);
        self.electorate = Electorate::of(replaces + 1, members);
        Ok(())
    }

    /// Back to the old voters. At any time of the change: a majority of them was needed throughout.
    pub(super) fn keep_electorate(&mut self, replaces: u64) -> Result<(), Refused> {
        self.check_still(replaces)?;
        self.check_changes()?;
        let members = std::mem::take(&mut self.electorate.leaving);
        self.electorate = Electorate::of(replaces + 1, members);
        Ok(())
    }

    fn check_changes(&self) -> Result<(), Refused> {
        if self.electorate.changes() {
            return Ok(());
        }
        Err(Refused::Forbidden("the voters are not being changed".to_owned()))
    }

    fn check_still(&self, replaces: u64) -> Result<(), Refused> {
        if self.mesh.is_none() {
            return Err(Refused::Forbidden("the mesh is not formed yet; run `mesh form`".to_owned()));
        }
        compare("the version of the electorate", &replaces, &self.electorate.version)?;
        match self.groups.values().find(|group| group.takeover.is_some()) {
            None => Ok(()),
            Some(group) => Err(Refused::Forbidden(format!(
                "a takeover of group {} is under way, and counts the voters as they are",
                group.spec.group
            ))),
        }
    }

    /// How long majorities of old and new voters must have known of a change before the new ones count alone:
    /// [`ClockBounds::electorate_wait`](crate::lease::ClockBounds::electorate_wait) of the slowest group.
    #[must_use]
    pub fn electorate_wait(&self) -> Millis {
        let of = |group: &super::Group| {
            CLOCK_BOUNDS.electorate_wait(group.largest_lease.max(group.timing.lease), group.largest_fence)
        };
        self.groups.values().map(of).max().unwrap_or(Millis::ZERO)
    }

    /// Everybody who votes in the agreement: who belongs to the electorate, or may.
    #[must_use]
    pub fn voter_peers(&self) -> Vec<VoterPeer> {
        let voters = self.members.values().filter(|member| member.voter);
        voters
            .map(|member| VoterPeer {
                id: member.id,
                agent: member.agent.clone(),
                address: member.address.clone(),
            })
            .collect()
    }

    /// The agents behind Raft numbers, for people; the number where there is none any more.
    #[must_use]
    pub fn names(&self, voters: &BTreeSet<NodeId>) -> String {
        let name = |id: &NodeId| {
            let member = self.members.values().find(|member| member.id == *id);
            member.map_or_else(|| format!("number {id}"), |member| member.agent.to_string())
        };
        voters.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}
