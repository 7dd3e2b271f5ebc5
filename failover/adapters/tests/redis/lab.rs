//! Real Redis servers below one temporary directory, and clients that count what was acknowledged to them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mesh_adapters::process::{MainProcess, Signal};
use mesh_adapters::redis::{
    Credentials, DirectControl, FenceMode, FencePlan, Instance, Link, NewStamp, Settings, TlsFiles, confirm,
    fence, follow, open_primary, position, promote, quiet, renew_stamp, start,
};
use tokio::task::JoinHandle;

pub const SYSTEM: u64 = 0x5eed;

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// How the servers of a test are reached.
#[derive(Clone, Default)]
pub struct Ways {
    pub credentials: Option<Credentials>,
    pub replication: Option<Credentials>,
    pub tls: Option<TlsFiles>,
    pub options: Vec<(String, String)>,
}

/// One server.
pub struct Node {
    pub instance: Instance,
    pub main: Option<MainProcess>,
    pub name: String,
}

pub fn settings(dir: &Path, name: &str, ways: &Ways) -> Settings {
    let home = dir.join(name);
    let (data_dir, state_dir) = (home.join("data"), home.join("state"));
    std::fs::create_dir_all(&data_dir).unwrap();
    std::fs::create_dir_all(&state_dir).unwrap();
    let mut options = ways.options.clone();
    options.push(("repl-diskless-sync-delay".into(), "0".into()));
    Settings {
        name: name.to_owned(),
        data_dir,
        program: PathBuf::from("/usr/bin/redis-server"),
        config_file: None,
        keep_dir: home.join("kept"),
        listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: free_port(),
        credentials: ways.credentials.clone(),
        replication: ways.replication.clone(),
        tls: ways.tls.clone(),
        min_replicas: 0,
        log_file: state_dir.join("redis.log"),
        state_dir,
        options,
        cgroup: None,
    }
}

impl Node {
    pub async fn start(dir: &Path, name: &str, ways: &Ways) -> Self {
        Self::of(settings(dir, name, ways)).await
    }

    pub async fn of(settings: Settings) -> Self {
        let name = settings.name.clone();
        let instance = Instance::open(settings).unwrap();
        let mut node = Self { instance, main: None, name };
        node.again().await;
        node
    }

    /// Starts it, held.
    pub async fn again(&mut self) {
        let started = start(&self.instance, &DirectControl, soon()).await;
        self.main =
            Some(started.expect("these tests need Redis: apt-get install redis-server redis-tools").main);
    }

    pub fn address(&self) -> SocketAddr {
        self.instance.address()
    }

    pub fn stamp(&self, epoch: u64) -> NewStamp {
        NewStamp { epoch, lease_no: epoch, instance: self.name.clone(), system: SYSTEM }
    }

    /// Makes it the open primary of an epoch.
    pub async fn lead(&self, epoch: u64) -> u64 {
        promote(&self.instance, &self.stamp(epoch), soon()).await.unwrap();
        open_primary(&self.instance, &self.stamp(epoch), soon()).await.unwrap().at
    }

    pub async fn follow(&self, primary: &Self, epoch: u64) -> mesh_adapters::redis::Followed {
        let followed = follow(&self.instance, primary.address(), epoch, Some(SYSTEM), soon()).await.unwrap();
        // What the primary's guard does when it sees another replication id.
        if renew_stamp(&primary.instance, epoch, soon()).await.unwrap() {
            let there = position(&primary.instance, soon()).await.unwrap();
            confirm(&self.instance, there.offset, soon()).await.unwrap();
        }
        followed
    }

    /// Kills it and proves that it is quiet.
    pub async fn kill(&mut self) -> Duration {
        let plan = FencePlan { budget: Duration::from_secs(2), mode: FenceMode::Hard };
        let proof = fence(&self.instance, self.main.as_ref(), plan).await.unwrap();
        let took = proof.took;
        quiet(&self.instance, &proof, soon()).await.unwrap();
        self.main = None;
        took
    }

    pub fn signal(&self, signal: Signal) {
        self.main.as_ref().unwrap().process().signal(signal).unwrap();
    }

    pub async fn link(&self) -> Link {
        Link::open(&self.instance.target(), soon()).await.unwrap()
    }

    /// What `redis-cli` says, without the adapter.
    pub async fn cli(&self, words: &[&str]) -> String {
        cli(self.address(), words).await
    }
}

pub async fn cli(address: SocketAddr, words: &[&str]) -> String {
    let out = tokio::process::Command::new("redis-cli")
        .args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()])
        .args(words)
        .stderr(Stdio::null())
        .output()
        .await
        .expect("these tests need redis-cli: apt-get install redis-tools");
    String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
}

/// A client that writes numbered keys as fast as it is answered, over one connection, until it is refused or told to stop.
pub struct Writer {
    pub acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Option<String>>,
}

impl Writer {
    pub async fn start(address: SocketAddr, prefix: &'static str) -> Self {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let task = tokio::spawn(write(stream, prefix, Arc::clone(&acknowledged), Arc::clone(&stop)));
        Self { acknowledged, stop, task }
    }

    pub fn count(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    pub async fn past(&self, count: u64) {
        let end = soon();
        while self.count() < count {
            assert!(Instant::now() < end, "the writer stands at {}", self.count());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ends it; what it was refused with, or `None` when it was ended by this.
    pub async fn end(self) -> (u64, Option<String>) {
        self.stop.store(true, Ordering::SeqCst);
        let refused = self.task.await.unwrap();
        (self.acknowledged.load(Ordering::SeqCst), refused)
    }
}

async fn write(
    mut stream: tokio::net::TcpStream,
    prefix: &'static str,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> Option<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut answer = [0; 512];
    for n in 1_u64.. {
        if stop.load(Ordering::SeqCst) {
            return None;
        }
        if let Err(error) = stream.write_all(format!("SET {prefix}:{n} {n}\r\n").as_bytes()).await {
            return Some(error.to_string());
        }
        match stream.read(&mut answer).await {
            Ok(length) if answer[..length].starts_with(b"+OK") => {
                acknowledged.store(n, Ordering::SeqCst);
            }
            Ok(0) => return Some("closed".to_owned()),
            Ok(length) => return Some(String::from_utf8_lossy(&answer[..length]).trim_end().to_owned()),
            Err(error) => return Some(error.to_string()),
        }
    }
    None
}

/// How many of the keys that a writer was acknowledged are missing.
pub async fn missing(node: &Node, prefix: &str, acknowledged: u64) -> u64 {
    let mut lost = 0;
    let mut link = node.link().await;
    for n in 1..=acknowledged {
        let mut exists = redis::cmd("EXISTS");
        exists.arg(format!("{prefix}:{n}"));
        let found = link.ask("look for a key", &exists, soon()).await.unwrap();
        lost += u64::from(found != redis::Value::Int(1));
    }
    lost
}
