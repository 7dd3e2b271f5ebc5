//! Disks in the status, and the times at which it is quiet.

use mesh_proto::Millis;
use mesh_proto::evidence::{DiskHolds, DiskRoom, DiskStanding, DiskSync, ProcessState};

use super::Rig;

fn disk(sync: DiskSync) -> DiskStanding {
    let room = Some(DiskRoom { bytes: 1 << 40, size: 1 << 41, files: None, age: Millis(10) });
    DiskStanding { at: "/srv/pg".to_owned(), holds: DiskHolds::All, sync, room }
}

#[test]
fn what_was_seen_of_a_disk_grows_old_in_the_status() {
    let mut rig = Rig::serving();
    rig.facts.disks = vec![disk(DiskSync::Ok { took: Millis(2), age: Millis(100) })];
    rig.seen();
    let seen = rig.guard.status(rig.now).disks;
    assert_eq!(seen, rig.facts.disks);
    // Nobody looked since: it is no newer for being asked again.
    let later = rig.guard.status(rig.now.after(Millis(9_000))).disks;
    assert_eq!(later[0].sync, DiskSync::Ok { took: Millis(2), age: Millis(9_100) });
    assert_eq!(later[0].room.unwrap().age, Millis(9_010));
    rig.facts.disks = vec![disk(DiskSync::Waiting { waiting: Millis(1_500) })];
    rig.seen();
    let later = rig.guard.status(rig.now.after(Millis(500))).disks;
    assert_eq!(later[0].sync, DiskSync::Waiting { waiting: Millis(2_000) });
}

#[test]
fn a_disk_that_begins_to_hang_is_said_at_once_and_only_once() {
    let mut rig = Rig::serving();
    rig.facts.disks = vec![disk(DiskSync::Waiting { waiting: Millis(4_900) })];
    rig.seen();
    let before = rig.asked.len();
    rig.facts.disks = vec![disk(DiskSync::Waiting { waiting: Millis(5_000) })];
    rig.seen();
    assert!(rig.asked.len() > before, "news waits for no renewal");
    assert_eq!(rig.status().disks[0].sync, DiskSync::Waiting { waiting: Millis(5_000) });
    let after = rig.asked.len();
    rig.facts.disks = vec![disk(DiskSync::Waiting { waiting: Millis(5_050) })];
    rig.seen();
    assert_eq!(rig.asked.len(), after, "that it goes on is none");
}

#[test]
fn it_is_quiet_while_it_serves_or_follows_and_nothing_is_under_way() {
    let mut rig = Rig::serving();
    assert!(rig.guard.is_quiet());
    rig.process(ProcessState::Unresponsive);
    assert!(!rig.guard.is_quiet());
    rig.process(ProcessState::Died);
    assert!(!rig.guard.is_quiet(), "it is being fenced");
    rig.quiet();
    assert!(!rig.guard.is_quiet(), "it waits for what becomes of it");
    let mut standby = Rig::standby();
    standby.process(ProcessState::Standby);
    assert!(standby.guard.is_quiet());
    // A primary that the guard only observes is none of its business yet.
    assert!(!Rig::new(ProcessState::Primary).guard.is_quiet());
}
