//! Three sites: `east` with the primary, `dr` with a standby, `witness` without a database but with the route. What
//! stands before mesh comes ([`Cluster::raise`]), mesh on top of it ([`Cluster::form`]), and the ways to break it.

mod groups;
mod newcomer;
mod redis;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mesh_proto::RunId;
use mesh_proto::audit::AuditRecord;
use mesh_proto::operator::StatusView;
use mesh_proto::run::{Phase, Run};
use rustix::process::Signal;

use super::bind::{self, Bind};
use super::clock;
use super::ground::{Ground, port};
use super::haproxy::{Backend, Follows, Haproxy};
use super::host::{Host, Terrain};
use super::mesh::{self, Node};
use super::name::Followed;
use super::net::Network;
use super::pgbouncer::{self, Pgbouncer};
use super::postgres::{Secrets, Server};
use super::process::{self, Said};
use super::redis::RedisServer;
use super::routes::RouteLines;
use super::wait::{Look, until};
use super::writer::Writer;

/// The sites, in the order of their hosts.
pub const SITES: [&str; 3] = ["east", "dr", "witness"];
/// Index of the first primary's node and server.
pub const EAST: usize = 0;
/// Index of the first standby's node and server.
pub const DR: usize = 1;
/// Index of the node without a database.
pub const WITNESS: usize = 2;

/// What a cluster shall be.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What the scratch directory is called.
    pub name: &'static str,
    /// Where the hosts are.
    pub terrain: Terrain,
    /// How HAProxy learns who the primary is.
    pub follows: Follows,
    /// Lines of the group spec before its instances.
    pub spec: String,
    /// Further routes, held by the witness.
    pub also: Vec<Also>,
}

/// A route beside HAProxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Also {
    /// A name that BIND serves.
    Bind,
    /// A PgBouncer database.
    Pgbouncer,
    /// Redis servers beside PostgreSQL, in the group `cache`, with a route through HAProxy.
    Redis,
    /// A second standby, `pg-witness`, on the witness.
    Standby,
    /// A disk of its own for the data of each PostgreSQL server, and an archive command that can hang.
    Disks,
    /// A wall clock of its own for each host.
    Clocks,
}

/// A running cluster. Dropping it ends everything it started.
#[derive(Debug)]
pub struct Cluster {
    /// The agents and guards, one node a site.
    pub nodes: Vec<Node>,
    /// The databases: `pg-east`, `pg-dr`, and `pg-witness` if a second standby was wanted; none where Redis is.
    pub servers: Vec<Server>,
    /// The Redis servers: `redis-east`, `redis-dr`; none where PostgreSQL is alone.
    pub redis: Vec<RedisServer>,
    /// The route.
    pub haproxy: Haproxy,
    /// The name server, if one was wanted.
    pub bind: Option<Bind>,
    /// The pooler, if one was wanted.
    pub pgbouncer: Option<Pgbouncer>,
    /// The binary under test.
    pub mesh: PathBuf,
    /// Passwords.
    pub secrets: Secrets,
    wanted: Wanted,
    // Last: its drop ends what the others left.
    ground: Ground,
}

impl Cluster {
    /// Raises hosts, databases and HAProxy, as they are before mesh comes.
    ///
    /// # Errors
    /// When a part does not come up; everything that did is ended.
    pub async fn raise(wanted: Wanted) -> Result<Self> {
        let ground = Ground::take(wanted.name)?;
        let mut hosts = hosts(&ground, wanted.terrain).await?;
        if wanted.also.contains(&Also::Clocks) {
            let library = clock::library(&ground).await?;
            for host in &mut hosts {
                host.give_clock(&ground, &library)?;
            }
        }
        let secrets = Secrets::draw()?;
        let mut servers = Vec::new();
        let count = if wanted.also.contains(&Also::Standby) { 3 } else { 2 };
        for (site, host) in SITES.iter().zip(&hosts).take(count) {
            let mut server = Server::describe(&ground, host, &format!("pg-{site}"), &secrets)?;
            if wanted.also.contains(&Also::Disks) {
                server.give_disk(&ground).await?;
            }
            servers.push(server);
        }
        servers[EAST].found(&ground).await?;
        for standby in &servers[DR..] {
            standby.follow(&servers[EAST]).await?;
        }
        let backends: Vec<Backend> = servers
            .iter()
            .enumerate()
            .map(|(n, server)| Backend {
                name: server.name.clone(),
                ip: server.host.ip(),
                port: port::POSTGRES,
                enabled: n == EAST,
            })
            .collect();
        let redis = if wanted.also.contains(&Also::Redis) {
            redis::beside(&ground, &hosts).await?
        } else {
            Vec::new()
        };
        let caches = redis::backends(&redis);
        let haproxy =
            Haproxy::start_with(&ground, &hosts[WITNESS], wanted.follows, &backends, &caches).await?;
        let (mut bind, mut pgbouncer) = (None, None);
        for also in &wanted.also {
            let (at, first) = (&hosts[WITNESS], &hosts[EAST]);
            match also {
                Also::Bind => bind = Some(Bind::start(&ground, at, first.ip()).await?),
                Also::Pgbouncer => pgbouncer = Some(Pgbouncer::start(&ground, at, first, &secrets).await?),
                Also::Redis | Also::Standby | Also::Disks | Also::Clocks => {}
            }
        }
        let nodes = hosts
            .iter()
            .zip(1..)
            .map(|(host, id)| {
                let server = servers.iter().find(|server| server.host.name() == host.name());
                let cache = redis.iter().find(|server| server.host.name() == host.name());
                let node = Node::new(&ground, id, host, server.map(|server| server.name.clone()));
                Node { cache: cache.map(|server| server.name.clone()), ..node }
            })
            .collect();
        let mesh = PathBuf::new();
        Ok(Self { nodes, servers, redis, haproxy, bind, pgbouncer, mesh, secrets, wanted, ground })
    }

    /// The scratch directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.ground.dir()
    }
    /// The scratch directory and its reaper.
    pub const fn ground(&mut self) -> &mut Ground {
        &mut self.ground
    }

    /// Writes certificates and configuration; nothing is started.
    ///
    /// # Errors
    /// When the product's commands refuse.
    pub async fn prepare(&mut self) -> Result<()> {
        self.mesh = mesh::binary(&self.ground).await?;
        let mut routes = self.routes();
        routes.extend(self.cache().is_some().then(|| self.haproxy.cache_lines()));
        mesh::configure(&self.ground, &self.mesh, self.parts(&routes), &self.secrets).await
    }

    /// Starts agents and guards, forms the mesh, applies the group and adopts the primary; returns once the group is
    /// healthy.
    ///
    /// # Errors
    /// When a command is refused, or the group is not healthy within 30 s; with status and logs.
    pub async fn form(&mut self) -> Result<()> {
        self.prepare().await?;
        self.form_prepared().await
    }

    /// Lines for the group spec, before its instances; counts until the group is applied.
    pub fn specify(&mut self, lines: &str) {
        self.wanted.spec.push_str(lines);
    }

    /// As [`Self::form`], on configuration that was written before.
    ///
    /// # Errors
    /// As [`Self::form`].
    pub async fn form_prepared(&mut self) -> Result<()> {
        self.start_all()?;
        let formed = self.form_group().await;
        self.explained(formed).await
    }

    /// Starts every agent and guard.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start_all(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.start_agent(&self.ground, &self.mesh)?;
            node.start_guard(&self.ground, &self.mesh)?;
        }
        Ok(())
    }

    /// Starts the agent and the guard of one node again, as a boot of the host would.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn boot(&mut self, node: usize) -> Result<()> {
        self.nodes[node].start_agent(&self.ground, &self.mesh)?;
        self.nodes[node].start_guard(&self.ground, &self.mesh)
    }

    /// Starts one agent again.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_agent(&mut self, node: usize) -> Result<()> {
        self.nodes[node].start_agent(&self.ground, &self.mesh)
    }

    /// Starts one guard again.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_guard(&mut self, node: usize) -> Result<()> {
        self.nodes[node].start_guard(&self.ground, &self.mesh)
    }

    /// Runs a command of mesh on a node and wants success.
    ///
    /// # Errors
    /// When it ends otherwise.
    pub async fn must(&self, node: usize, args: &[&str]) -> Result<Said> {
        let said = self.nodes[node].ask(&self.mesh, args).await?;
        if said.code != 0 {
            bail!(
                "mesh {} on {} ended with {}:\n{}",
                args.join(" "),
                self.nodes[node].name,
                said.code,
                said.text()
            );
        }
        Ok(said)
    }

    /// The status, from the first agent that answers, the witness asked first.
    ///
    /// # Errors
    /// When none answers.
    pub async fn status(&self) -> Result<StatusView> {
        let mut why = None;
        for node in self.nodes.iter().rev().filter(|node| node.agent.is_some()) {
            match node.status(&self.mesh).await {
                Ok(status) => return Ok(status),
                Err(error) => why = Some(error),
            }
        }
        Err(why.unwrap_or_else(|| anyhow::anyhow!("no agent runs")))
    }

    /// Waits until a run newer than `after` ended well.
    ///
    /// # Errors
    /// When it ended otherwise or not in time; with status and logs.
    pub async fn until_run_done(&self, after: Option<u64>, limit: Duration) -> Result<Run> {
        let waited = until("a run is done", limit, || async {
            let run = self.group().await?.run.filter(|run| after.is_none_or(|after| run.id.0 > after));
            Ok(match run {
                Some(run) if run.phase == Phase::Done => Look::There(run),
                Some(run) => Look::NotYet(format!("run {} is {}", run.id, run.phase)),
                None => Look::NotYet("no run yet".to_owned()),
            })
        })
        .await;
        self.explained(waited).await
    }

    /// Waits until a run newer than `after` is at rest: it ended well, or was given up.
    ///
    /// # Errors
    /// When that is not so in time; with status and logs.
    pub async fn until_run_at_rest(&self, after: RunId, limit: Duration) -> Result<Run> {
        let waited = until("a run is at rest", limit, || async {
            let run = self.group().await?.run.filter(|run| run.id > after);
            Ok(match run {
                Some(run) if matches!(run.phase, Phase::Done | Phase::Aborted) => Look::There(run),
                Some(run) => Look::NotYet(format!("run {} is {}", run.id, run.phase)),
                None => Look::NotYet("no run yet".to_owned()),
            })
        })
        .await;
        self.explained(waited).await
    }

    /// Adds status and the ends of all logs to an error.
    ///
    /// # Errors
    /// The error.
    pub async fn explained<T>(&self, result: Result<T>) -> Result<T> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => Err(error.context(self.evidence().await)),
        }
    }

    /// Status and the ends of all logs.
    pub async fn evidence(&self) -> String {
        let mut text = String::from("--- status\n");
        for node in self.nodes.iter().rev().filter(|node| node.agent.is_some()) {
            match node.ask(&self.mesh, &["status"]).await {
                Ok(said) if said.code == 0 => {
                    text.push_str(&said.out);
                    break;
                }
                Ok(said) => text.push_str(&format!("{}: {}\n", node.name, said.text())),
                Err(error) => text.push_str(&format!("{}: {error:#}\n", node.name)),
            }
        }
        let logs = self.ground.dir().join("log");
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(&logs).into_iter().flatten().flatten().map(|e| e.path()).collect();
        files.sort();
        for file in files {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            text.push_str(&format!("--- {name}\n{}\n", process::tail(&file, 12)));
        }
        text
    }

    /// A writer through the route.
    #[must_use]
    pub fn writer(&self) -> Writer {
        Writer::start(self.servers[EAST].client(self.haproxy.ip, port::ROUTE), "route", 0)
    }

    /// Audit records from a number on, from the first agent that answers.
    ///
    /// # Errors
    /// When none answers.
    pub async fn audit(&self, from: u64) -> Result<Vec<AuditRecord>> {
        let mut why = None;
        for node in self.nodes.iter().rev().filter(|node| node.agent.is_some()) {
            match node.audit(&self.mesh, from).await {
                Ok(records) => return Ok(records),
                Err(error) => why = Some(error),
            }
        }
        Err(why.unwrap_or_else(|| anyhow::anyhow!("no agent runs")))
    }

    /// Index of the node whose agent leads.
    ///
    /// # Errors
    /// When nobody answers or no leader is known.
    pub async fn leader(&self) -> Result<usize> {
        let leader = self.status().await?.leader.context("no leader is known")?;
        self.nodes
            .iter()
            .position(|node| node.name == leader.as_str())
            .context("the leader is none of the nodes")
    }

    /// Loses a site: everything on its host dies at once. On loopback, where a host has no bounds, that is the
    /// database, the guard and the agent.
    ///
    /// # Errors
    /// When something survives.
    pub async fn lose(&mut self, node: usize) -> Result<()> {
        match self.wanted.terrain {
            Terrain::Namespaces => self.nodes[node].host.crash().await?,
            Terrain::Loopback => {
                // The guard first: it must not have a chance to act on the death of the others.
                let Node { guard, cache_guard, agent, .. } = &mut self.nodes[node];
                for process in [guard, cache_guard, agent].into_iter().flatten() {
                    process.signal(Signal::KILL)?;
                }
                if let Some(server) = self.servers.get(node) {
                    server.signal_all(Signal::KILL)?;
                }
                if let Some(server) = self.redis.get(node) {
                    // The leash of the guard that died before it is at it as well.
                    server.kill()?;
                }
            }
        }
        let Node { guard, cache_guard, agent, .. } = &mut self.nodes[node];
        for process in [guard.take(), cache_guard.take(), agent.take()].iter_mut().flatten() {
            process.ended(Duration::from_secs(5)).await?;
        }
        Ok(())
    }

    /// What mesh is laid over.
    #[must_use]
    pub fn parts<'a>(&'a self, routes: &'a [RouteLines]) -> mesh::Of<'a> {
        mesh::Of { nodes: &self.nodes, servers: &self.servers, redis: &self.redis, routes }
    }

    /// The routes that mesh leads.
    #[must_use]
    pub fn routes(&self) -> Vec<RouteLines> {
        let haproxy = match self.wanted.follows {
            Follows::RuntimeApi => Some(self.haproxy.lines()),
            Follows::HttpCheck => None,
        };
        let bind = self.bind.as_ref().map(Bind::lines);
        haproxy.into_iter().chain(bind).chain(self.pgbouncer.as_ref().map(Pgbouncer::lines)).collect()
    }

    /// A writer that follows the name to the server itself, if there is a name.
    #[must_use]
    pub fn named_writer(&self) -> Option<Writer> {
        let followed = Followed { server: self.bind.as_ref()?.address, name: bind::NAME };
        let config = self.servers[EAST].client_of_a_name(port::POSTGRES);
        Some(Writer::follow(config, followed, "named", 2_000_000))
    }

    /// A writer through the pooler, if there is one.
    #[must_use]
    pub fn pooled_writer(&self) -> Option<Writer> {
        self.pooled_writer_from(1_000_000)
    }

    /// The same, with rows that are numbered from `first`.
    #[must_use]
    pub fn pooled_writer_from(&self, first: i64) -> Option<Writer> {
        let mut config = self.servers[EAST].client(self.pgbouncer.as_ref()?.host.ip(), port::POOLED);
        config.dbname(pgbouncer::DATABASE);
        Some(Writer::start(config, "pooled", first))
    }
}

/// The hosts of the three sites.
pub(super) async fn hosts(ground: &Ground, terrain: Terrain) -> Result<Vec<Host>> {
    let mut hosts = Vec::new();
    match terrain {
        Terrain::Loopback => {
            hosts.extend(SITES.iter().zip(1..).map(|(site, n)| Host::on_loopback(ground, site, n)));
        }
        Terrain::Namespaces => {
            let mut network = Network::raise(ground).await?;
            for (site, n) in SITES.iter().zip(1..) {
                hosts.push(Host::in_namespace(ground, &mut network, site, n).await?);
            }
        }
    }
    Ok(hosts)
}
