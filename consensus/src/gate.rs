//! The election gate: openraft 0.9 has no pre-vote, so a voter asks around before it may stand.
//!
//! A voter that was cut off would otherwise raise its term again and again, and depose a healthy leader when it comes
//! back. It stands only when a quorum, itself included, says that it hears of no leader and is not ahead of it.
//! The gate decides nothing about safety: votes are still given by openraft's rules.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use futures_util::future::join_all;
use openraft::ServerState;

use crate::hub::{Core, Hub};
use crate::network::Peers;
use crate::types::{Member, NodeId};

/// Whether this voter has heard from no leader for longer than two heartbeats take to arrive.
pub(crate) fn quiet(hub: &Hub, now: Instant) -> bool {
    // Heartbeats go out on ticks of 1.5 heartbeats.
    hub.silence(now).is_none_or(|silence| silence > hub.options.timings.heartbeat * 3)
}

/// Opens and closes the gate of one core until it is dropped.
pub(crate) async fn keep(hub: &Hub, peers: &Peers, core: &Core) {
    let pace = hub.options.timings.heartbeat;
    loop {
        let open = wanted(hub, peers, core).await;
        core.raft.runtime_config().elect(open);
        // While a leader is heard there is nothing to ask before it has been silent for long enough.
        let heard = hub.silence(Instant::now()).map_or(pace, |silence| (pace * 3).saturating_sub(silence));
        tokio::time::sleep(heard.max(pace)).await;
    }
}

async fn wanted(hub: &Hub, peers: &Peers, core: &Core) -> bool {
    let me = hub.identity.node;
    let (sets, members) = {
        let metrics = core.raft.metrics();
        let metrics = metrics.borrow();
        // The ordinary case, many times a second: nothing to ask.
        if metrics.state == ServerState::Leader || !quiet(hub, Instant::now()) {
            return false;
        }
        let membership = metrics.membership_config.membership();
        let members: BTreeMap<NodeId, Member> =
            membership.nodes().map(|(id, member)| (*id, member.clone())).collect();
        (membership.get_joint_config().clone(), members)
    };
    if !sets.iter().any(|set| set.contains(&me)) {
        return false;
    }
    let last = core.store.last();
    let within = hub.options.timings.heartbeat;
    let voters: BTreeSet<NodeId> = sets.iter().flatten().copied().filter(|id| *id != me).collect();
    let asked = voters.iter().filter_map(|id| members.get(id).map(|member| (*id, member)));
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
    fn in_a_joint_change_both_sets_must_be_willing() {
        let sets = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([3, 4, 5])];
        assert!(!majority(&sets, &BTreeSet::from([1, 2, 3])));
        assert!(majority(&sets, &BTreeSet::from([1, 3, 4])));
        assert!(!majority(&sets, &BTreeSet::from([3])));
    }
}
