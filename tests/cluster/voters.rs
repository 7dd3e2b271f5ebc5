//! Voters that come and go while clients write.

use std::time::{Duration, Instant};

use mesh_tests::lab::cluster::{DR, EAST, WITNESS};
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::wait::{Look, until};

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

/// The witness's disk is lost and its host is not: another voter takes its place at the same address, and the old one's number
/// is gone for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_voter_is_replaced_on_its_own_host() {
    let _turn = turn().await;
    let mut cluster = formed_as(Follows::HttpCheck, "").await;
    let mut writer = cluster.writer();
    flowing(&writer).await;
    let began = Instant::now();
    cluster.nodes[WITNESS].agent.take().unwrap().kill().await.unwrap();
    let newcomer = cluster.join_in_place_of(WITNESS, "witness-b").await.unwrap();
    cluster.must(EAST, &["node", "voters", "east", "dr", "witness-b"]).await.unwrap();
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
    writer.stop().await.unwrap();
}

/// A voter's disk is put back from a copy that was made before a failover: it has forgotten a pledge, and the leader that knows
/// better keeps it out. The leader, the primary and the clients notice nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_voter_put_back_from_an_older_copy_is_kept_out() {
    let _turn = turn().await;
    let mut cluster = formed_as(Follows::HttpCheck, "").await;
    let leader = cluster.leader().await.unwrap();
    let voter = [WITNESS, DR].into_iter().find(|node| *node != leader).unwrap();
    let store = cluster.dir().join(&cluster.nodes[voter].name).join("agent");
    let copy = cluster.dir().join("older-copy");
    cluster.nodes[voter].agent.take().unwrap().stop(Duration::from_secs(10)).await.unwrap();
    copied(&store, &copy);
    cluster.start_agent(voter).unwrap();
    cluster.until_healthy("pg-east", LIMIT).await.unwrap();
    cluster.must(EAST, &["switchover", "--site", "dr", "--yes"]).await.unwrap();
    cluster.until_healthy("pg-dr", LIMIT).await.unwrap();
    let mut writer = cluster.writer();
    flowing(&writer).await;
    let began = Instant::now();
    cluster.nodes[voter].agent.take().unwrap().stop(Duration::from_secs(10)).await.unwrap();
    copied(&copy, &store);
    cluster.start_agent(voter).unwrap();
    let log = cluster.nodes[leader].agent.as_ref().unwrap().log().to_owned();
    let said = until("the leader says who forgot", LIMIT, || async {
        let said = std::fs::read_to_string(&log)?;
        let forgot = said.contains("its store was put back from an older copy");
        Ok(if forgot { Look::There(()) } else { Look::NotYet("not a word".to_owned()) })
    });
    let said = said.await;
    cluster.explained(said).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    flowing(&writer).await;
    assert_eq!(cluster.leader().await.unwrap(), leader, "the leader was hurt");
    assert!(writer.gap(began) < Duration::from_secs(2), "{:?}", writer.gap(began));
    // The way out of the page: stop it, and put another in its place.
    cluster.nodes[voter].agent.take().unwrap().kill().await.unwrap();
    let newcomer = cluster.join("north").await.unwrap();
    let stay = [EAST, DR, WITNESS].into_iter().filter(|node| *node != voter);
    let voters: Vec<usize> = stay.chain([newcomer]).collect();
    let names: Vec<&str> = voters.iter().map(|node| cluster.nodes[*node].name.as_str()).collect();
    cluster.must(EAST, &[&["node", "voters"], &names[..]].concat()).await.unwrap();
    cluster.until_voters(&voters, LIMIT).await.unwrap();
    flowing(&writer).await;
    writer.stop().await.unwrap();
}

/// A folder with everything in it, in the place of another; owner and mode stay.
fn copied(from: &std::path::Path, to: &std::path::Path) {
    let gone = std::process::Command::new("rm").arg("-rf").arg(to).status().unwrap();
    let done = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(gone.success() && done.success());
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
