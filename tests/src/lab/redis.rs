//! Redis as an operator would have set it up before mesh comes: a primary, a replica that streams from it, users with
//! passwords and the permissions of `deploy/config/redis-users.acl`. And a client that remembers what was acknowledged.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mesh_adapters::process::DirectoryTree;
use mesh_adapters::redis::{OBSERVER_RULES, REPLICA_RULES, RULES};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::ground::{Ground, port};
use super::host::Host;
use super::process::{Process, command, lives, run, send};
use super::wait::{Look, until};

const SOON: Duration = Duration::from_secs(10);
/// A client gives up a connection attempt, or a command, after this long.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause before a reconnect: a client that is refused at once must not use up the ports of its host.
const RECONNECT: Duration = Duration::from_millis(20);
/// Pause between two writes.
const PERIOD: Duration = Duration::from_millis(2);

/// Files with passwords, made for one lab.
#[derive(Debug, Clone)]
pub struct Passwords {
    /// Of the guards' user.
    pub guard: PathBuf,
    /// Of the observers' user.
    pub observer: PathBuf,
    /// Of the replicas' user.
    pub replica: PathBuf,
}

/// One server.
#[derive(Debug)]
pub struct RedisServer {
    /// Its name, as mesh knows it.
    pub name: String,
    /// Its host.
    pub host: Host,
    /// Its data directory.
    pub data: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// The files with the passwords.
    pub passwords: Passwords,
    /// Where its guard listens: elsewhere than PostgreSQL's on the same host.
    pub guard: u16,
    /// As it was started by the operator; the guard starts another process.
    process: Option<Process>,
}

impl RedisServer {
    /// Starts a server as an operator would; with a primary it replicates from it.
    ///
    /// # Errors
    /// When Redis is not installed or does not come up.
    pub async fn start(
        ground: &Ground,
        host: &Host,
        name: &str,
        primary: Option<&Self>,
        guard: u16,
    ) -> Result<Self> {
        let data = ground.folder(&format!("{name}/data"))?;
        ground.give(&ground.dir().join(name))?;
        let secret = |name: &str| ground.file(&format!("{name}.secret"), &format!("{name}-secret\n"));
        let passwords = Passwords {
            guard: secret("mesh")?,
            observer: secret("mesh-observer")?,
            replica: secret("mesh-replica")?,
        };
        let user =
            |name: &str, rules: &[&str]| format!("user {name} on >{name}-secret {}\n", rules.join(" "));
        let text = format!(
            "bind {ip}\nreplica-announce-ip {ip}\nprotected-mode no\nport {port}\ndir {data}\nsave \"\"\nrepl-diskless-sync-delay 0\n\
             user sentinel on >mesh-secret resetkeys &__sentinel__:hello -@all +ping +info +publish +subscribe +role +client +config\nuser default on nopass resetkeys resetchannels -@all ~k:* +set +get +exists +ping\n{}{}{}\
             masteruser mesh-replica\nmasterauth mesh-replica-secret\n",
            user("mesh", RULES),
            user("mesh-observer", OBSERVER_RULES),
            user("mesh-replica", REPLICA_RULES),
            ip = host.ip(),
            port = port::REDIS,
            data = data.display(),
        );
        let config = ground.file(&format!("{name}/redis.conf"), &text)?;
        let path = config.display().to_string();
        let mut words = vec![path];
        if let Some(primary) = primary {
            words.extend(["--replicaof".into(), primary.host.ip().to_string(), port::REDIS.to_string()]);
        }
        let log = ground.log(name);
        // The file of the guard's own server must be its account's; this one is opened by the lab.
        let first = ground.log(&format!("{name}-before"));
        let process = Process::start(name, host.command("redis-server", &words), &first)
            .context("Redis is missing; `make deps` installs it")?;
        let server = Self {
            name: name.to_owned(),
            host: host.clone(),
            data,
            config,
            log,
            passwords,
            guard,
            process: Some(process),
        };
        until(&format!("{name} answers"), SOON, || async {
            let text = server.replication().await?;
            let up = primary.is_none() || text.contains("master_link_status:up");
            Ok(if up { Look::There(()) } else { Look::NotYet(text) })
        })
        .await?;
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host.ip().into(), port::REDIS)
    }

    /// What it says of its replication.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn replication(&self) -> Result<String> {
        let password = std::fs::read_to_string(&self.passwords.guard)?;
        let ip = self.host.ip().to_string();
        let port = port::REDIS.to_string();
        let words = ["-h", &ip, "-p", &port, "--user", "mesh", "INFO", "replication"];
        let mut asking = command("redis-cli", words);
        asking.env("REDISCLI_AUTH", password.trim());
        let said = run(asking, SOON).await.context("redis-cli is missing; `make deps` installs it")?;
        if !said.out.contains("role:") {
            bail!("{} says {}", self.name, said.text());
        }
        Ok(said.out)
    }

    /// Sends a signal to its process, and to those that save for it.
    ///
    /// # Errors
    /// When nothing runs, or the system refuses.
    pub fn signal(&self, signal: Signal) -> Result<Vec<u32>> {
        let pids = self.running()?;
        if pids.is_empty() {
            bail!("{} does not run", self.name);
        }
        for pid in &pids {
            send(*pid, signal)?;
        }
        Ok(pids)
    }

    /// Its process, and those that save for it.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn running(&self) -> Result<Vec<u32>> {
        let tree = DirectoryTree::new(std::fs::canonicalize(&self.data)?, None);
        let members = tree.scan()?;
        Ok(members.iter().filter_map(|member| u32::try_from(member.process.pid()).ok()).collect())
    }

    /// Kills what runs of it. What another killer was faster with is no error.
    ///
    /// # Errors
    /// When something survives, or the system refuses.
    pub fn kill(&self) -> Result<()> {
        for pid in self.running()? {
            match send(pid, Signal::KILL) {
                Err(error) if lives(pid) => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Whether a key that a client was acknowledged is there.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn lost(&self, acknowledged: &[u64]) -> Result<Vec<u64>> {
        lost(self.address(), acknowledged).await
    }

    /// The process that the operator started, if it still runs.
    pub const fn started(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// How a node's agent observes it, and its peers.
    #[must_use]
    pub fn probe_section(&self) -> String {
        let file = self.passwords.observer.display();
        format!("[redis_probe]\nuser = \"mesh-observer\"\npassword_file = \"{file}\"\n")
    }

    /// Its lines in the node's file.
    #[must_use]
    pub fn section(&self, group: &str, home: &Path, state: &Path) -> String {
        let Passwords { guard, replica, .. } = &self.passwords;
        format!(
            "[[redis]]\nname = \"{name}\"\ngroup = \"{group}\"\ndata_dir = \"{data}\"\nconfig_file = \"{config}\"\n\
             port = {port}\nuser = \"mesh\"\npassword_file = \"{guard}\"\nreplication_user = \"mesh-replica\"\n\
             replication_password_file = \"{replica}\"\nguard_listen = \"{ip}:{listen}\"\nstate_dir = \"{state}\"\n\
             log_file = \"{log}\"\ncert = \"{home}/guard-tls/guard-{name}.crt\"\nkey = \"{home}/guard-tls/guard-{name}.key\"\n",
            guard = guard.display(),
            replica = replica.display(),
            name = self.name,
            data = self.data.display(),
            config = self.config.display(),
            port = port::REDIS,
            ip = self.host.ip(),
            listen = self.guard,
            state = state.join(&self.name).display(),
            log = self.log.display(),
            home = home.display(),
        )
    }
}

/// Which keys of the writer's, `k:` and a number, a server lacks.
///
/// # Errors
/// When it does not answer.
pub async fn lost(address: SocketAddr, acknowledged: &[u64]) -> Result<Vec<u64>> {
    let mut session = Session::open(address).await?;
    let mut lost = Vec::new();
    for id in acknowledged {
        if session.ask(&format!("EXISTS k:{id}\r\n")).await? != ":1" {
            lost.push(*id);
        }
    }
    Ok(lost)
}

/// A connection that speaks as little of the protocol as is needed.
struct Session {
    stream: TcpStream,
}

impl Session {
    async fn open(address: SocketAddr) -> Result<Self> {
        let stream = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// One inline command, one line of answer.
    async fn ask(&mut self, words: &str) -> Result<String> {
        let talk = async {
            self.stream.write_all(words.as_bytes()).await?;
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                let mut byte = [0; 256];
                let length = self.stream.read(&mut byte).await?;
                if length == 0 {
                    bail!("the connection was closed");
                }
                line.extend_from_slice(&byte[..length]);
            }
            Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
        };
        tokio::time::timeout(PATIENCE, talk).await.context("no answer within 1 s")?
    }
}

/// A client: one key after the other, a number of its own each, reconnecting when it must.
#[derive(Debug)]
pub struct RedisWriter {
    seen: Arc<Mutex<Seen>>,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    acks: Vec<(u64, Instant)>,
    told: Option<String>,
}

/// Where a client connects.
#[derive(Debug, Clone)]
pub enum Entrance {
    /// There, always.
    At(SocketAddr),
    /// Where Sentinels say that the primary is, asked anew for each connection.
    Sentinels(Vec<SocketAddr>),
}

impl Entrance {
    async fn address(&self) -> Result<SocketAddr> {
        match self {
            Self::At(address) => Ok(*address),
            Self::Sentinels(sentinels) => super::sentinel::primary(sentinels).await,
        }
    }
}

impl RedisWriter {
    /// Starts writing there.
    #[must_use]
    pub fn start(address: SocketAddr) -> Self {
        Self::start_at(Entrance::At(address), "k:")
    }

    /// The same, with keys that begin with `k:` and more, so that two clients do not write the same ones.
    #[must_use]
    pub fn start_at(entrance: Entrance, keys: &'static str) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(write(entrance, keys, Arc::clone(&seen), stopped));
        Self { seen, stop, task: Some(task) }
    }

    fn with<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many writes were acknowledged so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.with(|seen| seen.acks.len())
    }

    /// How many were acknowledged after a moment.
    #[must_use]
    pub fn after(&self, moment: Instant) -> usize {
        self.with(|seen| seen.acks.iter().filter(|(_, at)| *at > moment).count())
    }

    /// Waits until so many more are acknowledged.
    ///
    /// # Errors
    /// When they are not in time.
    pub async fn flows(&self, more: usize, limit: Duration) -> Result<()> {
        let wanted = self.count() + more;
        until("writes flow", limit, || async {
            let told = || Look::NotYet(self.with(|seen| format!("the client was told: {:?}", seen.told)));
            Ok(if self.count() >= wanted { Look::There(()) } else { told() })
        })
        .await
    }

    /// The longest time without an acknowledgement since a fault, and when it ended.
    #[must_use]
    pub fn gap(&self, fault: Instant) -> (Duration, Option<Instant>) {
        self.with(|seen| {
            let first = seen.acks.partition_point(|(_, at)| *at <= fault);
            let mut before = first.checked_sub(1).map_or(fault, |at| seen.acks[at].1);
            let mut longest = (Duration::ZERO, None);
            for (_, at) in &seen.acks[first..] {
                if *at - before > longest.0 {
                    longest = (*at - before, Some(*at));
                }
                before = *at;
            }
            longest
        })
    }

    /// Stops, and says what was acknowledged.
    ///
    /// # Errors
    /// When the writing task panicked.
    pub async fn stop(mut self) -> Result<Vec<u64>> {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take() {
            task.await.context("the writer panicked")?;
        }
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(seen.acks.iter().map(|(id, _)| *id).collect())
    }
}

impl Drop for RedisWriter {
    /// One that outlives its run would write on, without a pause, into the servers of the next one.
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn write(
    entrance: Entrance,
    keys: &'static str,
    seen: Arc<Mutex<Seen>>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut session: Option<Session> = None;
    // Never the same number twice: a key whose answer was lost may yet be there.
    for id in 1.. {
        if *stopped.borrow() {
            return;
        }
        let result = step(&entrance, keys, &mut session, id).await;
        let pause = if result.is_ok() { PERIOD } else { RECONNECT };
        if result.is_err() {
            session = None;
        }
        note(&seen, id, result);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopped.changed() => {}
        }
    }
}

fn note(seen: &Mutex<Seen>, id: u64, result: Result<()>) {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    match result {
        Ok(()) => seen.acks.push((id, Instant::now())),
        Err(error) => seen.told = Some(format!("{error:#}")),
    }
}

async fn step(entrance: &Entrance, keys: &str, session: &mut Option<Session>, id: u64) -> Result<()> {
    let open = match session {
        Some(open) => open,
        None => session.insert(Session::open(entrance.address().await?).await?),
    };
    match open.ask(&format!("SET {keys}{id} {id}\r\n")).await?.as_str() {
        "+OK" => Ok(()),
        other => bail!("{other}"),
    }
}
