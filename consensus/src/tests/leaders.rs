//! Who may lead, stand and act: the election gate and the bounded permission.

use std::time::{Duration, Instant};

use super::{CALM, World, eventually, soon};
use crate::{NotActing, ProposeError, ReadError, Role};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_was_cut_off_rejoins_without_disturbing_the_leader() {
    let mut world = World::formed(3, CALM).await;
    let leader = world.leader().await;
    let lead = world.nodes[&leader].up().clone();
    let term = lead.standing().term;
    let follower = world.nodes.keys().copied().find(|id| *id != leader).unwrap();
    world.isolate(follower, true).await;
    // Several election timeouts: without the gate it would have stood several times.
    tokio::time::sleep(Duration::from_millis(3000)).await;
    let away = world.nodes[&follower].up().standing();
    assert_eq!((away.role, away.term), (Role::Follower, term), "it stood for election while cut off");
    world.commit("meanwhile").await;
    world.isolate(follower, false).await;
    let at = world.commit("together").await;
    world.everywhere(at).await;
    assert_eq!(lead.standing().term, term, "the leader was deposed");
    assert_eq!(world.leader().await, leader);
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_only_misses_the_leader_does_not_stand() {
    let mut world = World::formed(3, CALM).await;
    let leader = world.leader().await;
    let term = world.nodes[&leader].up().standing().term;
    let follower = world.nodes.keys().copied().find(|id| *id != leader).unwrap();
    // It reaches a quorum, but the other follower hears the leader.
    world.cut(leader, follower, true).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(world.nodes[&follower].up().standing().term, term);
    world.cut(leader, follower, false).await;
    let at = world.commit("together").await;
    world.everywhere(at).await;
    assert_eq!(world.nodes[&leader].up().standing().term, term);
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leader_may_not_act_and_its_permission_ends_before_another_leads() {
    let mut world = World::formed(3, CALM).await;
    for round in 0..3 {
        let old = world.leader().await;
        let deposed = world.nodes[&old].up().clone();
        let permission = deposed.acting(Duration::from_millis(20)).await.unwrap();
        assert!(permission.holds());
        assert!(permission.left().unwrap() < CALM.election_max);
        world.isolate(old, true).await;
        let began = Instant::now();
        assert_eq!(deposed.acting(Duration::from_millis(20)).await.unwrap_err(), NotActing::NoQuorum);
        assert_eq!(deposed.read_index().await, Err(ReadError::NoQuorum));
        // It still believes that it leads: the belief is worth nothing.
        assert_eq!(deposed.standing().role, Role::Leader);
        let lost = deposed.propose(b"into the void".to_vec(), soon(300)).await;
        assert_eq!(lost, Err(ProposeError::Lost));

        let new = world.leader_but(old).await;
        let elected = Instant::now();
        assert!(permission.until() < elected, "round {round}: another one led while the permission held");
        assert!(!permission.holds());
        println!("round {round}: replaced after {:?}", elected - began);
        assert!(world.nodes[&new].up().acting(Duration::from_millis(20)).await.is_ok());
        world.isolate(old, false).await;
        eventually("the old leader follows", || deposed.standing().role == Role::Follower).await;
        let refused = deposed.acting(Duration::from_millis(20)).await.unwrap_err();
        assert!(matches!(refused, NotActing::NotLeader { .. }), "{refused}");
        assert!(!world.nodes[&new].up().read(|ledger| ledger.has(b"into the void")));
        let at = world.commit(&format!("round {round}")).await;
        world.everywhere(at).await;
    }
    world.stop_all().await;
}

/// openraft alone lets a leader vote for another one as soon as its own election is a lease ago; with three voters
/// that is a majority, while the permission still holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confirmed_leader_votes_for_nobody_else() {
    let mut world = World::formed(3, CALM).await;
    let leader = world.leader().await;
    let other = world.nodes.keys().copied().find(|id| *id != leader).unwrap();
    let lead = world.nodes[&leader].up().clone();
    let at = world.commit("so that all are equally far").await;
    world.everywhere(at).await;
    tokio::time::sleep(CALM.election_max * 2).await;

    let permission = lead.acting(Duration::from_millis(1)).await.unwrap();
    let core = world.nodes[&other].up().inner.hub.core().unwrap();
    core.raft.trigger().elect().await.unwrap();
    // Not `holds`: the old leader would notice that it voted, but what it has begun goes on until then.
    while Instant::now() < permission.until() {
        assert_ne!(world.nodes[&other].up().standing().role, Role::Leader);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    world.leader().await;
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_voters_survive_two() {
    let mut world = World::formed(5, CALM).await;
    for _ in 0..2 {
        let leader = world.leader().await;
        world.commit("with").await;
        world.stop(leader).await;
        world.leader_but(leader).await;
        world.commit("without").await;
    }
    // The third loss leaves a minority, which must not commit.
    let leader = world.leader().await;
    let follower = world.running().map(|node| node.id).find(|id| *id != leader).unwrap();
    world.stop(follower).await;
    let lead = world.nodes[&leader].up();
    assert_eq!(lead.propose(b"minority".to_vec(), soon(1500)).await, Err(ProposeError::Lost));
    assert!(!lead.read(|ledger| ledger.has(b"minority")));
    assert!(lead.acting(Duration::from_millis(10)).await.is_err());
    world.start(follower).await;
    let at = world.commit("three again").await;
    world.everywhere(at).await;
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_beyond_the_bound_wait_and_are_then_refused() {
    let mut world = World::formed(3, CALM).await;
    let leader = world.leader().await;
    let lead = world.nodes[&leader].up().clone();
    world.isolate(leader, true).await;
    let held: Vec<_> = (0..8)
        .map(|round| {
            let lead = lead.clone();
            tokio::spawn(async move { lead.propose(vec![round], soon(400)).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let began = Instant::now();
    assert_eq!(lead.propose(b"ninth".to_vec(), soon(100)).await, Err(ProposeError::Overloaded));
    assert!(began.elapsed() < Duration::from_millis(300));
    for proposal in held {
        assert_eq!(proposal.await.unwrap(), Err(ProposeError::Lost));
    }
    // The callers gave up, the core did not: their places are still taken.
    assert_eq!(lead.propose(b"tenth".to_vec(), soon(50)).await, Err(ProposeError::Overloaded));
    world.isolate(leader, false).await;
    world.commit("afterwards").await;
    assert!(!world.nodes[&leader].up().read(|ledger| ledger.has(b"ninth") || ledger.has(b"tenth")));
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_margin_as_long_as_the_lease_is_refused() {
    let mut world = World::formed(1, CALM).await;
    let refused = world.nodes[&1].up().acting(CALM.election_max).await.unwrap_err();
    assert!(matches!(refused, NotActing::MarginTooLarge { .. }), "{refused}");
    world.stop_all().await;
}
