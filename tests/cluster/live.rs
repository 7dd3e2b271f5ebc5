//! `mesh audit live` on a real cluster: what agrees, what lags, and what nobody can see.

use std::time::Duration;

use mesh_proto::live::{Holds, LiveView, PlaceKind, Standing};
use mesh_tests::lab::cluster::{Cluster, DR, EAST, WITNESS};
use mesh_tests::lab::wait::{Look, until};

use crate::support::{formed, turn};

const LIMIT: Duration = Duration::from_secs(60);

/// Waits until the command ends with this code, asked of a node; what it says.
pub async fn ends_with(cluster: &Cluster, node: usize, code: i32) -> (LiveView, String) {
    let waited = until(&format!("audit live ends with {code}"), LIMIT, || async {
        let said = cluster.nodes[node].ask(&cluster.mesh, &["--json", "audit", "live"]).await?;
        if said.code != code {
            return Ok(Look::NotYet(said.text()));
        }
        let text = cluster.nodes[node].ask(&cluster.mesh, &["audit", "live"]).await?;
        Ok(Look::There((serde_json::from_str(&said.out)?, text.out)))
    })
    .await;
    cluster.explained(waited).await.unwrap()
}

pub fn standing(view: &LiveView, kind: PlaceKind, name: &str) -> Standing {
    let group = &view.groups[0];
    let place = group.places.iter().find(|place| place.kind == kind && place.name == name);
    group.standing(place.unwrap_or_else(|| panic!("no {kind} {name}: {view:#?}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_place_that_holds_an_epoch_is_compared_with_the_log() {
    let _turn = turn().await;
    let mut cluster = formed().await;
    let route = mesh_tests::lab::mesh::ROUTE;
    // Asked of an agent that holds no route: the one that does is asked by it.
    let (view, _) = ends_with(&cluster, EAST, 0).await;
    assert_eq!(view.groups[0].epoch.0, 1);
    cluster.must(WITNESS, &["switchover", "--site", "dr", "--yes", "--reason", "test"]).await.unwrap();
    cluster.until_healthy("pg-dr", LIMIT).await.unwrap();
    let (view, text) = ends_with(&cluster, EAST, 0).await;
    assert!(text.contains("AGREES") && text.contains("epoch 2 of pg-dr"), "{text}");
    for (kind, name) in [
        (PlaceKind::Guard, "pg-east"),
        (PlaceKind::Guard, "pg-dr"),
        (PlaceKind::Database, "pg-east"),
        (PlaceKind::Database, "pg-dr"),
        (PlaceKind::RouteGate, route),
        (PlaceKind::Route, route),
    ] {
        assert_eq!(standing(&view, kind, name), Standing::Agrees, "{kind} {name}");
    }
    let leads = view.groups[0].places.iter().find(|place| place.kind == PlaceKind::Route).unwrap();
    assert!(matches!(leads.holds, Holds::LeadsThere { .. }) && leads.by.as_str() == "witness", "{leads:?}");

    // Somebody restored an older table of epochs.
    let dr = cluster.servers[DR].clone();
    dr.superuser("CREATE TABLE kept AS SELECT * FROM mesh.epoch WHERE epoch = 2").await.unwrap();
    dr.superuser("DELETE FROM mesh.epoch WHERE epoch = 2").await.unwrap();
    let (view, text) = ends_with(&cluster, EAST, 6).await;
    assert_eq!(standing(&view, PlaceKind::Database, "pg-dr"), Standing::Lags, "{text}");
    assert_eq!(standing(&view, PlaceKind::Guard, "pg-dr"), Standing::Agrees, "{text}");
    assert!(text.contains("LAGS") && text.contains("epoch 1 of pg-east"), "{text}");
    dr.superuser("INSERT INTO mesh.epoch SELECT * FROM kept; DROP TABLE kept").await.unwrap();
    ends_with(&cluster, EAST, 0).await;

    // The agent that holds the route is away: what only it can see is not called right.
    cluster.nodes[WITNESS].agent.take().unwrap().kill().await.unwrap();
    let (view, text) = ends_with(&cluster, DR, 8).await;
    assert_eq!(standing(&view, PlaceKind::Route, route), Standing::NotSeen, "{text}");
    assert!(text.contains("NOT ALL SEEN"), "{text}");
    cluster.start_agent(WITNESS).unwrap();
    ends_with(&cluster, DR, 0).await;
}
