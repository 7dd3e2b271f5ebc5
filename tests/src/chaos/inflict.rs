//! Doing it and undoing it, on real hosts and processes. What a fault needs to be undone is looked for when everything is mended,
//! so that any two faults can be on at once.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use rustix::process::{Signal, pidfd_send_signal};
use tokio::task::JoinHandle;

use super::fault::{Blow, Fault, Where};
use crate::lab::clock::Beside;
use crate::lab::cluster::{Cluster, WITNESS};
use crate::lab::disk::Disk;
use crate::lab::ground::port;
use crate::lab::net::Cut;
use crate::lab::process::{self, Process};

/// Busy threads of [`Fault::Load`]: enough that everybody waits for a processor.
const BUSY: usize = 8;
/// How long a flapping link is down, and up.
const FLAPS: [Duration; 2] = [Duration::from_millis(250), Duration::from_millis(350)];
/// How long who is starved runs, and then does not.
const PORTIONS: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(180)];
/// How far a wall clock is stepped.
const HOUR: Duration = Duration::from_secs(60 * 60);

/// An agent answers within this long, or is stopped.
const ANSWER: Duration = Duration::from_secs(2);

/// What goes on until it is stopped.
#[derive(Debug, Default)]
pub struct Inflicted {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    threads: Vec<std::thread::JoinHandle<()>>,
    /// Nodes whose disk hangs.
    hung: Vec<usize>,
}

impl Inflicted {
    /// Does it; where. `primary` is the node of the primary when the round began.
    ///
    /// # Errors
    /// When the lab cannot do it; that something is not there any more is no error.
    pub async fn inflict(&mut self, cluster: &mut Cluster, blow: &Blow, primary: usize) -> Result<usize> {
        let node = place(cluster, blow, primary);
        match blow.fault {
            Fault::PostmasterKill => signal_postmaster(cluster, node, Signal::KILL)?,
            Fault::PostmasterStop => signal_postmaster(cluster, node, Signal::STOP)?,
            Fault::ServerFreeze => {
                // A server that is down has nothing to be frozen.
                if cluster.servers[node].is_running() {
                    cluster.servers[node].signal_all(Signal::STOP)?;
                }
            }
            Fault::AgentKill => kill(&mut cluster.nodes[node].agent).await?,
            Fault::AgentStop => stop(&mut cluster.nodes[node].agent)?,
            Fault::GuardKill => kill(&mut cluster.nodes[node].guard).await?,
            Fault::GuardStop => stop(&mut cluster.nodes[node].guard)?,
            Fault::AgentAndGuardKill => {
                kill(&mut cluster.nodes[node].agent).await?;
                kill(&mut cluster.nodes[node].guard).await?;
            }
            Fault::AgentAndGuardStop => {
                stop(&mut cluster.nodes[node].agent)?;
                stop(&mut cluster.nodes[node].guard)?;
            }
            Fault::HostLost => {
                // The disk of a host that is gone keeps nobody waiting, and processes that wait cannot be killed.
                self.disks_go_on(cluster, |at| at == node).await?;
                cluster.lose(node).await?;
            }
            Fault::Partition => cluster.nodes[node].host.isolate(Cut::Both).await?,
            Fault::Deaf => cluster.nodes[node].host.isolate(Cut::Incoming).await?,
            Fault::Mute => cluster.nodes[node].host.isolate(Cut::Outgoing).await?,
            Fault::StandbyCut => cut_standbys(cluster, node).await?,
            Fault::MeshCut => cut_mesh(cluster, node).await?,
            Fault::Flapping => self.flap(cluster, node),
            Fault::Load => self.load(),
            Fault::Starved => self.starve(cluster, node)?,
            Fault::ClockForward => cluster.nodes[node].host.set_clock(Beside::Ahead(HOUR))?,
            Fault::ClockBack => cluster.nodes[node].host.set_clock(Beside::Behind(HOUR))?,
            Fault::DiskFull => {
                if let Some(disk) = self.sound_disk(cluster, node) {
                    disk.fill()?;
                }
            }
            Fault::DiskHang => {
                if let Some(disk) = self.sound_disk(cluster, node) {
                    disk.hang().await?;
                    self.hung.push(node);
                }
            }
            Fault::ArchiveHang => {
                if let Some(sign) = cluster.servers[node].archive_hangs() {
                    std::fs::write(sign, "")?;
                }
            }
            Fault::Switchover => ask_for_switchover(cluster, node).await?,
            Fault::LeaderKill => {
                // Nobody may be leading, or nobody may say who does; and an agent that is stopped does not answer.
                if let Ok(Ok(leader)) = tokio::time::timeout(ANSWER, cluster.leader()).await {
                    kill(&mut cluster.nodes[leader].agent).await?;
                    return Ok(leader);
                }
            }
        }
        Ok(node)
    }

    /// Undoes everything: what is stopped goes on, every link is whole, every agent and guard runs.
    ///
    /// # Errors
    /// When the lab cannot do it.
    pub async fn mend(&mut self, cluster: &mut Cluster) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.disks_go_on(cluster, |_| true).await?;
        for server in &cluster.servers {
            server.disk.as_ref().map_or(Ok(()), Disk::free)?;
            if let Some(sign) = server.archive_hangs().filter(|sign| sign.exists()) {
                std::fs::remove_file(sign)?;
            }
        }
        for task in self.tasks.drain(..) {
            task.await?;
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                anyhow::bail!("a busy thread panicked");
            }
        }
        for node in &cluster.nodes {
            node.host.set_clock(Beside::Not)?;
            node.host.heal().await?;
            node.host.thaw().await?;
        }
        for node in 0..cluster.nodes.len() {
            if !runs(&mut cluster.nodes[node].agent)? {
                cluster.start_agent(node)?;
            }
            if !runs(&mut cluster.nodes[node].guard)? {
                cluster.start_guard(node)?;
            }
        }
        Ok(())
    }

    /// The disk of a node, unless it hangs: who touches it then waits as well.
    fn sound_disk<'a>(&self, cluster: &'a Cluster, node: usize) -> Option<&'a Disk> {
        cluster.servers[node].disk.as_ref().filter(|_| !self.hung.contains(&node))
    }

    async fn disks_go_on(&mut self, cluster: &Cluster, which: impl Fn(usize) -> bool) -> Result<()> {
        for node in self.hung.extract_if(.., |node| which(*node)) {
            if let Some(disk) = &cluster.servers[node].disk {
                disk.go_on().await?;
            }
        }
        Ok(())
    }

    fn flap(&mut self, cluster: &Cluster, node: usize) {
        let (host, stop) = (cluster.nodes[node].host.clone(), Arc::clone(&self.stop));
        self.tasks.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                // Mending heals once more, and says when it cannot.
                drop(host.isolate(Cut::Both).await);
                tokio::time::sleep(FLAPS[0]).await;
                drop(host.heal().await);
                tokio::time::sleep(FLAPS[1]).await;
            }
        }));
    }

    /// What the kernel does to a group of processes whose quota is used up, by signals: not every kernel has such quotas.
    fn starve(&mut self, cluster: &Cluster, node: usize) -> Result<()> {
        let node = &cluster.nodes[node];
        let starved: Vec<OwnedFd> = [&node.agent, &node.guard]
            .into_iter()
            .flatten()
            .map(|process| process::handle(process.pid()))
            .collect::<Result<_>>()?;
        let stop = Arc::clone(&self.stop);
        self.tasks.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                for (signal, length) in [Signal::CONT, Signal::STOP].into_iter().zip(PORTIONS) {
                    for one in &starved {
                        // One that died meanwhile needs nothing; mending lets everything on the host go on.
                        let _gone = pidfd_send_signal(one, signal);
                    }
                    tokio::time::sleep(length).await;
                }
            }
        }));
        Ok(())
    }

    fn load(&mut self) {
        for _ in 0..BUSY {
            let stop = Arc::clone(&self.stop);
            self.threads.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            }));
        }
    }
}

/// The node that is meant. The clients' route stands on the witness: what takes the host comes to another one.
fn place(cluster: &Cluster, blow: &Blow, primary: usize) -> usize {
    let count = cluster.servers.len();
    let node = match blow.at {
        Where::Primary => primary,
        Where::Next => (primary + 1) % count,
        Where::Other => (primary + 2) % count,
    };
    if node == WITNESS && blow.fault.takes_the_host() { (node + 1) % count } else { node }
}

fn signal_postmaster(cluster: &Cluster, node: usize, signal: Signal) -> Result<()> {
    let server = &cluster.servers[node];
    if server.is_running() { process::send(server.postmaster()?, signal) } else { Ok(()) }
}

async fn kill(process: &mut Option<Process>) -> Result<()> {
    match process.take() {
        Some(mut process) => process.kill().await,
        None => Ok(()),
    }
}

fn stop(process: &mut Option<Process>) -> Result<()> {
    process.as_mut().map_or(Ok(()), |process| process.signal(Signal::STOP))
}

fn runs(process: &mut Option<Process>) -> Result<bool> {
    process.as_mut().map_or(Ok(false), Process::is_running)
}

async fn cut_standbys(cluster: &Cluster, node: usize) -> Result<()> {
    let others: Vec<_> =
        (0..cluster.servers.len()).filter(|other| *other != node && *other != WITNESS).collect();
    let ips: Vec<_> = others.iter().map(|other| cluster.nodes[*other].host.ip()).collect();
    cluster.nodes[node].host.isolate_from(Cut::Both, &ips).await
}

async fn cut_mesh(cluster: &Cluster, node: usize) -> Result<()> {
    let ports = format!("{{ {}, {} }}", port::AGENT, port::GUARD);
    let mut rules = Vec::new();
    for other in cluster.nodes.iter().filter(|other| other.name != cluster.nodes[node].name) {
        let ip = other.host.ip();
        rules.push(format!("add rule inet lab in tcp dport {ports} ip saddr {ip} drop"));
        rules.push(format!("add rule inet lab out tcp dport {ports} ip daddr {ip} drop"));
    }
    cluster.nodes[node].host.filter(&rules.join("; ")).await
}

/// Asks, and does not wait for what comes of it: other faults come meanwhile. A refusal is an answer like any other.
async fn ask_for_switchover(cluster: &Cluster, node: usize) -> Result<()> {
    let to = &cluster.servers[node].name;
    let words = ["switchover", "--instance", to, "--yes", "--detach", "--reason", "chaos"];
    for asked in cluster.nodes.iter().filter(|node| node.agent.is_some()) {
        let said = tokio::time::timeout(ANSWER, asked.ask(&cluster.mesh, &words)).await;
        if said.is_ok_and(|said| said.is_ok_and(|said| said.code == 0)) {
            break;
        }
    }
    Ok(())
}
