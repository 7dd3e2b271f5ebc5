//! Orders: gates, generations, repeats, verification, one at a time.

use mesh_proto::effect::{Effect, Finding, Outcome, Refusal, Rejoined, StepRef};
use mesh_proto::evidence::ProcessState;
use mesh_proto::lease::{FenceCause, ReceiptLevel};
use mesh_proto::{DataIncarnation, Epoch, Generation, Lsn, Millis, RunId};

use super::super::{Task, TaskResult};
use super::{Rig, me, position, term};

fn freeze(generation: u64) -> Effect {
    Effect::Freeze { instance: me(), generation: Generation(generation) }
}
fn follow(epoch: u64, generation: u64) -> Effect {
    Effect::Follow {
        instance: me(),
        primary: "pg-2".parse().unwrap(),
        address: "10.0.0.2:5432".parse().unwrap(),
        epoch: Epoch(epoch),
        generation: Generation(generation),
    }
}
fn fence(lease_no: u64) -> Effect {
    Effect::Fence { instance: me(), term: term(1, lease_no) }
}
fn code(rig: &Rig, id: u64) -> Refusal {
    match rig.answers.get(&id) {
        Some(Outcome::Refused { code, .. }) => *code,
        other => panic!("{other:?}"),
    }
}
fn finding(rig: &Rig, id: u64) -> Finding {
    match rig.answers.get(&id) {
        Some(Outcome::Done(finding)) => finding.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn orders_of_an_old_epoch_or_leader_are_refused() {
    let mut rig = Rig::standby();
    rig.order_as(2, 5, Effect::Checkpoint { instance: me() }, false);
    rig.done(TaskResult::Done);
    let old = rig.order(1, freeze(1));
    assert_eq!(code(&rig, old), Refusal::StaleEpoch);
    let deposed = rig.order_as(2, 4, freeze(1), false);
    assert_eq!(code(&rig, deposed), Refusal::StaleEpoch);
    // The gate survives a restart.
    rig.restart("boot-1", "2");
    let deposed = rig.order_as(2, 4, freeze(1), true);
    assert_eq!(code(&rig, deposed), Refusal::StaleEpoch);
    let other = Effect::Checkpoint { instance: "pg-9".parse().unwrap() };
    let misled = rig.order_as(2, 5, other, false);
    assert_eq!(code(&rig, misled), Refusal::NotConfigured);
}

#[test]
fn a_freeze_is_on_disk_before_it_is_done_and_survives_restarts() {
    let mut rig = Rig::standby();
    rig.disk_works = false;
    let id = rig.order(1, freeze(4));
    rig.run(Millis(400));
    assert_eq!(rig.job, None);
    rig.disk_works = true;
    rig.run(Millis(300));
    assert_eq!(rig.task(), Some(&Task::Freeze { generation: Generation(4) }));
    assert_eq!(rig.disk.as_ref().unwrap().frozen, Some(Generation(4)));
    rig.facts.receiving = None;
    rig.done(TaskResult::At(position(900)));
    rig.seen();
    let Finding::Frozen { position: at, data, .. } = finding(&rig, id) else { panic!() };
    assert_eq!((at, data.0.as_str()), (position(900), "data-1"));
    assert!(matches!(rig.verify(1, freeze(4)), Some(Outcome::Done(Finding::Frozen { .. }))));
    let old = rig.order(1, freeze(3));
    assert_eq!(code(&rig, old), Refusal::StaleGeneration);

    rig.restart("boot-1", "2");
    assert_eq!(rig.task(), Some(&Task::StartStandby { frozen: true }));
    rig.done(TaskResult::Done);
    rig.process(ProcessState::Standby);
    rig.run(Millis(300));
    assert_eq!(rig.status().frozen, Some(Generation(4)));
    let old = rig.order(1, follow(1, 3));
    assert_eq!(code(&rig, old), Refusal::StaleGeneration);
    let id = rig.order(1, follow(1, 4));
    assert!(matches!(rig.task(), Some(Task::Follow(_))));
    rig.done(TaskResult::Follows(Rejoined::Followed));
    assert_eq!(finding(&rig, id), Finding::Follows { how: Rejoined::Followed });
    assert_eq!(rig.guard.state().frozen, None);
}

#[test]
fn a_frozen_standby_that_streams_again_is_frozen_again() {
    let mut rig = Rig::standby();
    rig.order(1, freeze(4));
    rig.done(TaskResult::At(position(900)));
    // Somebody repaired primary_conninfo.
    rig.seen();
    assert_eq!(rig.task(), Some(&Task::Freeze { generation: Generation(4) }));
}

#[test]
fn a_promotion_acquires_opens_and_tells() {
    let mut rig = Rig::standby();
    rig.order(1, freeze(4));
    rig.facts.receiving = None;
    rig.done(TaskResult::At(position(900)));
    rig.seen();
    rig.grant(2, 1);
    let data = rig.guard.state().data.clone();
    let promote = Effect::Promote { instance: me(), term: term(2, 1), data };
    let id = rig.order(2, promote.clone());
    assert_eq!(
        rig.task(),
        Some(&Task::OpenPrimary { term: term(2, 1), quorum: None }),
        "at once, in one round"
    );
    assert!(rig.guard.holds(rig.now, term(2, 1)));
    assert!(!rig.guard.holds(rig.now, term(2, 2)));
    assert_eq!(
        rig.verify(2, promote.clone()),
        Some(Outcome::Refused { code: Refusal::NotSo, detail: "it is not so".to_owned() })
    );
    rig.opened();
    assert_eq!(finding(&rig, id), Finding::Promoted { timeline: 1, at: Lsn(200) });
    assert_eq!(rig.guard.state().frozen, None);
    assert!(rig.guard.state().armed);
    let again = rig.order(2, promote);
    assert!(matches!(finding(&rig, again), Finding::Promoted { .. }));
}

#[test]
fn a_promotion_of_other_data_or_without_voters_is_refused() {
    let mut rig = Rig::standby();
    rig.grant(2, 1);
    rig.reachable = 1;
    let data = DataIncarnation("other".into());
    let id = rig.order(2, Effect::Promote { instance: me(), term: term(2, 1), data });
    assert_eq!(code(&rig, id), Refusal::NotApplicable);
    let data = rig.guard.state().data.clone();
    let id = rig.order(2, Effect::Promote { instance: me(), term: term(2, 1), data });
    rig.run(Millis(5_100));
    assert!(matches!(rig.answers.get(&id), Some(Outcome::Unknown { .. })), "it may yet acquire it");
    assert_eq!(rig.job, None);
}

#[test]
fn an_ordered_fence_ends_what_runs_and_its_repeat_gets_the_same_receipt() {
    let mut rig = Rig::serving();
    let checkpoint = rig.order(1, Effect::Checkpoint { instance: me() });
    assert_eq!(rig.task(), Some(&Task::Checkpoint));
    let id = rig.order(1, fence(1));
    let task = Task::Fence { hard: true, term: Some(term(1, 1)), cause: FenceCause::Ordered };
    assert_eq!(rig.task(), Some(&task));
    assert!(matches!(rig.answers.get(&checkpoint), Some(Outcome::Unknown { .. })));
    let twice = rig.order(1, fence(1));
    rig.quiet();
    let receipt = finding(&rig, id);
    assert_eq!(finding(&rig, twice), receipt);
    assert_eq!(rig.verify(1, fence(1)), Some(Outcome::Done(receipt.clone())));
    // The lease is over: voters would still grant it, but it is not asked for.
    rig.run(Millis(1_000));
    assert!(rig.asked.last().unwrap().lease.is_none());
    // So after a restart of the guard.
    rig.restart("boot-1", "2");
    assert_eq!(rig.verify(1, fence(1)), Some(Outcome::Done(receipt)));
}

#[test]
fn a_fence_of_an_older_lease_does_not_kill_a_newer_one() {
    let mut rig = Rig::serving();
    rig.grant(1, 2);
    rig.run(Millis(300));
    let id = rig.order(1, fence(1));
    assert_eq!(code(&rig, id), Refusal::NotApplicable);
    assert_eq!(rig.job, None);
}

#[test]
fn a_fence_of_a_lease_never_asked_for_is_answered_when_that_is_on_disk() {
    let mut rig = Rig::serving();
    rig.process(ProcessState::Died);
    rig.quiet();
    // The log grants the next number, but the guard's disk is full, so it asks for nothing.
    rig.disk_works = false;
    rig.grant(1, 2);
    rig.run(Millis(300));
    let id = rig.order(1, fence(2));
    rig.quiet();
    assert_eq!(rig.answers.get(&id), None);
    rig.disk_works = true;
    rig.run(Millis(300));
    assert!(matches!(finding(&rig, id), Finding::Fenced(_)));
    assert_eq!(rig.disk.as_ref().unwrap().asked.as_ref().unwrap().term, term(1, 2));
}

#[test]
fn a_hand_over_stops_cleanly_and_gives_the_shutdown_checkpoint() {
    let mut rig = Rig::serving();
    let hand_over = Effect::HandOver { instance: me(), term: term(1, 1) };
    let id = rig.order(1, hand_over.clone());
    assert_eq!(rig.task(), Some(&Task::HandOver { term: term(1, 1) }));
    // Stopping is what it does: no death.
    rig.process(ProcessState::Stopped);
    assert_eq!(rig.task(), Some(&Task::HandOver { term: term(1, 1) }));
    rig.done(TaskResult::Fenced { level: ReceiptLevel::Quiet, shutdown_at: Some(Lsn(4_000)) });
    let Finding::Fenced(receipt) = finding(&rig, id) else { panic!() };
    assert_eq!((receipt.cause, receipt.shutdown_at), (FenceCause::HandOver, Some(Lsn(4_000))));
    assert_eq!(rig.guard.held(rig.now), None);
    assert!(matches!(rig.verify(1, hand_over), Some(Outcome::Done(Finding::Fenced(_)))));
    // Aborted: a new number, and it opens again.
    rig.grant(1, 2);
    rig.run(Millis(300));
    assert_eq!(rig.task(), Some(&Task::OpenPrimary { term: term(1, 2), quorum: None }));
}

#[test]
fn a_hand_over_that_outlasts_the_lease_ends_as_a_fence() {
    let mut rig = Rig::serving();
    let id = rig.order(1, Effect::HandOver { instance: me(), term: term(1, 1) });
    rig.reachable = 0;
    rig.run(Millis(2_600));
    assert!(matches!(rig.task(), Some(Task::Fence { hard: true, cause: FenceCause::LeaseOver, .. })));
    rig.quiet();
    let Finding::Fenced(receipt) = finding(&rig, id) else { panic!() };
    assert_eq!((receipt.cause, receipt.shutdown_at), (FenceCause::LeaseOver, None));
}

#[test]
fn an_interrupted_rejoin_is_done_again_on_data_of_a_new_life() {
    let mut rig = Rig::serving();
    rig.process(ProcessState::Died);
    rig.quiet();
    rig.view.applied += 1;
    rig.view.epoch = Epoch(2);
    rig.view.primary = Some("pg-2".parse().unwrap());
    rig.run(Millis(300));
    rig.order(2, follow(2, 1));
    assert!(matches!(rig.task(), Some(Task::Follow(_))));
    rig.restart("boot-1", "2");
    rig.quiet();
    assert!(matches!(rig.task(), Some(Task::Follow(_))), "not started as it is");
    assert_eq!(rig.guard.state().data, DataIncarnation("data-2".into()));
    let data = DataIncarnation("rewound".into());
    rig.done(TaskResult::Follows(Rejoined::Rewound {
        diverged_bytes: 9,
        transactions: Some(2),
        data: data.clone(),
    }));
    assert_eq!(rig.disk.as_ref().unwrap().data, data);
    assert_eq!(rig.disk.as_ref().unwrap().rejoin, None);
}

#[test]
fn a_standby_that_could_not_join_may_be_frozen_unless_its_data_was_changed() {
    for whole in [true, false] {
        let mut rig = Rig::standby();
        rig.order(2, follow(2, 1));
        assert!(matches!(rig.task(), Some(Task::Follow(_))));
        rig.done(TaskResult::NotFollowed { detail: "wrong password".to_owned(), whole });
        rig.process(ProcessState::Standby);
        let id = rig.order(2, freeze(2));
        if whole {
            assert_eq!(rig.task(), Some(&Task::Freeze { generation: Generation(2) }));
            assert_eq!(
                rig.disk.as_ref().unwrap().rejoin,
                None,
                "the primary that it was to follow is replaced"
            );
        } else {
            assert_eq!(code(&rig, id), Refusal::NotApplicable);
            assert!(rig.disk.as_ref().unwrap().rejoin.is_some());
        }
    }
}

#[test]
fn an_unknown_outcome_is_no_answer_to_the_repeat() {
    let mut rig = Rig::standby();
    let step = StepRef { run: RunId(8), step: 1, attempt: 1 };
    rig.give(101, step, 1, 1, freeze(1), false);
    let (first, _) = rig.job.clone().unwrap();
    rig.done(TaskResult::Unknown { detail: "the connection broke".to_owned() });
    assert!(matches!(rig.answers.get(&101), Some(Outcome::Unknown { .. })));
    rig.process(ProcessState::Standby);
    rig.give(102, step, 1, 1, freeze(1), false);
    assert_ne!(rig.job.clone().unwrap().0, first, "it is done again");
    assert_eq!(rig.answers.get(&102), None);
}

#[test]
fn the_same_order_twice_runs_once_and_another_waits_its_turn() {
    let mut rig = Rig::standby();
    let step = StepRef { run: RunId(8), step: 1, attempt: 1 };
    let checkpoint = Effect::Checkpoint { instance: me() };
    rig.give(101, step, 1, 1, checkpoint.clone(), false);
    let (job, _) = rig.job.clone().unwrap();
    rig.give(102, step, 1, 1, checkpoint.clone(), false);
    let other = rig.order(1, freeze(1));
    assert_eq!(rig.job.clone().unwrap().0, job, "one at a time");
    rig.done(TaskResult::Failed { detail: "no room".to_owned() });
    assert_eq!(rig.answers.get(&101), rig.answers.get(&102));
    // The answer was lost: the repeat gets the same, without another try.
    rig.give(103, step, 1, 1, checkpoint, false);
    assert_eq!(code(&rig, 103), Refusal::Failed);
    rig.run(Millis(100));
    assert_eq!(rig.task(), Some(&Task::Freeze { generation: Generation(1) }));
    rig.done(TaskResult::At(position(1)));
    assert!(rig.answers.contains_key(&other));
}

#[test]
fn a_task_without_an_end_is_answered_in_time_and_makes_room() {
    let mut rig = Rig::standby();
    let hung = rig.order(1, Effect::Checkpoint { instance: me() });
    rig.run(Millis(5_100));
    assert!(matches!(rig.answers.get(&hung), Some(Outcome::Unknown { .. })));
    rig.order(1, freeze(1));
    assert_eq!(rig.task(), Some(&Task::Freeze { generation: Generation(1) }));
}

#[test]
fn another_clusters_directory_refuses_every_order() {
    let mut rig = Rig::standby();
    rig.facts.system_id = Some(1);
    rig.seen();
    for effect in [freeze(1), follow(1, 1), Effect::Checkpoint { instance: me() }] {
        let id = rig.order(1, effect);
        assert_eq!(code(&rig, id), Refusal::NotApplicable);
    }
    rig.process(ProcessState::Died);
    rig.run(Millis(1_000));
    assert_eq!(rig.job, None);
}

#[test]
fn a_died_standby_is_started_again_and_one_that_was_stopped_is_not() {
    let mut rig = Rig::standby();
    rig.process(ProcessState::Stopped);
    rig.run(Millis(1_000));
    assert_eq!(rig.job, None, "an operator stopped it");
    rig.process(ProcessState::Standby);
    rig.process(ProcessState::Died);
    assert_eq!(rig.task(), Some(&Task::StartStandby { frozen: false }));
    rig.done(TaskResult::Failed { detail: "port in use".to_owned() });
    rig.run(Millis(300));
    assert_eq!(rig.job, None, "not before it looked again");
    rig.seen();
    assert_eq!(rig.task(), Some(&Task::StartStandby { frozen: false }), "again, a moment later");
}

/// Found by the simulator: the word of a failed start kept a primary from ever being opened again, although somebody else had
/// started its server.
#[test]
fn a_start_that_failed_is_no_trouble_any_more_when_the_server_runs() {
    let mut rig = Rig::standby();
    rig.process(ProcessState::Died);
    rig.done(TaskResult::Failed { detail: "port in use".to_owned() });
    assert!(rig.status().trouble.as_ref().unwrap().contains("port in use"));
    rig.run(Millis(1_500));
    rig.process(ProcessState::Standby);
    rig.run(Millis(1_500));
    assert_eq!(rig.status().trouble, None);
}

#[test]
fn confirming_waits_for_the_wal() {
    let mut rig = Rig::standby();
    let confirm = Effect::Confirm { instance: me(), at: Lsn(500) };
    assert!(matches!(rig.verify(1, confirm.clone()), Some(Outcome::Refused { code: Refusal::NotSo, .. })));
    let id = rig.order(1, confirm.clone());
    assert_eq!(rig.task(), Some(&Task::Confirm { at: Lsn(500) }));
    rig.facts.position = Some(position(600));
    rig.done(TaskResult::At(position(600)));
    rig.seen();
    assert!(matches!(finding(&rig, id), Finding::Frozen { .. }));
    assert!(matches!(rig.verify(1, confirm), Some(Outcome::Done(_))));
}

#[test]
fn only_a_dead_server_has_a_log_that_ends() {
    let scan =
        || Effect::Scan { instance: me(), system_id: super::SYSTEM, boundary: Lsn(400), held: Lsn(450) };
    let task = Task::Scan { system: super::SYSTEM, boundary: Lsn(400), held: Lsn(450) };
    let mut rig = Rig::serving();
    let early = rig.order(1, scan());
    assert_eq!(code(&rig, early), Refusal::NotApplicable, "what runs writes on");
    rig.process(ProcessState::Died);
    // What is left of its processes is ended first: an orphan may still commit.
    assert!(matches!(rig.task(), Some(Task::Fence { .. })), "{:?}", rig.job);
    let waits = rig.order(1, scan());
    assert!(matches!(rig.task(), Some(Task::Fence { .. })));
    assert!(!rig.answers.contains_key(&waits));
    rig.quiet();
    assert_eq!(rig.task(), Some(&task));
    rig.done(TaskResult::Scanned { end: Lsn(500), commits: 2, bytes: 50 });
    assert_eq!(finding(&rig, waits), Finding::Scanned { end: Lsn(500), commits: 2, bytes: 50 });
    // It leaves no trace: who asks whether it was done is told to do it.
    assert!(matches!(rig.verify(1, scan()), Some(Outcome::Refused { code: Refusal::NotSo, .. })));
    let unreadable = rig.order(1, scan());
    rig.done(TaskResult::Failed { detail: "no such segment".to_owned() });
    assert_eq!(code(&rig, unreadable), Refusal::Failed);
    // A disk that hangs is no answer.
    let hung = rig.order(1, scan());
    assert_eq!(rig.task(), Some(&task));
    rig.run(Millis(5_100));
    assert!(matches!(rig.answers.get(&hung), Some(Outcome::Unknown { .. })));
}
