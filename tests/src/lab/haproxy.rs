//! HAProxy, the route: as an operator would have set it up, in one of two ways.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::ground::{Ground, port};
use super::host::Host;
use super::mesh::{CACHE_ROUTE, ROUTE};
use super::process::{Process, must};
use super::routes::RouteLines;
use super::wait::{Look, until};

/// The backend's name.
pub const BACKEND: &str = "pg";
/// The backend of Redis beside PostgreSQL.
pub const CACHE_BACKEND: &str = "redis";
const SOON: Duration = Duration::from_secs(5);

/// How HAProxy learns who the primary is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follows {
    /// Mesh tells it, through the runtime API.
    RuntimeApi,
    /// It asks the agents' HTTP endpoint `/primary`, every 200 ms.
    HttpCheck,
}

/// A server of the backend.
#[derive(Debug, Clone)]
pub struct Backend {
    /// Name: the instance's.
    pub name: String,
    /// Address.
    pub ip: Ipv4Addr,
    /// Port.
    pub port: u16,
    /// Whether it serves at the start (runtime API only).
    pub enabled: bool,
}

/// A running HAProxy.
#[derive(Debug)]
pub struct Haproxy {
    /// Where clients connect.
    pub ip: Ipv4Addr,
    /// Its admin socket.
    pub admin: PathBuf,
    /// The process.
    pub process: Process,
    host: Host,
    config: String,
    log: PathBuf,
}

impl Haproxy {
    /// Writes the configuration and starts it.
    ///
    /// # Errors
    /// When HAProxy is not installed, refuses its configuration, or does not come up.
    pub async fn start(ground: &Ground, host: &Host, follows: Follows, servers: &[Backend]) -> Result<Self> {
        Self::start_with(ground, host, follows, servers, &[]).await
    }

    /// The same, with a backend of Redis servers, if there are any.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(
        ground: &Ground,
        host: &Host,
        follows: Follows,
        servers: &[Backend],
        caches: &[Backend],
    ) -> Result<Self> {
        let folder = ground.folder("haproxy")?;
        let admin = folder.join("admin.sock");
        let config =
            ground.file("haproxy/haproxy.cfg", &config(host.ip(), &admin, follows, servers, caches))?;
        let log = ground.log("haproxy");
        let path = config.display().to_string();
        must(host.command("haproxy", ["-c", "-q", "-f", &path]), SOON)
            .await
            .context("HAProxy refuses its configuration, or is missing (`make deps` installs it)")?;
        let process = Process::start("haproxy", host.command("haproxy", ["-db", "-f", &path]), &log)?;
        let started = Self { ip: host.ip(), admin, process, host: host.clone(), config: path, log };
        started.answers().await?;
        Ok(started)
    }

    /// Kills it and starts it again: what it was told through its socket is forgotten.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill().await?;
        let command = self.host.command("haproxy", ["-db", "-f", &self.config]);
        self.process = Process::start("haproxy", command, &self.log)?;
        self.answers().await
    }

    async fn answers(&self) -> Result<()> {
        until("HAProxy answers on its admin socket", SOON, || async {
            self.tell("show info").await.map(Look::There)
        })
        .await
        .map(|_| ())
    }

    /// What agent and group are told of it.
    #[must_use]
    pub fn lines(&self) -> RouteLines {
        self.lines_of(ROUTE, BACKEND, port::ROUTE)
    }

    /// The same of the backend of Redis.
    #[must_use]
    pub fn cache_lines(&self) -> RouteLines {
        self.lines_of(CACHE_ROUTE, CACHE_BACKEND, port::CACHE)
    }

    fn lines_of(&self, route: &str, backend: &str, port: u16) -> RouteLines {
        let (ip, socket) = (self.ip, self.admin.display());
        RouteLines {
            ip,
            held: format!("[[haproxy]]\nbackend = \"{backend}\"\nsocket = \"{socket}\"\n"),
            spec: format!(
                "name = \"{route}\"\nkind = \"haproxy\"\nbackend = \"{backend}\"\nlisten = \"{ip}:{port}\"\n"
            ),
        }
    }

    /// Says a word to the admin socket, as an operator would, and returns the answer.
    ///
    /// # Errors
    /// When the socket does not answer within 5 s.
    pub async fn tell(&self, words: &str) -> Result<String> {
        let talk = async {
            let mut socket = tokio::net::UnixStream::connect(&self.admin).await?;
            socket.write_all(format!("{words}\n").as_bytes()).await?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await?;
            anyhow::Ok(answer)
        };
        tokio::time::timeout(SOON, talk).await.context("HAProxy does not answer")?
    }

    /// Leads the backend from one server to another by hand: what mesh is measured against.
    ///
    /// # Errors
    /// When the socket does not answer.
    pub async fn lead(&self, from: &str, to: &str) -> Result<()> {
        let words = format!(
            "set server {BACKEND}/{from} state maint; shutdown sessions server {BACKEND}/{from}; \
             set server {BACKEND}/{to} state ready"
        );
        self.tell(&words).await.map(|_| ())
    }
}

fn config(ip: Ipv4Addr, admin: &Path, follows: Follows, servers: &[Backend], caches: &[Backend]) -> String {
    let mut text = format!(
        "global\n  maxconn 500\n  stats socket {} mode 660 level admin\n\
         defaults\n  mode tcp\n  option abortonclose\n  timeout connect 1s\n  timeout client 30m\n  timeout server 30m\n  retries 0\n\
         listen {BACKEND}\n  bind {ip}:{}\n",
        admin.display(),
        port::ROUTE
    );
    if follows == Follows::HttpCheck {
        text.push_str(&format!(
            "  option httpchk GET /primary\n  http-check expect status 200\n\
             \x20 default-server check port {} inter 200ms fall 2 rise 1 on-marked-down shutdown-sessions\n",
            port::HTTP
        ));
    }
    let line = |told: bool, Backend { name, ip, port, enabled }: &Backend| {
        let state = if told && !enabled { " disabled" } else { "" };
        format!("  server {name} {ip}:{port}{state}\n")
    };
    text.extend(servers.iter().map(|server| line(follows == Follows::RuntimeApi, server)));
    if !caches.is_empty() {
        text.push_str(&format!("listen {CACHE_BACKEND}\n  bind {ip}:{}\n", port::CACHE));
        text.extend(caches.iter().map(|server| line(true, server)));
    }
    text
}
