//! The fence on real servers, in the states that make a fence lie: orphans, stopped postmasters, stopped everything.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::wildcard_enum_match_arm)]

mod support;

use std::time::{Duration, Instant};

use mesh_adapters::postgres::*;
use mesh_adapters::process::{Exit, Signal, become_subreaper};
use support::*;

fn plan(mode: FenceMode) -> FencePlan {
    FencePlan { budget: Duration::from_secs(2), mode }
}

async fn fenced(instance: &Instance, postmaster: Option<&Postmaster>, mode: FenceMode) -> (NoAck, Quiet) {
    let proof = fence(instance, postmaster, plan(mode)).await.unwrap();
    let quiet = quiet(instance, &proof, soon(5)).await.unwrap();
    assert!(instance.tree().scan().unwrap().is_empty());
    assert!(instance.data_dir().join("standby.signal").exists());
    assert!(try_client(instance.address()).await.is_err());
    (proof, quiet)
}

/// Starts the fenced instance again as a standby without upstream and counts what is in it.
async fn rows_after(instance: &Instance) -> i64 {
    let nobody = request(StartAs::Standby(StandbyUpstream::Nobody));
    let started = start(instance, &DirectControl, &nobody, soon(20)).await.unwrap();
    assert!(started.in_recovery);
    let rows = count(instance).await;
    fenced(instance, Some(&started.postmaster), FenceMode::Hard).await;
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn hard_under_load_and_twice() {
    let lab = Lab::new();
    let (primary, postmaster, _) = group(&lab, &[]).await;
    let writers = Writers::start(&primary, 4).await;
    let began = Instant::now();
    let (proof, quiet) = fenced(&primary, Some(&postmaster), FenceMode::Hard).await;
    let last = writers.last.lock().unwrap().unwrap();
    figure("fence hard, no-ack", proof.took);
    figure("fence hard, quiet", quiet.took);
    figure("fence hard, last acknowledgement after the start", last.saturating_duration_since(began));
    let acknowledged = writers.count();
    let (again, _) = fenced(&primary, Some(&postmaster), FenceMode::Hard).await;
    figure("fence hard, repeated, no-ack", again.took);
    let (again, _) = fenced(&primary, None, FenceMode::Ladder).await;
    assert!(!again.clean);
    assert_eq!(writers.count(), acknowledged, "an acknowledgement after the fence");
    assert!(rows_after(&primary).await >= acknowledged as i64);
}

#[tokio::test(flavor = "multi_thread")]
async fn ladder_ends_cleanly_at_the_first_rung() {
    let lab = Lab::new();
    let (primary, postmaster, _) = group(&lab, &["b"]).await;
    let _writers = Writers::start(&primary, 4).await;
    let (proof, quiet) = fenced(&primary, Some(&postmaster), FenceMode::Ladder).await;
    assert!(proof.clean, "{proof:?}");
    figure("fence ladder under load, no-ack", proof.took);
    figure("fence ladder under load, quiet", quiet.took);
    let control = control_data(&primary, soon(5)).await.unwrap();
    assert_eq!(control.state, ClusterState::ShutDown);
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_of_a_dead_postmaster_stop_committing() {
    become_subreaper().unwrap();
    let lab = Lab::new();
    let (primary, postmaster, _) = group(&lab, &[]).await;
    let sql = "CREATE PROCEDURE busy() LANGUAGE plpgsql AS $$ BEGIN LOOP INSERT INTO t (body) VALUES ('o'); COMMIT; END LOOP; END $$";
    client(&primary).await.batch_execute(sql).await.unwrap();
    let looping = client(&primary).await;
    let call = tokio::spawn(async move { looping.batch_execute("CALL busy()").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let killed_at = Instant::now();
    postmaster.process().signal(Signal::KILL).unwrap();
    assert_eq!(postmaster.death().await.unwrap(), Exit::Signal(9));
    figure("death of the postmaster seen after", killed_at.elapsed());
    // The trap itself: the orphan goes on, and its log grows.
    let wal = |instance: &Instance| newest_log_change(instance);
    let before = wal(&primary);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(wal(&primary) > before, "the orphan should still commit; the test proves nothing otherwise");
    assert!(!primary.tree().scan().unwrap().is_empty());
    let proof = fence(&primary, Some(&postmaster), plan(FenceMode::Ladder)).await.unwrap();
    figure("fence of orphans, no-ack", proof.took);
    let frozen = wal(&primary);
    quiet(&primary, &proof, soon(5)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(wal(&primary), frozen, "something wrote after the fence");
    assert!(call.await.unwrap().is_err());
    rows_after(&primary).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_ended_before_a_start_and_a_live_server_is_left_alone() {
    become_subreaper().unwrap();
    let lab = Lab::new();
    let (primary, postmaster, _) = group(&lab, &[]).await;
    assert_eq!(end_orphans(&primary, soon(5)).await.unwrap(), 0);
    assert!(!postmaster.process().is_dead().unwrap());
    let sql = "CREATE PROCEDURE busy() LANGUAGE plpgsql AS $$ BEGIN LOOP INSERT INTO t (body) VALUES ('o'); COMMIT; END LOOP; END $$";
    client(&primary).await.batch_execute(sql).await.unwrap();
    let looping = client(&primary).await;
    let call = tokio::spawn(async move { looping.batch_execute("CALL busy()").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    postmaster.process().signal(Signal::KILL).unwrap();
    postmaster.death().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let refused = start(&primary, &DirectControl, &request(StartAs::Primary), soon(20)).await;
    assert!(matches!(refused, Err(StartError::Running { .. })), "{refused:?}");
    assert!(end_orphans(&primary, soon(5)).await.unwrap() > 0);
    assert!(call.await.unwrap().is_err());
    start_primary(&primary).await;
    assert!(count(&primary).await > 0);
}

/// A checksum over the log files' content: any commit changes it.
fn newest_log_change(instance: &Instance) -> (std::time::SystemTime, u64) {
    let dir = std::fs::read_dir(instance.data_dir().join("pg_wal")).unwrap();
    let files = dir.filter_map(|entry| {
        let meta = entry.unwrap().metadata().ok()?;
        meta.is_file().then(|| (meta.modified().unwrap(), meta.len()))
    });
    files.max().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_postmaster_is_killed() {
    let lab = Lab::new();
    let (primary, postmaster, _) = group(&lab, &[]).await;
    let writers = Writers::start(&primary, 2).await;
    postmaster.process().signal(Signal::STOP).unwrap();
    let before = writers.count();
    eventually("sessions write on under a stopped postmaster", async || writers.count() > before + 10).await;
    assert!(postmaster.is_stopped());
    let (proof, _) = fenced(&primary, Some(&postmaster), FenceMode::Ladder).await;
    figure("fence of a stopped postmaster, no-ack", proof.took);
    let acknowledged = writers.count();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(writers.count(), acknowledged);
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_processes_acknowledge_nothing_when_thawed() {
    let lab = Lab::new();
    let (primary, postmaster, _) = group(&lab, &[]).await;
    let writers = Writers::start(&primary, 4).await;
    let members = primary.tree().scan().unwrap();
    for member in &members {
        member.process.signal(Signal::STOP).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let acknowledged = writers.count();
    let proof = fence(&primary, Some(&postmaster), plan(FenceMode::Ladder)).await.unwrap();
    figure("fence of frozen processes, no-ack", proof.took);
    for member in &members {
        member.process.signal(Signal::CONT).unwrap();
    }
    quiet(&primary, &proof, soon(5)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(writers.count(), acknowledged, "acknowledged after the thaw");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_server_is_held_and_fenced() {
    let lab = Lab::new();
    let primary = lab.instance("a");
    assert!(attach(&primary, soon(5)).await.unwrap().is_none());
    let settings = primary.settings();
    let opts = format!("-p {} -h 127.0.0.1 -k {}", settings.port, settings.socket_dir.display());
    let data = primary.data_dir().to_str().unwrap();
    run(
        &bin_dir().join("pg_ctl"),
        &["-D", data, "-w", "-l", settings.log_file.to_str().unwrap(), "-o", &opts, "start"],
    );
    let held = attach(&primary, soon(5)).await.unwrap().expect("a running server");
    assert!(held.adopted());
    let running = start(&primary, &DirectControl, &request(StartAs::Primary), soon(5)).await;
    assert!(
        matches!(running, Err(StartError::Running { pid, .. }) if pid == held.process().pid()),
        "{running:?}"
    );
    client(&primary).await;
    fenced(&primary, Some(&held), FenceMode::Ladder).await;
    assert!(attach(&primary, soon(5)).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_on_the_port_is_named() {
    let lab = Lab::new();
    let primary = lab.instance("a");
    let listener = std::net::TcpListener::bind(primary.address()).unwrap();
    let error = start(&primary, &DirectControl, &request(StartAs::Primary), soon(5)).await.unwrap_err();
    assert!(matches!(error, StartError::PortInUse { .. }), "{error:?}");
    let proof = fence(&primary, None, plan(FenceMode::Hard)).await.unwrap();
    let error = quiet(&primary, &proof, soon(2)).await.unwrap_err();
    assert!(matches!(error, QuietError::Listener { .. }), "{error:?}");
    drop(listener);
    quiet(&primary, &proof, soon(2)).await.unwrap();
}

/// Run by the next test in a process of its own; does nothing otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn helper_guard_that_will_be_killed() {
    let Ok(home) = std::env::var("MESH_TEST_HELPER_HOME") else { return };
    let lab = Lab::new();
    let instance = lab.instance("a");
    start_primary(&instance).await;
    std::fs::write(&home, instance.data_dir().to_str().unwrap()).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_guard_takes_its_server_down() {
    let lab = Lab::new();
    let note = lab.path().join("where");
    let mut guard = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["helper_guard_that_will_be_killed", "--exact"])
        .env("MESH_TEST_HELPER_HOME", &note)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let read = || std::fs::read_to_string(&note).unwrap_or_default();
    eventually("the helper has started a server", async || !read().is_empty()).await;
    let data = std::path::PathBuf::from(read());
    let tree = mesh_adapters::process::DirectoryTree::new(data.clone(), None);
    assert!(tree.scan().unwrap().len() > 3);
    let killed = Instant::now();
    guard.kill().unwrap();
    guard.wait().unwrap();
    eventually("the server is gone with its guard", async || tree.scan().unwrap().is_empty()).await;
    figure("death of the guard to the end of its server", killed.elapsed());
    std::fs::remove_dir_all(data.parent().unwrap().parent().unwrap()).unwrap();
}

/// A directory in the cgroup v2 hierarchy, where this user may make one.
fn own_cgroup() -> Option<std::path::PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
    let dir =
        std::path::Path::new(mount.split(' ').nth(1)?).join(format!("mesh-test-{}", std::process::id()));
    std::fs::create_dir(&dir).ok()?;
    Some(dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cgroup_is_killed_at_once_and_a_missing_one_does_not_matter() {
    let lab = Lab::new();
    let real = own_cgroup();
    println!("own cgroup: {real:?}");
    for cgroup in [Some(lab.path().join("no-such-cgroup")), real.clone()].into_iter().flatten() {
        let name = if Some(&cgroup) == real.as_ref() { "real" } else { "missing" };
        let instance = lab.instance_with(name, |settings| settings.cgroup = Some(cgroup.clone()));
        let postmaster = start_primary(&instance).await.postmaster;
        let mut moved = 0;
        for member in instance.tree().scan().unwrap().iter().filter(|_| name == "real") {
            // A process may end between the scan and its move; the postmaster must be there.
            let done = std::fs::write(cgroup.join("cgroup.procs"), member.process.pid().to_string());
            assert!(done.is_ok() || member.process.is_dead().unwrap(), "{done:?}");
            moved += u32::from(done.is_ok());
        }
        assert!(name != "real" || moved > 3);
        let (proof, _) = fenced(&instance, Some(&postmaster), FenceMode::Hard).await;
        figure(&format!("fence hard, {name} cgroup, no-ack"), proof.took);
    }
    if let Some(cgroup) = real {
        eventually("the cgroup is empty", async || std::fs::remove_dir(&cgroup).is_ok()).await;
    }
}
