//! One test for each rule of voter, guard and leader; the lease model (`tests/lease_model.rs`) tries them together.

use std::collections::BTreeSet;

use mesh_proto::codec::{Kind, decode, encode};
use mesh_proto::lease::{
    Electorate, LeaseKey, LeaseRecord, LeaseTerm, PledgeAnswer, PledgeReply, PledgeRequest, RenewAnswer,
    RenewLease, RenewReply, VoterPeer,
};
use mesh_proto::{DataIncarnation, Epoch, GuardIncarnation, LeaseNo, Millis, NodeId, RunId};
use proptest::prelude::*;

use super::CLOCK_BOUNDS;
use super::granter::{Decision, Granter, PledgeDecision, VoterState};
use super::holder::Holder;
use super::takeover::Collector;
use crate::Moment;

const L: Millis = Millis(2_500);
const F: Millis = Millis(1_000);

fn key() -> LeaseKey {
    LeaseKey { group: "orders".parse().unwrap(), instance: "pg-1".parse().unwrap() }
}
fn term(lease_no: u64) -> LeaseTerm {
    LeaseTerm { epoch: Epoch(1), lease_no: LeaseNo(lease_no) }
}
fn record(lease_no: u64) -> LeaseRecord {
    LeaseRecord {
        term: term(lease_no),
        guard: GuardIncarnation("guard".into()),
        data: DataIncarnation("data".into()),
        index: 10,
        holders: BTreeSet::new(),
        waits: None,
    }
}
fn electorate(version: u64, members: std::ops::RangeInclusive<u64>) -> Electorate {
    Electorate::of(version, members.map(NodeId))
}
fn renewal(lease_no: u64) -> RenewLease {
    let LeaseRecord { term, guard, data, index, holders: _, waits: _ } = record(lease_no);
    RenewLease { key: key(), term, guard, data, length: L, index }
}
fn request(lease_no: u64, durable: bool) -> PledgeRequest {
    PledgeRequest { raft_term: 3, run: RunId(9), key: key(), term: term(lease_no), electorate: 1, durable }
}
/// A voter that never ran before, with L on disk.
fn voter(now: Moment) -> Granter {
    let mut voter = Granter::restarted(now, VoterState::default(), CLOCK_BOUNDS);
    let Decision::PersistFirst(state) = voter.renew(now, &renewal(1), Some(&record(1)), 10) else {
        panic!("the longest lease is stored before it is first granted");
    };
    voter.persisted(&state);
    voter
}
fn pledged(voter: &mut Granter, now: Moment, request: &PledgeRequest) -> Millis {
    loop {
        match voter.pledge(now, request, 3) {
            PledgeDecision::PersistFirst(state) => voter.persisted(&state),
            PledgeDecision::Answer(PledgeAnswer::Pledged { remainder }) => return remainder,
            PledgeDecision::Answer(other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_voter_grants_only_what_its_log_says_is_current() {
    let now = Moment(50);
    let mut voter = voter(now);
    assert_eq!(voter.renew(now, &renewal(1), Some(&record(1)), 10), Decision::Grant);
    let refuse = |answer| Decision::Refuse(answer);
    assert_eq!(voter.renew(now, &renewal(2), Some(&record(1)), 10), refuse(RenewAnswer::NotCurrent));
    assert_eq!(voter.renew(now, &renewal(1), None, 10), refuse(RenewAnswer::NotCurrent));
    assert_eq!(voter.renew(now, &renewal(2), Some(&record(1)), 9), refuse(RenewAnswer::Behind));
    let other_guard = RenewLease { guard: GuardIncarnation("clone".into()), ..renewal(1) };
    assert_eq!(voter.renew(now, &other_guard, Some(&record(1)), 10), refuse(RenewAnswer::NotCurrent));
    let other_data = RenewLease { data: DataIncarnation("old".into()), ..renewal(1) };
    assert_eq!(voter.renew(now, &other_data, Some(&record(1)), 10), refuse(RenewAnswer::NotCurrent));
}

#[test]
fn a_floor_forbids_from_the_request_on_and_answers_after_the_fsync() {
    let mut voter = voter(Moment(0));
    assert_eq!(voter.renew(Moment(0), &renewal(1), Some(&record(1)), 10), Decision::Grant);
    let ask = request(1, true);
    let PledgeDecision::PersistFirst(state) = voter.pledge(Moment(100), &ask, 3) else { panic!() };
    // During the fsync nothing is granted, and a repeat does not get an answer either.
    assert_eq!(
        voter.renew(Moment(150), &renewal(1), Some(&record(1)), 10),
        Decision::Refuse(RenewAnswer::Floor)
    );
    assert!(matches!(voter.pledge(Moment(150), &ask, 3), PledgeDecision::PersistFirst(_)));
    voter.persisted(&state);
    let remainder = pledged(&mut voter, Moment(400), &ask);
    assert_eq!(remainder, CLOCK_BOUNDS.stretch(L).minus(Millis(400)), "computed after the fsync");
    // The next number is free.
    assert_eq!(voter.renew(Moment(400), &renewal(2), Some(&record(2)), 10), Decision::Grant);
}

#[test]
fn asking_whether_it_would_pledge_changes_nothing() {
    let mut voter = voter(Moment(0));
    let before = voter.floor(&key());
    assert!(matches!(
        voter.pledge(Moment(0), &request(1, false), 3),
        PledgeDecision::Answer(PledgeAnswer::Pledged { .. })
    ));
    assert_eq!(voter.floor(&key()), before);
    assert_eq!(voter.unwritten(), None);
}

#[test]
fn a_deposed_leader_poisons_no_voter() {
    let mut voter = voter(Moment(0));
    let answer = voter.pledge(Moment(0), &request(1, true), 4);
    assert_eq!(answer, PledgeDecision::Answer(PledgeAnswer::StaleTerm));
    assert_eq!(voter.floor(&key()), LeaseNo(0));
}

#[test]
fn a_voter_without_room_refuses_to_pledge_until_it_has_some() {
    let mut voter = voter(Moment(0));
    let PledgeDecision::PersistFirst(_) = voter.pledge(Moment(0), &request(1, true), 3) else { panic!() };
    voter.not_persisted();
    let asked = voter.pledge(Moment(1), &request(1, false), 3);
    assert_eq!(asked, PledgeDecision::Answer(PledgeAnswer::CannotPersist));
    // Raised in memory stays raised.
    assert_eq!(voter.floor(&key()), LeaseNo(1));
    let state = voter.unwritten().unwrap().clone();
    voter.persisted(&state);
    assert!(matches!(
        voter.pledge(Moment(2), &request(1, false), 3),
        PledgeDecision::Answer(PledgeAnswer::Pledged { .. })
    ));
}

#[test]
fn a_restarted_voter_grants_at_once_and_answers_for_what_it_forgot() {
    let mut before = voter(Moment(0));
    pledged(&mut before, Moment(0), &request(1, true));
    let PledgeDecision::PersistFirst(stored) = before.pledge(Moment(0), &request(2, true), 3) else {
        panic!()
    };
    let bytes = encode(Kind::VoterState, &stored).unwrap();
    let found: VoterState = decode(Kind::VoterState, &bytes).unwrap();
    assert_eq!(found, stored);

    let mut after = Granter::restarted(Moment(7_000), found, CLOCK_BOUNDS);
    let floor = Decision::Refuse(RenewAnswer::Floor);
    assert_eq!(after.renew(Moment(7_000), &renewal(2), Some(&record(2)), 10), floor);
    let full = CLOCK_BOUNDS.stretch(L);
    assert_eq!(pledged(&mut after, Moment(7_000), &request(2, true)), full);
    assert_eq!(
        pledged(&mut after, Moment(7_000).after(Millis(500)), &request(2, true)),
        full.minus(Millis(500))
    );
    assert_eq!(pledged(&mut after, Moment(7_000).after(full), &request(2, true)), Millis::ZERO);
    assert_eq!(after.renew(Moment(7_000), &renewal(3), Some(&record(3)), 10), Decision::Grant);
}

#[test]
fn a_voter_remembers_the_longest_grant_of_a_key_whatever_its_number() {
    let mut voter = voter(Moment(0));
    let long = RenewLease { length: Millis(6_000), ..renewal(1) };
    let Decision::PersistFirst(state) = voter.renew(Moment(0), &long, Some(&record(1)), 10) else { panic!() };
    voter.persisted(&state);
    assert_eq!(voter.renew(Moment(0), &long, Some(&record(1)), 10), Decision::Grant);
    assert_eq!(voter.renew(Moment(10), &renewal(2), Some(&record(2)), 10), Decision::Grant);
    assert_eq!(voter.remainder(Moment(10), &key()), CLOCK_BOUNDS.stretch(Millis(6_000)).minus(Millis(10)));
}

fn holder() -> Holder {
    let mut holder = Holder::new(LeaseNo(0));
    holder.learn(&electorate(1, 1..=3));
    assert!(holder.begin(&record(1)));
    holder
}
fn reply(voter: u64, electorate: Electorate) -> RenewReply {
    RenewReply {
        voter: NodeId(voter),
        answer: Some(RenewAnswer::Granted),
        electorate,
        view: None,
        peers: Vec::new(),
    }
}
fn granted(holder: &mut Holder, now: Moment, round: u64, voters: &[u64]) {
    for voter in voters {
        holder.answered(now, round, &reply(*voter, electorate(1, 1..=3)));
    }
}

#[test]
fn a_lease_counts_from_the_sending_of_each_request() {
    let mut holder = holder();
    let (first, lease) = holder.ask(Moment(1_000), &key(), L, true);
    assert_eq!(lease.unwrap(), renewal(1));
    granted(&mut holder, Moment(1_900), first, &[1]);
    assert_eq!(holder.held(Moment(1_900)), None, "one grant is no majority");
    let (second, _) = holder.ask(Moment(2_000), &key(), L, true);
    granted(&mut holder, Moment(2_900), second, &[2]);
    assert_eq!(holder.held_until(), Some(Moment(3_500)), "the older of two grants, from its sending");
    granted(&mut holder, Moment(2_950), second, &[3]);
    assert_eq!(holder.held_until(), Some(Moment(4_500)));
    assert_eq!(holder.renewed_at(), Some(Moment(2_000)));
    assert_eq!(holder.late_from(Millis(1_250)), Some(Moment(3_250)));
}

#[test]
fn a_lapsed_lease_is_over_even_before_anybody_noticed() {
    let mut holder = holder();
    let (first, _) = holder.ask(Moment(0), &key(), L, true);
    granted(&mut holder, Moment(5), first, &[1, 2]);
    let (second, _) = holder.ask(Moment(2_000), &key(), L, true);
    // The process was stopped; the grants of the second request arrive when the first has run out.
    granted(&mut holder, Moment(2_500), second, &[1, 2, 3]);
    assert_eq!(holder.held(Moment(2_500)), None);
    assert_eq!(holder.lapse(Moment(2_500)), Some(term(1)));
    assert_eq!(holder.lapse(Moment(2_501)), None, "said once");
    assert!(!holder.begin(&record(1)), "never again this number");
    assert!(holder.begin(&record(2)));
}

#[test]
fn the_newest_electorate_seen_must_be_satisfied() {
    let mut holder = holder();
    let (round, _) = holder.ask(Moment(0), &key(), L, true);
    granted(&mut holder, Moment(5), round, &[1, 2]);
    assert!(holder.held(Moment(6)).is_some());
    holder.learn(&electorate(2, 1..=5));
    assert_eq!(holder.held(Moment(6)), None, "two of five");
    holder.learn(&electorate(1, 1..=3));
    assert_eq!(holder.electorate().version, 2, "an older one is no way back");
}

/// 1, 2, 3 before; 3, 4, 5 afterwards.
fn changing() -> Electorate {
    Electorate { leaving: (1..=3).map(NodeId).collect(), ..electorate(2, 3..=5) }
}

#[test]
fn while_voters_change_a_lease_needs_majorities_of_both() {
    let mut holder = holder();
    let peers = (1..=5).map(|id| VoterPeer {
        id: NodeId(id),
        agent: "a".parse().unwrap(),
        address: "10.0.0.1:7400".to_owned(),
    });
    let (round, _) = holder.ask(Moment(0), &key(), L, true);
    let told = RenewReply { peers: peers.collect(), ..reply(1, electorate(1, 1..=3)) };
    holder.answered(Moment(5), round, &told);
    assert_eq!(holder.everyone(), (1..=5).map(NodeId).collect(), "who may count next is asked as well");
    granted(&mut holder, Moment(5), round, &[2, 4]);
    let (later, _) = holder.ask(Moment(1_000), &key(), L, true);
    granted(&mut holder, Moment(1_005), later, &[1, 2, 5]);
    assert_eq!(holder.held_until(), Some(Moment(3_500)));
    holder.learn(&changing());
    assert_eq!(holder.held_until(), Some(Moment(2_500)), "of 4 and 5 the older grant");
    let mut alone = self::holder();
    let (round, _) = alone.ask(Moment(0), &key(), L, true);
    granted(&mut alone, Moment(5), round, &[1, 2]);
    alone.learn(&changing());
    assert_eq!(alone.held(Moment(6)), None, "the old ones alone are no longer enough");
}

#[test]
fn while_voters_change_a_takeover_needs_majorities_of_both() {
    let mut collector = Collector::new(key(), term(1), RunId(9), 3, changing(), F, CLOCK_BOUNDS);
    for (voter, enough) in [(4, false), (5, false), (1, false), (2, true)] {
        collector.answered(Moment(0), true, &pledge_of(voter, 1_000 * voter));
        assert_eq!(collector.pledged(), enough, "after {voter}");
    }
    let over = Moment(0).after(CLOCK_BOUNDS.stretch(Millis(5_000))).after(CLOCK_BOUNDS.stretch(F));
    assert_eq!(collector.over_at(), Some(over), "the longest of both");
    // 3 is in both: with it, one of each is enough.
    collector.answered(Moment(0), true, &pledge_of(3, 0));
    let over = Moment(0).after(CLOCK_BOUNDS.stretch(Millis(4_000))).after(CLOCK_BOUNDS.stretch(F));
    assert_eq!(collector.over_at(), Some(over));
}

#[test]
fn a_voter_names_an_electorate_for_ever_once_it_is_on_disk() {
    let mut granter = Granter::restarted(Moment(0), VoterState::default(), CLOCK_BOUNDS);
    let state = granter.learn(&changing()).unwrap();
    assert_eq!(granter.known_electorate(), 0, "not before it is on disk");
    granter.persisted(&state);
    assert_eq!(granter.known_electorate(), 2);
    assert_eq!(granter.learn(&electorate(1, 1..=3)), None);
    // A later process whose log lags at its start.
    let again = Granter::restarted(Moment(0), state, CLOCK_BOUNDS);
    assert_eq!(again.newest_electorate(electorate(1, 1..=3)), changing());
    assert_eq!(again.newest_electorate(electorate(3, 3..=5)), electorate(3, 3..=5));
}

#[test]
fn a_new_number_is_acquired_in_place() {
    let mut holder = holder();
    let (round, _) = holder.ask(Moment(0), &key(), L, true);
    granted(&mut holder, Moment(5), round, &[1, 2]);
    assert!(holder.begin(&record(2)));
    assert_eq!(holder.held(Moment(10)).unwrap().term, term(1), "held until the new one is");
    let (round, lease) = holder.ask(Moment(100), &key(), L, true);
    assert_eq!(lease.unwrap().term, term(2));
    granted(&mut holder, Moment(110), round, &[1, 3]);
    assert_eq!(holder.held(Moment(110)).unwrap().term, term(2));
    holder.spend(LeaseNo(1));
    assert!(holder.held(Moment(110)).is_some());
}

#[test]
fn a_pause_holds_without_renewals_until_its_own_end() {
    let mut holder = holder();
    assert!(!holder.enter_pause(Moment(0), 20, Moment(60_000)), "nothing is held");
    let (round, _) = holder.ask(Moment(0), &key(), L, true);
    granted(&mut holder, Moment(5), round, &[1, 2]);
    assert!(holder.enter_pause(Moment(10), 20, Moment(60_000)));
    assert!(holder.held(Moment(59_999)).is_some());
    assert_eq!(holder.late_from(Millis(1)), None);
    assert_eq!(holder.lapse(Moment(60_000)), Some(term(1)));
}

fn collector() -> Collector {
    Collector::new(key(), term(1), RunId(9), 3, electorate(1, 1..=3), F, CLOCK_BOUNDS)
}
fn pledge_of(voter: u64, remainder: u64) -> PledgeReply {
    PledgeReply {
        voter: NodeId(voter),
        electorate: electorate(1, 1..=3),
        answer: PledgeAnswer::Pledged { remainder: Millis(remainder) },
    }
}

#[test]
fn expiry_waits_for_a_majority_its_remainders_drift_and_the_fence() {
    let mut collector = collector();
    collector.answered(Moment(0), false, &pledge_of(1, 2_000));
    collector.answered(Moment(0), false, &pledge_of(2, 2_000));
    assert!(collector.willing());
    assert!(!collector.pledged(), "willing is not pledged");
    collector.answered(Moment(10), true, &pledge_of(1, 2_000));
    assert_eq!(collector.over_at(), None);
    collector.answered(Moment(500), true, &pledge_of(3, 0));
    let over = Moment(10).after(CLOCK_BOUNDS.stretch(Millis(2_000))).after(CLOCK_BOUNDS.stretch(F));
    assert_eq!(collector.over_at(), Some(over));
    assert_eq!(collector.expiry(Moment(over.0 - 1)), None);
    let proof = collector.expiry(over).unwrap();
    assert_eq!(proof.pledges, [(NodeId(1), Millis(2_000)), (NodeId(3), Millis(0))]);
    assert!(proof.waited >= Millis(2_000).plus(F));
    // A third pledge with less to wait for makes another majority, which is over sooner.
    collector.answered(Moment(600), true, &pledge_of(2, 100));
    assert!(collector.over_at().unwrap() < over);
}

#[test]
fn only_the_newest_electorate_counts() {
    let mut collector = collector();
    collector.answered(Moment(0), true, &pledge_of(1, 0));
    let newer = PledgeReply { electorate: electorate(2, 2..=6), ..pledge_of(2, 0) };
    collector.answered(Moment(0), true, &newer);
    assert!(!collector.pledged(), "one of five");
    collector.answered(Moment(0), true, &pledge_of(3, 0));
    collector.answered(Moment(0), true, &pledge_of(4, 0));
    assert!(collector.pledged());
    assert_eq!(collector.expiry(Moment(90_000)).unwrap().electorate, 2);
}

#[test]
fn a_deposed_collector_proves_nothing() {
    let mut collector = collector();
    collector.answered(Moment(0), true, &pledge_of(1, 0));
    collector.answered(Moment(0), true, &pledge_of(2, 0));
    let stale = PledgeReply { answer: PledgeAnswer::StaleTerm, ..pledge_of(3, 0) };
    collector.answered(Moment(0), true, &stale);
    assert!(collector.deposed());
    assert_eq!(collector.expiry(Moment(90_000)), None);
}

proptest! {
    /// Whatever the clocks do within the bound: a guard that was granted at `granted` and a leader that got its pledge
    /// `later` never overlap, down to the millisecond.
    #[test]
    fn no_pair_of_clocks_within_the_bound_overlaps(
        length in 100_u64..10_000,
        asked in 0_u64..12_000,
        guard_slow in 0_u64..=5,
        voter_fast in 0_u64..=5,
        offsets in (0_u64..1_000, 0_u64..1_000, 0_u64..1_000),
    ) {
        // Real time in microseconds; a clock shows whole milliseconds of its own rate.
        let clock = |real: u64, per_mille_of_1000: u64, offset: u64| {
            Moment((real * per_mille_of_1000 / 1000 + offset) / 1000)
        };
        let length = Millis(length);
        // Any two clocks differ by at most five per mille.
        let voter_fast = voter_fast.min(5 - guard_slow);
        let guard = |real| clock(real, 1000 - guard_slow.min(4), offsets.0);
        let voter = |real| clock(real, 1000 + voter_fast, offsets.1);
        let leader = |real| clock(real, 1000 + voter_fast, offsets.2);
        let mut it = Granter::restarted(
            Moment(0),
            VoterState { version: 1, largest_lease: length, ..VoterState::default() },
            CLOCK_BOUNDS,
        );
        let start = 100_000_000;
        let mut holder = Holder::new(LeaseNo(0));
        holder.learn(&Electorate::of(1, BTreeSet::from([NodeId(1)])));
        holder.begin(&record(1));
        let (round, lease) = holder.ask(guard(start), &key(), length, true);
        prop_assert_eq!(it.renew(voter(start), &lease.unwrap(), Some(&record(1)), 10), Decision::Grant);
        let one = Electorate::of(1, BTreeSet::from([NodeId(1)]));
        holder.answered(guard(start), round, &reply(1, one.clone()));

        let pledged_at = start + asked * 1000;
        let remainder = pledged(&mut it, voter(pledged_at), &request(1, true));
        let mut collector =
            Collector::new(key(), term(1), RunId(9), 3, one.clone(), Millis::ZERO, CLOCK_BOUNDS);
        let answer = PledgeAnswer::Pledged { remainder };
        let said = PledgeReply { voter: NodeId(1), electorate: one, answer };
        collector.answered(leader(pledged_at), true, &said);
        // The first real microsecond at which each believes what it believes, in steps of 100.
        let end = (pledged_at..).step_by(100).find(|t| collector.expiry(leader(*t)).is_some()).unwrap();
        prop_assert!(holder.held(guard(end)).is_none(), "held at {end}");
    }
}
