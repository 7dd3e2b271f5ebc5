//! What a disk under the primary means to the verdict: hung together with its writes is lost; full, slow or hung alone is not,
//! and neither is a busy database.

// A test file: a failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use mesh_failover::Moment;
use mesh_failover::state::MeshState;
use mesh_failover::verdict::judge;
use mesh_failover::verdict::observations::Observations;
use mesh_proto::command::{Applied, Command, Entry, MemberRecord, Verdict};
use mesh_proto::evidence::{
    DiskHolds, DiskRoom, DiskStanding, DiskSync, GuardStatus, HeldLease, ProcessState, Receiving, Report,
    Seen, Sighting, WriteProbe,
};
use mesh_proto::run::Actor;
use mesh_proto::spec::GroupSpec;
use mesh_proto::{DataIncarnation, Epoch, GuardIncarnation, LeaseNo, Millis, NodeId, Wall};

const SPEC: &str = r#"{"group": "g", "instance": [
    {"name": "old", "site": "east", "agent": "a", "address": "10.0.0.1:5432", "guard": "10.0.0.1:7401"},
    {"name": "new", "site": "dr", "agent": "b", "address": "10.0.0.2:5432", "guard": "10.0.0.2:7401"}]}"#;

/// A founded group of two sites; every observer gets an answer from the primary, as one does that only reads.
fn founded() -> MeshState {
    let spec: GroupSpec = serde_json::from_str(SPEC).unwrap();
    let member = |id: u64, agent: &str, site: &str| MemberRecord {
        id: NodeId(id),
        agent: agent.parse().unwrap(),
        site: site.parse().unwrap(),
        address: format!("10.0.0.{id}:7400"),
        voter: true,
    };
    let members = vec![member(1, "a", "east"), member(2, "b", "dr"), member(3, "c", "witness")];
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

fn status(name: &str, state: &MeshState) -> GuardStatus {
    let lease = state.groups.values().next().unwrap().lease().unwrap().term;
    let primary = name == "old";
    GuardStatus {
        group: "g".parse().unwrap(),
        instance: name.parse().unwrap(),
        guard: GuardIncarnation(format!("g-{name}")),
        seq: 1,
        data: Some(DataIncarnation(format!("d-{name}"))),
        system_id: Some(7),
        public_key: String::new(),
        lease: primary.then_some(HeldLease { term: lease, remaining: Millis(2_000) }),
        granted: Vec::new(),
        floored: None,
        paused: None,
        gate: Epoch(1),
        process: if primary { ProcessState::Primary } else { ProcessState::Standby },
        commit_gated: false,
        clients_wait: false,
        write_probe: WriteProbe::NotApplicable,
        disks: Vec::new(),
        position: None,
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

/// The verdict on a primary with this disk and this write probe; `change` has the last word.
fn judged(
    holds: DiskHolds,
    sync: DiskSync,
    bytes: u64,
    write_probe: WriteProbe,
    change: impl Fn(&mut GuardStatus, &mut GuardStatus),
) -> (Verdict, String, Vec<String>) {
    let state = founded();
    let group = state.groups.values().next().unwrap();
    assert_eq!(group.lease().unwrap().term.lease_no, LeaseNo(1));
    let room = Some(DiskRoom { bytes, size: 1 << 40, files: None, age: Millis(10) });
    let (mut old, mut new) = (status("old", &state), status("new", &state));
    old.disks = vec![DiskStanding { at: "/srv/pg".to_owned(), holds, sync, room }];
    old.write_probe = write_probe;
    change(&mut old, &mut new);
    let mut heard = Observations::default();
    let now = Moment(100_000);
    heard.heard_guard(now, old);
    heard.heard_guard(now, new);
    for agent in ["a", "b", "c"] {
        let sighting = Sighting {
            group: "g".parse().unwrap(),
            instance: "old".parse().unwrap(),
            seen: Seen::Writable { epoch: Some(Epoch(1)) },
            age: Millis(10),
            lost_for: None,
        };
        let report = Report {
            agent: agent.parse().unwrap(),
            boot: 1,
            generation: 1,
            sightings: vec![sighting],
            reaches: vec!["a".parse().unwrap()],
            starved: None,
            routes: Vec::new(),
            electorate: 1,
            edition: 0,
        };
        heard.heard_report(now, report);
    }
    let judgement = judge(now, &state, group, &heard, false);
    assert_eq!(judgement.loss.is_some(), judgement.verdict == Verdict::Down, "{judgement:?}");
    (judgement.verdict, judgement.summary, judgement.evidence)
}

fn plain(sync: DiskSync, bytes: u64, probe: WriteProbe) -> Verdict {
    judged(DiskHolds::All, sync, bytes, probe, |_, _| {}).0
}

const ROOM: u64 = 1 << 40;
const SOUND: DiskSync = DiskSync::Ok { took: Millis(2), age: Millis(300) };
const HUNG: DiskSync = DiskSync::Waiting { waiting: Millis(6_000) };
const WROTE: WriteProbe = WriteProbe::Ok { age: Millis(50) };
const LATE: WriteProbe = WriteProbe::Late { waiting: Millis(6_000) };

#[test]
fn a_disk_that_hangs_under_failing_writes_is_a_server_that_hangs() {
    let (verdict, summary, evidence) = judged(DiskHolds::All, HUNG, ROOM, LATE, |_, _| {});
    assert_eq!(verdict, Verdict::Down, "{summary}");
    assert!(summary.contains("its disk has not returned an fsync for 6.00 s"), "{summary}");
    assert!(
        evidence.iter().any(|line| line.starts_with("disk of old's data and log: hangs")),
        "{evidence:?}"
    );
    // Writes that fail with an error of the disk are no better.
    assert_eq!(
        plain(HUNG, ROOM, WriteProbe::Failed { code: *b"58030", since: Millis(6_000) }),
        Verdict::Down
    );
    let log = judged(DiskHolds::Log, HUNG, ROOM, LATE, |_, _| {});
    assert_eq!(log.0, Verdict::Down);
}

#[test]
fn a_disk_that_hangs_alone_is_not_a_lost_server() {
    assert_eq!(plain(HUNG, ROOM, WROTE), Verdict::Healthy);
    assert_eq!(plain(HUNG, ROOM, WriteProbe::WaitingForStandbys), Verdict::Healthy);
    // A write that is only a little late, and one that mesh itself holds up.
    assert_eq!(plain(HUNG, ROOM, WriteProbe::Late { waiting: Millis(300) }), Verdict::Healthy);
    let gated = judged(DiskHolds::All, HUNG, ROOM, LATE, |old, _| old.commit_gated = true);
    assert_eq!(gated.0, Verdict::Healthy);
    // Nor is the disk of the data alone: commits need the log's.
    let data = judged(DiskHolds::Data, HUNG, ROOM, LATE, |_, _| {});
    assert_eq!(data.0, Verdict::Suspect);
}

#[test]
fn a_standby_that_advances_vouches_against_a_disk() {
    let streams = |_: &mut GuardStatus, new: &mut GuardStatus| {
        let from = Some("10.0.0.1:5432".to_owned());
        new.receiving = Some(Receiving { streaming: true, from, advanced: Millis(10), name: None });
    };
    assert_eq!(judged(DiskHolds::All, HUNG, ROOM, LATE, streams).0, Verdict::Suspect);
}

#[test]
fn a_full_disk_and_a_slow_one_are_said_and_never_fail_over() {
    let no_room = DiskSync::NoRoom { age: Millis(300) };
    let refused = WriteProbe::Failed { code: *b"53100", since: Millis(60_000) };
    for (sync, bytes) in [(no_room, 0), (SOUND, 0), (DiskSync::Failed { errno: 28, age: Millis(1) }, 0)] {
        for probe in [WROTE, LATE, refused] {
            let (verdict, summary, evidence) = judged(DiskHolds::All, sync, bytes, probe, |_, _| {});
            assert_ne!(verdict, Verdict::Down, "{sync:?} {probe:?} {summary}");
            assert!(evidence.iter().any(|line| line.starts_with("disk of old's")), "{evidence:?}");
        }
    }
    for sync in
        [DiskSync::Ok { took: Millis(4_000), age: Millis(300) }, DiskSync::Waiting { waiting: Millis(4_900) }]
    {
        for probe in [WROTE, LATE] {
            assert_ne!(plain(sync, ROOM, probe), Verdict::Down, "{sync:?} {probe:?}");
        }
    }
}

#[test]
fn a_busy_database_is_never_lost_for_its_disk() {
    // A long checkpoint: fsyncs and writes take seconds, and end.
    let checkpoint = DiskSync::Waiting { waiting: Millis(4_000) };
    assert_ne!(plain(checkpoint, ROOM, WriteProbe::Late { waiting: Millis(4_000) }), Verdict::Down);
    // The connection limit: the guard's probe gets no session.
    let busy = WriteProbe::Failed { code: *b"53300", since: Millis(60_000) };
    assert_eq!(plain(SOUND, ROOM, busy), Verdict::Healthy);
    assert_eq!(plain(HUNG, ROOM, busy), Verdict::Healthy);
}

#[test]
fn a_build_that_does_not_look_is_judged_as_before() {
    let blind = |old: &mut GuardStatus, _: &mut GuardStatus| old.disks.clear();
    assert_eq!(judged(DiskHolds::All, SOUND, ROOM, WROTE, blind).0, Verdict::Healthy);
    assert_eq!(judged(DiskHolds::All, SOUND, ROOM, LATE, blind).0, Verdict::Suspect);
    let json = serde_json::to_string(&status("new", &founded())).unwrap();
    assert!(!json.contains("disks"), "{json}");
    let read: GuardStatus = serde_json::from_str(&json).unwrap();
    assert!(read.disks.is_empty());
}
