//! The boot gate of a server that somebody else starts: before its guard is there, or beside it, with PostgreSQL's own programs.

use std::time::Duration;

use mesh_tests::lab::cluster::{Cluster, DR, EAST};
use mesh_tests::lab::process;
use mesh_tests::lab::wait::{Look, until};
use rustix::process::Signal;

use crate::support::{flowing, formed, newest_run, turn};

const LIMIT: Duration = Duration::from_secs(60);

/// Starts it with `pg_ctl`, as soon as that lets it be: it takes a dead postmaster that nobody has collected yet for alive.
async fn by_hand(cluster: &Cluster, node: usize) {
    let started = until("the server is started by hand", LIMIT, || async {
        cluster.servers[node].start().await.map(Look::There)
    })
    .await;
    cluster.explained(started).await.unwrap();
}

/// A power cut: everything of the node stops at once, and only then dies, so that no leash is left to write anything into the
/// data directory on the death of its guard.
async fn power_cut(cluster: &mut Cluster, node: usize) {
    let (guard, agent) = (cluster.nodes[node].guard.as_ref(), cluster.nodes[node].agent.as_ref());
    let roots = [guard.unwrap().pid(), agent.unwrap().pid(), cluster.servers[node].postmaster().unwrap()];
    for signal in [Signal::STOP, Signal::KILL] {
        for pid in roots.iter().flat_map(|root| process::tree(*root).unwrap()) {
            process::send(pid, signal).unwrap();
        }
    }
    cluster.lose(node).await.unwrap();
}

/// A client on the server's own host is told that it may not write.
async fn takes_no_write(cluster: &Cluster, node: usize) {
    let (client, connection) =
        cluster.servers[node].local_client().connect(tokio_postgres::NoTls).await.unwrap();
    let driver = tokio::spawn(connection);
    let refused = client.execute("INSERT INTO lab (id, writer) VALUES (-1, 'stranger')", &[]).await;
    let code = refused.unwrap_err().code().cloned();
    assert_eq!(code, Some(tokio_postgres::error::SqlState::READ_ONLY_SQL_TRANSACTION));
    driver.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_primary_started_by_hand_before_its_guard_takes_no_write_and_rejoins() {
    let _turn = turn().await;
    let mut cluster = formed().await;
    let writer = cluster.writer();
    flowing(&writer).await;
    let before = newest_run(&cluster).await;
    power_cut(&mut cluster, EAST).await;
    let done = cluster.until_run_done(before, LIMIT).await;
    cluster.explained(done).await.unwrap();
    by_hand(&cluster, EAST).await;
    assert!(!cluster.servers[EAST].is_primary().await.unwrap());
    takes_no_write(&cluster, EAST).await;
    cluster.boot(EAST).unwrap();
    cluster.until_healthy("pg-dr", LIMIT).await.unwrap();
    takes_no_write(&cluster, EAST).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_started_by_hand_after_a_power_cut_waits_for_a_lease() {
    let _turn = turn().await;
    let mut cluster = formed().await;
    let writer = cluster.writer();
    flowing(&writer).await;
    // Nobody can take over: the standby's site is away as well.
    power_cut(&mut cluster, DR).await;
    power_cut(&mut cluster, EAST).await;
    by_hand(&cluster, EAST).await;
    takes_no_write(&cluster, EAST).await;
    cluster.boot(EAST).unwrap();
    cluster.boot(DR).unwrap();
    // Which of the two is the primary then is decided by who is back first; clients of the route write again.
    cluster.until_settled(LIMIT).await.unwrap();
    let flows = writer.flows(20, LIMIT).await;
    cluster.explained(flows).await.unwrap();
}

/// The host dies in the moment in which a primary has no `standby.signal`: its unit asks `mesh gate` before it starts the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_asks_the_gate_starts_a_standby_whatever_its_guard_was_about() {
    let _turn = turn().await;
    let mut cluster = formed().await;
    let writer = cluster.writer();
    flowing(&writer).await;
    power_cut(&mut cluster, DR).await;
    power_cut(&mut cluster, EAST).await;
    let signal = cluster.servers[EAST].data.join("standby.signal");
    std::fs::remove_file(&signal).unwrap();
    let why = gate(&cluster, &["--why"]).await;
    assert!(why.contains("standby.signal was missing in a guarded directory, and would be written"), "{why}");
    assert!(!signal.exists(), "only asked");
    let said = gate(&cluster, &[]).await;
    assert!(said.contains("and was written"), "{said}");
    assert_eq!(gate(&cluster, &[]).await, "", "nothing is left to be said");
    by_hand(&cluster, EAST).await;
    takes_no_write(&cluster, EAST).await;
    cluster.boot(EAST).unwrap();
    cluster.boot(DR).unwrap();
    cluster.until_settled(LIMIT).await.unwrap();
    let flows = writer.flows(20, LIMIT).await;
    cluster.explained(flows).await.unwrap();
}

/// What `mesh gate` says on the primary's host; it ends with 0 whatever it finds.
async fn gate(cluster: &Cluster, words: &[&str]) -> String {
    let node = &cluster.nodes[EAST];
    let config = node.config.display().to_string();
    let args = [&["gate", "--config", &config], words].concat();
    let said = node.ask(&cluster.mesh, &args).await.unwrap();
    assert_eq!(said.code, 0, "{}", said.text());
    let nowhere = node.ask(&cluster.mesh, &["gate", "--config", "/nowhere/mesh.toml"]).await.unwrap();
    assert_eq!(nowhere.code, 0, "a server is never kept from starting: {}", nowhere.text());
    assert!(nowhere.text().contains("/nowhere/mesh.toml"), "{}", nowhere.text());
    said.text()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_primary_that_restarts_itself_after_a_crashed_session_serves_again() {
    let _turn = turn().await;
    let cluster = formed().await;
    let mut writer = cluster.writer();
    flowing(&writer).await;
    // The default of PostgreSQL, and a primary that is adopted is not restarted: its postmaster outlives the crash of a session.
    let east = &cluster.servers[EAST];
    east.superuser("ALTER SYSTEM SET restart_after_crash = on").await.unwrap();
    east.superuser("SELECT pg_reload_conf()").await.unwrap();
    let setting = until("a crash is to be survived", LIMIT, || async {
        let on: String = east.ask("SHOW restart_after_crash").await?;
        Ok(if on == "on" { Look::There(()) } else { Look::NotYet(on) })
    })
    .await;
    cluster.explained(setting).await.unwrap();
    let postmaster = east.postmaster().unwrap();
    let victim: i32 =
        east.ask("SELECT pid FROM pg_stat_activity WHERE application_name = 'lab_writer'").await.unwrap();
    process::send(victim.cast_unsigned(), Signal::KILL).unwrap();
    let flows = writer.flows(200, LIMIT).await;
    cluster.explained(flows).await.unwrap();
    // In place: it came up as a standby inside the old postmaster, and was promoted under the lease that its guard still held.
    let group = cluster.until_healthy("pg-east", LIMIT).await.unwrap();
    assert_eq!((group.epoch.0, east.postmaster().unwrap()), (1, postmaster));
    let file: String = east.ask("SELECT pg_walfile_name(pg_current_wal_lsn())").await.unwrap();
    assert!(file.starts_with("00000002"), "{file}");
    writer.stop().await.unwrap();
    let (_, lost) = writer.lost(&east.local_client()).await.unwrap();
    assert_eq!(lost, Vec::<i64>::new());
}
