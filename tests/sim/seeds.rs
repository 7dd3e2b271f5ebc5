//! A fixed, short range of seeds, and those of `seeds.txt`.

use mesh_tests::sim::{Options, Summary, run};

/// Seeds of one test. Several tests, so that they run side by side.
const CHUNK: u64 = 25;

/// Plays them, and adds up what happened in them.
fn chunk_of(nth: u64, options: Options) -> Summary {
    let mut sum = Summary::default();
    for seed in nth * CHUNK..(nth + 1) * CHUNK {
        match run(seed, options) {
            Ok(one) => {
                sum.promotions += one.promotions;
                sum.acknowledged += one.acknowledged;
                sum.aborted += one.aborted;
                sum.elected += one.elected;
                sum.alone += one.alone;
            }
            Err(failure) => panic!("{failure}"),
        }
    }
    sum
}

fn chunk(nth: u64) {
    let sum = chunk_of(nth, Options::default());
    // A range in which nothing happens would show nothing.
    assert!(sum.promotions >= CHUNK, "only {} promotions in {CHUNK} seeds", sum.promotions);
    assert!(sum.acknowledged >= CHUNK * 100, "only {} acknowledged writes", sum.acknowledged);
}

#[test]
fn every_promise_is_kept_in_seeds_0() {
    chunk(0);
}

#[test]
fn every_promise_is_kept_in_seeds_1() {
    chunk(1);
}

#[test]
fn every_promise_is_kept_in_seeds_2() {
    chunk(2);
}

#[test]
fn every_promise_is_kept_in_seeds_3() {
    chunk(3);
}

#[test]
fn every_promise_is_kept_in_seeds_4() {
    chunk(4);
}

#[test]
fn every_promise_is_kept_in_seeds_5() {
    chunk(5);
}

/// The same with services and hooks that take their time, fail, hang and are interrupted.
fn chunk_with_errands(nth: u64) {
    let options = Options { errands: true, ..Options::default() };
    let sum = chunk_of(nth, options);
    assert!(sum.promotions >= CHUNK, "only {} promotions in {CHUNK} seeds", sum.promotions);
}

#[test]
fn services_and_hooks_keep_every_promise_in_seeds_0() {
    chunk_with_errands(0);
}

#[test]
fn services_and_hooks_keep_every_promise_in_seeds_1() {
    chunk_with_errands(1);
}

/// The same in a zero-loss group: commits wait for standbys, whose streams stall and whose data is set back.
fn chunk_zero_loss(nth: u64) {
    let options = Options { zero_loss: true, ..Options::default() };
    let sum = chunk_of(nth, options);
    assert!(sum.promotions >= CHUNK, "only {} promotions in {CHUNK} seeds", sum.promotions);
    assert!(sum.acknowledged >= CHUNK * 100, "only {} acknowledged writes", sum.acknowledged);
}

#[test]
fn a_zero_loss_group_keeps_every_promise_in_seeds_0() {
    chunk_zero_loss(0);
}
#[test]
fn a_zero_loss_group_keeps_every_promise_in_seeds_1() {
    chunk_zero_loss(1);
}
#[test]
fn a_zero_loss_group_keeps_every_promise_in_seeds_2() {
    chunk_zero_loss(2);
}
#[test]
fn a_zero_loss_group_keeps_every_promise_in_seeds_3() {
    chunk_zero_loss(3);
}

/// The same where servers are started by hand, by foreign units and at boot, before and beside their guards.
fn chunk_strangers(nth: u64) {
    let options = Options { strangers: true, ..Options::default() };
    let sum = chunk_of(nth, options);
    assert!(sum.promotions >= CHUNK, "only {} promotions in {CHUNK} seeds", sum.promotions);
}

#[test]
fn servers_that_others_start_keep_every_promise_in_seeds_0() {
    chunk_strangers(0);
}
#[test]
fn servers_that_others_start_keep_every_promise_in_seeds_1() {
    chunk_strangers(1);
}

/// The same in a mesh of five whose voters on leases change: three of them, others, all.
fn chunk_elects(nth: u64) {
    let options = Options { elects: true, ..Options::default() };
    let sum = chunk_of(nth, options);
    assert!(sum.promotions >= CHUNK, "only {} promotions in {CHUNK} seeds", sum.promotions);
    assert!(sum.elected >= CHUNK, "only {} changes of voters came to their end", sum.elected);
}

#[test]
fn voters_that_change_keep_every_promise_in_seeds_0() {
    chunk_elects(0);
}
#[test]
fn voters_that_change_keep_every_promise_in_seeds_1() {
    chunk_elects(1);
}

/// The same in a zero-loss group that opens before the old primary's lease is over.
fn chunk_early(nth: u64) {
    let options = Options { early: true, ..Options::default() };
    let sum = chunk_of(nth, options);
    assert!(sum.promotions >= CHUNK / 2, "only {} promotions in {CHUNK} seeds", sum.promotions);
}

#[test]
fn a_group_that_opens_early_loses_nothing_acknowledged_in_seeds_0() {
    chunk_early(0);
}
#[test]
fn a_group_that_opens_early_loses_nothing_acknowledged_in_seeds_1() {
    chunk_early(1);
}

/// The same in a zero-loss group whose commits go on without standbys after a while, or when a person says so: what is
/// acknowledged meanwhile is promoted without only when its loss is accepted, and in the end nothing is degraded any more.
fn chunk_degrades(nth: u64) {
    let options = Options { degrades: true, ..Options::default() };
    let sum = chunk_of(nth, options);
    assert!(sum.promotions >= CHUNK / 2, "only {} promotions in {CHUNK} seeds", sum.promotions);
    assert!(sum.acknowledged >= CHUNK * 100, "only {} acknowledged writes", sum.acknowledged);
}

#[test]
fn commits_that_go_on_without_standbys_are_never_thought_safe_in_seeds_0() {
    chunk_degrades(0);
}
#[test]
fn commits_that_go_on_without_standbys_are_never_thought_safe_in_seeds_1() {
    chunk_degrades(1);
}

/// The same where a crashed primary may be started again in place.
fn chunk_restarts(nth: u64) {
    let options = Options { restarts: true, ..Options::default() };
    let sum = chunk_of(nth, options);
    assert!(sum.promotions >= CHUNK, "only {} promotions in {CHUNK} seeds", sum.promotions);
    assert!(sum.aborted >= CHUNK / 2, "only {} runs without one", sum.aborted);
}

#[test]
fn crash_policies_keep_every_promise_in_seeds_0() {
    chunk_restarts(0);
}
#[test]
fn crash_policies_keep_every_promise_in_seeds_1() {
    chunk_restarts(1);
}

/// The same where hosts are turned off from outside, whether that is required or not.
fn chunk_fencers(nth: u64) {
    let options = Options { fencers: true, ..Options::default() };
    let sum = chunk_of(nth, options);
    assert!(sum.promotions >= CHUNK, "only {} promotions in {CHUNK} seeds", sum.promotions);
}

#[test]
fn hosts_that_are_turned_off_keep_every_promise_in_seeds_0() {
    chunk_fencers(0);
}

#[test]
fn hosts_that_are_turned_off_keep_every_promise_in_seeds_1() {
    chunk_fencers(1);
}

/// The same in a group whose primary goes on without a majority of voters while every other guard promises.
fn chunk_hold(nth: u64) {
    let options = Options { hold: true, ..Options::default() };
    let sum = chunk_of(nth, options);
    assert!(sum.promotions >= CHUNK / 2, "only {} promotions in {CHUNK} seeds", sum.promotions);
    assert!(sum.alone >= CHUNK / 5, "only {} primaries served by promises", sum.alone);
}

#[test]
fn groups_that_hold_keep_every_promise_in_seeds_0() {
    chunk_hold(0);
}

#[test]
fn groups_that_hold_keep_every_promise_in_seeds_1() {
    chunk_hold(1);
}

#[test]
fn a_seed_is_the_same_run_for_ever() {
    let one = run(7, Options::default()).map(|sum| format!("{sum:?}")).map_err(|why| why.to_string());
    let two = run(7, Options::default()).map(|sum| format!("{sum:?}")).map_err(|why| why.to_string());
    assert_eq!(one, two);
}

#[test]
fn seeds_that_failed_once_fail_no_more() {
    for line in include_str!("seeds.txt").lines() {
        let line = line.split('#').next().unwrap_or("").trim();
        if !line.is_empty() {
            let seed = line.parse().unwrap_or_else(|e| panic!("seeds.txt: {line:?}: {e}"));
            if let Err(failure) = run(seed, Options::default()) {
                panic!("{failure}");
            }
        }
    }
}
