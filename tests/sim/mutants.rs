//! The simulator proves itself: each rule, taken away on purpose, breaks a promise within the seeds of this table, and
//! with the rule in place the same seeds keep every promise.

use mesh_tests::sim::mutant::Mutation;
use mesh_tests::sim::{Options, run};

/// The rule, and where to look: the seeds `from .. from + SEEDS`. Searched from seed 0, the first that shows it is the
/// last of them or just before; a search from 0 would take minutes for the rare ones.
const TABLE: [(&str, u64); 28] = [
    ("promote-without-waiting", 10),
    ("minority-pledges", 38),
    ("no-fence-budget", 14),
    ("no-freeze", 8),
    ("unknown-is-done", 134),
    ("repeated-unasked", 0),
    ("votes-by-agent", 1273),
    ("blind-is-witness", 686),
    ("pledge-not-persisted", 0),
    ("restart-forgets-grants", 11),
    ("grant-forgotten-early", 14),
    ("no-self-fence", 13),
    ("receipt-before-fence", 12),
    ("voters-at-once", 149),
    ("errands-unordered", 0),
    ("errands-forgotten", 0),
    ("quorum-retired-before-marker", 41),
    ("quorum-no-intersection", 1),
    ("quorum-identity-without-data", 28),
    ("quorum-after-promotion", 3),
    ("quorum-read-before-it", 63),
    ("quorum-freeze-not-final", 3),
    ("quorum-any-line", 52),
    ("scan-sees-nothing", 52),
    ("strangers-no-signal", 52),
    ("hold-promise-not-noted", 0),
    ("hold-restart-forgets-promises", 14),
    ("hold-one-promise-is-all", 14),
];

/// Within how many seeds.
const SEEDS: u64 = 5;

fn caught(name: &str) {
    let (_, mutation) = Mutation::ALL.into_iter().find(|(known, _)| *known == name).unwrap();
    let (_, from) = TABLE.into_iter().find(|(known, _)| *known == name).unwrap();
    let options = Options {
        errands: name.starts_with("errands-"),
        zero_loss: name.starts_with("quorum-"),
        restarts: name.starts_with("scan-") || ["quorum-read-before-it", "quorum-any-line"].contains(&name),
        strangers: name.starts_with("strangers-"),
        elects: name.starts_with("voters-"),
        hold: name.starts_with("hold-"),
        ..Options::default()
    };
    let broken = Options { mutation: Some(mutation), ..options };
    let found = (from..from + SEEDS).find_map(|seed| run(seed, broken).err());
    let Some(failure) = found else {
        panic!(
            "{name} is missing and nothing breaks in seeds {from}..{}: if the order of chances changed, look for \
             another with `mesh-sim --mutant {name} --seeds 0..2000`",
            from + SEEDS
        )
    };
    if let Err(why) = run(failure.seed, options) {
        panic!("{name} is in place, and yet: {why}");
    }
}

#[test]
fn the_table_has_every_mutant() {
    let table: Vec<&str> = TABLE.iter().map(|(name, _)| *name).collect();
    let all: Vec<&str> = Mutation::ALL.iter().map(|(name, _)| *name).collect();
    assert_eq!(table, all);
}

#[test]
fn promoting_without_a_proof_is_caught() {
    caught("promote-without-waiting");
}

#[test]
fn a_minority_of_pledges_is_caught() {
    caught("minority-pledges");
}

#[test]
fn not_waiting_for_the_fence_budget_is_caught() {
    caught("no-fence-budget");
}

#[test]
fn promoting_a_standby_that_was_not_frozen_is_caught() {
    caught("no-freeze");
}

#[test]
fn an_unknown_outcome_taken_as_done_is_caught() {
    caught("unknown-is-done");
}

#[test]
fn an_effect_repeated_without_asking_first_is_caught() {
    caught("repeated-unasked");
}

#[test]
fn votes_counted_by_agent_are_caught() {
    caught("votes-by-agent");
}

#[test]
fn a_blind_witness_is_caught() {
    caught("blind-is-witness");
}

#[test]
fn a_pledge_answered_before_its_fsync_is_caught() {
    caught("pledge-not-persisted");
}

#[test]
fn a_voter_that_forgets_at_restart_is_caught() {
    caught("restart-forgets-grants");
}

#[test]
fn a_grant_forgotten_too_early_is_caught() {
    caught("grant-forgotten-early");
}

#[test]
fn a_guard_that_does_not_fence_itself_is_caught() {
    caught("no-self-fence");
}

#[test]
fn a_receipt_before_the_fence_is_caught() {
    caught("receipt-before-fence");
}

#[test]
fn services_begun_without_their_order_are_caught() {
    caught("errands-unordered");
}

#[test]
fn a_hook_forgotten_by_a_restarted_agent_is_caught() {
    caught("errands-forgotten");
}

#[test]
fn quorums_retired_before_their_marker_are_caught() {
    caught("quorum-retired-before-marker");
}
#[test]
fn a_promotion_without_intersection_is_caught() {
    caught("quorum-no-intersection");
}
#[test]
fn a_standby_counted_in_another_life_of_its_data_is_caught() {
    caught("quorum-identity-without-data");
}
#[test]
fn a_quorum_set_after_the_promotion_is_caught() {
    caught("quorum-after-promotion");
}
#[test]
fn a_freeze_that_is_not_final_is_caught() {
    caught("quorum-freeze-not-final");
}

#[test]
fn reading_what_a_primary_recovered_before_its_quorum_has_it_is_caught() {
    caught("quorum-read-before-it");
}

#[test]
fn a_standby_of_a_history_that_was_left_is_caught() {
    caught("quorum-any-line");
}

#[test]
fn a_dead_log_that_is_not_read_is_caught() {
    caught("scan-sees-nothing");
}

#[test]
fn a_primary_that_anybody_can_start_again_is_caught() {
    caught("strangers-no-signal");
}

#[test]
fn voters_that_count_before_the_old_leases_are_over_are_caught() {
    caught("voters-at-once");
}

#[test]
fn a_promise_that_its_giver_forgets_is_caught() {
    caught("hold-promise-not-noted");
}
#[test]
fn a_promise_that_a_restart_forgets_is_caught() {
    caught("hold-restart-forgets-promises");
}
#[test]
fn a_guard_that_holds_by_one_promise_of_many_is_caught() {
    caught("hold-one-promise-is-all");
}
