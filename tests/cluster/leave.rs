//! A group's databases are taken out of mesh's care by hand, as deploy/runbooks/leave.md says: no command does it.

use std::time::Duration;

use mesh_tests::lab::cluster::{Cluster, DR, EAST, WITNESS};
use mesh_tests::lab::wait::{Look, until};
use mesh_tests::lab::writer::Writer;

use crate::support::{flowing, formed, newest_run, turn};

const LIMIT: Duration = Duration::from_secs(30);

/// Stops a guard, as its unit would. What it leaves running is a standby that it found running when it came.
async fn stop_guard(cluster: &mut Cluster, node: usize) {
    let mut guard = cluster.nodes[node].guard.take().unwrap();
    guard.stop(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_leaves_is_its_operators_alone_and_mesh_leaves_it_alone() {
    let _turn = turn().await;
    let mut cluster = formed().await;
    let mut writer = cluster.writer();
    flowing(&writer).await;
    // Nothing by itself any more, and no route.
    let file = cluster.dir().join("orders.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let kept = text.split("[[route]]").next().unwrap();
    std::fs::write(&file, kept.replacen('\n', "\nautomatic = false\n", 1)).unwrap();
    cluster.must(EAST, &["apply", "-f", &file.display().to_string()]).await.unwrap();
    // The standby first, then the primary: writes end here.
    stop_guard(&mut cluster, DR).await;
    if cluster.servers[DR].is_running() {
        cluster.servers[DR].stop_immediate().await.unwrap();
    }
    stop_guard(&mut cluster, EAST).await;
    let ended = until("the primary has ended with its guard", LIMIT, || async {
        let runs = cluster.servers[EAST].is_running();
        Ok(if runs { Look::NotYet("it runs".to_owned()) } else { Look::There(()) })
    });
    ended.await.unwrap();
    writer.stop().await.unwrap();
    for node in [EAST, DR] {
        let conf = cluster.servers[node].data.join("postgresql.auto.conf");
        let text = std::fs::read_to_string(&conf).unwrap();
        let kept = text.lines().filter(|line| !line.starts_with("synchronous_standby_names"));
        std::fs::write(&conf, kept.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        // A standby that ran already when its guard came, and was never started by it, has none.
        let mark = cluster.servers[node].data.join("mesh.guarded");
        assert!(mark.exists() || node == DR);
        if mark.exists() {
            std::fs::remove_file(mark).unwrap();
        }
    }
    std::fs::remove_file(cluster.servers[EAST].data.join("standby.signal")).unwrap();
    for node in [EAST, DR] {
        cluster.servers[node].start().await.unwrap();
    }
    // Writes flow, and the standby follows, without mesh.
    assert!(cluster.servers[EAST].is_primary().await.unwrap());
    let direct = Writer::start(cluster.servers[EAST].local_client(), "left", 7_000_000);
    flowing(&direct).await;
    let streams = until("the standby streams", LIMIT, || async {
        let count: i64 = cluster.servers[EAST]
            .ask("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")
            .await?;
        Ok(if count == 1 { Look::There(()) } else { Look::NotYet(format!("{count} stream")) })
    });
    streams.await.unwrap();
    // The agents still run, and see a primary whose guard is gone for longer than any lease.
    tokio::time::sleep(Duration::from_secs(8)).await;
    flowing(&direct).await;
    assert!(!cluster.servers[DR].is_primary().await.unwrap());
    assert_eq!(newest_run(&cluster).await, None, "mesh acted on what it was told to leave");
    // Nor by hand: there is no guard to act.
    let asked =
        cluster.nodes[WITNESS].ask(&cluster.mesh, &["failover", "--site", "dr", "--yes"]).await.unwrap();
    assert_ne!(asked.code, 0, "{}", asked.text());
    assert!(cluster.servers[EAST].is_primary().await.unwrap());
    flowing(&direct).await;
}
