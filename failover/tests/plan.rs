//! Who may be promoted, by what is known of a primary that cannot be asked any more.

// A test file: a failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use mesh_failover::Moment;
use mesh_failover::plan::candidates::primary_position;
use mesh_failover::plan::{Waived, assess};
use mesh_failover::state::{Group, MeshState};
use mesh_failover::verdict::observations::Observations;
use mesh_proto::command::{Applied, Command, Entry, MemberRecord};
use mesh_proto::evidence::{GuardStatus, Position, ProcessState, WriteProbe};
use mesh_proto::run::Actor;
use mesh_proto::spec::{Durability, GroupSpec, InstanceSpec, Profile};
use mesh_proto::{DataIncarnation, Epoch, GuardIncarnation, Lsn, NodeId, Wall};

const MAX_LAG: u64 = 1_000;

fn instance(name: &str, port: u16) -> InstanceSpec {
    InstanceSpec {
        name: name.parse().unwrap(),
        site: "east".parse().unwrap(),
        agent: "a".parse().unwrap(),
        address: ([127, 0, 0, 1], port).into(),
        guard: ([127, 0, 0, 1], port + 1_000).into(),
        priority: 100,
    }
}

fn founded() -> MeshState {
    let spec = GroupSpec {
        group: "g".parse().unwrap(),
        profile: Profile::Lan,
        timing: None,
        durability: Durability::Bounded,
        quorum_size: 1,
        quorum_drop_after_seconds: 30,
        max_lag_bytes: MAX_LAG,
        automatic: true,
        hold_down_seconds: 600,
        observers: Vec::new(),
        site_preference: Vec::new(),
        database: "postgres".to_owned(),
        instances: vec![instance("old", 5432), instance("new", 5433)],
        routes: Vec::new(),
        services: Vec::new(),
        hooks: Vec::new(),
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
        floored: None,
        paused: None,
        gate: Epoch(1),
        process,
        commit_gated: false,
        write_probe: WriteProbe::NotApplicable,
        position: have.map(|have| Position { timeline: 1, have: Lsn(have), replayed: Lsn(have) }),
        receiving: None,
        quorum: None,
        frozen: None,
        receipt: None,
        busy: None,
        trouble: None,
        downgraded: Vec::new(),
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
