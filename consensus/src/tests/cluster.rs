//! The ordinary life: commit, crash, restart, join, leave, catch up.

use std::time::Duration;

use super::{CALM, World, eventually, soon};
use crate::{MembersError, OpenError, ProposeError, Role, StoreError, create_store, read_identity};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_voters_commit_and_all_apply_the_same() {
    let mut world = World::formed(3, CALM).await;
    let mut last = None;
    for round in 0..20 {
        last = Some(world.commit(&format!("command {round}")).await);
    }
    world.everywhere(last.unwrap()).await;
    let first = world.nodes[&1].up().read(|ledger| ledger.lines.clone());
    assert_eq!(first.len(), 20);
    for node in world.running() {
        assert_eq!(node.up().read(|ledger| ledger.lines.clone()), first);
    }
    let leader = world.leader().await;
    let follower = world.nodes.keys().copied().find(|id| *id != leader).unwrap();
    let refused = world.nodes[&follower].up().propose(b"x".to_vec(), soon(1000)).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(leader) }));
    let large = vec![0; (1 << 20) + 1];
    let refused = world.nodes[&leader].up().propose(large, soon(1000)).await;
    assert_eq!(refused, Err(ProposeError::TooLarge { size: (1 << 20) + 1, limit: 1 << 20 }));
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_leader_is_replaced_and_catches_up_after_a_restart_from_disk() {
    let mut world = World::formed(3, CALM).await;
    world.commit("before").await;
    let old = world.leader().await;
    world.stop(old).await;
    let new = world.leader_but(old).await;
    assert_ne!(new, old);
    let during = world.commit("during").await;
    world.start(old).await;
    world.everywhere(during).await;
    assert!(world.nodes[&old].up().read(|ledger| ledger.has(b"before") && ledger.has(b"during")));
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_voters_restart_from_disk() {
    let mut world = World::formed(3, CALM).await;
    world.commit("kept").await;
    for id in 1..=3 {
        world.stop(id).await;
    }
    for id in 1..=3 {
        world.start(id).await;
    }
    let at = world.commit("after").await;
    world.everywhere(at).await;
    for node in world.running() {
        assert!(node.up().read(|ledger| ledger.has(b"kept")));
    }
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_joins_as_learner_becomes_voter_and_leaves() {
    let mut world = World::formed(3, CALM).await;
    world.commit("one").await;
    world.add(4).await;
    let leader = world.leader().await;
    let member = world.nodes[&4].member.clone();
    let lead = world.nodes[&leader].up().clone();

    let known = lead.identify(4, &member.address, &member.name, soon(2000)).await.unwrap();
    assert_eq!(known.incarnation, member.incarnation);
    assert_eq!(known.build, crate::Build { messages: 7, edition: 4 }, "it says what the others may count on");

    assert_eq!(lead.promote_to_voter(4, soon(500)).await, Err(MembersError::Unknown { node: 4 }));
    lead.add_learner(4, member.clone(), soon(5000)).await.unwrap();
    assert_eq!(lead.members().learners.keys().copied().collect::<Vec<_>>(), [4]);
    let mut other = member.clone();
    other.incarnation ^= 1;
    assert_eq!(lead.add_learner(4, other, soon(5000)).await, Err(MembersError::OtherIncarnation { node: 4 }));
    lead.promote_to_voter(4, soon(10_000)).await.unwrap();
    assert_eq!(lead.members().voters.len(), 4);
    let at = world.commit("four").await;
    world.everywhere(at).await;
    assert!(world.nodes[&4].up().read(|ledger| ledger.has(b"one")));

    lead.remove(4, soon(5000)).await.unwrap();
    lead.remove(4, soon(5000)).await.unwrap();
    eventually("the voter is gone", || lead.members().voters.len() == 3).await;
    // The removed one asks for no election, and the others commit without it.
    world.commit("three").await;
    let gone = world.nodes[&4].up();
    assert_ne!(gone.standing().role, Role::Leader);
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_can_be_removed() {
    let mut world = World::formed(3, CALM).await;
    let leader = world.leader().await;
    world.nodes[&leader].up().remove(leader, soon(5000)).await.unwrap();
    let next = world.leader_but(leader).await;
    assert_eq!(world.nodes[&next].up().members().voters.len(), 2);
    let proposed = world.nodes[&next].up().propose(b"two".to_vec(), soon(5000)).await;
    proposed.unwrap();
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_voter_catches_up_by_snapshot() {
    let tweak = |options: &mut crate::Options| {
        options.snapshot_every = 50;
        options.keep_entries = 10;
    };
    let mut world = World::formed_with(3, CALM, tweak).await;
    let leader = world.leader().await;
    let late = world.nodes.keys().copied().find(|id| *id != leader).unwrap();
    world.stop(late).await;
    let mut at = None;
    for round in 0..220 {
        at = Some(world.commit(&format!("command {round}")).await);
    }
    world.start(late).await;
    let began = std::time::Instant::now();
    world.nodes[&late].up().wait_applied(at.unwrap().index, soon(20_000)).await.unwrap();
    println!("snapshot catch-up took {:?}", began.elapsed());
    assert_eq!(world.nodes[&late].up().read(|ledger| ledger.lines.len()), 220);
    // And from its own disk, where the log starts behind the snapshot.
    world.stop(late).await;
    world.start(late).await;
    let at = world.commit("last").await;
    world.everywhere(at).await;
    assert_eq!(world.nodes[&late].up().read(|ledger| ledger.lines.len()), 221);
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_are_created_once_opened_by_one_and_only_for_their_owner() {
    let mut world = World::new(CALM);
    let missing = world.dir.path().join("missing.store");
    let options = crate::Options::new(&missing, 9, super::MESH, super::anyone());
    let dialer = |_: u64, _: &crate::Member| Err(crate::DialError("nobody".to_owned()));
    let refused = crate::Consensus::open(options, super::Ledger::default(), dialer).await.err().unwrap();
    assert!(matches!(refused, OpenError::Store(StoreError::Missing { .. })), "{refused}");

    world.add(1).await;
    let path = world.nodes[&1].path.clone();
    assert!(matches!(create_store(&path, 1, super::MESH), Err(StoreError::Exists { .. })));
    assert!(matches!(read_identity(&path), Err(StoreError::Locked { .. })));
    let options = world.options(1);
    let refused = crate::Consensus::open(options, super::Ledger::default(), dialer).await.err().unwrap();
    let OpenError::Store(refused) = refused else { panic!("{refused}") };
    assert!(refused.to_string().contains("another agent runs on this data directory"), "{refused}");
    world.stop(1).await;

    for (node, mesh) in [(2, super::MESH), (1, "other-mesh")] {
        let options = crate::Options::new(&path, node, mesh, super::anyone());
        let refused = crate::Consensus::open(options, super::Ledger::default(), dialer).await.err().unwrap();
        let named = matches!(
            refused,
            OpenError::Store(StoreError::OtherNode { found: 1, expected: 2 } | StoreError::OtherMesh { .. })
        );
        assert!(named, "{refused}");
    }
    assert_eq!(
        read_identity(&path).unwrap(),
        crate::Identity {
            node: 1,
            mesh: super::MESH.to_owned(),
            incarnation: world.nodes[&1].member.incarnation,
        }
    );
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_cannot_apply_stops_the_voter_for_good() {
    let mut world = World::formed(1, CALM).await;
    let node = world.nodes[&1].up().clone();
    assert_eq!(node.propose(b"poison".to_vec(), soon(2000)).await, Err(ProposeError::Lost));
    eventually("the voter stops", || node.standing().role == Role::Stopped).await;
    let fault = node.standing().fault.unwrap();
    assert!(fault.contains("a poisonous command"), "{fault}");
    assert_eq!(node.propose(b"more".to_vec(), soon(2000)).await, Err(ProposeError::Stopped));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(node.standing().role, Role::Stopped);
    drop(node);
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_voters_that_loses_its_leader_half_way_is_settled_by_the_next() {
    let mut world = World::formed(3, CALM).await;
    world.add(4).await;
    let mut halves = 0;
    for round in 0..5 {
        let leader = world.leader().await;
        let lead = world.nodes[&leader].up().clone();
        lead.add_learner(4, world.nodes[&4].member.clone(), soon(5000)).await.unwrap();
        let promoted = tokio::spawn(async move { lead.promote_to_voter(4, soon(3000)).await });
        tokio::time::sleep(Duration::from_micros(1200 + 500 * round)).await;
        world.isolate(leader, true).await;
        let next = world.leader_but(leader).await;
        let lead = world.nodes[&next].up().clone();
        halves += usize::from(lead.standing().changing);
        let member = world.nodes[&4].member.clone();
        lead.add_learner(4, member, soon(5000)).await.unwrap();
        lead.promote_to_voter(4, soon(10_000)).await.unwrap();
        eventually("four voters", || {
            let standing = lead.standing();
            !standing.changing && standing.voters.len() == 4
        })
        .await;
        world.isolate(leader, false).await;
        let _ = promoted.await.unwrap();
        let at = world.commit(&format!("round {round}")).await;
        world.everywhere(at).await;
        let leader = world.leader().await;
        if leader == 4 {
            break;
        }
        world.nodes[&leader].up().remove(4, soon(10_000)).await.unwrap();
    }
    println!("{halves} changes were left half done");
    world.stop_all().await;
}
