//! Bad input and bad days: each a clear error that says what to do, nothing changed, nothing lost.

use std::time::Duration;

use mesh_tests::lab::cluster::{Cluster, DR, EAST, WITNESS};
use mesh_tests::lab::ground::port;
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::mesh::{self, Node};
use mesh_tests::lab::postgres::{PROBE, REPL, Server};
use mesh_tests::lab::process::{Process, tail};
use mesh_tests::lab::wait::{Look, until};

use crate::support::{formed, formed_as, turn, wanted};

const LIMIT: Duration = Duration::from_secs(20);

/// Databases and configuration, but no agent yet.
async fn prepared() -> Cluster {
    let mut cluster = Cluster::raise(wanted(Follows::RuntimeApi, "")).await.unwrap();
    cluster.prepare().await.unwrap();
    cluster
}

/// Replaces a text of a node's configuration, which must be there.
fn edit(node: &Node, from: &str, to: &str) {
    let text = std::fs::read_to_string(&node.config).unwrap();
    assert!(text.contains(from), "{from:?} is not in {}", node.config.display());
    std::fs::write(&node.config, text.replace(from, to)).unwrap();
}

/// Awaits that a process ends by itself with an error; what it said.
async fn refuses(process: &mut Option<Process>) -> String {
    let process = process.as_mut().unwrap();
    let code =
        process.ended(LIMIT).await.unwrap_or_else(|error| panic!("{error:#}:\n{}", tail(process.log(), 20)));
    let said = tail(process.log(), 20);
    assert!(code.is_some_and(|code| code != 0), "ended with {code:?}:\n{said}");
    said
}

fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let _turn = turn().await;
    let mut cluster = prepared().await;
    let taken = std::net::TcpListener::bind((cluster.nodes[EAST].host.ip(), port::AGENT)).unwrap();
    cluster.start_agent(EAST).unwrap();
    let said = refuses(&mut cluster.nodes[EAST].agent).await;
    says(&said, &[&format!("{}", taken.local_addr().unwrap())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_there_is_a_conflict_and_stays() {
    let _turn = turn().await;
    let cluster = prepared().await;
    let node = &cluster.nodes[EAST];
    let store = node.config.parent().unwrap().join("agent/mesh.db");
    let before = std::fs::read(&store).unwrap();
    let config = node.config.display().to_string();
    let said = node.ask(&cluster.mesh, &["agent", "init", "--config", &config]).await.unwrap();
    assert_eq!(said.code, 4, "{}", said.text());
    says(&said.text(), &["already", "next: "]);
    assert_eq!(std::fs::read(&store).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_programs_are_named_with_the_line_that_names_them() {
    let _turn = turn().await;
    let mut cluster = prepared().await;
    let bin = cluster.servers[EAST].bin.display().to_string();
    edit(&cluster.nodes[EAST], &bin, "/nowhere/bin");
    cluster.start_guard(EAST).unwrap();
    let said = refuses(&mut cluster.nodes[EAST].guard).await;
    says(&said, &["bin_dir", "/nowhere/bin"]);
    assert!(cluster.servers[EAST].is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_named_with_its_line() {
    let _turn = turn().await;
    let mut cluster = prepared().await;
    edit(&cluster.nodes[WITNESS], "[agent]\n", "[agent]\ncolour = \"blue\"\n");
    cluster.start_agent(WITNESS).unwrap();
    let said = refuses(&mut cluster.nodes[WITNESS].agent).await;
    says(&said, &["colour", "mesh.toml"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_data_directory_is_named_and_nothing_is_adopted() {
    let _turn = turn().await;
    let mut cluster = prepared().await;
    let data = cluster.servers[EAST].data.display().to_string();
    edit(&cluster.nodes[EAST], &format!("data_dir = \"{data}\""), "data_dir = \"/nowhere/data\"");
    cluster.start_guard(EAST).unwrap();
    let said = refuses(&mut cluster.nodes[EAST].guard).await;
    says(&said, &["/nowhere/data"]);
    assert!(cluster.servers[EAST].is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_another_ones_name_is_refused() {
    let _turn = turn().await;
    let mut cluster = prepared().await;
    // The file of dr says that it is east, and so do its listeners; its certificate says who it is.
    let (east, dr) = ("name = \"east\"\nsite = \"east\"", "name = \"dr\"\nsite = \"dr\"");
    edit(&cluster.nodes[DR], dr, east);
    cluster.start_agent(DR).unwrap();
    let said = refuses(&mut cluster.nodes[DR].agent).await;
    says(&said, &["east", "dr", "certificate"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_of_another_system_is_refused() {
    let _turn = turn().await;
    let mut cluster = prepared().await;
    // A database of its own at dr, instead of a copy of east's.
    let server = cluster.servers[DR].clone();
    server.stop_immediate().await.unwrap();
    std::fs::remove_dir_all(&server.data).unwrap();
    server.found(cluster.ground()).await.unwrap();
    cluster.start_all().unwrap();
    agents_answer(&cluster).await;
    cluster.must(EAST, &["form"]).await.unwrap();
    apply(&mut cluster, "").await.unwrap();
    // Refused, whether before or after the guard of the stranger has reported.
    let said = until("the guards reported", LIMIT, || async {
        let said =
            cluster.nodes[EAST].ask(&cluster.mesh, &["adopt", "pg-east", "--group", mesh::GROUP]).await?;
        let about = said.text().contains("system identifier");
        Ok(if about { Look::There(said) } else { Look::NotYet(said.text()) })
    })
    .await
    .unwrap();
    assert_ne!(said.code, 0, "{}", said.text());
    says(&said.text(), &["pg-dr"]);
    assert!(cluster.servers.iter().all(Server::is_running));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_without_a_candidate_is_refused_and_says_so() {
    let _turn = turn().await;
    let mut cluster = formed().await;
    cluster.lose(DR).await.unwrap();
    let args = ["failover", "--site", "dr", "--yes", "--reason", "test"];
    let said = until("the loss of the standby is known", LIMIT, || async {
        let said = cluster.nodes[WITNESS].ask(&cluster.mesh, &["plan", "--site", "dr"]).await?;
        Ok(if said.text().contains("pg-dr") { Look::There(()) } else { Look::NotYet(said.text()) })
    });
    said.await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let said = cluster.nodes[WITNESS].ask(&cluster.mesh, &args).await.unwrap();
    assert!(matches!(said.code, 3 | 6), "{}: {}", said.code, said.text());
    says(&said.text(), &["pg-dr"]);
    // The primary serves on, in its epoch.
    assert!(cluster.servers[EAST].is_primary().await.unwrap());
    cluster.servers[EAST].superuser("INSERT INTO lab (id) VALUES (-1)").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_spec_changes_nothing() {
    let _turn = turn().await;
    let mut cluster = prepared().await;
    cluster.start_all().unwrap();
    agents_answer(&cluster).await;
    cluster.must(EAST, &["form"]).await.unwrap();
    for (lines, words) in [
        ("colour = \"blue\"", &["colour"][..]),
        ("site_preference = [\"atlantis\"]", &["atlantis", "site_preference"][..]),
        ("durability = \"zero-loss\"\nquorum_size = 2", &["quorum_size", "the group has 1"][..]),
        ("timing = { lease_ms = 300 }", &["lease_ms"][..]),
    ] {
        let refused = apply(&mut cluster, lines).await.unwrap_err();
        says(&format!("{refused:#}"), words);
        assert!(cluster.status().await.unwrap().groups.is_empty());
    }
    // A second group with the same servers: each has one guard, and that has one lease.
    apply(&mut cluster, "").await.unwrap();
    let spec = mesh::spec(mesh::GROUP, cluster.parts(&[]), "");
    let spec = spec.replace("group = \"orders\"", "group = \"billing\"");
    let file = cluster.ground().file("billing.toml", &spec).unwrap().display().to_string();
    let said = cluster.nodes[DR].ask(&cluster.mesh, &["apply", "-f", &file]).await.unwrap();
    assert_eq!(said.code, 2, "{}", said.text());
    says(
        &said.text(),
        &["instance pg-east belongs to group orders already", "billing.toml:", "nothing was changed"],
    );
    assert_eq!(cluster.status().await.unwrap().groups.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_passwords_are_named_and_a_standby_left_behind_is_not_promoted() {
    let _turn = turn().await;
    let mut cluster = formed_as(Follows::RuntimeApi, "max_lag_bytes = 100000").await;
    let east = cluster.servers[EAST].clone();
    // The observers' password: seen by the agent that logs in anew.
    east.superuser(&format!("ALTER ROLE {PROBE} PASSWORD 'another'")).await.unwrap();
    cluster.nodes[WITNESS].agent.take().unwrap().kill().await.unwrap();
    cluster.start_agent(WITNESS).unwrap();
    status_says(&cluster, &["refuses the login of the observers", "check [probe]"]).await;
    east.superuser(&format!("ALTER ROLE {PROBE} PASSWORD '{}'", cluster.secrets.probe)).await.unwrap();
    // The replication password: the standby is left behind, and everybody is told why.
    east.superuser(&format!(
        "ALTER ROLE {REPL} PASSWORD 'another'; SELECT pg_terminate_backend(pid) FROM pg_stat_replication"
    ))
    .await
    .unwrap();
    status_says(&cluster, &["DEGRADED", "not streaming", "password authentication failed"]).await;
    assert!(east.is_primary().await.unwrap());
    east.superuser("INSERT INTO lab SELECT -g FROM generate_series(1, 5000) g").await.unwrap();
    status_says(&cluster, &["DEGRADED"]).await;
    until("the lag is known", LIMIT, || async {
        let lag = cluster.group().await?.instances.iter().find_map(|i| i.lag_bytes);
        Ok(match lag {
            Some(lag) if lag > 100_000 => Look::There(()),
            lag => Look::NotYet(format!("{lag:?} bytes")),
        })
    })
    .await
    .unwrap();
    cluster.lose(EAST).await.unwrap();
    status_says(&cluster, &["DOWN", "blocked", "lags by", "max_lag_bytes"]).await;
    // What it would cost, and which command overrides it.
    let args = ["failover", "--site", "dr", "--yes"];
    let said = cluster.nodes[DR].ask(&cluster.mesh, &args).await.unwrap();
    assert_eq!(said.code, 3, "{}", said.text());
    says(&said.text(), &["pg-dr lags by", "--force", "loses", "nothing was changed"]);
    assert!(!cluster.servers[DR].is_primary().await.unwrap());
    // The standby is asked to rejoin again and again meanwhile; its data is whole, so the override works.
    let forced = ["failover", "--site", "dr", "--force", "--reason", "the site is lost", "--yes"];
    let said = cluster.nodes[DR].ask(&cluster.mesh, &forced).await.unwrap();
    assert_eq!(said.code, 0, "{}", said.text());
    assert!(cluster.servers[DR].is_primary().await.unwrap());
}

/// Waits until `mesh status` has all these words.
async fn status_says(cluster: &Cluster, words: &[&str]) {
    let seen = until(&format!("the status says {words:?}"), LIMIT, || async {
        let said = cluster.nodes[WITNESS].ask(&cluster.mesh, &["status"]).await?;
        let all = words.iter().all(|word| said.out.contains(word));
        Ok(if all { Look::There(()) } else { Look::NotYet(said.text()) })
    })
    .await;
    cluster.explained(seen).await.unwrap();
}

async fn agents_answer(cluster: &Cluster) {
    let answered = until("the agents answer", LIMIT, || async {
        for node in &cluster.nodes {
            node.status(&cluster.mesh).await?;
        }
        Ok(Look::There(()))
    })
    .await;
    cluster.explained(answered).await.unwrap();
}

async fn apply(cluster: &mut Cluster, lines: &str) -> anyhow::Result<()> {
    let spec = mesh::spec(mesh::GROUP, cluster.parts(&cluster.routes()), lines);
    let file = cluster.ground().file("orders.toml", &spec)?.display().to_string();
    cluster.must(WITNESS, &["apply", "-f", &file]).await.map(|_| ())
}
