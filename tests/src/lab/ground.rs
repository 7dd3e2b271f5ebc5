//! The ground a lab stands on: a scratch directory, a block of loopback addresses, and a reaper.
//!
//! The reaper is a small shell process that holds one end of a pipe; when the owner ends (returns, panics, is
//! interrupted or is killed with SIGKILL) the pipe closes and the reaper kills what belongs to the lab, removes its
//! network namespaces and its directory. There is one such path, so each ordinary end tests it too.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// The environment variable by which the reaper knows the lab's processes.
pub const MARK: &str = "MESH_LAB";
/// Ports of the lab; each host has an address of its own, so the numbers repeat.
pub mod port {
    /// HAProxy's client port.
    pub const ROUTE: u16 = 25000;
    /// PgBouncer's port, for clients and for its console.
    pub const POOLED: u16 = 25001;
    /// HAProxy's client port for Redis beside PostgreSQL.
    pub const CACHE: u16 = 25002;
    /// BIND.
    pub const DNS: u16 = 25053;
    /// PostgreSQL.
    pub const POSTGRES: u16 = 25432;
    /// Redis.
    pub const REDIS: u16 = 25379;
    /// The agent's RPC listener.
    pub const AGENT: u16 = 25700;
    /// The agent's HTTP listener.
    pub const HTTP: u16 = 25701;
    /// The guard's RPC listener.
    pub const GUARD: u16 = 25702;
    /// The RPC listener of the guard of Redis beside PostgreSQL.
    pub const CACHE_GUARD: u16 = 25703;
    /// The authority, while it is served.
    pub const AUTHORITY: u16 = 25704;
    /// Held for as long as a block of loopback addresses is in use.
    pub const CLAIM: u16 = 25999;
}
const REAPER: &str = include_str!("reaper.sh");

/// What remains of a lab when its owner ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// Nothing.
    Nothing,
    /// The log folder, for somebody to read.
    Logs,
    /// Everything, running.
    Everything,
}

/// A scratch directory with a reaper.
#[derive(Debug)]
pub struct Ground {
    dir: PathBuf,
    user: Option<User>,
    account: String,
    block: Ipv4Addr,
    reaper: Option<(Child, ChildStdin)>,
    leave: Leave,
}

/// The account the services run under when the lab is raised by root: PostgreSQL refuses to run as root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its group's number.
    pub gid: u32,
}

impl Ground {
    /// Makes a directory below the system's temporary one, claims a block of loopback addresses and starts the reaper.
    ///
    /// # Errors
    /// When no block is free, the `postgres` account is missing (as root), or the reaper cannot be started.
    pub fn take(name: &str) -> Result<Self> {
        let (block, claim) = claim_block()?;
        let user = service_user()?;
        let account = account()?;
        let dir = scratch(name)?;
        let reaper = start_reaper(&dir, claim)?;
        let ground = Self { dir, user, account, block, reaper: Some(reaper), leave: Leave::Nothing };
        ground.give(&ground.dir)?;
        ground.folder("log")?;
        Ok(ground)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    /// The account of the services; `None` when the lab runs under the caller's own.
    #[must_use]
    pub fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }
    /// Name of the account that the services run under.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.account
    }
    /// The `n`-th address of the lab's loopback block.
    #[must_use]
    pub fn loopback(&self, n: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.block.octets();
        Ipv4Addr::new(a, b, c, n)
    }
    /// The log file of a process.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join("log").join(format!("{name}.log"))
    }

    /// Makes a folder that belongs to the services' account and that nobody else may enter.
    ///
    /// # Errors
    /// When it cannot be made or given away.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        self.give(&path)?;
        set_mode(&path, 0o700)?;
        Ok(path)
    }

    /// Makes the lab's folder on a file system in memory: a guard's state must not be on the disk of the data.
    ///
    /// # Errors
    /// When it cannot be made or given away.
    pub fn memory(&self) -> Result<PathBuf> {
        let path = Path::new("/dev/shm").join(self.dir.file_name().unwrap_or_default());
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        self.give(&path)?;
        set_mode(&path, 0o700)?;
        Ok(path)
    }

    /// Writes a file that only the services' account can read.
    ///
    /// # Errors
    /// When it cannot be written or given away.
    pub fn file(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        set_mode(&path, 0o600)?;
        self.give(&path)?;
        Ok(path)
    }

    /// Notes a mount point below the lab's directory for the reaper.
    ///
    /// # Errors
    /// When the note cannot be written.
    pub fn note_disk(&self, at: &Path) -> Result<()> {
        let path = self.dir.join("disks");
        let mut notes = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
        writeln!(notes, "{}", at.display()).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Gives a file or folder to the services' account.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn give(&self, path: &Path) -> Result<()> {
        if let Some(user) = &self.user {
            std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))
                .with_context(|| format!("cannot give {} to {}", path.display(), user.name))?;
        }
        Ok(())
    }

    /// Decides what remains when this value is dropped.
    pub const fn leave(&mut self, what: Leave) {
        self.leave = what;
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let failing = self.leave == Leave::Nothing && std::thread::panicking();
        let leave = if failing { Leave::Logs } else { self.leave };
        let word = match leave {
            Leave::Nothing => "all\n",
            Leave::Logs => "logs\n",
            Leave::Everything => "keep\n",
        };
        if leave == Leave::Logs {
            eprintln!("the logs are in {}", self.dir.join("log").display());
        }
        if let Some((mut child, mut stdin)) = self.reaper.take() {
            // A reaper that is gone already cannot be told; `sweep` then does its work.
            let told = stdin.write_all(word.as_bytes());
            drop(stdin);
            let ended = child.wait();
            let done = told.is_ok() && ended.as_ref().is_ok_and(std::process::ExitStatus::success);
            if !done
                && leave != Leave::Everything
                && let Err(error) = sweep(&self.dir)
            {
                eprintln!("could not clean up {}: {error:#}", self.dir.display());
            }
        }
    }
}

/// Ends a lab that was left running (`--keep`), or whose owner and reaper were both killed.
///
/// # Errors
/// When the directory is not a lab's, or the sweep fails.
pub fn sweep(dir: &Path) -> Result<()> {
    let status = Command::new("sh").args(["-c", REAPER, "reaper"]).arg(dir).arg("now").status()?;
    if !status.success() {
        bail!("the sweep of {} ended with {status}", dir.display());
    }
    Ok(())
}

/// Whether the caller is root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes a directory that is not there yet: logs of an earlier lab may have been left.
fn scratch(name: &str) -> Result<PathBuf> {
    let mut n = 0;
    loop {
        n += 1;
        let dir = std::env::temp_dir().join(format!("mesh-{name}-{}-{n}", std::process::id()));
        match std::fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot make {}", dir.display())),
        }
    }
}

fn claim_block() -> Result<(Ipv4Addr, TcpListener)> {
    // The listener is the claim: it ends with the last process that holds it, so it is never stale.
    for n in 10..=250 {
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::new(127, 0, n, 254), port::CLAIM)) {
            return Ok((Ipv4Addr::new(127, 0, n, 0), listener));
        }
    }
    bail!(
        "no block of loopback addresses is free: something holds port {} on all of 127.0.10-250.254",
        port::CLAIM
    )
}

fn start_reaper(dir: &Path, claim: TcpListener) -> Result<(Child, ChildStdin)> {
    let mut child = Command::new("sh")
        .args(["-c", REAPER, "reaper"])
        .arg(dir)
        .stdin(Stdio::piped())
        // The claim on the addresses lives until the reaper is done; it writes nothing to it.
        .stdout(Stdio::from(OwnedFd::from(claim)))
        .process_group(0)
        .current_dir("/")
        .spawn()
        .context("cannot start the reaper (sh)")?;
    let stdin = child.stdin.take().context("the reaper has no standard input")?;
    Ok((child, stdin))
}

fn service_user() -> Result<Option<User>> {
    if !is_root() {
        return Ok(None);
    }
    let line = account_line(|fields| fields.first() == Some(&"postgres"))?;
    let line = line.context("as root the lab needs the account `postgres`; `make deps` installs it")?;
    let mut fields = line.split(':').skip(2);
    let mut number = || fields.next().and_then(|field| field.parse().ok());
    let (Some(uid), Some(gid)) = (number(), number()) else {
        bail!("the line of `postgres` in /etc/passwd is not understood: {line}");
    };
    Ok(Some(User { name: "postgres".to_owned(), uid, gid }))
}

fn account() -> Result<String> {
    if is_root() {
        return Ok("postgres".to_owned());
    }
    let own = rustix::process::geteuid().as_raw().to_string();
    let line = account_line(|fields| fields.get(2) == Some(&own.as_str()))?;
    let name = line.as_deref().and_then(|line| line.split(':').next());
    name.map(str::to_owned)
        .with_context(|| format!("user {own} has no line in /etc/passwd: PostgreSQL needs its name"))
}

fn account_line(wanted: impl Fn(&[&str]) -> bool) -> Result<Option<String>> {
    let accounts = std::fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let mut lines = accounts.lines().filter(|line| wanted(&line.split(':').collect::<Vec<_>>()));
    Ok(lines.next().map(str::to_owned))
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}
