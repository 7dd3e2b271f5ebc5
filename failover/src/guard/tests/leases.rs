//! Birth, the lease and its end, restarts of the guard, pause.

use mesh_proto::evidence::ProcessState;
use mesh_proto::lease::{FenceCause, PauseView, ReceiptLevel, StatusRef};
use mesh_proto::{LeaseNo, Millis};

use super::super::{CommitGate, Leash, Task, TaskResult};
use super::{Rig, fresh, term};

#[test]
fn before_birth_it_only_observes() {
    let mut rig = Rig::new(ProcessState::Primary);
    rig.run(Millis(10_000));
    assert_eq!(rig.leash, Leash::Off);
    assert_eq!(rig.job, None);
    let status = rig.status().clone();
    assert_eq!((status.process, status.lease, status.receipt), (ProcessState::Primary, None, None));
    rig.process(ProcessState::Died);
    rig.run(Millis(10_000));
    assert_eq!(rig.job, None, "nobody asked it to keep this server");
}

#[test]
fn a_running_primary_is_adopted_and_not_restarted() {
    let mut rig = Rig::new(ProcessState::Primary);
    rig.grant(1, 1);
    rig.run(Millis(300));
    assert!(rig.guard.state().armed);
    assert!(matches!(rig.leash, Leash::Until(_)));
    assert_eq!(rig.task(), Some(&Task::OpenPrimary { term: term(1, 1), quorum: None }));
    rig.opened();
    rig.run(Millis(5_000));
    assert_eq!(rig.status().lease.unwrap().term, term(1, 1));
    assert_eq!(rig.job, None);
}

#[test]
fn late_renewals_gate_and_come_back() {
    let mut rig = Rig::serving();
    rig.reachable = 1;
    rig.run(Millis(1_500));
    assert!(rig.gated);
    rig.facts.commit_gate = CommitGate::InForce;
    rig.reachable = 3;
    rig.seen();
    rig.run(Millis(300));
    assert!(!rig.gated);
}

#[test]
fn the_end_of_the_lease_fences_without_anybody() {
    let mut rig = Rig::serving();
    rig.reachable = 1;
    rig.disk_works = false;
    rig.run(Millis(2_600));
    let fence = Task::Fence { hard: true, term: Some(term(1, 1)), cause: FenceCause::LeaseOver };
    assert_eq!(rig.task(), Some(&fence), "the gate was not verified in force, so it kills");
    assert_eq!(rig.leash, Leash::Now);
    rig.disk_works = true;
    // Voters are back in the middle of the fence: it is not undone, and the lease is not continued.
    rig.reachable = 3;
    rig.run(Millis(200));
    assert_eq!(rig.guard.held(rig.now), None);
    rig.quiet();
    rig.run(Millis(1_000));
    assert!(rig.asked.last().unwrap().lease.is_none(), "never again this number");
    let receipt = rig.status().receipt.clone().unwrap();
    assert_eq!((receipt.term, receipt.level), (term(1, 1), ReceiptLevel::Quiet));
    assert!(!receipt.signature.is_empty());
    assert_eq!(rig.job, None, "it stays down until the log says what it is");
    // The way back: a new number.
    rig.grant(1, 2);
    rig.run(Millis(300));
    assert_eq!(rig.task(), Some(&Task::OpenPrimary { term: term(1, 2), quorum: None }));
    rig.opened();
    rig.run(Millis(300));
    assert_eq!(rig.status().receipt, None);
}

#[test]
fn a_gate_in_force_lets_the_fence_begin_gently() {
    let mut rig = Rig::serving();
    rig.reachable = 1;
    rig.run(Millis(1_500));
    rig.facts.commit_gate = CommitGate::InForce;
    rig.seen();
    rig.run(Millis(1_100));
    let fence = Task::Fence { hard: false, term: Some(term(1, 1)), cause: FenceCause::LeaseOver };
    assert_eq!(rig.task(), Some(&fence));
    assert!(matches!(rig.leash, Leash::Until(_)), "the leash leaves it its first rungs");
    // Not proven within F: by force.
    rig.run(Millis(1_000));
    let fence = Task::Fence { hard: true, term: Some(term(1, 1)), cause: FenceCause::LeaseOver };
    assert_eq!(rig.task(), Some(&fence));
    assert_eq!(rig.leash, Leash::Now);
    assert!(rig.status().trouble.as_ref().unwrap().contains("not fenced within"));
}

#[test]
fn a_died_primary_is_killed_and_reported() {
    let mut rig = Rig::serving();
    rig.process(ProcessState::Died);
    let fence = Task::Fence { hard: true, term: Some(term(1, 1)), cause: FenceCause::Died };
    assert_eq!(rig.task(), Some(&fence));
    rig.quiet();
    assert_eq!(rig.status().receipt.as_ref().unwrap().cause, FenceCause::Died);
    rig.run(Millis(20_000));
    assert_eq!(rig.job, None);
}

#[test]
fn a_died_primary_still_says_where_it_stood() {
    let mut rig = Rig::serving();
    rig.facts.position = None;
    rig.process(ProcessState::Died);
    rig.quiet();
    assert!(rig.status().receipt.is_some());
    assert_eq!(rig.status().position, Some(super::position(100)));
}

#[test]
fn no_ack_is_told_at_once_and_quiet_later() {
    let mut rig = Rig::serving();
    rig.process(ProcessState::Died);
    let job = rig.job.clone().unwrap();
    let result = TaskResult::Fenced { level: ReceiptLevel::NoAck, shutdown_at: None };
    rig.guard.handle_done(rig.now, job.0, result);
    rig.drive();
    assert_eq!(rig.status().receipt.as_ref().unwrap().level, ReceiptLevel::NoAck);
    rig.quiet();
    assert_eq!(rig.status().receipt.as_ref().unwrap().level, ReceiptLevel::Quiet);
}

#[test]
fn a_killed_guard_gives_the_receipt_at_its_restart_and_starts_a_standby() {
    let mut rig = Rig::serving();
    rig.restart("boot-1", "2");
    let fence = Task::Fence { hard: true, term: Some(term(1, 1)), cause: FenceCause::Found };
    assert_eq!(rig.task(), Some(&fence));
    assert_eq!(rig.leash, Leash::Now);
    rig.quiet();
    let receipt = rig.status().receipt.clone().unwrap();
    assert_eq!((receipt.term, receipt.guard.0.as_str()), (term(1, 1), "guard-1"));
    assert_eq!(rig.task(), Some(&Task::StartStandby { frozen: false }));
    assert_eq!(rig.leash, Leash::Bound);
    rig.done(TaskResult::Done);
    rig.process(ProcessState::Standby);
    rig.run(Millis(1_000));
    // The log still says that (1, 1) is current: it is not asked for.
    assert!(rig.asked.last().unwrap().lease.is_none());
    rig.grant(1, 2);
    rig.run(Millis(300));
    assert_eq!(rig.task(), Some(&Task::OpenPrimary { term: term(1, 2), quorum: None }));
}

#[test]
fn after_a_boot_the_guard_is_another_life_and_gives_no_receipt_for_the_old_one() {
    let mut rig = Rig::serving();
    rig.restart("boot-2", "2");
    let fence = Task::Fence { hard: true, term: None, cause: FenceCause::Found };
    assert_eq!(rig.task(), Some(&fence));
    rig.quiet();
    assert_eq!(rig.status().receipt, None);
    assert_eq!(rig.status().guard, fresh("boot-2", "2").guard);
    assert_eq!(rig.status().data, Some(fresh("boot-1", "1").data), "the data is the same");
}

#[test]
fn statuses_of_one_life_count_up_over_restarts() {
    let mut rig = Rig::serving();
    let before = rig.status().seq;
    rig.restart("boot-1", "2");
    assert!(rig.status().seq > before);
}

#[test]
fn a_primary_found_without_a_lease_is_fenced_once_armed() {
    let mut rig = Rig::serving();
    rig.restart("boot-1", "2");
    rig.quiet();
    rig.done(TaskResult::Done);
    rig.process(ProcessState::Primary);
    let fence = Task::Fence { hard: true, term: None, cause: FenceCause::Found };
    assert_eq!(rig.task(), Some(&fence), "somebody promoted it by hand");
}

#[test]
fn a_second_primary_of_a_founded_group_is_fenced_but_not_another_cluster() {
    let mut rig = Rig::standby();
    rig.process(ProcessState::Primary);
    assert!(matches!(rig.task(), Some(Task::Fence { cause: FenceCause::Found, .. })));

    let mut rig = Rig::standby();
    rig.facts.system_id = Some(1);
    rig.process(ProcessState::Primary);
    rig.run(Millis(1_000));
    assert_eq!(rig.job, None, "nothing changed, nothing lost");
    assert!(rig.status().trouble.as_ref().unwrap().contains("another cluster"));
}

#[test]
fn a_newer_epoch_in_the_log_ends_what_the_clock_still_holds() {
    let mut rig = Rig::serving();
    rig.view.applied += 1;
    rig.view.epoch = mesh_proto::Epoch(2);
    rig.view.primary = Some("pg-2".parse().unwrap());
    rig.run(Millis(300));
    assert!(matches!(rig.task(), Some(Task::Fence { cause: FenceCause::LeaseOver, .. })));
    assert_eq!(rig.guard.held(rig.now), None);
}

#[test]
fn a_stray_pledge_is_reported_and_the_new_number_acquired_in_place() {
    let mut rig = Rig::serving();
    rig.floor = LeaseNo(1);
    rig.run(Millis(300));
    assert_eq!(rig.status().floored, Some(term(1, 1)));
    rig.grant(1, 2);
    rig.run(Millis(600));
    assert_eq!(rig.status().lease.unwrap().term, term(1, 2));
    assert_eq!(rig.status().floored, None);
    assert_eq!(rig.guard.opened().unwrap().term, term(1, 2));
    assert_eq!(rig.job, None, "nothing was stopped or started");
    assert!(!rig.gated);
}

#[test]
fn a_lease_that_was_never_opened_ends_without_a_kill() {
    let mut rig = Rig::standby();
    rig.grant(2, 1);
    rig.reachable = 3;
    rig.disk_works = false;
    rig.run(Millis(3_000));
    assert!(rig.asked.iter().all(|asked| asked.lease.is_none()), "nothing is asked for that is not on disk");
    assert_eq!(rig.job, None);
    assert!(rig.status().trouble.as_ref().unwrap().contains("cannot be written"));
}

fn pause(rig: &mut Rig, seq: u64, length: Millis) {
    rig.view.applied += 1;
    let counted_from = Some(StatusRef { guard: rig.guard.state().guard.clone(), seq });
    rig.view.pause = Some(PauseView { id: rig.view.applied, length, counted_from });
}

#[test]
fn a_pause_outlasts_the_voters_and_counts_from_before_it_was_asked() {
    let mut rig = Rig::serving();
    let (seq, sent) = (rig.status().seq, rig.now);
    rig.run(Millis(1_000));
    pause(&mut rig, seq, Millis(20_000));
    rig.run(Millis(300));
    assert!(rig.status().paused.is_some());
    rig.reachable = 0;
    while rig.now < sent.after(Millis(19_700)) {
        rig.run(Millis(50));
        assert_eq!(rig.job, None);
    }
    assert!(!rig.gated);
    rig.process(ProcessState::Stopped);
    assert_eq!(rig.job, None, "an operator may stop it in a pause");
    rig.process(ProcessState::Primary);
    rig.run(Millis(400));
    assert!(matches!(rig.task(), Some(Task::Fence { cause: FenceCause::LeaseOver, .. })));
}

#[test]
fn a_pause_that_names_no_status_it_sent_is_not_entered() {
    let mut rig = Rig::serving();
    pause(&mut rig, 3, Millis(20_000));
    rig.run(Millis(300));
    assert_eq!(rig.status().paused, None);
    rig.reachable = 0;
    rig.run(Millis(2_700));
    assert!(matches!(rig.task(), Some(Task::Fence { cause: FenceCause::LeaseOver, .. })));
}

#[test]
fn a_resumed_pause_leaves_the_lease_to_its_grants() {
    let mut rig = Rig::serving();
    let seq = rig.status().seq;
    pause(&mut rig, seq, Millis(20_000));
    rig.run(Millis(300));
    rig.grant(1, 2);
    rig.run(Millis(300));
    assert_eq!(rig.status().lease.unwrap().term, term(1, 2), "a fresh number, still in the pause");
    rig.view.applied += 1;
    rig.view.pause = None;
    rig.run(Millis(300));
    assert_eq!(rig.status().paused, None);
    assert!(rig.status().lease.unwrap().remaining <= Millis(2_500));
}

#[test]
fn a_guard_that_goes_down_fences_first() {
    let mut rig = Rig::serving();
    rig.guard.handle_stop(rig.now);
    rig.drive();
    let fence = Task::Fence { hard: false, term: Some(term(1, 1)), cause: FenceCause::GuardStopped };
    assert_eq!(rig.task(), Some(&fence));
    assert!(!rig.guard.is_down());
    rig.quiet();
    assert!(rig.guard.is_down());
    rig.run(Millis(1_000));
    assert_eq!(rig.job, None);
}
