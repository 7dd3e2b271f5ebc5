//! Permission to act as the leader: confirmed by a quorum, bounded in time, and never "I am leader".
//!
//! Every voter that confirms at some moment after the question was sent gives its vote to nobody else for one lease
//! (`election_max`), and this voter promises the same for itself. A new leader needs a majority, so one of them: it
//! cannot exist before the lease, counted from before the question, is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::ServerState;
use openraft::error::{CheckIsLeaderError, RaftError};
use rustix::time::{ClockId, clock_gettime};

use crate::error::{NotActing, ReadError};
use crate::hub::{Core, Hub};
use crate::machine::Shared;
use crate::types::{EntryId, Machine, NodeId, entry_id};

/// Clocks of two hosts may drift apart by this part of the lease: 1 %, ten times what a bad oscillator does.
const DRIFT: u32 = 100;

/// The bounded permission to act as the leader of a term. Expires; must then be asked for again.
#[derive(Clone)]
pub struct Acting {
    term: u64,
    until: Instant,
    bound: Duration,
    asked: Duration,
    reign: u64,
    hub: Arc<Hub>,
}

impl Acting {
    /// The term in which this agent leads.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.term
    }

    /// When the permission ends, on this host's monotonic clock: the deadline of whatever is done under it.
    #[must_use]
    pub fn until(&self) -> Instant {
        self.until
    }

    /// What is left of it; nothing if it has expired, this agent has seen that it was deposed, or the host slept.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        if self.hub.reign() != self.reign {
            return None;
        }
        // The monotonic clock stands still while the host is suspended; the other voters' clocks did not.
        let slept = boot_clock().saturating_sub(self.asked);
        let left = self.until.checked_duration_since(Instant::now())?;
        Some(left.min(self.bound.checked_sub(slept)?)).filter(|left| !left.is_zero())
    }

    /// Whether it still holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.left().is_some()
    }
}

impl std::fmt::Debug for Acting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acting").field("term", &self.term).field("left", &self.left()).finish()
    }
}

fn boot_clock() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Asks a quorum for the permission.
pub(crate) async fn acting<M: Machine>(
    hub: &Arc<Hub>,
    shared: &Shared<M>,
    margin: Duration,
) -> Result<Acting, NotActing> {
    let core = hub.core().ok_or(NotActing::Stopped)?;
    let lease = hub.options.timings.election_max;
    let bound = (lease - lease / DRIFT).checked_sub(margin).filter(|bound| !bound.is_zero());
    let bound = bound.ok_or(NotActing::MarginTooLarge { margin, lease })?;
    let reign = hub.reign();
    {
        let metrics = core.raft.metrics();
        let metrics = metrics.borrow();
        if metrics.state != ServerState::Leader {
            return Err(NotActing::NotLeader { leader: metrics.current_leader });
        }
    }

    let asked = Instant::now();
    let asked_boot = boot_clock();
    let promised = asked + lease;
    let before = hub.contact.promise(promised).await;
    let granted = confirmed_term(hub, shared, &core).await.and_then(|term| {
        let acting =
            Acting { term, until: asked + bound, bound, asked: asked_boot, reign, hub: Arc::clone(hub) };
        if acting.holds() { Ok(acting) } else { Err(NotActing::NoQuorum) }
    });
    if granted.is_err() {
        hub.contact.retract(promised, before);
    }
    granted
}

/// The term in which a quorum, and the core itself, confirm this voter as the leader now.
async fn confirmed_term<M: Machine>(hub: &Hub, shared: &Shared<M>, core: &Core) -> Result<u64, NotActing> {
    confirm(hub, core).await.map_err(|refusal| match refusal {
        Refusal::NotLeader(leader) => NotActing::NotLeader { leader },
        Refusal::NoQuorum => NotActing::NoQuorum,
        Refusal::Stopped => NotActing::Stopped,
    })?;
    // In the core's own order: if it gave its vote away before the promise, this shows it.
    let vote = core.raft.with_raft_state(|state| *state.vote_ref()).await.map_err(|_| NotActing::Stopped)?;
    if !vote.committed || vote.leader_id.voted_for != Some(hub.identity.node) {
        return Err(NotActing::NotLeader { leader: None });
    }
    let term = vote.leader_id.term;
    if shared.last().is_none_or(|last| last.leader_id.term != term) {
        return Err(NotActing::NotCaughtUp);
    }
    Ok(term)
}

enum Refusal {
    NotLeader(Option<NodeId>),
    NoQuorum,
    Stopped,
}

/// A round of confirmations; returns when this machine has applied everything committed before the question.
async fn confirm(hub: &Hub, core: &Core) -> Result<Option<EntryId>, Refusal> {
    // openraft waits one heartbeat for the voters, and without end for its own machine to catch up.
    let patience = hub.options.timings.heartbeat * 2;
    match tokio::time::timeout(patience, core.raft.ensure_linearizable()).await {
        Err(_elapsed) => Err(Refusal::NoQuorum),
        Ok(Ok(upto)) => Ok(upto.as_ref().map(entry_id)),
        Ok(Err(RaftError::Fatal(_))) => Err(Refusal::Stopped),
        Ok(Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_)))) => Err(Refusal::NoQuorum),
        Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward)))) => {
            Err(Refusal::NotLeader(forward.leader_id))
        }
    }
}

/// The barrier of a linearizable read.
pub(crate) async fn read_index(hub: &Hub) -> Result<Option<EntryId>, ReadError> {
    let core = hub.core().ok_or(ReadError::Stopped)?;
    confirm(hub, &core).await.map_err(|refusal| match refusal {
        Refusal::NotLeader(leader) => ReadError::NotLeader { leader },
        Refusal::NoQuorum => ReadError::NoQuorum,
        Refusal::Stopped => ReadError::Stopped,
    })
}
