//! Executes effects on the routes whose credentials this agent holds, each behind its epoch gate.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use mesh_adapters::haproxy::{self, Endpoint, Haproxy, HaproxyError, Led, Wanted};
use mesh_adapters::postgres::{ProbeTarget, ProveError, prove};
use mesh_proto::effect::{Effect, Finding, Order, Outcome, Refusal};
use mesh_proto::spec::{GroupSpec, RouteKind, RouteSpec};
use mesh_proto::{GroupName, InstanceName, Millis, RouteName};
use tokio::sync::Mutex;

use super::gates::{Gates, Passage};
use super::sightings::ProbeLogin;

/// Where the specs come from: the applied state.
pub trait Specs: Send + Sync {
    /// The spec of a group, as applied here.
    fn spec(&self, group: &GroupName) -> Option<GroupSpec>;
}

/// The routes of this agent.
pub struct RouteKeeper {
    /// Admin sockets by HAProxy backend.
    sockets: Vec<(String, Endpoint)>,
    login: Option<ProbeLogin>,
    /// One order at a time: gates and effects of a route must not interleave.
    gates: Mutex<Gates>,
    specs: Arc<dyn Specs>,
}

impl RouteKeeper {
    /// Keeps the routes whose admin sockets are given.
    #[must_use]
    pub fn new(
        sockets: Vec<(String, Endpoint)>,
        login: Option<ProbeLogin>,
        gates: Gates,
        specs: Arc<dyn Specs>,
    ) -> Self {
        Self { sockets, login, gates: Mutex::new(gates), specs }
    }

    /// Executes an order within its budget.
    pub async fn execute(&self, order: &Order) -> Outcome {
        let deadline = Instant::now() + order.budget.duration();
        match &order.effect {
            Effect::Route { route, instance } => self.lead(order, route, instance, deadline).await,
            Effect::Prove { route, instance } => self.prove(order, route, instance, deadline).await,
            Effect::Checkpoint { .. }
            | Effect::HandOver { .. }
            | Effect::Fence { .. }
            | Effect::Freeze { .. }
            | Effect::Confirm { .. }
            | Effect::Promote { .. }
            | Effect::Follow { .. } => refused(
                Refusal::NotConfigured,
                "an agent changes routes; instances are their guards' business",
            ),
        }
    }

    async fn lead(
        &self,
        order: &Order,
        route: &RouteName,
        instance: &InstanceName,
        deadline: Instant,
    ) -> Outcome {
        let (route, address) = match self.find(order, route, instance) {
            Ok(found) => found,
            Err(outcome) => return *outcome,
        };
        let RouteKind::Haproxy = route.kind;
        let Some((_, endpoint)) = self.sockets.iter().find(|(backend, _)| *backend == route.backend) else {
            let what = format!("this agent's file names no admin socket for backend {}", route.backend);
            return refused(Refusal::NotConfigured, &what);
        };
        let haproxy = Haproxy::new(endpoint.clone());
        let wanted = Wanted {
            backend: route.backend.clone(),
            server: instance.as_str().to_owned(),
            address: Some(address),
        };
        if order.verify_only {
            return outcome(haproxy.verify(&wanted, deadline).await);
        }
        let mut gates = self.gates.lock().await;
        match gates.pass(&order.group, &route.name, order.epoch, order.raft_term) {
            Ok(Passage::Open) => {}
            Ok(Passage::Stale { seen }) => {
                let what = format!("route {} was led in epoch {seen} already", route.name);
                return refused(Refusal::StaleEpoch, &what);
            }
            Err(error) => return refused(Refusal::Failed, &crate::cli::with_causes(&error)),
        }
        // The gate stays closed for others until the effect is over: a later epoch must not be overtaken by this one.
        outcome(haproxy.lead(&wanted, deadline).await)
    }

    async fn prove(
        &self,
        order: &Order,
        route: &RouteName,
        instance: &InstanceName,
        deadline: Instant,
    ) -> Outcome {
        let (route, _) = match self.find(order, route, instance) {
            Ok(found) => found,
            Err(outcome) => return *outcome,
        };
        let Some(login) = &self.login else {
            return refused(
                Refusal::NotConfigured,
                "this agent's file has no [probe] section to log in with",
            );
        };
        let target = ProbeTarget {
            address: route.listen,
            database: self.specs.spec(&order.group).map(|spec| spec.database).unwrap_or_default(),
            user: login.user.clone(),
            passfile: login.passfile.clone(),
            system_identifier: None,
        };
        match prove(&target, route.name.as_str(), instance.as_str(), order.epoch.0, deadline).await {
            Ok(proof) => Outcome::Done(Finding::Proved { took: Millis::from(proof.took) }),
            Err(error @ ProveError::OtherPrimary { .. }) => {
                refused(Refusal::Failed, &crate::cli::with_causes(&error))
            }
            // A write that may have happened changes nothing that matters: it can simply be tried again.
            Err(error @ (ProveError::Sql(_) | ProveError::Password(_) | ProveError::TooLarge)) => {
                refused(Refusal::NotDelivered, &crate::cli::with_causes(&error))
            }
        }
    }

    fn find(
        &self,
        order: &Order,
        route: &RouteName,
        instance: &InstanceName,
    ) -> Result<(RouteSpec, SocketAddr), Box<Outcome>> {
        let spec = self.specs.spec(&order.group).ok_or_else(|| {
            Box::new(refused(Refusal::NotApplicable, &format!("group {} is not known here yet", order.group)))
        })?;
        let route = spec.routes.iter().find(|known| known.name == *route);
        let instance = spec.instances.iter().find(|known| known.name == *instance);
        match (route, instance) {
            (Some(route), Some(instance)) => Ok((route.clone(), instance.address)),
            (None, _) | (_, None) => {
                let what = "the route or its instance is not in the applied spec";
                Err(Box::new(refused(Refusal::NotApplicable, what)))
            }
        }
    }
}

/// The admin sockets of a node-local file.
#[must_use]
pub fn sockets(config: &crate::config::NodeConfig) -> Vec<(String, Endpoint)> {
    use crate::config::HaproxySocket;
    let endpoint = |socket: &HaproxySocket| match socket {
        HaproxySocket::Unix(path) => Endpoint::Unix(PathBuf::from(path)),
        HaproxySocket::Tcp(address) => Endpoint::Tcp(*address),
    };
    config.haproxies.iter().map(|section| (section.backend.clone(), endpoint(&section.socket))).collect()
}

/// A HAProxy that is not there may come back in a moment: nothing was done, so the order is simply sent again.
fn outcome(result: Result<Led, HaproxyError>) -> Outcome {
    if let Err(error @ HaproxyError::NotReached { .. }) = &result {
        return refused(Refusal::NotDelivered, &crate::cli::with_causes(error));
    }
    haproxy::outcome(result)
}

fn refused(code: Refusal, detail: &str) -> Outcome {
    Outcome::Refused { code, detail: detail.to_owned() }
}
