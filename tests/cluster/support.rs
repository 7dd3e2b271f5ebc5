//! What the tests of this folder share.

use std::time::Duration;

use mesh_tests::lab::cluster::{Cluster, WITNESS, Wanted};
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::host::Terrain;
use mesh_tests::lab::process::Said;
use mesh_tests::lab::writer::Writer;
use tokio::sync::{Mutex, MutexGuard};

/// One cluster at a time: they measure time, and share the processors. (nextest runs each test as a process of its own;
/// there the group `machine` does the same.)
pub async fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// Of a group in which a killed postmaster is always a failover, whatever the standby had received.
pub const FAILOVER_FIRST: &str = "crash_policy = \"failover-first\"";

/// What most tests want.
pub fn wanted(follows: Follows, spec: &str) -> Wanted {
    Wanted { name: "test", terrain: Terrain::Loopback, follows, spec: spec.to_owned(), also: Vec::new() }
}

/// A healthy cluster with `pg-east` as its primary.
pub async fn formed() -> Cluster {
    formed_as(Follows::RuntimeApi, "").await
}

/// The same, with a choice.
pub async fn formed_as(follows: Follows, spec: &str) -> Cluster {
    let mut cluster = Cluster::raise(wanted(follows, spec)).await.unwrap();
    cluster.form().await.unwrap();
    cluster
}

/// The newest run of the group, if it had one.
pub async fn newest_run(cluster: &Cluster) -> Option<u64> {
    cluster.group().await.ok().and_then(|group| group.run).map(|run| run.id.0)
}

/// Waits until a client's rows are acknowledged.
pub async fn flowing(writer: &Writer) {
    writer.flows(50, Duration::from_secs(30)).await.unwrap();
}

/// What the witness's agent says to a command of mesh, whatever that is.
pub async fn ask(cluster: &Cluster, args: &[&str]) -> Said {
    cluster.nodes[WITNESS].ask(&cluster.mesh, args).await.unwrap()
}

/// A text that an operator reads names each of these.
pub fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
}
