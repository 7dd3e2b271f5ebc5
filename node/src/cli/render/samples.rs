//! What people see, pinned by golden files in `golden/`. `MESH_BLESS=1 cargo test -p mesh-node golden` writes them
//! anew; read the difference before committing it.

use std::collections::BTreeMap;
use std::path::Path;

use mesh_proto::audit::AuditRecord;
use mesh_proto::command::{Command, MemberRecord, Verdict, VerdictRecord};
use mesh_proto::effect::{Effect, Finding, Outcome, Refusal};
use mesh_proto::evidence::{
    GuardStatus, HeldLease, Position, ProcessState, Receiving, Seen, Sighting, WriteProbe,
};
use mesh_proto::lease::{Electorate, FenceCause, LeaseKey, LeaseTerm, Proof, Receipt, ReceiptLevel};
use mesh_proto::operator::{
    Agreement, AuditReport, GroupStatus, InstanceStatus, NodeView, PlanView, RouteStatus, RunView,
    StatusView, WhyView,
};
use mesh_proto::quorum::{Degraded, DegradedBy, QuorumView};
use mesh_proto::run::{Actor, Phase, Plan, Promotion, Run, RunKind, Step, StuckCause};
use mesh_proto::spec::{Open, Timing};
use mesh_proto::{
    DataIncarnation, Epoch, Generation, GuardIncarnation, LeaseNo, Lsn, Millis, NodeId, ProposalId, RunId,
    Wall,
};

use super::{Detail, Look, Progress, audit, audit_report, plan, proposal, run_summary, why};

const LOOK: Look = Look { width: 110, color: false };
/// 2025-11-21 08:04:05 UTC.
const NOW: u64 = 1_763_712_245_000;

/// Compares with the golden file, or writes it.
fn golden(name: &str, text: &str) {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/render/golden").join(format!("{name}.txt"));
    if std::env::var_os("MESH_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(wanted == text, "{name} differs; now it is:\n{text}\n--- golden/{name}.txt has:\n{wanted}");
    assert!(!text.contains('\x1b'), "{name} has color");
    assert!(text.lines().all(|line| !line.ends_with(' ')), "{name} has blanks at the end of a line");
}

const TERM: LeaseTerm = LeaseTerm { epoch: Epoch(3), lease_no: LeaseNo(1) };

fn guard(name: &str, process: ProcessState) -> GuardStatus {
    let primary = process == ProcessState::Primary;
    let position = Position { timeline: 3, have: Lsn(0x0500_0060), replayed: Lsn(0x0500_0060) };
    GuardStatus {
        group: "orders".parse().unwrap(),
        instance: name.parse().unwrap(),
        guard: GuardIncarnation("g1".into()),
        seq: 9,
        data: Some(DataIncarnation("d1".into())),
        system_id: Some(7_001),
        public_key: String::new(),
        granted: Vec::new(),
        floored: None,
        paused: None,
        lease: primary.then_some(HeldLease { term: TERM, remaining: Millis(2_190) }),
        gate: Epoch(3),
        process,
        commit_gated: false,
        clients_wait: false,
        write_probe: if primary { WriteProbe::Ok { age: Millis(80) } } else { WriteProbe::NotApplicable },
        disks: Vec::new(),
        position: Some(position),
        receiving: (!primary).then(|| Receiving {
            streaming: true,
            from: Some("10.1.0.10:5432".into()),
            advanced: Millis(30),
            name: None,
        }),
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

fn seen(seen: Seen, lost: Option<u64>) -> Vec<(mesh_proto::AgentName, Sighting)> {
    let by = |agent: &str| {
        let sighting = Sighting {
            group: "orders".parse().unwrap(),
            instance: "pg-east".parse().unwrap(),
            seen,
            age: Millis(100),
            lost_for: lost.map(Millis),
        };
        (agent.parse().unwrap(), sighting)
    };
    vec![by("dr-1"), by("east-1"), by("witness-1")]
}

fn instance(name: &str, site: &str, process: ProcessState) -> InstanceStatus {
    let primary = process == ProcessState::Primary;
    InstanceStatus {
        name: name.parse().unwrap(),
        site: site.parse().unwrap(),
        address: "10.1.0.10:5432".into(),
        lease: None,
        guard: Some((guard(name, process), Millis(60))),
        lag_bytes: (!primary).then_some(0),
        seen: seen(if primary { Seen::Writable { epoch: Some(Epoch(3)) } } else { Seen::ReadOnly }, None),
        repair: None,
    }
}

fn node(id: u64, agent: &str, site: &str, leader: bool) -> NodeView {
    NodeView {
        member: MemberRecord {
            id: NodeId(id),
            agent: agent.parse().unwrap(),
            site: site.parse().unwrap(),
            address: format!("10.{id}.0.10:7400"),
            voter: true,
        },
        elector: true,
        leader,
        reachable: Some(true),
        report_age: Some(Millis(120)),
        edition: None,
    }
}

fn verdict(verdict: Verdict, summary: &str) -> VerdictRecord {
    VerdictRecord { verdict, summary: summary.into(), evidence: Vec::new(), blocked: None }
}

/// A group that is well.
pub fn healthy_status() -> StatusView {
    healthy()
}

fn healthy() -> StatusView {
    StatusView {
        agent: "east-1".parse().unwrap(),
        mesh: Some("shop".parse().unwrap()),
        leader: Some("east-1".parse().unwrap()),
        term: 4,
        edition: 0,
        applied: 812,
        electorate: Electorate::of(1, [NodeId(1), NodeId(2), NodeId(3)]),
        nodes: vec![
            node(1, "east-1", "east", true),
            node(2, "dr-1", "dr", false),
            node(3, "witness-1", "witness", false),
        ],
        groups: vec![GroupStatus {
            engine: mesh_proto::spec::Engine::Postgres,
            group: "orders".parse().unwrap(),
            version: 2,
            epoch: Epoch(3),
            primary: Some("pg-east".parse().unwrap()),
            verdict: verdict(Verdict::Healthy, "pg-east serves in epoch 3"),
            timing: Timing {
                lease: Millis(2_500),
                fence: Millis(1_000),
                probe: Millis(250),
                gate_after: Millis(1_250),
                down_after: Millis(750),
                leave_site_after: Millis(1_000),
                hang_after: Millis(1_250),
                fresh: Millis(1_000),
            },
            automatic: true,
            majority_lost: mesh_proto::spec::MajorityLost::Fence,
            quorum: None,
            blocked: None,
            instances: vec![
                instance("pg-east", "east", ProcessState::Primary),
                instance("pg-dr", "dr", ProcessState::Standby),
            ],
            routes: vec![RouteStatus {
                astray_for: None,
                name: "app".parse().unwrap(),
                listen: "10.0.0.5:5432".into(),
                leads_to: Some("pg-east".parse().unwrap()),
                epoch: Some(Epoch(3)),
                note: None,
            }],
            run: None,
            proposal: None,
            pause: None,
            observers: (3, 3),
        }],
        at: Wall(NOW),
        troubles: Vec::new(),
    }
}

fn receipt() -> Receipt {
    Receipt {
        key: LeaseKey { group: "orders".parse().unwrap(), instance: "pg-east".parse().unwrap() },
        term: TERM,
        guard: GuardIncarnation("g1".into()),
        data: DataIncarnation("d1".into()),
        level: ReceiptLevel::NoAck,
        shutdown_at: None,
        cause: FenceCause::Died,
        signature: String::new(),
    }
}

fn step(effect: Effect, phase: Phase, began: u64, ended: Option<(u64, Outcome)>) -> Step {
    Step {
        effect,
        phase,
        epoch: Epoch(4),
        attempts: 1,
        began: Wall(NOW + began),
        ended: ended.as_ref().map(|(at, _)| Wall(NOW + at)),
        outcome: ended.map(|(_, outcome)| outcome),
    }
}

/// A run as it was at each of its moments, 0 to 4.
fn run(moment: usize) -> Run {
    let name = |text: &str| text.parse().unwrap();
    let position = Position { timeline: 3, have: Lsn(0x0500_0060), replayed: Lsn(0x0500_0060) };
    let frozen = Finding::Frozen {
        position,
        data: DataIncarnation("d2".into()),
        guard: GuardIncarnation("g2".into()),
        system_id: 7_001,
    };
    let freeze = Effect::Freeze { instance: name("pg-dr"), generation: Generation(5) };
    let term = LeaseTerm { epoch: Epoch(4), lease_no: LeaseNo(1) };
    let promote = Effect::Promote { instance: name("pg-dr"), term, data: DataIncarnation("d2".into()) };
    let route = Effect::Route { route: "app".parse().unwrap(), instance: name("pg-dr") };
    let prove = Effect::Prove { route: "app".parse().unwrap(), instance: name("pg-dr") };
    let promoted = Finding::Promoted { timeline: 4, at: Lsn(0x0500_0148) };
    let routed = Finding::Routed { ended: 3, stragglers: 0 };
    let proved = Finding::Proved { took: Millis(6), read: Some(Millis(1)), stragglers: Some(0) };
    let done = |at: u64, found: Finding| Some((at, Outcome::Done(found)));
    let all = [
        (1, step(freeze.clone(), Phase::Fencing, 12, None)),
        (1, step(freeze, Phase::Fencing, 12, done(31, frozen))),
        (2, step(promote.clone(), Phase::Promoting, 44, None)),
        (2, step(promote, Phase::Promoting, 44, done(131, promoted))),
        (3, step(route, Phase::Routing, 133, done(142, routed))),
        (4, step(prove, Phase::Proving, 144, done(151, proved))),
    ];
    let phases = [
        (Phase::Pledging, 0),
        (Phase::Fencing, 12),
        (Phase::Promoting, 43),
        (Phase::Routing, 133),
        (Phase::Proving, 143),
        (Phase::Done, 153),
    ];
    let (steps, entered) = [(0, 1), (1, 2), (3, 3), (4, 4), (6, 6)][moment];
    let promotion = (entered > 2).then(|| Promotion {
        instance: name("pg-dr"),
        data: DataIncarnation("d2".into()),
        guard: GuardIncarnation("g2".into()),
        term,
        position,
        durability: None,
        proof: Proof::Receipt(receipt()),
    });
    Run {
        id: RunId(813),
        plan: Plan {
            kind: RunKind::Failover,
            group: "orders".parse().unwrap(),
            parent: TERM,
            from: name("pg-east"),
            candidates: vec![name("pg-dr")],
            rejected: vec![(name("pg-old"), "priority 0: never promoted".into())],
            site: None,
            actor: Actor::Mesh,
            reason: "pg-east's guard proves that it is fenced (died)".into(),
            accept_lag: false,
            accept_loss: false,
            lost_for: Some(Millis(14)),
            errands: Vec::new(),
        },
        phase: phases[entered - 1].0,
        ending: TERM,
        ending_instance: name("pg-east"),
        steps: all[..steps].iter().cloned().collect::<BTreeMap<_, _>>(),
        promotion,
        stuck: None,
        entered: phases[..entered].iter().map(|(phase, at)| (*phase, Wall(NOW + at))).collect(),
        takeovers: 1,
    }
}

/// A run that is over.
#[must_use]
pub fn finished_run() -> Run {
    run(4)
}

fn status(view: &StatusView, look: &Look) -> String {
    super::status(view, Detail::Brief, look)
}

fn view(run: Run) -> RunView {
    RunView { run, joined: false }
}

#[test]
fn golden_healthy() {
    golden("status-healthy", &status(&healthy(), &LOOK));
}

#[test]
fn golden_lost_and_running() {
    let mut view = healthy();
    let group = &mut view.groups[0];
    group.verdict = verdict(Verdict::Down, "pg-east's guard proves that it is fenced (died)");
    group.run = Some(run(1));
    let east = &mut group.instances[0];
    east.seen = seen(Seen::Refused, Some(340));
    if let Some((guard, _)) = &mut east.guard {
        guard.process = ProcessState::Died;
        guard.lease = None;
        guard.receipt = Some(receipt());
        guard.busy = Some("killing the process tree of the dead postmaster".into());
    }
    if let Some((guard, _)) = &mut group.instances[1].guard {
        guard.frozen = Some(Generation(5));
        guard.receiving = None;
    }
    golden("status-running", &status(&view, &LOOK));
}

#[test]
fn golden_hold_down() {
    let mut view = healthy();
    let group = &mut view.groups[0];
    group.epoch = Epoch(4);
    group.primary = Some("pg-dr".parse().unwrap());
    group.run = Some(run(4));
    group.blocked =
        Some("hold-down of 600 s after r813; `mesh ack` ends it, `mesh failover` ignores it".into());
    group.instances = vec![
        instance("pg-east", "east", ProcessState::Standby),
        instance("pg-dr", "dr", ProcessState::Primary),
    ];
    group.instances[0].lag_bytes = Some(1_234_567);
    group.instances[0].repair = Some("rewinding: 2.0 MB of WAL that only it had were kept aside".into());
    golden("status-wrong-route", &status(&view, &LOOK));
    let route = &mut view.groups[0].routes[0];
    route.leads_to = Some("pg-dr".parse().unwrap());
    route.epoch = Some(Epoch(4));
    golden("status-hold-down", &status(&view, &LOOK));
}

#[test]
fn golden_paused() {
    let mut view = healthy();
    let group = &mut view.groups[0];
    group.blocked = Some("the group is paused (kernel upgrade of east-1); `mesh resume` ends it".into());
    group.pause = Some(("kernel upgrade of east-1".into(), Millis(1_800_000)));
    golden("status-paused", &status(&view, &LOOK));
}

#[test]
fn golden_proposed() {
    use mesh_proto::proposal::{Forced, Proposal, Proposed};
    let forced = Forced {
        site: Some("dr".parse().unwrap()),
        instance: None,
        force: true,
        accept_loss: false,
        reason: "east lost its power, the facility says for hours".into(),
    };
    let what = Proposed {
        forced,
        from: "pg-east".parse().unwrap(),
        epoch: Epoch(3),
        run: None,
        would: vec!["fence pg-east if its guard answers; else wait for its lease to end".into()],
    };
    let open = Proposal { id: ProposalId(840), by: "ada".into(), at: Wall(NOW - 190_000), what };
    golden("proposed", &proposal(&"orders".parse().unwrap(), &open, Some(Wall(NOW)), &LOOK));
    let mut view = healthy();
    view.groups[0].proposal = Some(open);
    golden("status-proposed", &status(&view, &LOOK));
}

#[test]
fn golden_live() {
    use mesh_proto::live::{Holds, LiveGroup, LiveView, Place, PlaceKind};
    let place =
        |kind, name: &str, by: &str, holds| Place { kind, name: name.into(), by: by.parse().unwrap(), holds };
    let epoch =
        |epoch, of: Option<&str>| Holds::Epoch { epoch: Epoch(epoch), of: of.map(|of| of.parse().unwrap()) };
    let mut group = LiveGroup {
        group: "orders".parse().unwrap(),
        epoch: Epoch(4),
        primary: "pg-dr".parse().unwrap(),
        running: false,
        places: vec![
            place(PlaceKind::Guard, "pg-dr", "witness-1", epoch(4, None)),
            place(PlaceKind::Database, "pg-dr", "witness-1", epoch(4, Some("pg-dr"))),
            place(PlaceKind::RouteGate, "app", "witness-1", epoch(4, None)),
            place(PlaceKind::Route, "app", "witness-1", Holds::LeadsThere { stragglers: 2 }),
        ],
    };
    let view = |group: &LiveGroup| LiveView {
        agent: "witness-1".parse().unwrap(),
        at: Wall(NOW),
        groups: vec![group.clone()],
    };
    golden("live-agrees", &super::live(&view(&group), &LOOK));
    let away = Holds::NotSeen("nobody listens at 10.1.0.10:7400".into());
    group.places.push(place(PlaceKind::Guard, "pg-east", "witness-1", epoch(3, None)));
    group.places.push(place(PlaceKind::Database, "pg-east", "witness-1", epoch(4, Some("pg-east"))));
    group.places.push(place(PlaceKind::DnsMarker, "db.example.com.", "dr-1", Holds::Nothing));
    group.places.push(place(PlaceKind::Route, "name", "dr-1", away));
    golden("live-differs", &super::live(&view(&group), &LOOK));
}

#[test]
fn golden_services() {
    use mesh_proto::spec::{Point, Work};
    let step_of = |name: &str, work, ended: Option<(u64, Outcome)>| {
        let effect = Effect::Errand {
            errand: name.parse().unwrap(),
            agent: "dr-1".parse().unwrap(),
            work,
            at: Point::BesideRoutes,
            instance: "pg-dr".parse().unwrap(),
        };
        step(effect, Phase::Routing, 134, ended)
    };
    let refused = |detail: &str| Outcome::Refused { code: Refusal::Failed, detail: detail.into() };
    let ran = Outcome::Done(Finding::Ran { took: Millis(1_207), said: None });
    let skipped = Outcome::Done(Finding::Skipped { reason: "the pager is being moved".into() });
    let mut view = healthy();
    let mut stuck = run(4);
    stuck.steps.insert(5, step_of("api-dr", Work::Start, Some((1_342, ran))));
    stuck.steps.insert(
        6,
        step_of("warm-up", Work::Hook, Some((2_140, refused("hook warm-up failed with exit code 3")))),
    );
    stuck.steps.insert(7, step_of("page", Work::Hook, Some((900, skipped))));
    let mut going = stuck.clone();
    going.steps.insert(8, step_of("worker-dr", Work::Start, None));
    going.phase = Phase::Finishing;
    stuck.phase = Phase::Stuck;
    stuck.entered.pop();
    stuck.entered.extend([(Phase::Finishing, Wall(NOW + 153)), (Phase::Stuck, Wall(NOW + 2_141))]);
    let detail = "run hook warm-up by dr-1: hook warm-up failed with exit code 3";
    stuck.stuck = Some((StuckCause::ErrandFailed, detail.into()));
    let group = &mut view.groups[0];
    group.epoch = Epoch(4);
    group.primary = Some("pg-dr".parse().unwrap());
    group.routes[0].leads_to = Some("pg-dr".parse().unwrap());
    group.routes[0].epoch = Some(Epoch(4));
    group.run = Some(going);
    golden("status-services", &status(&view, &LOOK));
    golden("run-services", &super::run(&self::view(stuck), &LOOK));
}

/// A healthy group, and one whose run is stuck and whose standby's guard is silent.
/// Of a zero-loss group whose standby is away.
pub fn quorum_that_waits() -> QuorumView {
    QuorumView {
        waits_for: "1 of pg-dr".to_owned(),
        not_yet: None,
        stands_still: Some("commits wait for 1 of pg-dr, and none of them streams".to_owned()),
        degraded: None,
        keep_up: Vec::new(),
        size: 1,
        open: Open::AfterLease,
    }
}

#[test]
fn golden_commits_wait_and_are_let_go() {
    let mut view = healthy();
    let away = &mut view.groups[0].instances[1];
    away.guard = None;
    view.groups[0].quorum = Some(quorum_that_waits());
    golden("status-commits-wait", &status(&view, &LOOK));
    let reason = "dr is flooded".to_owned();
    let mut quorum = QuorumView {
        waits_for: "no standby".to_owned(),
        not_yet: Some(format!("commits wait for no standby: {reason}")),
        stands_still: None,
        degraded: Some(Degraded { by: DegradedBy::Hand, reason, since: Wall(NOW) }),
        ..quorum_that_waits()
    };
    view.groups[0].quorum = Some(quorum.clone());
    golden("status-not-zero-loss", &status(&view, &LOOK));
    quorum.keep_up = vec!["pg-dr".parse().unwrap()];
    view.groups[0] = healthy().groups.remove(0);
    view.groups[0].quorum = Some(quorum);
    golden("status-standby-back", &status(&view, &LOOK));
}

/// Two groups: one healthy with a run that ended and a hook that failed, one stuck.
pub fn busy_status() -> StatusView {
    let mut view = healthy();
    let mut done = run(4);
    let failed =
        Outcome::Refused { code: Refusal::Failed, detail: "hook page failed with exit code 3".into() };
    let page = Effect::Errand {
        errand: "page".parse().unwrap(),
        agent: "dr-1".parse().unwrap(),
        work: mesh_proto::spec::Work::Hook,
        at: mesh_proto::spec::Point::AfterRoutes,
        instance: "pg-dr".parse().unwrap(),
    };
    done.steps.insert(5, step(page, Phase::Finishing, 152, Some((900, failed))));
    view.groups[0].run = Some(done);
    let mut other = stuck_status().0;
    let mut group = other.groups.remove(0);
    group.group = "billing".parse().unwrap();
    group.instances[0].guard = None;
    view.groups.push(group);
    view
}

fn stuck_status() -> (StatusView, Run) {
    let mut view = healthy();
    let group = &mut view.groups[0];
    let mut stuck = run(4);
    stuck.phase = Phase::Stuck;
    stuck.entered.truncate(4);
    stuck.entered.push((Phase::Stuck, Wall(NOW + 5_200)));
    stuck.steps.remove(&4);
    let detail = "route app could not be led to pg-dr: there is no socket /run/haproxy/admin.sock";
    stuck.stuck = Some((StuckCause::RouteFailed, detail.into()));
    if let Some(step) = stuck.steps.get_mut(&3) {
        step.outcome =
            Some(Outcome::Unknown { detail: "no answer from /run/haproxy/admin.sock in time".into() });
        step.ended = Some(Wall(NOW + 5_180));
        step.attempts = 2;
    }
    group.run = Some(stuck.clone());
    group.epoch = Epoch(4);
    group.primary = Some("pg-dr".parse().unwrap());
    group.instances = vec![
        instance("pg-east", "east", ProcessState::Stopped),
        instance("pg-dr", "dr", ProcessState::Primary),
    ];
    (view, stuck)
}

#[test]
fn golden_stuck() {
    let (view, stuck) = stuck_status();
    golden("status-stuck", &status(&view, &LOOK));
    golden("run-stuck", &super::run(&self::view(stuck), &LOOK));
}

#[test]
fn golden_blind() {
    let mut view = healthy();
    for node in &mut view.nodes[1..] {
        node.reachable = Some(false);
        node.report_age = Some(Millis(42_000));
    }
    let group = &mut view.groups[0];
    group.observers = (1, 3);
    group.verdict =
        verdict(Verdict::Blind, "only 1 of 3 observers report: nothing can be said about pg-east");
    group.instances[0].guard = None;
    group.instances[0].seen.truncate(1);
    group.instances[1].guard = None;
    group.instances[1].lag_bytes = None;
    group.instances[1].seen.clear();
    golden("status-blind", &status(&view, &LOOK));
}

#[test]
fn golden_unformed() {
    let mut view = healthy();
    view.mesh = None;
    view.leader = None;
    view.term = 0;
    view.applied = 0;
    view.groups.clear();
    view.nodes.clear();
    view.electorate = Electorate::default();
    golden("status-unformed", &status(&view, &LOOK));
}

#[test]
fn golden_no_leader() {
    let mut view = healthy();
    view.leader = None;
    view.term = 9;
    for node in &mut view.nodes {
        node.leader = false;
        node.reachable = None;
        node.report_age = None;
    }
    view.troubles.push("its log disk is full: it does not vote; make room in /var/lib/mesh".into());
    golden("status-no-leader", &status(&view, &LOOK));
}

#[test]
fn golden_narrow_terminal() {
    let mut view = healthy();
    view.groups[0].instances[0].seen = seen(Seen::TimedOut, Some(3_210));
    if let Some((guard, _)) = &mut view.groups[0].instances[0].guard {
        guard.downgraded.push("no watchdog device: a hung host is not fenced before its lease ends".into());
    }
    let text = status(&view, &Look { width: 80, color: false });
    golden("status-narrow", &text);
}

#[test]
fn golden_downgrades_are_one_line_and_each_reason_once() {
    let mut view = healthy();
    for (at, why) in [
        (0, "no hardware watchdog is used: a host that was suspended may answer before its guard fences"),
        (1, "no hardware watchdog is used: a host that was suspended may answer before its guard fences"),
        (
            1,
            "the guard has no real-time priority: on an overloaded host a fence may be late; set LimitRTPRIO=10",
        ),
    ] {
        if let Some((guard, _)) = &mut view.groups[0].instances[at].guard {
            guard.downgraded.push(why.into());
        }
    }
    // What is wrong stands first, also where it concerns the last instance.
    view.groups[0].instances[0].repair = Some("let pg-east follow pg-dr: going on".into());
    view.groups[0].instances[1].guard.as_mut().unwrap().0.trouble = Some("its disk is full".into());
    golden("status-downgraded", &status(&view, &LOOK));
    golden("status-notes", &super::status(&view, Detail::Notes, &LOOK));
}

#[test]
fn golden_a_run_as_it_goes_on() {
    let mut progress = Progress::new(LOOK);
    let mut text = String::new();
    for moment in 0..5 {
        text.push_str(&progress.news(&view(run(moment))));
        // Looking again shows nothing again.
        assert_eq!(progress.news(&view(run(moment))), "");
    }
    text.push_str(&run_summary(&view(run(4)), &LOOK));
    golden("run-followed", &text);
    golden("run-afterwards", &super::run(&view(run(4)), &LOOK));
}

#[test]
fn golden_plans() {
    let plan_view = PlanView {
        plan: Plan { kind: RunKind::Switchover, actor: Actor::Operator("ada".into()), ..run(0).plan },
        steps: vec!["checkpoint pg-east".into(), "freeze pg-dr".into(), "stop pg-east cleanly".into()],
        findings: Vec::new(),
        may_lose_bytes: Some(0),
        wait_at_most: Millis(3_503),
        longest: Some((
            vec!["stop service scheduler-east by east-1".into(), "start service scheduler-dr by dr-1".into()],
            Millis(120_000),
        )),
    };
    golden("plan-good", &plan(&plan_view, &LOOK));
    let unsafe_view = PlanView {
        findings: vec![
            "the guard of pg-east does not answer".into(),
            "pg-dr does not stream from pg-east".into(),
        ],
        may_lose_bytes: Some(3 << 20),
        ..plan_view
    };
    golden("plan-unsafe", &plan(&unsafe_view, &LOOK));
}

#[test]
fn golden_why_and_audit() {
    let record = |seq: u64, summary: &str, actor: Actor| AuditRecord {
        seq,
        index: seq + 800,
        at: Wall(NOW + seq * 1_017),
        by: "east-1".parse().unwrap(),
        actor,
        group: Some("orders".parse().unwrap()),
        run: (seq > 12).then_some(RunId(813)),
        summary: summary.into(),
        command: Command::Acknowledged { group: "orders".parse().unwrap() },
        refused: None,
        previous: String::new(),
        hash: String::new(),
    };
    let records = vec![
        record(12, "down: pg-east's guard proves that it is fenced (died)", Actor::Mesh),
        record(
            13,
            "failover from pg-east planned: pg-east's guard proves that it is fenced (died)",
            Actor::Mesh,
        ),
        record(14, "the hold-down ends", Actor::Operator("ada".into())),
    ];
    let view = WhyView {
        group: "orders".parse().unwrap(),
        verdict: VerdictRecord {
            evidence: vec![
                "guard of pg-east: epoch 3 lease 1 with 2.10 s left".into(),
                "observer dr-1 at dr: gets an answer from pg-east".into(),
            ],
            ..verdict(Verdict::Healthy, "pg-east serves in epoch 3")
        },
        since: Wall(NOW),
        next: "nothing, as long as it stays so".into(),
        records: records.clone(),
    };
    golden("why", &why(&view, &LOOK));
    golden("audit", &audit(&records, &LOOK));
    let report = |broken, last| AuditReport {
        records: 14,
        head: (14, "5c1e0f3a9b77d2".repeat(4)),
        broken,
        agents: vec![("dr-1".parse().unwrap(), Agreement::Agrees(14)), ("witness-1".parse().unwrap(), last)],
    };
    let away = Agreement::NotReached("nobody listens at 10.3.0.10:7400".into());
    golden("audit-intact", &audit_report(&report(None, away), &LOOK));
    golden("audit-differs", &audit_report(&report(None, Agreement::Differs(9)), &LOOK));
    let broken = Some((9, "its hash does not fit its content".into()));
    golden("audit-broken", &audit_report(&report(broken, Agreement::Agrees(8)), &LOOK));
}

#[test]
fn color_says_no_more_than_the_words() {
    let color = Look { color: true, ..LOOK };
    let mut plain = String::new();
    let mut escape = false;
    for character in status(&healthy(), &color).chars() {
        match (escape, character) {
            (false, '\x1b') => escape = true,
            (true, 'm') => escape = false,
            (true, _) => {}
            (false, other) => plain.push(other),
        }
    }
    assert_eq!(plain, status(&healthy(), &LOOK));
}
