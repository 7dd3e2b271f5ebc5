//! The commit quorum in the replicated state: what each entry adds to the set of configurations that may be in force, what
//! takes one out, and which promotions are refused.

// A test file: a failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use mesh_failover::state::{Group, MeshState};
use mesh_proto::command::{Applied, Command, Entry, MemberRecord, StepIntent};
use mesh_proto::effect::Effect;
use mesh_proto::evidence::Position;
use mesh_proto::lease::{Expiry, Frozen, LeaseTerm, Proof};
use mesh_proto::quorum::{DegradedBy, DurabilityProof, FrozenAt, QuorumMember};
use mesh_proto::run::{Actor, Phase, Plan, RunKind, Signal};
use mesh_proto::spec::{Degrade, GroupSpec, Open};
use mesh_proto::{
    DataIncarnation, Epoch, Generation, GuardIncarnation, LeaseNo, Lsn, Millis, NodeId, RunId, Wall,
};

const SPEC: &str = r#"{"group":"g","durability":"zero-loss","instance":[
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
        log.done(Command::SpecApplied { replaces: 0, spec: serde_json::from_str(SPEC).unwrap() });
        log.done(Command::Founded {
            group: "g".parse().unwrap(),
            instance: "pg-a".parse().unwrap(),
            data: member("pg-a").data,
            guard: GuardIncarnation("g-a".to_owned()),
            system_id: 7,
            reason: None,
        });
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

    /// The versions that may be in force, with their k.
    fn open(&self) -> Vec<(u64, u32)> {
        self.group().quorums.iter().map(|config| (config.version, config.k)).collect()
    }

    /// A failover that has pledged and waits for its promotion.
    fn taking_over(&mut self) -> RunId {
        let plan = Plan {
            kind: RunKind::Failover,
            group: "g".parse().unwrap(),
            parent: self.group().lease().unwrap().term,
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
        self.done(Command::Signalled {
            group: "g".parse().unwrap(),
            run,
            signal: Signal::PledgedByMajority,
            detail: String::new(),
            cause: None,
        });
        run
    }

    fn promotion(&self, run: RunId, to: &str, durability: Option<DurabilityProof>) -> Command {
        let term: LeaseTerm = self.group().lease().unwrap().term;
        Command::PromotionCommitted {
            group: "g".parse().unwrap(),
            run,
            ends: term,
            instance: to.parse().unwrap(),
            data: member(to).data,
            guard: GuardIncarnation(format!("g-{to}")),
            freeze: self.group().generation,
            position: at(10),
            proof: Proof::Expired(Expiry {
                term,
                pledges: vec![(NodeId(1), Millis::ZERO)],
                waited: Millis(60_000),
                electorate: 1,
            }),
            durability,
            standbys: [member("pg-c")].into(),
        }
    }
}

fn member(name: &str) -> QuorumMember {
    QuorumMember { instance: name.parse().unwrap(), data: DataIncarnation(format!("d-{name}")) }
}

fn at(have: u64) -> Position {
    Position { timeline: 1, have: Lsn(have), replayed: Lsn(have) }
}

fn change(replaces: u64, epoch: u64, k: u32, names: &[&str]) -> Command {
    Command::QuorumChanged {
        group: "g".parse().unwrap(),
        replaces,
        epoch: Epoch(epoch),
        k,
        standbys: names.iter().map(|name| member(name)).collect(),
        reason: "so".to_owned(),
    }
}

fn confirm(version: u64) -> Command {
    Command::QuorumConfirmed { group: "g".parse().unwrap(), version }
}

fn frozen(names: &[(&str, u64)]) -> Option<DurabilityProof> {
    let one = |(name, have): &(&str, u64)| FrozenAt { member: member(name), position: at(*have) };
    Some(DurabilityProof::CoveringFreeze(names.iter().map(one).collect()))
}

#[test]
fn a_change_joins_the_set_and_only_its_marker_takes_the_older_out() {
    let mut log = Log::founded();
    assert_eq!(log.open(), [(1, 0)], "a group begins with nobody waited for");
    assert!(log.group().not_yet_zero_loss().unwrap().contains("no standby"));
    log.done(change(1, 1, 1, &["pg-b"]));
    assert_eq!(log.open(), [(1, 0), (2, 1)]);
    assert!(log.refused(confirm(1)).contains("version"), "a marker of an older one confirms nothing");
    log.done(change(2, 1, 1, &["pg-b", "pg-c"]));
    assert_eq!(log.open(), [(1, 0), (2, 1), (3, 1)]);
    // Backed out by the same path: the same said again is one thing, not two.
    log.done(change(3, 1, 1, &["pg-b"]));
    assert_eq!(log.open(), [(1, 0), (3, 1), (4, 1)]);
    log.done(confirm(4));
    assert_eq!(log.open(), [(4, 1)]);
    assert_eq!(log.group().not_yet_zero_loss(), None);
    assert_eq!(log.group().quorum().unwrap().standbys, BTreeSet::from([member("pg-b")]));
}

#[test]
fn changes_are_compared_and_never_unmeetable() {
    let mut log = Log::founded();
    assert!(log.refused(change(7, 1, 1, &["pg-b"])).contains("version"));
    assert!(log.refused(change(1, 2, 1, &["pg-b"])).contains("epoch"));
    assert!(log.refused(change(1, 1, 2, &["pg-b"])).contains("never be met"));
    log.taking_over();
    assert!(log.refused(change(1, 1, 1, &["pg-b"])).contains("a run is going on"));
}

#[test]
fn a_promotion_needs_the_frozen_to_cover_every_quorum_that_may_be_in_force() {
    let mut log = Log::founded();
    log.done(change(1, 1, 1, &["pg-b", "pg-c"]));
    let run = log.taking_over();
    let both = frozen(&[("pg-b", 10), ("pg-c", 9)]);
    let said = log.refused(log.promotion(run, "pg-b", both.clone()));
    assert!(said.contains("wait for no standby"), "{said}");
    log.done(confirm(2));
    for (proof, words) in [
        (None, "only with a proof"),
        (frozen(&[("pg-b", 10)]), "pg-c (d-pg-c)"),
        (frozen(&[("pg-b", 10), ("pg-c", 11)]), "pg-c (d-pg-c)"),
        (Some(DurabilityProof::ShutdownConfirmed { at: Lsn(5) }), "no such shutdown checkpoint"),
        (Some(DurabilityProof::LossAccepted { missing: "x".to_owned() }), "nobody accepted"),
    ] {
        let said = log.refused(log.promotion(run, "pg-b", proof));
        assert!(said.contains(words), "{said}");
    }
    log.done(log.promotion(run, "pg-b", both));
    // The new epoch's quorum beside the old one, which leaves with the new one's marker.
    assert_eq!(log.open(), [(2, 1), (3, 1)]);
    let newest = log.group().quorum().unwrap();
    assert_eq!((newest.epoch, &newest.led_by), (Epoch(2), &member("pg-b")));
    log.done(confirm(3));
    assert_eq!(log.open(), [(3, 1)]);
}

#[test]
fn a_loss_is_accepted_only_by_a_person_with_a_reason() {
    let mut log = Log::founded();
    log.done(change(1, 1, 1, &["pg-b", "pg-c"]));
    log.done(confirm(2));
    let run = log.taking_over();
    log.done(Command::Signalled {
        group: "g".parse().unwrap(),
        run,
        signal: Signal::NoCandidate,
        detail: "nobody".to_owned(),
        cause: Some(mesh_proto::run::StuckCause::NoCandidate),
    });
    let accept = |reason: &str| Command::RunOverridden {
        group: "g".parse().unwrap(),
        run,
        site: None,
        accept_loss: true,
        reason: reason.to_owned(),
    };
    assert!(log.refused(accept(" ")).contains("reason"));
    log.done(accept("it costs more"));
    for signal in [Signal::Retry, Signal::PledgedByMajority] {
        let (detail, cause) = (String::new(), None);
        log.done(Command::Signalled { group: "g".parse().unwrap(), run, signal, detail, cause });
    }
    let missing = "pg-c is not there".to_owned();
    log.done(log.promotion(run, "pg-b", Some(DurabilityProof::LossAccepted { missing })));
    assert_eq!(log.group().lease().unwrap().term, LeaseTerm { epoch: Epoch(2), lease_no: LeaseNo(1) });
}

#[test]
fn a_group_that_asks_for_it_later_begins_with_nobody_waited_for() {
    let mut log = Log::founded();
    let mut spec: GroupSpec = serde_json::from_str(SPEC).unwrap();
    log.done(change(1, 1, 1, &["pg-b"]));
    spec.durability = mesh_proto::spec::Durability::Bounded;
    log.done(Command::SpecApplied { replaces: 1, spec });
    assert_eq!(log.group().not_yet_zero_loss(), None);
    // The primary is led back by the same path.
    log.done(change(2, 1, 0, &[]));
    log.done(confirm(3));
    let run = log.taking_over();
    log.done(log.promotion(run, "pg-b", None));
    assert_eq!(log.open(), [(3, 0), (4, 0)]);
    assert_eq!(log.group().generation, Generation(2));
}

/// The same promotion by a frozen commit quorum, with a pledge of these voters.
fn by_freeze(command: Command, pledges: &[u64]) -> Command {
    let Command::PromotionCommitted {
        group,
        run,
        ends,
        instance,
        data,
        guard,
        freeze,
        position,
        proof: _,
        durability,
        standbys,
    } = command
    else {
        panic!("no promotion")
    };
    let pledges = pledges.iter().map(|id| NodeId(*id)).collect();
    let proof = Proof::Frozen(Frozen { term: ends, pledges, electorate: 1 });
    Command::PromotionCommitted {
        group,
        run,
        ends,
        instance,
        data,
        guard,
        freeze,
        position,
        proof,
        durability,
        standbys,
    }
}

#[test]
fn a_frozen_commit_quorum_promotes_only_where_the_group_opens_on_durability_alone() {
    for open in [Open::AfterLease, Open::DurabilityOnly] {
        let mut log = Log::founded();
        let spec = GroupSpec { open, ..log.group().spec.clone() };
        log.done(Command::SpecApplied { replaces: 1, spec });
        log.done(change(1, 1, 1, &["pg-b", "pg-c"]));
        log.done(confirm(2));
        let run = log.taking_over();
        let both = frozen(&[("pg-b", 10), ("pg-c", 9)]);
        let promotion = log.promotion(run, "pg-b", both);
        match open {
            Open::AfterLease => {
                let said = log.refused(by_freeze(promotion, &[1]));
                assert!(said.contains("opens when the old lease is over"), "{said}");
            }
            Open::DurabilityOnly => {
                let said = log.refused(by_freeze(promotion.clone(), &[]));
                assert!(said.contains("no majority"), "{said}");
                let accepted = Some(DurabilityProof::LossAccepted { missing: "much".to_owned() });
                let said = log.refused(by_freeze(log.promotion(run, "pg-b", accepted), &[1]));
                assert!(said.contains("is cut"), "{said}");
                let half = log.promotion(run, "pg-b", frozen(&[("pg-b", 10)]));
                log.refused(by_freeze(half, &[1]));
                log.done(by_freeze(promotion, &[1]));
                assert_eq!(log.group().epoch, Epoch(2));
            }
        }
    }
}

/// An entry that was proposed in one phase may be applied in the next: what it begins there is sent by nobody. Begun again, the
/// step belongs to the phase and the epoch of now.
#[test]
fn a_step_that_is_begun_again_belongs_to_the_phase_of_now() {
    let mut log = Log::founded();
    log.done(change(1, 1, 1, &["pg-b", "pg-c"]));
    log.done(confirm(2));
    let run = log.taking_over();
    let group = || "g".parse().unwrap();
    let route = Effect::Route { route: "r".parse().unwrap(), instance: "pg-b".parse().unwrap() };
    let begin = |attempt| Command::StepsStarted {
        group: group(),
        run,
        steps: vec![StepIntent { step: 1, attempt, effect: route.clone() }],
    };
    log.done(begin(1));
    log.done(log.promotion(run, "pg-b", frozen(&[("pg-b", 10), ("pg-c", 9)])));
    log.done(Command::Signalled {
        group: group(),
        run,
        signal: Signal::StepsDone,
        detail: String::new(),
        cause: None,
    });
    let step = |log: &Log| log.group().active_run().unwrap().steps[&1].clone();
    assert_eq!((step(&log).phase, step(&log).epoch), (Phase::Fencing, Epoch(1)));
    log.done(begin(2));
    assert_eq!((step(&log).phase, step(&log).epoch, step(&log).attempts), (Phase::Routing, Epoch(2), 2));
}

fn begin(by: DegradedBy, reason: &str) -> Command {
    Command::DegradeBegun { group: "g".parse().unwrap(), by, reason: reason.to_owned() }
}

fn end(by: DegradedBy) -> Command {
    Command::DegradeEnded { group: "g".parse().unwrap(), by, reason: "back".to_owned() }
}

fn with_policy(log: &mut Log, degrade: Degrade) {
    let (mut spec, replaces) = (log.group().spec.clone(), log.group().version);
    spec.degrade = degrade;
    log.done(Command::SpecApplied { replaces, spec });
}

#[test]
fn commits_are_let_go_only_as_the_policy_says() {
    let mut log = Log::founded();
    assert!(log.refused(begin(DegradedBy::Policy, "short")).contains("leaves it to an operator"));
    assert!(log.refused(begin(DegradedBy::Hand, " ")).contains("needs a reason"));
    log.done(begin(DegradedBy::Hand, "dr is flooded"));
    assert_eq!(log.group().not_yet_zero_loss().unwrap(), "commits wait for no standby: dr is flooded");
    assert!(log.refused(begin(DegradedBy::Hand, "again")).contains("already"));
    assert!(
        log.refused(end(DegradedBy::Policy)).contains("Hand"),
        "what a person began the policy does not end"
    );
    log.done(end(DegradedBy::Hand));
    assert!(log.refused(end(DegradedBy::Hand)).contains("already"));
    with_policy(&mut log, Degrade::Never);
    assert!(log.refused(begin(DegradedBy::Hand, "please")).contains("never"));
    with_policy(&mut log, Degrade::After);
    log.done(begin(DegradedBy::Policy, "short"));
    // A person takes it over: from then on it stays.
    log.done(begin(DegradedBy::Hand, "dr is flooded"));
    assert!(log.refused(end(DegradedBy::Policy)).contains("Policy"));
    // What the new spec does not allow is over.
    with_policy(&mut log, Degrade::Never);
    assert_eq!(log.group().degraded, None);
}

/// While commits wait for nobody, a promotion adds no quorum that the new primary would wait by, and no freeze is a proof.
#[test]
fn a_promotion_of_a_degraded_group_needs_the_loss_accepted_and_stays_degraded() {
    let mut log = Log::founded();
    let none = Command::QuorumChanged {
        group: "g".parse().unwrap(),
        replaces: 1,
        epoch: Epoch(1),
        k: 1,
        standbys: [member("pg-b"), member("pg-c")].into(),
        reason: "b and c stream".to_owned(),
    };
    log.done(none);
    log.done(Command::QuorumConfirmed { group: "g".parse().unwrap(), version: 2 });
    log.done(begin(DegradedBy::Hand, "both are away"));
    let free = Command::QuorumChanged {
        group: "g".parse().unwrap(),
        replaces: 2,
        epoch: Epoch(1),
        k: 0,
        standbys: BTreeSet::new(),
        reason: "both are away".to_owned(),
    };
    log.done(free);
    let run = log.taking_over();
    let frozen = ["pg-b", "pg-c"].map(|name| FrozenAt {
        member: member(name),
        position: Position { timeline: 1, have: Lsn(50), replayed: Lsn(50) },
    });
    let freeze = DurabilityProof::CoveringFreeze(frozen.to_vec());
    let said = log.refused(log.promotion(run, "pg-b", Some(freeze)));
    assert!(said.contains("wait for no standby"), "{said}");
    assert!(log.group().degraded.is_some());
}
