//! An exhaustive search through the real lease code: `Granter`, `Holder` and `Collector` at a small size (three voters,
//! one guard, one takeover), through every order of renewals, lost and late answers, restarts of voters in the middle of
//! an fsync, changes of leader, with clocks that differ by all that the bound allows and a fence that takes all of F.
//!
//! The promise searched for a break: when the promotion commits, the old guard's server can acknowledge no more.
//! Every rule that is taken away (by feeding the same code what a wrong runtime would feed it) must break it.
//!
//! Time is relative: two states that differ only in when they happen are one state, so the search ends by itself.

// A test file: a failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

mod search;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::LazyLock;

use mesh_failover::Moment;
use mesh_failover::lease::ClockBounds;
use mesh_failover::lease::granter::{Decision, Granter, PledgeDecision, VoterState};
use mesh_failover::lease::holder::Holder;
use mesh_failover::lease::takeover::Collector;
use mesh_proto::lease::{Electorate, LeaseTerm, PledgeAnswer, PledgeReply, RenewAnswer, RenewReply};
use mesh_proto::{LeaseNo, Millis, NodeId, RunId};
use search::{
    Clocks, DRIFT, Emit, FAST_LEADER, Found, KEY, NO_DRIFT, SLOW_GUARD, Searched, broken, record, safe, term,
};

const VOTERS: usize = 3;

/// A rule that is taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Without {
    Nothing,
    PledgePersisted,
    RestartedRemainder,
    CountedFromSending,
    Drift,
    VoterDrift,
    FenceBudget,
    Majority,
    Floor,
    RemainderAfterFsync,
    NewNumberAfterReceipt,
}

#[derive(Clone, Copy)]
struct Model {
    clocks: Clocks,
    /// L, by the guard's clock.
    lease: Millis,
    restarts: u8,
    receipts: bool,
    without: Without,
}

#[derive(Clone)]
struct Voter {
    granter: Granter,
    disk: VoterState,
    /// An fsync goes on; with the remainder computed before it, where that rule is taken away.
    writing: Option<(VoterState, Millis)>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Server {
    /// Serves, under a lease that its guard holds.
    Serves,
    /// The fence goes on for so many steps more.
    Fencing(u8),
    Fenced,
    /// Opens again when its guard has acquired the lease.
    Reopens,
}

#[derive(Clone)]
struct State {
    guard_now: Moment,
    voter_now: Moment,
    leader_now: Moment,
    voters: [Rc<Voter>; VOTERS],
    /// The answer of each voter that is under way: the request's number, and when it was sent.
    answers: [Option<(u64, Moment)>; VOTERS],
    holder: Rc<Holder>,
    server: Server,
    collector: Rc<Collector>,
    current: LeaseTerm,
    receipt: Option<LeaseTerm>,
    restarts: u8,
    promoted: bool,
}

static ELECTORATE: LazyLock<Electorate> = LazyLock::new(|| Electorate::of(1, (0..VOTERS as u64).map(NodeId)));

impl Model {
    fn voter_bounds(&self) -> ClockBounds {
        let none = matches!(self.without, Without::Drift | Without::VoterDrift);
        if none { NO_DRIFT } else { DRIFT }
    }

    fn collector(&self, term: LeaseTerm) -> Rc<Collector> {
        let none = self.without == Without::Drift;
        let bounds = if none { NO_DRIFT } else { DRIFT };
        // One step of real time, by the guard's clock.
        let fence = if self.without == Without::FenceBudget { Millis(0) } else { Millis(self.clocks.guard) };
        Rc::new(Collector::new(KEY.clone(), term, RunId(1), 1, ELECTORATE.clone(), fence, bounds))
    }

    /// One step of real time.
    fn tick(&self, state: &mut State) {
        state.guard_now = state.guard_now.after(Millis(self.clocks.guard));
        state.voter_now = state.voter_now.after(Millis(self.clocks.voter));
        state.leader_now = state.leader_now.after(Millis(self.clocks.leader));
        for answer in &mut state.answers {
            // An answer older than the lease is worth nothing, whenever it arrives.
            answer.take_if(|(_, sent)| state.guard_now.since(*sent) >= self.lease);
        }
        state.server = match state.server {
            Server::Serves if Rc::make_mut(&mut state.holder).lapse(state.guard_now).is_some() => {
                Server::Fencing(1)
            }
            Server::Fencing(1) => Server::Fenced,
            Server::Fencing(left) => Server::Fencing(left - 1),
            same @ (Server::Serves | Server::Fenced | Server::Reopens) => same,
        };
    }

    /// The guard asks one voter, which answers at once; the answer is under way. A request that arrives later only makes
    /// the voter remember it for longer. `false`: the voter did not grant.
    fn ask(&self, state: &mut State, voter: usize) -> bool {
        let holder = Rc::make_mut(&mut state.holder);
        let (round, lease) = holder.ask(state.guard_now, &KEY, self.lease, true);
        let Some(lease) = lease else { return false };
        // The worst case: this voter's log is old and still says that the lease is current.
        let view = record(lease.term);
        let granter = &mut Rc::make_mut(&mut state.voters[voter]).granter;
        match granter.renew(state.voter_now, &lease, Some(&view), 1) {
            Decision::Grant => {
                state.answers[voter] = Some((round, state.guard_now));
                true
            }
            Decision::Refuse(_) => false,
            Decision::PersistFirst(_) => unreachable!("the longest lease is on disk"),
        }
    }

    fn answer_arrives(&self, state: &mut State, voter: usize) {
        let Some((mut round, _)) = state.answers[voter].take() else { return };
        let holder = Rc::make_mut(&mut state.holder);
        if self.without == Without::CountedFromSending {
            round = holder.ask(state.guard_now, &KEY, self.lease, true).0;
        }
        let reply = RenewReply {
            voter: NodeId(voter as u64),
            answer: Some(RenewAnswer::Granted),
            electorate: ELECTORATE.clone(),
            view: None,
            peers: Vec::new(),
        };
        holder.answered(state.guard_now, round, &reply);
        if state.server == Server::Reopens && holder.held(state.guard_now).is_some() {
            state.server = Server::Serves;
        }
    }

    fn counted(&self, state: &State, voter: usize) -> bool {
        state.collector.pledges(state.leader_now).iter().any(|(v, _)| v.0 == voter as u64)
    }

    /// The leader's request for a pledge arrives at a voter.
    fn pledge(&self, state: &mut State, voter: usize) {
        let mut request = state.collector.request(true);
        request.durable = !matches!(self.without, Without::Floor | Without::RemainderAfterFsync);
        let now = state.voter_now;
        let it = Rc::make_mut(&mut state.voters[voter]);
        match it.granter.pledge(now, &request, 1) {
            PledgeDecision::PersistFirst(stored) => it.writing = Some((stored, Millis::ZERO)),
            PledgeDecision::Answer(PledgeAnswer::Pledged { remainder }) => {
                if self.without == Without::RemainderAfterFsync {
                    it.writing = Some((it.disk.clone(), remainder));
                } else {
                    self.pledge_arrives(state, voter, remainder);
                }
            }
            PledgeDecision::Answer(PledgeAnswer::StaleTerm | PledgeAnswer::CannotPersist) => {
                unreachable!("the term is the voter's and its disk is well")
            }
        }
    }

    /// The voter's fsync ends. Returns the remainder that it answers.
    fn fsync_ends(&self, state: &mut State, voter: usize) -> Option<Millis> {
        let now = state.voter_now;
        let request = state.collector.request(true);
        let it = Rc::make_mut(&mut state.voters[voter]);
        let (mut stored, read_before) = it.writing.take()?;
        if self.without == Without::RemainderAfterFsync
            && let PledgeDecision::PersistFirst(raised) = it.granter.pledge(now, &request, 1)
        {
            stored = raised;
        }
        it.granter.persisted(&stored);
        if self.without != Without::PledgePersisted {
            it.disk = stored;
        }
        match it.granter.pledge(now, &request, 1) {
            PledgeDecision::Answer(PledgeAnswer::Pledged { remainder }) => {
                Some(if self.without == Without::RemainderAfterFsync { read_before } else { remainder })
            }
            // The fsync was for an older lease number: the leader asks again.
            PledgeDecision::Answer(PledgeAnswer::StaleTerm | PledgeAnswer::CannotPersist)
            | PledgeDecision::PersistFirst(_) => None,
        }
    }

    fn pledge_arrives(&self, state: &mut State, voter: usize, remainder: Millis) {
        let mut electorate = ELECTORATE.clone();
        if self.without == Without::Majority {
            electorate = Electorate::of(2, BTreeSet::from([NodeId(voter as u64)]));
        }
        let answer = PledgeAnswer::Pledged { remainder };
        let reply = PledgeReply { voter: NodeId(voter as u64), electorate, answer };
        Rc::make_mut(&mut state.collector).answered(state.leader_now, true, &reply);
    }

    fn restart(&self, state: &mut State, voter: usize) {
        let it = Rc::make_mut(&mut state.voters[voter]);
        let mut disk = it.disk.clone();
        if self.without == Without::RestartedRemainder {
            disk.largest_lease = Millis::ZERO;
        }
        it.granter = Granter::restarted(state.voter_now, disk, self.voter_bounds());
        it.granter.persisted(&it.disk);
        it.writing = None;
        state.restarts += 1;
    }

    fn voter_successors(&self, state: &State, voter: usize, emit: Emit<'_, State>) {
        if matches!(state.server, Server::Serves | Server::Reopens) {
            let mut next = state.clone();
            let asks = state.holder.asking().map(|record| record.term.lease_no);
            let refused = asks.is_none_or(|no| no <= state.voters[voter].granter.floor(&KEY));
            if !refused && self.ask(&mut next, voter) {
                emit(next, "grants a renewal, the answer is under way", Some(voter));
            }
            if state.answers[voter].is_some() {
                let mut next = state.clone();
                self.answer_arrives(&mut next, voter);
                emit(next, "the answer arrives at the guard", Some(voter));
            }
        }
        // A lost answer is one that never arrives: it is overtaken by a newer one, or grows too old.
        let writing = state.voters[voter].writing.is_some();
        if !writing && !self.counted(state, voter) {
            let mut next = state.clone();
            self.pledge(&mut next, voter);
            emit(next, "is asked for its pledge", Some(voter));
        }
        if writing {
            let mut next = state.clone();
            let remainder = self.fsync_ends(&mut next, voter);
            emit(next.clone(), "ends its fsync, the answer to the leader is lost", Some(voter));
            if let Some(remainder) = remainder {
                self.pledge_arrives(&mut next, voter, remainder);
                emit(next, "ends its fsync, the pledge arrives at the leader", Some(voter));
            }
        }
        if state.restarts < self.restarts {
            let mut next = state.clone();
            self.restart(&mut next, voter);
            emit(next, "restarts", Some(voter));
        }
    }

    /// A fence that was ordered, its receipt, and the way back: the old primary opens again.
    fn receipt_successors(&self, state: &State, emit: Emit<'_, State>) {
        if state.server == Server::Serves && state.receipt.is_none() {
            let mut next = state.clone();
            next.server = Server::Fenced;
            next.receipt = Some(state.current);
            Rc::make_mut(&mut next.holder).spend(state.current.lease_no);
            emit(next, "the guard fences and sends its receipt", None);
        }
        if state.server == Server::Fenced && state.receipt == Some(state.current) {
            let mut next = state.clone();
            next.server = Server::Reopens;
            if self.without == Without::NewNumberAfterReceipt {
                let mut holder = Holder::new(LeaseNo(0));
                holder.learn(&ELECTORATE);
                next.holder = Rc::new(holder);
            } else {
                next.current = term(state.current.lease_no.0 + 1);
            }
            let begun = Rc::make_mut(&mut next.holder).begin(&record(next.current));
            assert!(begun, "a new number may always be asked for");
            emit(next, "an abort commits: the old primary gets a lease and opens again", None);
        }
    }
}

impl Searched for Model {
    type State = State;
    type Key = [u16; 7 * VOTERS + 6];

    fn first(&self) -> State {
        let disk = VoterState {
            version: 1,
            floors: BTreeMap::new(),
            electorate: ELECTORATE.clone(),
            largest_lease: self.lease,
        };
        // Long enough ago that nothing of an earlier process counts.
        let granter = Granter::restarted(Moment(0), disk.clone(), self.voter_bounds());
        let voter = Rc::new(Voter { granter, disk, writing: None });
        let mut holder = Holder::new(LeaseNo(0));
        holder.learn(&ELECTORATE);
        assert!(holder.begin(&record(term(1))));
        let mut state = State {
            guard_now: Moment(100_000),
            voter_now: Moment(100_000),
            leader_now: Moment(100_000),
            voters: [Rc::clone(&voter), Rc::clone(&voter), voter],
            answers: [None; VOTERS],
            holder: Rc::new(holder),
            server: Server::Serves,
            collector: self.collector(term(1)),
            current: term(1),
            receipt: None,
            restarts: 0,
            promoted: false,
        };
        for voter in 0..VOTERS {
            self.ask(&mut state, voter);
            self.answer_arrives(&mut state, voter);
        }
        assert!(state.holder.held(state.guard_now).is_some());
        state
    }

    /// Every state that one thing happening leads to, with its name.
    fn successors(&self, state: &State, emit: Emit<'_, State>) {
        let mut next = state.clone();
        self.tick(&mut next);
        emit(next, "time passes", None);
        for voter in 0..VOTERS {
            self.voter_successors(state, voter, emit);
        }
        let begun = !state.collector.pledges(state.leader_now).is_empty();
        if begun || state.collector.term() != state.current {
            let mut next = state.clone();
            next.collector = self.collector(state.current);
            emit(next, "another leader collects anew", None);
        }
        // A promotion is a compare-and-set on the lease that ends.
        if state.collector.term() == state.current {
            let by_receipt = state.receipt == Some(state.current) && state.collector.pledged();
            if by_receipt || state.collector.expiry(state.leader_now).is_some() {
                let mut next = state.clone();
                next.promoted = true;
                emit(next, if by_receipt { "promotion by receipt" } else { "promotion by expiry" }, None);
            }
        }
        if self.receipts {
            self.receipt_successors(state, emit);
        }
    }

    /// The three voters are alike.
    fn key(&self, state: &State) -> Self::Key {
        let short = |length: Millis| u16::try_from(length.0 / 50).unwrap();
        let grants = state.holder.grants(state.guard_now);
        let pledges = state.collector.pledges(state.leader_now);
        let of = |list: &[(NodeId, Millis)], voter: usize| {
            list.iter().find(|(v, _)| v.0 == voter as u64).map(|(_, left)| *left)
        };
        let mut voters: [[u16; 7]; VOTERS] = std::array::from_fn(|i| {
            let it = &state.voters[i];
            let answer = state.answers[i].map_or(99, |(_, sent)| short(state.guard_now.since(sent)));
            [
                u16::try_from(it.granter.floor(&KEY).0).unwrap(),
                it.disk.floors.get(&KEY).map_or(0, |no| u16::try_from(no.0).unwrap()),
                it.writing.as_ref().map_or(0, |(_, before)| 1 + short(*before)),
                short(it.granter.remainder(state.voter_now, &KEY)),
                answer,
                of(&grants, i).map_or(0, short),
                of(&pledges, i).map_or(999, short),
            ]
        });
        voters.sort_unstable();
        let server = match state.server {
            Server::Serves => 0,
            Server::Fencing(left) => 10 + u16::from(left),
            Server::Fenced => 1,
            Server::Reopens => 2,
        };
        let receipt = state.receipt.map_or(0, |term| u16::try_from(term.lease_no.0).unwrap());
        let (now, of) = (state.current.lease_no.0, state.collector.term().lease_no.0);
        let rest = [
            server,
            receipt,
            u16::try_from(now * 10 + of).unwrap(),
            u16::try_from(state.holder.spent().0).unwrap(),
            u16::from(state.restarts),
            u16::from(state.promoted),
        ];
        let mut all = voters.into_iter().flatten().chain(rest);
        std::array::from_fn(|_| all.next().unwrap())
    }

    fn found(&self, state: &State) -> Found {
        match state.server {
            _ if !state.promoted => Found::Open,
            Server::Serves | Server::Fencing(_) => Found::TwoWriters,
            Server::Fenced | Server::Reopens => Found::Promoted,
        }
    }
}

const BASE: Model =
    Model { clocks: SLOW_GUARD, lease: Millis(400), restarts: 1, receipts: false, without: Without::Nothing };

#[test]
fn a_slow_guard_is_safe() {
    safe("slow guard", &BASE);
}

#[test]
fn a_longer_lease_is_safe() {
    safe("longer lease", &Model { lease: Millis(600), restarts: 0, ..BASE });
}

#[test]
fn a_fast_leader_is_safe() {
    safe("fast leader", &Model { clocks: FAST_LEADER, restarts: 0, ..BASE });
}

#[test]
fn receipts_and_aborts_are_safe() {
    safe("receipts and aborts", &Model { receipts: true, restarts: 0, ..BASE });
}

#[test]
fn each_rule_is_needed() {
    for without in [
        Without::PledgePersisted,
        Without::RestartedRemainder,
        Without::CountedFromSending,
        Without::Drift,
        Without::FenceBudget,
        Without::Majority,
        Without::Floor,
        Without::RemainderAfterFsync,
    ] {
        broken(&format!("without {without:?}"), &Model { without, ..BASE });
    }
    // In a shorter lease, the rounding to whole steps hides it.
    let without = Without::VoterDrift;
    broken("without VoterDrift", &Model { without, lease: Millis(600), restarts: 0, ..BASE });
    let without = Without::NewNumberAfterReceipt;
    broken("without NewNumberAfterReceipt", &Model { without, receipts: true, restarts: 0, ..BASE });
}
