//! A zero-loss group: what a client saw acknowledged is there after every failover, or nobody is promoted.

use std::time::{Duration, Instant};

use mesh_proto::lease::Proof;
use mesh_tests::lab::cluster::{Also, Cluster, DR, EAST, WITNESS, Wanted};
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::mesh;
use mesh_tests::lab::wait::{Look, until};

use crate::support::{flowing, formed, formed_as, newest_run, turn, wanted};

const LIMIT: Duration = Duration::from_secs(60);

/// Waits until the group's commits wait for its standby, and the mesh is sure of it.
async fn zero_loss(cluster: &Cluster) {
    let sure = until("every commit waits for the standby", LIMIT, || async {
        let quorum = cluster.group().await?.quorum;
        Ok(match quorum {
            Some(quorum) if quorum.not_yet.is_none() => Look::There(()),
            other => Look::NotYet(format!("{other:?}")),
        })
    })
    .await;
    cluster.explained(sure).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn three_killed_primaries_lose_nothing_that_was_acknowledged() {
    let _turn = turn().await;
    let cluster = formed_as(Follows::RuntimeApi, "durability = \"zero-loss\"\nhold_down_seconds = 0").await;
    zero_loss(&cluster).await;
    let mut writer = cluster.writer();
    flowing(&writer).await;
    for (from, to) in [(EAST, "pg-dr"), (DR, "pg-east"), (EAST, "pg-dr")] {
        let (before, fault) = (newest_run(&cluster).await, Instant::now());
        cluster.servers[from].kill_postmaster().unwrap();
        let run = cluster.until_run_done(before, LIMIT).await;
        let run = cluster.explained(run).await.unwrap();
        assert_eq!(run.promotion.as_ref().unwrap().instance.as_str(), to);
        assert!(run.promotion.unwrap().durability.is_some());
        // Commits flow only when the old primary is a standby again: there is no other one to wait for.
        let flows = writer.outage(fault, Duration::from_secs(20), LIMIT).await;
        cluster.explained(flows).await.unwrap();
        let healthy = cluster.until_healthy(to, LIMIT).await;
        cluster.explained(healthy).await.unwrap();
        zero_loss(&cluster).await;
    }
    writer.stop().await.unwrap();
    let (acked, lost) = writer.lost(&cluster.servers[DR].local_client()).await.unwrap();
    assert!(acked > 150, "{acked} acknowledged");
    assert_eq!(lost, Vec::<i64>::new());
}

/// The host is lost: nobody waits for the end of its lease, since its commit quorum is frozen, and nothing acknowledged is
/// missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_opens_early_promotes_on_its_frozen_quorum_and_loses_nothing() {
    let _turn = turn().await;
    let spec = "durability = \"zero-loss\"\nopen = \"durability-only\"\nhold_down_seconds = 0";
    let mut cluster =
        Cluster::raise(Wanted { also: vec![Also::Standby], ..wanted(Follows::RuntimeApi, spec) })
            .await
            .unwrap();
    cluster.form().await.unwrap();
    zero_loss(&cluster).await;
    let said = cluster.nodes[WITNESS].ask(&cluster.mesh, &["status"]).await.unwrap().text();
    assert!(said.contains("for durable writes only"), "{said}");
    let mut writer = cluster.writer();
    flowing(&writer).await;
    let (before, fault) = (newest_run(&cluster).await, Instant::now());
    cluster.lose(EAST).await.unwrap();
    let run = cluster.until_run_done(before, LIMIT).await;
    let promotion = cluster.explained(run).await.unwrap().promotion.unwrap();
    assert!(matches!(promotion.proof, Proof::Frozen(_)), "{promotion:?}");
    let flows = writer.outage(fault, Duration::from_secs(20), LIMIT).await;
    cluster.explained(flows).await.unwrap();
    cluster.boot(EAST).unwrap();
    cluster.until_healthy(promotion.instance.as_str(), LIMIT).await.unwrap();
    writer.stop().await.unwrap();
    let at = cluster.primary().await.unwrap();
    let (acked, lost) = writer.lost(&cluster.servers[at].local_client()).await.unwrap();
    assert!(acked > 100, "{acked} acknowledged");
    assert_eq!(lost, Vec::<i64>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_waits_while_its_only_standby_is_away() {
    let _turn = turn().await;
    let mut cluster = formed_as(Follows::RuntimeApi, "durability = \"zero-loss\"").await;
    zero_loss(&cluster).await;
    let writer = cluster.writer();
    flowing(&writer).await;
    cluster.lose(DR).await.unwrap();
    let quiet = until("nothing is acknowledged any more", LIMIT, || async {
        let moment = Instant::now() - Duration::from_secs(3);
        let newer = writer.after(moment).len();
        Ok(if newer == 0 { Look::There(()) } else { Look::NotYet(format!("{newer} acknowledged")) })
    })
    .await;
    cluster.explained(quiet).await.unwrap();
    cluster.boot(DR).unwrap();
    let (before, back) = (writer.count(), LIMIT);
    let flows = until("writes flow again", back, || async {
        let count = writer.count();
        Ok(if count > before + 20 { Look::There(()) } else { Look::NotYet(format!("{count}")) })
    })
    .await;
    cluster.explained(flows).await.unwrap();
    assert_eq!(cluster.group().await.unwrap().primary.unwrap().as_str(), "pg-east");
}

/// Commits stand still, an operator lets them go, the standby comes back, and commits wait again: only then a failover loses
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn commits_that_wait_are_let_go_by_hand_and_wait_again() {
    let _turn = turn().await;
    let mut cluster =
        formed_as(Follows::RuntimeApi, "durability = \"zero-loss\"\nhold_down_seconds = 0").await;
    zero_loss(&cluster).await;
    let mut writer = cluster.writer();
    flowing(&writer).await;
    cluster.lose(DR).await.unwrap();
    says(&cluster, &["COMMITS WAIT", "none of them streams", "mesh degrade --group"]).await;
    let refused = cluster.nodes[WITNESS].ask(&cluster.mesh, &["degrade", "--reason", " "]).await.unwrap();
    assert_eq!(refused.code, 2, "{}", refused.text());
    let before = writer.count();
    cluster.must(WITNESS, &["degrade", "--reason", "dr is flooded"]).await.unwrap();
    goes_on(&cluster, &writer, before).await;
    says(&cluster, &["NOT ZERO-LOSS", "dr is flooded", "not yet zero-loss"]).await;
    cluster.boot(DR).unwrap();
    says(&cluster, &["NOT ZERO-LOSS", "back: pg-dr; mesh degrade --group", "--end"]).await;
    cluster.must(WITNESS, &["degrade", "--end", "--reason", "dr is back"]).await.unwrap();
    zero_loss(&cluster).await;
    // What was written meanwhile stands at the standby as well.
    cluster.servers[EAST].kill_postmaster().unwrap();
    cluster.until_healthy("pg-dr", LIMIT).await.unwrap();
    writer.stop().await.unwrap();
    let (acked, lost) = writer.lost(&cluster.servers[DR].local_client()).await.unwrap();
    assert!(acked > 100, "{acked} acknowledged");
    assert_eq!(lost, Vec::<i64>::new());
}

/// The same by policy, without anybody.
#[tokio::test(flavor = "multi_thread")]
async fn commits_that_wait_are_let_go_by_policy_and_wait_again() {
    let _turn = turn().await;
    let lines = "durability = \"zero-loss\"\ndegrade = \"after\"\ndegrade_after_seconds = 2";
    let mut cluster = formed_as(Follows::RuntimeApi, lines).await;
    zero_loss(&cluster).await;
    let mut writer = cluster.writer();
    flowing(&writer).await;
    cluster.lose(DR).await.unwrap();
    says(&cluster, &["COMMITS WAIT"]).await;
    let before = writer.count();
    goes_on(&cluster, &writer, before).await;
    says(&cluster, &["NOT ZERO-LOSS", "they had waited 2.00 s for 1 of pg-dr"]).await;
    cluster.boot(DR).unwrap();
    zero_loss(&cluster).await;
    let audit = cluster.audit(1).await.unwrap();
    assert!(audit.iter().any(|record| record.summary.contains("pg-dr kept up for 5.00 s")));
    writer.stop().await.unwrap();
}

/// The primary comes up from its own log while its standby is away: what stands there alone nobody reads, until the standby has
/// it or an operator lets it go.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_primary_recovered_is_read_only_when_its_quorum_has_it() {
    let _turn = turn().await;
    let lines = "durability = \"zero-loss\"\nhold_down_seconds = 0\ncrash_policy = \"restart-first\"";
    let mut cluster = formed_as(Follows::RuntimeApi, lines).await;
    zero_loss(&cluster).await;
    let mut writer = cluster.writer();
    flowing(&writer).await;
    for let_go in [false, true] {
        cluster.lose(DR).await.unwrap();
        says(&cluster, &["COMMITS WAIT"]).await;
        cluster.servers[EAST].kill_postmaster().unwrap();
        says(&cluster, &["COMMITS WAIT", "clients shut out"]).await;
        let refused = reads(&cluster).await.unwrap_err();
        assert!(format!("{refused:#}").contains("pg_hba.conf"), "{refused:#}");
        if let_go {
            cluster.must(WITNESS, &["degrade", "--reason", "dr is flooded"]).await.unwrap();
        } else {
            cluster.boot(DR).unwrap();
        }
        let since = Instant::now();
        let read = until("clients read", LIMIT, || async {
            Ok(match reads(&cluster).await {
                Ok(_) => Look::There(()),
                Err(error) => Look::NotYet(format!("{error:#}")),
            })
        })
        .await;
        cluster.explained(read).await.unwrap();
        println!("FIGURE clients are let in, degraded {let_go}: after {:?}", since.elapsed());
        if !let_go {
            zero_loss(&cluster).await;
        }
    }
    writer.stop().await.unwrap();
    let (acked, lost) = writer.lost(&cluster.servers[EAST].local_client()).await.unwrap();
    assert!(acked > 0, "{acked} acknowledged");
    assert_eq!(lost, Vec::<i64>::new());
}

/// What a client on the primary's host reads.
async fn reads(cluster: &Cluster) -> anyhow::Result<i64> {
    let config = cluster.servers[EAST].local_client();
    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
    let driven = tokio::spawn(connection);
    let row = client.query_one("SELECT count(*) FROM lab", &[]).await?;
    drop(client);
    driven.await??;
    Ok(row.try_get(0)?)
}

async fn goes_on(cluster: &Cluster, writer: &mesh_tests::lab::writer::Writer, before: usize) {
    let flows = until("commits go on without a standby", LIMIT, || async {
        let count = writer.count();
        Ok(if count > before + 20 { Look::There(()) } else { Look::NotYet(format!("{count}")) })
    })
    .await;
    cluster.explained(flows).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_may_lack_a_commit_is_promoted_only_when_the_loss_is_accepted() {
    let _turn = turn().await;
    let mut cluster = formed().await;
    cluster.lose(DR).await.unwrap();
    // Asked for while nobody could flush a commit: so far commits wait for nobody, and status says so.
    let lines = "durability = \"zero-loss\"\nhold_down_seconds = 0";
    let spec = mesh::spec(mesh::GROUP, cluster.parts(&cluster.routes()), lines);
    let file = cluster.ground().file("orders.toml", &spec).unwrap().display().to_string();
    let said = cluster.must(WITNESS, &["apply", "-f", &file]).await.unwrap();
    assert!(said.out.contains("commits wait until a standby is back"), "{}", said.text());
    cluster.servers[EAST]
        .superuser("INSERT INTO lab SELECT -g FROM generate_series(1, 100) g")
        .await
        .unwrap();
    says(&cluster, &["not yet zero-loss", "wait for no standby"]).await;
    cluster.lose(EAST).await.unwrap();
    cluster.boot(DR).unwrap();
    says(&cluster, &["DOWN", "only the old primary surely has them"]).await;
    let said = cluster.nodes[DR].ask(&cluster.mesh, &["failover", "--site", "dr", "--yes"]).await.unwrap();
    assert_eq!(said.code, 3, "{}", said.text());
    assert!(said.text().contains("--accept-loss"), "{}", said.text());
    assert!(!cluster.servers[DR].is_primary().await.unwrap());
    let accepted =
        ["failover", "--site", "dr", "--accept-loss", "--reason", "the site is gone", "--yes", "--detach"];
    let before = newest_run(&cluster).await;
    let said = cluster.nodes[DR].ask(&cluster.mesh, &accepted).await.unwrap();
    assert_eq!(said.code, 0, "{}", said.text());
    // Nothing is acknowledged before a standby is there to flush it.
    cluster.boot(EAST).unwrap();
    let done = cluster.until_run_done(before, LIMIT).await;
    let run = cluster.explained(done).await.unwrap();
    assert!(run.plan.accept_loss);
    cluster.until_healthy("pg-dr", LIMIT).await.unwrap();
    zero_loss(&cluster).await;
    let audit = cluster.audit(1).await.unwrap();
    assert!(
        audit.iter().any(|record| record.summary.contains("acknowledged writes may be lost, as accepted"))
    );
}

/// Waits until `mesh status` has all these words.
async fn says(cluster: &Cluster, words: &[&str]) {
    let seen = until(&format!("the status says {words:?}"), LIMIT, || async {
        let said = cluster.nodes[WITNESS].ask(&cluster.mesh, &["status"]).await?;
        let all = words.iter().all(|word| said.out.contains(word));
        Ok(if all { Look::There(()) } else { Look::NotYet(said.text()) })
    })
    .await;
    cluster.explained(seen).await.unwrap();
}
