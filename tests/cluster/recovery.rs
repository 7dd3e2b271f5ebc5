//! A majority of the voters is gone for good: the mesh is begun anew on the survivor, and what was left behind never acts beside
//! it, as deploy/runbooks/majority-lost.md says.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mesh_tests::lab::cluster::{Cluster, DR, EAST, WITNESS};
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::process::{Said, must, run};
use mesh_tests::lab::wait::{Look, until};

use crate::support::{flowing, formed_as, has, turn};

const LIMIT: Duration = Duration::from_secs(60);
const BOTH: [&str; 4] = ["--lost", "east", "--lost", "witness"];

fn config(cluster: &Cluster, node: usize) -> (PathBuf, String) {
    let path = cluster.nodes[node].config.clone();
    let text = std::fs::read_to_string(&path).unwrap();
    (path, text)
}

/// Writes into an agent's file which recovery its mesh is.
fn mark(cluster: &Cluster, node: usize) {
    let (path, text) = config(cluster, node);
    std::fs::write(path, text.replacen("[mesh]\n", "[mesh]\nrecovery = 1\n", 1)).unwrap();
}

async fn recover(cluster: &Cluster, node: usize, words: &[&str]) -> Said {
    let file = cluster.nodes[node].config.display().to_string();
    let all = [&["quorum-recover", "--config", &file], words].concat();
    run(cluster.nodes[node].host.command(&cluster.mesh, all), LIMIT).await.unwrap()
}

/// Only the agent and the instance of `dr` are left of a mesh whose primary stood at `east`.
async fn majority_lost(cluster: &mut Cluster) {
    cluster.lose(EAST).await.unwrap();
    cluster.nodes[WITNESS].agent.take().unwrap().kill().await.unwrap();
}

async fn begun_anew(cluster: &mut Cluster) {
    cluster.nodes[DR].agent.take().unwrap().stop(LIMIT).await.unwrap();
    mark(cluster, DR);
    let words = [&BOTH[..], &["--yes", "--reason", "the east burnt, and the witness with it"]].concat();
    let began = Instant::now();
    let done = recover(cluster, DR, &words).await;
    assert_eq!(done.code, 0, "{}", done.text());
    println!("FIGURE the mesh is begun anew after {:?}", began.elapsed());
    has(&done.text(), &["until every lease of the old mesh is over", "lab-r1", "mesh adopt"]);
    cluster.start_agent(DR).unwrap();
    let mut guard = cluster.nodes[DR].guard.take().unwrap();
    guard.stop(Duration::from_secs(10)).await.unwrap();
    cluster.start_guard(DR).unwrap();
}

/// Adopts `dr`, once its guard is heard; what is said before the loss is accepted names the positions.
async fn adopted(cluster: &Cluster) {
    let asked = until("adopting without a word on the loss is refused", LIMIT, || async {
        let said = cluster.nodes[DR].ask(&cluster.mesh, &["adopt", "pg-dr"]).await?;
        let told = said.code == 3 && said.text().contains("--accept-loss");
        Ok(if told { Look::There(said) } else { Look::NotYet(said.text()) })
    })
    .await;
    let said = cluster.explained(asked).await.unwrap();
    has(&said.text(), &["pg-east is not heard", "pg-dr is at"]);
    cluster
        .must(DR, &["adopt", "pg-dr", "--accept-loss", "--reason", "the only one that is left"])
        .await
        .unwrap();
}

async fn writes(cluster: &Cluster, node: usize) -> anyhow::Result<()> {
    let server = &cluster.servers[node];
    server.superuser("CREATE TABLE IF NOT EXISTS after_recovery (n int)").await?;
    server.superuser("INSERT INTO after_recovery VALUES (1)").await
}

async fn until_writable(cluster: &Cluster, node: usize) {
    let waited = until("the adopted one takes writes", LIMIT, || async {
        Ok(match writes(cluster, node).await {
            Ok(()) => Look::There(()),
            Err(why) => Look::NotYet(format!("{why:#}")),
        })
    })
    .await;
    cluster.explained(waited).await.unwrap();
}

/// Comes back under a new number, with an empty data directory.
async fn rejoin(cluster: &mut Cluster, node: usize, id: u64) {
    let (path, text) = config(cluster, node);
    let old = text.lines().find(|line| line.starts_with("data_dir")).unwrap().to_owned();
    let fresh = old.replace(['"'], "").replace("data_dir = ", "") + "-r1";
    let text = text.replacen(&old, &format!("data_dir = \"{fresh}\"\nid = {id}"), 1);
    std::fs::write(&path, text).unwrap();
    mark(cluster, node);
    let file = path.display().to_string();
    let host = cluster.nodes[node].host.clone();
    must(host.command(&cluster.mesh, ["agent", "init", "--config", &file]), LIMIT).await.unwrap();
    cluster.start_agent(node).unwrap();
    let (name, address) = (cluster.nodes[node].name.clone(), format!("{}:25700", host.ip()));
    let id = id.to_string();
    let words = ["node", "add", &name, "--id", &id, "--site", &name, "--address", &address, "--voter"];
    let joined = until(&format!("{name} joins"), LIMIT, || async {
        let said = cluster.nodes[DR].ask(&cluster.mesh, &words).await?;
        Ok(if said.code == 0 { Look::There(()) } else { Look::NotYet(said.text()) })
    })
    .await;
    cluster.explained(joined).await.unwrap();
}

/// As soon as the guard of the primary has the grants of all three.
async fn voters_again(cluster: &Cluster) {
    let changed = until("three vote again", LIMIT, || async {
        let said = cluster.nodes[DR].ask(&cluster.mesh, &["node", "voters", "east", "dr", "witness"]).await?;
        Ok(if said.code == 0 { Look::There(()) } else { Look::NotYet(said.text()) })
    })
    .await;
    cluster.explained(changed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_is_begun_anew_on_the_survivor_and_the_lost_ones_join_it() {
    let _turn = turn().await;
    let mut cluster = formed_as(Follows::HttpCheck, "").await;
    let mut writer = cluster.writer();
    flowing(&writer).await;
    majority_lost(&mut cluster).await;
    begun_anew(&mut cluster).await;
    adopted(&cluster).await;
    until_writable(&cluster, DR).await;
    // Whoever was lost comes back with nothing of its old vote.
    rejoin(&mut cluster, WITNESS, 4).await;
    rejoin(&mut cluster, EAST, 5).await;
    cluster.start_guard(EAST).unwrap();
    voters_again(&cluster).await;
    let healthy = cluster.until_healthy("pg-dr", LIMIT).await;
    cluster.explained(healthy).await.unwrap();
    flowing(&writer).await;
    let (acknowledged, lost) = writer.lost(&cluster.servers[DR].local_client()).await.unwrap();
    println!("FIGURE of {acknowledged} rows acknowledged by both, {} are lost", lost.len());
    writer.stop().await.unwrap();
    assert_eq!(cluster.must(DR, &["audit", "verify"]).await.unwrap().code, 0);
    let audit = cluster.must(DR, &["audit", "show", "--limit", "1000"]).await.unwrap();
    has(&audit.text(), &["begun anew as mesh lab-r1, without east, witness", "the only one that is left"]);
    // The mesh acts by itself again.
    let before = cluster.group().await.unwrap().run.map(|run| run.id.0);
    cluster.servers[DR].kill_postmaster().unwrap();
    cluster.until_run_done(before, LIMIT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_behind_and_comes_back_as_it_was_stops() {
    let _turn = turn().await;
    let mut cluster = formed_as(Follows::HttpCheck, "").await;
    majority_lost(&mut cluster).await;
    begun_anew(&mut cluster).await;
    adopted(&cluster).await;
    until_writable(&cluster, DR).await;
    // Against all that was said: the old majority is started again as it was.
    for node in [EAST, WITNESS] {
        cluster.start_agent(node).unwrap();
    }
    cluster.start_guard(EAST).unwrap();
    for node in [EAST, WITNESS] {
        let agent = cluster.nodes[node].agent.as_mut().unwrap();
        agent.ended(Duration::from_secs(20)).await.unwrap();
        let text = std::fs::read_to_string(agent.log()).unwrap();
        has(&text, &["begun anew as lab-r1", "mesh node add"]);
        cluster.start_agent(node).unwrap();
        cluster.nodes[node].agent.as_mut().unwrap().ended(Duration::from_secs(20)).await.unwrap();
    }
    // Its leases are over by now, if it had any: only one takes writes.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(writes(&cluster, EAST).await.is_err(), "the old primary takes writes beside the new one");
    writes(&cluster, DR).await.unwrap();
    let status = cluster.must(DR, &["status"]).await.unwrap();
    has(&status.text(), &["lab-r1", "pg-dr"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_is_not_meant_or_not_safe_is_refused() {
    let _turn = turn().await;
    let mut cluster = formed_as(Follows::HttpCheck, "").await;
    let refused = async |cluster: &Cluster, words: &[&str], code: i32, why: &str| {
        let said = recover(cluster, DR, words).await;
        assert_eq!(said.code, code, "{}", said.text());
        has(&said.text(), &[why, "nothing was changed"]);
    };
    let all = [&BOTH[..], &["--yes", "--reason", "test"]].concat();
    refused(&cluster, &[], 4, "stop the agent").await;
    refused(&cluster, &all, 4, "stop the agent").await;
    cluster.nodes[DR].agent.take().unwrap().stop(LIMIT).await.unwrap();
    refused(&cluster, &all, 2, "recovery = 1").await;
    mark(&cluster, DR);
    refused(&cluster, &["--lost", "east", "--yes", "--reason", "test"], 2, "every one of them").await;
    // The others serve: that is no lost majority.
    let said = recover(&cluster, DR, &all).await;
    assert_eq!(said.code, 3, "{}", said.text());
    has(&said.text(), &["the agent of east answers", "pg-east, the last known primary of orders, answers"]);
    let shown = recover(&cluster, DR, &[]).await;
    assert_eq!(shown.code, 0, "{}", shown.text());
    has(&shown.text(), &["its log ends with entry", "--lost east --lost witness", "pg-east, of epoch 1"]);
    let nobody = recover(&cluster, DR, &BOTH).await;
    assert_ne!(nobody.code, 0, "{}", nobody.text());
    // And it still belongs to the mesh that it belonged to.
    let (path, text) = config(&cluster, DR);
    std::fs::write(path, text.replacen("recovery = 1\n", "", 1)).unwrap();
    cluster.start_agent(DR).unwrap();
    let healthy = cluster.until_healthy("pg-east", LIMIT).await;
    cluster.explained(healthy).await.unwrap();
}
