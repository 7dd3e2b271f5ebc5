//! A whole site is lost, with everything on it: PostgreSQL, Redis, their guards and an agent. Each engine's group moves by a
//! run of its own, both at the same time, with HAProxy and a name that BIND serves.

use std::time::{Duration, Instant};

use mesh_tests::lab::bind::NAME;
use mesh_tests::lab::cluster::{Also, Cluster, DR, EAST, WITNESS, Wanted};
use mesh_tests::lab::ground::port;
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::mesh::{CACHE, GROUP};
use mesh_tests::lab::redis::RedisWriter;

use crate::support::{flowing, turn, wanted};

const LIMIT: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_site_moves_postgresql_redis_proxy_and_name_at_once_and_all_comes_back() {
    let _turn = turn().await;
    let also = vec![Also::Bind, Also::Redis];
    let mut cluster = Cluster::raise(Wanted { also, ..wanted(Follows::RuntimeApi, "") }).await.unwrap();
    cluster.form().await.unwrap();
    let rows = cluster.writer();
    let keys = RedisWriter::start((cluster.haproxy.ip, port::CACHE).into());
    flowing(&rows).await;
    keys.flows(100, LIMIT).await.unwrap();
    let fault = Instant::now();
    cluster.lose(EAST).await.unwrap();
    let outage = rows.outage(fault, Duration::from_secs(3), LIMIT).await;
    let outage = cluster.explained(outage).await.unwrap();
    let flows = keys.flows(100, LIMIT).await;
    cluster.explained(flows).await.unwrap();
    let (gap, _) = keys.gap(fault);
    println!("FIGURE site lost: PostgreSQL {:?}, Redis {gap:?} without a write", outage.gap);
    // Neither waited for the other, and each has a record of its own.
    let mut runs = Vec::new();
    for (group, primary) in [(GROUP, "pg-dr"), (CACHE, "redis-dr")] {
        let status = cluster.group_named(group).await.unwrap();
        let run = status.run.unwrap();
        assert_eq!(run.promotion.as_ref().unwrap().instance.as_str(), primary);
        assert_eq!(status.epoch.0, 2);
        runs.push((run.entered[0].1, run.entered.last().unwrap().1));
    }
    assert!(runs[0].0 < runs[1].1 && runs[1].0 < runs[0].1, "one after the other: {runs:?}");
    let bind = cluster.bind.as_ref().unwrap();
    assert_eq!(bind.at(NAME, "A").await.unwrap(), [cluster.nodes[DR].host.ip().to_string()]);
    // Power is back; then home, both by one order, and a planned change loses nothing.
    cluster.boot(EAST).unwrap();
    cluster.until_healthy("pg-dr", LIMIT).await.unwrap();
    cluster.until_group_healthy(CACHE, "redis-dr", LIMIT).await.unwrap();
    let planned = keys.count();
    let args = ["failover", "--site", "east", "--all", "--yes", "--reason", "home"];
    cluster.must(WITNESS, &args).await.unwrap();
    let flows = keys.flows(100, LIMIT).await;
    cluster.explained(flows).await.unwrap();
    cluster.until_healthy("pg-east", LIMIT).await.unwrap();
    cluster.until_group_healthy(CACHE, "redis-east", LIMIT).await.unwrap();
    let acknowledged = keys.stop().await.unwrap();
    let lost = cluster.redis[EAST].lost(&acknowledged[planned..]).await.unwrap();
    assert_eq!(lost, Vec::<u64>::new());
}
