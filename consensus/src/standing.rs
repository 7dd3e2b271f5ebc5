//! What a voter says about itself. For display and for waiting; never a permission to act.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::ServerState;

use crate::types::{EntryId, Member, NodeId, entry_id};

/// What this agent is in the agreement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It believes that it leads. Proves nothing: ask `Consensus::acting` before acting.
    Leader,
    /// It follows, or waits for a leader.
    Follower,
    /// It stands for election.
    Candidate,
    /// It has no vote (yet), or is no member.
    Learner,
    /// It neither votes nor acknowledges: shut down, or at fault.
    Stopped,
}

/// What a voter says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its role.
    pub role: Role,
    /// The highest term it knows.
    pub term: u64,
    /// The leader it knows of; stays named after a crash until the next election.
    pub leader: Option<NodeId>,
    /// The last entry its machine has applied.
    pub applied: Option<EntryId>,
    /// The index of the last entry in its log, committed or not.
    pub last: Option<u64>,
    /// Leader only: time since a quorum last confirmed it, as of the last report of the core. Changes of this alone
    /// wake no subscriber.
    pub since_quorum: Option<Duration>,
    /// Leader only: up to where each member's log is known to match.
    pub matched: BTreeMap<NodeId, Option<u64>>,
    /// Why it stopped; nothing while it runs, or after an ordinary shutdown.
    pub fault: Option<String>,
    /// A change of voters is half done: commits need majorities of the old and of the new set. Ends by itself unless
    /// the leader was lost meanwhile; then `Consensus::settle` ends it.
    pub changing: bool,
    /// The members with a vote. In a change of voters, those of the old and the new set.
    pub voters: BTreeMap<NodeId, Member>,
    /// The members without.
    pub learners: BTreeMap<NodeId, Member>,
}

impl Standing {
    pub(crate) fn stopped(fault: Option<String>) -> Self {
        Self {
            role: Role::Stopped,
            term: 0,
            leader: None,
            applied: None,
            last: None,
            since_quorum: None,
            matched: BTreeMap::new(),
            fault,
            changing: false,
            voters: BTreeMap::new(),
            learners: BTreeMap::new(),
        }
    }

    pub(crate) fn of(metrics: &openraft::RaftMetrics<NodeId, Member>) -> Self {
        let membership = metrics.membership_config.membership();
        let ids: std::collections::BTreeSet<NodeId> = membership.voter_ids().collect();
        let (voters, learners) = membership
            .nodes()
            .map(|(id, member)| (*id, member.clone()))
            .partition(|(id, _): &(NodeId, Member)| ids.contains(id));
        let matched = metrics.replication.iter().flatten();
        Self {
            role: match metrics.state {
                ServerState::Leader => Role::Leader,
                ServerState::Follower => Role::Follower,
                ServerState::Candidate => Role::Candidate,
                ServerState::Learner => Role::Learner,
                ServerState::Shutdown => Role::Stopped,
            },
            term: metrics.current_term,
            leader: metrics.current_leader,
            applied: metrics.last_applied.as_ref().map(entry_id),
            last: metrics.last_log_index,
            since_quorum: metrics.millis_since_quorum_ack.map(Duration::from_millis),
            matched: matched.map(|(id, at)| (*id, at.as_ref().map(|at| at.index))).collect(),
            fault: None,
            changing: membership.get_joint_config().len() > 1,
            voters,
            learners,
        }
    }

    /// Takes over a newer report; says whether anything but the age of the confirmation changed.
    pub(crate) fn replace(&mut self, newer: Self) -> bool {
        let aged = Self { since_quorum: newer.since_quorum, ..self.clone() };
        let changed = aged != newer;
        *self = newer;
        changed
    }
}
