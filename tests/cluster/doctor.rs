//! `mesh doctor` on hosts that have no mesh yet: it looks at real servers, as the account that their guards run under.

use std::time::Duration;

use mesh_tests::lab::cluster::{Also, Cluster, DR, EAST, WITNESS, Wanted};
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::process::{Said, run};

use crate::support::{turn, wanted};

/// What it says on a node, before any agent or guard runs.
async fn doctor(cluster: &Cluster, node: usize, more: &[&str]) -> Said {
    let config = cluster.nodes[node].config.display().to_string();
    let words = [&["doctor", "--config", &config], more].concat();
    let command = cluster.nodes[node].host.command(&cluster.mesh, words);
    run(command, Duration::from_secs(30)).await.unwrap()
}

async fn raised() -> Cluster {
    let also = vec![Also::Redis];
    let mut cluster = Cluster::raise(Wanted { also, ..wanted(Follows::RuntimeApi, "") }).await.unwrap();
    cluster.prepare().await.unwrap();
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_nothing_in_the_way_of_sound_servers() {
    let _turn = turn().await;
    let cluster = raised().await;
    for node in [EAST, DR, WITNESS] {
        let said = doctor(&cluster, node, &[]).await;
        assert_eq!(said.code, 0, "{}", said.text());
        assert!(said.out.contains("this host") && said.out.contains("nothing is in the way"), "{}", said.out);
    }
    let said = doctor(&cluster, EAST, &[]).await;
    assert!(
        said.out.contains("pg-east (PostgreSQL)") && said.out.contains("redis-east (Redis)"),
        "{}",
        said.out
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_names_what_is_in_the_way_and_what_to_do() {
    let _turn = turn().await;
    let cluster = raised().await;
    let east = &cluster.servers[EAST];
    for sql in [
        "ALTER SYSTEM SET fsync = off",
        "ALTER SYSTEM SET synchronous_commit = local",
        "SELECT pg_reload_conf()",
        "SELECT pg_create_physical_replication_slot('forgotten')",
        "CREATE UNLOGGED TABLE scratch (n int)",
        "ALTER ROLE mesh_repl NOREPLICATION",
    ] {
        east.superuser(sql).await.unwrap();
    }
    cluster.servers[DR].stop_immediate().await.unwrap();
    let said = doctor(&cluster, EAST, &[]).await;
    assert_eq!(said.code, 6, "{}", said.text());
    for word in [
        "fsync = off",
        "synchronous_commit = local",
        "forgotten (physical)",
        "1 in database postgres",
        "replication_role",
        "in the way of a failover",
        "the lines marked ✗",
    ] {
        assert!(said.out.contains(word), "{word}: {}", said.out);
    }
    let value: serde_json::Value =
        serde_json::from_str(&doctor(&cluster, EAST, &["--json"]).await.out).unwrap();
    let levels = value["parts"][1]["findings"].as_array().unwrap();
    assert_eq!(levels[0]["level"], "blocking", "the worst first: {value}");
    let down = doctor(&cluster, DR, &[]).await;
    assert_eq!(down.code, 0, "a stopped standby is no obstacle by itself: {}", down.text());
    assert!(down.out.contains("it was not looked at"), "{}", down.out);
    let nowhere = cluster.nodes[EAST].host.command(&cluster.mesh, ["doctor", "--config", "/nowhere.toml"]);
    let said = run(nowhere, Duration::from_secs(10)).await.unwrap();
    assert!(said.code == 2 && said.text().contains("/nowhere.toml"), "{}", said.text());
}
