//! Real PostgreSQL for the tests: a template cluster, copies of it as primary and standbys, writers, and figures.
//!
//! A missing PostgreSQL is a failure, never a skip. As root the servers run as the user `postgres`.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mesh_adapters::postgres::{
    Clients, Credentials, DirectControl, Instance, Postmaster, Settings, StandbyUpstream, StartAs,
    StartRequest, Started, Upstream, start,
};
use mesh_adapters::process::RunAs;
use std::os::unix::process::CommandExt;
use tokio_postgres::{Client, NoTls};

pub const LONG: Duration = Duration::from_secs(30);

pub fn soon(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

/// Figures are printed, not asserted: a loaded machine is slow, not wrong.
pub fn figure(name: &str, took: Duration) {
    println!("FIGURE {name}: {:.1} ms", took.as_secs_f64() * 1e3);
}

pub fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("MESH_PG_BIN") {
        return dir.into();
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is not installed: apt install postgresql");
    let mut dirs: Vec<PathBuf> = versions.map(|entry| entry.unwrap().path().join("bin")).collect();
    dirs.sort();
    let found = dirs.into_iter().rfind(|dir| dir.join("postgres").exists());
    found.expect("PostgreSQL's server is not installed: apt install postgresql")
}

pub fn run_as() -> Option<RunAs> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("postgres:")).expect("no user postgres");
    let fields: Vec<&str> = line.split(':').collect();
    Some(RunAs { uid: fields[2].parse().unwrap(), gid: fields[3].parse().unwrap() })
}

/// Runs a program as the database's user; it must succeed.
pub fn run(program: &Path, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(args).current_dir("/").env("LC_ALL", "C");
    if let Some(user) = run_as() {
        command.uid(user.uid).gid(user.gid);
    }
    let output = command.output().unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    assert!(output.status.success(), "{program:?} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn own(path: &Path) {
    if let Some(user) = run_as() {
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)).unwrap();
    }
}

/// Ports of this test process; 22000 to 22999 unless told otherwise.
pub fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = std::env::var("MESH_TEST_PORTS").map_or(22000, |text| text.parse().unwrap());
    let start = (std::process::id() % 40) as u16 * 25;
    loop {
        let port = base + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 1000;
        // Taken until this process ends, by its UDP side: another test may look for a port at the same moment.
        let Ok(taken) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) else { continue };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            std::mem::forget(taken);
            return port;
        }
    }
}

/// A directory that disappears with the test.
pub struct Lab {
    dir: tempfile::TempDir,
}

fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!(
            "mesh-pg-template-{}{}-v1",
            rustix::process::geteuid().as_raw(),
            bin_dir().display().to_string().replace('/', "_")
        ));
        if !dir.join("done").exists() {
            let fresh = tempfile::Builder::new().prefix("mesh-pg-initdb-").tempdir().unwrap();
            own(fresh.path());
            initdb(&fresh.path().join("data"));
            std::fs::write(fresh.path().join("done"), "").unwrap();
            // Another test process may have been faster; either template will do.
            if std::fs::rename(fresh.path(), &dir).is_ok() {
                let _moved = fresh.keep();
            }
        }
        dir
    })
}

pub fn initdb(data: &Path) {
    let args = [
        "-D",
        data.to_str().unwrap(),
        "-U",
        "postgres",
        "-A",
        "trust",
        "--no-sync",
        "-E",
        "UTF8",
        "--locale=C",
    ];
    run(&bin_dir().join("initdb"), &args);
}

impl Lab {
    pub fn new() -> Lab {
        let dir = tempfile::Builder::new().prefix("mesh-pg-").tempdir().unwrap();
        own(dir.path());
        Lab { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Settings of an instance whose data directory is not there yet.
    pub fn settings(&self, name: &str) -> Settings {
        let home = self.dir.path().join(name);
        for dir in ["", "state", "keep", "run"] {
            std::fs::create_dir_all(home.join(dir)).unwrap();
            own(&home.join(dir));
        }
        let trust = Credentials { user: "mesh_replication".into(), passfile: None };
        let options = [
            ("wal_log_hints", "on"),
            ("max_wal_senders", "10"),
            ("wal_keep_size", "256MB"),
            ("shared_buffers", "16MB"),
            ("log_checkpoints", "off"),
            ("wal_receiver_status_interval", "1s"),
        ];
        Settings {
            name: name.into(),
            data_dir: home.join("data"),
            bin_dir: bin_dir(),
            config_file: None,
            operator_hba: None,
            state_dir: home.join("state"),
            keep_dir: home.join("keep"),
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: port(),
            socket_dir: home.join("run"),
            superuser: "postgres".into(),
            database: "postgres".into(),
            run_as: run_as(),
            log_file: home.join("log"),
            options: options.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec(),
            replication: trust,
            probe: Credentials { user: "mesh_probe".into(), passfile: None },
            mesh_hba: vec![
                "local all postgres trust".into(),
                "local replication postgres trust".into(),
                "host replication mesh_replication all trust".into(),
                "host all mesh_replication all trust".into(),
                "host all mesh_probe all trust".into(),
            ],
            cgroup: None,
        }
    }

    /// An instance of the template cluster, not started. All of them are the same cluster at the same position.
    pub fn instance(&self, name: &str) -> Instance {
        self.instance_with(name, |_| {})
    }

    pub fn instance_with(&self, name: &str, change: impl FnOnce(&mut Settings)) -> Instance {
        let mut settings = self.settings(name);
        change(&mut settings);
        let source = template().join("data");
        let status = Command::new("cp").arg("-a").arg(&source).arg(&settings.data_dir).status().unwrap();
        assert!(status.success());
        Instance::open(settings).unwrap()
    }
}

pub fn request(start_as: StartAs) -> StartRequest {
    StartRequest { start_as, clients: Clients::LetIn, sync: None, system_identifier: None }
}

pub async fn start_primary(instance: &Instance) -> Started {
    start(instance, &DirectControl, &request(StartAs::Primary), soon(20)).await.unwrap()
}

pub fn upstream(primary: &Instance, name: &str) -> Upstream {
    Upstream::new(primary.address(), name.into()).unwrap()
}

pub async fn start_standby(instance: &Instance, primary: &Instance) -> Started {
    let follow = StandbyUpstream::Follow(upstream(primary, &instance.settings().name));
    start(instance, &DirectControl, &request(StartAs::Standby(follow)), soon(20)).await.unwrap()
}

/// A primary with roles and a table, and standbys that stream from it.
pub async fn group(lab: &Lab, standbys: &[&str]) -> (Instance, Postmaster, Vec<(Instance, Postmaster)>) {
    let primary = lab.instance("a");
    let started = start_primary(&primary).await;
    let sql = "CREATE ROLE mesh_replication LOGIN REPLICATION; CREATE ROLE mesh_probe LOGIN; \
               CREATE TABLE t (id bigserial PRIMARY KEY, body text); \
               GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean), \
               pg_read_binary_file(text), pg_read_binary_file(text, bigint, bigint, boolean) TO mesh_replication;";
    client(&primary).await.batch_execute(sql).await.unwrap();
    let mut all = Vec::new();
    for name in standbys {
        let standby = lab.instance(name);
        let postmaster = start_standby(&standby, &primary).await.postmaster;
        all.push((standby, postmaster));
    }
    let admin = client(&primary).await;
    eventually("standbys stream", async || {
        let row =
            admin.query_one("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'", &[]).await;
        row.unwrap().get::<_, i64>(0) == standbys.len() as i64
    })
    .await;
    (primary, started.postmaster, all)
}

pub async fn try_client(address: SocketAddr) -> Result<Client, tokio_postgres::Error> {
    let text = format!(
        "host={} port={} user=postgres dbname=postgres connect_timeout=2",
        address.ip(),
        address.port()
    );
    let (client, connection) = tokio_postgres::connect(&text, NoTls).await?;
    tokio::spawn(async move {
        let _ended = connection.await;
    });
    Ok(client)
}

pub async fn client(instance: &Instance) -> Client {
    try_client(instance.address()).await.unwrap()
}

pub async fn count(instance: &Instance) -> i64 {
    client(instance).await.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0)
}

pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = soon(20);
    while !check().await {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Writers that commit one row after another until their session breaks.
pub struct Writers {
    pub acknowledged: std::sync::Arc<AtomicU64>,
    pub last: std::sync::Arc<std::sync::Mutex<Option<Instant>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Writers {
    pub async fn start(instance: &Instance, number: usize) -> Writers {
        let acknowledged = std::sync::Arc::new(AtomicU64::new(0));
        let last = std::sync::Arc::new(std::sync::Mutex::new(None));
        let mut tasks = Vec::new();
        for _ in 0..number {
            let client = client(instance).await;
            let insert = client.prepare("INSERT INTO t (body) VALUES ('w')").await.unwrap();
            let (acknowledged, last) = (acknowledged.clone(), last.clone());
            tasks.push(tokio::spawn(async move {
                while client.execute(&insert, &[]).await.is_ok() {
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                    *last.lock().unwrap() = Some(Instant::now());
                }
            }));
        }
        let writers = Writers { acknowledged, last, tasks };
        let seen = writers.acknowledged.clone();
        eventually("writers write", async || seen.load(Ordering::SeqCst) > 20).await;
        writers
    }

    pub fn count(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
