//! Wall clocks that are wrong: an hour apart from the first day on, stepped while clients write, running backwards during a
//! promotion. Leases count by other clocks, and certificates begin a day early, so that nobody but a log's reader notices.

use std::time::{Duration, Instant};

use mesh_tests::lab::clock::Beside;
use mesh_tests::lab::cluster::{Also, Cluster, DR, EAST, WITNESS, Wanted};
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::process::tail;
use mesh_tests::lab::wait::{Look, until};
use tokio_postgres::NoTls;

use crate::support::{FAILOVER_FIRST, flowing, has, newest_run, turn, wanted};

const LIMIT: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Hosts, each with a clock of its own, and databases; mesh is not there yet.
async fn raised() -> Cluster {
    let wanted = Wanted { also: vec![Also::Clocks], ..wanted(Follows::RuntimeApi, FAILOVER_FIRST) };
    Cluster::raise(wanted).await.unwrap()
}

/// How far the clock of the server at `node` is ahead of the test's, in seconds.
async fn ahead(cluster: &Cluster, node: usize) -> i64 {
    let sql = "SELECT extract(epoch FROM clock_timestamp())::bigint";
    let there: i64 = cluster.servers[node].ask(sql).await.unwrap();
    let here = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    there - i64::try_from(here.as_secs()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_two_hours_apart_and_stepped_cost_nothing() {
    let _turn = turn().await;
    let mut cluster = raised().await;
    cluster.nodes[EAST].host.set_clock(Beside::Ahead(HOUR)).unwrap();
    cluster.nodes[DR].host.set_clock(Beside::Behind(HOUR)).unwrap();
    cluster.form().await.unwrap();
    assert!((3_590..3_610).contains(&ahead(&cluster, EAST).await), "the lab's clocks do not work");
    assert!((-3_610..-3_590).contains(&ahead(&cluster, DR).await), "the lab's clocks do not work");
    let east = cluster.nodes[EAST].status(&cluster.mesh).await.unwrap().at.0;
    let dr = cluster.nodes[DR].status(&cluster.mesh).await.unwrap().at.0;
    assert!(east - dr > 7_000_000, "the agents' clocks are {} ms apart", east - dr);
    let mut writer = cluster.writer();
    flowing(&writer).await;
    // A whole failover between two clocks, by the end of the lease, and back by plan.
    let (before, fault) = (newest_run(&cluster).await, Instant::now());
    cluster.lose(EAST).await.unwrap();
    let outage = writer.outage(fault, Duration::from_secs(15), LIMIT).await;
    println!(
        "FIGURE failover between clocks two hours apart: {:?}",
        cluster.explained(outage).await.unwrap().gap
    );
    cluster.until_run_done(before, LIMIT).await.unwrap();
    cluster.boot(EAST).unwrap();
    cluster.until_healthy("pg-dr", LIMIT).await.unwrap();
    cluster.must(WITNESS, &["switchover", "--site", "east", "--yes"]).await.unwrap();
    cluster.until_healthy("pg-east", LIMIT).await.unwrap();
    // Steps under load, of the primary's host, of a voter's, of both.
    let (before, stepped) = (newest_run(&cluster).await, Instant::now());
    for (node, beside) in [
        (EAST, Beside::Behind(HOUR)),
        (WITNESS, Beside::Ahead(HOUR)),
        (EAST, Beside::Ahead(HOUR)),
        (DR, Beside::Ahead(HOUR)),
        (WITNESS, Beside::Behind(HOUR)),
        (EAST, Beside::Not),
        (DR, Beside::Not),
    ] {
        cluster.nodes[node].host.set_clock(beside).unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    let healthy = cluster.until_healthy("pg-east", LIMIT).await;
    cluster.explained(healthy).await.unwrap();
    flowing(&writer).await;
    assert_eq!(newest_run(&cluster).await, before, "a step of a wall clock made a run");
    assert!(writer.gap(stepped) < Duration::from_secs(2), "{:?}", writer.gap(stepped));
    writer.stop().await.unwrap();
    let (acknowledged, lost) = writer.lost(&cluster.servers[EAST].local_client()).await.unwrap();
    assert!(acknowledged > 100);
    assert_eq!(lost, Vec::<i64>::new());
    assert_eq!(cluster.must(WITNESS, &["audit", "verify"]).await.unwrap().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_runs_backwards_holds_up_no_start_and_no_promotion() {
    let _turn = turn().await;
    let mut cluster = raised().await;
    cluster.form().await.unwrap();
    cluster.nodes[DR].host.set_clock(Beside::Backwards).unwrap();
    // Started again by its guard, so behind the boot gate, which opens when the server has read its rules anew.
    cluster.servers[DR].kill_postmaster().unwrap();
    let client = cluster.servers[DR].local_client();
    let let_in = until("clients are let in", LIMIT, || async {
        let (client, connection) = client.connect(NoTls).await?;
        drop((client, connection));
        Ok(Look::There(()))
    });
    let let_in = let_in.await;
    cluster.explained(let_in).await.unwrap();
    cluster.until_healthy("pg-east", LIMIT).await.unwrap();
    let switched = cluster.must(WITNESS, &["switchover", "--site", "dr", "--yes"]).await;
    cluster.explained(switched).await.unwrap();
    cluster.nodes[DR].host.set_clock(Beside::Not).unwrap();
    cluster.until_healthy("pg-dr", LIMIT).await.unwrap();
}

/// Further off than certificates allow, an agent that starts says so, and one that runs refuses nobody it talks with already.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_days_behind_is_said_where_an_agent_starts() {
    let _turn = turn().await;
    let mut cluster = raised().await;
    cluster.form().await.unwrap();
    let writer = cluster.writer();
    flowing(&writer).await;
    let began = Instant::now();
    for node in &cluster.nodes {
        node.host.set_clock(Beside::Behind(3 * 24 * HOUR)).unwrap();
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    flowing(&writer).await;
    assert_eq!(newest_run(&cluster).await, None, "a step of every wall clock made a run");
    assert!(writer.gap(began) < Duration::from_secs(2), "{:?}", writer.gap(began));
    cluster.nodes[WITNESS].agent.take().unwrap().kill().await.unwrap();
    cluster.start_agent(WITNESS).unwrap();
    let mut agent = cluster.nodes[WITNESS].agent.take().unwrap();
    assert_ne!(agent.ended(Duration::from_secs(10)).await.unwrap(), Some(0));
    has(&tail(agent.log(), 5), &["not valid yet", "clock"]);
    // The clock is right again, and so is the agent.
    for node in &cluster.nodes {
        node.host.set_clock(Beside::Not).unwrap();
    }
    cluster.start_agent(WITNESS).unwrap();
    cluster.until_healthy("pg-east", LIMIT).await.unwrap();
}
