//! What Traefik's HTTP provider fetches: one TCP router and service a group, leading to the primary of its newest epoch.
//!
//! Each group needs an entry point of its own name in Traefik's static configuration, and
//! `providers.http.endpoint = "http://AGENT/traefik"`. Traefik does not confirm what it fetched, so this is no route that a
//! run waits for and proves; it is a second way for clients, as the role endpoints are.
//!
//! It never names a server in doubt. While a takeover is open there is none. An agent that lost sight of the mesh first answers
//! 503, on which Traefik keeps what it has (an election passes in that time, and must not take a healthy database's
//! clients away), then no server at all. The router stays even then: Traefik ignores an empty configuration.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mesh_proto::{Epoch, GroupName};
use serde_json::{Map, Value, json};

/// How long an agent may be without a leader before what it knows counts for nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a group's clients may be led, as far as the applied state says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lead {
    /// The group.
    pub group: GroupName,
    /// Its newest epoch.
    pub epoch: Epoch,
    /// The primary of that epoch; nobody before the first one, and while a takeover is open.
    pub to: Option<SocketAddr>,
}

/// Since when the agent has not been ready.
#[derive(Debug, Default)]
pub(super) struct Doubt(Mutex<Option<Instant>>);

/// What may be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// What the agent knows.
    Known,
    /// Nothing: Traefik keeps what it has.
    Wait,
    /// No server.
    Nobody,
}

impl Doubt {
    pub(super) fn weigh(&self, ready: bool, now: Instant) -> Answer {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ready {
            *since = None;
            return Answer::Known;
        }
        let began = *since.get_or_insert(now);
        if now.saturating_duration_since(began) < PATIENCE { Answer::Wait } else { Answer::Nobody }
    }
}

/// The dynamic configuration. `known`: whether the servers are to be named.
pub(super) fn configuration(leads: &[Lead], known: bool) -> Value {
    let (mut routers, mut services) = (Map::new(), Map::new());
    for Lead { group, epoch, to } in leads {
        let name = format!("mesh-{group}");
        let servers: Vec<_> =
            to.iter().filter(|_| known).map(|address| json!({ "address": address.to_string() })).collect();
        // The epoch is in the router's name, so that Traefik's own log and dashboard show it.
        let router = format!("{name}-epoch-{}", epoch.0);
        routers.insert(
            router,
            json!({ "entryPoints": [group.as_str()], "rule": "HostSNI(`*`)", "service": name }),
        );
        services.insert(name, json!({ "loadBalancer": { "servers": servers } }));
    }
    json!({ "tcp": { "routers": routers, "services": services } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead(to: Option<&str>) -> Lead {
        let to = to.map(|address| address.parse().unwrap());
        Lead { group: "orders".parse().unwrap(), epoch: Epoch(4), to }
    }

    #[test]
    fn the_configuration_is_what_traefik_reads() {
        let golden = r#"{
  "tcp": {
    "routers": {
      "mesh-orders-epoch-4": {
        "entryPoints": [
          "orders"
        ],
        "rule": "HostSNI(`*`)",
        "service": "mesh-orders"
      }
    },
    "services": {
      "mesh-orders": {
        "loadBalancer": {
          "servers": [
            {
              "address": "10.1.0.1:5432"
            }
          ]
        }
      }
    }
  }
}"#;
        let found = configuration(&[lead(Some("10.1.0.1:5432"))], true);
        assert_eq!(serde_json::to_string_pretty(&found).unwrap(), golden);
    }

    #[test]
    fn in_doubt_the_router_stays_and_the_server_goes() {
        let nobody = r#""services":{"mesh-orders":{"loadBalancer":{"servers":[]}}}"#;
        for (lead, known) in [(lead(None), true), (lead(Some("10.1.0.1:5432")), false)] {
            let text = configuration(&[lead], known).to_string();
            assert!(text.contains(nobody) && text.contains("HostSNI"), "{text}");
        }
    }

    #[test]
    fn an_election_changes_nothing_and_a_lost_mesh_takes_the_server_away() {
        let (doubt, start) = (Doubt::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(doubt.weigh(true, start), Answer::Known);
        assert_eq!(doubt.weigh(false, after(1)), Answer::Wait);
        assert_eq!(doubt.weigh(false, after(10)), Answer::Wait);
        assert_eq!(doubt.weigh(false, after(11)), Answer::Nobody);
        assert_eq!(doubt.weigh(true, after(12)), Answer::Known);
        assert_eq!(doubt.weigh(false, after(13)), Answer::Wait);
    }
}
