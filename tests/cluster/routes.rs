//! Routes of every kind in one run, on the real systems: a name that BIND serves, a PgBouncer and an HAProxy, led together.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use mesh_proto::live::{PlaceKind, Standing};
use mesh_proto::run::Phase;
use mesh_tests::lab::bind::NAME;
use mesh_tests::lab::cluster::{Also, Cluster, DR, EAST, WITNESS, Wanted};
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::wait::{Look, until};

use crate::live::{ends_with, standing};
use crate::support::*;

const LIMIT: Duration = Duration::from_secs(40);
const MARKER: &str = "_mesh-epoch.db.lab.test.";

async fn with(also: &[Also], spec: &str) -> Cluster {
    let mut cluster =
        Cluster::raise(Wanted { also: also.to_vec(), ..wanted(Follows::RuntimeApi, spec) }).await.unwrap();
    cluster.form().await.unwrap();
    cluster
}

/// Waits until the name leads to a node, with a marker that has these words.
async fn named(cluster: &Cluster, node: usize, words: &[&str]) {
    let (bind, ip) = (cluster.bind.as_ref().unwrap(), cluster.nodes[node].host.ip().to_string());
    let seen = until(&format!("{NAME} leads to {ip}"), LIMIT, || async {
        let (at, marker) = (bind.at(NAME, "A").await?, bind.at(MARKER, "TXT").await?.join(" "));
        let so = at == [ip.clone()] && words.iter().all(|word| marker.contains(word));
        Ok(if so { Look::There(()) } else { Look::NotYet(format!("{at:?}, marker {marker}")) })
    })
    .await;
    cluster.explained(seen).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_a_pooler_and_a_proxy_follow_a_switchover_and_a_crash() {
    let _turn = turn().await;
    let cluster = with(&[Also::Bind, Also::Pgbouncer], FAILOVER_FIRST).await;
    let (mut routed, mut pooled) = (cluster.writer(), cluster.pooled_writer().unwrap());
    flowing(&routed).await;
    flowing(&pooled).await;
    named(&cluster, EAST, &["epoch=1", "site=east"]).await;
    let said = cluster.must(EAST, &["failover", "--site", "dr", "--yes", "--reason", "test"]).await.unwrap();
    assert!(said.text().contains("orders-name"), "{}", said.text());
    named(&cluster, DR, &["epoch=2", "site=dr", "instance=pg-dr"]).await;
    cluster.until_healthy("pg-dr", LIMIT).await.unwrap();
    // Every place agrees, the marker among them; asked of an agent that holds no route.
    let (view, text) = ends_with(&cluster, EAST, 0).await;
    assert_eq!(standing(&view, PlaceKind::DnsMarker, NAME), Standing::Agrees, "{text}");
    assert_eq!(
        view.groups[0].places.iter().filter(|place| place.kind == PlaceKind::Route).count(),
        3,
        "{text}"
    );
    let fault = Instant::now();
    for writer in [&routed, &pooled] {
        let outage = writer.outage(fault, Duration::from_secs(2), LIMIT).await;
        cluster.explained(outage).await.unwrap();
    }
    for writer in [&mut routed, &mut pooled] {
        writer.stop().await.unwrap();
        let (acked, lost) = writer.lost(&cluster.servers[DR].local_client()).await.unwrap();
        assert!(acked > 50);
        assert_eq!(lost, Vec::<i64>::new(), "a planned change loses nothing, whatever led the client");
    }
    let pooled = cluster.pooled_writer_from(2_000_000).unwrap();
    flowing(&pooled).await;
    let (before, fault) = (newest_run(&cluster).await, Instant::now());
    cluster.servers[DR].kill_postmaster().unwrap();
    let outage = pooled.outage(fault, Duration::from_secs(10), LIMIT).await;
    cluster.explained(outage).await.unwrap();
    cluster.until_run_done(before, LIMIT).await.unwrap();
    named(&cluster, EAST, &["epoch=3", "site=east"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_a_person_changed_is_left_alone_and_said() {
    let _turn = turn().await;
    let cluster = with(&[Also::Bind], "").await;
    named(&cluster, EAST, &["epoch=1"]).await;
    let bind = cluster.bind.as_ref().unwrap();
    let elsewhere = Ipv4Addr::new(192, 0, 2, 9);
    bind.edit(elsewhere).await.unwrap();
    let args = ["failover", "--site", "dr", "--yes", "--reason", "test"];
    let said = cluster.nodes[EAST].ask(&cluster.mesh, &args).await.unwrap();
    assert_ne!(said.code, 0, "{}", said.text());
    let text = said.text();
    assert!(text.contains("192.0.2.9") && text.contains("mesh retry"), "{text}");
    assert_eq!(bind.at(NAME, "A").await.unwrap(), [elsewhere.to_string()], "nobody's edit is overwritten");
    // The new primary serves meanwhile, and the other route leads to it.
    let writer = cluster.writer();
    flowing(&writer).await;
    assert!(cluster.servers[DR].is_primary().await.unwrap());
    let run = cluster.group().await.unwrap().run.unwrap();
    assert_eq!(run.phase, Phase::Stuck);
    // The marker still has the old epoch, and the name leads elsewhere; the proxy does not.
    let (view, text) = ends_with(&cluster, EAST, 6).await;
    assert_eq!(standing(&view, PlaceKind::DnsMarker, NAME), Standing::Lags, "{text}");
    assert_eq!(standing(&view, PlaceKind::Route, "orders-name"), Standing::Lags, "{text}");
    assert_eq!(standing(&view, PlaceKind::Route, mesh_tests::lab::mesh::ROUTE), Standing::Agrees, "{text}");
    assert!(text.contains("192.0.2.9"), "{text}");
    // The way out: the person takes the edit back, and mesh goes on by itself.
    bind.edit(cluster.nodes[EAST].host.ip()).await.unwrap();
    named(&cluster, DR, &["epoch=2", "site=dr"]).await;
    cluster.until_healthy("pg-dr", LIMIT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_that_is_down_holds_up_no_other_route() {
    let _turn = turn().await;
    let mut cluster = with(&[Also::Bind], FAILOVER_FIRST).await;
    named(&cluster, EAST, &["epoch=1"]).await;
    cluster.bind.as_mut().unwrap().kill().await.unwrap();
    let writer = cluster.writer();
    flowing(&writer).await;
    let (before, fault) = (newest_run(&cluster).await, Instant::now());
    cluster.servers[EAST].kill_postmaster().unwrap();
    let outage = writer.outage(fault, Duration::from_secs(10), LIMIT).await;
    let outage = cluster.explained(outage).await.unwrap();
    assert!(outage.gap < Duration::from_secs(5), "{outage:?}");
    let stuck = until("the run says that the name is not led", LIMIT, || async {
        let run = cluster.group().await?.run.filter(|run| before.is_none_or(|before| run.id.0 > before));
        Ok(match run {
            Some(run) if run.phase == Phase::Stuck => Look::There(()),
            run => Look::NotYet(format!("{:?}", run.map(|run| run.phase))),
        })
    })
    .await;
    cluster.explained(stuck).await.unwrap();
    let status = cluster.nodes[WITNESS].ask(&cluster.mesh, &["status"]).await.unwrap();
    assert!(status.out.contains("STUCK") && status.out.contains("route-failed"), "{}", status.out);
    cluster.bind.as_mut().unwrap().restart().await.unwrap();
    cluster.until_run_done(before, LIMIT).await.unwrap();
    named(&cluster, DR, &["epoch=2", "site=dr"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_restarts_after_a_change_is_led_again_without_a_run() {
    let _turn = turn().await;
    let mut cluster = with(&[], "").await;
    cluster.must(EAST, &["failover", "--site", "dr", "--yes", "--reason", "test"]).await.unwrap();
    cluster.until_healthy("pg-dr", LIMIT).await.unwrap();
    let before = newest_run(&cluster).await;
    // Its file still says that pg-east is in.
    cluster.haproxy.restart().await.unwrap();
    let writer = cluster.writer();
    flowing(&writer).await;
    assert_eq!(newest_run(&cluster).await, before);
}
