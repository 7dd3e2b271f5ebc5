//! A small mesh for tests of the guard: three voters in this process over real mTLS, with a log that the test writes, and
//! guards as real processes beside real PostgreSQL.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use mesh_failover::policy;
use mesh_node::rpc::GuardClient;
use mesh_node::tls::material::Files;
use mesh_node::tls::{Dialer, Identity, Incoming, Material};
use mesh_node::voter::{LogView, VoterLog, VoterService, VoterStore};
use mesh_node::{ca, rpc};
use mesh_proto::effect::{Effect, Order, Outcome, StepRef};
use mesh_proto::evidence::GuardStatus;
use mesh_proto::lease::{Electorate, GroupView, LeaseKey, LeaseRecord, LeaseTerm};
use mesh_proto::spec::{Profile, Timing};
use mesh_proto::*;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

mod host;

pub use host::{as_database_user, bin_dir, database_user, port};

pub const MESH: &str = env!("CARGO_BIN_EXE_mesh");
pub const SOON: Duration = Duration::from_secs(15);

pub fn own(path: &Path) {
    if let Some((uid, gid)) = database_user() {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
    }
}

pub fn run(program: &Path, args: &[&str]) -> String {
    let output = as_database_user(Command::new(program).args(args)).output().unwrap();
    assert!(output.status.success(), "{program:?} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What the test says the log is.
pub struct Log {
    pub state: Mutex<State>,
}

pub struct State {
    pub applied: u64,
    pub epoch: u64,
    pub primary: Option<InstanceName>,
    pub leases: BTreeMap<InstanceName, LeaseRecord>,
    pub system_id: Option<u64>,
    pub timing: Timing,
    pub statuses: BTreeMap<InstanceName, (Instant, GuardStatus)>,
}

impl VoterLog for Log {
    fn view(&self, key: &LeaseKey) -> LogView {
        let state = self.state.lock().unwrap();
        LogView {
            applied: state.applied,
            group: Some(GroupView {
                applied: state.applied,
                epoch: Epoch(state.epoch),
                primary: state.primary.clone(),
                own_lease: state.leases.get(&key.instance).cloned(),
                system_id: state.system_id,
                timing: state.timing.clone(),
                quorum: None,
                pause: None,
                hold: None,
            }),
            electorate: Electorate::of(1, [NodeId(1), NodeId(2), NodeId(3)]),
            raft_term: 1,
            peers: Vec::new(),
        }
    }
    fn wait_applied(&self, _: u64) -> BoxFuture<'_, ()> {
        std::future::pending().boxed()
    }
    fn member(&self, _: &AgentName) -> Option<NodeId> {
        Some(NodeId(1))
    }
    fn on_status(&self, status: GuardStatus) {
        let mut state = self.state.lock().unwrap();
        let newer = state
            .statuses
            .get(&status.instance)
            .is_none_or(|(_, known)| known.seq < status.seq || known.guard != status.guard);
        if newer {
            state.statuses.insert(status.instance.clone(), (Instant::now(), status));
        }
    }
}

pub struct World {
    pub dir: tempfile::TempDir,
    pub log: Arc<Log>,
    pub mesh: MeshId,
    voters: Vec<(u16, Material, VoterService)>,
    serving: Vec<JoinHandle<()>>,
    order: Mutex<u64>,
}

impl World {
    pub async fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("mesh-node-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        own(dir.path());
        let mesh = MeshId::new("shop").unwrap();
        ca::init(&dir.path().join("ca"), &mesh).unwrap();
        let timing = policy::profile(Profile::Lan);
        let state = State {
            applied: 10,
            epoch: 0,
            primary: None,
            leases: BTreeMap::new(),
            system_id: None,
            timing,
            statuses: BTreeMap::new(),
        };
        let log = Arc::new(Log { state: Mutex::new(state) });
        let mut voters = Vec::new();
        for id in 1..=3 {
            let material =
                material(dir.path(), &mesh, &Identity::Agent(AgentName::new(format!("v{id}")).unwrap()));
            let store = VoterStore::create(&dir.path().join(format!("voter-{id}"))).unwrap();
            let service =
                VoterService::new(NodeId(id), mesh.clone(), store, Arc::clone(&log) as Arc<dyn VoterLog>);
            voters.push((port(), material, service));
        }
        let mut world = Self { dir, log, mesh, voters, serving: Vec::new(), order: Mutex::new(0) };
        world.connect().await;
        world
    }

    /// Lets the voters answer.
    pub async fn connect(&mut self) {
        for (port, material, service) in &self.voters {
            let listener = TcpListener::bind(("127.0.0.1", *port)).await.unwrap();
            let incoming = Incoming::start(listener, &material.clone().into());
            let routes = tonic::service::Routes::new(service.mount());
            self.serving.push(tokio::spawn(async move {
                rpc::server::serve(routes, incoming, std::future::pending()).await.unwrap();
            }));
        }
    }

    /// Cuts every guard off from every voter.
    pub async fn cut(&mut self) {
        for serving in self.serving.drain(..) {
            serving.abort();
            let _ = serving.await;
        }
    }

    pub fn status(&self, instance: &Instance) -> Option<GuardStatus> {
        let state = self.log.state.lock().unwrap();
        state.statuses.get(&instance.name).map(|(_, status)| status.clone())
    }

    /// Waits until the guard's newest status is so.
    pub async fn until(
        &self,
        instance: &Instance,
        what: &str,
        so: impl Fn(&GuardStatus) -> bool,
    ) -> GuardStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.status(instance).filter(&so) {
                println!("FIGURE {what}: {:?}", began.elapsed());
                return status;
            }
            assert!(began.elapsed() < SOON, "{what}: {:#?}\n{}", self.status(instance), instance.log());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Commits that this instance is the primary, in this epoch, under this lease number.
    pub fn grant(&self, instance: &Instance, epoch: u64, lease_no: u64) -> LeaseTerm {
        let status = self.status(instance).unwrap();
        let mut state = self.log.state.lock().unwrap();
        state.applied += 1;
        let term = LeaseTerm { epoch: Epoch(epoch), lease_no: LeaseNo(lease_no) };
        let record = LeaseRecord {
            term,
            guard: status.guard,
            data: status.data.unwrap(),
            index: state.applied,
            holders: BTreeSet::new(),
            waits: None,
        };
        state.epoch = epoch;
        state.system_id = status.system_id;
        state.primary = Some(instance.name.clone());
        state.leases.insert(instance.name.clone(), record);
        term
    }

    pub async fn order(&self, instance: &Instance, effect: Effect) -> Outcome {
        self.order_in(instance, effect, 30_000).await
    }

    pub async fn order_in(&self, instance: &Instance, effect: Effect, budget: u64) -> Outcome {
        let (_, material, _) = &self.voters[0];
        let peer = Identity::Guard(instance.name.clone());
        let channel = Dialer::new(material.clone())
            .channel(&peer, &format!("127.0.0.1:{}", instance.guard_port))
            .unwrap();
        let step = {
            let mut order = self.order.lock().unwrap();
            *order += 1;
            *order
        };
        let (epoch, index) = {
            let state = self.log.state.lock().unwrap();
            (Epoch(state.epoch), state.applied)
        };
        let order = Order {
            group: GroupName::new("orders").unwrap(),
            step: StepRef { run: RunId(1), step: u32::try_from(step).unwrap(), attempt: 1 },
            epoch,
            raft_term: 1,
            index,
            effect,
            verify_only: false,
            budget: Millis(budget),
        };
        let began = Instant::now();
        let text = order.effect.to_string();
        let client = GuardClient::new(self.mesh.clone(), channel);
        let outcome = client.execute(&order, Duration::from_millis(budget + 3000)).await.unwrap();
        println!("FIGURE order {text}: {:?} {outcome:?}", began.elapsed());
        outcome
    }

    /// An instance with an empty cluster, or a copy of another's data as its standby.
    pub fn instance(&self, name: &str, standby_of: Option<&Instance>) -> Instance {
        let instance = Instance::new(self, name);
        match standby_of {
            None => instance.initdb(),
            Some(primary) => instance.copy(primary),
        }
        instance
    }
}

fn material(dir: &Path, mesh: &MeshId, identity: &Identity) -> Material {
    let out = dir.join(identity.dns_name());
    let pair = ca::issue(&dir.join("ca"), identity, &[], &out).unwrap();
    for path in [&out, &pair.cert, &pair.key] {
        own(path);
    }
    let ca = &out.join("ca.crt");
    Material::load(Files { ca, cert: &pair.cert, key: &pair.key, crl: None }, mesh, identity).unwrap()
}

/// One instance with its guard.
pub struct Instance {
    pub name: InstanceName,
    pub home: PathBuf,
    pub port: u16,
    pub guard_port: u16,
    pub guard: Mutex<Option<Child>>,
}

impl Instance {
    fn new(world: &World, name: &str) -> Self {
        let home = world.dir.path().join(name);
        for dir in ["", "run"] {
            std::fs::create_dir_all(home.join(dir)).unwrap();
            own(&home.join(dir));
        }
        let passfile = home.join("pgpass");
        std::fs::write(&passfile, "*:*:*:mesh_repl:secret\n").unwrap();
        std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o600)).unwrap();
        own(&passfile);
        let instance = Self {
            name: InstanceName::new(name).unwrap(),
            home,
            port: port(),
            guard_port: port(),
            guard: Mutex::new(None),
        };
        let identity = Identity::Guard(instance.name.clone());
        drop(material(world.dir.path(), &world.mesh, &identity));
        std::fs::write(instance.home.join("mesh.toml"), instance.config(world, &identity)).unwrap();
        instance
    }

    fn config(&self, world: &World, identity: &Identity) -> String {
        let tls = world.dir.path().join(identity.dns_name());
        let mut text = "[mesh]\nid = \"shop\"\n".to_owned();
        for (at, (port, _, _)) in world.voters.iter().enumerate() {
            let id = at + 1;
            text += &format!(
                "[[mesh.voter]]\nid = {id}\nagent = \"v{id}\"\nsite = \"s{id}\"\naddress = \"127.0.0.1:{port}\"\n"
            );
        }
        text + &format!(
            "[agent]\nname = \"v1\"\nsite = \"s1\"\ndata_dir = \"/nowhere\"\nlisten = \"127.0.0.1:{}\"\n\
             socket = \"/nowhere/socket\"\n[tls]\nca = \"{tls}/ca.crt\"\ncert = \"/nowhere\"\nkey = \"/nowhere\"\n\
             [[instance]]\nname = \"{}\"\ngroup = \"orders\"\ndata_dir = \"{home}/data\"\nbin_dir = \"{}\"\n\
             port = {}\nsocket_dir = \"{home}/run\"\nreplication_user = \"mesh_repl\"\n\
             replication_passfile = \"{home}/pgpass\"\nguard_listen = \"127.0.0.1:{}\"\nstate_dir = \"{home}/guard\"\n\
             log_file = \"{home}/pg.log\"\ncert = \"{tls}/guard-{name}.crt\"\nkey = \"{tls}/guard-{name}.key\"\n",
            world.voters[0].0,
            self.name,
            bin_dir().display(),
            self.port,
            self.guard_port,
            name = self.name,
            tls = tls.display(),
            home = self.home.display(),
        )
    }

    pub fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    fn initdb(&self) {
        let data = self.data().display().to_string();
        run(&bin_dir().join("initdb"), &["-D", &data, "-U", "postgres", "-A", "trust", "--no-sync"]);
        let conf = self.data().join("postgresql.conf");
        let mut text = std::fs::read_to_string(&conf).unwrap();
        text += "wal_log_hints = on\nwal_keep_size = '64MB'\nshared_buffers = '16MB'\nlisten_addresses = '127.0.0.1'\n";
        std::fs::write(&conf, text).unwrap();
    }

    fn copy(&self, primary: &Instance) {
        let to = self.data().display().to_string();
        let from = format!("host=127.0.0.1 port={} user=postgres", primary.port);
        run(&bin_dir().join("pg_basebackup"), &["-D", &to, "-d", &from, "-c", "fast", "--no-sync", "-R"]);
        let auto = self.data().join("postgresql.auto.conf");
        let text = std::fs::read_to_string(&auto).unwrap();
        std::fs::write(
            &auto,
            text + &format!("primary_conninfo = 'host=127.0.0.1 port={} user=postgres'\n", primary.port),
        )
        .unwrap();
    }

    /// Starts the server as an operator would.
    pub fn start_by_hand(&self) {
        let options =
            format!("-c port={} -c unix_socket_directories={}", self.port, self.home.join("run").display());
        let (data, log) = (self.data().display().to_string(), self.home.join("pg.log").display().to_string());
        run(&bin_dir().join("pg_ctl"), &["-D", &data, "-l", &log, "-o", &options, "-w", "start"]);
    }

    pub fn psql(&self, sql: &str) -> Result<String, String> {
        let (host, port) = (self.home.join("run").display().to_string(), self.port.to_string());
        let mut command = Command::new(bin_dir().join("psql"));
        command.args(["-h", &host, "-p", &port, "-U", "postgres", "-XAtq", "-c", sql]);
        let output = as_database_user(&mut command).output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    pub fn start_guard(&self) {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.home.join("guard.log")).unwrap();
        let mut command = Command::new(MESH);
        command
            .args(["guard", "--config"])
            .arg(self.home.join("mesh.toml"))
            .args(["--instance", self.name.as_str()]);
        command.env("MESH_LOG", "info").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        *self.guard.lock().unwrap() = Some(as_database_user(&mut command).spawn().unwrap());
    }

    pub fn signal_guard(&self, signal: &str) {
        let pid = self.guard.lock().unwrap().as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub fn wait_guard(&self) -> Option<i32> {
        let began = Instant::now();
        let mut guard = self.guard.lock().unwrap();
        loop {
            if let Some(status) = guard.as_mut().unwrap().try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < SOON, "the guard does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn log(&self) -> String {
        let guard = std::fs::read_to_string(self.home.join("guard.log")).unwrap_or_default();
        let server = std::fs::read_to_string(self.home.join("pg.log")).unwrap_or_default();
        let tail: Vec<&str> = server.lines().rev().take(15).collect();
        format!("{guard}\n--- server\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }

    /// Processes of the server.
    pub fn processes(&self) -> Vec<i32> {
        let data = self.data();
        let numbers = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        numbers
            .filter(|pid: &i32| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == data))
            .collect()
    }

    /// Stops every process. The postmaster comes first, so that none is born meanwhile; one that has just ended by
    /// itself needs no stopping.
    pub fn freeze(&self) {
        let stop = |pid: &str| Command::new("kill").args(["-STOP", pid]).status().unwrap().success();
        assert!(stop(&self.postmaster()));
        for pid in self.processes() {
            assert!(stop(&pid.to_string()) || !std::path::Path::new(&format!("/proc/{pid}/stat")).exists());
        }
    }

    pub fn postmaster(&self) -> String {
        let text = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        text.lines().next().unwrap().to_owned()
    }

    /// Waits until nothing of the server is left.
    pub fn dead_within(&self, limit: Duration) -> Duration {
        let began = Instant::now();
        while !self.processes().is_empty() {
            assert!(
                began.elapsed() < limit,
                "still alive after {limit:?}: {:?}\n{}",
                self.processes(),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        began.elapsed()
    }

    pub fn marked_standby(&self) -> bool {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) {
            if self.data().join("standby.signal").exists() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(mut guard) = self.guard.lock().unwrap().take() {
            let _ = guard.kill();
            let _ = guard.wait();
        }
        for pid in self.processes() {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
    }
}
