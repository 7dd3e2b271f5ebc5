//! Moving the primary: killed, diverged, planned, and by Redis's own `FAILOVER`.

use std::time::{Duration, Instant};

use mesh_adapters::process::Signal;
use mesh_adapters::redis::{
    Fault, FenceMode, FencePlan, FollowError, HandOverError, How, PromoteError, StandbyError, close, confirm,
    fence, follow, freeze, hand_over, is_closed, open, open_primary, position, promote, quiet, renew_stamp,
    verify_follows,
};

use crate::lab::{Node, SYSTEM, Ways, Writer, missing, soon};

async fn three(dir: &std::path::Path) -> (Node, Node, Node) {
    let ways = Ways::default();
    let (east, dr, west) = tokio::join!(
        Node::start(dir, "east", &ways),
        Node::start(dir, "dr", &ways),
        Node::start(dir, "west", &ways)
    );
    east.lead(1).await;
    dr.follow(&east, 1).await;
    west.follow(&east, 1).await;
    (east, dr, west)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_is_replaced_by_the_furthest_replica_and_the_other_goes_on_without_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let (mut east, dr, west) = three(dir.path()).await;
    let writer = Writer::start(east.address(), "w").await;
    writer.past(500).await;
    // One replica is cut off earlier, so that there is a furthest one.
    let early = freeze(&west.instance, soon()).await.unwrap();
    writer.past(writer.count() + 500).await;
    let began = Instant::now();
    let fenced = east.kill().await;
    let (acknowledged, _) = writer.end().await;
    let (a, b) = (freeze(&dr.instance, soon()).await.unwrap(), freeze(&west.instance, soon()).await.unwrap());
    assert_eq!(b, early, "a frozen replica moves no more");
    assert_eq!((a.history, b.history, &a.replid), (1, 1, &b.replid));
    assert!(a.offset > b.offset);
    let promoted = promote(&dr.instance, &dr.stamp(2), soon()).await.unwrap();
    assert_eq!(promoted.forked_at, a.offset);
    assert!(is_closed(&dr.instance, soon()).await.unwrap(), "promoted is not open");
    let opened = open_primary(&dr.instance, &dr.stamp(2), soon()).await.unwrap();
    println!("fenced in {fenced:?}, open {:?} after the kill, at {}", began.elapsed(), opened.at);
    assert_eq!(opened.history, 2);
    let full_before = dr.cli(&["INFO", "stats"]).await;
    let followed = west.follow(&dr, 2).await;
    assert_eq!(followed.how, How::Continued);
    assert_eq!(followed.position.history, 2);
    let fulls = |text: &str| text.lines().find_map(|l| l.strip_prefix("sync_full:").map(str::to_owned));
    assert_eq!(fulls(&dr.cli(&["INFO", "stats"]).await), fulls(&full_before), "no whole copy");
    // Nothing that was written before the kill waited for a replica: what is missing is at most what was under way.
    let lost = missing(&dr, "w", acknowledged).await;
    println!("{lost} of {acknowledged} acknowledged writes were not replicated when it was killed");
    assert_eq!(missing(&west, "w", acknowledged).await, lost, "both have the same");

    // The old primary comes back held: a replica of nobody, behind the gate. It has its own replication id from disk, or none.
    east.again().await;
    let look = position(&east.instance, soon()).await.unwrap();
    assert_eq!(look.history, 0, "without a snapshot it has nothing");
    assert!(east.cli(&["SET", "x", "1"]).await.contains("READONLY"));
    assert!(matches!(east.follow(&dr, 2).await.how, How::Copied { kept_at: None, .. }));
    assert_eq!(missing(&east, "w", acknowledged).await, lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_the_old_primary_had_is_measured_and_kept_before_the_copy() {
    let dir = tempfile::tempdir().unwrap();
    let (mut east, dr, _west) = three(dir.path()).await;
    east.cli(&["SET", "both", "1"]).await;
    let there = position(&east.instance, soon()).await.unwrap();
    confirm(&dr.instance, there.offset, soon()).await.unwrap();
    freeze(&dr.instance, soon()).await.unwrap();
    // Acknowledged, and never replicated.
    assert_eq!(east.cli(&["SET", "alone", "42"]).await, "OK");
    let end = position(&east.instance, soon()).await.unwrap();
    dr.lead(2).await;
    // It runs, gated: demoted in place.
    close(&east.instance, soon()).await.unwrap();
    let followed = east.follow(&dr, 2).await;
    let How::Copied { diverged: Some(bytes), kept_at: Some(kept) } = followed.how else {
        panic!("{followed:?}")
    };
    assert_eq!(bytes, end.offset - there.offset);
    assert_eq!(east.cli(&["GET", "alone"]).await, "", "it has the data of the new primary");
    assert_eq!(east.cli(&["GET", "both"]).await, "1");
    let note: serde_json::Value =
        serde_json::from_slice(&std::fs::read(kept.join("note.json")).unwrap()).unwrap();
    assert_eq!(note["diverged_bytes"], bytes);
    assert_eq!(note["epoch"], 1);
    // What was kept can be read by a server.
    let mut settings = crate::lab::settings(dir.path(), "reader", &Ways::default());
    settings.data_dir = kept;
    let mut reader = Node::of(settings).await;
    assert_eq!(reader.cli(&["GET", "alone"]).await, "42");
    reader.kill().await;
    // Once more changes nothing.
    let again = east.follow(&dr, 2).await;
    assert_eq!(again.how, How::Already);
    verify_follows(&east.instance, dr.address(), soon()).await.unwrap();
    east.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_only_old_primary_that_was_killed_is_kept_with_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let ways = Ways {
        options: vec![("appendonly".into(), "yes".into()), ("appendfsync".into(), "always".into())],
        ..Ways::default()
    };
    let (mut east, dr) =
        tokio::join!(Node::start(dir.path(), "east", &ways), Node::start(dir.path(), "dr", &ways));
    east.lead(1).await;
    dr.follow(&east, 1).await;
    freeze(&dr.instance, soon()).await.unwrap();
    assert_eq!(east.cli(&["SET", "alone", "42"]).await, "OK");
    east.kill().await;
    dr.lead(2).await;
    east.again().await;
    // What it loaded is there, but the place in its history is not in an append-only file.
    assert_eq!(position(&east.instance, soon()).await.unwrap().history, 0);
    let followed = east.follow(&dr, 2).await;
    let How::Copied { diverged: None, kept_at: Some(kept) } = followed.how else { panic!("{followed:?}") };
    let mut settings = crate::lab::settings(dir.path(), "reader", &ways);
    settings.data_dir = kept;
    let mut reader = Node::of(settings).await;
    assert_eq!(reader.cli(&["GET", "alone"]).await, "42");
    reader.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_hand_over_under_load_loses_nothing_and_the_old_primary_goes_on_without_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let (east, dr, west) = three(dir.path()).await;
    let writer = Writer::start(east.address(), "w").await;
    writer.past(1000).await;
    let began = Instant::now();
    let done = hand_over(&east.instance, Duration::from_secs(2), soon()).await.unwrap();
    let at = confirm(&dr.instance, done.end, soon()).await.unwrap();
    assert!(at.offset >= done.end);
    dr.lead(2).await;
    let took = began.elapsed();
    let (acknowledged, refused) = writer.end().await;
    println!("handed over in {:?}, open after {took:?}; the client was told {refused:?}", done.took);
    assert!(refused.is_some_and(|why| why.contains("READONLY") || why.contains("closed")));
    assert_eq!(missing(&dr, "w", acknowledged).await, 0);
    assert_eq!(east.follow(&dr, 2).await.how, How::Continued);
    assert_eq!(west.follow(&dr, 2).await.how, How::Continued);
    // And back.
    let back = hand_over(&dr.instance, Duration::from_secs(2), soon()).await.unwrap();
    confirm(&east.instance, back.end, soon()).await.unwrap();
    east.lead(3).await;
    assert_eq!(dr.follow(&east, 3).await.how, How::Continued);
    assert_eq!(missing(&east, "w", acknowledged).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_that_nobody_can_take_leaves_the_primary_writing() {
    let dir = tempfile::tempdir().unwrap();
    let (east, dr, west) = three(dir.path()).await;
    dr.signal(Signal::STOP);
    west.signal(Signal::STOP);
    let writer = Writer::start(east.address(), "w").await;
    writer.past(100).await;
    let error = hand_over(&east.instance, Duration::from_millis(300), soon()).await.unwrap_err();
    assert!(matches!(error, HandOverError::NotDrained { .. }) && error.goes_on(), "{error:?}");
    let before = writer.count();
    writer.past(before + 100).await;
    assert_eq!(writer.end().await.1, None);
    dr.signal(Signal::CONT);
    west.signal(Signal::CONT);
    // A replica is no primary to hand over.
    let error = hand_over(&dr.instance, Duration::from_millis(300), soon()).await.unwrap_err();
    assert!(matches!(error, HandOverError::NotPrimary));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_connections_get_nothing_acknowledged_behind_the_gate_and_go_on_when_it_opens() {
    let dir = tempfile::tempdir().unwrap();
    let (east, ..) = three(dir.path()).await;
    let mut old = east.link().await;
    let mut set = redis::cmd("SET");
    set.arg("k").arg(1);
    old.ask("write", &set, soon()).await.unwrap();
    close(&east.instance, soon()).await.unwrap();
    let mut script = redis::cmd("EVAL");
    script.arg("return redis.call('SET','k','2')").arg(0);
    for write in [&set, &script, &redis::cmd("FLUSHALL")] {
        let error = old.ask("write", write, soon()).await.unwrap_err();
        assert!(!matches!(error.fault, Fault::TimedOut | Fault::Broken), "refused, not lost: {error}");
    }
    assert_eq!(east.cli(&["GET", "k"]).await, "1");
    open(&east.instance, soon()).await.unwrap();
    old.ask("write", &set, soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_ends_open_connections_a_stopped_server_and_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let (mut east, mut dr, _west) = three(dir.path()).await;
    let writer = Writer::start(east.address(), "w").await;
    writer.past(100).await;
    // A child that saves slowly is there when the fence comes.
    east.cli(&["CONFIG", "SET", "rdb-key-save-delay", "100000"]).await;
    east.cli(&["BGSAVE"]).await;
    east.signal(Signal::STOP);
    let plan = FencePlan { budget: Duration::from_secs(1), mode: FenceMode::Ladder };
    let proof = fence(&east.instance, east.main.as_ref(), plan).await.unwrap();
    assert!(!proof.clean, "a stopped server is not asked");
    let count = writer.count();
    quiet(&east.instance, &proof, soon()).await.unwrap();
    let (acknowledged, refused) = writer.end().await;
    assert_eq!(acknowledged, count, "nothing was acknowledged after the proof");
    assert!(refused.is_some());
    assert!(east.instance.tree().scan().unwrap().is_empty());
    east.main = None;
    // The ladder's first rung, behind the gate; and once more on what is dead.
    close(&dr.instance, soon()).await.unwrap();
    let proof = fence(&dr.instance, dr.main.as_ref(), plan).await.unwrap();
    assert!(proof.clean, "{proof:?}");
    quiet(&dr.instance, &proof, soon()).await.unwrap();
    dr.main = None;
    let again = fence(&dr.instance, None, plan).await.unwrap();
    quiet(&dr.instance, &again, soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_that_do_not_fit_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (east, dr, west) = three(dir.path()).await;
    // An open primary is not frozen, and follows nobody.
    assert!(matches!(freeze(&east.instance, soon()).await, Err(StandbyError::Primary)));
    let result = follow(&east.instance, dr.address(), 1, None, soon()).await;
    assert!(matches!(result, Err(FollowError::Primary)), "{result:?}");
    // A replica is followed by nobody.
    let result = follow(&west.instance, dr.address(), 1, None, soon()).await;
    assert!(matches!(result, Err(FollowError::NotPrimary { .. })), "{result:?}");
    // Another group's primary.
    let other = Node::start(dir.path(), "other", &Ways::default()).await;
    let stamp = mesh_adapters::redis::NewStamp { system: 1, ..other.stamp(1) };
    promote(&other.instance, &stamp, soon()).await.unwrap();
    open_primary(&other.instance, &stamp, soon()).await.unwrap();
    let result = follow(&west.instance, other.address(), 1, Some(SYSTEM), soon()).await;
    assert!(matches!(result, Err(FollowError::OtherSystem { .. })), "{result:?}");
    // An older epoch.
    freeze(&dr.instance, soon()).await.unwrap();
    dr.lead(5).await;
    let result = promote(&dr.instance, &dr.stamp(4), soon()).await;
    assert!(matches!(result, Err(PromoteError::Superseded { found: 5, .. })), "{result:?}");
    // Repeated under the same lease it writes nothing; acquired anew in place it is the same history.
    let before = position(&dr.instance, soon()).await.unwrap();
    let again = open_primary(&dr.instance, &dr.stamp(5), soon()).await.unwrap();
    assert!(again.already && again.at == before.offset);
    let anew = mesh_adapters::redis::NewStamp { lease_no: 6, ..dr.stamp(5) };
    let opened = open_primary(&dr.instance, &anew, soon()).await.unwrap();
    assert_eq!((opened.history, opened.already), (again.history, false));
    assert_eq!(verify_follows(&west.instance, east.address(), soon()).await.unwrap().how, How::Already);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_primary_that_draws_another_replication_id_stays_one_history() {
    let dir = tempfile::tempdir().unwrap();
    let ways = Ways::default();
    let (east, dr) =
        tokio::join!(Node::start(dir.path(), "east", &ways), Node::start(dir.path(), "dr", &ways));
    // As somebody runs it who does not know mesh: a primary without replicas, not gated.
    east.cli(&["REPLICAOF", "NO", "ONE"]).await;
    east.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    east.lead(1).await;
    assert!(!renew_stamp(&east.instance, 1, soon()).await.unwrap(), "it is right");
    follow(&dr.instance, east.address(), 1, Some(SYSTEM), soon()).await.unwrap();
    assert_eq!(position(&dr.instance, soon()).await.unwrap().history, 0, "not known yet");
    assert!(!renew_stamp(&east.instance, 2, soon()).await.unwrap(), "not of this epoch");
    assert!(renew_stamp(&east.instance, 1, soon()).await.unwrap());
    let there = position(&east.instance, soon()).await.unwrap();
    let here = confirm(&dr.instance, there.offset, soon()).await.unwrap();
    assert_eq!((there.history, here.history, &there.replid), (1, 1, &here.replid));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_restarted_goes_on_from_its_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let (east, mut dr, _west) = three(dir.path()).await;
    east.cli(&["SET", "k", "1"]).await;
    let there = position(&east.instance, soon()).await.unwrap();
    confirm(&dr.instance, there.offset, soon()).await.unwrap();
    dr.cli(&["SAVE"]).await;
    dr.kill().await;
    dr.again().await;
    let held = position(&dr.instance, soon()).await.unwrap();
    assert_eq!(held.history, 1, "its place in the history is in the snapshot");
    assert_eq!(dr.follow(&east, 1).await.how, How::Continued);
}
