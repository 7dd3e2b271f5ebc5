//! What this agent sees of each instance: one probing task per instance, and the report made of all of them.
//!
//! Age is measured here, by this agent's own clock; a report carries lengths of time, never points. A probe that hangs
//! holds up only its own instance.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_adapters::postgres::{ProbeOutcome, ProbeTarget, Prober as PostgresProber};
use mesh_adapters::redis;
use mesh_failover::state::{Group, MeshState};
use mesh_proto::evidence::{Seen, Sighting};
use mesh_proto::spec::{Engine, InstanceSpec};
use mesh_proto::{AgentName, Epoch, GroupName, InstanceName, Millis};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// How observers log in, to each engine that this agent's file has a section for.
#[derive(Debug, Clone, Default)]
pub struct Logins {
    /// To PostgreSQL.
    pub postgres: Option<ProbeLogin>,
    /// To Redis.
    pub redis: Option<RedisLogin>,
}

/// How observers log in to Redis.
#[derive(Debug, Clone)]
pub struct RedisLogin {
    /// The user; the default one where there is none.
    pub credentials: Option<redis::Credentials>,
    /// TLS, if the servers speak it.
    pub tls: Option<redis::Tls>,
}

impl RedisLogin {
    /// A server, as this observer reaches it.
    #[must_use]
    pub fn target(&self, address: std::net::SocketAddr) -> redis::Target {
        redis::Target { address, credentials: self.credentials.clone(), tls: self.tls.clone() }
    }
}

/// How observers log in to PostgreSQL.
#[derive(Debug, Clone)]
pub struct ProbeLogin {
    /// The role.
    pub user: String,
    /// Its passwords, in `.pgpass` form.
    pub passfile: Option<PathBuf>,
}

/// What is being probed, and what was seen of it.
#[derive(Debug)]
pub struct Sightings {
    me: AgentName,
    logins: Logins,
    seen: Arc<Mutex<BTreeMap<Target, Eye>>>,
    /// Woken when what is seen changes.
    pub changed: Arc<Notify>,
    probing: Mutex<BTreeMap<Target, (Goal, AbortHandle)>>,
}

type Target = (GroupName, InstanceName);

/// What a probing task works by; another one replaces it when this changes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Goal {
    engine: Engine,
    address: std::net::SocketAddr,
    database: String,
    system_id: Option<u64>,
    every: Duration,
}

impl Goal {
    fn of(group: &Group, instance: &InstanceSpec) -> Self {
        Self {
            engine: group.spec.engine,
            address: instance.address,
            database: group.spec.database.clone(),
            system_id: group.system_id,
            every: group.timing.probe.duration(),
        }
    }
}

/// An instance that is looked at once, apart from the regular probes, which may be a while old.
#[derive(Debug)]
pub(super) struct Glance(Goal);

impl Glance {
    /// At this instance.
    pub(super) fn of(group: &Group, instance: &InstanceSpec) -> Self {
        Self(Goal::of(group, instance))
    }

    /// Looks over a connection of its own. `None` when this agent's file has no login for the engine.
    pub(super) async fn look(&self, logins: &Logins, timeout: Duration) -> Option<Seen> {
        Some(Prober::new(logins, &self.0)?.probe(timeout).await)
    }
}

#[derive(Debug, Clone, Copy)]
struct Eye {
    seen: Seen,
    at: Instant,
    lost_since: Option<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sightings {
    /// Sees nothing yet.
    #[must_use]
    pub fn new(me: AgentName, logins: Logins) -> Self {
        Self { me, logins, seen: Arc::default(), changed: Arc::new(Notify::new()), probing: Mutex::default() }
    }

    /// Probes what the applied specs name, and stops probing what they do not name any more.
    pub fn follow(&self, state: &MeshState) {
        let mut wanted = BTreeMap::new();
        for group in state.groups.values() {
            if !group.spec.observers.is_empty() && !group.spec.observers.contains(&self.me) {
                continue;
            }
            for instance in &group.spec.instances {
                let goal = Goal::of(group, instance);
                wanted.insert((group.spec.group.clone(), instance.name.clone()), goal);
            }
        }
        let mut probing = lock(&self.probing);
        probing.retain(|target, (goal, task)| {
            let keep = wanted.get(target) == Some(goal);
            if !keep {
                task.abort();
                lock(&self.seen).remove(target);
            }
            keep
        });
        for (target, goal) in wanted {
            // Whoever cannot log in sees nothing, and says nothing.
            let Some(prober) = Prober::new(&self.logins, &goal) else { continue };
            probing.entry(target.clone()).or_insert_with(|| {
                let (seen, changed) = (Arc::clone(&self.seen), Arc::clone(&self.changed));
                let task = tokio::spawn(probe_for_ever(prober, target, goal.every, seen, changed));
                (goal, task.abort_handle())
            });
        }
    }

    /// Whether any instance was not seen at the newest look.
    #[must_use]
    pub fn any_lost(&self) -> bool {
        lock(&self.seen).values().any(|eye| eye.seen.is_lost())
    }

    /// The sightings as they are now, with their ages.
    #[must_use]
    pub fn now(&self) -> Vec<Sighting> {
        let now = Instant::now();
        let age = |at: Instant| Millis::from(now.saturating_duration_since(at));
        let seen = lock(&self.seen);
        let sightings = seen.iter().map(|((group, instance), eye)| Sighting {
            group: group.clone(),
            instance: instance.clone(),
            seen: eye.seen,
            age: age(eye.at),
            lost_for: eye.lost_since.map(age),
        });
        sightings.collect()
    }
}

impl Drop for Sightings {
    fn drop(&mut self) {
        for (_, task) in lock(&self.probing).values() {
            task.abort();
        }
    }
}

/// An observer of one instance.
enum Prober {
    Postgres(Box<PostgresProber>),
    Redis(Box<redis::Prober>),
}

impl Prober {
    /// `None` when this agent's file has no login for the engine.
    fn new(logins: &Logins, goal: &Goal) -> Option<Self> {
        Some(match goal.engine {
            Engine::Postgres => {
                let login = logins.postgres.as_ref()?;
                Self::Postgres(Box::new(PostgresProber::new(ProbeTarget {
                    address: goal.address,
                    database: goal.database.clone(),
                    user: login.user.clone(),
                    passfile: login.passfile.clone(),
                    system_identifier: goal.system_id,
                })))
            }
            Engine::Redis => {
                let target = logins.redis.as_ref()?.target(goal.address);
                Self::Redis(Box::new(redis::Prober::new(target, goal.system_id)))
            }
        })
    }

    async fn probe(&mut self, timeout: Duration) -> Seen {
        match self {
            Self::Postgres(prober) => seen_of(&prober.probe(timeout).await.outcome),
            Self::Redis(prober) => seen_of_redis(&prober.probe(timeout).await.outcome),
        }
    }
}

async fn probe_for_ever(
    mut prober: Prober,
    target: Target,
    every: Duration,
    seen: Arc<Mutex<BTreeMap<Target, Eye>>>,
    changed: Arc<Notify>,
) {
    let mut due = tokio::time::interval(every);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let began = Instant::now();
        // Two intervals: one lost packet and its retransmission (200 ms) do not make a loss.
        let now_seen = prober.probe(every * 2).await;
        let mut seen = lock(&seen);
        let before = seen.get(&target).copied();
        let lost_since = now_seen.is_lost().then(|| before.and_then(|eye| eye.lost_since).unwrap_or(began));
        seen.insert(target.clone(), Eye { seen: now_seen, at: Instant::now(), lost_since });
        drop(seen);
        if before.is_none_or(|eye| eye.seen != now_seen) {
            tracing::info!(group = %target.0, instance = %target.1, seen = ?now_seen, "sees");
            changed.notify_one();
        }
    }
}

fn seen_of(outcome: &ProbeOutcome) -> Seen {
    match outcome {
        ProbeOutcome::Writable(facts) => {
            Seen::Writable { epoch: facts.epoch.as_ref().map(|seen| Epoch(seen.epoch)) }
        }
        ProbeOutcome::ReadOnly(_) => Seen::ReadOnly,
        ProbeOutcome::Refused => Seen::Refused,
        ProbeOutcome::Unreachable => Seen::Unreachable,
        ProbeOutcome::TimedOut => Seen::TimedOut,
        ProbeOutcome::Starting => Seen::Starting,
        ProbeOutcome::TooManyConnections => Seen::Busy,
        ProbeOutcome::AuthFailed { .. } => Seen::AuthFailed,
        ProbeOutcome::WrongSystem { .. } => Seen::WrongSystem,
        ProbeOutcome::Other { .. } => Seen::Error,
    }
}

fn seen_of_redis(outcome: &redis::ProbeOutcome) -> Seen {
    use redis::{Fault, ProbeOutcome};
    match outcome {
        ProbeOutcome::Primary { stamp } => {
            Seen::Writable { epoch: stamp.as_ref().map(|stamp| Epoch(stamp.epoch)) }
        }
        ProbeOutcome::Replica => Seen::ReadOnly,
        ProbeOutcome::WrongSystem { .. } => Seen::WrongSystem,
        ProbeOutcome::Fault(fault) => match fault {
            Fault::Refused => Seen::Refused,
            Fault::Unreachable => Seen::Unreachable,
            Fault::TimedOut => Seen::TimedOut,
            Fault::Loading => Seen::Starting,
            // It answers: a command keeps it busy.
            Fault::Busy => Seen::Busy,
            Fault::Authentication | Fault::NoPermission | Fault::Tls => Seen::AuthFailed,
            Fault::ReadOnly | Fault::MasterDown => Seen::ReadOnly,
            // Closed as soon as it was opened, as by a server without a free connection.
            Fault::Broken | Fault::WriteStopped(_) | Fault::Other { .. } | Fault::Form => Seen::Error,
        },
    }
}
