//! Who may be promoted, by what is known of a primary that cannot be asked any more; and what an operator may waive.

// A test file: a failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use mesh_failover::Moment;
use mesh_failover::plan::candidates::primary_position;
use mesh_failover::plan::{Candidate, Waived, Wish, assess, best, make};
use mesh_failover::state::{Group, MeshState};
use mesh_failover::verdict::observations::Observations;
use mesh_proto::command::{Applied, Command, Entry, MemberRecord};
use mesh_proto::evidence::{GuardStatus, Position, ProcessState, WriteProbe};
use mesh_proto::lease::{Expiry, FenceCause, LeaseKey, LeaseTerm, Proof, Receipt, ReceiptLevel};
use mesh_proto::run::{Actor, Phase, RunKind, Signal, StuckCause};
use mesh_proto::spec::{Degrade, Durability, GroupSpec, InstanceSpec, Profile};
use mesh_proto::{DataIncarnation, Epoch, GuardIncarnation, Lsn, Millis, NodeId, RunId, Wall};

const MAX_LAG: u64 = 1_000;

fn instance(name: &str, port: u16) -> InstanceSpec {
    InstanceSpec {
        name: name.parse().unwrap(),
        site: "east".parse().unwrap(),
        agent: "a".parse().unwrap(),
        address: ([127, 0, 0, 1], port).into(),
        guard: ([127, 0, 0, 1], port + 1_000).into(),
        priority: 100,
        engine: None,
    }
}

fn founded() -> MeshState {
    let spec = GroupSpec {
        group: "g".parse().unwrap(),
        engine: mesh_proto::spec::Engine::Postgres,
        profile: Profile::Lan,
        timing: None,
        durability: Durability::Bounded,
        quorum_size: 1,
        quorum_drop_after_seconds: 30,
        degrade: Degrade::ByHand,
        degrade_after_seconds: 60,
        max_lag_bytes: MAX_LAG,
        automatic: true,
        open: mesh_proto::spec::Open::AfterLease,
        crash_policy: mesh_proto::spec::CrashPolicy::Auto,
        crash_restart_seconds: 10,
        hold_down_seconds: 600,
        observers: Vec::new(),
        site_preference: Vec::new(),
        database: "postgres".to_owned(),
        two_person: Vec::new(),
        majority_lost: mesh_proto::spec::MajorityLost::Fence,
        instances: vec![instance("old", 5432), instance("new", 5433)],
        routes: Vec::new(),
        services: Vec::new(),
        hooks: Vec::new(),
        fencers: Vec::new(),
    };
    let members = vec![MemberRecord {
        id: NodeId(1),
        agent: "a".parse().unwrap(),
        site: "east".parse().unwrap(),
        address: "127.0.0.1:1".to_owned(),
        voter: true,
    }];
    let mut state = MeshState::default();
    let commands = [
        Command::MeshFormed { mesh: "m".parse().unwrap(), members },
        Command::SpecApplied { replaces: 0, spec },
        Command::Founded {
            group: "g".parse().unwrap(),
            instance: "old".parse().unwrap(),
            data: DataIncarnation("d-old".to_owned()),
            guard: GuardIncarnation("g-old".to_owned()),
            system_id: 7,
            reason: None,
        },
    ];
    for (index, command) in (1..).zip(commands) {
        let actor = Actor::Operator("ann".to_owned());
        let entry = Entry { by: "a".parse().unwrap(), actor, at: Wall(0), commands: vec![command] };
        assert!(matches!(state.apply(index, &entry).unwrap(), Applied::Done { .. }));
    }
    state
}

fn status(name: &str, seq: u64, process: ProcessState, have: Option<u64>) -> GuardStatus {
    GuardStatus {
        group: "g".parse().unwrap(),
        instance: name.parse().unwrap(),
        guard: GuardIncarnation(format!("g-{name}")),
        seq,
        data: Some(DataIncarnation(format!("d-{name}"))),
        system_id: Some(7),
        public_key: String::new(),
        lease: None,
        granted: Vec::new(),
        floored: None,
        paused: None,
        gate: Epoch(1),
        process,
        commit_gated: false,
        clients_wait: false,
        write_probe: WriteProbe::NotApplicable,
        disks: Vec::new(),
        position: have.map(|have| Position { timeline: 1, have: Lsn(have), replayed: Lsn(have) }),
        receiving: None,
        quorum: None,
        frozen: None,
        receipt: None,
        busy: None,
        trouble: None,
        downgraded: Vec::new(),
        engine: mesh_proto::spec::Engine::Postgres,
        rival: None,
        line: None,
        hold: None,
    }
}

fn rejection(group: &Group, heard: &Observations, accept_lag: bool) -> Option<String> {
    assess(Moment(200), group, heard, Waived { lag: accept_lag, loss: false })[0].rejected.clone()
}

/// A guard whose primary is dead says no position. Found by the simulator: a standby that had been away was promoted past
/// the lag limit, because only where the epoch had begun was known.
#[test]
fn what_a_dead_primary_had_bounds_the_loss() {
    let state = founded();
    let group = state.groups.values().next().unwrap();
    let mut heard = Observations::default();
    heard.heard_guard(Moment(100), status("new", 1, ProcessState::Standby, Some(50_000)));
    heard.heard_guard(Moment(100), status("old", 1, ProcessState::Primary, Some(50_000 + MAX_LAG)));
    assert_eq!(rejection(group, &heard, false), None);

    heard.heard_guard(Moment(110), status("old", 2, ProcessState::Primary, Some(50_001 + MAX_LAG)));
    heard.heard_guard(Moment(150), status("old", 3, ProcessState::Died, None));
    assert_eq!(primary_position(group, &heard).unwrap().have, Lsn(50_001 + MAX_LAG));
    assert!(rejection(group, &heard, false).unwrap().contains("max_lag_bytes"));
    assert_eq!(rejection(group, &heard, true), None, "a person may accept the loss");
}

/// A former primary that was opened again has a higher timeline than the primary that took its place, or the same number for
/// another history. Found by the simulator: it was promoted as the furthest, and everything acknowledged since was gone.
#[test]
fn a_standby_of_a_history_that_was_left_is_no_candidate() {
    let mut state = founded();
    let group = state.groups.values_mut().next().unwrap();
    group.epoch = Epoch(4);
    group.branches = [(Epoch(2), Lsn(900)), (Epoch(3), Lsn(2_000)), (Epoch(4), Lsn(1_500))].into();
    let group = &*group;
    let left = |line: u64, end: u64| group.astray(Some(Epoch(line)), Lsn(end));
    assert_eq!(left(4, 9_000), None, "of today's epoch, however far");
    assert_eq!(left(3, 1_500), None, "it stopped where epoch 4 began");
    assert!(left(3, 1_501).unwrap().contains("1 bytes of epoch 3 that are no part of epoch 4"));
    assert!(left(2, 1_800).unwrap().contains("no part of epoch 4"), "epoch 3 was longer and never opened");
    assert!(left(1, 1_000).unwrap().contains("no part of epoch 2"));
    assert_eq!(group.astray(None, Lsn(9_000)), None, "what nobody knows is judged by the timeline");

    let mut heard = Observations::default();
    let stray = GuardStatus { line: Some(Epoch(3)), ..status("new", 1, ProcessState::Standby, Some(50_000)) };
    heard.heard_guard(Moment(100), stray);
    assert!(
        rejection(group, &heard, true).unwrap().contains("its history was left"),
        "force does not waive it"
    );
    let joined =
        GuardStatus { line: Some(Epoch(4)), ..status("new", 2, ProcessState::Standby, Some(50_000)) };
    heard.heard_guard(Moment(110), joined);
    assert_eq!(rejection(group, &heard, false), None);

    let frozen = |line, timeline, have| Candidate {
        instance: "new".parse().unwrap(),
        position: Position { timeline, have: Lsn(have), replayed: Lsn(have) },
        data: DataIncarnation("d-new".to_owned()),
        guard: GuardIncarnation("g-new".to_owned()),
        system_id: 7,
        line: Some(Epoch(line)),
    };
    let stray = [frozen(3, 9, 50_000)];
    let (chosen, rejected) = best(group, &stray, None, None, true);
    assert!(chosen.is_none() && rejected[0].1.contains("its history was left"), "{rejected:?}");
    assert!(best(group, &[frozen(4, 3, 50_000)], None, None, true).0.is_some());
}

/// A host that was copied with its identity speaks in turns with the original; a guard that restarts never goes back.
#[test]
fn an_instance_that_is_there_twice_lets_nothing_happen_by_itself() {
    let group = "g".parse().unwrap();
    let of_life = |life: &str, seq: u64| GuardStatus {
        guard: GuardIncarnation(life.to_owned()),
        ..status("old", seq, ProcessState::Primary, Some(50_000))
    };
    let mut heard = Observations::default();
    for (at, life) in (0..).step_by(200).zip(["a", "a", "b", "b", "a", "b", "c", "d", "c", "d"]) {
        // Restarts, and the last word of a life that is over, late, twice.
        heard.heard_guard(Moment(at), of_life(life, at + 1));
        assert_eq!(heard.rival(Moment(at), &group), None, "{life} at {at}");
    }
    heard.heard_guard(Moment(3_000), of_life("c", 3_000));
    let said = heard.rival(Moment(3_000), &group).unwrap();
    assert!(said.contains("two guards say that they are old"), "{said}");
    assert!(heard.rival(Moment(12_000), &group).is_some());
    assert_eq!(heard.rival(Moment(14_000), &group), None, "the copy has been silent for long");
}

fn apply(state: &mut MeshState, index: u64, commands: Vec<Command>) -> Applied {
    let actor = Actor::Operator("ann".to_owned());
    state.apply(index, &Entry { by: "a".parse().unwrap(), actor, at: Wall(0), commands }).unwrap()
}

const RUN: RunId = RunId(10);

/// A founded group whose failover was just begun.
fn opened() -> MeshState {
    let mut state = founded();
    let group = state.groups.values().next().unwrap();
    let mut heard = Observations::default();
    heard.heard_guard(Moment(100), status("new", 1, ProcessState::Standby, Some(50_000)));
    let wish = Wish {
        kind: RunKind::Failover,
        site: Some("east".parse().unwrap()),
        instance: None,
        actor: Actor::Mesh,
        reason: "lost".to_owned(),
        accept_lag: false,
        accept_loss: false,
        lost_for: None,
    };
    let plan = make(Moment(200), group, &heard, &wish).unwrap();
    assert!(matches!(apply(&mut state, RUN.0, vec![Command::RunOpened { plan }]), Applied::Done { .. }));
    state
}

fn signalled(signal: Signal, cause: Option<StuckCause>) -> Command {
    Command::Signalled { group: "g".parse().unwrap(), run: RUN, signal, detail: String::new(), cause }
}

/// What `mesh failover --force` commits while a run is stuck for want of a candidate.
#[test]
fn a_stuck_run_goes_on_without_its_limits_and_no_other_run_does() {
    let mut state = opened();
    let overridden = |site: Option<&str>| Command::RunOverridden {
        group: "g".parse().unwrap(),
        run: RUN,
        site: site.map(|site| site.parse().unwrap()),
        accept_loss: false,
        reason: "it costs more".to_owned(),
    };
    assert!(matches!(apply(&mut state, 11, vec![overridden(None)]), Applied::Refused(_)), "it is not stuck");
    let lost = vec![
        signalled(Signal::PledgedByMajority, None),
        signalled(Signal::NoCandidate, Some(StuckCause::NoCandidate)),
    ];
    assert!(matches!(apply(&mut state, 12, lost), Applied::Done { .. }));
    assert!(
        matches!(apply(&mut state, 13, vec![overridden(Some("west"))]), Applied::Refused(_)),
        "nobody is there"
    );
    let again = vec![overridden(None), signalled(Signal::Retry, None)];
    assert!(matches!(apply(&mut state, 14, again), Applied::Done { .. }));
    let gone_on = state.groups.values().next().unwrap().run.as_ref().unwrap();
    assert_eq!((gone_on.phase, gone_on.plan.accept_lag, &gone_on.plan.site), (Phase::Pledging, true, &None));
    assert!(state.groups.values().next().unwrap().takeover.is_some(), "the pledges are not waived");
}

/// Promise 2, in the entry itself: whoever proposes it, and whatever their collector believed.
#[test]
fn a_promotion_needs_a_proof_of_the_very_lease_that_ends() {
    let mut state = opened();
    assert!(matches!(
        apply(&mut state, 11, vec![signalled(Signal::PledgedByMajority, None)]),
        Applied::Done { .. }
    ));
    let group = state.groups.values().next().unwrap().clone();
    let lease = group.lease().unwrap().clone();
    let receipt = Receipt {
        key: LeaseKey { group: "g".parse().unwrap(), instance: "old".parse().unwrap() },
        term: lease.term,
        guard: lease.guard.clone(),
        data: lease.data.clone(),
        level: ReceiptLevel::NoAck,
        shutdown_at: None,
        cause: FenceCause::Died,
        signature: String::new(),
    };
    let expiry = Expiry {
        term: lease.term,
        pledges: vec![(NodeId(1), Millis(2_000))],
        waited: Millis(2_000).plus(group.largest_fence),
        electorate: state.electorate.version,
    };
    let other = LeaseTerm { lease_no: lease.term.lease_no.next(), ..lease.term };
    let refused = [
        Proof::Receipt(Receipt { term: other, ..receipt.clone() }),
        Proof::Receipt(Receipt { guard: GuardIncarnation("cloned".to_owned()), ..receipt.clone() }),
        Proof::Receipt(Receipt { data: DataIncarnation("restored".to_owned()), ..receipt.clone() }),
        Proof::Receipt(Receipt {
            key: LeaseKey { instance: "new".parse().unwrap(), ..receipt.key.clone() },
            ..receipt.clone()
        }),
        Proof::Expired(Expiry { term: other, ..expiry.clone() }),
        Proof::Expired(Expiry { pledges: vec![(NodeId(9), Millis(0))], ..expiry.clone() }),
        Proof::Expired(Expiry { waited: Millis(expiry.waited.0 - 1), ..expiry.clone() }),
        Proof::Expired(Expiry { electorate: expiry.electorate + 1, ..expiry.clone() }),
    ];
    let promotion = |proof| Command::PromotionCommitted {
        group: "g".parse().unwrap(),
        run: RUN,
        ends: lease.term,
        instance: "new".parse().unwrap(),
        data: DataIncarnation("d-new".to_owned()),
        guard: GuardIncarnation("g-new".to_owned()),
        freeze: group.generation,
        position: Position { timeline: 1, have: Lsn(50_000), replayed: Lsn(50_000) },
        proof,
        durability: None,
        standbys: [].into(),
    };
    for (index, proof) in (12..).zip(refused) {
        let words = format!("{proof:?}");
        assert!(matches!(apply(&mut state, index, vec![promotion(proof)]), Applied::Refused(_)), "{words}");
    }
    for proof in [Proof::Receipt(receipt), Proof::Expired(expiry)] {
        let applied = apply(&mut state.clone(), 30, vec![promotion(proof)]);
        assert!(matches!(applied, Applied::Done { .. }), "{applied:?}");
    }
}

/// Found by the simulator: proposed by a leader that was then deposed, and applied after the next one had begun a run, a lease
/// granted anew ended the takeover and left its run without a way on.
#[test]
fn a_lease_that_is_granted_late_does_not_end_a_takeover() {
    let mut state = opened();
    let lease = state.groups.values().next().unwrap().lease().unwrap().clone();
    let granted = || Command::LeaseGranted {
        group: "g".parse().unwrap(),
        instance: "old".parse().unwrap(),
        replaces: lease.term,
        data: lease.data.clone(),
        guard: lease.guard.clone(),
        proof: None,
        reason: "late".to_owned(),
    };
    match apply(&mut state, 11, vec![granted()]) {
        Applied::Refused(why) => assert!(why.to_string().contains("ends the lease of old"), "{why}"),
        Applied::Done { .. } => panic!("the takeover has lost its lease"),
    }
    // Given up, it is the way out.
    let group = || state.groups.values().next().unwrap();
    assert!(group().takeover.is_some());
    let given_up = signalled(Signal::PrimaryReturned, None);
    assert!(matches!(apply(&mut state, 12, vec![given_up]), Applied::Done { .. }));
    assert!(matches!(apply(&mut state, 13, vec![granted()]), Applied::Done { .. }));
    assert!(state.groups.values().next().unwrap().takeover.is_none());
}
