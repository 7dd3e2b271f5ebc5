//! Mesh on the lab's hosts: the binary, certificates, configuration files, agents and guards as separate processes,
//! and the command line. Everything is done through the product's own commands, as an operator would.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mesh_proto::audit::AuditRecord;
use mesh_proto::operator::{RunView, StatusView};
use serde::de::DeserializeOwned;

use super::ground::{Ground, MARK, port};
use super::host::Host;
use super::postgres::{PROBE, REPL, Secrets, Server};
use super::process::{Process, Said, command, must, run};
use super::redis::RedisServer;
use super::routes::RouteLines;

/// Name of the mesh.
pub const MESH: &str = "lab";
/// Name of the group.
pub const GROUP: &str = "orders";
/// Name of the route.
pub const ROUTE: &str = "orders-db";
/// Name of the group of Redis beside PostgreSQL.
pub const CACHE: &str = "cache";
/// Name of its route.
pub const CACHE_ROUTE: &str = "cache";
const SOON: Duration = Duration::from_secs(20);
/// A command that follows a run to its end.
const RUN: Duration = Duration::from_secs(60);

/// One host's part of the mesh.
#[derive(Debug)]
pub struct Node {
    /// Raft number.
    pub id: u64,
    /// Name of the agent, and of its site.
    pub name: String,
    /// Its host.
    pub host: Host,
    /// Its configuration file.
    pub config: PathBuf,
    /// The agent's socket for the command line.
    pub socket: PathBuf,
    /// Its instance, if it has one.
    pub instance: Option<String>,
    /// Its Redis beside PostgreSQL, if it has one.
    pub cache: Option<String>,
    /// The agent, while it runs.
    pub agent: Option<Process>,
    /// The guard, while it runs.
    pub guard: Option<Process>,
    /// The guard of Redis beside PostgreSQL, while it runs.
    pub cache_guard: Option<Process>,
    /// Which edition its agent says that it has, where that is an older one than its build's.
    pub says_edition: Option<u32>,
}

/// The binary under test: `MESH_BIN`, else the one of this build, which cargo is asked to bring up to date first.
///
/// # Errors
/// When it cannot be built or is not there.
pub async fn binary(ground: &Ground) -> Result<PathBuf> {
    let built = match std::env::var_os("MESH_BIN") {
        Some(path) => PathBuf::from(path),
        None => build().await?,
    };
    if !built.exists() {
        bail!("there is no {}; build it with `cargo build -p mesh-node`, or set MESH_BIN", built.display());
    }
    // The services' account may not be able to enter the build directory, or the home it lies in.
    let copy = ground.folder("bin")?.join("mesh");
    std::fs::copy(&built, &copy).with_context(|| format!("cannot copy {}", built.display()))?;
    ground.give(&copy)?;
    Ok(copy)
}

async fn build() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let release = own.components().any(|part| part.as_os_str() == "release");
    let folder = own.ancestors().find(|dir| dir.ends_with("debug") || dir.ends_with("release"));
    let folder = folder.context("cannot tell where the build directory is; set MESH_BIN")?;
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = command(cargo, ["build", "--quiet", "--package", "mesh-node", "--bin", "mesh"]);
        if release {
            build.arg("--release");
        }
        build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        must(build, Duration::from_secs(1800)).await.context("mesh does not build")?;
    }
    Ok(folder.join("mesh"))
}

/// What a mesh is laid over.
#[derive(Debug, Clone, Copy)]
pub struct Of<'a> {
    /// The nodes.
    pub nodes: &'a [Node],
    /// PostgreSQL servers.
    pub servers: &'a [Server],
    /// Redis servers, in their place, or beside them in a group of their own.
    pub redis: &'a [RedisServer],
    /// The routes that mesh leads.
    pub routes: &'a [RouteLines],
}

/// Issues the certificates and writes the configuration of every node.
///
/// # Errors
/// When the product's commands refuse.
pub async fn configure(
    ground: &Ground,
    mesh: &Path,
    Of { nodes, servers, redis, routes }: Of<'_>,
    secrets: &Secrets,
) -> Result<()> {
    let dir = ground.dir().join("ca").display().to_string();
    let first = &nodes.first().context("a mesh needs a node")?.host;
    must(first.command(mesh, ["ca", "init", "--dir", &dir, "--mesh", MESH]), SOON).await?;
    let memory = ground.memory()?;
    let password = ground.file("probe.pgpass", &format!("*:*:*:{PROBE}:{}\n", secrets.probe))?;
    for node in nodes {
        let home = ground.folder(&node.name)?;
        let address = node.host.ip().to_string();
        let issue = |kind: &str, name: &str, folder: &str| {
            let out = home.join(folder).display().to_string();
            let args = ["ca", "issue", "--dir", &dir, kind, name, "--address", &address, "--out", &out];
            must(node.host.command(mesh, args), SOON)
        };
        issue("--agent", &node.name, "tls").await?;
        let server = servers.iter().find(|server| Some(&server.name) == node.instance.as_ref());
        for instance in node.instances() {
            issue("--guard", instance, "guard-tls").await?;
        }
        let mut text = config((&home, &memory), nodes, node, server, &password);
        let held = routes.iter().filter(|route| route.ip == node.host.ip()).map(|route| route.held.as_str());
        text.extend(held);
        if let Some(server) = redis.first() {
            text.push_str(&server.probe_section());
        }
        if let Some(server) = redis.iter().find(|server| node.instances().any(|name| *name == server.name)) {
            let group = if servers.is_empty() { GROUP } else { CACHE };
            text.push_str(&server.section(group, &home, &memory));
        }
        let file = ground.file(&format!("{}/mesh.toml", node.name), &text)?.display().to_string();
        must(node.host.command(mesh, ["agent", "init", "--config", &file]), SOON).await?;
    }
    Ok(())
}

/// Writes the configuration of an agent without a database, which joins a mesh that runs; it has no certificate yet.
///
/// # Errors
/// When a file cannot be written.
pub fn describe_newcomer(
    ground: &Ground,
    (newcomer, nodes): (&Node, &[Node]),
    secrets: &Secrets,
) -> Result<()> {
    let memory = ground.memory()?;
    let password = ground.file("newcomer.pgpass", &format!("*:*:*:{PROBE}:{}\n", secrets.probe))?;
    let home = ground.folder(&newcomer.name)?;
    ground.folder(&format!("{}/tls", newcomer.name))?;
    let text = config((&home, &memory), nodes, newcomer, None, &password);
    let text = text.replace("[agent]\n", &format!("[agent]\nid = {}\n", newcomer.id));
    ground.file(&format!("{}/mesh.toml", newcomer.name), &text).map(|_| ())
}

/// Issues its certificate where the authority is, and puts it there, as an operator would copy it.
///
/// # Errors
/// When the product's command refuses.
pub async fn issue_to_newcomer(ground: &Ground, mesh: &Path, newcomer: &Node) -> Result<()> {
    let dir = ground.dir().join("ca").display().to_string();
    let out = ground.dir().join(&newcomer.name).join("tls").display().to_string();
    let address = newcomer.host.ip().to_string();
    let issue =
        ["ca", "issue", "--dir", &dir, "--agent", &newcomer.name, "--address", &address, "--out", &out];
    must(newcomer.host.command(mesh, issue), SOON).await.map(|_| ())
}

/// Creates the store of an agent that has its certificate.
///
/// # Errors
/// When the product's command refuses.
pub async fn init_newcomer(mesh: &Path, newcomer: &Node) -> Result<()> {
    let file = newcomer.config.display().to_string();
    must(newcomer.host.command(mesh, ["agent", "init", "--config", &file]), SOON).await.map(|_| ())
}

fn config(
    (home, memory): (&Path, &Path),
    nodes: &[Node],
    node: &Node,
    server: Option<&Server>,
    password: &Path,
) -> String {
    let home = home.display();
    let (name, ip) = (&node.name, node.host.ip());
    let mut text = format!("[mesh]\nid = \"{MESH}\"\n");
    for voter in nodes {
        let Node { id, name, host, .. } = voter;
        let address = format!("{}:{}", host.ip(), port::AGENT);
        text.push_str(&format!(
            "[[mesh.voter]]\nid = {id}\nagent = \"{name}\"\nsite = \"{name}\"\naddress = \"{address}\"\n"
        ));
    }
    text.push_str(&format!(
        "[agent]\nname = \"{name}\"\nsite = \"{name}\"\ndata_dir = \"{home}/agent\"\n\
         listen = \"{ip}:{agent}\"\nhttp = \"{ip}:{http}\"\nsocket = \"{socket}\"\n\
         [tls]\nca = \"{home}/tls/ca.crt\"\ncert = \"{home}/tls/agent-{name}.crt\"\nkey = \"{home}/tls/agent-{name}.key\"\n\
         [probe]\nuser = \"{PROBE}\"\npassword_file = \"{password}\"\n",
        agent = port::AGENT,
        http = port::HTTP,
        socket = node.socket.display(),
        password = password.display(),
    ));
    if let Some(server) = server {
        text.push_str(&format!(
            "[[instance]]\nname = \"{instance}\"\ngroup = \"{GROUP}\"\ndata_dir = \"{data}\"\nbin_dir = \"{bin}\"\n\
             port = {port}\nsocket_dir = \"{socket}\"\nsuperuser = \"{superuser}\"\ndatabase = \"postgres\"\n\
             replication_user = \"{REPL}\"\nreplication_passfile = \"{passfile}\"\nguard_listen = \"{ip}:{guard}\"\n\
             state_dir = \"{state}\"\nlog_file = \"{log}\"\n\
             cert = \"{home}/guard-tls/guard-{instance}.crt\"\nkey = \"{home}/guard-tls/guard-{instance}.key\"\n",
            instance = server.name,
            superuser = server.superuser,
            data = server.data.display(),
            bin = server.bin.display(),
            port = port::POSTGRES,
            socket = server.socket.display(),
            passfile = server.passfile.display(),
            guard = port::GUARD,
            state = memory.join(&server.name).display(),
            log = server.log.display(),
        ));
    }
    text
}

/// The group spec: `settings` are its own lines, before the instances.
#[must_use]
pub fn spec(group: &str, Of { nodes, servers, redis, routes }: Of<'_>, settings: &str) -> String {
    let engine = if redis.is_empty() { "" } else { "engine = \"redis\"\n" };
    let mut text = format!("group = \"{group}\"\n{engine}{settings}\n");
    let databases =
        servers.iter().map(|server| (&server.name, server.host.ip(), port::POSTGRES, port::GUARD));
    let caches = redis.iter().map(|server| (&server.name, server.host.ip(), port::REDIS, server.guard));
    for (name, ip, port, guard) in databases.chain(caches) {
        let Some(node) = nodes.iter().find(|node| node.instances().any(|own| own == name)) else {
            continue;
        };
        let site = &node.name;
        text.push_str(&format!(
            "[[instance]]\nname = \"{name}\"\nsite = \"{site}\"\nagent = \"{site}\"\naddress = \"{ip}:{port}\"\n\
             guard = \"{ip}:{guard}\"\n"
        ));
    }
    text.extend(routes.iter().filter_map(|route| route.table(nodes)));
    text
}

impl Node {
    /// Describes a node.
    #[must_use]
    pub fn new(ground: &Ground, id: u64, host: &Host, instance: Option<String>) -> Self {
        let home = ground.dir().join(host.name());
        Self {
            id,
            name: host.name().to_owned(),
            host: host.clone(),
            config: home.join("mesh.toml"),
            socket: home.join("mesh.sock"),
            instance,
            cache: None,
            agent: None,
            guard: None,
            cache_guard: None,
            says_edition: None,
        }
    }

    /// Its instances, of either engine.
    pub fn instances(&self) -> impl Iterator<Item = &String> {
        self.instance.iter().chain(&self.cache)
    }

    /// Starts the agent.
    ///
    /// # Errors
    /// When it cannot be started; that it then ends is seen by asking it.
    pub fn start_agent(&mut self, ground: &Ground, mesh: &Path) -> Result<()> {
        let config = self.config.display().to_string();
        let name = format!("agent-{}", self.name);
        let mut command = self.host.command(mesh, ["agent", "--config", &config]);
        if let Some(edition) = self.says_edition {
            command.env("MESH_SAYS_EDITION", edition.to_string());
        }
        self.agent = Some(Process::start(&name, command, &ground.log(&name))?);
        Ok(())
    }

    /// Starts the guard of each of its instances.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start_guard(&mut self, ground: &Ground, mesh: &Path) -> Result<()> {
        let start = |instance: &Option<String>| {
            let Some(instance) = instance else { return Ok(None) };
            let config = self.config.display().to_string();
            let name = format!("guard-{instance}");
            let words = ["guard", "--config", &config, "--instance", instance];
            Process::start(&name, self.host.guard_command(mesh, words), &ground.log(&name)).map(Some)
        };
        (self.guard, self.cache_guard) = (start(&self.instance)?, start(&self.cache)?);
        Ok(())
    }

    /// Asks this node's agent on the command line.
    ///
    /// # Errors
    /// When the command cannot be run or does not end within a minute.
    pub async fn ask(&self, mesh: &Path, args: &[&str]) -> Result<Said> {
        let mut asking = command(mesh, ["--socket".as_ref(), self.socket.as_os_str()]);
        asking.args(args).env(MARK, self.config.parent().and_then(Path::parent).unwrap_or(Path::new("/")));
        run(asking, RUN).await
    }

    /// Asks for JSON.
    ///
    /// # Errors
    /// As [`Self::ask`], and when the command fails or its answer is not understood.
    pub async fn json<T: DeserializeOwned>(&self, mesh: &Path, args: &[&str]) -> Result<T> {
        let said = self.ask(mesh, &[&["--json"], args].concat()).await?;
        if said.code != 0 {
            bail!("mesh {} on {} ended with {}: {}", args.join(" "), self.name, said.code, said.text());
        }
        serde_json::from_str(&said.out)
            .with_context(|| format!("mesh {} answered something else: {}", args.join(" "), said.out.trim()))
    }

    /// `mesh status`
    ///
    /// # Errors
    /// As [`Self::json`].
    pub async fn status(&self, mesh: &Path) -> Result<StatusView> {
        self.json(mesh, &["status"]).await
    }
    /// `mesh run`: the newest run.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub async fn newest_run(&self, mesh: &Path) -> Result<RunView> {
        self.json(mesh, &["run"]).await
    }
    /// `mesh audit show`, from a record on.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub async fn audit(&self, mesh: &Path, from: u64) -> Result<Vec<AuditRecord>> {
        self.json(mesh, &["audit", "show", "--from", &from.to_string(), "--limit", "1000"]).await
    }
}
