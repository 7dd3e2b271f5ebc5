//! A mesh whose majority of voters is gone for good, begun anew from what one survivor's log says (PROTOCOL, Overrides).
//!
//! Never through the log, which no longer commits anything: a stopped survivor turns its own state into the first state of a
//! new mesh. That mesh has another id, so that old members and new ones refuse each other, and higher numbers than the lost
//! majority can have given out. It knows no primary any more: whom the lost ones promoted last, and what they acknowledged,
//! nobody can say. A person names the primary, with `mesh adopt`.

use std::collections::BTreeSet;

use mesh_proto::command::{Command, Entry};
use mesh_proto::lease::Electorate;
use mesh_proto::run::Phase;
use mesh_proto::{AgentName, Epoch, LeaseNo, MeshId, Millis, NodeId, Wall};

use super::apply::Stamp;
use super::audit::Broken;
use super::{Group, HISTORY, MeshState};
use crate::lease::CLOCK_BOUNDS;

/// How far numbers jump: further than a lost majority can have counted beyond what a survivor has heard of (protocol review,
/// H21).
pub const JUMP: u64 = 1_000;

/// Why a state cannot become that of a recovered mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// It never belonged to a mesh.
    #[error("this agent's log knows of no mesh; a new one is formed with `mesh form`")]
    NotFormed,
    /// It is of the new mesh already.
    #[error("the log is that of mesh {0} already; nothing is left to recover")]
    Recovered(MeshId),
    /// It had no vote.
    #[error(
        "{0} has no vote, so its log may lack what the voters agreed on; recover on a voter that is left"
    )]
    NoVote(AgentName),
    /// The others are not all named as lost.
    #[error(
        "the voters beside this one are {voters}, and --lost names {named}; name every one of them, and nobody else"
    )]
    NotAll {
        /// The other voters.
        voters: String,
        /// Who was named.
        named: String,
    },
    /// There is no other voter.
    #[error("this is the only voter: there is no majority to lose")]
    Alone,
    /// No reason.
    #[error("a recovery needs a reason")]
    NoReason,
    /// The audit.
    #[error("the audit cannot take a record of it")]
    Audit(#[source] Broken),
}

/// What a recovery is done with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The id of the new mesh.
    pub mesh: MeshId,
    /// The agent that begins it.
    pub me: AgentName,
    /// Every other voter: they are gone for good.
    pub lost: BTreeSet<AgentName>,
    /// Why.
    pub reason: String,
}

impl MeshState {
    /// How long after the survivor stopped voting no guard can hold a lease of the old mesh any more: the longest lease, as
    /// slow as a clock may run, and its fence; and a pause to its end, since leases do not end while it is in force.
    #[must_use]
    pub fn recovery_wait(&self) -> Millis {
        let of = |group: &Group| {
            let lease = group.largest_lease.max(group.timing.lease);
            let pause = group.pause.as_ref().map_or(Millis::ZERO, |pause| pause.length);
            CLOCK_BOUNDS.stretch(pause.plus(lease)).plus(group.largest_fence)
        };
        self.groups.values().map(of).max().unwrap_or(Millis::ZERO)
    }

    /// The voters beside this one.
    #[must_use]
    pub fn other_voters(&self, me: &AgentName) -> BTreeSet<AgentName> {
        self.members.values().filter(|m| m.voter && m.agent != *me).map(|m| m.agent.clone()).collect()
    }

    /// Turns the state into the first one of the new mesh; on an error it is as before.
    ///
    /// # Errors
    /// [`RecoveryError`].
    pub fn recover(&mut self, index: u64, entry: &Entry, recovery: &Recovery) -> Result<(), RecoveryError> {
        let id = self.check_recovery(recovery)?;
        let mut next = self.clone();
        let lost = std::mem::take(&mut next.members);
        for (name, mut member) in lost {
            if name != recovery.me {
                // Kept, because specs name them; their numbers never come back.
                next.retired.insert(member.id);
                member.voter = false;
            }
            next.members.insert(name, member);
        }
        next.electorate = Electorate::of(self.electorate.version + JUMP, [id]);
        next.mesh = Some(recovery.mesh.clone());
        for group in next.groups.values_mut() {
            group.give_up_leadership(Stamp { index, at: entry.at });
        }
        for command in &entry.commands {
            next.record(index, entry, command, None).map_err(RecoveryError::Audit)?;
        }
        *self = next;
        Ok(())
    }

    fn check_recovery(&self, recovery: &Recovery) -> Result<NodeId, RecoveryError> {
        match &self.mesh {
            None => return Err(RecoveryError::NotFormed),
            Some(mesh) if *mesh == recovery.mesh => return Err(RecoveryError::Recovered(mesh.clone())),
            Some(_) => {}
        }
        let me = self.members.get(&recovery.me).filter(|member| member.voter);
        let Some(me) = me else { return Err(RecoveryError::NoVote(recovery.me.clone())) };
        let others = self.other_voters(&recovery.me);
        if others.is_empty() {
            return Err(RecoveryError::Alone);
        }
        if others != recovery.lost {
            let list = |names: &BTreeSet<AgentName>| {
                let all: Vec<_> = names.iter().map(AgentName::as_str).collect();
                if all.is_empty() { "nobody".to_owned() } else { all.join(", ") }
            };
            return Err(RecoveryError::NotAll { voters: list(&others), named: list(&recovery.lost) });
        }
        if recovery.reason.trim().is_empty() {
            return Err(RecoveryError::NoReason);
        }
        Ok(me.id)
    }
}

/// The record of it.
#[must_use]
pub fn recovered(recovery: &Recovery) -> Command {
    Command::MeshRecovered {
        mesh: recovery.mesh.clone(),
        lost: recovery.lost.clone(),
        reason: recovery.reason.clone(),
    }
}

impl Group {
    /// No primary, no run, no pause; every number beyond what anybody may have given out.
    fn give_up_leadership(&mut self, stamp: Stamp) {
        if let Some(mut run) = self.run.take() {
            if !run.phase.is_final() {
                run.phase = Phase::Aborted;
                run.stuck = None;
                run.entered.push((Phase::Aborted, stamp.at));
            }
            self.history.push(run);
            let more = self.history.len().saturating_sub(HISTORY);
            self.history.drain(..more);
        }
        let highest = self.leases.values().map(|lease| lease.term.lease_no.0).max().unwrap_or(0);
        let before = self.recovered.map_or(0, |number| number.0);
        self.recovered = Some(LeaseNo(highest.max(before) + JUMP));
        // What its guard may still hold by promises is waited for by whoever is founded.
        self.supersede(None);
        self.epoch = Epoch(self.epoch.0 + JUMP);
        self.generation = mesh_proto::Generation(self.generation.0 + JUMP);
        self.primary = None;
        self.takeover = None;
        self.hold_down = None;
        self.pause = None;
        self.proposal = None;
        self.repairs.clear();
        self.quorums.clear();
        self.routes.clear();
        self.unfounded(
            stamp.at,
            "the mesh was recovered: whom the lost voters had made primary is not known",
        );
    }

    fn unfounded(&mut self, at: Wall, why: &str) {
        self.verdict = super::unfounded(why);
        self.verdict_at = at;
    }
}
