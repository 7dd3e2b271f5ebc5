use super::*;

#[test]
fn every_profile_keeps_every_relation() {
    for p in [Profile::Fast, Profile::Lan, Profile::Wan] {
        assert_eq!(check_timing(&profile(p)), [], "{p:?}");
    }
}

#[test]
fn groups_share_no_instance_and_no_backend() {
    let text = r#"{"group": "orders", "instance": [{"name": "pg-a", "site": "a", "agent": "a",
        "address": "10.0.0.1:5432", "guard": "10.0.0.1:7401"}],
        "route": [{"name": "db", "kind": "haproxy", "agent": "w", "backend": "pg", "listen": "10.0.0.3:5432"}]}"#;
    let orders: GroupSpec = serde_json::from_str(text).unwrap();
    let mut other = orders.clone();
    assert_eq!(check_beside(&other, [&orders].into_iter()), [], "a newer version of the same group");
    other.group = "billing".parse().unwrap();
    let keys = |spec: &GroupSpec| -> Vec<String> {
        check_beside(spec, [&orders].into_iter()).into_iter().map(|finding| finding.key).collect()
    };
    assert_eq!(keys(&other), ["instance[pg-a].name", "route[db].backend"]);
    other.routes.clear();
    other.instances[0].name = "pg-b".parse().unwrap();
    assert_eq!(keys(&other), ["instance[pg-b].address"]);
    other.instances[0].address = "10.0.0.1:5433".parse().unwrap();
    assert_eq!(keys(&other), ["instance[pg-b].guard"]);
    other.instances[0].guard = "10.0.0.1:7402".parse().unwrap();
    assert!(keys(&other).is_empty());
}

#[test]
fn groups_share_no_pooler_and_its_database_is_a_name() {
    let spec = |group: &str, database: &str| -> GroupSpec {
        let text = format!(
            r#"{{"group": "{group}", "route": [{{"name": "db", "kind": "pgbouncer", "agent": "w",
            "database": "{database}", "listen": "10.0.0.3:6432"}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    };
    let orders = spec("orders", "app");
    let beside = |spec: &GroupSpec| check_beside(spec, [&orders].into_iter());
    assert_eq!(beside(&spec("billing", "app"))[0].key, "route[db].database");
    assert_eq!(beside(&spec("billing", "other")), []);
    for bad in ["", "pgbouncer", "a b", "a;b"] {
        let found = check(&spec("orders", bad), &[]);
        assert!(found.iter().any(|finding| finding.key == "route[db].database"), "{bad:?}");
    }
}

#[test]
fn a_group_has_one_engine_and_redis_no_pooler_of_postgres() {
    let text = r#"{"group": "cache", "engine": "redis",
        "instance": [{"name": "a", "site": "east", "agent": "e", "engine": "postgres",
            "address": "10.0.0.1:6379", "guard": "10.0.0.1:7401"}],
        "route": [{"name": "db", "kind": "pgbouncer", "agent": "w", "database": "app", "listen": "10.0.0.3:6432"}]}"#;
    let spec: GroupSpec = serde_json::from_str(text).unwrap();
    let found = check_engine(&spec);
    let keys: Vec<_> = found.iter().map(|finding| finding.key.as_str()).collect();
    assert_eq!(keys, ["instance[a].engine", "route[db].kind"]);
    assert!(found[0].what.contains("PostgreSQL in a group of Redis"), "{}", found[0].what);
    let without: GroupSpec = serde_json::from_str(r#"{"group": "orders"}"#).unwrap();
    assert_eq!(without.engine, Engine::Postgres, "what was applied before there was a choice");
    assert!(!serde_json::to_string(&without).unwrap().contains("engine"), "an older agent reads it");
    assert!(serde_json::from_str::<GroupSpec>(r#"{"group": "x", "engine": "mysql"}"#).is_err());
}

#[test]
fn unsafe_timings_are_refused_with_a_value_that_would_do() {
    let mut t = profile(Profile::Lan);
    t.lease = Millis(500);
    let findings = check_timing(&t);
    assert!(findings.iter().any(|f| f.key == "timing.lease_ms" && f.next.contains("1250")), "{findings:?}");
}

#[test]
fn a_restart_has_a_time_and_a_redis_none() {
    let spec =
        |text: &str| -> GroupSpec { serde_json::from_str(&format!(r#"{{"group": "g"{text}}}"#)).unwrap() };
    let keys = |text: &str| -> Vec<String> {
        check_crash(&spec(text)).into_iter().map(|finding| finding.key).collect()
    };
    assert!(keys("").is_empty());
    for (seconds, fits) in [(0, false), (1, true), (3_600, true), (3_601, false), (u64::MAX, false)] {
        let found = keys(&format!(r#", "crash_restart_seconds": {seconds}"#));
        assert_eq!(found.is_empty(), fits, "{seconds}: {found:?}");
    }
    assert!(keys(r#", "crash_policy": "restart-first""#).is_empty());
    assert_eq!(keys(r#", "engine": "redis", "crash_policy": "restart-first""#), ["crash_policy"]);
    assert!(keys(r#", "engine": "redis", "crash_policy": "failover-first""#).is_empty());
}
