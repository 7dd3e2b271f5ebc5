//! A fault at every place of every effect: the leader dies before the intent, after it, after the effect, after the result;
//! an executor gets an order twice; an answer is lost. Whoever leads next finishes the run (promises 4, 5 and 7).

use std::collections::BTreeSet;

use mesh_proto::effect::EffectKind;
use mesh_proto::run::Phase;
use mesh_tests::sim::scenario::{Ending, Scenario, play};
use mesh_tests::sim::setup::Shape;
use mesh_tests::sim::steps::Place;

/// The seeds in which a scenario is played.
fn seeds(scenario: Scenario, leader: usize) -> Vec<u64> {
    match scenario {
        Scenario::Crash
        | Scenario::HostLost
        | Scenario::EarlyHostLost
        | Scenario::Fenced
        | Scenario::Switchover => {
            vec![100 + leader as u64]
        }
        // In the first the standby lacks a write, so that the primary is started again; in the other it lacks none.
        Scenario::CrashScan => vec![100 + leader as u64, [106, 108, 106][leader]],
        // Seeds in which the plain run ends with a change of primary, so that there is something to break.
        Scenario::Services => vec![110 + leader as u64],
    }
}

fn every_place(scenario: Scenario, leader: usize) {
    let ends: Vec<Option<Phase>> =
        seeds(scenario, leader).into_iter().map(|seed| every_place_of(scenario, leader, seed)).collect();
    if scenario == Scenario::CrashScan {
        assert_eq!(ends, [Some(Phase::Aborted), Some(Phase::Done)], "both answers to a crash are tried");
    }
}

/// Plays the scenario without a fault, and then with one at each place of each effect that it has. How it ended without one.
fn every_place_of(scenario: Scenario, leader: usize, seed: u64) -> Option<Phase> {
    let plain = play(seed, Shape::Three, scenario, leader, None, false).unwrap();
    as_it_must_end(scenario, &plain, "no fault");
    assert!(plain.kinds.is_superset(&effects(scenario)), "{scenario:?} did only {:?}", plain.kinds);
    for kind in plain.kinds {
        for place in Place::ALL {
            let what = format!(
                "mesh-sim --seed {seed} --scenario {} --leader {leader} --fault {kind:?}/{place:?} --trace",
                scenario.name()
            );
            match play(seed, Shape::Three, scenario, leader, Some((kind, place)), false) {
                Ok(ending) => {
                    assert!(ending.fired, "{what}: the fault was never injected");
                    as_it_must_end(scenario, &ending, &what);
                }
                Err(why) => panic!("{what}: {why}"),
            }
        }
    }
    plain.phase
}

/// The effects that each scenario cannot do without.
fn effects(scenario: Scenario) -> BTreeSet<EffectKind> {
    use EffectKind::{
        Checkpoint, Confirm, Errand, Follow, Freeze, HandOver, Promote, Prove, Route, Scan, TurnOff,
    };
    match scenario {
        Scenario::Crash | Scenario::HostLost | Scenario::EarlyHostLost => {
            BTreeSet::from([Freeze, Promote, Route, Prove, Follow])
        }
        Scenario::Fenced => BTreeSet::from([Freeze, TurnOff, Promote, Route, Prove, Follow]),
        Scenario::CrashScan => BTreeSet::from([Freeze, Scan]),
        Scenario::Switchover => {
            BTreeSet::from([Checkpoint, HandOver, Confirm, Promote, Route, Prove, Follow])
        }
        Scenario::Services => {
            BTreeSet::from([Checkpoint, HandOver, Confirm, Promote, Route, Prove, Errand, Follow])
        }
    }
}

/// The run is over, one primary serves, each promotion was committed once, and an automatic failover is held down only
/// when it is done. That all is well (the lease held, standbys following, the route right) is what `play` waits for.
fn as_it_must_end(scenario: Scenario, ending: &Ending, what: &str) {
    let automatic = match scenario {
        Scenario::Crash
        | Scenario::CrashScan
        | Scenario::HostLost
        | Scenario::EarlyHostLost
        | Scenario::Fenced => true,
        Scenario::Switchover | Scenario::Services => false,
    };
    match ending.phase {
        Some(Phase::Done) => {
            assert_eq!(ending.promotions, 1, "{what}: {ending:?}");
            assert_eq!(ending.primary, Some(1), "{what}: {ending:?}");
            assert_eq!(ending.held_down, automatic, "{what}: {ending:?}");
        }
        // Nobody was frozen in time (an answer was lost): the primary got a new lease number and opened in place.
        Some(Phase::Aborted) if ending.primary == Some(0) => {
            assert_eq!(ending.promotions, 0, "{what}: {ending:?}");
            assert!(!ending.held_down, "{what}: an aborted run holds down: {ending:?}");
            assert!(scenario != Scenario::HostLost, "{what}: its host is gone: {ending:?}");
        }
        other => panic!("{what}: the run ended as {other:?}"),
    }
}

#[test]
fn a_crash_led_from_the_primarys_site_is_finished_whatever_breaks() {
    every_place(Scenario::Crash, 0);
}

#[test]
fn a_crash_led_from_the_standbys_site_is_finished_whatever_breaks() {
    every_place(Scenario::Crash, 1);
}

#[test]
fn a_crash_led_from_the_witness_is_finished_whatever_breaks() {
    every_place(Scenario::Crash, 2);
}

#[test]
fn a_crash_whose_log_is_read_led_from_the_primarys_site_is_finished_whatever_breaks() {
    every_place(Scenario::CrashScan, 0);
}

#[test]
fn a_crash_whose_log_is_read_led_from_the_standbys_site_is_finished_whatever_breaks() {
    every_place(Scenario::CrashScan, 1);
}

#[test]
fn a_crash_whose_log_is_read_led_from_the_witness_is_finished_whatever_breaks() {
    every_place(Scenario::CrashScan, 2);
}

#[test]
fn a_lost_host_that_led_is_replaced_whatever_breaks() {
    every_place(Scenario::HostLost, 0);
}

#[test]
fn a_lost_host_led_from_the_standbys_site_is_replaced_whatever_breaks() {
    every_place(Scenario::HostLost, 1);
}

#[test]
fn a_lost_host_led_from_the_witness_is_replaced_whatever_breaks() {
    every_place(Scenario::HostLost, 2);
}

#[test]
fn a_host_that_led_is_turned_off_and_replaced_whatever_breaks() {
    every_place(Scenario::Fenced, 0);
}

#[test]
fn a_host_is_turned_off_from_the_standbys_site_and_replaced_whatever_breaks() {
    every_place(Scenario::Fenced, 1);
}

#[test]
fn a_host_is_turned_off_from_the_witness_and_replaced_whatever_breaks() {
    every_place(Scenario::Fenced, 2);
}

#[test]
fn a_switchover_led_from_the_primarys_site_is_finished_whatever_breaks() {
    every_place(Scenario::Switchover, 0);
}

#[test]
fn a_switchover_led_from_the_standbys_site_is_finished_whatever_breaks() {
    every_place(Scenario::Switchover, 1);
}

#[test]
fn a_switchover_led_from_the_witness_is_finished_whatever_breaks() {
    every_place(Scenario::Switchover, 2);
}

#[test]
fn services_that_move_led_from_the_primarys_site_are_moved_whatever_breaks() {
    every_place(Scenario::Services, 0);
}

#[test]
fn services_that_move_led_from_the_standbys_site_are_moved_whatever_breaks() {
    every_place(Scenario::Services, 1);
}

#[test]
fn services_that_move_led_from_the_witness_are_moved_whatever_breaks() {
    every_place(Scenario::Services, 2);
}

/// A zero-loss group's commits wait for the other standby: it follows the new primary at once, whatever was repaired under
/// the old one, and whoever leads.
#[test]
fn the_other_standby_follows_at_once_also_under_a_new_leader() {
    for leader in 0..3 {
        let scenario = Scenario::EarlyHostLost;
        let ending =
            play(100 + leader as u64, Shape::ThreeAndStandby, scenario, leader, None, false).unwrap();
        assert_eq!(ending.promotions, 1, "{ending:?}");
        assert!(ending.written_ms.is_some_and(|written| written < 2_500), "led by {leader}: {ending:?}");
    }
}
