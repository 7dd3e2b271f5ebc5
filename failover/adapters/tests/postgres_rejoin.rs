//! Planned hand-over and the rejoin ladder on real servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::wildcard_enum_match_arm)]

mod support;

use std::os::unix::fs::MetadataExt as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use mesh_adapters::postgres::*;
use mesh_adapters::process::Signal;
use support::*;

const HARD: FencePlan = FencePlan { budget: Duration::from_secs(2), mode: FenceMode::Hard };

fn back_to(primary: &Instance, name: &str) -> RejoinRequest {
    RejoinRequest {
        source: upstream(primary, name),
        system_identifier: None,
        clients: Clients::LetIn,
        from: How::Follow,
        may_rewind: true,
        may_rebuild: true,
        restore_target_wal: false,
    }
}

async fn rejoined(instance: &Instance, request: &RejoinRequest) -> Rejoined {
    let steps = Mutex::new(Vec::new());
    let note = |step| steps.lock().unwrap().push(step);
    let began = Instant::now();
    let done = rejoin(instance, &DirectControl, request, &note, soon(60)).await;
    let done = done.unwrap_or_else(|e| panic!("{}: {e:?}", chain(&e)));
    figure(&format!("rejoin by {:?} {:?}", done.how, steps.lock().unwrap()), began.elapsed());
    assert_eq!(unfinished(instance, soon(5)).await.unwrap(), None);
    done
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

async fn fence_quiet(instance: &Instance, postmaster: &Postmaster) {
    let proof = fence(instance, Some(postmaster), HARD).await.unwrap();
    quiet(instance, &proof, soon(5)).await.unwrap();
}

async fn write(instance: &Instance, body: &str) {
    client(instance).await.execute("INSERT INTO t (body) VALUES ($1)", &[&body]).await.unwrap();
}

async fn has(instance: &Instance, body: &str) -> bool {
    let sql = "SELECT count(*) FROM t WHERE body = $1";
    client(instance).await.query_one(sql, &[&body]).await.unwrap().get::<_, i64>(0) > 0
}

/// Primary `a` loses contact to `b`, writes on, dies; `b` is promoted and checkpointed.
async fn diverged(lab: &Lab) -> (Instance, Postmaster, Instance, Postmaster) {
    let (a, a_master, mut standbys) = group(lab, &["b"]).await;
    let (b, b_master) = standbys.remove(0);
    write(&a, "common").await;
    let common = client(&a).await.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap();
    confirm(&b, common.get::<_, String>(0).parse().unwrap(), soon(5)).await.unwrap();
    freeze(&b, soon(5)).await.unwrap();
    write(&a, "lost").await;
    promote(&b, None, soon(5)).await.unwrap();
    checkpoint(&b, soon(10)).await.unwrap();
    write(&b, "new").await;
    (a, a_master, b, b_master)
}

#[tokio::test(flavor = "multi_thread")]
async fn planned_hand_over_under_load_loses_nothing_and_comes_back() {
    let lab = Lab::new();
    let (a, a_master, standbys) = group(&lab, &["b"]).await;
    let (b, b_master) = &standbys[0];
    let writers = Writers::start(&a, 8).await;
    figure("checkpoint before the stop", checkpoint(&a, soon(10)).await.unwrap());
    let began = Instant::now();
    let stopped = stop_fast(&a, &a_master, Duration::from_millis(300), soon(10)).await.unwrap();
    figure("hand-over: fast stop under load", stopped.took);
    assert!(!stopped.forced);
    let confirming = Instant::now();
    confirm(b, stopped.point.data_end, soon(5)).await.unwrap();
    confirm(b, stopped.point.end, soon(5)).await.unwrap();
    figure("hand-over: confirm", confirming.elapsed());
    let promoted = promote(b, None, Instant::now() + LONG).await.unwrap();
    figure("hand-over: promote", promoted.took);
    let row = EpochRow { epoch: 2, lease_no: 1, instance: "b".into() };
    record_epoch(b, &row, Durability::Local, soon(5)).await.unwrap();
    figure("hand-over: request to first write elsewhere", began.elapsed());
    assert!(count(b).await as u64 >= writers.count(), "an acknowledged row is missing");
    let twice = stop_fast(&a, &a_master, Duration::ZERO, soon(5)).await.unwrap();
    assert_eq!(twice.point, stopped.point);
    write_standby_signal(&a, soon(5)).await.unwrap();
    checkpoint(b, soon(10)).await.unwrap();
    let back = rejoined(&a, &back_to(b, "a")).await;
    assert_eq!((back.how, &back.diverged, back.data_incarnation_changed), (How::Follow, &None, false));
    assert_eq!(back.position.timeline, 2);
    // And the way back, from the new side.
    let stopped = stop_fast(b, b_master, Duration::from_millis(300), soon(10)).await.unwrap();
    figure("hand-over back: fast stop", stopped.took);
    confirm(&a, stopped.point.end, soon(5)).await.unwrap();
    let again = promote(&a, None, Instant::now() + LONG).await.unwrap();
    figure("hand-over back: promote", again.took);
    assert_eq!(again.timeline, 3);
    write(&a, "home").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_receiver_does_not_hold_the_stop() {
    let lab = Lab::new();
    let (a, a_master, standbys) = group(&lab, &["b", "c"]).await;
    let (b, _) = &standbys[0];
    let receiver = standbys[1].0.tree().scan().unwrap();
    for member in &receiver {
        member.process.signal(Signal::STOP).unwrap();
    }
    write(&a, "last").await;
    let stopped = stop_fast(&a, &a_master, Duration::from_millis(300), soon(10)).await.unwrap();
    figure("stop with a hung receiver", stopped.took);
    assert!(stopped.forced);
    confirm(b, stopped.point.data_end, soon(5)).await.unwrap();
    for member in &receiver {
        member.process.signal(Signal::CONT).unwrap();
    }
    assert_eq!(control_data(&a, soon(5)).await.unwrap().state, ClusterState::ShutDown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_archiver_does_not_hold_the_stop_and_the_switch_is_seen() {
    let lab = Lab::new();
    let a = lab.instance_with("a", |settings| {
        settings.options.push(("archive_mode".into(), "on".into()));
        settings.options.push(("archive_command".into(), "sleep 60".into()));
    });
    let started = start_primary(&a).await;
    client(&a).await.batch_execute("CREATE TABLE t (id bigserial, body text); INSERT INTO t (body) VALUES ('x'); SELECT pg_switch_wal();").await.unwrap();
    eventually("the archiver hangs", async || a.tree().scan().unwrap().iter().any(|m| m.comm == "sleep"))
        .await;
    let stopped = stop_fast(&a, &started.postmaster, Duration::from_millis(200), soon(10)).await.unwrap();
    figure("stop with a hung archiver", stopped.took);
    assert!(stopped.forced);
    assert!(stopped.point.data_end < stopped.point.checkpoint, "{:?}", stopped.point);
    assert!(stopped.point.end > stopped.point.checkpoint);
    assert!(a.tree().scan().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_diverged_primary_is_rewound_and_its_log_kept() {
    let lab = Lab::new();
    let (a, a_master, b, _) = diverged(&lab).await;
    std::fs::write(a.data_dir().join("pg_hba.conf"), "# ours\nhost all all all trust\nlocal all all trust\n")
        .unwrap();
    own(&a.data_dir().join("pg_hba.conf"));
    let running = rejoin(&a, &DirectControl, &back_to(&b, "a"), &|_| {}, soon(5)).await;
    assert!(matches!(running, Err(RejoinError::Running { .. })), "{running:?}");
    fence_quiet(&a, &a_master).await;
    let forbidden = RejoinRequest { may_rewind: false, may_rebuild: false, ..back_to(&b, "a") };
    let refused = rejoin(&a, &DirectControl, &forbidden, &|_| {}, soon(10)).await;
    assert!(matches!(refused, Err(RejoinError::NotAllowed { .. })), "{refused:?}");
    let done = rejoined(&a, &back_to(&b, "a")).await;
    assert_eq!(done.how, How::Rewind);
    assert!(done.data_incarnation_changed);
    let lost = done.diverged.unwrap();
    assert!(lost.bytes > 0 && lost.bytes < 1 << 20, "{lost:?}");
    assert!(lost.transactions.is_some_and(|count| count >= 1), "{lost:?}");
    let note = std::fs::read_to_string(lost.kept_at.join("note.json")).unwrap();
    assert!(note.contains(&format!("\"transactions\": {}", lost.transactions.unwrap())), "{note}");
    assert!(note.contains(&lost.from.to_string()) && note.contains("\"missing\": []"), "{note}");
    eventually("the rewound instance replays", async || has(&a, "new").await).await;
    assert!(has(&a, "common").await && !has(&a, "lost").await);
    let hba = std::fs::read_to_string(a.data_dir().join("pg_hba.conf")).unwrap();
    assert!(hba.starts_with("# ours"));
    assert!(a.data_dir().join("standby.signal").exists());
    // Twice: fenced again, it only needs to follow.
    fence_quiet(&a, &done.postmaster).await;
    let again = rejoined(&a, &back_to(&b, "a")).await;
    assert_eq!((again.how, again.diverged), (How::Follow, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_waits_for_the_checkpoint_of_the_new_primary() {
    let lab = Lab::new();
    let (a, a_master, standbys) = group(&lab, &["b"]).await;
    let (b, _) = &standbys[0];
    freeze(b, soon(5)).await.unwrap();
    write(&a, "lost").await;
    fence_quiet(&a, &a_master).await;
    promote(b, None, soon(5)).await.unwrap();
    let early = Instant::now() + Duration::from_millis(300);
    match rejoin(&a, &DirectControl, &back_to(b, "a"), &|_| {}, early).await {
        Err(RejoinError::SourceNotCheckpointed) => {}
        // The server may have made its own checkpoint already; then the ladder just goes on and runs out of time.
        other => println!("checkpointed by itself: {other:?}"),
    }
    checkpoint(b, soon(10)).await.unwrap();
    if let Some(postmaster) = attach(&a, soon(5)).await.unwrap() {
        fence_quiet(&a, &postmaster).await;
    }
    let done = rejoined(&a, &back_to(b, "a")).await;
    assert!(done.how == How::Rewind || done.how == How::Rebuild);
    assert!(!has(&a, "lost").await);
}

/// Found by chaos: an old primary came up as a standby, was told of the new timeline by its receiver, died, and from then on
/// could not be started to be stopped cleanly, because the history in its log leads away before what it has.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_knows_of_the_timeline_it_diverged_from_is_rewound() {
    let lab = Lab::new();
    let (a, a_master, b, _) = diverged(&lab).await;
    fence_quiet(&a, &a_master).await;
    let nobody = request(StartAs::Standby(StandbyUpstream::Nobody));
    let alone = start(&a, &DirectControl, &nobody, soon(20)).await.unwrap();
    fence_quiet(&a, &alone.postmaster).await;
    let history = "pg_wal/00000002.history";
    std::fs::copy(b.data_dir().join(history), a.data_dir().join(history)).unwrap();
    let owner = std::fs::metadata(a.data_dir()).unwrap();
    std::os::unix::fs::chown(a.data_dir().join(history), Some(owner.uid()), Some(owner.gid())).unwrap();
    let refused = start(&a, &DirectControl, &nobody, soon(20)).await;
    assert!(matches!(refused, Err(StartError::Ended { .. })), "{refused:?}");
    let rewind = RejoinRequest { may_rebuild: false, ..back_to(&b, "a") };
    let done = rejoined(&a, &rewind).await;
    assert_eq!(done.how, How::Rewind);
    assert!(has(&a, "new").await && !has(&a, "lost").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_rewind_is_recognised_and_rebuilt() {
    let lab = Lab::new();
    let (a, a_master, b, _) = diverged(&lab).await;
    fence_quiet(&a, &a_master).await;
    // As a crash in the middle of pg_rewind leaves it: journal written, files half changed.
    std::fs::write(a.settings().state_dir.join("rejoin.json"), r#"{"stage":"rewinding","diverged":null}"#)
        .unwrap();
    std::fs::remove_dir_all(a.data_dir().join("base")).unwrap();
    let nobody = request(StartAs::Standby(StandbyUpstream::Nobody));
    let refused = start(&a, &DirectControl, &nobody, soon(5)).await;
    assert!(matches!(refused, Err(StartError::HalfRewound)), "{refused:?}");
    let cautious = RejoinRequest { may_rebuild: false, ..back_to(&b, "a") };
    let refused = rejoin(&a, &DirectControl, &cautious, &|_| {}, soon(5)).await;
    assert!(matches!(refused, Err(RejoinError::NotAllowed { needed: How::Rebuild, .. })), "{refused:?}");
    let done = rejoined(&a, &back_to(&b, "a")).await;
    assert_eq!(done.how, How::Rebuild);
    assert!(has(&a, "new").await && !has(&a, "lost").await);
    assert!(!a.data_dir().with_extension("mesh-rebuild").exists());
    std::fs::write(a.settings().state_dir.join("rejoin.json"), "nonsense").unwrap();
    assert!(matches!(unfinished(&a, soon(5)).await, Err(JournalError::Damaged { .. })));
}

/// Rewound, and then it did not stream: whoever tries again must know that the data is another than before.
#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_that_did_not_come_to_stream_is_still_told_as_one() {
    let lab = Lab::new();
    let (a, a_master, b, _) = diverged(&lab).await;
    fence_quiet(&a, &a_master).await;
    let done = rejoined(&a, &back_to(&b, "a")).await;
    assert_eq!((done.how, done.data_incarnation_changed), (How::Rewind, true));
    fence_quiet(&a, &done.postmaster).await;
    let journal = r#"{"stage":"rewound","diverged":null}"#;
    std::fs::write(a.settings().state_dir.join("rejoin.json"), journal).unwrap();
    // It may be started as it is, and it need not be rewound again.
    let again = rejoined(&a, &back_to(&b, "a")).await;
    assert_eq!((again.how, again.data_incarnation_changed), (How::Rewind, true));
    assert!(has(&a, "new").await && !has(&a, "lost").await);
    // Without the journal it only follows.
    fence_quiet(&a, &again.postmaster).await;
    let after = rejoined(&a, &back_to(&b, "a")).await;
    assert_eq!((after.how, after.data_incarnation_changed), (How::Follow, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_hints_it_is_rebuilt_and_another_cluster_is_left_alone() {
    let lab = Lab::new();
    let bare = |settings: &mut Settings| settings.options.retain(|(name, _)| name != "wal_log_hints");
    let a = lab.instance_with("a", bare);
    let a_master = start_primary(&a).await.postmaster;
    let sql =
        "CREATE ROLE mesh_replication SUPERUSER LOGIN REPLICATION; CREATE TABLE t (id bigserial, body text)";
    client(&a).await.batch_execute(sql).await.unwrap();
    let b = lab.instance_with("b", bare);
    start_standby(&b, &a).await;
    let end = client(&a).await.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap();
    confirm(&b, end.get::<_, String>(0).parse().unwrap(), soon(10)).await.unwrap();
    freeze(&b, soon(5)).await.unwrap();
    write(&a, "lost").await;
    promote(&b, None, soon(5)).await.unwrap();
    checkpoint(&b, soon(10)).await.unwrap();
    fence_quiet(&a, &a_master).await;
    let done = rejoined(&a, &back_to(&b, "a")).await;
    assert_eq!(done.how, How::Rebuild);
    assert!(done.diverged.unwrap().kept_at.join("note.json").exists());
    assert!(!has(&a, "lost").await);
    let stranger = lab.settings("stranger");
    initdb(&stranger.data_dir);
    let stranger = Instance::open(stranger).unwrap();
    let refused = rejoin(&stranger, &DirectControl, &back_to(&b, "s"), &|_| {}, soon(10)).await;
    assert!(matches!(refused, Err(RejoinError::OtherCluster { .. })), "{refused:?}");
    assert_eq!(control_data(&stranger, soon(5)).await.unwrap().state, ClusterState::ShutDown);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_reader_agrees_with_pg_waldump() {
    let lab = Lab::new();
    let a = lab.instance("a");
    let started = start_primary(&a).await;
    let sql = "CREATE TABLE t (id bigserial, body text); INSERT INTO t (body) SELECT repeat('x', 300) FROM generate_series(1, 20000); \
               SELECT pg_switch_wal(); INSERT INTO t (body) SELECT 'y' FROM generate_series(1, 200);";
    client(&a).await.batch_execute(sql).await.unwrap();
    let control = control_data(&a, soon(5)).await.unwrap();
    fence_quiet(&a, &started.postmaster).await;
    let mut commits = 0;
    let mut records = 0;
    let mut reader = WalReader::new(a.data_dir(), &control);
    let began = Instant::now();
    let (last, why) = reader
        .scan(control.checkpoint, |record| {
            records += 1;
            commits += u32::from(record.kind == RecordKind::Commit);
        })
        .unwrap();
    let last = last.unwrap();
    figure(
        &format!("log scan of {} bytes, {records} records", last.end.bytes_since(control.checkpoint)),
        began.elapsed(),
    );
    println!("ends at {} by {why:?}", last.end);
    let waldump = bin_dir().join("pg_waldump");
    let dump = std::process::Command::new(waldump)
        .args(["-p", a.data_dir().join("pg_wal").to_str().unwrap(), "-s", &control.checkpoint.to_string()])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&dump.stdout);
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("rmgr:")).collect();
    assert_eq!(lines.len(), records);
    let is_commit = |line: &&&str| line.starts_with("rmgr: Transaction") && line.contains("desc: COMMIT");
    assert_eq!(lines.iter().filter(is_commit).count() as u32, commits);
    let padded = format!("lsn: {:X}/{:08X}", last.start.0 >> 32, last.start.0 & 0xFFFF_FFFF);
    assert!(lines.last().unwrap().contains(&padded), "{padded} / {}", lines.last().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strayed_standby_keeps_its_position_and_is_rewound() {
    let lab = Lab::new();
    let (a, a_master, standbys) = group(&lab, &["b", "c"]).await;
    let [(b, _), (c, c_master)] = &standbys[..] else { unreachable!() };
    freeze(b, soon(5)).await.unwrap();
    write(&a, "ahead").await;
    // Without it, c would have nothing that b lacks.
    eventually("the standby that will stray has more", async || has(c, "ahead").await).await;
    fence_quiet(&a, &a_master).await;
    let strayed = freeze(c, soon(5)).await.unwrap();
    promote(b, None, soon(5)).await.unwrap();
    checkpoint(b, soon(10)).await.unwrap();
    write(b, "new").await;
    assert!(position(b, soon(5)).await.is_err());
    let tried = follow(c, &upstream(b, "c"), 2, Instant::now() + Duration::from_millis(1500)).await;
    assert!(tried.is_err(), "{tried:?}");
    let after = position(c, soon(5)).await.unwrap();
    assert!(after.end >= strayed.end, "{after:?} {strayed:?}");
    assert_eq!(after.timeline, 1);
    fence_quiet(c, c_master).await;
    let done = rejoined(c, &back_to(b, "c")).await;
    assert_eq!(done.how, How::Rewind);
    eventually("the strayed standby replays", async || has(c, "new").await).await;
    assert!(!has(c, "ahead").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dead_log_says_what_a_candidate_lacks() {
    let lab = Lab::new();
    let (a, a_master, standbys) = group(&lab, &["b"]).await;
    let (b, _) = &standbys[0];
    write(&a, "held").await;
    let end = client(&a).await.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap();
    confirm(b, end.get::<_, String>(0).parse().unwrap(), soon(5)).await.unwrap();
    let whole = freeze(b, soon(5)).await.unwrap();
    write(&a, "one").await;
    write(&a, "two").await;
    let alive = crash_scan(&a, whole.system_identifier, whole.replayed, whole.end, soon(5)).await;
    assert!(matches!(alive, Err(CrashScanError::Running { .. })), "{alive:?}");
    fence_quiet(&a, &a_master).await;
    let began = Instant::now();
    let lost = crash_scan(&a, whole.system_identifier, whole.replayed, whole.end, soon(5)).await.unwrap();
    figure("crash scan", began.elapsed());
    assert_eq!(lost.commits_beyond, 2);
    let none = crash_scan(&a, whole.system_identifier, whole.replayed, lost.end, soon(5)).await.unwrap();
    assert_eq!((none.commits_beyond, none.bytes_beyond), (0, 0));
    let inside = mesh_proto::Lsn(whole.replayed.0 + 8);
    let unknown = crash_scan(&a, whole.system_identifier, inside, whole.end, soon(5)).await;
    assert!(matches!(unknown, Err(CrashScanError::NoRecord { .. })), "{unknown:?}");
    let foreign = crash_scan(&a, 1, whole.replayed, whole.end, soon(5)).await;
    assert!(matches!(foreign, Err(CrashScanError::OtherCluster { .. })), "{foreign:?}");
}
