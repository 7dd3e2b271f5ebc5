//! The election gate: openraft 0.9 has no pre-vote, so a voter asks around before it may stand.
//!
//! A voter that was cut off would otherwise raise its term again and again, and depose a healthy leader when it comes
//! back. It stands only when a quorum, itself included, says that it hears of no leader and is not ahead of it.
//! The gate decides nothing about safety: votes are still given by openraft's rules.
//!
//! Voters stand in turn. openraft draws each one's election timeout once, and looks at it on ticks of 1.5 heartbeats: two
//! whose draws fall on the same tick would split the votes again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use openraft::ServerState;

use crate::hub::{Core, Hub};
use crate::network::Peers;
use crate::options::Timings;
use crate::types::{Member, NodeId};

/// Whether this voter has heard from no leader for longer than two heartbeats take to arrive.
pub(crate) fn quiet(hub: &Hub, now: Instant) -> bool {
    // Heartbeats go out on ticks of 1.5 heartbeats.
    hub.silence(now).is_none_or(|silence| silence > hub.options.timings.heartbeat * 3)
}

/// How long no leader must have been heard before the voter of this rank asks whether it may stand. The first stands as soon
/// as openraft lets it, which is at the latest two of the longest election timeouts and a tick after the leader's last word;
/// each next one leaves the one before it the time for a whole election.
fn turn(timings: &Timings, rank: u32) -> Duration {
    match rank {
        0 => timings.heartbeat * 3,
        rank => timings.election_max * 2 + timings.heartbeat * 2 * rank,
    }
}

/// The place of this voter among those that could follow the leader that was lost.
fn rank(me: NodeId, voters: &BTreeSet<NodeId>, lost: Option<NodeId>) -> u32 {
    let before = voters.iter().filter(|id| **id < me && Some(**id) != lost).count();
    u32::try_from(before).unwrap_or(u32::MAX)
}

/// Opens and closes the gate of one core until it is dropped.
pub(crate) async fn keep(hub: &Hub, peers: &Peers, core: &Core) {
    let pace = hub.options.timings.heartbeat;
    let began = Instant::now();
    loop {
        let open = wanted(hub, peers, core, began).await;
        core.raft.runtime_config().elect(open);
        // While a leader is heard there is nothing to ask before it has been silent for long enough.
        let heard = hub.silence(Instant::now()).map_or(pace, |silence| (pace * 3).saturating_sub(silence));
        tokio::time::sleep(heard.max(pace)).await;
    }
}

async fn wanted(hub: &Hub, peers: &Peers, core: &Core, began: Instant) -> bool {
    let me = hub.identity.node;
    let (sets, members, lost) = {
        let metrics = core.raft.metrics();
        let metrics = metrics.borrow();
        // The ordinary case, many times a second: nothing to ask.
        if metrics.state == ServerState::Leader || !quiet(hub, Instant::now()) {
            return false;
        }
        let membership = metrics.membership_config.membership();
        let members: BTreeMap<NodeId, Member> =
            membership.nodes().map(|(id, member)| (*id, member.clone())).collect();
        (membership.get_joint_config().clone(), members, metrics.current_leader)
    };
    if !sets.iter().any(|set| set.contains(&me)) {
        return false;
    }
    let voters: BTreeSet<NodeId> = sets.iter().flatten().copied().collect();
    let now = Instant::now();
    let silence = hub.silence(now).unwrap_or_else(|| now.saturating_duration_since(began));
    if silence < turn(&hub.options.timings, rank(me, &voters, lost)) {
        return false;
    }
    let last = core.store.last();
    let within = hub.options.timings.heartbeat;
    let asked =
        voters.iter().filter(|id| **id != me).filter_map(|id| members.get(id).map(|member| (*id, member)));
    let answers = join_all(asked.map(|(id, member)| async move {
        match peers.probe(id, member, last, within).await {
            Ok(answer) => answer.welcome.then_some(id),
            Err(status) => {
                tracing::debug!(node = id, %status, "a voter does not answer whether an election is welcome");
                None
            }
        }
    }));
    let welcome: BTreeSet<NodeId> = answers.await.into_iter().flatten().chain([me]).collect();
    majority(&sets, &welcome)
}

/// Whether the willing are a majority of every voter set.
fn majority(sets: &[BTreeSet<NodeId>], willing: &BTreeSet<NodeId>) -> bool {
    sets.iter().all(|set| set.intersection(willing).count() * 2 > set.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_stand_in_turn_and_the_lost_leader_has_none() {
        let voters = BTreeSet::from([1, 2, 3, 5]);
        let ranks = |lost| [2, 3, 5].map(|me| rank(me, &voters, lost));
        assert_eq!(ranks(Some(1)), [0, 1, 2]);
        assert_eq!(ranks(Some(3)), [1, 2, 2]);
        assert_eq!(ranks(None), [1, 2, 3]);
        for timings in [Timings::LAN, Timings::WAN] {
            // The lease, the longest draw, and a tick of 1.5 heartbeats.
            let latest = timings.election_max * 2 + timings.heartbeat * 3 / 2;
            assert!(turn(&timings, 0) < timings.election_max && turn(&timings, 1) > latest);
            assert!(turn(&timings, 2) > turn(&timings, 1) + timings.heartbeat);
        }
    }

    #[test]
    fn in_a_joint_change_both_sets_must_be_willing() {
        let sets = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([3, 4, 5])];
        assert!(!majority(&sets, &BTreeSet::from([1, 2, 3])));
        assert!(majority(&sets, &BTreeSet::from([1, 3, 4])));
        assert!(!majority(&sets, &BTreeSet::from([3])));
    }
}
