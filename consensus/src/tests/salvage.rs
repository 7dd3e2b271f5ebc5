//! A majority of voters that is gone for good: the survivor begins a mesh of its own, and neither takes the other's word.

use std::time::Duration;

use super::{CALM, Ledger, RECOVERED, World, eventually, soon};
use crate::{Beginning, EntryId, OpenError, Role, SalvageError, StoreError, begin_store, salvage};

/// Stops all, and turns what voter 3 knew into the store of a mesh of its own.
async fn recovered_on_three(world: &mut World) -> EntryId {
    let path = world.nodes[&3].path.clone();
    assert!(
        matches!(salvage(&path, Ledger::default()), Err(SalvageError::Store(StoreError::Locked { .. }))),
        "a store whose agent runs is not read"
    );
    for id in 1..=3 {
        world.stop(id).await;
    }
    let found = salvage(&path, Ledger::default()).unwrap();
    assert_eq!(found.identity.node, 3);
    assert!(
        matches!(salvage(&path, Ledger::default()), Err(SalvageError::Store(StoreError::Locked { .. }))),
        "locked for as long as it is looked at"
    );
    let last = found.last.unwrap();
    let at = EntryId { term: found.term + 1_000, index: last.index + 1_000_000 };
    let fresh = path.with_extension("recovered");
    let member = world.nodes[&3].member.clone();
    let beginning = Beginning {
        node: 3,
        address: member.address,
        name: member.name,
        mesh: RECOVERED,
        at,
        state: crate::Machine::snapshot(&found.machine).unwrap(),
    };
    let identity = begin_store(&fresh, beginning).unwrap();
    drop(found);
    let node = world.nodes.get_mut(&3).unwrap();
    assert_ne!(identity.incarnation, node.member.incarnation);
    node.member.incarnation = identity.incarnation;
    node.path = fresh;
    at
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_begins_a_mesh_of_its_own_with_all_that_it_knew() {
    let mut world = World::formed(3, CALM).await;
    let before = world.commit("before").await;
    world.everywhere(before).await;
    let at = recovered_on_three(&mut world).await;

    // The old name does not open the new store.
    assert!(matches!(world.try_start(3).await, Err(OpenError::Store(StoreError::OtherMesh { .. }))));
    world.nodes.get_mut(&3).unwrap().mesh = RECOVERED;
    world.start(3).await;
    eventually("the survivor leads", || world.nodes[&3].up().standing().role == Role::Leader).await;
    assert!(world.nodes[&3].up().read(|ledger| ledger.has(b"before")));
    let after = world.nodes[&3].up().propose(b"after".to_vec(), soon(5_000)).await.unwrap();
    assert!(after.id.term > at.term && after.id.index > at.index, "{after:?} is not beyond {at}");

    // The old majority comes back, against all that was said: it is a mesh of its own, and changes nothing here.
    world.start(1).await;
    world.start(2).await;
    eventually("the old ones elect", || {
        [1, 2].iter().any(|id| world.nodes[id].up().standing().role == Role::Leader)
    })
    .await;
    let old = if world.nodes[&1].up().standing().role == Role::Leader { 1 } else { 2 };
    world.nodes[&old].up().propose(b"elsewhere".to_vec(), soon(5_000)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.nodes[&3].up().standing().role, Role::Leader);
    assert!(!world.nodes[&3].up().read(|ledger| ledger.has(b"elsewhere")));
    assert!(!world.nodes[&old].up().read(|ledger| ledger.has(b"after")));
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovered_mesh_grows_and_restarts() {
    let mut world = World::formed(3, CALM).await;
    let before = world.commit("before").await;
    world.everywhere(before).await;
    recovered_on_three(&mut world).await;
    for gone in [1, 2] {
        world.nodes.remove(&gone);
    }
    world.mesh = RECOVERED;
    world.nodes.get_mut(&3).unwrap().mesh = RECOVERED;
    world.start(3).await;
    eventually("the survivor leads", || world.nodes[&3].up().standing().role == Role::Leader).await;
    for id in [4, 5] {
        world.add(id).await;
        let member = world.nodes[&id].member.clone();
        let lead = world.nodes[&3].up().clone();
        lead.add_learner(id, member, soon(5_000)).await.unwrap();
        lead.promote_to_voter(id, soon(5_000)).await.unwrap();
    }
    let grown = world.commit("grown").await;
    world.everywhere(grown).await;
    for id in [4, 5] {
        assert!(world.nodes[&id].up().read(|ledger| ledger.has(b"before") && ledger.has(b"grown")));
    }
    for id in [3, 4, 5] {
        world.stop(id).await;
    }
    for id in [3, 4, 5] {
        world.start(id).await;
    }
    let again = world.commit("again").await;
    world.everywhere(again).await;
    world.stop_all().await;
}
