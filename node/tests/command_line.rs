//! The real binary against an agent that answers what a test tells it to, over a real socket: what is printed, where, and with
//! which exit code.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::wildcard_enum_match_arm)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use mesh_failover::state::{GENESIS, hash_of};
use mesh_proto::audit::AuditRecord;
use mesh_proto::codec::{Kind, decode, encode};
use mesh_proto::command::Command;
use mesh_proto::effect::{Effect, Finding, Outcome};
use mesh_proto::evidence::Position;
use mesh_proto::lease::{Expiry, LeaseTerm, Proof};
use mesh_proto::operator::{
    Agreement, Answer, Ask, AuditReport, PlanView, Question, Refusal, RefusalCode, RunView,
};
use mesh_proto::rpc::Envelope;
use mesh_proto::rpc::agent_server::{Agent, AgentServer};
use mesh_proto::run::{Actor, Phase, Plan, Promotion, Run, RunKind, Step, StuckCause};
use mesh_proto::{DataIncarnation, Epoch, GuardIncarnation, LeaseNo, Lsn, Millis, RunId, Wall};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

type Script = Box<dyn FnMut(&Ask) -> Result<Answer, Status> + Send>;

#[derive(Clone)]
struct Fake {
    script: Arc<Mutex<Script>>,
    asked: Arc<Mutex<Vec<Question>>>,
}

#[tonic::async_trait]
impl Agent for Fake {
    async fn report(&self, _: Request<Envelope>) -> Result<Response<Envelope>, Status> {
        Err(Status::unimplemented("not asked here"))
    }
    async fn execute(&self, _: Request<Envelope>) -> Result<Response<Envelope>, Status> {
        Err(Status::unimplemented("not asked here"))
    }
    async fn ask(&self, request: Request<Envelope>) -> Result<Response<Envelope>, Status> {
        let question: Question = decode(Kind::Message, &request.into_inner().body).unwrap();
        self.asked.lock().unwrap().push(question.clone());
        let answer = (self.script.lock().unwrap())(&question.ask)?;
        Ok(Response::new(Envelope { mesh: "shop".into(), body: encode(Kind::Message, &answer).unwrap() }))
    }
}

struct Bench {
    dir: tempfile::TempDir,
    fake: Fake,
    server: Option<tokio::task::JoinHandle<()>>,
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Bench {
    fn new(script: impl FnMut(&Ask) -> Result<Answer, Status> + Send + 'static) -> Self {
        let fake = Fake { script: Arc::new(Mutex::new(Box::new(script))), asked: Arc::default() };
        let mut bench = Self { dir: tempfile::tempdir().unwrap(), fake, server: None };
        bench.start();
        bench
    }
    fn socket(&self) -> PathBuf {
        self.dir.path().join("mesh.sock")
    }
    fn start(&mut self) {
        let _none = std::fs::remove_file(self.socket());
        let listener = UnixListener::bind(self.socket()).unwrap();
        let serving = tonic::transport::Server::builder()
            .add_service(AgentServer::new(self.fake.clone()))
            .serve_with_incoming(UnixListenerStream::new(listener));
        self.server = Some(tokio::spawn(async move { serving.await.unwrap() }));
    }
    async fn mesh(&self, line: &str) -> Said {
        let child = tokio::process::Command::new(env!("CARGO_BIN_EXE_mesh"))
            .args(line.split(' '))
            .current_dir(self.dir.path())
            .env("MESH_SOCKET", self.socket())
            .env_remove("SUDO_USER")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(std::time::Duration::from_secs(50), child).await.unwrap().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }
    fn asked(&self) -> Vec<Ask> {
        self.fake.asked.lock().unwrap().iter().map(|question| question.ask.clone()).collect()
    }
}

const TERM: LeaseTerm = LeaseTerm { epoch: Epoch(1), lease_no: LeaseNo(1) };

/// A run of which `entered` phases were entered.
fn run(entered: usize, last: Option<Phase>) -> Run {
    let phases =
        [Phase::Pledging, Phase::Fencing, Phase::Promoting, Phase::Routing, Phase::Proving, Phase::Done];
    let mut entered: Vec<_> =
        phases[..entered].iter().zip(1..).map(|(phase, at)| (*phase, Wall(at * 100))).collect();
    entered.extend(last.map(|phase| (phase, Wall(900))));
    let phase = entered.last().unwrap().0;
    let promoted = entered.iter().any(|(phase, _)| *phase == Phase::Promoting);
    let route = Step {
        effect: Effect::Route { route: "app".parse().unwrap(), instance: "pg-dr".parse().unwrap() },
        phase: Phase::Routing,
        epoch: Epoch(2),
        attempts: 1,
        outcome: Some(Outcome::Done(Finding::Routed { ended: 2, stragglers: 1 })),
        began: Wall(410),
        ended: Some(Wall(420)),
    };
    let routed = entered.iter().any(|(phase, _)| *phase == Phase::Routing);
    Run {
        id: RunId(42),
        plan: Plan {
            kind: RunKind::Failover,
            group: "orders".parse().unwrap(),
            parent: TERM,
            from: "pg-east".parse().unwrap(),
            candidates: vec!["pg-dr".parse().unwrap()],
            rejected: Vec::new(),
            site: Some("dr".parse().unwrap()),
            actor: Actor::Operator("ada".into()),
            reason: "drill".into(),
            accept_lag: false,
            accept_loss: false,
            lost_for: None,
            errands: Vec::new(),
        },
        phase,
        ending: TERM,
        ending_instance: "pg-east".parse().unwrap(),
        steps: if routed { BTreeMap::from([(3, route)]) } else { BTreeMap::new() },
        promotion: promoted.then(|| Promotion {
            instance: "pg-dr".parse().unwrap(),
            data: DataIncarnation("d".into()),
            guard: GuardIncarnation("g".into()),
            term: LeaseTerm { epoch: Epoch(2), lease_no: LeaseNo(1) },
            position: Position { timeline: 1, have: Lsn(1), replayed: Lsn(1) },
            durability: None,
            proof: Proof::Expired(Expiry {
                term: TERM,
                pledges: Vec::new(),
                waited: Millis(3_503),
                electorate: 1,
            }),
        }),
        stuck: None,
        entered,
        takeovers: 1,
    }
}

fn answer(run: Run) -> Result<Answer, Status> {
    Ok(Answer::Run(Box::new(RunView { run, joined: false })))
}

/// Plays a run: one more phase at each look.
fn play() -> impl FnMut(&Ask) -> Result<Answer, Status> + Send + 'static {
    let mut entered = 0;
    move |ask| match ask {
        Ask::Failover(_) | Ask::Run { .. } => {
            entered = (entered + 1).min(6);
            answer(run(entered, None))
        }
        _ => Err(Status::internal("not expected")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_is_followed_to_its_end() {
    let bench = Bench::new(play());
    let said = bench.mesh("failover --site dr --yes --reason drill").await;
    println!("{}", said.out);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    for line in [
        "RUN r42  failover of orders: pg-east -> pg-dr, asked for by ada: drill\n",
        "     0 ms  pledging ",
        "   100 ms  fencing ",
        "   200 ms  promoting  pg-dr is the primary of epoch 2: the old lease ran out (0 voters pledged, 3.5 s waited)\n",
        "   320 ms             lead route app to pg-dr: ok in 10 ms, 2 old sessions ended, 1 remain\n",
        "DONE  pg-dr is the primary of orders (epoch 2); r42 took 500 ms\n",
        "  route       100 ms  app: 2 old sessions ended, 1 remain\n",
        "next: mesh status\n",
    ] {
        assert!(said.out.contains(line), "{line:?} is missing in:\n{}", said.out);
    }
    let Ask::Failover(asked) = &bench.asked()[0] else { panic!("{:?}", bench.asked()) };
    assert_eq!(
        (asked.site.as_ref().map(ToString::to_string), asked.reason.as_str()),
        (Some("dr".into()), "drill")
    );
    assert!(!asked.force && !asked.dry_run && !asked.graceful_only);
    assert!(matches!(&bench.fake.asked.lock().unwrap()[0].actor, Actor::Operator(name) if !name.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_on_standard_output_is_the_run_alone() {
    let bench = Bench::new(play());
    let said = bench.mesh("--json switchover --site dr --yes").await;
    assert_eq!(said.code, 0);
    let view: RunView = serde_json::from_str(&said.out).unwrap();
    assert_eq!(view.run.phase, Phase::Done);
    assert!(said.err.contains("promoting") && !said.out.contains("promoting  "), "{}", said.err);
    let Ask::Failover(asked) = &bench.asked()[0] else { panic!() };
    assert!(asked.graceful_only);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stuck_and_aborted_runs_have_their_exit() {
    let bench = Bench::new(|ask| match ask {
        Ask::Failover(_) => answer(run(2, None)),
        Ask::Run { .. } => {
            let mut run = run(4, Some(Phase::Stuck));
            run.stuck = Some((StuckCause::RouteFailed, "route app could not be led".into()));
            answer(run)
        }
        Ask::Abort { .. } => answer(run(2, Some(Phase::Aborted))),
        _ => Err(Status::internal("not expected")),
    });
    let said = bench.mesh("failover --site dr --yes").await;
    assert_eq!(said.code, 6);
    assert!(said.out.contains("STUCK  r42: route app could not be led\n"), "{}", said.out);
    assert!(said.out.contains("mesh retry r42 --reason"), "{}", said.out);
    assert_eq!(bench.mesh("run").await.code, 6);
    // To stop it was what was asked for.
    let said = bench.mesh("abort r42 --reason mistake").await;
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert!(said.out.contains("ABORTED  pg-east is still the primary of orders"), "{}", said.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_the_agent_for_a_while_loses_only_the_view() {
    let mut bench = Bench::new(|ask| match ask {
        Ask::Failover(_) => answer(run(1, None)),
        _ => answer(run(2, None)),
    });
    let (line, socket) = ("failover --site dr --yes", bench.socket());
    let fake = bench.fake.clone();
    let server = bench.server.take().unwrap();
    let away = async move {
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        // Open connections outlive the task that accepted them.
        *fake.script.lock().unwrap() = Box::new(|_| Err(Status::unavailable("going down")));
        server.abort();
        let _ended = server.await;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        *fake.script.lock().unwrap() = Box::new(|_| answer(run(6, None)));
        std::fs::remove_file(&socket).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let serving = tonic::transport::Server::builder().add_service(AgentServer::new(fake));
        let _stopped = serving.serve_with_incoming(UnixListenerStream::new(listener)).await;
    };
    let said = tokio::select! {
        said = bench.mesh(line) => said,
        () = away => panic!("the second agent ended"),
    };
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert!(said.out.contains("the run goes on, still looking"), "{}", said.out);
    assert!(said.out.contains("the agent answers again") && said.out.contains("DONE"), "{}", said.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_some_entries_behind_is_waited_for_and_a_run_that_goes_on_is_joined() {
    let mut looks = 0;
    let bench = Bench::new(move |ask| match ask {
        // The leader knows of a run that goes on: there is nothing to plan, and nothing to ask a person.
        Ask::Failover(_) => answer(run(1, None)),
        _ => {
            looks += 1;
            let behind = Refusal::new(RefusalCode::NotFound, "there is no run r42 here", "");
            if looks < 3 { Ok(Answer::Refused(behind)) } else { answer(run(6, None)) }
        }
    });
    let said = bench.mesh("failover --site dr").await;
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert!(said.out.contains("DONE"), "{}", said.out);
    let said = bench.mesh("plan --site dr").await;
    assert_eq!(said.code, 4, "{}{}", said.out, said.err);
    assert!(said.err.contains("run r42 is going on") && said.err.contains("--follow"), "{}", said.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_was_touched_is_seen() {
    let mut records: Vec<AuditRecord> = Vec::new();
    for seq in 1..=3_u64 {
        let mut record = AuditRecord {
            seq,
            index: seq,
            at: Wall(1_000 * seq),
            by: "east-1".parse().unwrap(),
            actor: Actor::Operator("ada".into()),
            group: None,
            run: None,
            summary: format!("record {seq}"),
            command: Command::Acknowledged { group: "orders".parse().unwrap() },
            refused: None,
            previous: records.last().map_or_else(|| GENESIS.to_owned(), |last| last.hash.clone()),
            hash: String::new(),
        };
        record.hash = hash_of(&record).unwrap();
        records.push(record);
    }
    let told = records.clone();
    let bench = Bench::new(move |ask| match ask {
        Ask::Audit { from: 1, .. } => Ok(Answer::Audit(told.clone())),
        Ask::AuditHash { .. } => Ok(Answer::AuditHash { head: 3, hash: Some(told[2].hash.clone()) }),
        _ => Ok(Answer::Audit(Vec::new())),
    });
    assert_eq!(bench.mesh("audit export --out e.jsonl").await.code, 0);
    let said = bench.mesh("audit verify --file e.jsonl").await;
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert!(said.out.starts_with("INTACT  e.jsonl: records 1 to 3"), "{}", said.out);
    let text = std::fs::read_to_string(bench.dir.path().join("e.jsonl")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for (changed, why) in [
        (text.replace("record 2", "record two"), "record 2 was changed"),
        (format!("{}\n{}\n", lines[0], lines[2]), "record 3 stands where 2 should"),
        (text.replacen("\"seq\":2", "\"seq\": 2", 1), "line 2 of the file is not as it was written"),
        (text.replacen('{', "[", 1), "line 1 of the file is no record"),
    ] {
        std::fs::write(bench.dir.path().join("bad.jsonl"), changed).unwrap();
        let said = bench.mesh("audit verify --file bad.jsonl").await;
        assert_eq!(said.code, 6, "{why}: {}{}", said.out, said.err);
        assert!(said.out.starts_with("BROKEN") && said.out.contains(why), "{why}: {}", said.out);
    }
    // Made up as a whole: whole in itself, but not what the mesh has.
    std::fs::write(bench.dir.path().join("other.jsonl"), format!("{}\n", lines[0])).unwrap();
    let said = bench.mesh("audit verify --file other.jsonl").await;
    assert!(said.code == 6 && said.out.starts_with("DIFFERS"), "{}{}", said.out, said.err);
    assert_eq!(bench.mesh("audit verify --file missing.jsonl").await.code, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_started_without_a_yes() {
    let plan = |findings: &[&str]| {
        Ok(Answer::Plan(Box::new(PlanView {
            plan: run(1, None).plan,
            steps: vec!["fence pg-east".into()],
            findings: findings.iter().map(ToString::to_string).collect(),
            may_lose_bytes: Some(4096),
            wait_at_most: Millis(3_503),
            longest: None,
        })))
    };
    let bench = Bench::new(move |ask| match ask {
        Ask::Failover(ask) if ask.dry_run && ask.site.is_some() => plan(&[]),
        Ask::Failover(ask) if ask.dry_run => plan(&["pg-dr does not stream from pg-east"]),
        _ => panic!("started without a yes"),
    });
    let said = bench.mesh("failover --site dr").await;
    assert_eq!(said.code, 2);
    assert!(said.out.contains("may lose  at most 4.0 kB"), "{}", said.out);
    assert!(said.err.contains("add --yes"), "{}", said.err);
    assert_eq!(bench.mesh("failover --site dr --dry-run").await.code, 0);
    assert_eq!(bench.mesh("plan --site dr --json").await.code, 0);
    // A plan that may not be executed says so by its exit code too.
    let said = bench.mesh("plan --instance pg-dr").await;
    assert_eq!(said.code, 3);
    assert!(said.out.contains("NOT SAFE  pg-dr does not stream"), "{}", said.out);
    assert_eq!(bench.mesh("failover --instance pg-dr").await.code, 3);
    assert!(bench.asked().iter().all(|ask| matches!(ask, Ask::Failover(ask) if ask.dry_run)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_have_their_exit_codes() {
    use RefusalCode::{Conflict, Invalid, NoQuorum, NotFound, NotSupported, Unknown, Unsafe};
    for (code, exit) in [
        (Invalid, 2),
        (Unsafe, 3),
        (Conflict, 4),
        (NoQuorum, 5),
        (NotFound, 7),
        (Unknown, 8),
        (NotSupported, 9),
    ] {
        let bench =
            Bench::new(move |_| Ok(Answer::Refused(Refusal::new(code, "not now", "wait, then try again"))));
        let said = bench.mesh("ack --group orders").await;
        assert_eq!((said.code, said.err.as_str()), (exit, "mesh: not now\nnext: wait, then try again\n"));
        let said = bench.mesh("ack --group orders --json").await;
        let error: serde_json::Value = serde_json::from_str(&said.err).unwrap();
        assert_eq!(error["error"]["exit"], exit);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_not_there_says_what_to_do() {
    let mut bench = Bench::new(|_| Err(Status::unavailable("going down")));
    let said = bench.mesh("status").await;
    assert_eq!(said.code, 5, "{}", said.err);
    // Asking to change something, and losing the answer, is another matter.
    let said = bench.mesh("ack --group orders").await;
    assert_eq!(said.code, 8);
    assert!(said.err.contains("it may have taken effect"), "{}", said.err);
    let server = bench.server.take().unwrap();
    server.abort();
    let _ended = server.await;
    let said = bench.mesh("ack --group orders").await;
    assert_eq!(said.code, 5);
    assert!(
        said.err.contains("nobody listens on its socket") && said.err.contains("systemctl start"),
        "{}",
        said.err
    );
    std::fs::remove_file(bench.socket()).unwrap();
    let said = bench.mesh("status").await;
    assert_eq!(said.code, 5);
    assert!(said.err.contains("the socket does not exist"), "{}", said.err);
    // Another program's socket, which says nothing we understand.
    let listener = UnixListener::bind(bench.socket()).unwrap();
    let talk = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _said = stream.try_write(b"220 smtp ready\r\n");
        }
    });
    let said = bench.mesh("status").await;
    assert_eq!(said.code, 5, "{}", said.err);
    talk.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_shows_the_line_before_it_asks_and_after() {
    let bench = Bench::new(|ask| match ask {
        Ask::Nodes => Ok(Answer::Nodes(Vec::new())),
        Ask::Apply { dry_run: true, .. } => Ok(Answer::Done("would create group orders".into())),
        _ => Ok(Answer::Refused(
            Refusal::new(RefusalCode::Invalid, "there is no agent a-east", "use one of east-1, dr-1")
                .about("instance[pg-east].agent"),
        )),
    });
    let text = "group = \"orders\"\n\n[[instance]]\nname = \"pg-east\"\nsite = \"east\"\nagent = \"a-east\"\n\
                address = \"10.0.0.1:5432\"\nguard = \"10.0.0.1:7401\"\n";
    std::fs::write(bench.dir.path().join("orders.toml"), text).unwrap();
    std::fs::write(bench.dir.path().join("typo.toml"), text.replace("agent =", "agnet =")).unwrap();
    let said = bench.mesh("apply -f typo.toml").await;
    println!("{}", said.err);
    assert_eq!(said.code, 2);
    assert!(
        said.err.contains("typo.toml:6:1: unknown field `agnet`")
            && said.err.contains("did you mean `agent`?")
    );
    assert!(bench.asked().is_empty());
    let said = bench.mesh("apply -f orders.toml").await;
    println!("{}", said.err);
    assert_eq!(said.code, 2);
    assert!(said.err.starts_with("mesh: orders.toml:6:9: there is no agent a-east\n"), "{}", said.err);
    let said = bench.mesh("apply -f orders.toml --dry-run").await;
    assert_eq!((said.code, said.out.as_str()), (0, "would create group orders\n"));
    assert_eq!(bench.mesh("apply -f missing.toml").await.code, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_audit_and_a_wrong_usage_are_seen_by_scripts() {
    let bench = Bench::new(|ask| match ask {
        Ask::AuditVerify => Ok(Answer::AuditVerified(AuditReport {
            records: 3,
            head: (3, "ab".repeat(32)),
            broken: None,
            agents: vec![("dr-1".parse().unwrap(), Agreement::Differs(2))],
        })),
        _ => Ok(Answer::Audit(Vec::new())),
    });
    assert_eq!(bench.mesh("audit verify").await.code, 6);
    assert_eq!(bench.mesh("audit export --out e.jsonl").await.code, 0);
    assert_eq!(bench.mesh("audit export --out e.jsonl").await.code, 2);
    for line in ["failover", "failover --site dr --force", "statsu", "pause --for x --reason y"] {
        assert_eq!(bench.mesh(line).await.code, 2, "{line}");
    }
    let said = bench.mesh("help exit-codes").await;
    assert_eq!(said.code, 0);
    assert!(said.out.contains("  8  the outcome is unknown"), "{}", said.out);
}
