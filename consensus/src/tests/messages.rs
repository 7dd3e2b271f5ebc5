//! What is refused before it is looked at: other versions, meshes, nodes, incarnations, and impostors.

use std::sync::Arc;

use mesh_proto::raft as pb;
use mesh_proto::raft::raft_client::RaftClient;
use tonic::{Code, Status};

use super::{CALM, MESH, World, soon};
use crate::{ProposeError, create_store};

fn header(world: &World, from: u64, to: u64) -> pb::Header {
    pb::Header {
        version: 1,
        mesh: MESH.to_owned(),
        from,
        from_incarnation: world.nodes[&from].member.incarnation,
        to,
        to_incarnation: world.nodes[&to].member.incarnation,
        lease_ms: world.timings.lease_ms(),
    }
}

async fn vote(world: &World, to: u64, header: pb::Header) -> Result<pb::VoteResponse, Status> {
    let address = format!("http://{}", world.nodes[&to].member.address);
    let mut client = RaftClient::connect(address).await.unwrap();
    let ballot = pb::Ballot { term: 1, voted_for: Some(header.from), committed: false };
    let request = pb::VoteRequest { header: Some(header), ballot: Some(ballot), last: None };
    client.vote(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_do_not_belong_here_are_refused_clearly() {
    let mut world = World::formed(3, CALM).await;
    let leader = world.leader().await;
    let to = leader % 3 + 1;
    let from = to % 3 + 1;
    let good = header(&world, from, to);
    vote(&world, to, good.clone()).await.unwrap();

    let cases = [
        ("version 9", pb::Header { version: 9, ..good.clone() }, Code::FailedPrecondition),
        ("mesh \"other\"", pb::Header { mesh: "other".to_owned(), ..good.clone() }, Code::FailedPrecondition),
        ("for node 9", pb::Header { to: 9, ..good.clone() }, Code::FailedPrecondition),
        ("another incarnation", pb::Header { to_incarnation: 7, ..good.clone() }, Code::FailedPrecondition),
        ("for which incarnation", pb::Header { to_incarnation: 0, ..good.clone() }, Code::FailedPrecondition),
        ("`network` in [mesh]", pb::Header { lease_ms: 1, ..good.clone() }, Code::FailedPrecondition),
        ("lost its disk", pb::Header { from_incarnation: 7, ..good.clone() }, Code::PermissionDenied),
    ];
    for (words, header, code) in cases {
        let refused = vote(&world, to, header).await.unwrap_err();
        assert_eq!(refused.code(), code, "{words}: {refused}");
        assert!(refused.message().contains(words), "{words}: {refused}");
    }
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_speaks_only_for_the_node_of_its_certificate() {
    let only_two = |options: &mut crate::Options| {
        options.peer_check = Arc::new(|_, claimed| {
            if claimed == 3 {
                Err(Status::permission_denied("not the certificate of node 3"))
            } else {
                Ok(())
            }
        });
    };
    let mut world = World::new(CALM);
    world.tweak = only_two;
    for id in 1..=3 {
        world.add(id).await;
    }
    let (two, three) = (header(&world, 2, 1), header(&world, 3, 1));
    vote(&world, 1, two).await.unwrap();
    assert_eq!(vote(&world, 1, three).await.unwrap_err().code(), Code::PermissionDenied);
    world.stop_all().await;
}

/// openraft would let it vote again, and so lose what it had acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_with_an_emptied_disk_is_refused_under_its_old_id() {
    let mut world = World::formed(3, CALM).await;
    world.commit("kept").await;
    let leader = world.leader().await;
    let wiped = world.nodes.keys().copied().find(|id| *id != leader).unwrap();
    let third = world.nodes.keys().copied().find(|id| *id != leader && *id != wiped).unwrap();
    world.stop(wiped).await;
    let path = world.nodes[&wiped].path.clone();
    std::fs::remove_file(&path).unwrap();
    // An agent without its store does not start as an existing member ...
    assert!(world.try_start(wiped).await.is_err());
    // ... and with a new one under the old id it is nobody.
    create_store(&path, wiped, MESH).unwrap();
    world.start(wiped).await;
    world.stop(third).await;
    let lead = world.nodes[&leader].up().clone();
    let proposed = lead.propose(b"needs a real quorum".to_vec(), soon(1500)).await;
    assert_eq!(proposed, Err(ProposeError::Lost));
    assert_eq!(world.nodes[&wiped].up().standing().applied, None);
    assert_eq!(world.nodes[&wiped].up().standing().last, None);
    world.start(third).await;
    world.commit("with the real one").await;
    world.stop_all().await;
}
