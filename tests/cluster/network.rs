//! Hosts that can be cut off: network namespaces, so these need root. `make test` and `.ci/run` run them with root's
//! rights; a plain `cargo test` of an ordinary user leaves them out.

use std::time::{Duration, Instant};

use mesh_tests::lab::cluster::{Cluster, DR, EAST, WITNESS};
use mesh_tests::lab::direct::Direct;
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::host::Terrain;
use mesh_tests::lab::net::Cut;
use mesh_tests::lab::writer::Writer;

use crate::support::{flowing, newest_run, turn, wanted};

const LIMIT: Duration = Duration::from_secs(30);

async fn formed() -> (Cluster, Writer, Direct) {
    let mut cluster = Cluster::raise(mesh_tests::lab::cluster::Wanted {
        terrain: Terrain::Namespaces,
        ..wanted(Follows::RuntimeApi, "")
    })
    .await
    .unwrap();
    cluster.form().await.unwrap();
    let (writer, direct) = (cluster.writer(), Direct::start(&cluster.servers[EAST]));
    flowing(&writer).await;
    (cluster, writer, direct)
}

/// The primary's host is cut off; the mesh fails over; after the mending the old primary follows and has acknowledged
/// nothing meanwhile, not even to a client on its own host.
async fn fails_over(cut: Cut) {
    let (cluster, writer, direct) = formed().await;
    let (before, fault) = (newest_run(&cluster).await, Instant::now());
    cluster.nodes[EAST].host.isolate(cut).await.unwrap();
    let outage = writer.outage(fault, Duration::from_secs(15), LIMIT).await;
    let outage = cluster.explained(outage).await.unwrap();
    cluster.until_run_done(before, LIMIT).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.nodes[EAST].host.heal().await.unwrap();
    cluster.until_healthy("pg-dr", Duration::from_secs(60)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(direct.after(fault + outage.from_fault).len(), 0);
    assert!(outage.from_fault < Duration::from_secs(10), "{outage:?}");
}

/// A cut that must not move the primary, nor interrupt its clients.
async fn disturbs_nothing(cluster: &Cluster, writer: &Writer, began: Instant, before: Option<u64>) {
    tokio::time::sleep(Duration::from_secs(8)).await;
    let outage = writer.outage(began, Duration::ZERO, LIMIT).await;
    let outage = cluster.explained(outage).await.unwrap();
    assert!(outage.gap < Duration::from_secs(1), "{outage:?}");
    for node in &cluster.nodes {
        node.host.heal().await.unwrap();
    }
    cluster.until_healthy("pg-east", LIMIT).await.unwrap();
    assert_eq!(newest_run(cluster).await, before);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_partitioned_primary_is_failed_over_and_acknowledges_nothing() {
    let _turn = turn().await;
    fails_over(Cut::Both).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_primary_that_hears_nobody_is_failed_over() {
    let _turn = turn().await;
    fails_over(Cut::Incoming).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_primary_that_nobody_hears_is_failed_over() {
    let _turn = turn().await;
    fails_over(Cut::Outgoing).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_standby_that_is_cut_off_disturbs_nothing() {
    let _turn = turn().await;
    let (cluster, writer, _direct) = formed().await;
    let (before, began) = (newest_run(&cluster).await, Instant::now());
    cluster.nodes[DR].host.isolate(Cut::Both).await.unwrap();
    disturbs_nothing(&cluster, &writer, began, before).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_primary_cut_off_from_its_standby_alone_serves_on() {
    let _turn = turn().await;
    let (cluster, writer, _direct) = formed().await;
    let (before, began) = (newest_run(&cluster).await, Instant::now());
    cluster.nodes[EAST].host.isolate_from(Cut::Both, &[cluster.nodes[DR].host.ip()]).await.unwrap();
    disturbs_nothing(&cluster, &writer, began, before).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_witness_cut_off_from_the_primary_alone_changes_nothing() {
    let _turn = turn().await;
    let (cluster, writer, _direct) = formed().await;
    let before = newest_run(&cluster).await;
    // The agents alone are cut off from each other: the route stands on the witness, and clients go through it.
    let filter = "add rule inet lab in tcp dport { 25700, 25702 } ip saddr";
    let east = cluster.nodes[EAST].host.ip();
    cluster.nodes[WITNESS].host.filter(&format!("{filter} {east} drop")).await.unwrap();
    disturbs_nothing(&cluster, &writer, Instant::now(), before).await;
}
