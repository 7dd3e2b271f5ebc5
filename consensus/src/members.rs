//! Forming the mesh, and members that join and leave while it runs.
//!
//! An id names one data directory for ever: it is never given to another incarnation.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use openraft::ChangeMembers;
use openraft::error::{ChangeMembershipError, ClientWriteError, InitializeError, RaftError};

use crate::consensus::Consensus;
use crate::error::MembersError;
use crate::hub::Core;
use crate::network::DialError;
use crate::types::{Identity, Machine, Member, NodeId};

/// A learner this few entries behind becomes a voter without delaying commits noticeably.
const CLOSE: u64 = 50;

/// Who belongs to the mesh, as the newest membership in the log says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    /// With a vote. In a change of voters, those of the old and the new set.
    pub voters: BTreeMap<NodeId, Member>,
    /// Without.
    pub learners: BTreeMap<NodeId, Member>,
}

impl<M: Machine> Consensus<M> {
    /// The members as this agent knows them.
    #[must_use]
    pub fn members(&self) -> Members {
        let standing = self.standing();
        Members { voters: standing.voters, learners: standing.learners }
    }

    /// Asks the agent at an address who it is, for the incarnation that [`Consensus::form`] and
    /// [`Consensus::add_learner`] need.
    ///
    /// # Errors
    /// When nobody answers, or it refuses (another mesh, another node).
    pub async fn identify(
        &self,
        node: NodeId,
        address: &str,
        name: &str,
        deadline: Instant,
    ) -> Result<Identity, DialError> {
        let within = deadline.saturating_duration_since(Instant::now());
        let member = Member { address: address.to_owned(), name: name.to_owned(), incarnation: 0 };
        let answer = self.inner.peers.probe(node, &member, None, within).await;
        let answer = answer.map_err(|status| DialError(status.to_string()))?;
        if answer.id != node {
            return Err(DialError(format!("the agent at {address} is node {}, not {node}", answer.id)));
        }
        let mesh = self.inner.hub.identity.mesh.clone();
        Ok(Identity { node: answer.id, incarnation: answer.incarnation, mesh })
    }

    /// Forms the mesh: once, on one agent, with all first voters.
    ///
    /// # Errors
    /// [`MembersError::Formed`] when it has a past, [`MembersError::WithoutMe`] when the caller is not among them.
    pub async fn form(&self, members: BTreeMap<NodeId, Member>) -> Result<(), MembersError> {
        let hub = &self.inner.hub;
        let me = members.get(&hub.identity.node);
        if me.is_none_or(|me| me.incarnation != hub.identity.incarnation) {
            return Err(MembersError::WithoutMe);
        }
        let core = hub.core().ok_or(MembersError::Stopped)?;
        core.raft.initialize(members).await.map_err(|error| match error {
            RaftError::APIError(InitializeError::NotAllowed(_)) => MembersError::Formed,
            RaftError::APIError(InitializeError::NotInMembers(_)) => MembersError::WithoutMe,
            RaftError::Fatal(_) => MembersError::Stopped,
        })
    }

    /// Adds a member without a vote; the leader brings it up to date. Adding the same again changes nothing.
    ///
    /// # Errors
    /// [`MembersError::OtherIncarnation`] when the id belongs to another data directory.
    pub async fn add_learner(
        &self,
        node: NodeId,
        member: Member,
        deadline: Instant,
    ) -> Result<(), MembersError> {
        let core = self.inner.hub.core().ok_or(MembersError::Stopped)?;
        if let Some(known) = core.member(node) {
            if known.incarnation != member.incarnation {
                return Err(MembersError::OtherIncarnation { node });
            }
            if known == member {
                return Ok(());
            }
            // The same data directory at another address.
            let moved = ChangeMembers::SetNodes(BTreeMap::from([(node, member)]));
            return change(&core, moved, true, deadline).await;
        }
        let added = ChangeMembers::AddNodes(BTreeMap::from([(node, member)]));
        change(&core, added, true, deadline).await
    }

    /// Gives a learner that has caught up its vote.
    ///
    /// # Errors
    /// [`MembersError::Behind`] when it has not caught up by the deadline.
    pub async fn promote_to_voter(&self, node: NodeId, deadline: Instant) -> Result<(), MembersError> {
        let core = self.inner.hub.core().ok_or(MembersError::Stopped)?;
        let mut standing = self.subscribe();
        loop {
            let behind = {
                let standing = standing.borrow_and_update();
                if standing.voters.contains_key(&node) {
                    return Ok(());
                }
                if !standing.learners.contains_key(&node) {
                    return Err(MembersError::Unknown { node });
                }
                if standing.leader != Some(self.inner.hub.identity.node) {
                    return Err(MembersError::NotLeader { leader: standing.leader });
                }
                let matched = standing.matched.get(&node).copied().flatten();
                standing.last.map_or(0, |last| last + 1).saturating_sub(matched.map_or(0, |at| at + 1))
            };
            if behind <= CLOSE {
                break;
            }
            // An error can only mean that the voter is gone, which the core will say.
            match tokio::time::timeout_at(deadline.into(), standing.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_closed)) => return Err(MembersError::Stopped),
                Err(_elapsed) => return Err(MembersError::Behind { node, behind }),
            }
        }
        change(&core, ChangeMembers::AddVoterIds(BTreeSet::from([node])), true, deadline).await
    }

    /// Removes a member, voter or learner. Removing one that is gone changes nothing.
    ///
    /// # Errors
    /// [`MembersError::LastVoter`] for the only voter.
    pub async fn remove(&self, node: NodeId, deadline: Instant) -> Result<(), MembersError> {
        let core = self.inner.hub.core().ok_or(MembersError::Stopped)?;
        let members = self.members();
        if members.voters.contains_key(&node) {
            if members.voters.len() == 1 {
                return Err(MembersError::LastVoter { node });
            }
            // Not retained: it leaves with the change, and is not left behind as a learner.
            let removed = ChangeMembers::RemoveVoters(BTreeSet::from([node]));
            return change(&core, removed, false, deadline).await;
        }
        if members.learners.contains_key(&node) {
            let removed = ChangeMembers::RemoveNodes(BTreeSet::from([node]));
            return change(&core, removed, false, deadline).await;
        }
        Ok(())
    }
}

async fn change(
    core: &Core,
    changes: ChangeMembers<NodeId, Member>,
    retain: bool,
    deadline: Instant,
) -> Result<(), MembersError> {
    let within = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    match tokio::time::timeout(within, core.raft.change_membership(changes, retain)).await {
        Err(_elapsed) => Err(MembersError::Lost),
        Ok(Ok(_changed)) => Ok(()),
        Ok(Err(RaftError::Fatal(_))) => Err(MembersError::Lost),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
            Err(MembersError::NotLeader { leader: forward.leader_id })
        }
        Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(refused)))) => {
            Err(match refused {
                ChangeMembershipError::InProgress(_) => MembersError::InProgress,
                ChangeMembershipError::LearnerNotFound(missing) => {
                    MembersError::Unknown { node: missing.node_id }
                }
                ChangeMembershipError::EmptyMembership(_) => {
                    MembersError::LastVoter { node: core.store.identity().node }
                }
            })
        }
    }
}
