//! A host: an address, a place where processes run, and the ways to lose it.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use tokio::process::Command;

use super::clock::{Beside, Clock};
use super::ground::{Ground, MARK, User};
use super::net::{self, Cut, Network};
use super::process::send;

/// Where the hosts of a lab are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terrain {
    /// Loopback addresses of this host: no root needed, no partitions possible.
    Loopback,
    /// Network namespaces.
    Namespaces,
}

/// One host.
#[derive(Debug, Clone)]
pub struct Host {
    name: String,
    ip: Ipv4Addr,
    namespace: Option<String>,
    lab: PathBuf,
    user: Option<User>,
    clock: Option<Clock>,
}

impl Host {
    /// A host on the `n`-th loopback address.
    #[must_use]
    pub fn on_loopback(ground: &Ground, name: &str, n: u8) -> Self {
        Self {
            name: name.to_owned(),
            ip: ground.loopback(n),
            namespace: None,
            lab: ground.dir().to_owned(),
            user: ground.user().cloned(),
            clock: None,
        }
    }

    /// A host in a network namespace of its own.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn in_namespace(ground: &Ground, network: &mut Network, name: &str, n: u8) -> Result<Self> {
        let namespace = network.add(ground, n).await?;
        let ip = network.address(n);
        Ok(Self { ip, namespace: Some(namespace), ..Self::on_loopback(ground, name, n) })
    }

    /// Gives it a wall clock of its own, for what is started from now on.
    ///
    /// # Errors
    /// As [`Clock::of`].
    pub fn give_clock(&mut self, ground: &Ground, library: &std::path::Path) -> Result<()> {
        self.clock = Some(Clock::of(ground, library, &self.name)?);
        Ok(())
    }

    /// Steps its wall clock.
    ///
    /// # Errors
    /// Where it has none of its own.
    pub fn set_clock(&self, beside: Beside) -> Result<()> {
        let clock = self.clock.as_ref();
        clock.with_context(|| format!("{} runs by the machine's clock", self.name))?.set(beside)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Its address.
    #[must_use]
    pub const fn ip(&self) -> Ipv4Addr {
        self.ip
    }
    /// The addresses that connections of the lab's hosts come from, as PostgreSQL writes networks. On loopback the
    /// system takes 127.0.0.1 as the source, whichever address is called.
    #[must_use]
    pub fn network(&self) -> String {
        let [a, b, c, _] = self.ip.octets();
        if self.ip.is_loopback() { "127.0.0.0/8".to_owned() } else { format!("{a}.{b}.{c}.0/24") }
    }

    /// A command that runs on this host under the services' account. Each wrapper replaces itself, so the process
    /// keeps its number.
    pub fn command<S: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        self.wrapped(&[], program.as_ref(), args)
    }

    /// The same for a guard: with the limits that its systemd unit gives it, where the lab is raised by root.
    pub fn guard_command<S: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        self.wrapped(if self.user.is_some() { limits() } else { &[] }, program.as_ref(), args)
    }

    fn wrapped<S: AsRef<OsStr>>(
        &self,
        limits: &[&'static str],
        program: &OsStr,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut words: Vec<&OsStr> = Vec::new();
        if let Some(namespace) = &self.namespace {
            words.extend(["ip", "netns", "exec", namespace].map(OsStr::new));
        }
        words.extend(limits.iter().map(OsStr::new));
        let (uid, gid);
        if let Some(user) = &self.user {
            uid = format!("--reuid={}", user.uid);
            gid = format!("--regid={}", user.gid);
            words.extend(["setpriv", &uid, &gid, "--init-groups"].map(OsStr::new));
        }
        let by_clock = self.clock.as_ref().map(Clock::words);
        words.extend(by_clock.iter().flatten().map(OsStr::new));
        words.push(program);
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .args(args)
            .env(MARK, &self.lab)
            .env("LC_ALL", "C.UTF-8")
            .current_dir(&self.lab);
        for inherited in ["PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGPASSFILE"] {
            command.env_remove(inherited);
        }
        command
    }

    /// Kills every process of the host at once, as a loss of power would.
    ///
    /// # Errors
    /// On loopback, where a host has no bounds; and when something survives for 5 s.
    pub async fn crash(&self) -> Result<()> {
        let namespace = self.bounds()?;
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let pids = net::pids(namespace).await?;
            if pids.is_empty() {
                return Ok(());
            }
            for pid in pids {
                send(pid, Signal::KILL)?;
            }
            if Instant::now() > end {
                bail!("processes of {} survive SIGKILL", self.name);
            }
        }
    }

    /// Lets everything on the host that was stopped go on.
    ///
    /// # Errors
    /// On loopback, and when a process refuses the signal.
    pub async fn thaw(&self) -> Result<()> {
        for pid in net::pids(self.bounds()?).await? {
            send(pid, Signal::CONT)?;
        }
        Ok(())
    }

    /// Cuts the host off from everyone.
    ///
    /// # Errors
    /// On loopback, or when nftables refuses.
    pub async fn isolate(&self, cut: Cut) -> Result<()> {
        net::cut(self.bounds()?, cut, &[]).await
    }

    /// Cuts the host off from some peers.
    ///
    /// # Errors
    /// On loopback, or when nftables refuses.
    pub async fn isolate_from(&self, cut: Cut, peers: &[Ipv4Addr]) -> Result<()> {
        net::cut(self.bounds()?, cut, peers).await
    }

    /// Adds rules to the host's packet filter (table `inet lab`, chains `in` and `out`); [`Self::heal`] removes them.
    ///
    /// # Errors
    /// On loopback, or when nftables refuses.
    pub async fn filter(&self, rules: &str) -> Result<()> {
        net::filter(self.bounds()?, rules).await
    }

    /// Ends all cuts.
    ///
    /// # Errors
    /// On loopback, or when nftables refuses.
    pub async fn heal(&self) -> Result<()> {
        net::heal(self.bounds()?).await
    }

    fn bounds(&self) -> Result<&str> {
        let name = &self.name;
        self.namespace.as_deref().with_context(|| {
            format!("{name} is on loopback: only a namespace can be cut off or lost as a whole")
        })
    }
}

/// The limits of a guard's unit, as far as this machine lets root raise them: containers and small virtual machines
/// often do not. What is missing, `mesh status` says.
fn limits() -> &'static [&'static str] {
    static ALLOWED: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
        let wanted = ["--rtprio=10:10", "--memlock=unlimited:unlimited"];
        let allowed = wanted.into_iter().filter(|limit| {
            let tried =
                std::process::Command::new("prlimit").args([limit, "true"]).stderr(Stdio::null()).status();
            tried.is_ok_and(|status| status.success())
        });
        let allowed: Vec<&str> = allowed.collect();
        if allowed.is_empty() { allowed } else { [&["prlimit"][..], &allowed[..], &["--"]].concat() }
    });
    &ALLOWED
}
