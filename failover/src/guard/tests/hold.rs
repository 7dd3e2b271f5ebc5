//! Going on without a majority of voters: what a guard counts as promised, what it promises, and when what it promised lets
//! it open.

use std::collections::BTreeSet;

use mesh_proto::hold::{GuardPeer, HoldView, NoPromise, Unended};
use mesh_proto::lease::{FenceCause, LeaseKey};

use super::*;
use crate::lease::CLOCK_BOUNDS;

fn names(all: &[&str]) -> BTreeSet<InstanceName> {
    all.iter().map(|name| name.parse().unwrap()).collect()
}

fn life(name: &str) -> GuardIncarnation {
    GuardIncarnation(name.to_owned())
}

impl Rig {
    /// The log says that the group holds, and which lease is in force.
    fn holds(&mut self, current: LeaseTerm) {
        self.view.applied += 1;
        let peer = |name: &str| GuardPeer {
            instance: name.parse().unwrap(),
            address: "10.0.0.1:7401".parse().unwrap(),
        };
        self.view.hold = Some(HoldView {
            on: true,
            longest: self.view.timing.lease,
            fence: self.view.timing.fence,
            current: Some(current),
            guards: ["pg-1", "pg-2", "pg-3"].map(peer).into(),
        });
    }

    /// A primary that may hold by the promises of two others.
    fn holding() -> Self {
        let mut rig = Self::serving();
        rig.holds(term(1, 1));
        rig.view.own_lease.as_mut().unwrap().holders = names(&["pg-2", "pg-3"]);
        rig.run(Millis(600));
        rig
    }

    /// These promise what they were asked for last.
    fn promise(&mut self, who: &[&str]) {
        let (round, to, request) = self.asked_holders.last().cloned().unwrap();
        assert_eq!(request.guard, self.guard.state().guard);
        for giver in who {
            let giver = giver.parse().unwrap();
            assert!(to.contains(&giver), "{giver} was not asked");
            let answer = HoldAnswer::Promised { older: Millis::ZERO };
            self.guard.handle_promise(self.now, round, &giver, answer);
        }
        self.drive();
    }

    /// For as long, these promise whenever they are asked.
    fn promised_for(&mut self, length: Millis, who: &[&str]) {
        let end = self.now.after(length);
        while self.now < end {
            self.run(Millis(250));
            self.promise(who);
        }
    }

    /// The guard of another instance asks for a promise.
    fn hold(&mut self, id: u64, of: LeaseTerm) -> HoldAnswer {
        let key = LeaseKey { group: "orders".parse().unwrap(), instance: "pg-2".parse().unwrap() };
        let request = HoldRequest { key, term: of, guard: life("theirs"), length: Millis(2_500) };
        self.guard.handle_hold(self.now, id, &request);
        self.drive();
        self.promises[&id]
    }
}

#[test]
fn a_primary_goes_on_without_a_majority_while_every_other_guard_promises() {
    let mut rig = Rig::holding();
    rig.reachable = 1;
    rig.promised_for(Millis(20_000), &["pg-2", "pg-3"]);
    assert!(rig.guard.opened().is_some());
    assert!(!rig.gated, "what is promised in time is not late");
    let standing = rig.status().hold.clone().unwrap();
    assert!(standing.alone && standing.promised == names(&["pg-2", "pg-3"]), "{standing:?}");
    rig.reachable = 3;
    rig.run(Millis(500));
    assert!(!rig.status().hold.as_ref().unwrap().alone);
}

#[test]
fn without_one_of_them_it_is_fenced_at_the_end_of_the_lease() {
    let mut rig = Rig::holding();
    rig.reachable = 1;
    rig.promised_for(Millis(5_000), &["pg-2", "pg-3"]);
    let last = rig.now;
    rig.promised_for(Millis(2_200), &["pg-2"]);
    assert!(rig.guard.opened().is_some(), "the other promise runs for a lease");
    assert!(rig.gated, "and commits wait at its end");
    rig.promised_for(Millis(600), &["pg-2"]);
    assert!(rig.now.since(last) <= Millis(3_000));
    let Some(Task::Fence { term: of, cause, .. }) = rig.task() else { panic!("{:?}", rig.task()) };
    assert_eq!((*of, *cause), (Some(term(1, 1)), FenceCause::LeaseOver));
}

#[test]
fn promises_count_for_nothing_where_the_log_names_no_holders() {
    let mut rig = Rig::serving();
    rig.holds(term(1, 1));
    rig.run(Millis(600));
    assert!(rig.asked_holders.is_empty());
}

#[test]
fn a_promise_that_comes_when_the_lease_is_over_continues_nothing() {
    let mut rig = Rig::holding();
    rig.reachable = 0;
    rig.run(Millis(2_450));
    // The process was stopped.
    rig.now = rig.now.after(Millis(400));
    rig.promise(&["pg-2", "pg-3"]);
    assert!(matches!(rig.task(), Some(Task::Fence { .. })), "{:?}", rig.task());
}

#[test]
fn a_standby_promises_and_opens_only_when_that_is_over() {
    let mut rig = Rig::standby();
    rig.holds(term(1, 4));
    // What a guard without a past may have promised before it lost it is waited for.
    rig.run(Millis(300));
    let born = HoldAnswer::Stopped { older: Millis::ZERO, why: NoPromise::JustBorn };
    let HoldAnswer::Stopped { why, .. } = rig.hold(1, term(1, 4)) else { panic!() };
    assert_eq!(HoldAnswer::Stopped { older: Millis::ZERO, why }, born);
    rig.run(Millis(4_000));
    assert_eq!(rig.hold(2, term(1, 4)), HoldAnswer::Promised { older: Millis::ZERO });
    let promised = rig.now;
    assert_eq!(rig.hold(3, term(1, 3)), HoldAnswer::Refused(NoPromise::NewerLease));
    // It is promoted at once, whoever proved what.
    rig.grant(2, 1);
    rig.holds(term(2, 1));
    let old = Unended {
        instance: "pg-2".parse().unwrap(),
        guard: life("theirs"),
        term: term(1, 4),
        holders: names(&["pg-1", "pg-3"]),
    };
    rig.view.own_lease.as_mut().unwrap().waits = Some(old);
    rig.run(Millis(500));
    assert_eq!(rig.hold(4, term(1, 4)), HoldAnswer::Refused(NoPromise::NewerLease));
    let least = CLOCK_BOUNDS
        .stretch_at_guard(Millis(2_500))
        .plus(CLOCK_BOUNDS.stretch_at_guard(rig.view.timing.fence));
    while rig.now.since(promised) < least {
        assert!(rig.task().is_none(), "opened {} after its promise", rig.now.since(promised));
        rig.run(STEP);
    }
    rig.run(Millis(100));
    assert!(matches!(rig.task(), Some(Task::OpenPrimary { .. })), "{:?}", rig.task());
}

#[test]
fn after_a_restart_it_keeps_what_it_said_and_waits_as_if_it_had_promised_last_thing() {
    let mut rig = Rig::standby();
    rig.holds(term(1, 4));
    rig.run(Millis(5_000));
    assert_eq!(rig.hold(1, term(1, 4)), HoldAnswer::Promised { older: Millis::ZERO });
    rig.restart("boot-1", "2");
    rig.run(Millis(300));
    assert_eq!(rig.hold(2, term(1, 3)), HoldAnswer::Refused(NoPromise::NewerLease));
    // A newer lease of the same instance: what was promised before counts from the start.
    let HoldAnswer::Promised { older } = rig.hold(3, term(1, 5)) else { panic!("{:?}", rig.promises) };
    let whole = CLOCK_BOUNDS.stretch_at_guard(Millis(2_500));
    assert!(older <= whole && older.plus(Millis(400)) >= whole, "{older}");
}

#[test]
fn another_life_opens_when_one_of_the_holders_has_stopped() {
    let mut rig = Rig::standby();
    rig.grant(1, 7);
    rig.holds(term(1, 7));
    let old = Unended {
        instance: me(),
        guard: life("before the reboot"),
        term: term(1, 6),
        holders: names(&["pg-2", "pg-3"]),
    };
    rig.view.own_lease.as_mut().unwrap().waits = Some(old);
    rig.run(Millis(9_000));
    assert!(rig.task().is_none(), "silence is no end of a promise: {:?}", rig.task());
    let (round, to, request) = rig.asked_holders.last().cloned().unwrap();
    assert_eq!((to.len(), request.term), (2, term(1, 7)));
    let answer = HoldAnswer::Stopped { older: Millis(1_000), why: NoPromise::Frozen };
    rig.guard.handle_promise(rig.now, round, &"pg-3".parse().unwrap(), answer);
    rig.run(Millis(2_100));
    assert!(rig.task().is_none());
    rig.run(Millis(300));
    assert!(matches!(rig.task(), Some(Task::OpenPrimary { .. })), "{:?}", rig.task());
}

#[test]
fn a_frozen_standby_promises_nothing_more() {
    let mut rig = Rig::standby();
    rig.holds(term(1, 4));
    rig.run(Millis(5_000));
    assert_eq!(rig.hold(1, term(1, 4)), HoldAnswer::Promised { older: Millis::ZERO });
    let effect = Effect::Freeze { instance: me(), generation: mesh_proto::Generation(3) };
    rig.order(1, effect);
    assert!(matches!(rig.hold(2, term(1, 4)), HoldAnswer::Stopped { why: NoPromise::Frozen, .. }));
}

#[test]
fn what_a_newer_lease_is_told_is_on_disk_first() {
    let mut rig = Rig::standby();
    rig.holds(term(1, 4));
    rig.run(Millis(5_000));
    rig.disk_works = false;
    let key = LeaseKey { group: "orders".parse().unwrap(), instance: "pg-2".parse().unwrap() };
    let request = HoldRequest { key, term: term(1, 5), guard: life("theirs"), length: Millis(2_500) };
    rig.guard.handle_hold(rig.now, 1, &request);
    rig.run(Millis(1_000));
    assert!(rig.promises.is_empty());
    rig.disk_works = true;
    rig.run(Millis(500));
    assert!(rig.promises.contains_key(&1));
}
