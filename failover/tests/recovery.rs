//! A mesh that is begun anew on a survivor: what its state keeps, what it forgets, and what is refused.

// A test file: a failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use mesh_failover::state::{JUMP, MeshState, Recovery, RecoveryError, recovered, verify};
use mesh_proto::command::{Applied, Command, Entry, MemberRecord, Verdict};
use mesh_proto::lease::{Electorate, LeaseKey};
use mesh_proto::run::Actor;
use mesh_proto::{AgentName, DataIncarnation, Epoch, GuardIncarnation, LeaseNo, Millis, NodeId, Wall};

const SPEC: &str = r#"{"group":"g","instance":[
    {"name":"pg-a","site":"s","agent":"a1","address":"10.0.0.1:5432","guard":"10.0.0.1:7401"},
    {"name":"pg-b","site":"s","agent":"a2","address":"10.0.0.2:5432","guard":"10.0.0.2:7401"}]}"#;
const INDEX: u64 = 1_000_009;

struct Log {
    state: MeshState,
    index: u64,
}

fn member(id: u64, agent: u64) -> MemberRecord {
    MemberRecord {
        id: NodeId(id),
        agent: format!("a{agent}").parse().unwrap(),
        site: "s".parse().unwrap(),
        address: format!("10.0.0.{agent}:7400"),
        voter: true,
    }
}

fn entry(command: Command) -> Entry {
    let actor = Actor::Operator("ann".to_owned());
    Entry { by: "a1".parse().unwrap(), actor, at: Wall(7), commands: vec![command] }
}

fn names(names: &[&str]) -> BTreeSet<AgentName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn g() -> mesh_proto::GroupName {
    "g".parse().unwrap()
}

fn recovery(lost: &[&str]) -> Recovery {
    Recovery {
        mesh: "m-r1".parse().unwrap(),
        me: "a2".parse().unwrap(),
        lost: names(lost),
        reason: "both are burnt".to_owned(),
    }
}

fn founded(instance: &str, system_id: u64, reason: Option<&str>) -> Command {
    Command::Founded {
        group: "g".parse().unwrap(),
        instance: instance.parse().unwrap(),
        data: DataIncarnation(format!("d-{instance}")),
        guard: GuardIncarnation(format!("g-{instance}")),
        system_id,
        reason: reason.map(str::to_owned),
    }
}

impl Log {
    fn founded() -> Self {
        let mut log = Self { state: MeshState::default(), index: 0 };
        let members = (1..=3).map(|id| member(id, id)).collect();
        log.done(Command::MeshFormed { mesh: "m".parse().unwrap(), members });
        log.done(Command::SpecApplied { replaces: 0, spec: serde_json::from_str(SPEC).unwrap() });
        log.done(founded("pg-a", 7, None));
        log
    }

    fn take(&mut self, command: Command) -> Applied {
        self.index += 1;
        let applied = self.state.apply(self.index, &entry(command)).unwrap();
        assert_eq!(self.state.check_invariants(), Ok(()));
        applied
    }

    fn done(&mut self, command: Command) {
        let applied = self.take(command);
        assert!(matches!(applied, Applied::Done { .. }), "{applied:?}");
    }

    fn refused(&mut self, command: Command, why: &str) {
        match self.take(command) {
            Applied::Refused(said) => assert!(said.to_string().contains(why), "{said}"),
            Applied::Done { .. } => panic!("not refused"),
        }
    }

    fn recover(&mut self, lost: &[&str]) -> Result<(), RecoveryError> {
        let recovery = recovery(lost);
        let before = self.state.clone();
        let done = self.state.recover(INDEX, &entry(recovered(&recovery)), &recovery);
        assert_eq!(self.state.check_invariants(), Ok(()));
        match done {
            Ok(()) => self.index = INDEX,
            Err(_) => assert_eq!(self.state, before, "what is refused changes nothing"),
        }
        done
    }
}

#[test]
fn the_new_mesh_knows_members_specs_and_history_but_no_primary() {
    let mut log = Log::founded();
    let records = log.state.audit.records.len();
    let (version, generation) = (log.state.electorate.version, log.state.groups[&g()].generation);
    log.recover(&["a1", "a3"]).unwrap();
    let MeshState { mesh, members, retired, electorate, groups, edition, audit } = &log.state;
    assert_eq!(mesh.as_ref().unwrap().as_str(), "m-r1");
    assert_eq!(members.len(), 3);
    assert_eq!(*edition, 1, "its audit has a record that older builds do not know");
    assert!(members.values().all(|m| m.voter == (m.agent.as_str() == "a2")));
    assert_eq!(*retired, BTreeSet::from([NodeId(1), NodeId(3)]));
    assert_eq!(*electorate, Electorate::of(version + JUMP, [NodeId(2)]));
    let group = &groups[&g()];
    assert_eq!((group.epoch, &group.primary), (Epoch(1 + JUMP), &None));
    assert_eq!(group.recovered, Some(LeaseNo(1 + JUMP)));
    assert!(group.generation.0 >= generation.0 + JUMP);
    assert_eq!(group.verdict.verdict, Verdict::Unfounded);
    // The old primary's lease is granted by nobody, and nobody is told that it has one.
    let key = LeaseKey { group: "g".parse().unwrap(), instance: "pg-a".parse().unwrap() };
    assert_eq!(log.state.current_lease(&key), None);
    let view = log.state.group_view(&key.group, &key.instance, INDEX).unwrap();
    assert_eq!((view.primary, view.own_lease), (None, None));
    // The record of it continues the chain.
    assert_eq!(audit.records.len(), records + 1);
    let last = audit.records.last().unwrap();
    assert_eq!(last.summary, "begun anew as mesh m-r1, without a1, a3: both are burnt");
    assert_eq!(last.actor, Actor::Operator("ann".to_owned()));
    verify(audit).unwrap();
}

#[test]
fn a_person_names_the_primary_and_its_numbers_are_beyond_all_others() {
    let mut log = Log::founded();
    log.recover(&["a1", "a3"]).unwrap();
    log.refused(founded("pg-b", 8, Some("it has most")), "system identifier");
    log.done(founded("pg-b", 7, Some("it has most")));
    let group = &log.state.groups[&g()];
    let term = group.lease().unwrap().term;
    assert_eq!((term.epoch, term.lease_no), (Epoch(2 + JUMP), LeaseNo(2 + JUMP)));
    let said = log.state.audit.records.last().unwrap().summary.clone();
    assert_eq!(said, "pg-b is the primary of epoch 1002: it has most");
    log.refused(founded("pg-a", 7, Some("no")), "pg-b");
}

#[test]
fn the_lost_come_back_under_new_numbers_only() {
    let mut log = Log::founded();
    log.recover(&["a1", "a3"]).unwrap();
    log.refused(Command::MemberAdded { member: member(1, 1) }, "was used before");
    log.refused(Command::MemberAdded { member: member(2, 1) }, "belongs to a2");
    log.done(Command::MemberAdded { member: member(4, 1) });
    assert_eq!(log.state.members[&"a1".parse().unwrap()].id, NodeId(4));
    log.done(Command::MemberAdded { member: member(5, 3) });
    let version = log.state.electorate.version;
    let members = BTreeSet::from([NodeId(2), NodeId(4), NodeId(5)]);
    log.done(Command::ElectorateChanging { replaces: version, members });
}

#[test]
fn who_has_no_vote_or_does_not_name_all_recovers_nothing() {
    let mut log = Log::founded();
    for lost in [&[][..], &["a1"][..], &["a1", "a2", "a3"][..], &["a1", "a3", "a9"][..]] {
        assert!(matches!(log.recover(lost), Err(RecoveryError::NotAll { .. })), "{lost:?}");
    }
    let voteless = MemberRecord { voter: false, ..member(4, 4) };
    log.done(Command::MemberAdded { member: voteless });
    let mine = Recovery { me: "a4".parse().unwrap(), ..recovery(&["a1", "a2", "a3"]) };
    let refused = log.state.recover(INDEX, &entry(recovered(&mine)), &mine);
    assert_eq!(refused, Err(RecoveryError::NoVote("a4".parse().unwrap())));
    let mute = Recovery { reason: " ".to_owned(), ..recovery(&["a1", "a3"]) };
    assert_eq!(log.state.recover(INDEX, &entry(recovered(&mute)), &mute), Err(RecoveryError::NoReason));
    log.recover(&["a1", "a3"]).unwrap();
    assert!(matches!(log.recover(&[]), Err(RecoveryError::Recovered(_))));
    let mut empty = MeshState::default();
    let all = recovery(&["a1", "a3"]);
    assert_eq!(empty.recover(1, &entry(recovered(&all)), &all), Err(RecoveryError::NotFormed));
}

#[test]
fn never_through_the_log() {
    let mut log = Log::founded();
    log.refused(recovered(&recovery(&["a1", "a3"])), "never through its log");
    assert_eq!(log.state.mesh.as_ref().unwrap().as_str(), "m");
    assert_eq!(log.state.groups[&g()].epoch, Epoch(1));
}

#[test]
fn it_waits_for_leases_fences_and_a_pause() {
    let mut log = Log::founded();
    let wait = log.state.recovery_wait();
    let group = &log.state.groups[&g()];
    assert!(wait > group.timing.lease.plus(group.largest_fence), "{wait}");
    let length = Millis(600_000);
    let group = "g".parse().unwrap();
    log.done(Command::Paused { group, length, counted_from: None, reason: "work".to_owned() });
    assert!(log.state.recovery_wait() > wait.plus(length));
    log.recover(&["a1", "a3"]).unwrap();
    assert_eq!(log.state.groups[&g()].pause, None);
}

#[test]
fn a_second_recovery_jumps_again() {
    let mut log = Log::founded();
    log.recover(&["a1", "a3"]).unwrap();
    log.done(founded("pg-b", 7, Some("it has most")));
    log.done(Command::MemberAdded { member: member(4, 1) });
    log.done(Command::MemberAdded { member: member(5, 3) });
    let again = Recovery { mesh: "m-r2".parse().unwrap(), ..recovery(&["a1", "a3"]) };
    log.state.recover(2 * INDEX, &entry(recovered(&again)), &again).unwrap();
    let group = &log.state.groups[&g()];
    assert_eq!(group.epoch, Epoch(2 + 2 * JUMP));
    assert_eq!(group.recovered, Some(LeaseNo(2 + 2 * JUMP)));
    assert_eq!(log.state.retired.len(), 4);
    verify(&log.state.audit).unwrap();
}
