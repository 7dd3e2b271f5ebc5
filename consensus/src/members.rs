//! Forming the mesh, and members that join and leave while it runs.
//!
//! An id names one data directory for ever: it is never given to another incarnation.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use openraft::ChangeMembers;
use openraft::error::{ChangeMembershipError, ClientWriteError, InitializeError, RaftError};

use crate::consensus::Consensus;
use crate::error::MembersError;
use crate::hub::Core;
use crate::network::DialError;
use crate::options::Build;
use crate::types::{Machine, Member, Membership, NodeId};

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

/// Who answered at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Met {
    /// Which data directory it has.
    pub incarnation: u64,
    /// What it says of its build.
    pub build: Build,
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
    ) -> Result<Met, DialError> {
        let within = deadline.saturating_duration_since(Instant::now());
        let member = Member { address: address.to_owned(), name: name.to_owned(), incarnation: 0 };
        let answer = self.inner.peers.probe(node, &member, None, within).await;
        let answer = answer.map_err(|status| DialError(status.message().to_owned()))?;
        if answer.id != node {
            return Err(DialError(format!("the agent at {address} is node {}, not {node}", answer.id)));
        }
        let build = Build { messages: answer.messages, edition: answer.edition };
        Ok(Met { incarnation: answer.incarnation, build })
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
            return self.change(core, moved, true, deadline).await;
        }
        let added = ChangeMembers::AddNodes(BTreeMap::from([(node, member)]));
        self.change(core, added, true, deadline).await
    }

    /// Ends a change of voters that lost its leader half way: until then commits need majorities of the old and of
    /// the new set. Changes nothing if there is none. [`Standing::changing`](crate::Standing) shows one.
    ///
    /// # Errors
    /// When this agent does not lead, or the outcome is unknown.
    pub async fn settle(&self, deadline: Instant) -> Result<(), MembersError> {
        let core = self.inner.hub.core().ok_or(MembersError::Stopped)?;
        let sets = effective(&core).await?.get_joint_config().clone();
        match sets.last() {
            Some(last) if sets.len() > 1 => {
                let goal = ChangeMembers::ReplaceAllVoters(last.clone());
                self.change(core, goal, true, deadline).await
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Gives a learner that has caught up its vote.
    ///
    /// # Errors
    /// [`MembersError::Behind`] when it has not caught up by the deadline.
    pub async fn promote_to_voter(&self, node: NodeId, deadline: Instant) -> Result<(), MembersError> {
        self.settle(deadline).await?;
        let core = self.inner.hub.core().ok_or(MembersError::Stopped)?;
        let members = effective(&core).await?;
        if members.voter_ids().any(|id| id == node) {
            return Ok(());
        }
        if members.get_node(&node).is_none() {
            return Err(MembersError::Unknown { node });
        }
        self.catch_up(node, deadline).await?;
        self.change(core, ChangeMembers::AddVoterIds(BTreeSet::from([node])), true, deadline).await
    }

    /// Waits until a learner has almost the whole log.
    async fn catch_up(&self, node: NodeId, deadline: Instant) -> Result<(), MembersError> {
        let mut standing = self.subscribe();
        loop {
            let behind = {
                let standing = standing.borrow_and_update();
                if standing.leader != Some(self.inner.hub.identity.node) {
                    return Err(MembersError::NotLeader { leader: standing.leader });
                }
                let matched = standing.matched.get(&node).copied().flatten();
                standing.last.map_or(0, |last| last + 1).saturating_sub(matched.map_or(0, |at| at + 1))
            };
            if behind <= CLOSE {
                return Ok(());
            }
            match tokio::time::timeout_at(deadline.into(), standing.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_closed)) => return Err(MembersError::Stopped),
                Err(_elapsed) => return Err(MembersError::Behind { node, behind }),
            }
        }
    }

    /// Removes a member, voter or learner. Removing one that is gone changes nothing.
    ///
    /// # Errors
    /// [`MembersError::LastVoter`] for the only voter.
    pub async fn remove(&self, node: NodeId, deadline: Instant) -> Result<(), MembersError> {
        self.settle(deadline).await?;
        let core = self.inner.hub.core().ok_or(MembersError::Stopped)?;
        let members = effective(&core).await?;
        let voters: BTreeSet<NodeId> = members.voter_ids().collect();
        if voters.contains(&node) {
            if voters.len() == 1 {
                return Err(MembersError::LastVoter { node });
            }
            // Not retained: it leaves with the change, and is not left behind as a learner.
            let removed = ChangeMembers::RemoveVoters(BTreeSet::from([node]));
            return self.change(core, removed, false, deadline).await;
        }
        if members.get_node(&node).is_some() {
            let removed = ChangeMembers::RemoveNodes(BTreeSet::from([node]));
            return self.change(core, removed, false, deadline).await;
        }
        Ok(())
    }

    async fn change(
        &self,
        core: Core,
        changes: ChangeMembers<NodeId, Member>,
        retain: bool,
        deadline: Instant,
    ) -> Result<(), MembersError> {
        // Two entries, joint and final: a caller that gives up between them must not leave the mesh in the middle.
        let changed = self.keep_going(async move { change(&core, changes, retain).await });
        match tokio::time::timeout_at(deadline.into(), changed).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(MembersError::Lost),
        }
    }
}

/// The newest membership in the log, from the core itself: a standing may be older.
async fn effective(core: &Core) -> Result<Membership, MembersError> {
    let look = core.raft.with_raft_state(|state| state.membership_state.effective().membership().clone());
    look.await.map_err(|_stopped| MembersError::Stopped)
}

async fn change(
    core: &Core,
    changes: ChangeMembers<NodeId, Member>,
    retain: bool,
) -> Result<(), MembersError> {
    match core.raft.change_membership(changes, retain).await {
        Ok(_changed) => Ok(()),
        Err(RaftError::Fatal(_)) => Err(MembersError::Lost),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
            Err(MembersError::NotLeader { leader: forward.leader_id })
        }
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(refused))) => Err(match refused {
            ChangeMembershipError::InProgress(_) => MembersError::InProgress,
            ChangeMembershipError::LearnerNotFound(missing) => {
                MembersError::Unknown { node: missing.node_id }
            }
            ChangeMembershipError::EmptyMembership(_) => {
                MembersError::LastVoter { node: core.store.identity().node }
            }
        }),
    }
}
