//! The primary's server dies, its host and its guard live: what the crash policy makes of it, on real servers.

use std::time::{Duration, Instant};

use mesh_proto::effect::{Finding, Outcome};
use mesh_proto::run::{Phase, Run};
use mesh_tests::lab::cluster::{Cluster, DR, EAST};
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::wait::{Look, until};
use mesh_tests::lab::writer::Writer;

use crate::support::{flowing, formed, formed_as, newest_run, turn};

const LIMIT: Duration = Duration::from_secs(60);

/// Waits until a run newer than `before` ended, in whatever way.
async fn ended(cluster: &Cluster, before: Option<u64>) -> Run {
    let run = until("the run is over", LIMIT, || async {
        let run = cluster.group().await?.run.filter(|run| before.is_none_or(|before| run.id.0 > before));
        Ok(match run {
            Some(run) if run.phase.is_final() => Look::There(run),
            run => Look::NotYet(format!("{:?}", run.map(|run| run.phase))),
        })
    })
    .await;
    cluster.explained(run).await.unwrap()
}

/// How many commits the dead log had that the standby lacked, if it was read.
fn lacking(run: &Run) -> Option<u64> {
    run.steps.values().find_map(|step| match &step.outcome {
        Some(Outcome::Done(Finding::Scanned { commits, .. })) => Some(*commits),
        _ => None,
    })
}

/// Rows that no standby receives.
async fn fall_behind(cluster: &Cluster, writer: &Writer) {
    cluster.servers[EAST].hold_senders().unwrap();
    let more = writer.flows(60, LIMIT).await;
    cluster.explained(more).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_primary_whose_standby_lacks_rows_is_restarted_in_place_and_nothing_is_lost() {
    let _turn = turn().await;
    let cluster = formed().await;
    let mut writer = cluster.writer();
    flowing(&writer).await;
    let before = newest_run(&cluster).await;
    fall_behind(&cluster, &writer).await;
    let fault = Instant::now();
    cluster.servers[EAST].kill_postmaster().unwrap();
    let outage = writer.outage(fault, Duration::from_secs(10), LIMIT).await;
    let outage = cluster.explained(outage).await.unwrap();
    println!("FIGURE crash, standby behind: no write for {:?}", outage.gap);
    let run = ended(&cluster, before).await;
    assert_eq!(run.phase, Phase::Aborted, "{run:?}");
    assert!(lacking(&run).is_some_and(|commits| commits > 50), "{run:?}");
    assert_eq!(run.promotion, None);
    let group = cluster.until_healthy("pg-east", LIMIT).await.unwrap();
    assert_eq!(group.epoch.0, 1);
    writer.stop().await.unwrap();
    let (acked, lost) = writer.lost(&cluster.servers[EAST].local_client()).await.unwrap();
    assert!(acked > 100, "{acked}");
    assert_eq!(lost, Vec::<i64>::new(), "a crash alone loses nothing");
    // The standby goes on from where it was.
    let caught_up = until("the standby has every row", LIMIT, || async {
        let there: i64 = cluster.servers[DR].ask("SELECT count(*) FROM lab").await?;
        let all: i64 = cluster.servers[EAST].ask("SELECT count(*) FROM lab").await?;
        Ok(if there == all { Look::There(()) } else { Look::NotYet(format!("{there} of {all}")) })
    })
    .await;
    cluster.explained(caught_up).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_primary_whose_standby_has_every_commit_is_failed_over_and_nothing_is_lost() {
    let _turn = turn().await;
    let cluster = formed().await;
    let mut writer = cluster.writer();
    flowing(&writer).await;
    writer.stop().await.unwrap();
    let received = until("the standby has received everything", LIMIT, || async {
        let lag: i64 = cluster.servers[EAST]
            .ask("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn)::int8 FROM pg_stat_replication")
            .await?;
        Ok(if lag == 0 { Look::There(()) } else { Look::NotYet(format!("{lag} bytes")) })
    })
    .await;
    cluster.explained(received).await.unwrap();
    let before = newest_run(&cluster).await;
    cluster.servers[EAST].kill_postmaster().unwrap();
    let run = ended(&cluster, before).await;
    assert_eq!(run.phase, Phase::Done, "{run:?}");
    assert_eq!(lacking(&run), Some(0), "{run:?}");
    assert_eq!(run.promotion.unwrap().instance.as_str(), "pg-dr");
    cluster.until_healthy("pg-dr", LIMIT).await.unwrap();
    let (_, lost) = writer.lost(&cluster.servers[DR].local_client()).await.unwrap();
    assert_eq!(lost, Vec::<i64>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_primary_that_does_not_come_up_is_replaced_and_the_loss_is_said() {
    let _turn = turn().await;
    let cluster = formed_as(Follows::RuntimeApi, "crash_restart_seconds = 2").await;
    let writer = cluster.writer();
    flowing(&writer).await;
    let before = newest_run(&cluster).await;
    fall_behind(&cluster, &writer).await;
    let conf = cluster.servers[EAST].data.join("postgresql.conf");
    let sound = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, format!("{sound}\nno_such_parameter = on\n")).unwrap();
    let fault = Instant::now();
    cluster.servers[EAST].kill_postmaster().unwrap();
    let outage = writer.outage(fault, Duration::from_secs(10), LIMIT).await;
    let outage = cluster.explained(outage).await.unwrap();
    println!("FIGURE crash, no way up: no write for {:?}", outage.gap);
    let done = cluster.until_run_done(before, LIMIT).await;
    let run = cluster.explained(done).await.unwrap();
    assert!(lacking(&run).is_some_and(|commits| commits > 50), "{run:?}");
    assert_eq!(run.promotion.as_ref().unwrap().instance.as_str(), "pg-dr");
    assert_eq!(run.takeovers, 2, "the restart was one try: {run:?}");
    // A rejoin that was under way puts the file back as it had found it: it is corrected until that is over.
    let healthy = cluster.until_healthy("pg-dr", LIMIT);
    tokio::pin!(healthy);
    let healthy = loop {
        if std::fs::read_to_string(&conf).is_ok_and(|text| text.contains("no_such_parameter")) {
            std::fs::write(&conf, &sound).unwrap();
        }
        if let Ok(result) = tokio::time::timeout(Duration::from_secs(1), &mut healthy).await {
            break result;
        }
    };
    cluster.explained(healthy).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_restarts_first_asks_no_log() {
    let _turn = turn().await;
    let cluster = formed_as(Follows::RuntimeApi, "crash_policy = \"restart-first\"").await;
    let writer = cluster.writer();
    flowing(&writer).await;
    let (before, fault) = (newest_run(&cluster).await, Instant::now());
    cluster.servers[EAST].kill_postmaster().unwrap();
    let outage = writer.outage(fault, Duration::from_secs(10), LIMIT).await;
    let outage = cluster.explained(outage).await.unwrap();
    println!("FIGURE crash, restart first: no write for {:?}", outage.gap);
    let run = ended(&cluster, before).await;
    assert_eq!((run.phase, lacking(&run)), (Phase::Aborted, None), "{run:?}");
    let group = cluster.until_healthy("pg-east", LIMIT).await.unwrap();
    assert_eq!(group.epoch.0, 1);
    // A second crash within the hold-down is the same trouble again: a standby takes over.
    let before = newest_run(&cluster).await;
    cluster.servers[EAST].kill_postmaster().unwrap();
    let run = ended(&cluster, before).await;
    assert_eq!(run.phase, Phase::Done, "{run:?}");
    cluster.until_healthy("pg-dr", LIMIT).await.unwrap();
}
