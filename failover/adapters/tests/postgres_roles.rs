//! Roles with passwords, the check list, and what probing costs, on a real server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::wildcard_enum_match_arm)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mesh_adapters::postgres::*;
use support::*;

fn passfile(dir: &Path, user: &str, password: &str) -> PathBuf {
    let path = dir.join(format!("{user}.pass"));
    std::fs::write(&path, format!("*:*:*:{user}:{password}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    own(&path);
    path
}

/// A primary that asks for passwords over TCP.
async fn guarded(lab: &Lab) -> Instance {
    let instance = lab.instance_with("a", |settings| {
        settings.probe.passfile = Some(passfile(&settings.state_dir, "mesh_probe", "pro:be"));
        settings.replication.passfile =
            Some(passfile(&settings.state_dir, "mesh_replication", "repli\\\\cate"));
        settings.mesh_hba = vec![
            "local all postgres trust".into(),
            "local replication postgres trust".into(),
            "host all mesh_probe all scram-sha-256".into(),
            "host replication mesh_replication all scram-sha-256".into(),
            "host all mesh_replication all scram-sha-256".into(),
        ];
    });
    start_primary(&instance).await;
    instance
}

fn target(instance: &Instance) -> ProbeTarget {
    ProbeTarget {
        address: instance.address(),
        database: "postgres".into(),
        user: "mesh_probe".into(),
        passfile: instance.settings().probe.passfile.clone(),
        system_identifier: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_made_once_and_work_with_passwords() {
    let lab = Lab::new();
    let a = guarded(&lab).await;
    let wait = Duration::from_secs(2);
    let before = Prober::new(target(&a)).probe(wait).await;
    assert!(matches!(&before.outcome, ProbeOutcome::AuthFailed { .. }), "{before:?}");
    let done = prepare(&a, Passwords::Keep, soon(5)).await.unwrap();
    assert_eq!(done.created, ["mesh_probe", "mesh_replication"]);
    let again = prepare(&a, Passwords::Keep, soon(5)).await.unwrap();
    assert_eq!(again, Prepared::default());
    let row = EpochRow { epoch: 1, lease_no: 1, instance: "a".into() };
    record_epoch(&a, &row, Durability::Local, soon(5)).await.unwrap();
    let seen = Prober::new(target(&a)).probe(wait).await;
    assert!(matches!(&seen.outcome, ProbeOutcome::Writable(facts) if facts.epoch.is_some()), "{seen:?}");
    // A standby streams with the password file, and a rebuild and a rewind's questions work with these grants alone.
    let b = lab.instance_with("b", |settings| {
        settings.replication = a.settings().replication.clone();
        settings.mesh_hba = a.settings().mesh_hba.clone();
    });
    std::fs::remove_dir_all(b.data_dir()).unwrap();
    let b = Instance::open(b.settings().clone()).unwrap();
    let request = RejoinRequest {
        source: upstream(&a, "b"),
        system_identifier: None,
        clients: Clients::ShutOut,
        from: How::Follow,
        may_rewind: true,
        may_rebuild: true,
        restore_target_wal: false,
    };
    let rebuilt = rejoin(&b, &DirectControl, &request, &|_| {}, soon(30)).await.unwrap();
    assert_eq!(rebuilt.how, How::Rebuild);
    let path = a.settings().probe.passfile.clone().unwrap();
    std::fs::write(&path, "*:*:*:mesh_probe:other\n").unwrap();
    let wrong = Prober::new(target(&a)).probe(wait).await;
    assert_eq!(wrong.outcome, ProbeOutcome::AuthFailed { sqlstate: "28P01".into() });
    let rotated = prepare(&a, Passwords::Rotate, soon(5)).await.unwrap();
    assert_eq!(rotated.passwords_set.len(), 2);
    assert!(matches!(Prober::new(target(&a)).probe(wait).await.outcome, ProbeOutcome::Writable(_)));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let open = Prober::new(target(&a)).probe(wait).await;
    assert_eq!(open.outcome, ProbeOutcome::AuthFailed { sqlstate: String::new() });
    let log = std::fs::read_to_string(&a.settings().log_file).unwrap();
    assert!(!log.contains("pro:be"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_says_whether_a_service_works_and_writes_nothing() {
    let lab = Lab::new();
    let a = guarded(&lab).await;
    prepare(&a, Passwords::Keep, soon(5)).await.unwrap();
    let row = EpochRow { epoch: 1, lease_no: 1, instance: "a".into() };
    record_epoch(&a, &row, Durability::Local, soon(5)).await.unwrap();
    let (target, ask) = (target(&a), "SELECT count(*) = 1 FROM mesh.epoch");
    healthy(&target, ask, soon(5)).await.unwrap();
    for (query, why) in [
        ("SELECT count(*) = 2 FROM mesh.epoch", "false"),
        ("SELECT NULL::boolean", "NULL"),
        ("SELECT true WHERE false", "no row"),
        ("VALUES (true), (true)", "several rows"),
    ] {
        let said = healthy(&target, query, soon(5)).await.unwrap_err();
        assert!(matches!(&said, HealthQueryError::NotTrue(found) if *found == why), "{query}: {said:?}");
    }
    // Neither a write, nor a second statement, nor a transaction that may write.
    for query in [
        "INSERT INTO mesh.route_proof (route, epoch, at) VALUES ('x', 1, now()) RETURNING true",
        "SELECT true; SELECT true",
        "SELECT 1",
        "SELECT set_config('transaction_read_only', 'off', false) = 'off'",
        "SELECT pg_sleep(10) IS NULL",
    ] {
        let began = Instant::now();
        let said = healthy(&target, query, began + Duration::from_millis(500)).await;
        assert!(matches!(said, Err(HealthQueryError::Sql(_))), "{query}: {said:?}");
        assert!(began.elapsed() < Duration::from_secs(3), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_list_names_what_is_wrong() {
    let lab = Lab::new();
    let a = lab.instance_with("a", |settings| {
        settings.options.push(("synchronous_commit".into(), "local".into()));
        settings.options.push(("synchronous_standby_names".into(), "x".into()));
    });
    start_primary(&a).await;
    let findings = doctor(&a, soon(5)).await.unwrap();
    let names: Vec<&str> = findings.iter().map(|finding| finding.check).collect();
    for expected in ["synchronous_commit", "synchronous_standby_names", "probe_role", "replication_role"] {
        assert!(names.contains(&expected), "{expected} in {names:?}");
    }
    assert_eq!(findings[0].severity, Severity::Blocking);
    let fixed = SyncSetting { version: 1, gated: false, quorum: None };
    let overridden = set_sync(&a, &fixed, soon(5)).await;
    assert!(matches!(overridden, Err(GateError::Overridden { .. })), "{overridden:?}");
    let good = lab.instance("b");
    start_primary(&good).await;
    prepare(&good, Passwords::Keep, soon(5)).await.unwrap();
    assert_eq!(doctor(&good, soon(5)).await.unwrap(), vec![]);
}

#[tokio::test(flavor = "multi_thread")]
async fn probing_four_times_a_second_costs_little() {
    let lab = Lab::new();
    let a = lab.instance("a");
    start_primary(&a).await;
    prepare(&a, Passwords::Keep, soon(5)).await.unwrap();
    let mut prober = Prober::new(target(&a));
    let mut writer = WriteProbe::new(Durability::Local);
    let wait = Duration::from_secs(1);
    prober.probe(wait).await;
    writer.run(&a, soon(1)).await;
    let (began, cpu) = (Instant::now(), own_cpu());
    for _ in 0..12 {
        prober.probe(wait).await;
        assert!(matches!(writer.run(&a, soon(1)).await, WriteOutcome::Ok { .. }));
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let share = (own_cpu() - cpu).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    println!(
        "FIGURE probe and write probe, each 4 times a second, debug build: {share:.2} % of a core (whole test process)"
    );
}

fn own_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}
