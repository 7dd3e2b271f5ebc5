//! Full and broken disks: the voter stops voting, says so, and takes part again when there is room.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::{CALM, Ledger, World, anyone, eventually, soon};
use crate::store::tests::sim::SimDisk;
use crate::store::tests::{MESH, create};
use crate::{Consensus, DialError, Member, Options, ProposeError, Role};

fn alone(_: u64, _: &Member) -> Result<tonic::transport::Channel, DialError> {
    Err(DialError("there is nobody else".to_owned()))
}

async fn single(disk: &SimDisk) -> Consensus<Ledger> {
    create(disk);
    let mut options = Options::new("unused", 1, MESH, anyone());
    options.timings = CALM;
    let node = Consensus::open_on(Arc::new(disk.clone()), options, Ledger::default(), alone).await.unwrap();
    let me = Member {
        address: "127.0.0.1:1".to_owned(),
        name: "one".to_owned(),
        incarnation: node.identity().incarnation,
    };
    node.form([(1, me)].into()).await.unwrap();
    eventually("it leads", || node.standing().role == Role::Leader).await;
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_write_is_not_acknowledged_and_the_voter_recovers_in_place() {
    for broken in [false, true] {
        let disk = SimDisk::new(11);
        let node = single(&disk).await;
        node.propose(b"before".to_vec(), soon(2000)).await.unwrap();
        if broken {
            disk.set_broken(true)
        } else {
            disk.set_full(true)
        }
        assert_eq!(node.propose(b"refused".to_vec(), soon(2000)).await, Err(ProposeError::Lost));
        eventually("it says that it stopped", || node.standing().fault.is_some()).await;
        let standing = node.standing();
        assert_eq!(standing.role, Role::Stopped);
        assert!(standing.fault.unwrap().contains("disk"), "the fault names the disk");
        assert!(node.acting(Duration::from_millis(1)).await.is_err());
        assert_eq!(node.propose(b"stopped".to_vec(), soon(500)).await, Err(ProposeError::Stopped));
        // It stays stopped while the disk is as it is, over several attempts.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(node.standing().role, Role::Stopped);
        if broken {
            disk.set_broken(false)
        } else {
            disk.set_full(false)
        }
        eventually("it leads again", || node.standing().role == Role::Leader).await;
        assert_eq!(node.standing().fault, None);
        node.propose(b"after".to_vec(), soon(2000)).await.unwrap();
        assert!(node.read(|ledger| ledger.has(b"before") && ledger.has(b"after")));
        node.shutdown().await;
    }
}

/// A store that was put back from an older copy: sound in itself, and it has forgotten what its voter acknowledged since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_whose_store_is_an_older_copy_is_kept_out_and_the_leader_lives_on() {
    let mut world = World::formed(3, CALM).await;
    world.commit("before").await;
    let leader = world.leader().await;
    let id = (1..=3).find(|id| *id != leader).unwrap();
    world.stop(id).await;
    let (store, copy) = (world.nodes[&id].path.clone(), world.dir.path().join("older-copy"));
    std::fs::copy(&store, &copy).unwrap();
    world.start(id).await;
    for round in 0..20 {
        world.commit(&format!("round {round}")).await;
    }
    let at = world.commit("acknowledged by all").await;
    world.everywhere(at).await;
    world.stop(id).await;
    std::fs::copy(&copy, &store).unwrap();
    world.start(id).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let at = world.commit("after").await;
    assert_eq!(world.leader().await, leader, "the leader was hurt");
    assert_eq!(world.nodes[&leader].up().standing().fault, None);
    let kept_out = world.nodes[&id].up();
    assert!(kept_out.wait_applied(at.index, soon(500)).await.is_err(), "it was taken in");
    assert!(!kept_out.read(|ledger| ledger.has(b"acknowledged by all")));
    world.stop_all().await;
}

struct Tmpfs<'a>(&'a Path);

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

/// Needs the right to mount (root). Fails, rather than passes unseen, where that is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_really_full_file_system_stops_one_voter_and_room_brings_it_back() {
    let mut world = World::new(CALM);
    let mount = world.dir.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"]).arg(&mount).status();
    assert!(
        mounted.is_ok_and(|status| status.success()),
        "this test must mount a small tmpfs: run it as root"
    );
    let small = Tmpfs(&mount);
    for id in 1..=3 {
        world.add(id).await;
    }
    // Node 3 lives on the small file system.
    world.stop(3).await;
    let moved = mount.join("3.store");
    std::fs::copy(&world.nodes[&3].path, &moved).unwrap();
    world.nodes.get_mut(&3).unwrap().path = moved;
    world.start(3).await;
    let members = world.nodes.values().map(|node| (node.id, node.member.clone())).collect();
    world.nodes[&1].up().form(members).await.unwrap();
    world.leader().await;
    world.commit("before").await;

    let filler = mount.join("filler");
    let mut left = vec![0_u8; 64 << 10];
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &left).is_ok() {}
    left.truncate(512);
    while std::io::Write::write_all(&mut file, &left).is_ok() {}

    let full = world.nodes[&3].up().clone();
    for round in 0..200 {
        if full.standing().fault.is_some() {
            break;
        }
        world.commit(&format!("filling {round} {}", "x".repeat(50_000))).await;
    }
    eventually("the full voter says so", || full.standing().fault.is_some()).await;
    let fault = full.standing().fault.unwrap();
    assert!(fault.contains("No space left on device"), "{fault}");
    assert_eq!(full.standing().role, Role::Stopped);
    // The others go on without it.
    world.commit("without").await;

    drop(file);
    std::fs::remove_file(&filler).unwrap();
    let at = world.commit("room again").await;
    eventually("the voter takes part again", || full.standing().fault.is_none()).await;
    full.wait_applied(at.index, soon(20_000)).await.unwrap();
    assert!(full.read(|ledger| ledger.has(b"before") && ledger.has(b"without")));
    drop(full);
    world.stop_all().await;
    drop(small);
}
