//! The meshes that are simulated: who stands where.

use mesh_failover::policy;
use mesh_proto::command::{Command, Entry, MemberRecord};
use mesh_proto::run::Actor;
use mesh_proto::spec::{
    CrashPolicy, Degrade, Durability, Engine, GroupSpec, HaproxyTarget, InstanceSpec, Profile, RouteSpec,
    RouteTarget, Timing,
};
use mesh_proto::{
    AgentName, DataIncarnation, GroupName, GuardIncarnation, InstanceName, MeshId, NodeId, RouteName,
    SiteName, Wall,
};

/// PostgreSQL's system identifier of the simulated cluster.
pub const SYSTEM_ID: u64 = 7_000_001;

/// The loss that the simulated group accepts: 400 records, about five seconds of writes.
pub const MAX_LAG_BYTES: u64 = 400 * 64;

/// The shape of a mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// `east` with the primary, `dr` with a standby, `witness` with neither.
    Three,
    /// The same with a second standby, at `east`.
    ThreeAndStandby,
    /// Five voters: two at `east`, two at `dr`, one witness; three databases.
    Five,
}

/// Agent and site of each host.
type Hosts = &'static [(&'static str, &'static str)];
/// Name and host of each server.
type Servers = &'static [(&'static str, usize)];

/// A mesh to simulate.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The shape.
    pub shape: Shape,
    /// Agent and site of each host.
    pub hosts: Vec<(AgentName, SiteName)>,
    /// Name and host of each instance; the first is the first primary.
    pub instances: Vec<(InstanceName, usize)>,
    /// The host whose agent holds the route's credentials.
    pub route_host: usize,
    /// The group spec.
    pub spec: GroupSpec,
    /// Its timing.
    pub timing: Timing,
    /// Who votes on leases changes: the first three hosts begin, all hosts vote in the log.
    pub elects: bool,
}

/// A well-formed name.
///
/// # Panics
/// When the name is not well formed: names in tests are literals.
pub fn name<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Display,
{
    match text.parse() {
        Ok(name) => name,
        Err(why) => panic!("{text:?}: {why}"),
    }
}

impl Setup {
    /// The mesh of a shape, with a timing profile.
    #[must_use]
    pub fn new(shape: Shape, profile: Profile, hold_down_seconds: u64) -> Self {
        let (hosts, instances, route_host): (Hosts, Servers, usize) = match shape {
            Shape::Three => {
                (&[("east-1", "east"), ("dr-1", "dr"), ("wit-1", "witness")], &[("pg-a", 0), ("pg-b", 1)], 2)
            }
            Shape::ThreeAndStandby => (
                &[("east-1", "east"), ("dr-1", "dr"), ("wit-1", "witness")],
                &[("pg-a", 0), ("pg-b", 1), ("pg-c", 2)],
                2,
            ),
            Shape::Five => (
                &[
                    ("east-1", "east"),
                    ("east-2", "east"),
                    ("dr-1", "dr"),
                    ("dr-2", "dr"),
                    ("wit-1", "witness"),
                ],
                &[("pg-a", 0), ("pg-b", 1), ("pg-c", 2)],
                4,
            ),
        };
        let hosts: Vec<(AgentName, SiteName)> =
            hosts.iter().map(|(agent, site)| (name(agent), name(site))).collect();
        let instances: Vec<(InstanceName, usize)> =
            instances.iter().map(|(instance, host)| (name(instance), *host)).collect();
        let spec = GroupSpec {
            group: name("shop"),
            engine: Engine::Postgres,
            profile,
            timing: None,
            durability: Durability::Bounded,
            quorum_size: 1,
            quorum_drop_after_seconds: 30,
            degrade: Degrade::ByHand,
            degrade_after_seconds: 60,
            max_lag_bytes: MAX_LAG_BYTES,
            automatic: true,
            open: mesh_proto::spec::Open::AfterLease,
            crash_policy: CrashPolicy::FailoverFirst,
            crash_restart_seconds: 3,
            majority_lost: mesh_proto::spec::MajorityLost::Fence,
            hold_down_seconds,
            observers: Vec::new(),
            site_preference: Vec::new(),
            database: "postgres".to_owned(),
            two_person: Vec::new(),
            instances: instances
                .iter()
                .enumerate()
                .map(|(at, (instance, host))| InstanceSpec {
                    name: instance.clone(),
                    site: hosts[*host].1.clone(),
                    agent: hosts[*host].0.clone(),
                    address: address(at, 5432),
                    guard: address(at, 7433),
                    priority: 100,
                    engine: None,
                })
                .collect(),
            routes: vec![RouteSpec {
                name: name("front"),
                agent: hosts[route_host].0.clone(),
                target: RouteTarget::Haproxy(HaproxyTarget {
                    backend: "pg".to_owned(),
                    listen: address(99, 5000),
                }),
            }],
            services: Vec::new(),
            hooks: Vec::new(),
            fencers: Vec::new(),
        };
        let timing = policy::timing(&spec);
        Self { shape, hosts, instances, route_host, spec, timing, elects: false }
    }

    /// The group's name.
    #[must_use]
    pub const fn group(&self) -> &GroupName {
        &self.spec.group
    }

    /// The route's name.
    #[must_use]
    pub fn route(&self) -> &RouteName {
        &self.spec.routes[0].name
    }

    /// Which instance has this address.
    #[must_use]
    pub fn at_address(&self, address: std::net::SocketAddr) -> Option<usize> {
        self.spec.instances.iter().position(|i| i.address == address)
    }

    /// Which instance has this name.
    #[must_use]
    pub fn instance(&self, name: &InstanceName) -> Option<usize> {
        self.instances.iter().position(|(instance, _)| instance == name)
    }

    /// The log's first entries: the mesh formed, the spec applied, the first primary named.
    #[must_use]
    pub fn founding(&self, data: &DataIncarnation, guard: &GuardIncarnation) -> Vec<Entry> {
        let members: Vec<MemberRecord> = self
            .hosts
            .iter()
            .enumerate()
            .map(|(at, (agent, site))| MemberRecord {
                id: node(at),
                agent: agent.clone(),
                site: site.clone(),
                address: format!("{}", address(at, 7432)),
                voter: true,
            })
            .collect();
        let entry = |commands| Entry {
            by: self.hosts[0].0.clone(),
            actor: Actor::Operator("founder".to_owned()),
            at: Wall(0),
            commands,
        };
        let first = if self.elects { 3 } else { members.len() };
        let later = members[first..].iter().map(|member| Command::MemberAdded { member: member.clone() });
        let formed = Command::MeshFormed { mesh: name::<MeshId>("sim"), members: members[..first].to_vec() };
        vec![
            entry(std::iter::once(formed).chain(later).collect()),
            entry(vec![Command::SpecApplied { replaces: 0, spec: self.spec.clone() }]),
            entry(vec![Command::Founded {
                group: self.spec.group.clone(),
                instance: self.instances[0].0.clone(),
                data: data.clone(),
                guard: guard.clone(),
                system_id: SYSTEM_ID,
                reason: None,
            }]),
        ]
    }
}

/// The Raft number of the agent on a host.
#[must_use]
pub const fn node(host: usize) -> NodeId {
    NodeId(host as u64 + 1)
}

/// The host of a Raft number.
#[must_use]
pub const fn host_of(node: NodeId) -> usize {
    node.0 as usize - 1
}

fn address(at: usize, port: u16) -> std::net::SocketAddr {
    std::net::SocketAddr::from(([10, 0, 0, at as u8 + 1], port))
}
