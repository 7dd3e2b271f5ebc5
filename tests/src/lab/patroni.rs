//! The peer: Patroni with etcd behind the same HAProxy, on the same kind of hosts, for the same writer.
//!
//! Its settings are the shortest that Patroni allows (`ttl` 20 s is its minimum), so that it is seen at its best.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_postgres::Config;

use super::ground::{Ground, port};
use super::host::{Host, Terrain};
use super::process::{self, Process, must};
use super::wait::{Look, until};
use super::{cluster, postgres};

const SLOW: Duration = Duration::from_secs(90);
/// Patroni's own HTTP port.
const REST: u16 = 25008;
const ETCD: u16 = 25379;
const ETCD_PEER: u16 = 25380;

/// Patroni and etcd on three hosts, HAProxy on the third.
#[derive(Debug)]
pub struct Patroni {
    /// The hosts; the first one has the primary.
    pub hosts: Vec<Host>,
    programs: PathBuf,
    folder: PathBuf,
    processes: Vec<Process>,
    // Last: its drop ends what the others left.
    ground: Ground,
}

/// Where `tests/peers/patroni.sh` installs it: `MESH_PEERS`, else `/var/tmp/mesh-peers`.
#[must_use]
pub fn programs() -> PathBuf {
    let root =
        std::env::var_os("MESH_PEERS").map_or_else(|| PathBuf::from("/var/tmp/mesh-peers"), PathBuf::from);
    root.join("patroni/bin")
}

impl Patroni {
    /// Raises it, until both servers run and the route leads to the primary.
    ///
    /// # Errors
    /// When a part is not installed or does not come up.
    pub async fn raise() -> Result<Self> {
        let programs = programs();
        if !programs.join("patroni").exists() {
            bail!("there is no Patroni in {}; run tests/peers/patroni.sh first", programs.display());
        }
        let ground = Ground::take("patroni")?;
        let hosts = cluster::hosts(&ground, Terrain::Namespaces).await?;
        let folder = ground.folder("peer")?;
        let mut peer = Self { hosts, programs, folder, processes: Vec::new(), ground };
        peer.start_etcd()?;
        peer.start_patroni(0)?;
        peer.answers(0, "/primary").await?;
        peer.start_patroni(1)?;
        peer.answers(1, "/replica").await?;
        peer.start_haproxy().await?;
        peer.make_table().await?;
        Ok(peer)
    }

    /// How a client logs in through the route.
    #[must_use]
    pub fn client(&self) -> Config {
        let mut config = superuser();
        config.host(self.hosts[2].ip().to_string()).port(port::ROUTE);
        config
    }

    /// How a client on a server's own host logs in.
    #[must_use]
    pub fn local_client(&self, host: usize) -> Config {
        let mut config = superuser();
        config.host_path(self.socket(host)).port(port::POSTGRES);
        config
    }

    /// Number of a postmaster.
    ///
    /// # Errors
    /// When there is none.
    pub fn postmaster(&self, host: usize) -> Result<u32> {
        let lock = std::fs::read_to_string(self.data(host).join("postmaster.pid"))?;
        lock.lines()
            .next()
            .and_then(|line| line.trim().parse().ok())
            .context("the lock file names no process")
    }

    /// Asks for a planned switchover to the second host, and awaits the command's end.
    ///
    /// # Errors
    /// When `patronictl` refuses.
    pub async fn switchover(&self) -> Result<()> {
        let config = self.folder.join("pg1.yml").display().to_string();
        let args = ["-c", &config, "switchover", "lab", "--leader", "pg1", "--candidate", "pg2", "--force"];
        must(self.hosts[2].command(self.programs.join("patronictl"), args), SLOW).await.map(|_| ())
    }

    /// Processes of the peer itself, databases left out.
    #[must_use]
    pub fn pids(&self) -> Vec<(String, u32)> {
        self.processes.iter().map(|process| (process.name().to_owned(), process.pid())).collect()
    }

    fn start_etcd(&mut self) -> Result<()> {
        let member = |n: usize, host: &Host| format!("e{n}=http://{}:{ETCD_PEER}", host.ip());
        let members: Vec<String> = self.hosts.iter().enumerate().map(|(n, host)| member(n, host)).collect();
        for (n, host) in self.hosts.iter().enumerate() {
            let (clients, peers) =
                (format!("http://{}:{ETCD}", host.ip()), format!("http://{}:{ETCD_PEER}", host.ip()));
            let args = [
                "--name".to_owned(),
                format!("e{n}"),
                "--data-dir".to_owned(),
                self.folder.join(format!("etcd{n}")).display().to_string(),
                "--listen-client-urls".to_owned(),
                clients.clone(),
                "--advertise-client-urls".to_owned(),
                clients,
                "--listen-peer-urls".to_owned(),
                peers.clone(),
                "--initial-advertise-peer-urls".to_owned(),
                peers,
                "--initial-cluster-state".to_owned(),
                "new".to_owned(),
                "--initial-cluster".to_owned(),
                members.join(","),
            ];
            let name = format!("etcd{n}");
            self.processes.push(Process::start(&name, host.command("etcd", args), &self.ground.log(&name))?);
        }
        Ok(())
    }

    fn start_patroni(&mut self, n: usize) -> Result<()> {
        let host = &self.hosts[n];
        self.ground.folder(&format!("peer/s{n}"))?;
        let etcd: Vec<String> = self.hosts.iter().map(|host| format!("{}:{ETCD}", host.ip())).collect();
        let text = format!(
            "scope: lab\nname: pg{name}\n\
             restapi: {{listen: '{ip}:{REST}', connect_address: '{ip}:{REST}'}}\n\
             etcd3: {{hosts: '{etcd}'}}\n\
             bootstrap:\n  dcs:\n    ttl: 20\n    loop_wait: 1\n    retry_timeout: 3\n    primary_start_timeout: 0\n\
             \x20   maximum_lag_on_failover: 1048576\n\
             \x20   postgresql: {{use_pg_rewind: true, parameters: {{wal_log_hints: 'on', max_connections: 60, shared_buffers: 32MB, dynamic_shared_memory_type: mmap}}}}\n\
             \x20 initdb: [{{encoding: UTF8}}, {{locale: C.UTF-8}}, data-checksums]\n\
             \x20 pg_hba: ['host all all 0.0.0.0/0 trust', 'host replication all 0.0.0.0/0 trust', 'local all all trust']\n\
             postgresql:\n  listen: '{ip}:{port}'\n  connect_address: '{ip}:{port}'\n  data_dir: {data}\n  bin_dir: {bin}\n\
             \x20 authentication: {{replication: {{username: repl}}, superuser: {{username: postgres}}, rewind: {{username: postgres}}}}\n\
             \x20 pgpass: {pass}\n  parameters: {{unix_socket_directories: '{socket}'}}\n",
            name = n + 1,
            ip = host.ip(),
            etcd = etcd.join(","),
            port = port::POSTGRES,
            data = self.data(n).display(),
            bin = postgres::programs()?.display(),
            pass = self.folder.join(format!("pgpass{n}")).display(),
            socket = self.socket(n).display(),
        );
        let config = self.ground.file(&format!("peer/pg{}.yml", n + 1), &text)?.display().to_string();
        let name = format!("patroni{}", n + 1);
        let command = host.command(self.programs.join("patroni"), [config]);
        self.processes.push(Process::start(&name, command, &self.ground.log(&name))?);
        Ok(())
    }

    async fn start_haproxy(&mut self) -> Result<()> {
        let mut text = format!(
            "global\n  maxconn 500\ndefaults\n  mode tcp\n  option abortonclose\n  timeout connect 1s\n  timeout client 30m\n\
             \x20 timeout server 30m\n  retries 0\nlisten pg\n  bind {}:{}\n  option httpchk OPTIONS /primary\n\
             \x20 http-check expect status 200\n\
             \x20 default-server inter 200 fall 2 rise 1 on-marked-down shutdown-sessions\n",
            self.hosts[2].ip(),
            port::ROUTE
        );
        for (n, host) in self.hosts.iter().take(2).enumerate() {
            text.push_str(&format!(
                "  server pg{} {}:{} check port {REST}\n",
                n + 1,
                host.ip(),
                port::POSTGRES
            ));
        }
        let config = self.ground.file("peer/haproxy.cfg", &text)?.display().to_string();
        let command = self.hosts[2].command("haproxy", ["-db", "-f", &config]);
        self.processes.push(Process::start("haproxy", command, &self.ground.log("haproxy"))?);
        Ok(())
    }

    async fn make_table(&self) -> Result<()> {
        let config = self.client();
        let made = until("the route leads to the primary", SLOW, || async {
            let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
            let driver = tokio::spawn(connection);
            let sql = "CREATE TABLE IF NOT EXISTS lab (id bigint PRIMARY KEY, writer text NOT NULL)";
            let made = client.batch_execute(sql).await;
            driver.abort();
            made.map(Look::There).map_err(Into::into)
        })
        .await;
        made.with_context(|| self.evidence())
    }

    /// Waits until a server's HTTP endpoint answers 200.
    async fn answers(&self, host: usize, path: &str) -> Result<()> {
        let ip = self.hosts[host].ip();
        let waited = until(&format!("Patroni answers 200 to {path} on {ip}"), SLOW, || async {
            let mut socket = tokio::net::TcpStream::connect((ip, REST)).await?;
            socket.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await?;
            let first = answer.lines().next().unwrap_or_default().to_owned();
            Ok(if first.contains(" 200 ") { Look::There(()) } else { Look::NotYet(first) })
        })
        .await;
        waited.with_context(|| self.evidence())
    }

    fn evidence(&self) -> String {
        let logs = self.processes.iter().map(|p| format!("--- {}\n{}", p.name(), process::tail(p.log(), 8)));
        logs.collect::<Vec<_>>().join("\n")
    }

    fn data(&self, n: usize) -> PathBuf {
        self.folder.join(format!("data{n}"))
    }
    fn socket(&self, n: usize) -> PathBuf {
        Path::new(&self.folder).join(format!("s{n}"))
    }
}

fn superuser() -> Config {
    let mut config = Config::new();
    config.user("postgres").dbname("postgres");
    config
}
