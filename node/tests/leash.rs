//! The leash as a real process: what ends an instance, and what does not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mesh_node::clock::Reading;
use mesh_node::leash::{Duty, Leash, Target};
use mesh_proto::Millis;

const MESH: &str = env!("CARGO_BIN_EXE_mesh");

/// A process that lives in a directory, as a server does.
struct Server(Child);

impl Server {
    fn start(dir: &Path) -> Self {
        std::fs::write(dir.join("PG_VERSION"), "15\n").unwrap();
        // In a session of its own, because whoever has a terminal counts as a person.
        let mut command = Command::new("setsid");
        command.args(["sleep", "600"]).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }
    fn ends_within(&mut self, limit: Duration) -> Option<Duration> {
        let began = Instant::now();
        while began.elapsed() < limit {
            if self.0.try_wait().unwrap().is_some() {
                return Some(began.elapsed());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        None
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn within(limit: Duration, mut so: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while began.elapsed() < limit {
        if so() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}

const SOON: Duration = Duration::from_secs(3);
const MOMENT: Duration = Duration::from_millis(300);

fn leash(dir: &Path) -> Leash {
    let target = Target { data_dir: dir.canonicalize().unwrap(), cgroup: None };
    Leash::start_as(Path::new(MESH), &target, || {}).unwrap()
}

#[test]
fn a_deadline_that_nobody_extends_ends_everything_and_leaves_a_standby() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    let leash = leash(dir.path());
    for _ in 0..4 {
        leash.feed(Duty::Until(Reading::now().after(Millis(200)))).unwrap();
        assert!(server.ends_within(Duration::from_millis(100)).is_none(), "ended although extended");
    }
    // From here on the guard is as good as stopped.
    let took = server.ends_within(SOON).expect("must end");
    assert!(took < Duration::from_millis(400), "took {took:?}");
    assert!(within(SOON, || dir.path().join("standby.signal").exists()));
    assert!(!leash.is_dead().unwrap(), "it stays for the next duty");
    // What is started afterwards is another matter, until a new duty says otherwise.
    let told = leash.feed(Duty::Idle).unwrap();
    assert!(within(SOON, || leash.knows(told)));
    let mut next = Server::start(dir.path());
    assert!(next.ends_within(MOMENT).is_none());
}

#[test]
fn now_means_everything_until_told_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    let leash = leash(dir.path());
    leash.feed(Duty::Now).unwrap();
    assert!(server.ends_within(SOON).is_some());
    let mut next = Server::start(dir.path());
    assert!(next.ends_within(SOON).is_some());
    let told = leash.feed(Duty::Bound).unwrap();
    assert!(within(SOON, || leash.knows(told)));
    let mut last = Server::start(dir.path());
    assert!(last.ends_within(MOMENT).is_none());
}

#[test]
fn a_guard_that_goes_away_takes_its_instance_along_unless_it_has_no_duty() {
    for (duty, ends) in
        [(Duty::Bound, true), (Duty::Until(Reading::now().after(Millis(60_000))), true), (Duty::Idle, false)]
    {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Server::start(dir.path());
        // A guard of its own, which can be killed while its end of the pipe stays open.
        let fifo = dir.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let script = format!("{MESH} leash $$ \"$1\" < \"$2\" > \"$3\" & wait");
        let echo = dir.path().join("echo");
        let canonical = dir.path().canonicalize().unwrap();
        let mut guard = Command::new("sh")
            .args(["-c", &script, "guard"])
            .args([&canonical, &fifo, &echo])
            .current_dir("/")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut pipe = std::fs::OpenOptions::new().write(true).open(&fifo).unwrap();
        let (kind, at) = match duty {
            Duty::Idle => (0_u64, 0),
            Duty::Bound => (1, 0),
            Duty::Until(at) => (2, at.boot.min(at.raw)),
            Duty::Now => (3, 0),
        };
        let frame: Vec<u8> = [1, kind, at, at].iter().flat_map(|word| word.to_be_bytes()).collect();
        pipe.write_all(&frame).unwrap();
        assert!(within(SOON, || std::fs::metadata(&echo).is_ok_and(|m| m.len() == 8)), "no answer");
        guard.kill().unwrap();
        guard.wait().unwrap();
        assert_eq!(server.ends_within(if ends { SOON } else { MOMENT }).is_some(), ends, "{duty:?}");
        assert_eq!(
            within(if ends { SOON } else { MOMENT }, || dir.path().join("standby.signal").exists()),
            ends
        );
    }
}

#[test]
fn a_stop_of_the_unit_is_for_the_guard_and_not_for_the_leash() {
    let dir = tempfile::tempdir().unwrap();
    let leash = leash(dir.path());
    let told = leash.feed(Duty::Bound).unwrap();
    assert!(within(SOON, || leash.knows(told)));
    for signal in ["-TERM", "-INT", "-HUP"] {
        assert!(Command::new("kill").args([signal, &leash.pid().to_string()]).status().unwrap().success());
    }
    assert!(!within(MOMENT, || leash.is_dead().unwrap()));
    assert!(Command::new("kill").args(["-KILL", &leash.pid().to_string()]).status().unwrap().success());
    assert!(within(SOON, || leash.is_dead().unwrap()));
    assert!(leash.feed(Duty::Bound).is_err());
}

#[test]
fn a_leash_that_was_stopped_is_seen_to_lag() {
    let dir = tempfile::tempdir().unwrap();
    let leash = leash(dir.path());
    let told = leash.feed(Duty::Idle).unwrap();
    assert!(within(SOON, || leash.knows(told)));
    assert!(Command::new("kill").args(["-STOP", &leash.pid().to_string()]).status().unwrap().success());
    for _ in 0..5 {
        leash.feed(Duty::Idle).unwrap();
    }
    assert!(!within(MOMENT, || leash.lag() == 0));
}

#[test]
fn nobody_else_can_use_it() {
    assert_eq!(Command::new(MESH).arg("leash").status().unwrap().code(), Some(2));
    // A guard that is not its parent.
    let dir = tempfile::tempdir().unwrap();
    let status =
        Command::new(MESH).args(["leash", "1"]).arg(dir.path()).stdin(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(1));
}
