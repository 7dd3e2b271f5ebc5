//! Hosts as network namespaces on one bridge, with packet filters for partitions. Needs root, iproute2 and nftables.
//!
//! It never touches a namespace or an interface that it did not make; the reaper removes them by the names written
//! down before they were made.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::ground::{Ground, is_root};
use super::process::{command, must, run};

const SOON: Duration = Duration::from_secs(10);

/// The network of one lab: a bridge, and a namespace for each host.
#[derive(Debug)]
pub struct Network {
    tag: u8,
    bridge: String,
    namespaces: Vec<String>,
}

impl Network {
    /// Makes the bridge; the caller's own end of it has address 254.
    ///
    /// # Errors
    /// Without root, or when iproute2 refuses.
    pub async fn raise(ground: &Ground) -> Result<Self> {
        if !is_root() {
            bail!("hosts as network namespaces need root; run the lab as root, or on loopback addresses");
        }
        let tag = ground.loopback(0).octets()[2];
        let bridge = format!("mlab{tag}");
        std::fs::write(ground.dir().join("bridge"), format!("{bridge}\n"))?;
        std::fs::write(ground.dir().join("namespaces"), "")?;
        // Left over only when owner and reaper were both killed.
        run(command("ip", ["link", "del", &bridge]), SOON).await?;
        ip(&["link", "add", &bridge, "type", "bridge"]).await?;
        ip(&["link", "set", &bridge, "up"]).await?;
        let network = Self { tag, bridge, namespaces: Vec::new() };
        ip(&["addr", "add", &format!("{}/24", network.address(254)), "dev", &network.bridge]).await?;
        Ok(network)
    }

    /// The `n`-th address.
    #[must_use]
    pub const fn address(&self, n: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.tag, n)
    }

    /// Makes a host; its namespace's name.
    ///
    /// # Errors
    /// When iproute2 or nftables refuses.
    pub async fn add(&mut self, ground: &Ground, n: u8) -> Result<String> {
        let name = format!("mlab{}-{n}", self.tag);
        let port = format!("mlab{}v{n}", self.tag);
        self.namespaces.push(name.clone());
        std::fs::write(ground.dir().join("namespaces"), self.namespaces.join("\n") + "\n")?;
        run(command("ip", ["link", "del", &port]), SOON).await?;
        run(command("ip", ["netns", "del", &name]), SOON).await?;
        ip(&["netns", "add", &name]).await?;
        ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name]).await?;
        ip(&["link", "set", &port, "master", &self.bridge, "up"]).await?;
        ip(&["-n", &name, "addr", "add", &format!("{}/24", self.address(n)), "dev", "eth0"]).await?;
        ip(&["-n", &name, "link", "set", "eth0", "up"]).await?;
        ip(&["-n", &name, "link", "set", "lo", "up"]).await?;
        let filter = "add table inet lab; \
            add chain inet lab in { type filter hook input priority 0; }; \
            add chain inet lab out { type filter hook output priority 0; }";
        self::filter(&name, filter).await?;
        Ok(name)
    }
}

/// What a host no longer hears or says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Nothing comes in and nothing goes out.
    Both,
    /// It hears nothing.
    Incoming,
    /// Nobody hears it.
    Outgoing,
}

/// Cuts a host off from everyone, or from some peers.
///
/// # Errors
/// When nftables refuses.
pub async fn cut(namespace: &str, cut: Cut, peers: &[Ipv4Addr]) -> Result<()> {
    let from = peers.iter().map(|ip| format!("add rule inet lab in ip saddr {ip} drop")).collect();
    let to = peers.iter().map(|ip| format!("add rule inet lab out ip daddr {ip} drop")).collect();
    let everyone: (Vec<String>, Vec<String>) = (
        vec!["add rule inet lab in iifname eth0 drop".to_owned()],
        vec!["add rule inet lab out oifname eth0 drop".to_owned()],
    );
    let (incoming, outgoing) = if peers.is_empty() { everyone } else { (from, to) };
    let rules = match cut {
        Cut::Both => [incoming, outgoing].concat(),
        Cut::Incoming => incoming,
        Cut::Outgoing => outgoing,
    };
    filter(namespace, &rules.join("; ")).await
}

/// Ends all cuts of a host.
///
/// # Errors
/// When nftables refuses.
pub async fn heal(namespace: &str) -> Result<()> {
    filter(namespace, "flush chain inet lab in; flush chain inet lab out").await
}

/// The processes of a namespace.
///
/// # Errors
/// When iproute2 refuses.
pub async fn pids(namespace: &str) -> Result<Vec<u32>> {
    let said = must(command("ip", ["netns", "pids", namespace]), SOON).await?;
    said.out.split_whitespace().map(|pid| pid.parse().context("not a process number")).collect()
}

async fn ip(args: &[&str]) -> Result<()> {
    must(command("ip", args), SOON).await.map(|_| ())
}

/// Adds rules to a host's packet filter.
///
/// # Errors
/// When nftables refuses.
pub async fn filter(namespace: &str, rules: &str) -> Result<()> {
    must(command("ip", ["netns", "exec", namespace, "nft", rules]), SOON).await.map(|_| ())
}
