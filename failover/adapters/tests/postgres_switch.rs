//! Freeze, compare, promote, follow, gate, probe: on real servers, each also twice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::wildcard_enum_match_arm)]

mod support;

use std::time::{Duration, Instant};

use mesh_adapters::postgres::*;
use mesh_adapters::process::Signal;
use mesh_proto::Lsn;
use support::*;

fn row(epoch: u64, instance: &str) -> EpochRow {
    EpochRow { epoch, lease_no: 1, instance: instance.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_failover_end_to_end() {
    let lab = Lab::new();
    let (a, a_master, standbys) = group(&lab, &["b", "c"]).await;
    let [(b, _), (c, _)] = &standbys[..] else { unreachable!() };
    record_epoch(&a, &row(1, "a"), Durability::Local, soon(5)).await.unwrap();
    // A guard asks its standby all the time, so its session is warm.
    for standby in [b, c] {
        position(standby, soon(5)).await.unwrap();
    }
    let writers = Writers::start(&a, 4).await;
    let died = Instant::now();
    a_master.process().signal(Signal::KILL).unwrap();
    a_master.death().await.unwrap();
    let hard = FencePlan { budget: Duration::from_secs(1), mode: FenceMode::Hard };
    let proof = fence(&a, Some(&a_master), hard).await.unwrap();
    figure("kill of the postmaster to no-ack", died.elapsed());
    let froze = Instant::now();
    let (at_b, at_c) = tokio::join!(freeze(b, soon(5)), freeze(c, soon(5)));
    figure("freeze of two standbys", froze.elapsed());
    let (at_b, at_c) = (at_b.unwrap(), at_c.unwrap());
    assert_eq!((at_b.timeline, at_b.system_identifier), (1, at_c.system_identifier));
    let (best, other) = if at_b.end >= at_c.end { (b, c) } else { (c, b) };
    let promoted = promote(best, None, soon(10)).await.unwrap();
    figure("promote", promoted.took);
    assert!(promoted.was_standby);
    assert_eq!(promoted.timeline, 2);
    let recorded = record_epoch(best, &row(2, "best"), Durability::Local, soon(5)).await.unwrap();
    assert_eq!(recorded, Recorded::Written);
    figure("kill of the postmaster to first write elsewhere", died.elapsed());
    let again = promote(best, None, soon(5)).await.unwrap();
    assert!(!again.was_standby);
    assert_eq!(again.timeline, 2);
    let repeated = record_epoch(best, &row(2, "best"), Durability::Local, soon(5)).await.unwrap();
    assert_eq!(repeated, Recorded::AlreadyThere);
    let later = EpochRow { lease_no: row(2, "best").lease_no + 1, ..row(2, "best") };
    let anew = record_epoch(best, &later, Durability::Local, soon(5)).await.unwrap();
    assert_eq!(anew, Recorded::Again, "the same epoch under the next lease");
    for stale in [row(1, "a"), row(2, "a")] {
        let refused = record_epoch(best, &stale, Durability::Local, soon(5)).await;
        assert!(matches!(refused, Err(EpochError::Superseded { found: 2, .. })), "{refused:?}");
    }
    let reload = Instant::now();
    let at = follow(other, &upstream(best, "other"), 2, soon(10)).await.unwrap();
    figure("follow by reload", reload.elapsed());
    assert_eq!(at.timeline, 2);
    follow(other, &upstream(best, "other"), 2, soon(10)).await.unwrap();
    // Without a receiver its control file does not know the timeline before the next restartpoint; it does itself.
    freeze(other, soon(5)).await.unwrap();
    let glimpse = Glance::default().look(other, soon(5)).await.unwrap();
    assert_eq!((glimpse.timeline, glimpse.streaming), (2, false));
    figure("checkpoint after promotion", checkpoint(best, soon(10)).await.unwrap());
    quiet(&a, &proof, soon(5)).await.unwrap();
    assert!(count(best).await as u64 <= writers.count() + 4);
    client(best).await.execute("INSERT INTO t (body) VALUES ('after')", &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_holds_through_restart_and_position_survives_null() {
    let lab = Lab::new();
    let (a, _, standbys) = group(&lab, &["b"]).await;
    let (b, b_master) = &standbys[0];
    client(&a)
        .await
        .batch_execute("INSERT INTO t (body) SELECT 'x' FROM generate_series(1, 1000)")
        .await
        .unwrap();
    let began = Instant::now();
    let frozen = freeze(b, soon(5)).await.unwrap();
    figure("freeze of one standby", began.elapsed());
    let twice = freeze(b, soon(5)).await.unwrap();
    assert_eq!(frozen.end, twice.end);
    assert_eq!(twice.streaming_from, None);
    client(&a).await.batch_execute("INSERT INTO t (body) VALUES ('beyond')").await.unwrap();
    let short = confirm(b, Lsn(frozen.end.0 + 1), Instant::now() + Duration::from_millis(50)).await;
    assert!(matches!(short, Err(StandbyError::NotReached { .. })), "{short:?}");
    let ladder = FencePlan { budget: Duration::from_secs(5), mode: FenceMode::Ladder };
    let proof = fence(b, Some(b_master), ladder).await.unwrap();
    assert!(proof.clean);
    quiet(b, &proof, soon(5)).await.unwrap();
    let as_configured = request(StartAs::Standby(StandbyUpstream::AsConfigured));
    let started = start(b, &DirectControl, &as_configured, soon(20)).await.unwrap();
    assert!(started.in_recovery);
    let after = position(b, soon(5)).await.unwrap();
    assert_eq!((after.received, after.streaming_from), (None, None));
    assert_eq!(after.end, frozen.end);
    assert_eq!(after.timeline, 1);
    let refused = freeze(&a, soon(5)).await;
    assert!(matches!(refused, Err(StandbyError::NotInRecovery)), "{refused:?}");
    assert!(matches!(position(&a, soon(5)).await, Err(StandbyError::NotInRecovery)));
    let back = follow(b, &upstream(&a, "b"), 1, soon(10)).await.unwrap();
    assert!(back.end >= frozen.end);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commit_gate_holds_and_releases() {
    for standbys in [&[][..], &["b"][..]] {
        let lab = Lab::new();
        let (a, _, _all) = group(&lab, standbys).await;
        let writers = Writers::start(&a, 8).await;
        let shut = SyncSetting { version: 3, gated: true, quorum: None };
        let began = Instant::now();
        set_sync(&a, &shut, soon(5)).await.unwrap();
        figure(&format!("commit gate in force, {} standbys", standbys.len()), began.elapsed());
        let last = writers.last.lock().unwrap().unwrap();
        figure("commit gate, last acknowledgement", last.saturating_duration_since(began));
        let held = writers.count();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(writers.count(), held, "acknowledged behind the gate");
        set_sync(&a, &shut, soon(5)).await.unwrap();
        let mut probe = WriteProbe::new(Durability::Local);
        record_epoch(&a, &row(1, "a"), Durability::Local, soon(5)).await.unwrap();
        let outcome = probe.run(&a, soon(2)).await;
        assert!(matches!(outcome, WriteOutcome::Ok { .. }), "{outcome:?}");
        let mut waits = WriteProbe::new(Durability::Quorum);
        for _ in 0..2 {
            let outcome = waits.run(&a, Instant::now() + Duration::from_millis(100)).await;
            assert!(matches!(outcome, WriteOutcome::WaitingForStandbys { .. }), "{outcome:?}");
        }
        let quorum = (!standbys.is_empty()).then(|| Quorum { k: 1, names: vec!["b".into()] });
        let open = SyncSetting { version: 4, gated: false, quorum };
        let began = Instant::now();
        set_sync(&a, &open, soon(5)).await.unwrap();
        figure("commit gate lifted", began.elapsed());
        eventually("writers go on", async || writers.count() > held + 10).await;
        let outcome = waits.run(&a, soon(2)).await;
        assert!(matches!(outcome, WriteOutcome::Ok { .. }), "{outcome:?}");
        set_sync(&a, &open, soon(5)).await.unwrap();
        let impossible =
            SyncSetting { version: 5, gated: false, quorum: Some(Quorum { k: 2, names: vec!["b".into()] }) };
        assert!(matches!(set_sync(&a, &impossible, soon(5)).await, Err(GateError::Impossible { .. })));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_is_changed_behind_the_gate_and_a_marker_says_when_it_holds() {
    let lab = Lab::new();
    let (a, _, _all) = group(&lab, &["b", "c"]).await;
    let writers = Writers::start(&a, 4).await;
    let quorum =
        |k: u32, names: &[&str]| Quorum { k, names: names.iter().map(|n| (*n).to_owned()).collect() };
    let setting =
        |version: u64, quorum: &Quorum| SyncSetting { version, gated: false, quorum: Some(quorum.clone()) };
    // The third changes k alone: no walsender would show that by itself.
    for (version, wanted) in [
        (1, quorum(1, &["b"])),
        (2, quorum(2, &["b", "c"])),
        (3, quorum(1, &["b", "c"])),
        (4, quorum(1, &["c"])),
    ] {
        let began = Instant::now();
        change_sync(&a, &setting(version, &wanted), soon(5)).await.unwrap();
        figure(&format!("commit quorum {version} in force"), began.elapsed());
        marker(&a, &wanted, soon(5)).await.unwrap();
        let before = writers.count();
        eventually("writers go on", async || writers.count() > before + 10).await;
    }
    let nobody = quorum(1, &["nobody"]);
    change_sync(&a, &setting(5, &nobody), soon(5)).await.unwrap();
    // What was acknowledged before may still be on its way to the writers.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let held = writers.count();
    let late = marker(&a, &nobody, Instant::now() + Duration::from_millis(300)).await;
    assert!(matches!(late, Err(GateError::NotInForce)), "{late:?}");
    assert_eq!(writers.count(), held, "acknowledged without its standby");
    let none = SyncSetting { version: 6, gated: false, quorum: None };
    change_sync(&a, &none, soon(5)).await.unwrap();
    eventually("writers go on alone", async || writers.count() > held + 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_boot_gate_keeps_clients_out_and_mesh_in() {
    let lab = Lab::new();
    let a = lab.instance("a");
    let shut = StartRequest { clients: Clients::ShutOut, ..request(StartAs::Primary) };
    let started = start(&a, &DirectControl, &shut, soon(20)).await.unwrap();
    figure("start to first session", started.took);
    assert!(!started.in_recovery);
    let refused = try_client(a.address()).await.map(drop).expect_err("clients must be shut out");
    assert_eq!(refused.code().unwrap().code(), "28000");
    record_epoch(&a, &row(1, "a"), Durability::Local, soon(5)).await.unwrap();
    for _ in 0..2 {
        let began = Instant::now();
        set_clients(&a, Clients::LetIn, soon(5)).await.unwrap();
        figure("boot gate opened", began.elapsed());
        client(&a).await;
    }
    let kept = client(&a).await;
    set_clients(&a, Clients::ShutOut, soon(5)).await.unwrap();
    assert!(try_client(a.address()).await.is_err());
    kept.simple_query("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_directories_programs_and_clusters_are_told_apart() {
    let lab = Lab::new();
    let a = lab.instance("a");
    let seen = inspect(&a, None, soon(5)).await.unwrap();
    assert_eq!(seen.control.state, ClusterState::ShutDown);
    let foreign = inspect(&a, Some(seen.control.system_identifier + 1), soon(5)).await;
    assert!(matches!(foreign, Err(InspectError::ForeignCluster { .. })), "{foreign:?}");
    let none = lab.instance_with("none", |_| {});
    std::fs::remove_file(none.data_dir().join("PG_VERSION")).unwrap();
    let error = start(&none, &DirectControl, &request(StartAs::Primary), soon(5)).await.unwrap_err();
    assert!(matches!(error, StartError::Inspect(InspectError::NotADataDirectory { .. })), "{error:?}");
    std::fs::write(none.data_dir().join("PG_VERSION"), "9\n").unwrap();
    assert!(matches!(inspect(&none, None, soon(5)).await, Err(InspectError::ForeignVersion { data: 9, .. })));
    let missing = lab.instance_with("missing", |settings| settings.bin_dir = "/nowhere".into());
    assert!(matches!(
        inspect(&missing, None, soon(5)).await,
        Err(InspectError::Programs(ToolError::Missing { .. }))
    ));
    let broken =
        lab.instance_with("broken", |settings| settings.options.push(("no_such_setting".into(), "1".into())));
    let error = start(&broken, &DirectControl, &request(StartAs::Primary), soon(5)).await.unwrap_err();
    let StartError::Ended { exit, log, .. } = &error else { panic!("{error:?}") };
    assert_eq!(exit.to_string(), "exit code 1");
    assert!(log.contains("no_such_setting"), "{log}");
    let mut control = std::fs::read(a.data_dir().join("global/pg_control")).unwrap();
    control[40] ^= 0xFF;
    std::fs::write(a.data_dir().join("global/pg_control"), control).unwrap();
    let damaged = inspect(&a, None, soon(5)).await;
    assert!(matches!(damaged, Err(InspectError::Control(ControlDataError::Form { .. }))), "{damaged:?}");
}

fn target(instance: &Instance) -> ProbeTarget {
    ProbeTarget {
        address: instance.address(),
        database: "postgres".into(),
        user: "mesh_probe".into(),
        passfile: None,
        system_identifier: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_tells_states_apart() {
    let lab = Lab::new();
    let (a, a_master, standbys) = group(&lab, &["b"]).await;
    let wait = Duration::from_millis(500);
    let mut probe = Prober::new(target(&a));
    let first = probe.probe(wait).await;
    let ProbeOutcome::Writable(facts) = &first.outcome else { panic!("{first:?}") };
    assert_eq!((facts.timeline, &facts.epoch), (1, &None));
    record_epoch(&a, &row(5, "a"), Durability::Local, soon(5)).await.unwrap();
    client(&a).await.batch_execute("REVOKE SELECT ON mesh.epoch FROM mesh_probe").await.unwrap();
    let blind = probe.probe(wait).await;
    assert!(matches!(&blind.outcome, ProbeOutcome::Writable(facts) if facts.epoch.is_none()), "{blind:?}");
    client(&a).await.batch_execute("GRANT SELECT ON mesh.epoch TO mesh_probe").await.unwrap();
    let second = probe.probe(wait).await;
    let ProbeOutcome::Writable(facts) = &second.outcome else { panic!("{second:?}") };
    assert_eq!(facts.epoch.as_ref().unwrap().epoch, 5);
    assert!(!second.fresh);
    figure("probe over a kept session", second.took);
    let fresh = probe.probe_fresh(wait).await;
    figure("probe over a new session", fresh.took);
    let standby = Prober::new(target(&standbys[0].0)).probe(wait).await;
    assert!(matches!(standby.outcome, ProbeOutcome::ReadOnly(_)), "{standby:?}");
    let mut foreign = Prober::new(ProbeTarget { system_identifier: Some(1), ..target(&a) });
    assert!(matches!(foreign.probe(wait).await.outcome, ProbeOutcome::WrongSystem { .. }));
    let mut nobody = Prober::new(ProbeTarget { user: "nobody_known".into(), ..target(&a) });
    assert_eq!(nobody.probe(wait).await.outcome, ProbeOutcome::AuthFailed { sqlstate: "28000".into() });
    let members = a.tree().scan().unwrap();
    for member in &members {
        member.process.signal(Signal::STOP).unwrap();
    }
    for _ in 0..2 {
        assert_eq!(probe.probe(wait).await.outcome, ProbeOutcome::TimedOut);
    }
    for member in &members {
        member.process.signal(Signal::CONT).unwrap();
    }
    assert!(matches!(probe.probe(wait).await.outcome, ProbeOutcome::Writable(_)));
    let hard = FencePlan { budget: Duration::from_secs(1), mode: FenceMode::Hard };
    fence(&a, Some(&a_master), hard).await.unwrap();
    a_master.death().await.unwrap();
    for _ in 0..2 {
        assert_eq!(probe.probe(wait).await.outcome, ProbeOutcome::Refused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_waits_longer_than_its_deadline_for_a_frozen_server() {
    let lab = Lab::new();
    let (_a, _, standbys) = group(&lab, &["b"]).await;
    let (b, _) = &standbys[0];
    position(b, soon(5)).await.unwrap();
    for member in b.tree().scan().unwrap() {
        member.process.signal(Signal::STOP).unwrap();
    }
    let soonest = || Instant::now() + Duration::from_millis(200);
    let began = Instant::now();
    assert!(matches!(position(b, soonest()).await, Err(StandbyError::Sql(e)) if e.is_deadline()));
    assert!(freeze(b, soonest()).await.is_err());
    assert!(follow(b, &upstream(b, "b"), 1, soonest()).await.is_err());
    assert!(confirm(b, Lsn(1), soonest()).await.is_err());
    assert!(promote(b, None, soonest()).await.is_err());
    assert!(record_epoch(b, &row(1, "b"), Durability::Local, soonest()).await.is_err());
    assert!(checkpoint(b, soonest()).await.is_err());
    assert!(identify(b, soonest()).await.is_err());
    assert!(doctor(b, soonest()).await.is_err());
    assert!(prepare(b, Passwords::Keep, soonest()).await.is_err());
    assert!(end_clients(b, soonest()).await.is_err());
    let gate = SyncSetting { version: 1, gated: true, quorum: None };
    assert!(set_sync(b, &gate, soonest()).await.is_err());
    assert!(set_clients(b, Clients::ShutOut, soonest()).await.is_err());
    let took = began.elapsed();
    assert!(took < Duration::from_secs(8), "13 operations of 0.2 s took {took:?}");
    let hard = FencePlan { budget: Duration::from_secs(1), mode: FenceMode::Hard };
    fence(b, None, hard).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_clients_end_and_those_of_mesh_stay() {
    let lab = Lab::new();
    let (_a, _, standbys) = group(&lab, &["b"]).await;
    let (b, _) = &standbys[0];
    client(&_a).await.batch_execute("CREATE ROLE app LOGIN").await.unwrap();
    let text = format!("host=127.0.0.1 port={} user=app dbname=postgres", b.settings().port);
    eventually("the role arrives", async || {
        tokio_postgres::connect(&text, tokio_postgres::NoTls).await.is_ok()
    })
    .await;
    let (app, connection) = tokio_postgres::connect(&text, tokio_postgres::NoTls).await.unwrap();
    let ended = tokio::spawn(connection);
    assert!(end_clients(b, soon(5)).await.unwrap() >= 1);
    assert!(ended.await.unwrap().is_err());
    assert!(app.is_closed());
    assert_eq!(position(b, soon(5)).await.unwrap().streaming_from.as_deref(), Some("127.0.0.1"));
}
