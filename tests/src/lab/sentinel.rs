//! The peer of Redis: two servers and three Sentinels on the same kind of hosts, and a client that asks the Sentinels.
//!
//! `down-after-milliseconds` is 1 s and `failover-timeout` 5 s, as teams that care set it; the defaults are 30 s and 3 min.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::cluster::{self, DR, EAST};
use super::ground::{Ground, port};
use super::host::{Host, Terrain};
use super::process::Process;
use super::wait::{Look, until};

const SOON: Duration = Duration::from_secs(20);
/// A Sentinel that does not answer for this long is passed over.
const ASK_WITHIN: Duration = Duration::from_millis(300);
const PORT: u16 = 25380;

/// Servers and Sentinels.
#[derive(Debug)]
pub struct Sentinels {
    /// The hosts; the first one has the primary.
    pub hosts: Vec<Host>,
    /// The primary's process.
    pub primary: Process,
    _processes: Vec<Process>,
    // Last: its drop ends what the others left.
    _ground: Ground,
}

impl Sentinels {
    /// Raises it, until every Sentinel knows the others and the replica.
    ///
    /// # Errors
    /// When a part is not installed or does not come up.
    pub async fn raise() -> Result<Self> {
        let ground = Ground::take("sentinel")?;
        let hosts = cluster::hosts(&ground, Terrain::Namespaces).await?;
        let first = hosts[EAST].ip();
        let mut servers = Vec::new();
        for (n, host) in hosts.iter().enumerate().take(2) {
            let name = format!("peer-redis-{}", host.name());
            let folder = ground.folder(&name)?;
            let mut text = format!(
                "bind {}\nport {}\nprotected-mode no\ndir {}\nsave \"\"\nrepl-diskless-sync-delay 0\n",
                host.ip(),
                port::REDIS,
                folder.display()
            );
            if n != EAST {
                text.push_str(&format!("replicaof {first} {}\n", port::REDIS));
            }
            let file = ground.file(&format!("{name}/redis.conf"), &text)?.display().to_string();
            let started = Process::start(&name, host.command("redis-server", [&file]), &ground.log(&name));
            servers.push(started.context("Redis is missing (`make deps` installs it)")?);
        }
        let mut processes = servers.split_off(1);
        let primary = servers.pop().context("there is no first server")?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        for host in &hosts {
            let name = format!("sentinel-{}", host.name());
            let text = format!(
                "port {PORT}\nbind {}\nprotected-mode no\ndir {}\nsentinel monitor lab {first} {} 2\n\
                 sentinel down-after-milliseconds lab 1000\nsentinel failover-timeout lab 5000\n",
                host.ip(),
                ground.folder(&name)?.display(),
                port::REDIS
            );
            let file = ground.file(&format!("{name}/sentinel.conf"), &text)?.display().to_string();
            let started = Process::start(&name, host.command("redis-sentinel", [&file]), &ground.log(&name));
            processes.push(started.context("Sentinel is missing (`make deps` installs it)")?);
        }
        let peer = Self { hosts, primary, _processes: processes, _ground: ground };
        peer.ready().await?;
        Ok(peer)
    }

    async fn ready(&self) -> Result<()> {
        until("every Sentinel knows the others and the replica", SOON, || async {
            for sentinel in self.sentinels() {
                let said = ask(sentinel, "SENTINEL master lab\r\n", "num-other-sentinels").await?;
                if !(said.contains("num-other-sentinels\r\n$1\r\n2")
                    && said.contains("num-slaves\r\n$1\r\n1"))
                {
                    return Ok(Look::NotYet(said));
                }
            }
            Ok(Look::There(()))
        })
        .await
    }

    /// Where the Sentinels are asked, those that survive the first site first.
    #[must_use]
    pub fn sentinels(&self) -> Vec<SocketAddr> {
        self.hosts.iter().rev().map(|host| SocketAddr::new(host.ip().into(), PORT)).collect()
    }

    /// The address of a server.
    #[must_use]
    pub fn server(&self, host: usize) -> SocketAddr {
        SocketAddr::new(self.hosts[host].ip().into(), port::REDIS)
    }

    /// Asks for a planned failover, as the only way that Sentinel has.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn failover(&self) -> Result<()> {
        let sentinel = SocketAddr::new(self.hosts[DR].ip().into(), PORT);
        let said = ask(sentinel, "SENTINEL FAILOVER lab\r\n", "\r\n").await?;
        if said.starts_with("+OK") { Ok(()) } else { bail!("Sentinel refused the failover: {said}") }
    }
}

/// Where the primary is, by the first Sentinel that answers.
///
/// # Errors
/// When none does.
pub async fn primary(sentinels: &[SocketAddr]) -> Result<SocketAddr> {
    let mut why = None;
    for sentinel in sentinels {
        match ask(*sentinel, "SENTINEL GET-MASTER-ADDR-BY-NAME lab\r\n", "\r\n").await {
            Ok(said) => {
                // *2, then length and text of the address, then of the port.
                let lines: Vec<_> = said.lines().collect();
                if let [_, _, ip, _, port, ..] = lines.as_slice() {
                    return Ok(SocketAddr::new(ip.parse()?, port.parse()?));
                }
                why = Some(anyhow::anyhow!("a Sentinel says {said:?}"));
            }
            Err(error) => why = Some(error),
        }
    }
    Err(why.unwrap_or_else(|| anyhow::anyhow!("there are no Sentinels")))
}

/// Asks one question; the answer is whole once it has these words and ends a line.
async fn ask(sentinel: SocketAddr, question: &str, until: &str) -> Result<String> {
    let talk = async {
        let mut stream = TcpStream::connect(sentinel).await?;
        stream.write_all(question.as_bytes()).await?;
        let (mut said, mut chunk) = (String::new(), [0; 8192]);
        let fields = if question.contains("GET-MASTER") { 5 } else { 1 };
        loop {
            let length = stream.read(&mut chunk).await?;
            said.push_str(&String::from_utf8_lossy(&chunk[..length]));
            let whole = said.contains(until) && said.ends_with("\r\n") && said.lines().count() >= fields;
            if length == 0 || whole {
                return anyhow::Ok(said);
            }
        }
    };
    tokio::time::timeout(ASK_WITHIN, talk).await.context("a Sentinel does not answer")?
}
