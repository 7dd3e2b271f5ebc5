//! Leases that may go on by promises, in the replicated state: who must promise, what is not over when another lease begins,
//! and who may not be promoted then.

// A test file: a failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use mesh_failover::state::{Group, MeshState};
use mesh_proto::command::{Applied, Command, Entry, MemberRecord};
use mesh_proto::evidence::Position;
use mesh_proto::lease::{Expiry, FenceCause, LeaseKey, LeaseTerm, Proof, Receipt, ReceiptLevel};
use mesh_proto::run::{Actor, Plan, RunKind, Signal};
use mesh_proto::spec::{GroupSpec, MajorityLost};
use mesh_proto::{
    DataIncarnation, Epoch, GuardIncarnation, InstanceName, LeaseNo, Lsn, Millis, NodeId, RunId, Wall,
};

const SPEC: &str = r#"{"group":"g","majority_lost":"hold","instance":[
    {"name":"pg-a","site":"east","agent":"a","address":"10.0.0.1:5432","guard":"10.0.0.1:7401"},
    {"name":"pg-b","site":"east","agent":"a","address":"10.0.0.1:5433","guard":"10.0.0.1:7402"},
    {"name":"pg-c","site":"east","agent":"a","address":"10.0.0.1:5434","guard":"10.0.0.1:7403"}]}"#;

struct Log {
    state: MeshState,
    index: u64,
}

impl Log {
    fn founded() -> Self {
        let mut log = Self { state: MeshState::default(), index: 0 };
        let members = vec![MemberRecord {
            id: NodeId(1),
            agent: "a".parse().unwrap(),
            site: "east".parse().unwrap(),
            address: "127.0.0.1:1".to_owned(),
            voter: true,
        }];
        log.done(Command::MeshFormed { mesh: "m".parse().unwrap(), members });
        log.done(Command::SpecApplied { replaces: 0, spec: spec() });
        log.done(Command::Founded {
            group: "g".parse().unwrap(),
            instance: "pg-a".parse().unwrap(),
            data: data("pg-a"),
            guard: guard("pg-a"),
            system_id: 7,
            reason: None,
        });
        log
    }

    /// The primary serves, and the others are known to promise.
    fn holding() -> Self {
        let mut log = Self::founded();
        log.done(log.known(&["pg-b", "pg-c"]));
        log
    }

    fn take(&mut self, command: Command) -> Applied {
        self.index += 1;
        let actor = Actor::Operator("ann".to_owned());
        let entry = Entry { by: "a".parse().unwrap(), actor, at: Wall(0), commands: vec![command] };
        let applied = self.state.apply(self.index, &entry).unwrap();
        assert_eq!(self.state.check_invariants(), Ok(()));
        applied
    }

    fn done(&mut self, command: Command) {
        let applied = self.take(command);
        assert!(matches!(applied, Applied::Done { .. }), "{applied:?}");
    }

    fn refused(&mut self, command: Command) -> String {
        match self.take(command) {
            Applied::Refused(why) => why.to_string(),
            Applied::Done { .. } => panic!("not refused"),
        }
    }

    fn group(&self) -> &Group {
        self.state.groups.values().next().unwrap()
    }

    fn term(&self) -> LeaseTerm {
        self.group().lease().unwrap().term
    }

    fn known(&self, holders: &[&str]) -> Command {
        let lease = self.group().lease().unwrap();
        Command::HoldersKnown {
            group: "g".parse().unwrap(),
            term: lease.term,
            guard: lease.guard.clone(),
            holders: names(holders),
        }
    }

    fn taking_over(&mut self) -> RunId {
        let plan = Plan {
            kind: RunKind::Failover,
            group: "g".parse().unwrap(),
            parent: self.term(),
            from: self.group().primary.clone().unwrap().instance,
            candidates: Vec::new(),
            rejected: Vec::new(),
            site: None,
            actor: Actor::Mesh,
            reason: String::new(),
            accept_lag: false,
            accept_loss: false,
            lost_for: None,
            errands: Vec::new(),
        };
        self.done(Command::RunOpened { plan });
        let run = RunId(self.index);
        self.signal(run, Signal::PledgedByMajority);
        run
    }

    fn signal(&mut self, run: RunId, signal: Signal) {
        let (group, detail) = ("g".parse().unwrap(), String::new());
        self.done(Command::Signalled { group, run, signal, detail, cause: None });
    }

    fn promotion(&self, run: RunId, to: &str, proof: Proof) -> Command {
        Command::PromotionCommitted {
            group: "g".parse().unwrap(),
            run,
            ends: self.term(),
            instance: to.parse().unwrap(),
            data: data(to),
            guard: guard(to),
            freeze: self.group().generation,
            position: Position { timeline: 1, have: Lsn(10), replayed: Lsn(10) },
            proof,
            durability: None,
            standbys: BTreeSet::new(),
        }
    }

    fn expired(&self) -> Proof {
        Proof::Expired(Expiry {
            term: self.term(),
            pledges: vec![(NodeId(1), Millis::ZERO)],
            waited: Millis(60_000),
            electorate: 1,
        })
    }

    fn receipt(&self) -> Proof {
        let lease = self.group().lease().unwrap();
        let instance = self.group().primary.clone().unwrap().instance;
        Proof::Receipt(Receipt {
            key: LeaseKey { group: "g".parse().unwrap(), instance },
            term: lease.term,
            guard: lease.guard.clone(),
            data: lease.data.clone(),
            level: ReceiptLevel::Quiet,
            shutdown_at: None,
            cause: FenceCause::Ordered,
            signature: String::new(),
        })
    }

    fn grant(&self, life: &str, proof: Option<Proof>) -> Command {
        let primary = self.group().primary.clone().unwrap();
        Command::LeaseGranted {
            group: "g".parse().unwrap(),
            instance: primary.instance,
            replaces: self.term(),
            data: primary.data,
            guard: guard(life),
            proof,
            reason: String::new(),
        }
    }

    /// `pg-d` joins, or `pg-b` leaves.
    fn respecified(&mut self, change: impl FnOnce(&mut GroupSpec)) {
        let mut spec = self.group().spec.clone();
        change(&mut spec);
        self.done(Command::SpecApplied { replaces: self.group().version, spec });
    }
}

fn spec() -> GroupSpec {
    serde_json::from_str(SPEC).unwrap()
}
fn data(name: &str) -> DataIncarnation {
    DataIncarnation(format!("d-{name}"))
}
fn guard(name: &str) -> GuardIncarnation {
    GuardIncarnation(format!("g-{name}"))
}
fn names(all: &[&str]) -> BTreeSet<InstanceName> {
    all.iter().map(|name| name.parse().unwrap()).collect()
}
fn term(epoch: u64, lease_no: u64) -> LeaseTerm {
    LeaseTerm { epoch: Epoch(epoch), lease_no: LeaseNo(lease_no) }
}
fn fourth(spec: &mut GroupSpec) {
    let mut more = spec.instances[2].clone();
    more.name = "pg-d".parse().unwrap();
    more.address = "10.0.0.1:5435".parse().unwrap();
    more.guard = "10.0.0.1:7404".parse().unwrap();
    spec.instances.push(more);
}

#[test]
fn a_lease_has_no_holders_before_the_log_knows_that_all_would_promise() {
    let mut log = Log::founded();
    assert!(log.group().lease().unwrap().holders.is_empty());
    for some in [&["pg-b"][..], &["pg-a", "pg-b", "pg-c"], &[]] {
        assert!(log.refused(log.known(some)).contains("other instances"));
    }
    log.done(log.known(&["pg-b", "pg-c"]));
    assert_eq!(log.group().lease().unwrap().holders, names(&["pg-b", "pg-c"]));
    log.respecified(fourth);
    let why = log.refused(log.known(&["pg-b", "pg-c", "pg-d"]));
    assert!(why.contains("keeps them to its end"), "{why}");
}

#[test]
fn a_promotion_by_the_end_of_the_lease_waits_for_the_promises() {
    let mut log = Log::holding();
    let run = log.taking_over();
    log.done(log.promotion(run, "pg-b", log.expired()));
    let lease = log.group().lease().unwrap().clone();
    let waits = lease.waits.unwrap();
    assert_eq!((waits.instance.as_str(), waits.term), ("pg-a", term(1, 1)));
    assert_eq!(waits.holders, names(&["pg-b", "pg-c"]));
    assert!(lease.holders.is_empty(), "nobody promises before it serves");
    log.done(log.known(&["pg-a", "pg-c"]));
    assert_eq!(log.group().unended, None);
    assert_eq!(log.group().lease().unwrap().holders, names(&["pg-a", "pg-c"]));
}

#[test]
fn a_receipt_leaves_nothing_to_wait_for() {
    let mut log = Log::holding();
    let run = log.taking_over();
    log.done(log.promotion(run, "pg-b", log.receipt()));
    assert_eq!(log.group().lease().unwrap().waits, None);
}

#[test]
fn who_has_no_part_in_the_promises_is_promoted_by_a_receipt_alone() {
    let mut log = Log::holding();
    log.respecified(fourth);
    let run = log.taking_over();
    let why = log.refused(log.promotion(run, "pg-d", log.expired()));
    assert!(why.contains("promises that pg-d has no part in"), "{why}");
    log.done(log.promotion(run, "pg-d", log.receipt()));
}

/// `pg-a` may hold by `pg-b` and `pg-c` while the log has made `pg-c` the primary, which never opened, and then `pg-d`.
#[test]
fn what_a_lost_candidate_never_ended_is_not_over_for_the_next_one() {
    let mut log = Log::holding();
    log.respecified(fourth);
    let run = log.taking_over();
    log.done(log.promotion(run, "pg-c", log.expired()));
    log.signal(run, Signal::StepFailed);
    log.signal(run, Signal::PledgedByMajority);
    let why = log.refused(log.promotion(run, "pg-d", log.expired()));
    assert!(why.contains("pg-a may go on serving under epoch 1 lease 1"), "{why}");
    assert!(log.refused(log.promotion(run, "pg-d", log.receipt())).contains("pg-a may go on"));
    log.done(log.promotion(run, "pg-b", log.expired()));
    assert_eq!(log.group().lease().unwrap().waits.as_ref().unwrap().term, term(1, 1));
}

#[test]
fn another_life_of_the_primary_s_guard_waits_too_and_the_same_life_does_not() {
    let mut log = Log::holding();
    log.done(log.grant("pg-a", None));
    let same = log.group().lease().unwrap().waits.clone().unwrap();
    assert_eq!((same.guard, same.term), (guard("pg-a"), term(1, 1)));
    log.done(log.known(&["pg-b", "pg-c"]));
    let expired = log.expired();
    log.done(log.grant("after the reboot", Some(expired)));
    let other = log.group().lease().unwrap().clone();
    assert_eq!(other.guard, guard("after the reboot"));
    assert_eq!(other.waits.unwrap().guard, guard("pg-a"));
}

#[test]
fn without_the_policy_nothing_of_it_is_in_the_log() {
    let mut log = Log::founded();
    log.respecified(|spec| spec.majority_lost = MajorityLost::Fence);
    let run = log.taking_over();
    log.done(log.promotion(run, "pg-b", log.expired()));
    let text = serde_json::to_string(&log.state).unwrap();
    assert!(
        !text.contains("holders\":[\"") && !text.contains("unended") && !text.contains("waits"),
        "{text}"
    );
}

#[test]
fn guards_learn_of_it_in_their_view() {
    let log = Log::holding();
    let view = log.state.group_view(&"g".parse().unwrap(), &"pg-b".parse().unwrap(), 9).unwrap();
    let hold = view.hold.unwrap();
    assert!(hold.on && hold.current == Some(term(1, 1)) && hold.guards.len() == 3);
    let mut log = Log::founded();
    log.respecified(|spec| spec.majority_lost = MajorityLost::Fence);
    let view = log.state.group_view(&"g".parse().unwrap(), &"pg-b".parse().unwrap(), 9).unwrap();
    assert_eq!(view.hold, None);
}
