//! A group of Redis by itself: its primary is lost, or moved by plan.

use std::time::{Duration, Instant};

use mesh_proto::run::RunKind;
use mesh_tests::lab::cluster::{Cluster, DR, EAST, WITNESS};
use mesh_tests::lab::ground::port;
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::process::send;
use mesh_tests::lab::redis::{Entrance, RedisWriter};
use mesh_tests::lab::wait::{Look, until};
use rustix::process::Signal;

use crate::support::{newest_run, turn, wanted};

const LIMIT: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(60);

async fn formed(spec: &str) -> Cluster {
    let mut cluster = Cluster::raise_redis(wanted(Follows::RuntimeApi, spec)).await.unwrap();
    cluster.form().await.unwrap();
    cluster
}

/// A client that follows the route, and is served.
async fn client(cluster: &Cluster) -> RedisWriter {
    let writer = RedisWriter::start((cluster.haproxy.ip, port::ROUTE).into());
    let flows = writer.flows(100, LIMIT).await;
    cluster.explained(flows).await.unwrap();
    writer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_redis_is_failed_over_and_comes_back_held_and_follows() {
    let _turn = turn().await;
    let cluster = formed("").await;
    let writer = client(&cluster).await;
    let direct = RedisWriter::start_at(Entrance::At(cluster.redis[EAST].address()), "k:direct:");
    direct.flows(10, LIMIT).await.unwrap();
    let (before, fault) = (newest_run(&cluster).await, Instant::now());
    cluster.redis[EAST].signal(Signal::KILL).unwrap();
    let run = cluster.until_run_done(before, LIMIT).await.unwrap();
    assert_eq!(run.promotion.as_ref().unwrap().instance.as_str(), "redis-dr");
    let flows = writer.flows(100, LIMIT).await;
    cluster.explained(flows).await.unwrap();
    let (gap, flows_from) = writer.gap(fault);
    println!("FIGURE Redis SIGKILL: no write for {gap:?}, {:?} after the fault", flows_from.unwrap() - fault);
    cluster.until_healthy("redis-dr", LONG).await.unwrap();
    // Whoever goes to the old primary itself gets nothing: it came back held, and follows.
    assert_eq!(direct.after(flows_from.unwrap()), 0);
    let there = cluster.redis[EAST].replication().await.unwrap();
    assert!(there.contains("role:slave") && there.contains("master_link_status:up"), "{there}");
    let acknowledged = writer.stop().await.unwrap();
    let lost = cluster.redis[DR].lost(&acknowledged).await.unwrap();
    println!("FIGURE Redis SIGKILL: {} of {} acknowledged writes lost", lost.len(), acknowledged.len());
    let audit = cluster.must(WITNESS, &["audit", "verify"]).await.unwrap();
    assert!(!audit.out.is_empty());
    let status = cluster.must(WITNESS, &["status"]).await.unwrap();
    assert!(status.out.contains("Redis"), "{}", status.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_switchover_of_redis_there_and_back_loses_nothing() {
    let _turn = turn().await;
    let cluster = formed("").await;
    let writer = client(&cluster).await;
    for (site, instance) in [("dr", "redis-dr"), ("east", "redis-east")] {
        let fault = Instant::now();
        cluster.must(WITNESS, &["switchover", "--site", site, "--yes", "--reason", "test"]).await.unwrap();
        let flows = writer.flows(100, LIMIT).await;
        cluster.explained(flows).await.unwrap();
        let (gap, _) = writer.gap(fault);
        println!("FIGURE Redis switchover to {site}: no write for {gap:?}");
        println!("{}", cluster.must(WITNESS, &["run"]).await.unwrap().out);
        let group = cluster.until_healthy(instance, LONG).await.unwrap();
        assert_eq!(group.run.unwrap().plan.kind, RunKind::Switchover);
    }
    let acknowledged = writer.stop().await.unwrap();
    assert!(acknowledged.len() > 200);
    assert_eq!(cluster.redis[EAST].lost(&acknowledged).await.unwrap(), Vec::<u64>::new());
    // Neither needed a whole copy: the old primary went on from where it stood.
    let there = cluster.redis[EAST].replication().await.unwrap();
    assert!(there.contains("master_replid2:") && !there.contains(&"0".repeat(40)), "{there}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_redis_that_may_not_be_replaced_is_not_opened_with_what_it_has_forgotten() {
    let _turn = turn().await;
    let cluster = formed("automatic = false").await;
    let writer = client(&cluster).await;
    cluster.redis[EAST].signal(Signal::KILL).unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let group = cluster.group().await.unwrap();
    let east = group.instances.iter().find(|instance| instance.name.as_str() == "redis-east").unwrap();
    assert!(east.guard.as_ref().unwrap().0.lease.is_none(), "opened from an empty disk");
    assert!(group.blocked.as_ref().unwrap().contains("automatic = false"), "{:?}", group.blocked);
    cluster.must(WITNESS, &["failover", "--site", "dr", "--yes", "--reason", "test"]).await.unwrap();
    let flows = writer.flows(100, LIMIT).await;
    cluster.explained(flows).await.unwrap();
    cluster.until_healthy("redis-dr", LONG).await.unwrap();
    let acknowledged = writer.stop().await.unwrap();
    assert!(cluster.redis[DR].lost(&acknowledged).await.unwrap().len() < 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_killed_in_a_pause_is_failed_over_when_the_pause_ends() {
    let _turn = turn().await;
    let cluster = formed("").await;
    let writer = client(&cluster).await;
    cluster.must(WITNESS, &["pause", "--for", "10m", "--reason", "held back"]).await.unwrap();
    cluster.redis[EAST].signal(Signal::KILL).unwrap();
    // Longer than a lease: nothing may be opened and nobody promoted.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let group = cluster.group().await.unwrap();
    assert!(group.run.is_none(), "{:?}", group.run);
    assert!(!cluster.redis[DR].replication().await.unwrap().contains("role:master"));
    let said = cluster.must(WITNESS, &["resume"]).await;
    cluster.explained(said).await.unwrap();
    let flows = writer.flows(100, LIMIT).await;
    cluster.explained(flows).await.unwrap();
    let healthy = cluster.until_healthy("redis-dr", LONG).await;
    cluster.explained(healthy).await.unwrap();
    let acknowledged = writer.stop().await.unwrap();
    assert!(cluster.redis[DR].lost(&acknowledged).await.unwrap().len() < 10, "what was in memory is gone");
    let said = cluster.must(WITNESS, &["audit", "show", "-n", "40"]).await.unwrap();
    assert!(said.out.contains("its primary was fenced meanwhile"), "{}", said.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_redis_is_failed_over_and_acknowledges_nothing_when_it_thaws() {
    let _turn = turn().await;
    let cluster = formed("").await;
    let writer = client(&cluster).await;
    let direct = RedisWriter::start_at(Entrance::At(cluster.redis[EAST].address()), "k:direct:");
    direct.flows(10, LIMIT).await.unwrap();
    let (before, fault) = (newest_run(&cluster).await, Instant::now());
    let frozen = cluster.redis[EAST].signal(Signal::STOP).unwrap();
    cluster.until_run_done(before, LIMIT).await.unwrap();
    let flows = writer.flows(100, LIMIT).await;
    cluster.explained(flows).await.unwrap();
    let (gap, flows_from) = writer.gap(fault);
    println!("FIGURE Redis hang: no write for {gap:?}");
    for pid in frozen {
        // Killed by its guard meanwhile.
        drop(send(pid, Signal::CONT));
    }
    cluster.until_healthy("redis-dr", LONG).await.unwrap();
    assert_eq!(direct.after(flows_from.unwrap()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_site_with_redis_is_failed_over_and_rejoins_after_its_boot() {
    let _turn = turn().await;
    let mut cluster = formed("").await;
    let writer = client(&cluster).await;
    let (before, fault) = (newest_run(&cluster).await, Instant::now());
    cluster.lose(EAST).await.unwrap();
    cluster.until_run_done(before, LIMIT).await.unwrap();
    let flows = writer.flows(100, LIMIT).await;
    cluster.explained(flows).await.unwrap();
    println!("FIGURE Redis site loss: no write for {:?}", writer.gap(fault).0);
    cluster.boot(EAST).unwrap();
    cluster.until_healthy("redis-dr", LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_sentinel_nothing_is_done_without_an_operator() {
    let _turn = turn().await;
    let cluster = formed("").await;
    let ip = cluster.redis[EAST].host.ip();
    let file = cluster.dir().join("sentinel.conf");
    let secret = std::fs::read_to_string(&cluster.redis[EAST].passwords.guard).unwrap();
    // It only watches: a quorum of two is never there.
    let text = format!(
        "port 0\nunixsocket {dir}/sentinel.sock\ndir {dir}\nsentinel monitor orders {ip} {port} 2\n\
         sentinel auth-user orders sentinel\nsentinel auth-pass orders {}\n",
        secret.trim(),
        dir = cluster.dir().display(),
        port = port::REDIS
    );
    std::fs::write(&file, text).unwrap();
    let sentinel = tokio::process::Command::new("redis-sentinel")
        .arg(&file)
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let _sentinel = sentinel.expect("this test needs Sentinel: apt-get install redis-sentinel");
    until("status says that a Sentinel watches", LIMIT, || async {
        let blocked = cluster.group().await?.blocked;
        Ok(match blocked {
            Some(why) if why.contains("Sentinel") => Look::There(()),
            other => Look::NotYet(format!("{other:?}")),
        })
    })
    .await
    .unwrap();
    let before = newest_run(&cluster).await;
    cluster.redis[EAST].signal(Signal::KILL).unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(newest_run(&cluster).await, before, "no run by itself");
}
