//! A fourth agent joins by a token while clients write; what an older build may not do is refused, and changes nothing.

use std::time::Duration;

use mesh_proto::edition::TOKENS;
use mesh_tests::lab::cluster::{Cluster, DR, EAST, WITNESS};
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::wait::{Look, until};

use crate::support::{flowing, formed_as, has, newest_run, turn};

const LIMIT: Duration = Duration::from_secs(30);

async fn summaries(cluster: &Cluster, word: &str) -> Vec<String> {
    let records = cluster.audit(1).await.unwrap();
    records.into_iter().map(|record| record.summary).filter(|summary| summary.contains(word)).collect()
}

async fn is_node_added(cluster: &Cluster, node: usize) {
    let added = until("it is added", LIMIT, || async {
        let said = cluster.add(node).await?;
        Ok(if said.code == 0 { Look::There(()) } else { Look::NotYet(said.text()) })
    })
    .await;
    cluster.explained(added).await.unwrap();
}

/// The token is used once, its audit is on every agent, and whoever came with it votes and counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_agent_joins_by_token_under_load_and_another_with_the_same_is_refused() {
    let _turn = turn().await;
    let mut cluster = formed_as(Follows::HttpCheck, "").await;
    let mut writer = cluster.writer();
    flowing(&writer).await;
    let north = cluster.newcomer("north", 4).unwrap();
    let token = cluster.token_for(&north).await.unwrap();
    let authority = cluster.serve_authority().await.unwrap();

    // It is for north: south is told so before anything is sent.
    let south = cluster.newcomer("south", 5).unwrap();
    let wrong = cluster.join_by_token(&south, &token).await.unwrap();
    assert_eq!(wrong.code, 2, "{}", wrong.text());
    has(&wrong.text(), &["the token is for agent north", "is of agent south", "as good as before"]);

    let joined = cluster.join_by_token(&north, &token).await.unwrap();
    println!("{}", joined.out);
    assert_eq!(joined.code, 0, "{}", joined.text());
    has(
        &joined.out,
        &["joined      agent north of mesh lab", "members.toml (dr, east, witness)", "mesh node add north"],
    );
    let again = cluster.join_by_token(&north, &token).await.unwrap();
    assert_eq!(again.code, 4, "{}", again.text());
    has(&again.text(), &["has its certificate already"]);
    // A thief who has the token and no key of north's.
    let tls = cluster.dir().join("north/tls");
    let kept = cluster.dir().join("north/kept");
    std::fs::rename(&tls, &kept).unwrap();
    cluster.ground().folder("north/tls").unwrap();
    let stolen = cluster.join_by_token(&north, &token).await.unwrap();
    assert_eq!(stolen.code, 4, "{}", stolen.text());
    has(&stolen.text(), &["it was used already, with another key", "revoke that certificate"]);
    assert!(!tls.join("agent-north.crt").exists());
    std::fs::remove_dir_all(&tls).unwrap();
    std::fs::rename(&kept, &tls).unwrap();
    let told = summaries(&cluster, "token of agent north").await;
    println!("{}", told.join("\n"));
    assert_eq!(told.len(), 2, "{told:?}");
    has(&told[0], &["is used from", "for certificate"]);
    has(&told[1], &["was refused to", "it was used already"]);

    let north = cluster.start_newcomer(north).await.unwrap();
    is_node_added(&cluster, north).await;
    cluster.must(EAST, &["node", "voters", "east", "dr", "north"]).await.unwrap();
    cluster.until_voters(&[EAST, DR, north], LIMIT).await.unwrap();
    flowing(&writer).await;
    assert_eq!(newest_run(&cluster).await, None, "nothing was failed over");
    assert_eq!(cluster.must(north, &["audit", "verify"]).await.unwrap().code, 0);
    drop(authority);
    writer.stop().await.unwrap();
}

/// One member says that it has an older edition: what only newer builds know is not proposed, and says who must be upgraded. Then
/// all are new, such a command stands in the log, and an agent of the older edition is not made a member any more.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_member_holds_new_commands_back_and_no_older_one_is_added_after_them() {
    let _turn = turn().await;
    let mut cluster = Cluster::raise(crate::support::wanted(Follows::HttpCheck, "")).await.unwrap();
    cluster.nodes[DR].says_edition = Some(TOKENS - 1);
    cluster.form().await.unwrap();
    let edition = || async { cluster.status().await.unwrap().edition };
    assert_eq!(edition().await, 0, "nothing new is in the log of a new mesh");
    let nodes = cluster.status().await.unwrap().nodes;
    let said: Vec<_> = nodes.iter().map(|node| (node.member.agent.as_str(), node.edition)).collect();
    println!("{said:?}");
    assert!(said.contains(&("dr", Some(TOKENS - 1))), "{said:?}");

    let north = cluster.newcomer("north", 4).unwrap();
    let token = cluster.token_for(&north).await.unwrap();
    let _authority = cluster.serve_authority().await.unwrap();
    let held = cluster.join_by_token(&north, &token).await.unwrap();
    println!("{}", held.text());
    assert_eq!(held.code, 5, "{}", held.text());
    has(
        &held.text(),
        &[
            "could not be written into the audit",
            "not every agent is known to run",
            ": dr",
            "as good as before",
        ],
    );
    assert_eq!(edition().await, 0, "it was not proposed");
    // The mesh goes on as ever meanwhile.
    cluster.must(WITNESS, &["switchover", "--site", "dr", "--yes", "--reason", "as ever"]).await.unwrap();
    cluster.until_healthy("pg-dr", LIMIT).await.unwrap();

    cluster.nodes[DR].agent.take().unwrap().stop(Duration::from_secs(10)).await.unwrap();
    cluster.nodes[DR].says_edition = None;
    cluster.start_agent(DR).unwrap();
    cluster.until_healthy("pg-dr", LIMIT).await.unwrap();
    let joined = until("all are new", LIMIT, || async {
        let said = cluster.join_by_token(&north, &token).await?;
        Ok(if said.code == 0 { Look::There(()) } else { Look::NotYet(said.text()) })
    })
    .await;
    cluster.explained(joined).await.unwrap();
    assert_eq!(cluster.status().await.unwrap().edition, TOKENS);

    // The host got its certificate with a new build; then an older one was put there.
    let north = mesh_tests::lab::mesh::Node { says_edition: Some(TOKENS - 1), ..north };
    let north = cluster.start_newcomer(north).await.unwrap();
    let refused = until("it answers and is refused", LIMIT, || async {
        let said = cluster.add(north).await?;
        Ok(if said.code == 9 { Look::There(said) } else { Look::NotYet(said.text()) })
    })
    .await;
    let refused = cluster.explained(refused).await.unwrap();
    println!("{}", refused.text());
    let (older, newer) = (format!("edition {}", TOKENS - 1), format!("edition {TOKENS}"));
    has(&refused.text(), &[&older, &newer, "stand in the log", "mesh --version", "nothing was changed"]);
    let members = cluster.status().await.unwrap().nodes;
    assert!(!members.iter().any(|node| node.member.agent.as_str() == "north"), "it is no member");
    cluster.nodes[north].agent.take().unwrap().stop(Duration::from_secs(10)).await.unwrap();
    cluster.nodes[north].says_edition = None;
    cluster.start_agent(north).unwrap();
    is_node_added(&cluster, north).await;
    // An older host does not get that far any more.
    let mut south = cluster.newcomer("south", 5).unwrap();
    south.says_edition = Some(TOKENS - 1);
    let token = cluster.token_for(&south).await.unwrap();
    let late = cluster.join_by_token(&south, &token).await.unwrap();
    assert_eq!(late.code, 9, "{}", late.text());
    has(&late.text(), &[&older, &newer, "as good as before"]);
}
