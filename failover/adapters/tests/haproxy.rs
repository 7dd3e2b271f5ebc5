//! The HAProxy adapter against a real HAProxy with two trivial TCP servers, and against things that only pretend to be one.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod contract;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use contract::way::{Cut, way};
use contract::{Bench, Day, Side};
use mesh_adapters::Mark;
use mesh_adapters::haproxy::{Endpoint, Haproxy, HaproxyError, Led, Wanted, outcome};
use mesh_proto::effect::{Finding, Outcome, Refusal, StepRef};
use mesh_proto::{Epoch, RunId};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::process::{Child, Command};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

/// A server that says its name to each client and then echoes lines.
async fn server(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (read, mut write) = stream.split();
                let mut lines = BufReader::new(read).lines();
                let mut line = name.to_owned();
                while write.write_all(format!("{line}\n").as_bytes()).await.is_ok() {
                    match lines.next_line().await {
                        Ok(Some(next)) => line = next,
                        Ok(None) | Err(_) => return,
                    }
                }
            });
        }
    });
    address
}

struct Lab {
    dir: tempfile::TempDir,
    frontend: SocketAddr,
    admin: SocketAddr,
    east: SocketAddr,
    dr: SocketAddr,
    haproxy: Child,
}

fn free_port() -> SocketAddr {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

impl Lab {
    async fn start() -> Self {
        Self::with("", "", "level admin").await
    }

    async fn with(backend: &str, server_options: &str, level: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (frontend, admin) = (free_port(), free_port());
        let (east, dr) = (server("pg-east").await, server("pg-dr").await);
        let socket = dir.path().join("h.sock");
        let file = dir.path().join("haproxy.cfg");
        let backend = backend.replace("DIR", &dir.path().display().to_string());
        let text = format!(
            "global\n  stats socket {} mode 600 {level}\n  stats socket ipv4@{admin} {level}\n\
             defaults\n  mode tcp\n  timeout connect 1s\n  timeout client 1m\n  timeout server 1m\n\
             frontend f\n  bind {frontend}\n  default_backend pg\n\
             backend pg\n{backend}\n  server pg-east {east} {server_options}\n  server pg-dr {dr} disabled {server_options}\n\
             backend other\n  server a {east}\n",
            socket.display()
        );
        std::fs::write(&file, text).unwrap();
        let haproxy = Self::spawn(&file);
        let lab = Self { dir, frontend, admin, east, dr, haproxy };
        lab.ready().await;
        lab
    }

    fn spawn(file: &Path) -> Child {
        Command::new("haproxy")
            .args(["-db", "-f"])
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("these tests need HAProxy: apt-get install haproxy")
    }

    async fn ready(&self) {
        let end = soon();
        while self.unix().info(soon()).await.is_err() {
            assert!(Instant::now() < end, "HAProxy does not come up");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("h.sock")
    }
    fn unix(&self) -> Haproxy {
        Haproxy::new(Endpoint::Unix(self.socket()))
    }
    /// Its backend has a server-state file.
    async fn kept() -> Self {
        let lines = "  load-server-state-from-file local\n  server-state-file-name DIR/pg.state\n";
        let lab = Self::with(lines, "", "level admin").await;
        assert!(!lab.state_file().exists());
        lab
    }
    fn state_file(&self) -> PathBuf {
        self.dir.path().join("pg.state")
    }
    fn keeping(&self, epoch: u64) -> Haproxy {
        self.unix().keeping(self.state_file(), mark(epoch))
    }
    async fn restart(&mut self) {
        if self.haproxy.id().is_some() {
            self.haproxy.kill().await.unwrap();
        }
        self.haproxy = Self::spawn(&self.dir.path().join("haproxy.cfg"));
        self.ready().await;
    }
    fn to(&self, server: &str) -> Wanted {
        let address = if server == "pg-east" { self.east } else { self.dr };
        Wanted { backend: "pg".to_owned(), server: server.to_owned(), address: Some(address) }
    }
    /// A client through the frontend, with the name of the server it reached; `None` when it reached none.
    async fn client(&self) -> Option<(BufReader<TcpStream>, String)> {
        let mut stream = BufReader::new(TcpStream::connect(self.frontend).await.ok()?);
        let mut name = String::new();
        let read = tokio::time::timeout(Duration::from_secs(2), stream.read_line(&mut name)).await.ok()?;
        (read.ok()? > 0).then(|| (stream, name.trim().to_owned()))
    }
    async fn reached(&self) -> Option<String> {
        self.client().await.map(|(_, name)| name)
    }
}

fn mark(epoch: u64) -> Mark {
    let step = StepRef { run: RunId(5), step: 8, attempt: 1 };
    Mark { route: "orders/app".to_owned(), epoch: Epoch(epoch), step }
}

/// Whether HAProxy ended this session.
async fn is_over(client: &mut BufReader<TcpStream>) -> bool {
    let mut rest = [0_u8; 1];
    match tokio::time::timeout(Duration::from_secs(1), client.read(&mut rest)).await {
        Ok(Ok(0) | Err(_)) => true,
        Ok(Ok(_)) | Err(_) => false,
    }
}

#[tokio::test]
async fn sessions_to_the_old_server_really_end() {
    let lab = Lab::start().await;
    let haproxy = lab.unix();
    let mut clients = Vec::new();
    for _ in 0..7 {
        let (stream, name) = lab.client().await.unwrap();
        assert_eq!(name, "pg-east");
        clients.push(stream);
    }
    let began = Instant::now();
    let led = haproxy.lead(&lab.to("pg-dr"), soon()).await.unwrap();
    println!("led in {:?}, 7 sessions", began.elapsed());
    assert_eq!(led, Led { ended: 7, stragglers: 0, changed: true });
    for client in &mut clients {
        assert!(is_over(client).await);
    }
    assert_eq!(lab.reached().await.as_deref(), Some("pg-dr"));
    assert_eq!(
        outcome(haproxy.verify(&lab.to("pg-dr"), soon()).await),
        Outcome::Done(Finding::Routed { ended: 0, stragglers: 0 })
    );
}

#[tokio::test]
async fn twice_changes_nothing_and_keeps_the_new_sessions() {
    let lab = Lab::start().await;
    let haproxy = Haproxy::new(Endpoint::Tcp(lab.admin));
    assert!(haproxy.lead(&lab.to("pg-dr"), soon()).await.unwrap().changed);
    let (mut client, _) = lab.client().await.unwrap();
    let again = haproxy.lead(&lab.to("pg-dr"), soon()).await.unwrap();
    assert_eq!(again, Led { ended: 0, stragglers: 0, changed: false });
    client.write_all(b"still here\n").await.unwrap();
    let mut line = String::new();
    client.read_line(&mut line).await.unwrap();
    assert_eq!(line, "still here\n");
    // And back: the route is level-triggered.
    assert!(haproxy.lead(&lab.to("pg-east"), soon()).await.unwrap().changed);
    assert!(is_over(&mut client).await);
    assert_eq!(lab.reached().await.as_deref(), Some("pg-east"));
}

#[tokio::test]
async fn verifying_changes_nothing() {
    let lab = Lab::start().await;
    let haproxy = lab.unix();
    let (mut client, _) = lab.client().await.unwrap();
    let Outcome::Refused { code: Refusal::NotSo, detail } =
        outcome(haproxy.verify(&lab.to("pg-dr"), soon()).await)
    else {
        panic!("it does not lead there");
    };
    assert!(detail.contains("pg-dr is in maintenance and must be in"), "{detail}");
    assert!(detail.contains("pg-east is in and must be out"), "{detail}");
    client.write_all(b"x\n").await.unwrap();
    assert_eq!(lab.reached().await.as_deref(), Some("pg-east"));
}

#[tokio::test]
async fn a_reload_forgets_and_leading_again_mends() {
    let mut lab = Lab::start().await;
    lab.unix().lead(&lab.to("pg-dr"), soon()).await.unwrap();
    let before = lab.unix().info(soon()).await.unwrap();
    assert!(before.version.starts_with(|c: char| c.is_ascii_digit()), "{before:?}");
    lab.haproxy.kill().await.unwrap();
    assert!(matches!(
        lab.unix().verify(&lab.to("pg-dr"), soon()).await,
        Err(HaproxyError::NotReached { .. })
    ));
    lab.haproxy = Lab::spawn(&lab.dir.path().join("haproxy.cfg"));
    lab.ready().await;
    assert_ne!(lab.unix().info(soon()).await.unwrap().pid, before.pid);
    assert!(matches!(lab.unix().verify(&lab.to("pg-dr"), soon()).await, Err(HaproxyError::NotSo { .. })));
    assert!(lab.unix().lead(&lab.to("pg-dr"), soon()).await.unwrap().changed);
    assert_eq!(lab.reached().await.as_deref(), Some("pg-dr"));
}

#[tokio::test]
async fn at_no_moment_two_servers_are_in() {
    let lab = Lab::start().await;
    let haproxy = lab.unix();
    let looks = Arc::new(AtomicU32::new(0));
    let watcher = {
        let looks = looks.clone();
        let (endpoint, frontend) = (Haproxy::new(Endpoint::Tcp(lab.admin)), lab.frontend);
        let (east, dr) = (lab.to("pg-east"), lab.to("pg-dr"));
        tokio::spawn(async move {
            loop {
                // Each finding names what is wrong; "must be out" of both means that both are in.
                for wanted in [&east, &dr] {
                    let text = endpoint
                        .verify(wanted, soon())
                        .await
                        .map_or_else(|e| e.to_string(), |_| String::new());
                    let own_is_in = !text.contains("must be in");
                    assert!(!(own_is_in && text.contains("must be out")), "{text}");
                }
                looks.fetch_add(1, Ordering::Relaxed);
                drop(TcpStream::connect(frontend).await);
            }
        })
    };
    for turn in 0..40 {
        let to = if turn % 2 == 0 { "pg-dr" } else { "pg-east" };
        haproxy.lead(&lab.to(to), soon()).await.unwrap();
    }
    assert!(!watcher.is_finished(), "two servers were in");
    watcher.abort();
    assert!(looks.load(Ordering::Relaxed) > 5, "the watcher hardly looked");
}

#[tokio::test]
async fn a_server_that_fails_its_check_is_in_at_once_and_out_stays_out() {
    // Nothing answers HTTP there, so the checks fail for ever, rarely.
    let lab = Lab::with("  option httpchk GET /primary\n", "check inter 60s fall 3", "level admin").await;
    let haproxy = lab.unix();
    let led = haproxy.lead(&lab.to("pg-dr"), soon()).await.unwrap();
    assert!(led.changed);
    assert_eq!(lab.reached().await.as_deref(), Some("pg-dr"));
    // Downed by its check, then led there again.
    let mut admin = TcpStream::connect(lab.admin).await.unwrap();
    admin.write_all(b"set server pg/pg-dr health down\n").await.unwrap();
    admin.read_to_end(&mut Vec::new()).await.unwrap();
    let Err(HaproxyError::NotSo { findings, .. }) = haproxy.verify(&lab.to("pg-dr"), soon()).await else {
        panic!("it is down");
    };
    assert_eq!(findings, ["pg-dr is down by its check and must be in"]);
    haproxy.lead(&lab.to("pg-dr"), soon()).await.unwrap();
    assert_eq!(lab.reached().await.as_deref(), Some("pg-dr"));
}

#[tokio::test]
async fn wrong_names_and_weak_sockets_change_nothing() {
    let lab = Lab::start().await;
    let haproxy = lab.unix();
    let with = |change: fn(&mut Wanted)| {
        let mut wanted = lab.to("pg-dr");
        change(&mut wanted);
        wanted
    };
    let backend = with(|w| w.backend = "orders".to_owned());
    let error = haproxy.lead(&backend, soon()).await.unwrap_err();
    assert!(
        matches!(&error, HaproxyError::UnknownBackend { known, .. } if known == &["pg", "other"]),
        "{error}"
    );
    let server = with(|w| w.server = "pg-west".to_owned());
    let error = haproxy.lead(&server, soon()).await.unwrap_err();
    assert!(matches!(&error, HaproxyError::UnknownServer { known, .. } if known.len() == 2), "{error}");
    let address = with(|w| w.address = Some(SocketAddr::from(([127, 0, 0, 1], 1))));
    let error = haproxy.lead(&address, soon()).await.unwrap_err();
    assert!(matches!(error, HaproxyError::OtherAddress { .. }), "{error}");
    for name in ["pg; shutdown sessions server pg/pg-east", "pg/pg-east state maint\n", ""] {
        let mut wanted = lab.to("pg-dr");
        wanted.backend = name.to_owned();
        assert!(matches!(haproxy.lead(&wanted, soon()).await, Err(HaproxyError::BadName { .. })));
    }
    assert_eq!(lab.reached().await.as_deref(), Some("pg-east"));

    let weak = Lab::with("", "", "level operator").await;
    let error = weak.unix().lead(&weak.to("pg-dr"), soon()).await.unwrap_err();
    assert!(matches!(&error, HaproxyError::TooWeak { level, .. } if level == "operator"), "{error}");
}

#[tokio::test]
async fn sockets_that_are_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let wanted = Wanted { backend: "pg".to_owned(), server: "a".to_owned(), address: None };
    let path = dir.path().join("none");
    let result = outcome(Haproxy::new(Endpoint::Unix(path)).lead(&wanted, soon()).await);
    let Outcome::Refused { code: Refusal::Failed, detail } = result else { panic!("{result:?}") };
    assert!(detail.contains("there is no socket") && detail.contains("level admin"), "{detail}");
    let stale = dir.path().join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    let result = outcome(Haproxy::new(Endpoint::Unix(stale)).lead(&wanted, soon()).await);
    assert!(
        matches!(&result, Outcome::Refused { detail, .. } if detail.contains("nobody listens")),
        "{result:?}"
    );
}

/// Something on a unix socket that answers each command by what `answer` gives; `None` is silence.
fn pretender(path: &Path, answer: fn(&str) -> Option<Vec<u8>>) {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                match answer(line.trim()) {
                    Some(bytes) => stream.write_all(&bytes).await.unwrap(),
                    None => tokio::time::sleep(Duration::from_secs(60)).await,
                }
            });
        }
    });
}

const STATE: &str = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_check_state srv_agent_state srv_port\n\
    2 pg 1 a 10.0.0.1 2 0 0 0 1\n2 pg 2 b 10.0.0.2 0 1 0 0 1\n\n";
const SESSIONS: &str = "# pxname,svname,scur,stot\npg,a,3,9\npg,b,0,0\n\n";

/// Answers reads as an HAProxy whose server a is in.
fn healthy(command: &str) -> Option<Vec<u8>> {
    Some(match command {
        "show cli level" => b"admin\n\n".to_vec(),
        "show servers state" => STATE.into(),
        "show stat 2 4 -1" => SESSIONS.into(),
        _ => b"\n".to_vec(),
    })
}

#[tokio::test]
async fn a_lost_answer_is_unknown_only_after_a_change_was_sent() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let wanted = Wanted { backend: "pg".to_owned(), server: "b".to_owned(), address: None };
    pretender(&path("mute"), |_| None);
    pretender(&path("slow"), |c| if c.starts_with("set ") { None } else { healthy(c) });
    pretender(&path("dies"), |c| if c.starts_with("set ") { Some(Vec::new()) } else { healthy(c) });
    pretender(
        &path("cut"),
        |c| if c == "show servers state" { Some(STATE[..150].into()) } else { healthy(c) },
    );
    pretender(&path("http"), |_| Some(b"HTTP/1.1 400 Bad Request\r\n\r\n\n\n".to_vec()));
    pretender(&path("noise"), |_| Some(vec![0xff; 64]));
    pretender(&path("deaf"), healthy);
    let lead = async |name: &str| {
        let end = Instant::now() + Duration::from_millis(300);
        let began = Instant::now();
        let result = Haproxy::new(Endpoint::Unix(path(name))).lead(&wanted, end).await;
        assert!(began.elapsed() < Duration::from_secs(1), "{name} held us up");
        outcome(result)
    };
    for name in ["mute", "cut", "http", "noise"] {
        let result = lead(name).await;
        assert!(matches!(result, Outcome::Refused { .. }), "{name}: {result:?}");
    }
    for name in ["slow", "dies"] {
        let result = lead(name).await;
        assert!(
            matches!(&result, Outcome::Unknown { detail } if detail.contains("verify before")),
            "{name}: {result:?}"
        );
    }
    // It takes the commands and does nothing: only reading back finds out, and b is never brought in beside a.
    let result = lead("deaf").await;
    let Outcome::Refused { code: Refusal::Failed, detail } = result else { panic!("{result:?}") };
    assert!(detail.contains("a is in and must be out"), "{detail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_killed_in_the_middle_is_never_called_done() {
    let (mut done, mut refused, mut unknown) = (0, 0, 0);
    for round in 0..24 {
        let mut lab = Lab::start().await;
        let (haproxy, wanted) = (lab.unix(), lab.to("pg-dr"));
        let began = Instant::now();
        let call = tokio::spawn(async move { haproxy.lead(&wanted, soon()).await });
        // The whole call takes under a millisecond: finer than a timer.
        while began.elapsed() < Duration::from_micros(round * 40) {
            std::hint::spin_loop();
        }
        lab.haproxy.start_kill().unwrap();
        let result = call.await.unwrap();
        match outcome(result) {
            Outcome::Done(_) => done += 1,
            Outcome::Unknown { .. } => unknown += 1,
            // Before the first change only.
            Outcome::Refused { code: Refusal::Failed, detail } => {
                assert!(detail.starts_with("HAProxy was not reached"), "{detail}");
                refused += 1;
            }
            Outcome::Refused { code, detail } => panic!("{code:?}: {detail}"),
        }
    }
    println!("killed in the middle: {refused} not delivered, {unknown} unknown, {done} done before the kill");
}

#[tokio::test]
async fn a_state_file_keeps_it_over_a_restart() {
    let mut lab = Lab::kept().await;
    lab.keeping(2).lead(&lab.to("pg-dr"), soon()).await.unwrap();
    lab.restart().await;
    assert_eq!(lab.reached().await.as_deref(), Some("pg-dr"));
    assert!(lab.keeping(2).verify(&lab.to("pg-dr"), soon()).await.is_ok());
    assert!(!lab.keeping(2).lead(&lab.to("pg-dr"), soon()).await.unwrap().changed);
    // And back, onto a server that HAProxy's file does not disable; the other is disabled there.
    lab.keeping(3).lead(&lab.to("pg-east"), soon()).await.unwrap();
    lab.restart().await;
    assert!(lab.keeping(3).verify(&lab.to("pg-east"), soon()).await.is_ok());
    // A file that was lost or edited is seen, and mended.
    std::fs::remove_file(lab.state_file()).unwrap();
    let error = lab.keeping(3).verify(&lab.to("pg-east"), soon()).await.unwrap_err();
    assert!(error.to_string().contains("a reload would undo it"), "{error}");
    assert!(!lab.keeping(3).lead(&lab.to("pg-east"), soon()).await.unwrap().changed);
    assert!(lab.keeping(3).verify(&lab.to("pg-east"), soon()).await.is_ok());
}

#[tokio::test]
async fn haproxy_that_was_down_comes_back_led_to_the_new_primary() {
    let mut lab = Lab::kept().await;
    lab.keeping(2).lead(&lab.to("pg-east"), soon()).await.unwrap();
    lab.haproxy.kill().await.unwrap();
    let result = lab.keeping(3).lead(&lab.to("pg-dr"), soon()).await;
    assert!(matches!(result, Err(HaproxyError::NotReached { .. })), "{result:?}");
    lab.restart().await;
    assert_eq!(lab.reached().await.as_deref(), Some("pg-dr"));
    assert!(!lab.keeping(3).lead(&lab.to("pg-dr"), soon()).await.unwrap().changed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_in_the_middle_it_is_led_to_one_of_both_and_repeating_comes_right() {
    let mut came_back_led = 0;
    for round in 0..8 {
        let mut lab = Lab::kept().await;
        let (haproxy, wanted) = (lab.keeping(2), lab.to("pg-dr"));
        let began = Instant::now();
        let call = tokio::spawn(async move { haproxy.lead(&wanted, soon()).await });
        while began.elapsed() < Duration::from_micros(round * 400) {
            std::hint::spin_loop();
        }
        lab.restart().await;
        drop(call.await.unwrap());
        let reached = lab.reached().await;
        came_back_led += u32::from(reached.as_deref() == Some("pg-dr"));
        assert!(reached.is_some(), "it came back led nowhere");
        lab.keeping(2).lead(&lab.to("pg-dr"), soon()).await.unwrap();
        assert_eq!(lab.reached().await.as_deref(), Some("pg-dr"));
        assert!(lab.keeping(2).verify(&lab.to("pg-dr"), soon()).await.is_ok());
    }
    println!("restarted in the middle: {came_back_led} of 8 came back led to the new primary");
}

struct Balancer {
    lab: Lab,
    weak: Lab,
}

impl Bench for Balancer {
    async fn lead(&self, to: Side, epoch: u64, day: Day, deadline: Instant) -> Outcome {
        let endpoint = match day {
            Day::Good => Endpoint::Unix(self.lab.socket()),
            Day::AnswerLost => Endpoint::Tcp(way(self.lab.admin, Cut::After("set server")).await),
            Day::Down => Endpoint::Tcp(free_port()),
            Day::Slow => Endpoint::Tcp(way(self.lab.admin, Cut::Hold).await),
            Day::WrongCredentials => Endpoint::Unix(self.weak.socket()),
        };
        let haproxy = Haproxy::new(endpoint).keeping(self.lab.state_file(), mark(epoch));
        outcome(haproxy.lead(&self.lab.to(name(to)), deadline).await)
    }
    async fn verify(&self, to: Side, epoch: u64, deadline: Instant) -> Outcome {
        outcome(self.lab.keeping(epoch).verify(&self.lab.to(name(to)), deadline).await)
    }
    async fn really(&self) -> Option<Side> {
        match self.lab.reached().await.as_deref() {
            Some("pg-east") => Some(Side::East),
            Some("pg-dr") => Some(Side::Dr),
            Some(_) | None => None,
        }
    }
}

fn name(side: Side) -> &'static str {
    match side {
        Side::East => "pg-east",
        Side::Dr => "pg-dr",
    }
}

#[tokio::test]
async fn passes_the_contract() {
    let weak = Lab::with("", "", "level operator").await;
    contract::passes(&Balancer { lab: Lab::kept().await, weak }).await;
}
