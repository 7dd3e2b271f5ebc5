use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_proto::evidence::{GuardStatus, HeldLease, ProcessState, Receiving, WriteProbe};
use mesh_proto::lease::LeaseTerm;
use mesh_proto::operator::StatusView;
use mesh_proto::{Epoch, Generation, GuardIncarnation, InstanceName, LeaseNo, Millis};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::role::size;
use super::{Lead, LocalInstance, Reading, RoleSource, Silence, serve};

struct Fake {
    instances: Mutex<Vec<LocalInstance>>,
    ready: Mutex<Result<(), String>>,
    delay: Duration,
}

impl RoleSource for Fake {
    async fn instances(&self, _limit: Millis) -> Vec<LocalInstance> {
        tokio::time::sleep(self.delay).await;
        self.instances.lock().unwrap().clone()
    }
    fn live(&self) -> Result<(), String> {
        Ok(())
    }
    fn ready(&self) -> Result<(), String> {
        self.ready.lock().unwrap().clone()
    }
    fn status(&self) -> StatusView {
        crate::cli::render::samples::busy_status()
    }
    fn leads(&self) -> Vec<Lead> {
        let to = Some(SocketAddr::from(([10, 1, 0, 1], 5432)));
        vec![Lead { group: "orders".parse().unwrap(), epoch: Epoch(3), to }]
    }
}

fn status(process: ProcessState) -> GuardStatus {
    let term = LeaseTerm { epoch: Epoch(3), lease_no: LeaseNo(5) };
    let primary = process == ProcessState::Primary;
    GuardStatus {
        group: "orders".parse().unwrap(),
        instance: "pg-east".parse().unwrap(),
        guard: GuardIncarnation("g1".to_owned()),
        seq: 1,
        data: None,
        system_id: Some(7),
        public_key: String::new(),
        granted: Vec::new(),
        floored: None,
        paused: None,
        lease: primary.then_some(HeldLease { term, remaining: Millis(2_000) }),
        gate: Epoch(3),
        process,
        commit_gated: false,
        clients_wait: false,
        write_probe: if primary { WriteProbe::Ok { age: Millis(100) } } else { WriteProbe::NotApplicable },
        disks: Vec::new(),
        position: None,
        receiving: (!primary).then_some(Receiving {
            streaming: true,
            from: None,
            advanced: Millis(1),
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

fn instance(process: ProcessState, change: impl FnOnce(&mut Reading)) -> LocalInstance {
    let mut reading = Reading { status: status(process), age: Millis(5), lag_bytes: Some(1_000) };
    change(&mut reading);
    LocalInstance { name: "pg-east".parse().unwrap(), probe: Millis(250), reading: Ok(reading) }
}

async fn start(instances: Vec<LocalInstance>, delay: Duration) -> (SocketAddr, Arc<Fake>) {
    let fake = Arc::new(Fake { instances: Mutex::new(instances), ready: Mutex::new(Ok(())), delay });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, fake.clone(), std::future::pending()));
    (address, fake)
}

/// Sends a request as HAProxy does (HTTP/1.0, no Host), and gives status and body.
async fn ask(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{method} {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.to_lowercase().contains("cache-control: no-store") || head.contains(" 404 "), "{head}");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn check(instance: LocalInstance, path: &str) -> (u16, String) {
    let (address, _) = start(vec![instance], Duration::ZERO).await;
    ask(address, "GET", path).await
}

#[tokio::test]
async fn a_primary_with_a_lease_is_one_by_every_method() {
    let (address, _) = start(vec![instance(ProcessState::Primary, |_| {})], Duration::ZERO).await;
    for method in ["GET", "OPTIONS", "HEAD"] {
        assert_eq!(ask(address, method, "/primary").await.0, 200, "{method}");
        assert_eq!(ask(address, method, "/instances/pg-east/primary").await.0, 200, "{method}");
        assert_eq!(ask(address, method, "/replica").await.0, 503, "{method}");
    }
    let (_, body) = ask(address, "GET", "/primary").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["epoch"], 3);
    assert_eq!(body["state"], "primary");
    assert_eq!(ask(address, "GET", "/health").await.0, 200);
    assert_eq!(ask(address, "GET", "/instances/pg-west/primary").await.0, 404);
    assert_eq!(ask(address, "GET", "/nothing").await.0, 404);
}

#[tokio::test]
async fn prometheus_is_told_the_status() {
    let (address, _) = start(Vec::new(), Duration::ZERO).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 ") && head.contains("application/openmetrics-text"), "{head}");
    assert!(body.contains("mesh_group_run_stuck{group=\"billing\",cause=\"route-failed\"} 1.0"), "{body}");
    assert!(
        body.contains("mesh_instance_trouble{group=\"billing\",server=\"pg-east\",site=\"east\"} 1.0"),
        "{body}"
    );
}

#[tokio::test]
async fn every_doubt_about_a_primary_is_a_503() {
    type Doubt = fn(&mut Reading);
    let doubts: [(&str, Doubt); 8] = [
        ("without a lease", |r| r.status.lease = None),
        ("ends in 99 ms", |r| r.status.lease.as_mut().unwrap().remaining = Millis(104)),
        ("ends in 0 ms", |r| r.status.lease.as_mut().unwrap().remaining = Millis(0)),
        ("251 ms old", |r| r.age = Millis(251)),
        ("epoch 4 has begun", |r| r.status.gate = Epoch(4)),
        ("commits are held", |r| r.status.commit_gated = true),
        ("the one of pg-dr", |r| r.status.instance = InstanceName::new("pg-dr").unwrap()),
        ("it is a standby", |r| r.status.process = ProcessState::Standby),
    ];
    for (why, doubt) in doubts {
        let (code, body) = check(instance(ProcessState::Primary, doubt), "/primary").await;
        assert_eq!(code, 503, "{why}");
        assert!(body.contains(why), "{why}: {body}");
    }
    for silence in [Silence::Late(Millis(200)), Silence::NotReached, Silence::Failed] {
        let mut silent = instance(ProcessState::Primary, |_| {});
        silent.reading = Err(silence.clone());
        let (code, body) = check(silent, "/primary").await;
        assert_eq!(code, 503);
        assert!(body.contains(&silence.to_string()), "{body}");
    }
    for process in [
        ProcessState::Starting,
        ProcessState::Stopped,
        ProcessState::Died,
        ProcessState::Unresponsive,
        ProcessState::Unknown,
    ] {
        for path in ["/primary", "/replica", "/health"] {
            let code = check(instance(ProcessState::Primary, |r| r.status.process = process), path).await.0;
            assert_eq!(code, 503, "{process:?} {path}");
        }
    }
}

#[tokio::test]
async fn a_hanging_source_and_several_or_no_instances_are_503() {
    let one = instance(ProcessState::Primary, |_| {});
    let (address, _) = start(vec![one.clone()], Duration::from_secs(30)).await;
    let asked = std::time::Instant::now();
    assert_eq!(ask(address, "GET", "/primary").await.0, 503);
    assert!(asked.elapsed() < Duration::from_secs(1));
    let (address, _) = start(vec![one.clone(), one], Duration::ZERO).await;
    let (code, body) = ask(address, "GET", "/primary").await;
    assert!(code == 503 && body.contains("/instances/NAME/primary"), "{body}");
    let (address, fake) = start(Vec::new(), Duration::ZERO).await;
    assert_eq!(ask(address, "GET", "/primary").await.0, 503);
    assert_eq!(ask(address, "GET", "/health").await.0, 200);
    *fake.ready.lock().unwrap() = Err("no leader is known".to_owned());
    for (path, code) in [("/liveness", 200), ("/readiness", 503), ("/health", 503)] {
        let (found, body) = ask(address, "GET", path).await;
        assert_eq!(found, code, "{path}: {body}");
        assert_eq!(body.contains("no leader is known"), code == 503, "{body}");
    }
}

#[tokio::test]
async fn traefik_is_told_the_primary_and_nothing_while_there_is_doubt() {
    let (address, fake) = start(Vec::new(), Duration::ZERO).await;
    let (code, body) = ask(address, "GET", "/traefik").await;
    assert!(code == 200 && body.contains(r#""servers":[{"address":"10.1.0.1:5432"}]"#), "{body}");
    *fake.ready.lock().unwrap() = Err("no leader is known".to_owned());
    let (code, body) = ask(address, "GET", "/traefik").await;
    assert!(code == 503 && body.contains("no leader is known"), "{body}");
}

#[tokio::test]
async fn a_replica_streams_and_is_near_enough() {
    let standby = |change: fn(&mut Reading)| instance(ProcessState::Standby, change);
    for (path, code) in [
        ("/replica", 200),
        ("/replica?lag=1000", 200),
        ("/replica?lag=999", 503),
        ("/replica?lag=1kB", 200),
        ("/instances/pg-east/replica?lag=10MB", 200),
        ("/replica?lag=", 400),
        ("/replica?lag=ten", 400),
        ("/primary", 503),
        ("/health", 200),
    ] {
        assert_eq!(check(standby(|_| {}), path).await.0, code, "{path}");
    }
    assert_eq!(check(standby(|r| r.lag_bytes = None), "/replica?lag=1GB").await.0, 503);
    assert_eq!(check(standby(|r| r.lag_bytes = None), "/replica").await.0, 200);
    assert_eq!(check(standby(|r| r.status.frozen = Some(Generation(1))), "/replica").await.0, 503);
    assert_eq!(check(standby(|r| r.status.receiving = None), "/replica").await.0, 503);
}

#[tokio::test]
async fn health_also_asks_whether_writes_work() {
    let late = |r: &mut Reading| r.status.write_probe = WriteProbe::Late { waiting: Millis(900) };
    assert_eq!(check(instance(ProcessState::Primary, late), "/health").await.0, 503);
    // A slow disk is no reason to end every session to the only primary.
    assert_eq!(check(instance(ProcessState::Primary, late), "/primary").await.0, 200);
}

#[test]
fn sizes_are_read_as_postgresql_writes_them() {
    for (text, bytes) in [("0", 0), ("17", 17), ("8kB", 8192), ("10MB", 10 << 20), ("2GiB", 2 << 30)] {
        assert_eq!(size(text), Some(bytes), "{text}");
    }
    for text in ["", "MB", "-1", "1.5MB", "99999999999999999999", "18446744073709551615GB", "5TB"] {
        assert_eq!(size(text), None, "{text}");
    }
}

/// A server that says a word to every client.
async fn says(word: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _gone = stream.write_all(word.as_bytes()).await;
        }
    });
    address
}

async fn reached(frontend: SocketAddr) -> String {
    let mut word = String::new();
    if let Ok(mut stream) = TcpStream::connect(frontend).await {
        let read = stream.read_to_string(&mut word);
        let _none = tokio::time::timeout(Duration::from_secs(1), read).await;
    }
    word
}

async fn follows(frontend: SocketAddr, word: &str) -> Duration {
    let began = std::time::Instant::now();
    while reached(frontend).await != word {
        assert!(began.elapsed() < Duration::from_secs(5), "HAProxy does not lead to {word:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}

#[tokio::test]
async fn a_real_haproxy_follows_the_primary() {
    let (primary, standby) = (ProcessState::Primary, ProcessState::Standby);
    let (east_http, east) = start(vec![instance(primary, |_| {})], Duration::ZERO).await;
    let (dr_http, dr) = start(vec![instance(standby, |_| {})], Duration::ZERO).await;
    let (east_tcp, dr_tcp) = (says("east").await, says("dr").await);
    let frontend = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("haproxy.cfg");
    let text = format!(
        "defaults\n  mode tcp\n  timeout connect 1s\n  timeout client 1m\n  timeout server 1m\n\
         frontend f\n  bind {frontend}\n  default_backend pg\n\
         backend pg\n  option httpchk OPTIONS /primary\n  http-check expect status 200\n\
         \x20 default-server check inter 50ms fastinter 20ms rise 1 fall 1 on-marked-down shutdown-sessions\n\
         \x20 server east {east_tcp} port {}\n  server dr {dr_tcp} port {}\n",
        east_http.port(),
        dr_http.port()
    );
    std::fs::write(&file, text).unwrap();
    let _haproxy = tokio::process::Command::new("haproxy")
        .args(["-db", "-q", "-f"])
        .arg(&file)
        .kill_on_drop(true)
        .spawn()
        .expect("this test needs HAProxy: apt-get install haproxy");
    follows(frontend, "east").await;
    // The lease runs out: nobody is primary, and nobody is reached.
    *east.instances.lock().unwrap() = vec![instance(primary, |r| r.status.lease = None)];
    let out = follows(frontend, "").await;
    *dr.instances.lock().unwrap() = vec![instance(primary, |_| {})];
    let over = follows(frontend, "dr").await;
    println!("out after {out:?}, over after {over:?}");
}
