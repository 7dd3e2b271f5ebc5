//! The voters on leases in the replicated state: how they change, what is refused, and the way back.

// A test file: a failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use mesh_failover::Moment;
use mesh_failover::state::MeshState;
use mesh_failover::verdict::observations::Observations;
use mesh_proto::access::{Denial, Role};
use mesh_proto::command::{Applied, Command, Entry, MemberRecord};
use mesh_proto::evidence::Report;
use mesh_proto::run::Actor;
use mesh_proto::{AgentName, GuardIncarnation, Millis, NodeId, Wall};

const SPEC: &str = r#"{"group":"g","instance":[
    {"name":"pg-a","site":"s","agent":"a1","address":"10.0.0.1:5432","guard":"10.0.0.1:7401"},
    {"name":"pg-b","site":"s","agent":"a2","address":"10.0.0.2:5432","guard":"10.0.0.2:7401"}]}"#;

struct Log {
    state: MeshState,
    index: u64,
}

fn member(id: u64, voter: bool) -> MemberRecord {
    MemberRecord {
        id: NodeId(id),
        agent: format!("a{id}").parse().unwrap(),
        site: "s".parse().unwrap(),
        address: format!("10.0.0.{id}:7400"),
        voter,
    }
}

fn voters(ids: &[u64]) -> std::collections::BTreeSet<NodeId> {
    ids.iter().map(|id| NodeId(*id)).collect()
}

impl Log {
    /// Voters 1, 2, 3 on leases; 4 votes in the log, 5 nowhere.
    fn founded() -> Self {
        let mut log = Self { state: MeshState::default(), index: 0 };
        let members = (1..=3).map(|id| member(id, true)).collect();
        log.done(Command::MeshFormed { mesh: "m".parse().unwrap(), members });
        log.done(Command::MemberAdded { member: member(4, true) });
        log.done(Command::MemberAdded { member: member(5, false) });
        log.done(Command::SpecApplied { replaces: 0, spec: serde_json::from_str(SPEC).unwrap() });
        log.done(Command::Founded {
            group: "g".parse().unwrap(),
            instance: "pg-a".parse().unwrap(),
            data: mesh_proto::DataIncarnation("d".to_owned()),
            guard: GuardIncarnation("g-a".to_owned()),
            system_id: 7,
            reason: None,
        });
        log
    }

    fn take(&mut self, command: Command) -> Applied {
        self.index += 1;
        let actor = Actor::Operator("ann".to_owned());
        let entry = Entry { by: "a1".parse().unwrap(), actor, at: Wall(0), commands: vec![command] };
        let applied = self.state.apply(self.index, &entry).unwrap();
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

    fn change(&mut self, replaces: u64, ids: &[u64]) -> Command {
        Command::ElectorateChanging { replaces, members: voters(ids) }
    }
}

#[test]
fn a_lost_voter_is_replaced_and_leaves() {
    let mut log = Log::founded();
    let gone: AgentName = "a3".parse().unwrap();
    log.refused(Command::MemberRemoved { agent: gone.clone() }, "mesh node voters");
    let change = log.change(1, &[1, 2, 4]);
    log.done(change);
    assert!(log.state.electorate.changes());
    assert_eq!(log.state.electorate.version, 2);
    log.refused(Command::MemberRemoved { agent: gone.clone() }, "mesh node voters");
    let wait = log.state.electorate_wait();
    assert!(wait >= Millis(3_500), "L + F of the default profile: {wait}");
    log.refused(
        Command::ElectorateChanged { replaces: 2, waited: Millis(wait.0 - 1) },
        "does not cover leases",
    );
    log.done(Command::ElectorateChanged { replaces: 2, waited: wait });
    assert_eq!(log.state.electorate, mesh_proto::lease::Electorate::of(3, voters(&[1, 2, 4])));
    log.done(Command::MemberRemoved { agent: gone });
    let back = log.change(3, &[1, 2, 3]);
    log.refused(back, "does not vote in the log");
}

#[test]
fn what_is_no_electorate_is_refused() {
    let mut log = Log::founded();
    for (ids, why) in [
        (&[1, 2, 3][..], "already"),
        (&[1, 2][..], "3, 5 or 7"),
        (&[1, 2, 5][..], "does not vote in the log"),
        (&[1, 2, 9][..], "does not vote in the log"),
    ] {
        let change = log.change(1, ids);
        log.refused(change, why);
    }
    let stale = log.change(7, &[1, 2, 4]);
    log.refused(stale, "version of the electorate");
    log.refused(Command::ElectorateKept { replaces: 1 }, "not being changed");
    log.refused(Command::ElectorateChanged { replaces: 1, waited: Millis(90_000) }, "not being changed");
    let change = log.change(1, &[1, 2, 4]);
    log.done(change);
    let another = log.change(2, &[1, 3, 4]);
    log.refused(another, "being changed");
}

#[test]
fn a_change_that_is_given_up_leaves_the_old_voters() {
    let mut log = Log::founded();
    let change = log.change(1, &[1, 2, 4]);
    log.done(change);
    log.done(Command::ElectorateKept { replaces: 2 });
    assert_eq!(log.state.electorate, mesh_proto::lease::Electorate::of(3, voters(&[1, 2, 3])));
    log.refused(Command::ElectorateChanged { replaces: 3, waited: Millis(90_000) }, "not being changed");
}

fn denial() -> Denial {
    Denial {
        agent: "a2".parse().unwrap(),
        uid: 1001,
        operator: None,
        verb: "apply".to_owned(),
        needed: Role::Admin,
        has: Some(Role::View),
        left_out: 3,
        others: 0,
    }
}

/// An agent that could not apply a command would stop: nobody proposes one that a member is not known to know.
#[test]
fn what_a_member_may_not_know_is_held_back() {
    let mut log = Log::founded();
    let mut heard = Observations::default();
    let report = |id: u64, generation, edition| Report {
        agent: format!("a{id}").parse().unwrap(),
        boot: 1,
        generation,
        sightings: Vec::new(),
        reaches: Vec::new(),
        starved: None,
        routes: Vec::new(),
        electorate: 0,
        edition,
    };
    let older = |heard: &Observations, state: &MeshState, edition| {
        heard.older(state, edition).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    for id in 1..=4 {
        heard.heard_report(Moment(0), report(id, 1, u32::from(id != 2)));
    }
    assert_eq!(older(&heard, &log.state, 1), "a2 a5", "one is older, one was not heard");
    assert_eq!(older(&heard, &log.state, 0), "", "what every build knows waits for nobody");
    heard.heard_report(Moment(1), report(2, 2, 1));
    log.done(Command::MemberRemoved { agent: "a5".parse().unwrap() });
    assert_eq!(older(&heard, &log.state, 1), "");
    assert_eq!(older(&heard, &log.state, 2), "a1 a2 a3 a4");
    // What is in the log already every member knew once: nobody is waited for, whoever is lost.
    log.done(Command::AccessDenied { denial: denial() });
    assert_eq!((log.state.edition, older(&Observations::default(), &log.state, 1).as_str()), (1, ""));
}

#[test]
fn a_denial_is_a_record_and_changes_nothing() {
    let mut log = Log::founded();
    let before = MeshState { edition: 1, ..log.state.without_audit() };
    let denial = denial();
    log.done(Command::AccessDenied { denial: denial.clone() });
    assert_eq!(log.state.without_audit(), before);
    let record = log.state.audit.records.last().unwrap();
    assert_eq!((&record.summary, &record.group, &record.refused), (&denial.to_string(), &None, &None));
    assert_eq!(record.actor, Actor::Operator("ann".to_owned()));
}
