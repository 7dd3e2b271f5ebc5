//! Looks, again and again, at the routes that this agent holds: a proxy that was restarted, or changed by hand, leads
//! elsewhere than the log says, and nobody would notice before the next failover. It only looks; what follows from it is
//! the leader's business.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_proto::effect::{Effect, Order, Outcome, Refusal, StepRef};
use mesh_proto::evidence::RouteSight;
use mesh_proto::spec::RouteSpec;
use mesh_proto::{Epoch, GroupName, InstanceName, Millis, RouteName, RunId};
use tokio::task::JoinSet;

use super::super::driver::Driver;

/// How often it looks what is due.
const TURN: Duration = Duration::from_secs(1);
/// What was found.
#[derive(Debug, Clone)]
struct Look {
    instance: InstanceName,
    epoch: Epoch,
    astray_since: Option<Instant>,
    at: Instant,
}

type Key = (GroupName, RouteName);

/// The newest look at each route.
#[derive(Debug, Default)]
pub struct RouteWatch {
    looks: Mutex<BTreeMap<Key, Look>>,
}

/// A route to look at.
struct Due {
    key: Key,
    order: Order,
    instance: InstanceName,
    every: Duration,
}

impl RouteWatch {
    fn looks(&self) -> MutexGuard<'_, BTreeMap<Key, Look>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks until `stop` completes.
    pub async fn run(self: Arc<Self>, driver: Arc<Driver>, stop: impl Future<Output = ()>) {
        let mut asked: BTreeMap<Key, Instant> = BTreeMap::new();
        let mut looking: JoinSet<()> = JoinSet::new();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                () = tokio::time::sleep(TURN) => {}
            }
            while looking.try_join_next().is_some() {}
            let now = Instant::now();
            let held = held(&driver);
            self.looks().retain(|key, _| held.iter().any(|due| due.key == *key));
            asked.retain(|key, _| held.iter().any(|due| due.key == *key));
            for due in held {
                if asked.get(&due.key).is_some_and(|at| now.duration_since(*at) < due.every) {
                    continue;
                }
                asked.insert(due.key.clone(), now);
                let (watch, driver) = (Arc::clone(&self), Arc::clone(&driver));
                looking.spawn(async move { watch.look(&driver, due).await });
            }
        }
        looking.shutdown().await;
    }

    async fn look(&self, driver: &Driver, due: Due) {
        let so = match driver.routes.execute(&due.order).await {
            Outcome::Done(_) => true,
            Outcome::Refused { code: Refusal::NotSo, .. } => false,
            // Not reached, or not to be found out: says nothing about where the route leads.
            Outcome::Refused { detail, .. } | Outcome::Unknown { detail } => {
                tracing::debug!(route = %due.key.1, detail, "a route was not seen");
                return;
            }
        };
        self.saw(due.key, due.instance, due.order.epoch, so, Instant::now());
    }

    fn saw(&self, key: Key, instance: InstanceName, epoch: Epoch, so: bool, at: Instant) {
        let mut looks = self.looks();
        let before = looks
            .get(&key)
            .filter(|look| look.epoch == epoch && look.instance == instance)
            .and_then(|look| look.astray_since);
        if !so && before.is_none() {
            tracing::info!(route = %key.1, %instance, %epoch, "the route does not lead to the primary");
        }
        let astray_since = (!so).then(|| before.unwrap_or(at));
        looks.insert(key, Look { instance, epoch, astray_since, at });
    }

    /// What was found, with its age.
    #[must_use]
    pub fn now(&self) -> Vec<RouteSight> {
        self.at(Instant::now())
    }

    fn at(&self, now: Instant) -> Vec<RouteSight> {
        let since = |at: Instant| Millis::from(now.saturating_duration_since(at));
        let sight = |((group, route), look): (&Key, &Look)| RouteSight {
            group: group.clone(),
            route: route.clone(),
            instance: look.instance.clone(),
            epoch: look.epoch,
            astray_for: look.astray_since.map(since),
            age: since(look.at),
        };
        self.looks().iter().map(sight).collect()
    }
}

/// The routes of this agent, whose groups have a primary, with the question whether they lead to it.
fn held(driver: &Driver) -> Vec<Due> {
    let due = |group: &mesh_failover::state::Group, route: &RouteSpec| {
        let instance = group.primary.as_ref()?.instance.clone();
        let pace = driver.routes.pace(&route.target);
        let effect = Effect::Route { route: route.name.clone(), instance: instance.clone() };
        let order = Order {
            group: group.spec.group.clone(),
            step: StepRef { run: RunId(0), step: 0, attempt: 0 },
            epoch: group.epoch,
            raft_term: 0,
            effect,
            verify_only: true,
            index: 0,
            budget: pace.within,
        };
        let key = (group.spec.group.clone(), route.name.clone());
        Some(Due { key, order, instance, every: pace.every })
    };
    driver.consensus.read(|machine| {
        let groups = machine.state().groups.values();
        groups
            .flat_map(|group| group.spec.routes.iter().map(move |route| (group, route)))
            .filter(|(_, route)| route.agent == driver.me)
            .filter_map(|(group, route)| due(group, route))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_astray_from_the_first_bad_look_until_a_good_one() {
        let watch = RouteWatch::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let name = |text: &str| InstanceName::new(text).unwrap();
        let saw = |instance: &str, epoch, so, millis| {
            let key = (GroupName::new("orders").unwrap(), RouteName::new("app").unwrap());
            watch.saw(key, name(instance), Epoch(epoch), so, at(millis));
            watch.at(at(millis)).remove(0).astray_for
        };
        assert_eq!(saw("pg-a", 1, true, 0), None);
        assert_eq!(saw("pg-a", 1, false, 1_000), Some(Millis(0)));
        assert_eq!(saw("pg-a", 1, false, 2_000), Some(Millis(1_000)));
        // Another primary: what was wrong before is another matter.
        assert_eq!(saw("pg-b", 2, false, 3_000), Some(Millis(0)));
        assert_eq!(saw("pg-b", 2, true, 4_000), None);
        assert_eq!(watch.at(at(4_500))[0].age, Millis(500));
    }
}
