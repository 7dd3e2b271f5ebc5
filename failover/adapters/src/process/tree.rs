//! All processes of a data directory, and their end.
//!
//! Membership is the working directory, because every process of PostgreSQL and of Redis keeps its data directory as such,
//! orphans of a dead main process included; plus their descendants. A shell in which a person stands in that directory is spared: it has a terminal, and
//! acknowledges nothing.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};

use super::awaited::collect_others;
use super::handle::{Delivery, ProcessHandle};
use super::stat::{ProcStat, RunState, executable, working_directory};

/// The processes that belong to one directory.
#[derive(Clone, Debug)]
pub struct DirectoryTree {
    dir: PathBuf,
    cgroup: Option<PathBuf>,
}

/// One live process of the tree.
#[derive(Clone, Debug)]
pub struct Member {
    /// The hold on it.
    pub process: ProcessHandle,
    /// Its short name.
    pub comm: String,
    /// Whether it can run now or is stopped.
    pub state: RunState,
    /// The parent's number.
    pub ppid: i32,
}

/// What a completed kill did.
#[derive(Clone, Debug)]
pub struct KillReport {
    /// Everything that was sent SIGKILL.
    pub killed: Vec<ProcessHandle>,
    /// Scans of `/proc` until one found nobody new.
    pub rounds: u32,
}

/// Why it is not certain that every process of the tree has SIGKILL pending.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// `/proc` could not be read, so nothing can be said about who lives.
    #[error("cannot list the processes of {}; is /proc mounted and readable by this user?", dir.display())]
    Scan {
        /// The data directory.
        dir: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A process of another user.
    #[error("may not kill process {pid} of {}; run the guard as the owner of the database", dir.display())]
    Signal {
        /// The data directory.
        dir: PathBuf,
        /// The process.
        pid: i32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// New processes appeared in every scan until the deadline.
    #[error("processes of {} still appeared after {rounds} rounds of SIGKILL; something restarts them", dir.display())]
    StillForking {
        /// The data directory.
        dir: PathBuf,
        /// Rounds done.
        rounds: u32,
    },
}

/// Processes that have SIGKILL pending but are not gone, for instance in an uninterruptible read of a hung disk.
#[derive(Debug, thiserror::Error)]
#[error("processes {pids:?} of {} have SIGKILL pending but have not gone; they wait in the kernel, mostly for a disk", dir.display())]
pub struct Survivors {
    /// The data directory.
    pub dir: PathBuf,
    /// Who is left.
    pub pids: Vec<i32>,
}

impl DirectoryTree {
    /// The tree of a directory. The path must be canonical, because it is compared with the kernel's name for it and the
    /// fencing path must not ask the (perhaps hung) disk. `cgroup` is the instance's own cgroup v2 directory, if any.
    #[must_use]
    pub fn new(canonical_dir: PathBuf, cgroup: Option<PathBuf>) -> DirectoryTree {
        DirectoryTree { dir: canonical_dir, cgroup }
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Finds every live process of the tree. Zombies are dead and not in it.
    ///
    /// # Errors
    /// When `/proc` cannot be read or no pidfd is to be had.
    pub fn scan(&self) -> io::Result<Vec<Member>> {
        let all = live_processes()?;
        let mut ours = self.roots(&all);
        add_descendants(&all, &mut ours);
        let mut members = Vec::with_capacity(ours.len());
        for stat in all.values().filter(|stat| ours.contains(&stat.pid)) {
            let Some(process) = ProcessHandle::open(stat.pid)? else { continue };
            // Between the list and the pidfd the number may have passed to a stranger.
            if process.start_ticks() == stat.start_ticks {
                let comm = stat.comm.clone();
                members.push(Member { process, comm, state: stat.state, ppid: stat.ppid });
            }
        }
        Ok(members)
    }

    fn roots(&self, all: &HashMap<i32, ProcStat>) -> HashSet<i32> {
        let me = i32::try_from(std::process::id()).unwrap_or(0);
        let in_dir = |pid: i32| working_directory(pid).is_some_and(|cwd| cwd == self.dir);
        let counts =
            |stat: &&ProcStat| stat.pid != me && in_dir(stat.pid) && (stat.tty == 0 || is_server(stat.pid));
        all.values().filter(counts).map(|stat| stat.pid).collect()
    }

    /// Sends SIGKILL to everything until one full scan finds nobody new: from then on no process of the tree returns to
    /// user mode and none can fork, whatever the disk does. Works on stopped processes and on orphans.
    ///
    /// # Errors
    /// Any that leaves it uncertain.
    pub fn kill(&self, deadline: Instant) -> Result<KillReport, KillError> {
        self.kill_cgroup();
        let mut killed: HashMap<(i32, u64), ProcessHandle> = HashMap::new();
        let mut rounds = 0;
        loop {
            rounds += 1;
            let members = self.scan().map_err(|source| KillError::Scan { dir: self.dir.clone(), source })?;
            let mut found_new = false;
            for member in members {
                let key = (member.process.pid(), member.process.start_ticks());
                if killed.contains_key(&key) {
                    continue;
                }
                if self.kill_one(&member.process)? == Delivery::Sent {
                    found_new = true;
                }
                killed.insert(key, member.process);
            }
            if !found_new {
                return Ok(KillReport { killed: killed.into_values().collect(), rounds });
            }
            if Instant::now() >= deadline {
                return Err(KillError::StillForking { dir: self.dir.clone(), rounds });
            }
        }
    }

    fn kill_one(&self, process: &ProcessHandle) -> Result<Delivery, KillError> {
        process.signal(Signal::KILL).map_err(|source| KillError::Signal {
            dir: self.dir.clone(),
            pid: process.pid(),
            source,
        })
    }

    /// One write ends a whole cgroup atomically. Its failure is no error: the scan that follows does the same work.
    fn kill_cgroup(&self) {
        if let Some(cgroup) = &self.cgroup
            && let Err(error) = std::fs::write(cgroup.join("cgroup.kill"), "1")
        {
            tracing::warn!(cgroup = %cgroup.display(), %error, "cgroup.kill failed; killing one by one");
        }
    }

    /// Waits until the killed processes are gone and a fresh scan finds nobody.
    ///
    /// # Errors
    /// Who is left at the deadline.
    pub async fn wait_gone(&self, killed: &[ProcessHandle], deadline: Instant) -> Result<(), Survivors> {
        for process in killed {
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, process.death()).await {
                Ok(Ok(_) | Err(_)) => {}
                Err(_elapsed) => break,
            }
        }
        loop {
            reap_adopted();
            let left = match self.scan() {
                Ok(members) if members.is_empty() => return Ok(()),
                Ok(members) => members.iter().map(|m| m.process.pid()).collect(),
                Err(error) => {
                    tracing::warn!(%error, "cannot list processes while waiting for their end");
                    Vec::new()
                }
            };
            if Instant::now() >= deadline {
                return Err(Survivors { dir: self.dir.clone(), pids: left });
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// What servers' processes call themselves.
const COMMS: [&str; 3] = ["postgres", "redis-server", "valkey-server"];
/// What servers execute. Debian's `redis-server` is a link to the tool that shares its binary.
const EXECUTABLES: [&str; 5] =
    ["postgres", "redis-server", "redis-check-rdb", "valkey-server", "valkey-check-rdb"];

/// Collects dead processes of servers that became our children when their main process died. Without it they would stay
/// zombies as long as the guard lives. Only processes named as servers are touched, and of them none whose end is awaited.
pub fn reap_adopted() {
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    let Ok(all) = processes() else { return };
    let ours = |stat: &&ProcStat| {
        stat.state == RunState::Dead && stat.ppid == me && COMMS.contains(&stat.comm.as_str())
    };
    let dead = || all.values().filter(ours).map(|stat| stat.pid).collect();
    collect_others(dead, |pid| {
        if let Some(pid) = Pid::from_raw(pid) {
            // ECHILD means that somebody else collected it first: the aim is reached either way.
            let _collected = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
    });
}

fn is_server(pid: i32) -> bool {
    executable(pid).is_some_and(|exe| {
        exe.file_name().and_then(|name| name.to_str()).is_some_and(|name| EXECUTABLES.contains(&name))
    })
}

fn live_processes() -> io::Result<HashMap<i32, ProcStat>> {
    let mut all = processes()?;
    all.retain(|_, stat| stat.state != RunState::Dead);
    Ok(all)
}

fn processes() -> io::Result<HashMap<i32, ProcStat>> {
    let mut all = HashMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        if let Some(stat) = ProcStat::read(pid)? {
            all.insert(pid, stat);
        }
    }
    Ok(all)
}

fn add_descendants(all: &HashMap<i32, ProcStat>, ours: &mut HashSet<i32>) {
    loop {
        let before = ours.len();
        let children = all.values().filter(|stat| ours.contains(&stat.ppid)).map(|stat| stat.pid);
        let children: Vec<i32> = children.collect();
        ours.extend(children);
        if ours.len() == before {
            return;
        }
    }
}
