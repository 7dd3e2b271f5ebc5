//! Hooks and units with real processes. `systemctl` is a script here: a systemd of one's own needs a booted container.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mesh_adapters::hooks::{Call, Ended, Hook, HookError, KEPT_BYTES, Report, outcome, run};
use mesh_adapters::process::ProcessHandle;
use mesh_adapters::systemd::{self, Active, Systemd, UnitError, UnitName};
use mesh_proto::effect::{Outcome, Refusal};
use mesh_proto::{Epoch, RunId};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn call() -> Call {
    Call {
        run: RunId(7),
        group: "orders".parse().unwrap(),
        epoch: Epoch(3),
        phase: "after-promotion".to_owned(),
        instance: "pg-dr".parse().unwrap(),
        site: "dr".parse().unwrap(),
        attempt: 2,
    }
}

fn script(dir: &tempfile::TempDir, text: &str) -> Hook {
    let program = dir.path().join("hook");
    std::fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    Hook { name: "notify".to_owned(), program, args: vec!["one".to_owned()], leaves: false }
}

async fn ran(text: &str, deadline: Instant) -> (Hook, Report, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let hook = script(&dir, text);
    let report = run(&hook, &call(), deadline).await.unwrap();
    (hook, report, dir)
}

/// A SIGKILL is delivered at once and carried out a moment later, by the process itself.
async fn died(process: Option<ProcessHandle>) {
    let Some(process) = process else { return };
    let dead = tokio::time::timeout(Duration::from_secs(10), process.dead()).await;
    assert!(matches!(dead, Ok(Ok(()))), "a child of the hook was left behind: {dead:?}");
}

#[tokio::test]
async fn it_is_told_what_for_and_nothing_else() {
    let (hook, report, _dir) = ran("cat; echo \"$1 $HOME $PATH\"", soon()).await;
    assert_eq!(report.ended, Ended::Done);
    let mut lines = report.output.text.lines();
    let told: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    let expected = serde_json::json!({
        "run": 7, "group": "orders", "epoch": 3, "phase": "after-promotion",
        "instance": "pg-dr", "site": "dr", "attempt": 2,
    });
    assert_eq!(told, expected);
    assert_eq!(lines.next(), Some("one  /usr/sbin:/usr/bin:/sbin:/bin"));
    assert!(matches!(outcome(&hook, Ok(report)), Outcome::Done(_)));
}

#[tokio::test]
async fn what_a_start_leaves_running_stays_until_a_deadline_says_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let child = || -> Option<ProcessHandle> {
        let text = std::fs::read_to_string(dir.path().join("child")).unwrap();
        ProcessHandle::open(text.trim().parse().unwrap()).unwrap()
    };
    let at = dir.path().display().to_string();
    let leave = format!("sleep 60 >/dev/null 2>&1 & echo $! >{at}/child");
    let mut start = script(&dir, &leave);
    start.leaves = true;
    assert_eq!(run(&start, &call(), soon()).await.unwrap().ended, Ended::Done);
    // It has had no time to leave the process group, and is there all the same.
    let left = child().unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(300), left.dead()).await.is_err(), "it was killed");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(left.pid()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    start = Hook { leaves: true, ..script(&dir, &format!("{leave}\nsleep 60")) };
    let report = run(&start, &call(), Instant::now() + Duration::from_millis(500)).await.unwrap();
    assert_eq!(report.ended, Ended::TimedOut);
    died(child()).await;
}

#[tokio::test]
async fn exit_codes_mean_what_the_contract_says() {
    for (text, ended, code) in [
        ("echo wait; exit 75", Ended::TryAgain, Refusal::NotDelivered),
        ("echo no such host >&2; exit 3", Ended::Failed { code: 3 }, Refusal::Failed),
        ("kill -TERM $$", Ended::Signalled { signal: 15 }, Refusal::Failed),
    ] {
        let (hook, report, _dir) = ran(text, soon()).await;
        assert_eq!(report.ended, ended, "{text}");
        let Outcome::Refused { code: found, detail } = outcome(&hook, Ok(report)) else { panic!("{text}") };
        assert_eq!(found, code, "{text}");
        assert!(!text.contains("host") || detail.contains("exit code 3; it said: no such host"), "{detail}");
    }
}

#[tokio::test]
async fn one_that_hangs_is_killed_with_its_whole_group() {
    let began = Instant::now();
    let text = "sleep 600 & echo $!; trap '' TERM; sleep 600";
    let (hook, report, _dir) = ran(text, began + Duration::from_millis(300)).await;
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(report.ended, Ended::TimedOut);
    let child: i32 = report.output.text.trim().parse().unwrap();
    died(ProcessHandle::open(child).unwrap()).await;
    assert!(matches!(outcome(&hook, Ok(report)), Outcome::Unknown { .. }));
}

#[tokio::test]
async fn what_it_leaves_behind_does_not_outlive_it() {
    let (_, report, _dir) = ran("sleep 600 & echo $!", soon()).await;
    assert_eq!(report.ended, Ended::Done);
    assert!(report.took < Duration::from_secs(5), "{:?}", report.took);
    let child: i32 = report.output.text.trim().parse().unwrap();
    died(ProcessHandle::open(child).unwrap()).await;
}

#[tokio::test]
async fn a_megabyte_is_cut_and_said() {
    let (_, report, _dir) = ran("head -c 1000000 /dev/zero | tr '\\0' x; exit 0", soon()).await;
    assert_eq!(report.ended, Ended::Done);
    assert_eq!(report.output.text.len(), KEPT_BYTES);
    assert_eq!(report.output.cut, 1_000_000 - KEPT_BYTES as u64);
    assert!(report.output.to_string().ends_with("more bytes were thrown away]"));
}

#[tokio::test]
async fn one_that_cannot_start_is_no_unknown_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let mut hook = script(&dir, "exit 0");
    hook.program = dir.path().join("missing");
    let result = run(&hook, &call(), soon()).await;
    assert!(matches!(result, Err(HookError::Start { .. })));
    let result = outcome(&hook, result);
    assert!(matches!(&result, Outcome::Refused { code: Refusal::NotConfigured, .. }), "{result:?}");
    hook.program = PathBuf::from("true");
    assert!(matches!(run(&hook, &call(), soon()).await, Err(HookError::NotAbsolute { .. })));
}

#[tokio::test]
async fn an_abandoned_run_kills_it() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let hook = script(&dir, &format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 600", pid.display()));
    let running = tokio::spawn(async move { run(&hook, &call(), soon()).await });
    let end = soon();
    while !pid.exists() {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let number: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    let process = ProcessHandle::open(number).unwrap().expect("it runs");
    running.abort();
    tokio::time::timeout(Duration::from_secs(5), process.dead()).await.expect("it was killed").unwrap();
}

/// A systemctl with one service whose state is a file and whose main process is a real one.
fn fake_systemd(dir: &tempfile::TempDir, stop: &str) -> Systemd {
    let at = dir.path().display();
    let text = format!(
        "for unit; do :; done\ncase \"$*\" in\n\
         *show*) [ \"$unit\" = api.service ] || {{ echo LoadState=not-found; echo ActiveState=inactive; exit 0; }}\n\
         echo LoadState=loaded; echo ActiveState=$(cat {at}/state); echo MainPID=$(cat {at}/pid);;\n\
         *start*) setsid sleep 600 >/dev/null 2>&1 & echo $! > {at}/pid; echo active > {at}/state;;\n\
         *stop*) {stop};;\nesac"
    );
    for (name, value) in [("state", "inactive"), ("pid", "0")] {
        std::fs::write(dir.path().join(name), value).unwrap();
    }
    Systemd::new(script(dir, &text).program)
}

#[tokio::test]
async fn a_unit_is_started_and_stopped_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let stop =
        format!("p=$(cat {at}/pid); [ $p = 0 ] || kill $p; echo 0 > {at}/pid; echo inactive > {at}/state");
    let systemd = fake_systemd(&dir, &stop);
    let unit = UnitName::new("api.service").unwrap();
    assert_eq!(systemd.state(&unit, soon()).await.unwrap().active, Active::Inactive);
    let started = systemd.start(&unit, soon()).await.unwrap();
    let process = ProcessHandle::open(started.main_pid.unwrap()).unwrap().unwrap();
    assert_eq!(systemd.start(&unit, soon()).await.unwrap(), started, "twice is once");
    systemd.stop(&unit, soon()).await.unwrap();
    assert!(process.is_dead().unwrap());
    assert_eq!(systemd.stop(&unit, soon()).await.unwrap().active, Active::Inactive, "twice is once");
    let other = UnitName::new("web.service").unwrap();
    let result = systemd.start(&other, soon()).await;
    assert!(matches!(result, Err(UnitError::NoUnit { .. })), "{result:?}");
}

#[tokio::test]
async fn a_stop_that_answers_0_is_no_proof() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    // It says stopped, and the process is still there.
    let stop = format!("cp {at}/pid {at}/left; echo 0 > {at}/pid; echo inactive > {at}/state");
    let systemd = fake_systemd(&dir, &stop);
    let unit = UnitName::new("api.service").unwrap();
    systemd.start(&unit, soon()).await.unwrap();
    let result = systemd.stop(&unit, Instant::now() + Duration::from_millis(500)).await;
    assert!(matches!(&result, Err(UnitError::Unknown { verb: "stop", .. })), "{result:?}");
    assert!(matches!(systemd::outcome(result), Outcome::Unknown { .. }));
    let left = std::fs::read_to_string(dir.path().join("left")).unwrap().trim().parse().unwrap();
    let process = ProcessHandle::open(left).unwrap().unwrap();
    process.signal(mesh_adapters::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_systemctl_that_fails_or_hangs() {
    let unit = UnitName::new("api.service").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let refused = fake_systemd(&dir, "echo 'Access denied' >&2; exit 4").stop(&unit, soon()).await;
    assert!(
        matches!(&refused, Err(UnitError::Refused { verb: "stop", said, .. }) if said == "Access denied")
    );
    let began = Instant::now();
    let deadline = began + Duration::from_millis(500);
    let hung = fake_systemd(&dir, "exec sleep 600").stop(&unit, deadline).await;
    assert!(matches!(&hung, Err(UnitError::Unknown { verb: "stop", .. })), "{hung:?}");
    assert!(began.elapsed() < Duration::from_secs(3));
    let none = Systemd::new(dir.path().join("none")).state(&unit, soon()).await;
    assert!(matches!(none, Err(UnitError::Exec { .. })));
    for name in ["", "api", ".service", "-H.service", "a b.service", "*.service", "a.service/../b.service"] {
        assert!(UnitName::new(name).is_err(), "{name}");
    }
}
