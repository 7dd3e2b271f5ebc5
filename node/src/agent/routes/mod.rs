//! Executes effects on the routes whose credentials this agent holds, each behind its epoch gate.
//!
//! A kind of route is a module that implements [`Kind`]; here is what all kinds share: finding the route in the applied
//! spec, the gate before the effect, one order at a time for each route, and the proving write. A kind never looks at an
//! epoch to decide whether it may act, unless its system can compare epochs by itself.

#[cfg(feature = "aws")]
mod aws;
mod dns;
#[cfg(feature = "aws")]
mod elbv2;
mod haproxy;
mod live;
mod pgbouncer;
mod watch;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mesh_adapters::Mark;
use mesh_adapters::dns::rfc2136::KeyError;
use mesh_adapters::postgres::{ProbeTarget, ProveError, Through, prove};
use mesh_adapters::redis;
use mesh_proto::effect::{Effect, Finding, Order, Outcome, Refusal};
use mesh_proto::spec::{Engine, GroupSpec, InstanceSpec, RouteSpec, RouteTarget};
use mesh_proto::{GroupName, InstanceName, Millis, RouteName};
use tokio::time::timeout_at;

use super::gates::{Gates, Passage};
use super::sightings::{Logins, ProbeLogin};
use crate::config::{DnsSection, NodeConfig};

pub use watch::RouteWatch;

/// Where the specs come from: the applied state.
pub trait Specs: Send + Sync {
    /// The spec of a group, as applied here.
    fn spec(&self, group: &GroupName) -> Option<GroupSpec>;
}

/// What a kind of route can do. Each call ends by the deadline of what is asked.
trait Kind: Sync {
    /// Leads the route to the instance; what comes of doing it twice is the same. The order has passed the gate.
    fn lead(&self, asked: &Asked<'_>) -> impl Future<Output = Outcome> + Send;
    /// Finds out whether it leads there, and changes nothing.
    fn verify(&self, asked: &Asked<'_>) -> impl Future<Output = Outcome> + Send;
    /// Where a client that follows the route connects now.
    fn entrance(&self, asked: &Asked<'_>) -> impl Future<Output = Result<SocketAddr, No>> + Send;
    /// Whether [`Self::verify`] counts the sessions that are left to other instances.
    fn counts_sessions(&self) -> bool {
        false
    }
    /// The name that a pooler at the entrance knows the database by; `None` where sessions go to the server itself.
    fn pooled(&self) -> Option<&str> {
        None
    }
}

/// An order, with what the applied spec says about its route.
struct Asked<'a> {
    order: &'a Order,
    group: &'a GroupSpec,
    route: &'a RouteSpec,
    /// The instance that the route shall lead to.
    instance: &'a InstanceSpec,
    deadline: Instant,
}

/// What this agent's file gives it to change routes with.
#[derive(Debug, Default)]
pub struct Holdings {
    haproxies: Vec<haproxy::Held>,
    zones: Vec<dns::Held>,
    pgbouncers: Vec<pgbouncer::Held>,
    #[cfg(feature = "aws")]
    target_groups: Vec<elbv2::Held>,
}

impl Holdings {
    /// The sections of a node-local file.
    #[must_use]
    pub fn of(config: &NodeConfig) -> Self {
        Self {
            haproxies: config.haproxies.iter().map(haproxy::Held::of).collect(),
            zones: dns::Held::all(config),
            pgbouncers: config.pgbouncers.iter().map(pgbouncer::Held::of).collect(),
            #[cfg(feature = "aws")]
            target_groups: config.target_groups.iter().map(elbv2::Held::of).collect(),
        }
    }
}

/// Held by the one order that a route is busy with.
type Turn = Arc<tokio::sync::Mutex<()>>;

/// The routes of this agent.
pub struct RouteKeeper {
    holdings: Holdings,
    logins: Logins,
    gates: Arc<Mutex<Gates>>,
    /// One order at a time for each route: gates and effects of a route must not interleave, and a slow name server must
    /// not hold up a proxy.
    turns: Mutex<BTreeMap<(GroupName, RouteName), Turn>>,
    specs: Arc<dyn Specs>,
}

impl RouteKeeper {
    /// Keeps the routes that the holdings reach.
    #[must_use]
    pub fn new(holdings: Holdings, logins: Logins, gates: Gates, specs: Arc<dyn Specs>) -> Self {
        Self { holdings, logins, gates: Arc::new(Mutex::new(gates)), turns: Mutex::default(), specs }
    }

    /// Executes an order within its budget.
    pub async fn execute(&self, order: &Order) -> Outcome {
        let deadline = Instant::now() + order.budget.duration();
        let (Effect::Route { route, instance } | Effect::Prove { route, instance }) = &order.effect else {
            let what = "an agent changes routes; instances are their guards' business";
            return refused(Refusal::NotConfigured, what);
        };
        let Some(group) = self.specs.spec(&order.group) else {
            let what = format!("group {} is not known here yet", order.group);
            return refused(Refusal::NotApplicable, &what);
        };
        let Some((route, instance)) = find(&group, route, instance) else {
            return refused(Refusal::NotApplicable, "the route or its instance is not in the applied spec");
        };
        let asked = Asked { order, group: &group, route, instance, deadline };
        match &route.target {
            RouteTarget::Haproxy(target) => match haproxy::Route::new(&self.holdings.haproxies, target) {
                Ok(route) => self.through(&route, &asked).await,
                Err(no) => no.into(),
            },
            RouteTarget::Dns(target) => match dns::Route::new(&self.holdings.zones, target) {
                Ok(route) => self.through(&route, &asked).await,
                Err(no) => no.into(),
            },
            RouteTarget::Pgbouncer(target) => {
                match pgbouncer::Route::new(&self.holdings.pgbouncers, target) {
                    Ok(route) => self.through(&route, &asked).await,
                    Err(no) => no.into(),
                }
            }
            #[cfg(feature = "aws")]
            RouteTarget::Elbv2(target) => match elbv2::Route::new(&self.holdings.target_groups, target) {
                Ok(route) => self.through(&route, &asked).await,
                Err(no) => no.into(),
            },
            #[cfg(not(feature = "aws"))]
            RouteTarget::Elbv2(_) => refused(
                Refusal::NotConfigured,
                "this mesh was built without AWS; install one that was built with the cargo feature `aws`",
            ),
        }
    }

    /// How often a route may be looked at, and how long a look may take: as its system bears to be asked.
    fn pace(&self, target: &RouteTarget) -> Pace {
        match target {
            RouteTarget::Haproxy(_) | RouteTarget::Pgbouncer(_) => Pace::LOCAL,
            RouteTarget::Dns(target) if dns::is_metered(&self.holdings.zones, target) => Pace::METERED,
            RouteTarget::Dns(_) => Pace::NEAR,
            RouteTarget::Elbv2(_) => Pace::METERED,
        }
    }

    async fn through(&self, kind: &impl Kind, asked: &Asked<'_>) -> Outcome {
        if matches!(asked.order.effect, Effect::Prove { .. }) {
            let proved = match kind.entrance(asked).await {
                Ok(entrance) => self.prove(asked, entrance, kind.pooled()).await,
                Err(no) => no.into(),
            };
            let Outcome::Done(Finding::Proved { took, read, .. }) = proved else { return proved };
            return Outcome::Done(Finding::Proved { took, read, stragglers: stragglers(kind, asked).await });
        }
        if asked.order.verify_only && asked.order.raft_term == 0 {
            // Nobody leads by it: it only looks.
            return kind.verify(asked).await;
        }
        let turn = self.turn(asked);
        let Ok(_turn) = timeout_at(asked.deadline.into(), turn.lock()).await else {
            let what = format!("an earlier order for route {} is still under way", asked.route.name);
            return refused(Refusal::NotDelivered, &what);
        };
        if asked.order.verify_only {
            let found = kind.verify(asked).await;
            // A route that was found to be right is led in this epoch as much as one that had to be changed: no older
            // order may change it any more.
            return match self.pass_found(&found, asked).await {
                Ok(()) => found,
                Err(no) => no.into(),
            };
        }
        if let Err(no) = self.pass(asked).await {
            return no.into();
        }
        // The turn is kept until the effect is over: a later epoch must not be overtaken by this one.
        kind.lead(asked).await
    }

    async fn pass_found(&self, found: &Outcome, asked: &Asked<'_>) -> Result<(), No> {
        match found {
            Outcome::Done(_) => self.pass(asked).await,
            Outcome::Refused { .. } | Outcome::Unknown { .. } => Ok(()),
        }
    }

    fn turn(&self, asked: &Asked<'_>) -> Turn {
        let key = (asked.group.group.clone(), asked.route.name.clone());
        Arc::clone(self.turns.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default())
    }

    /// The epoch gate, raised on disk before the effect. Its disk may hang: nothing else of the agent waits for it.
    async fn pass(&self, asked: &Asked<'_>) -> Result<(), No> {
        let (gates, group, route) =
            (Arc::clone(&self.gates), asked.order.group.clone(), asked.route.name.clone());
        let (epoch, raft_term) = (asked.order.epoch, asked.order.raft_term);
        let name = route.clone();
        let passing = tokio::task::spawn_blocking(move || {
            gates.lock().unwrap_or_else(PoisonError::into_inner).pass(&group, &route, epoch, raft_term)
        });
        match timeout_at(asked.deadline.into(), passing).await {
            Ok(Ok(Ok(Passage::Open))) => Ok(()),
            Ok(Ok(Ok(Passage::Stale { seen }))) => {
                Err(no(Refusal::StaleEpoch, format!("route {name} was led in epoch {seen} already")))
            }
            Ok(Ok(Err(error))) => Err(no(Refusal::Failed, crate::cli::with_causes(&error))),
            Ok(Err(error)) => Err(no(Refusal::Failed, format!("the gate of route {name} failed: {error}"))),
            Err(_) => Err(no(
                Refusal::NotDelivered,
                format!("the disk with the gate of route {name} does not answer"),
            )),
        }
    }

    async fn prove(&self, asked: &Asked<'_>, entrance: SocketAddr, pooled: Option<&str>) -> Outcome {
        let no_section = |section: &str| {
            let what = format!("this agent's file has no [{section}] section to log in with");
            refused(Refusal::NotConfigured, &what)
        };
        match asked.group.engine {
            Engine::Postgres => match &self.logins.postgres {
                Some(login) => prove_postgres(login, asked, entrance, pooled).await,
                None => no_section("probe"),
            },
            Engine::Redis => match &self.logins.redis {
                Some(login) => prove_redis(&login.target(entrance), asked).await,
                None => no_section("redis_probe"),
            },
        }
    }
}

async fn prove_redis(target: &redis::Target, asked: &Asked<'_>) -> Outcome {
    let (route, instance) = (asked.route.name.as_str(), asked.instance.name.as_str());
    match redis::prove(target, route, instance, asked.order.epoch.0, asked.deadline).await {
        Ok(proof) => Outcome::Done(Finding::Proved {
            took: Millis::from(proof.took),
            read: Some(Millis::from(proof.read)),
            stragglers: None,
        }),
        Err(error @ (redis::ProveError::OtherPrimary { .. } | redis::ProveError::NotRead { .. })) => {
            refused(Refusal::Failed, &crate::cli::with_causes(&error))
        }
        // A write that may have happened changes nothing that matters: it can simply be tried again.
        Err(error @ redis::ProveError::Ask(_)) => {
            refused(Refusal::NotDelivered, &crate::cli::with_causes(&error))
        }
    }
}

async fn prove_postgres(
    login: &ProbeLogin,
    asked: &Asked<'_>,
    entrance: SocketAddr,
    pooled: Option<&str>,
) -> Outcome {
    let target = ProbeTarget {
        address: entrance,
        database: pooled.unwrap_or(&asked.group.database).to_owned(),
        user: login.user.clone(),
        passfile: login.passfile.clone(),
        system_identifier: None,
    };
    let through = if pooled.is_some() { Through::Pooler } else { Through::Session };
    let (route, instance) = (asked.route.name.as_str(), asked.instance.name.as_str());
    match prove(&target, through, route, instance, asked.order.epoch.0, asked.deadline).await {
        Ok(proof) => Outcome::Done(Finding::Proved {
            took: Millis::from(proof.took),
            read: Some(Millis::from(proof.read)),
            stragglers: None,
        }),
        Err(error @ (ProveError::OtherPrimary { .. } | ProveError::NotRead { .. })) => {
            refused(Refusal::Failed, &crate::cli::with_causes(&error))
        }
        // A write that may have happened changes nothing that matters: it can simply be tried again.
        Err(error @ (ProveError::Sql(_) | ProveError::Password(_) | ProveError::TooLarge)) => {
            refused(Refusal::NotDelivered, &crate::cli::with_causes(&error))
        }
    }
}

/// Sessions to others that are left when the write and the read have come through; `None` where nobody counts them.
async fn stragglers(kind: &impl Kind, asked: &Asked<'_>) -> Option<u32> {
    if !kind.counts_sessions() {
        return None;
    }
    match kind.verify(asked).await {
        Outcome::Done(Finding::Routed { stragglers, .. }) => Some(stragglers),
        // The proof stands without them; a route that leads elsewhere by now is found by whoever watches it.
        Outcome::Done(_) | Outcome::Refused { .. } | Outcome::Unknown { .. } => None,
    }
}

/// How often to look at a route, and how long a look may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace {
    every: Duration,
    within: Millis,
}

impl Pace {
    /// A proxy or pooler that is asked over its own socket.
    const LOCAL: Self = Self { every: Duration::from_secs(1), within: Millis(1_000) };
    /// A name server.
    const NEAR: Self = Self { every: Duration::from_secs(5), within: Millis(1_000) };
    /// An API far away, with few requests for all that an account does.
    const METERED: Self = Self { every: Duration::from_secs(30), within: Millis(5_000) };
}

/// Tries whether a file with AWS credentials could be used.
///
/// # Errors
/// What is wrong with it, for people.
pub fn aws_credentials(file: &std::path::Path) -> Result<(), String> {
    #[cfg(feature = "aws")]
    return mesh_adapters::aws::check_file(file).map_err(|error| crate::cli::with_causes(&error));
    #[cfg(not(feature = "aws"))]
    return Err(format!("{} is of no use: this mesh was built without AWS", file.display()));
}

/// Tries whether the key of a zone can be used.
///
/// # Errors
/// [`KeyError`], which says what is wrong with it.
pub fn dns_key(section: &DnsSection) -> Result<(), KeyError> {
    dns::held(section).key.load().map(drop)
}

fn find<'a>(
    group: &'a GroupSpec,
    route: &RouteName,
    instance: &InstanceName,
) -> Option<(&'a RouteSpec, &'a InstanceSpec)> {
    let route = group.routes.iter().find(|known| known.name == *route)?;
    let instance = group.instances.iter().find(|known| known.name == *instance)?;
    Some((route, instance))
}

/// What is written where a route's system keeps notes.
fn mark(asked: &Asked<'_>) -> Mark {
    let route = format!("{}/{}", asked.group.group, asked.route.name);
    Mark { route, epoch: asked.order.epoch, step: asked.order.step }
}

/// A refusal: nothing was changed.
#[derive(Debug)]
struct No {
    code: Refusal,
    detail: String,
}

impl From<No> for Outcome {
    fn from(No { code, detail }: No) -> Self {
        Self::Refused { code, detail }
    }
}

fn no(code: Refusal, detail: impl Into<String>) -> No {
    No { code, detail: detail.into() }
}

fn refused(code: Refusal, detail: &str) -> Outcome {
    no(code, detail).into()
}

#[cfg(test)]
#[cfg(feature = "aws")]
mod tests_aws;
