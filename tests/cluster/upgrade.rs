//! Another build of mesh on every host, one after the other, under write load, as deploy/runbooks/upgrade.md says: no failover,
//! nothing lost, and no outage but that of one planned switchover.
//!
//! With `MESH_OLD` set to an older binary the mesh begins with that one, and is mixed in between (`tests/upgrade.sh`).

use std::time::{Duration, Instant};

use mesh_proto::run::{Phase, RunKind};
use mesh_tests::lab::cluster::{Cluster, DR, EAST, WITNESS};
use mesh_tests::lab::haproxy::Follows;

use crate::support::{flowing, turn, wanted};

const LIMIT: Duration = Duration::from_secs(60);

/// A healthy mesh of the older build, and where the newer one is.
async fn of_the_older_build() -> (Cluster, std::path::PathBuf) {
    let mut cluster = Cluster::raise(wanted(Follows::RuntimeApi, "")).await.unwrap();
    cluster.prepare().await.unwrap();
    let newer = cluster.mesh.clone();
    if let Some(older) = std::env::var_os("MESH_OLD") {
        let copy = newer.with_file_name("mesh-old");
        std::fs::copy(&older, &copy).unwrap_or_else(|why| panic!("MESH_OLD = {older:?}: {why}"));
        cluster.mesh = copy;
    }
    cluster.form_prepared().await.unwrap();
    (cluster, newer)
}

async fn restart_guard(cluster: &mut Cluster, node: usize) {
    let mut guard = cluster.nodes[node].guard.take().unwrap();
    guard.stop(Duration::from_secs(10)).await.unwrap();
    cluster.start_guard(node).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_host_gets_another_build_under_load_without_a_failover() {
    let _turn = turn().await;
    let (mut cluster, newer) = of_the_older_build().await;
    let mut writer = cluster.writer();
    flowing(&writer).await;
    cluster.mesh = newer;
    let began = Instant::now();
    // The agents, the leader's last: a database does not notice.
    let leader = cluster.leader().await.unwrap();
    let mut agents = vec![EAST, DR, WITNESS];
    agents.retain(|node| *node != leader);
    agents.push(leader);
    for node in agents {
        cluster.nodes[node].agent.take().unwrap().stop(Duration::from_secs(10)).await.unwrap();
        cluster.start_agent(node).unwrap();
        let healthy = cluster.until_healthy("pg-east", LIMIT).await;
        cluster.explained(healthy).await.unwrap();
    }
    assert!(cluster.group().await.unwrap().run.is_none(), "restarted agents made a run");
    // The standby's guard, then a planned switchover to it, then the guard of what is a standby now.
    restart_guard(&mut cluster, DR).await;
    let healthy = cluster.until_healthy("pg-east", LIMIT).await;
    cluster.explained(healthy).await.unwrap();
    let quiet = writer.outage(began, Duration::ZERO, LIMIT).await.unwrap();
    println!("FIGURE agents and the standby's guard replaced: longest pause {:?}", quiet.gap);
    let fault = Instant::now();
    switched_over(&cluster).await;
    let switched = writer.outage(fault, Duration::from_secs(1), LIMIT).await.unwrap();
    println!("FIGURE planned switchover to the new build: {:?}", switched.gap);
    restart_guard(&mut cluster, EAST).await;
    let healthy = cluster.until_healthy("pg-dr", LIMIT).await;
    cluster.explained(healthy).await.unwrap();
    let run = cluster.group().await.unwrap().run.unwrap();
    assert_eq!(
        (run.plan.kind, run.phase),
        (RunKind::Switchover, Phase::Done),
        "the last run is the planned one"
    );
    // And the new build answers a crash: it restarts the primary, promotes the other, or, while that one has not come
    // up again, gives the run up and lets the primary open in its own epoch. None of the three loses anything.
    cluster.servers[DR].kill_postmaster().unwrap();
    let answered = cluster.until_run_at_rest(run.id, LIMIT).await.unwrap();
    println!("FIGURE the crash afterwards: a {} that is {}", answered.plan.kind, answered.phase);
    let settled = cluster.until_settled(LIMIT).await;
    cluster.explained(settled).await.unwrap();
    writer.stop().await.unwrap();
    let primary = cluster.primary().await.unwrap();
    let (acknowledged, lost) = writer.lost(&cluster.servers[primary].local_client()).await.unwrap();
    assert!(acknowledged > 100);
    assert_eq!(lost, Vec::<i64>::new());
    assert_eq!(cluster.must(WITNESS, &["audit", "verify"]).await.unwrap().code, 0);
}

/// A plan that is overtaken by what happens meanwhile (another leader, say) begins no run, and says to look and try again.
async fn switched_over(cluster: &Cluster) {
    let words = ["switchover", "--site", "dr", "--yes", "--reason", "upgrade"];
    for _ in 0..3 {
        let said = cluster.nodes[WITNESS].ask(&cluster.mesh, &words).await.unwrap();
        if said.code == 0 {
            return;
        }
        assert!(said.code == 4 && said.text().contains("the run did not start"), "{}", said.text());
        println!("FIGURE overtaken: {}", said.text());
        let healthy = cluster.until_healthy("pg-east", LIMIT).await;
        cluster.explained(healthy).await.unwrap();
    }
    panic!("overtaken three times");
}
