//! A primary without a majority of voters, in a group that says `majority_lost = "hold"`: it writes on while the guard of the
//! other instance promises, is fenced when that one is gone, and serves again when the voters are back.

use std::time::{Duration, Instant};

use mesh_proto::hold::HoldStanding;
use mesh_tests::lab::cluster::{Cluster, DR, EAST, WITNESS};
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::wait::{Look, until};

use crate::support::{flowing, formed_as, has, turn};

const LIMIT: Duration = Duration::from_secs(60);
/// L and F of the profile `lan`, and what it takes to look.
const FENCED_WITHIN: Duration = Duration::from_millis(2_500 + 1_000 + 250);

/// What the guard of the instance at this node says of promises, as the agent of `east` heard.
async fn standing(cluster: &Cluster, node: usize) -> anyhow::Result<HoldStanding> {
    let name = &cluster.servers[node].name;
    let status = cluster.nodes[EAST].status(&cluster.mesh).await?;
    let mut all = status.groups.into_iter().flat_map(|group| group.instances);
    let guard = all.find(|instance| instance.name.as_str() == name).and_then(|found| found.guard);
    Ok(guard.and_then(|(guard, _)| guard.hold).unwrap_or_default())
}

async fn until_standing(cluster: &Cluster, node: usize, what: &str, so: impl Fn(&HoldStanding) -> bool) {
    let waited = until(what, LIMIT, || async {
        let standing = standing(cluster, node).await?;
        Ok(if so(&standing) { Look::There(()) } else { Look::NotYet(format!("{standing:?}")) })
    })
    .await;
    cluster.explained(waited).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_without_a_majority_writes_on_while_every_other_guard_promises() {
    let _turn = turn().await;
    let mut cluster = formed_as(Follows::RuntimeApi, "majority_lost = \"hold\"").await;
    until_standing(&cluster, EAST, "the other guard promises", |it| it.promised.len() == 1).await;
    let mut writer = cluster.writer();
    flowing(&writer).await;

    // Two of three voters are gone; both guards live.
    let lost = Instant::now();
    for node in [DR, WITNESS] {
        cluster.nodes[node].agent.take().unwrap().kill().await.unwrap();
    }
    until_standing(&cluster, EAST, "the primary goes on alone", |it| it.alone).await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    flowing(&writer).await;
    println!("FIGURE the longest pause of writes, the majority lost: {:?}", writer.gap(lost));
    let said = cluster.nodes[EAST].ask(&cluster.mesh, &["status"]).await.unwrap();
    has(&said.text(), &["HOLDS", "pg-east holds on", "majority lost, 1 of 1 owners promise"]);

    // The other guard dies, so its promise runs out.
    let died = Instant::now();
    cluster.nodes[DR].guard.take().unwrap().kill().await.unwrap();
    tokio::time::sleep(FENCED_WITHIN + Duration::from_secs(2)).await;
    let last = writer.newest().unwrap();
    println!("FIGURE the last write after the other guard died: {:?}", last.duration_since(died));
    assert!(last.duration_since(died) < FENCED_WITHIN, "written {:?} later", last.duration_since(died));

    // Everything comes back, and nothing is decided anew by hand.
    let back = Instant::now();
    cluster.start_agent(WITNESS).unwrap();
    cluster.boot(DR).unwrap();
    flowing(&writer).await;
    println!("FIGURE writes flow again after {:?}", back.elapsed());
    cluster.until_settled(LIMIT).await.unwrap();
    let primary = cluster.primary().await.unwrap();
    until_standing(&cluster, primary, "the other guard promises again", |it| it.promised.len() == 1).await;
    writer.stop().await.unwrap();
    let (_, missing) = writer.lost(&cluster.servers[primary].local_client()).await.unwrap();
    assert!(missing.is_empty(), "{missing:?}");
}
