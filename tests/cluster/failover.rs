//! The primary is lost, in one way or another, or moved by plan.

use std::time::{Duration, Instant};

use mesh_proto::run::{Phase, RunKind};
use mesh_tests::lab::cluster::{Cluster, DR, EAST, WITNESS};
use mesh_tests::lab::direct::Direct;
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::process::send;
use mesh_tests::lab::wait::{Look, until};
use mesh_tests::lab::writer::{Outage, Writer};
use rustix::process::Signal;

use crate::support::{FAILOVER_FIRST, flowing, formed, formed_as, newest_run, turn};

const LIMIT: Duration = Duration::from_secs(30);

/// Waits for the failover to `pg-dr`, and for the old primary to follow it.
async fn failed_over(cluster: &Cluster, before: Option<u64>) {
    let run = cluster.until_run_done(before, LIMIT).await.unwrap();
    assert_eq!(run.promotion.as_ref().unwrap().instance.as_str(), "pg-dr");
    cluster.until_healthy("pg-dr", Duration::from_secs(60)).await.unwrap();
}

async fn felt(cluster: &Cluster, writer: &Writer, fault: Instant) -> Outage {
    let outage = writer.outage(fault, Duration::from_secs(10), LIMIT).await;
    cluster.explained(outage).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_postmaster_is_failed_over_and_rejoins() {
    let _turn = turn().await;
    let cluster = formed_as(Follows::RuntimeApi, FAILOVER_FIRST).await;
    let (writer, direct) = (cluster.writer(), Direct::start(&cluster.servers[EAST]));
    flowing(&writer).await;
    let (before, fault) = (newest_run(&cluster).await, Instant::now());
    cluster.servers[EAST].kill_postmaster().unwrap();
    let outage = felt(&cluster, &writer, fault).await;
    failed_over(&cluster, before).await;
    assert!(outage.gap < Duration::from_secs(5), "{outage:?}");
    assert_eq!(direct.after(fault + outage.from_fault).len(), 0);
    let audit = cluster.must(WITNESS, &["audit", "verify"]).await.unwrap();
    assert!(!audit.out.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_guard_takes_its_instance_down_and_the_mesh_fails_over() {
    let _turn = turn().await;
    let mut cluster = formed().await;
    let writer = cluster.writer();
    flowing(&writer).await;
    let (before, fault) = (newest_run(&cluster).await, Instant::now());
    let postmaster = cluster.servers[EAST].postmaster().unwrap();
    cluster.nodes[EAST].guard.as_mut().unwrap().kill().await.unwrap();
    until("the instance is down", LIMIT, || async {
        let lives = mesh_tests::lab::process::lives(postmaster);
        Ok(if lives { Look::NotYet("the postmaster lives".to_owned()) } else { Look::There(()) })
    })
    .await
    .unwrap();
    felt(&cluster, &writer, fault).await;
    cluster.until_run_done(before, LIMIT).await.unwrap();
    cluster.start_guard(EAST).unwrap();
    cluster.until_healthy("pg-dr", Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_site_is_failed_over_and_rejoins_after_its_boot() {
    let _turn = turn().await;
    let mut cluster = formed().await;
    let writer = cluster.writer();
    flowing(&writer).await;
    let (before, fault) = (newest_run(&cluster).await, Instant::now());
    cluster.lose(EAST).await.unwrap();
    let outage = felt(&cluster, &writer, fault).await;
    assert!(outage.gap < Duration::from_secs(8), "{outage:?}");
    cluster.until_run_done(before, LIMIT).await.unwrap();
    cluster.boot(EAST).unwrap();
    cluster.until_healthy("pg-dr", Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_primary_is_failed_over_and_acknowledges_nothing_when_it_thaws() {
    let _turn = turn().await;
    let cluster = formed().await;
    let (writer, direct) = (cluster.writer(), Direct::start(&cluster.servers[EAST]));
    flowing(&writer).await;
    let (before, fault) = (newest_run(&cluster).await, Instant::now());
    let frozen = cluster.servers[EAST].signal_all(Signal::STOP).unwrap();
    let outage = felt(&cluster, &writer, fault).await;
    cluster.until_run_done(before, LIMIT).await.unwrap();
    for pid in frozen {
        send(pid, Signal::CONT).unwrap();
    }
    cluster.until_healthy("pg-dr", Duration::from_secs(60)).await.unwrap();
    assert_eq!(direct.after(fault + outage.from_fault).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_there_and_back_loses_nothing() {
    let _turn = turn().await;
    let cluster = formed().await;
    let mut writer = cluster.writer();
    flowing(&writer).await;
    for (site, instance) in [("dr", "pg-dr"), ("east", "pg-east")] {
        let fault = Instant::now();
        cluster.must(WITNESS, &["switchover", "--site", site, "--yes", "--reason", "test"]).await.unwrap();
        felt(&cluster, &writer, fault).await;
        let group = cluster.until_healthy(instance, Duration::from_secs(60)).await.unwrap();
        assert_eq!(group.run.unwrap().plan.kind, RunKind::Switchover);
    }
    writer.stop().await.unwrap();
    let (acked, lost) = writer.lost(&cluster.servers[EAST].local_client()).await.unwrap();
    assert!(acked > 50);
    assert_eq!(lost, Vec::<i64>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_commands_at_once_end_in_one_run() {
    let _turn = turn().await;
    let cluster = formed().await;
    let before = newest_run(&cluster).await;
    let args = ["failover", "--site", "dr", "--yes", "--reason", "test"];
    let (one, other) = tokio::join!(
        cluster.nodes[WITNESS].ask(&cluster.mesh, &args),
        cluster.nodes[EAST].ask(&cluster.mesh, &args),
    );
    for said in [one.unwrap(), other.unwrap()] {
        assert_eq!(said.code, 0, "{}", said.text());
    }
    let group = cluster.until_healthy("pg-dr", Duration::from_secs(60)).await.unwrap();
    let run = group.run.unwrap();
    assert_eq!(run.phase, Phase::Done);
    assert!(before.is_none_or(|before| run.id.0 > before));
    let opened = cluster.audit(1).await.unwrap();
    let opened = opened.iter().filter(|record| {
        record.refused.is_none() && matches!(record.command, mesh_proto::command::Command::RunOpened { .. })
    });
    assert_eq!(opened.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_agent_finishes_the_run_of_a_leader_that_died() {
    let _turn = turn().await;
    let mut cluster = formed_as(Follows::RuntimeApi, FAILOVER_FIRST).await;
    let writer = cluster.writer();
    flowing(&writer).await;
    let (before, fault) = (newest_run(&cluster).await, Instant::now());
    let leader = cluster.leader().await.unwrap();
    cluster.servers[EAST].kill_postmaster().unwrap();
    until("a run is under way", LIMIT, || async {
        let run = newest_run(&cluster).await.filter(|run| before.is_none_or(|before| *run > before));
        Ok(run.map_or_else(|| Look::NotYet("no run".to_owned()), Look::There))
    })
    .await
    .unwrap();
    cluster.nodes[leader].agent.take().unwrap().kill().await.unwrap();
    felt(&cluster, &writer, fault).await;
    cluster.until_run_done(before, LIMIT).await.unwrap();
    cluster.start_agent(leader).unwrap();
    cluster.until_healthy("pg-dr", Duration::from_secs(60)).await.unwrap();
    // The hold-down that follows an automatic failover blocks the next automatic one, never an operator.
    cluster.must(WITNESS, &["failover", "--site", "east", "--yes", "--reason", "test"]).await.unwrap();
    cluster.until_healthy("pg-east", Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_crashes_in_a_hold_down_opens_again_in_place() {
    let _turn = turn().await;
    let cluster = formed_as(Follows::RuntimeApi, FAILOVER_FIRST).await;
    let mut writer = cluster.writer();
    flowing(&writer).await;
    let (before, fault) = (newest_run(&cluster).await, Instant::now());
    cluster.servers[EAST].kill_postmaster().unwrap();
    felt(&cluster, &writer, fault).await;
    failed_over(&cluster, before).await;
    let dr = cluster.servers[DR].local_client();
    // The standby is asynchronous: what the failover lost is lost, the crash after it may lose nothing.
    let (_, lost) = writer.lost(&dr).await.unwrap();
    let (run, epoch) = (newest_run(&cluster).await, cluster.group().await.unwrap().epoch);
    let fault = Instant::now();
    cluster.servers[DR].kill_postmaster().unwrap();
    felt(&cluster, &writer, fault).await;
    let group = cluster.until_healthy("pg-dr", LIMIT).await.unwrap();
    assert_eq!((newest_run(&cluster).await, group.epoch), (run, epoch), "no other primary");
    writer.stop().await.unwrap();
    assert_eq!(writer.lost(&dr).await.unwrap().1, lost);
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_may_restart_and_the_database_does_not_notice() {
    let _turn = turn().await;
    let mut cluster = formed().await;
    let writer = cluster.writer();
    flowing(&writer).await;
    let postmaster = cluster.servers[EAST].postmaster().unwrap();
    let (before, began) = (newest_run(&cluster).await, Instant::now());
    for node in [EAST, DR, WITNESS] {
        cluster.nodes[node].agent.take().unwrap().kill().await.unwrap();
        // Longer than the lease: the guard lives on the other voters' grants.
        tokio::time::sleep(Duration::from_secs(4)).await;
        cluster.start_agent(node).unwrap();
        cluster.until_healthy("pg-east", LIMIT).await.unwrap();
    }
    let outage = writer.outage(began, Duration::ZERO, LIMIT).await.unwrap();
    assert!(outage.gap < Duration::from_secs(1), "{outage:?}");
    assert_eq!(cluster.servers[EAST].postmaster().unwrap(), postmaster);
    assert_eq!(newest_run(&cluster).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_haproxy_that_asks_the_agents_follows_too() {
    let _turn = turn().await;
    let cluster = formed_as(Follows::HttpCheck, FAILOVER_FIRST).await;
    let writer = cluster.writer();
    flowing(&writer).await;
    let (before, fault) = (newest_run(&cluster).await, Instant::now());
    cluster.servers[EAST].kill_postmaster().unwrap();
    felt(&cluster, &writer, fault).await;
    failed_over(&cluster, before).await;
}
