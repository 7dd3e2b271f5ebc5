//! What this agent's routes hold of an epoch, looked at now: the gate on its disk, the marker beside a name, and where each
//! route leads. It changes nothing and passes no gate.

use std::sync::PoisonError;
use std::time::Instant;

use futures_util::future::join_all;
use mesh_adapters::dns::Marker;
use mesh_proto::effect::{Effect, Finding, Order, Outcome, Refusal, StepRef};
use mesh_proto::live::{Holds, Place, PlaceKind};
use mesh_proto::spec::{DnsTarget, GroupSpec, InstanceSpec, RouteSpec, RouteTarget};
use mesh_proto::{AgentName, Epoch, GroupName, InstanceName, Millis, RunId};

use super::{Asked, RouteKeeper, dns};

impl RouteKeeper {
    /// Every place that only this agent can look at.
    pub async fn live(
        &self,
        me: &AgentName,
        group: &GroupName,
        primary: &InstanceName,
        epoch: Epoch,
        deadline: Instant,
    ) -> Vec<Place> {
        let Some(spec) = self.specs.spec(group) else { return Vec::new() };
        let Some(instance) = spec.instances.iter().find(|known| known.name == *primary) else {
            return Vec::new();
        };
        let own = spec.routes.iter().filter(|route| route.agent == *me);
        let all = own.map(|route| self.live_route(&spec, route, instance, epoch, deadline));
        join_all(all).await.into_iter().flatten().collect()
    }

    async fn live_route(
        &self,
        group: &GroupSpec,
        route: &RouteSpec,
        instance: &InstanceSpec,
        epoch: Epoch,
        deadline: Instant,
    ) -> Vec<Place> {
        let order = verifying(group, route, instance, epoch, deadline);
        let place =
            |kind, name: &str, holds| Place { kind, name: name.to_owned(), by: route.agent.clone(), holds };
        let name = route.name.as_str();
        let gate = self.gates.lock().unwrap_or_else(PoisonError::into_inner).seen(&group.group, &route.name);
        let gate = gate.map_or(Holds::Nothing, |epoch| Holds::Epoch { epoch, of: None });
        let mut places = vec![place(PlaceKind::RouteGate, name, gate)];
        if let RouteTarget::Dns(target) = &route.target {
            let asked = Asked { order: &order, group, route, instance, deadline };
            let markers = self.markers(target, &asked).await;
            places.extend(markers.into_iter().map(|(name, holds)| place(PlaceKind::DnsMarker, &name, holds)));
        }
        let leads = match self.execute(&order).await {
            Outcome::Done(Finding::Routed { stragglers, .. }) => Holds::LeadsThere { stragglers },
            Outcome::Done(_) => Holds::LeadsThere { stragglers: 0 },
            Outcome::Refused { code: Refusal::NotSo | Refusal::Drift, detail } => Holds::Elsewhere(detail),
            Outcome::Refused { detail, .. } | Outcome::Unknown { detail } => Holds::NotSeen(detail),
        };
        places.push(place(PlaceKind::Route, name, leads));
        places
    }

    /// What stands beside each name, read from the server that takes changes.
    async fn markers(&self, target: &DnsTarget, asked: &Asked<'_>) -> Vec<(String, Holds)> {
        let unseen = |why: &str| {
            let names = target.records.iter().map(|record| record.name.to_string());
            names.map(|name| (name, Holds::NotSeen(why.to_owned()))).collect::<Vec<_>>()
        };
        let route = match dns::Route::new(&self.holdings.zones, target) {
            Ok(route) => route,
            Err(no) => return unseen(&no.detail),
        };
        let mut found = Vec::new();
        for (server, wanted) in route.questions(asked) {
            let wanted = match wanted {
                Ok(wanted) => wanted,
                Err(no) => return unseen(&no.detail),
            };
            let names = wanted.names.iter().map(|name| name.name.to_string());
            match server.read(&wanted, asked.deadline).await {
                Ok(seen) => found.extend(names.zip(seen.iter().map(|seen| held(&seen.markers)))),
                Err(error) => {
                    let why = crate::cli::with_causes(&error);
                    found.extend(names.map(|name| (name, Holds::NotSeen(why.clone()))));
                }
            }
        }
        found
    }
}

fn held(markers: &[String]) -> Holds {
    match markers {
        [] => Holds::Nothing,
        [one] => match one.parse::<Marker>() {
            Ok(marker) => Holds::Epoch { epoch: marker.epoch, of: Some(marker.instance) },
            Err(error) => Holds::Elsewhere(error.to_string()),
        },
        [_, ..] => Holds::Elsewhere(format!(
            "{} markers stand there, of which mesh wrote at most one",
            markers.len()
        )),
    }
}

/// An order that only looks. No run gave it, and no gate lets it change anything.
fn verifying(
    group: &GroupSpec,
    route: &RouteSpec,
    instance: &InstanceSpec,
    epoch: Epoch,
    deadline: Instant,
) -> Order {
    Order {
        group: group.group.clone(),
        step: StepRef { run: RunId(0), step: 0, attempt: 0 },
        epoch,
        raft_term: 0,
        effect: Effect::Route { route: route.name.clone(), instance: instance.name.clone() },
        verify_only: true,
        index: 0,
        budget: Millis::from(deadline.saturating_duration_since(Instant::now())),
    }
}
