//! Voters that come and go while clients write.

use std::time::{Duration, Instant};

use mesh_tests::lab::cluster::{DR, EAST, WITNESS};
use mesh_tests::lab::haproxy::Follows;

use crate::support::{flowing, formed_as, newest_run, turn};

const LIMIT: Duration = Duration::from_secs(30);

/// The witness is lost with its disk. Another takes its place under write load: no failover, no outage; afterwards its
/// word counts, and the lost one's number is gone for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_voter_is_replaced_under_load_and_the_new_one_counts() {
    let _turn = turn().await;
    let mut cluster = formed_as(Follows::HttpCheck, "").await;
    let mut writer = cluster.writer();
    flowing(&writer).await;
    let began = Instant::now();
    cluster.nodes[WITNESS].agent.take().unwrap().kill().await.unwrap();
    let newcomer = cluster.join("witness-2").await.unwrap();
    let refused = cluster.nodes[EAST].ask(&cluster.mesh, &["node", "remove", "witness"]).await.unwrap();
    assert!(refused.code != 0 && refused.text().contains("mesh node voters"), "{}", refused.text());
    cluster.must(EAST, &["node", "voters", "east", "dr", "witness-2"]).await.unwrap();
    cluster.until_voters(&[EAST, DR, newcomer], LIMIT).await.unwrap();
    cluster.must(EAST, &["node", "remove", "witness"]).await.unwrap();
    // The lease is held by the grants of two: were the new one not asked, it would be over.
    cluster.nodes[DR].agent.take().unwrap().kill().await.unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    flowing(&writer).await;
    assert_eq!(newest_run(&cluster).await, None, "nothing was failed over");
    assert!(writer.gap(began) < Duration::from_secs(2), "{:?}", writer.gap(began));
    cluster.start_agent(DR).unwrap();
    cluster.until_healthy("pg-east", LIMIT).await.unwrap();
    // Without the new one there would be no majority of pledges.
    let (before, fault) = (newest_run(&cluster).await, Instant::now());
    cluster.lose(EAST).await.unwrap();
    let outage = writer.outage(fault, Duration::from_secs(15), LIMIT).await;
    cluster.explained(outage).await.unwrap();
    cluster.until_run_done(before, LIMIT).await.unwrap();
    writer.stop().await.unwrap();
}

/// One grows to five and back to three; what is no electorate is refused with a word.
#[tokio::test(flavor = "multi_thread")]
async fn three_voters_become_five_and_three_again_under_load() {
    let _turn = turn().await;
    let mut cluster = formed_as(Follows::HttpCheck, "").await;
    let mut writer = cluster.writer();
    flowing(&writer).await;
    let began = Instant::now();
    let (fourth, fifth) = (cluster.join("north").await.unwrap(), cluster.join("south").await.unwrap());
    let ask = |words: &'static [&'static str]| cluster.nodes[EAST].ask(&cluster.mesh, words);
    let even = ask(&["node", "voters", "east", "dr", "witness", "north"]).await.unwrap();
    assert!(even.code != 0 && even.text().contains("3, 5 or 7"), "{}", even.text());
    let unknown = ask(&["node", "voters", "east", "dr", "west"]).await.unwrap();
    assert!(unknown.code != 0 && unknown.text().contains("no agent west"), "{}", unknown.text());
    cluster.must(EAST, &["node", "voters", "east", "dr", "witness", "north", "south"]).await.unwrap();
    cluster.until_voters(&[EAST, DR, WITNESS, fourth, fifth], LIMIT).await.unwrap();
    cluster.must(DR, &["node", "voters", "dr", "north", "south"]).await.unwrap();
    cluster.until_voters(&[DR, fourth, fifth], LIMIT).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    flowing(&writer).await;
    assert_eq!(newest_run(&cluster).await, None, "nothing was failed over");
    assert!(writer.gap(began) < Duration::from_secs(2), "{:?}", writer.gap(began));
    writer.stop().await.unwrap();
}
