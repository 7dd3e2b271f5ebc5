//! The primary's disk is full, or hangs, on a real file system: what status says of it, and what is done. Needs root for the disks.

use std::time::{Duration, Instant};

use anyhow::Result;
use mesh_proto::evidence::GuardStatus;
use mesh_tests::lab::cluster::{Also, Cluster, EAST, Wanted};
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::wait::{Look, until};

use crate::support::{flowing, newest_run, turn, wanted};

const LIMIT: Duration = Duration::from_secs(60);

async fn with_disks() -> Cluster {
    let also = vec![Also::Disks];
    let mut cluster = Cluster::raise(Wanted { also, ..wanted(Follows::RuntimeApi, "") }).await.unwrap();
    cluster.form().await.unwrap();
    cluster
}

/// What the guard of `pg-east` says, and what `mesh status` prints, once it prints these words.
async fn seen(cluster: &Cluster, words: &str) -> Result<(GuardStatus, String)> {
    until(words, LIMIT, || async {
        let text = cluster.must(EAST, &["status"]).await?.out;
        let group = cluster.group().await?;
        let guard = group.instances.iter().find(|i| i.name.as_str() == "pg-east").unwrap().guard.clone();
        Ok(match guard {
            Some((guard, _)) if text.contains(words) => Look::There((guard, text)),
            _ => Look::NotYet(text),
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_the_primary_is_shown_and_not_failed_over() {
    let _turn = turn().await;
    let cluster = with_disks().await;
    let mut writer = cluster.writer();
    flowing(&writer).await;
    writer.stop().await.unwrap();
    // A server that needs a new segment of its log and gets none stops, which is a crash: here it has one that is nearly empty.
    let none_needed = [
        "ALTER SYSTEM SET archive_timeout = 0",
        "SELECT pg_reload_conf()",
        "SELECT pg_switch_wal()",
        "CREATE TABLE spare (n int)",
    ];
    for sql in none_needed {
        cluster.servers[EAST].superuser(sql).await.unwrap();
    }
    let (before, fault) = (newest_run(&cluster).await, Instant::now());
    let disk = cluster.servers[EAST].disk.clone().unwrap();
    disk.fill().unwrap();
    let shown = seen(&cluster, "is full").await;
    let (guard, text) = cluster.explained(shown).await.unwrap();
    println!("FIGURE full disk: shown after {:?}\n{text}", fault.elapsed());
    assert_eq!(guard.disks.len(), 1, "data and log share it: {guard:?}");
    let line = text.lines().find(|line| line.contains("is full")).unwrap();
    assert!(line.contains("! pg-east: the disk of its data and log ("), "{line}");
    assert!(line.contains("is full"), "{line}");
    // Long enough for any verdict: nothing is begun.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let group = cluster.group().await.unwrap();
    assert_eq!((group.epoch.0, newest_run(&cluster).await), (1, before), "{group:?}");
    disk.free().unwrap();
    let group = cluster.until_healthy("pg-east", LIMIT).await.unwrap();
    assert_eq!(group.epoch.0, 1);
    let gone = until("the warning is gone", LIMIT, || async {
        let text = cluster.must(EAST, &["status"]).await?.out;
        Ok(if text.contains("is full") { Look::NotYet(text) } else { Look::There(()) })
    })
    .await;
    cluster.explained(gone).await.unwrap();
    flowing(&cluster.writer()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_under_the_writes_of_the_primary_is_failed_over() {
    let _turn = turn().await;
    let cluster = with_disks().await;
    let mut writer = cluster.writer();
    flowing(&writer).await;
    let (before, fault) = (newest_run(&cluster).await, Instant::now());
    let disk = cluster.servers[EAST].disk.clone().unwrap();
    disk.hang().await.unwrap();
    let done = cluster.until_run_done(before, LIMIT).await;
    println!("FIGURE hung disk: failed over after {:?}", fault.elapsed());
    let shown = seen(&cluster, "hangs: an fsync has not returned for").await;
    // Before anything is asserted: nothing that waits for a disk can be ended.
    disk.go_on().await.unwrap();
    let run = cluster.explained(done).await.unwrap();
    assert_eq!(run.promotion.as_ref().unwrap().instance.as_str(), "pg-dr", "{run:?}");
    let (_, text) = cluster.explained(shown).await.unwrap();
    println!("{text}");
    assert!(text.contains("! pg-east: the disk of its data and log ("), "{text}");
    cluster.until_healthy("pg-dr", LIMIT).await.unwrap();
    flowing(&writer).await;
    writer.stop().await.unwrap();
}
