//! PostgreSQL as an operator would have set it up before mesh comes: a primary, standbys that stream from it, roles
//! with passwords, page checksums. Started with `pg_ctl`; from its adoption on, mesh is in charge.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use tokio_postgres::NoTls;

use super::disk::Disk;
use super::ground::{Ground, port};
use super::host::Host;
use super::process::{self, Said, must};
use super::wait::{Look, until};

const SLOW: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(5);

/// Role and table of the clients.
pub const APP: &str = "app";
/// Role of the observers.
pub const PROBE: &str = "mesh_probe";
/// Superuser of the lab itself. Not the one of mesh, which logs in as the services' own account and by that alone.
const ADMIN: &str = "lab_admin";
/// Role for replication and rewind.
pub const REPL: &str = "mesh_repl";

/// Passwords of one lab, made anew for each; they are of no use elsewhere.
#[derive(Debug, Clone)]
pub struct Secrets {
    /// Of [`APP`].
    pub app: String,
    /// Of [`PROBE`].
    pub probe: String,
    /// Of [`REPL`].
    pub repl: String,
    /// Of the lab's own superuser.
    admin: String,
}

impl Secrets {
    /// Draws them from the system's random source.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn draw() -> Result<Self> {
        let mut bytes = [0_u8; 32];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
        let word = |at: usize| bytes[at..at + 8].iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { app: word(0), probe: word(8), repl: word(16), admin: word(24) })
    }
}

/// One server.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its name, as mesh knows it.
    pub name: String,
    /// Its host.
    pub host: Host,
    /// Its data directory.
    pub data: PathBuf,
    /// The directory of its Unix socket; nobody but the services' account may enter.
    pub socket: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// `.pgpass` file of the replication role.
    pub passfile: PathBuf,
    /// Where PostgreSQL's programs are.
    pub bin: PathBuf,
    /// The superuser that `initdb` makes: named as the account, so that it is known over the Unix socket.
    pub superuser: String,
    /// The disk of the data, where it has one of its own.
    pub disk: Option<Disk>,
    secrets: Secrets,
}

/// Finds PostgreSQL's programs: `MESH_PG_BIN`, else the newest that Debian installed.
///
/// # Errors
/// When there are none.
pub fn programs() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("MESH_PG_BIN") {
        return Ok(PathBuf::from(dir));
    }
    let root = Path::new("/usr/lib/postgresql");
    let versions = std::fs::read_dir(root).into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|version| root.join(version.to_string()).join("bin/initdb").exists())
        .max();
    let newest = newest.context("no PostgreSQL server below /usr/lib/postgresql; `make deps` installs it")?;
    Ok(root.join(newest.to_string()).join("bin"))
}

impl Server {
    /// Describes a server; nothing is made yet but its folders.
    ///
    /// # Errors
    /// When the folders cannot be made or PostgreSQL is not installed.
    pub fn describe(ground: &Ground, host: &Host, name: &str, secrets: &Secrets) -> Result<Self> {
        let home = ground.folder(name)?;
        let socket = ground.folder(&format!("{name}/s"))?;
        let line = format!("*:*:*:{REPL}:{}\n", secrets.repl);
        let passfile = ground.file(&format!("{name}/pgpass"), &line)?;
        Ok(Self {
            name: name.to_owned(),
            host: host.clone(),
            data: home.join("data"),
            socket,
            log: ground.log(name),
            passfile,
            bin: programs()?,
            superuser: ground.account().to_owned(),
            disk: None,
            secrets: secrets.clone(),
        })
    }

    /// Moves the data directory to a disk of its own, before there is any; then the server archives its log as well.
    ///
    /// # Errors
    /// As [`Disk::attach`].
    pub async fn give_disk(&mut self, ground: &Ground) -> Result<()> {
        let at = ground.folder(&format!("{}/disk", self.name))?;
        self.disk = Some(Disk::attach(ground, &at).await?);
        self.data = at.join("data");
        Ok(())
    }

    /// The file beside the disk for which the archive command waits while it is there.
    #[must_use]
    pub fn archive_hangs(&self) -> Option<PathBuf> {
        self.disk.as_ref()?;
        Some(self.data.parent()?.parent()?.join("archive-hangs"))
    }

    /// Makes it a primary: initialises, starts, creates roles and the clients' table.
    ///
    /// # Errors
    /// When PostgreSQL refuses.
    pub async fn found(&self, ground: &Ground) -> Result<()> {
        let args = ["-k", "-U", &self.superuser, "-A", "peer", "-E", "UTF8", "--locale=C.UTF-8", "-D"];
        self.tool("initdb", args.map(str::to_owned).into_iter().chain([show(&self.data)])).await?;
        // Nothing of this host in here: pg_basebackup and pg_rewind copy the file to other hosts.
        let conf = "wal_log_hints = on\nrestart_after_crash = off\nmax_connections = 60\n\
            superuser_reserved_connections = 5\nmax_prepared_transactions = 60\nshared_buffers = 32MB\nwal_keep_size = 256MB\n\
            dynamic_shared_memory_type = mmap\n\
            log_line_prefix = '%m [%p] %q%a '\nlog_connections = off\n";
        append(&self.data.join("postgresql.conf"), conf)?;
        if self.disk.is_some() {
            // Relative to the data directory, so that each server has its own.
            let archive = "archive_mode = on\narchive_timeout = 5\n\
                archive_command = 'while test -e ../../archive-hangs; do sleep 0.1; done'\n";
            append(&self.data.join("postgresql.conf"), archive)?;
        }
        let net = self.host.network();
        let hba = format!(
            "local all,replication {} peer\nlocal all all scram-sha-256\n\
             host all {APP},{PROBE} {net} scram-sha-256\n\
             host postgres,replication {REPL} {net} scram-sha-256\n",
            self.superuser
        );
        std::fs::write(self.data.join("pg_hba.conf"), hba)?;
        self.start().await?;
        self.make_roles(ground).await
    }

    async fn make_roles(&self, ground: &Ground) -> Result<()> {
        let Secrets { app, probe, repl, admin } = &self.secrets;
        let sql = format!(
            "CREATE ROLE {ADMIN} SUPERUSER LOGIN PASSWORD '{admin}';
             CREATE ROLE {APP} LOGIN PASSWORD '{app}';
             CREATE ROLE {PROBE} LOGIN PASSWORD '{probe}';
             CREATE ROLE {REPL} LOGIN REPLICATION PASSWORD '{repl}';
             GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean) TO {REPL};
             GRANT EXECUTE ON FUNCTION pg_stat_file(text, boolean) TO {REPL};
             GRANT EXECUTE ON FUNCTION pg_read_binary_file(text) TO {REPL};
             GRANT EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint, boolean) TO {REPL};
             CREATE TABLE lab (id bigint PRIMARY KEY, writer text NOT NULL DEFAULT 'route');
             GRANT SELECT, INSERT ON lab TO {APP};"
        );
        // A file, not an argument: arguments can be read by everybody.
        let file = ground.file(&format!("{}/roles.sql", self.name), &sql)?;
        let port = port::POSTGRES.to_string();
        let (socket, file) = (show(&self.socket), show(&file));
        let args =
            ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", &socket, "-p", &port, "-d", "postgres", "-f", &file];
        self.tool("psql", args.map(str::to_owned)).await.map(|_| ())
    }

    /// Makes it a standby of `primary` and starts it.
    ///
    /// # Errors
    /// When PostgreSQL refuses, or the standby does not stream in time.
    pub async fn follow(&self, primary: &Self) -> Result<()> {
        let from = conninfo(primary.host.ip(), &self.passfile, &self.name);
        let args = ["-X", "stream", "-c", "fast", "-R", "-D"].map(str::to_owned);
        let args = args.into_iter().chain([show(&self.data), "-d".to_owned(), from]);
        self.tool("pg_basebackup", args).await?;
        self.start().await?;
        let sql = format!(
            "SELECT count(*)::int FROM pg_stat_replication WHERE state = 'streaming' AND application_name = '{}'",
            self.name
        );
        until(&format!("{} streams from {}", self.name, primary.name), Duration::from_secs(20), || async {
            let count: i32 = primary.ask(&sql).await?;
            Ok(if count > 0 { Look::There(()) } else { Look::NotYet("no such walsender".to_owned()) })
        })
        .await
    }

    /// Starts it as it is.
    ///
    /// # Errors
    /// When it does not start; with the last lines of its log.
    pub async fn start(&self) -> Result<()> {
        let options = format!(
            "-c listen_addresses={} -c port={} -c unix_socket_directories={}",
            self.host.ip(),
            port::POSTGRES,
            show(&self.socket)
        );
        let args = ["-w".to_owned(), "-D".to_owned(), show(&self.data), "-l".to_owned(), show(&self.log)];
        let args = args.into_iter().chain(["-o".to_owned(), options, "start".to_owned()]);
        let started = self.tool("pg_ctl", args).await;
        started.map(|_| ()).with_context(|| format!("{}: {}", self.name, process::tail(&self.log, 8)))
    }

    /// Stops it at once, without a checkpoint.
    ///
    /// # Errors
    /// When it does not stop.
    pub async fn stop_immediate(&self) -> Result<()> {
        let args = ["-w", "-m", "immediate", "-D"].map(str::to_owned);
        let args = args.into_iter().chain([show(&self.data), "stop".to_owned()]);
        self.tool("pg_ctl", args).await.map(|_| ())
    }

    /// Number of the postmaster, from its lock file.
    ///
    /// # Errors
    /// When there is no lock file.
    pub fn postmaster(&self) -> Result<u32> {
        let path = self.data.join("postmaster.pid");
        let lock =
            std::fs::read_to_string(&path).with_context(|| format!("{} has no lock file", self.name))?;
        lock.lines()
            .next()
            .and_then(|line| line.trim().parse().ok())
            .context("the lock file names no process")
    }

    /// Whether the postmaster of the lock file lives.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.postmaster().is_ok_and(process::lives)
    }

    /// Kills the postmaster with SIGKILL; its children are left to whoever minds them.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_postmaster(&self) -> Result<()> {
        process::send(self.postmaster()?, Signal::KILL)
    }

    /// Sends a signal to every process of the server, the postmaster first.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal_all(&self, signal: Signal) -> Result<Vec<u32>> {
        let pids = process::tree(self.postmaster()?)?;
        for pid in &pids {
            process::send(*pid, signal)?;
        }
        Ok(pids)
    }

    /// Stops the processes that stream to standbys, with SIGSTOP: what is written from now on, no standby receives.
    ///
    /// # Errors
    /// When the server does not run or streams to nobody.
    pub fn hold_senders(&self) -> Result<()> {
        let mut held = 0;
        for pid in process::tree(self.postmaster()?)? {
            if process::title(pid).contains("walsender") {
                process::send(pid, Signal::STOP)?;
                held += 1;
            }
        }
        if held == 0 {
            bail!("{} streams to nobody", self.name);
        }
        Ok(())
    }

    /// Asks the superuser's question and takes the first column of the only row.
    ///
    /// # Errors
    /// When the server does not answer within 5 s.
    pub async fn ask<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> Result<T> {
        let answer = async {
            let (client, connection) = self.local().connect(NoTls).await?;
            let row = drive(connection, async move { client.query_one(sql, &[]).await }).await;
            anyhow::Ok(row?.try_get(0)?)
        };
        tokio::time::timeout(SOON, answer).await.with_context(|| format!("{} does not answer", self.name))?
    }

    /// Which of these rows of the clients' table it has.
    ///
    /// # Errors
    /// When the server does not answer within 30 s.
    pub async fn ids_among(&self, ids: &[i64]) -> Result<Vec<i64>> {
        let work = async {
            let (client, connection) = self.local().connect(NoTls).await?;
            let query = "SELECT id FROM lab WHERE id = ANY ($1)";
            let rows = drive(connection, async move { client.query(query, &[&ids]).await }).await?;
            rows.iter().map(|row| anyhow::Ok(row.try_get(0)?)).collect()
        };
        let answer = tokio::time::timeout(SLOW / 2, work).await;
        answer.with_context(|| format!("{} does not answer", self.name))?
    }

    /// The names of the transactions that are prepared and neither committed nor rolled back.
    ///
    /// # Errors
    /// When the server does not answer within 5 s.
    pub async fn prepared(&self) -> Result<Vec<String>> {
        self.ask("SELECT coalesce(array_agg(gid), '{}') FROM pg_prepared_xacts").await
    }

    /// Runs statements as superuser.
    ///
    /// # Errors
    /// When the server refuses or does not answer within 5 s.
    pub async fn superuser(&self, sql: &str) -> Result<()> {
        let work = async {
            let (client, connection) = self.local().connect(NoTls).await?;
            let done = drive(connection, async move { client.batch_execute(sql).await }).await;
            anyhow::Ok(done?)
        };
        tokio::time::timeout(SOON, work).await.with_context(|| format!("{} does not answer", self.name))?
    }

    /// Whether it answers as a primary.
    ///
    /// # Errors
    /// When it does not answer within 5 s.
    pub async fn is_primary(&self) -> Result<bool> {
        Ok(!self.ask::<bool>("SELECT pg_is_in_recovery()").await?)
    }

    /// How the clients log in over the network, at `host`:`port`.
    #[must_use]
    pub fn client(&self, host: Ipv4Addr, port: u16) -> tokio_postgres::Config {
        let mut config = self.client_of_a_name(port);
        config.host(host.to_string());
        config
    }

    /// How a client logs in wherever a name leads: without a host.
    #[must_use]
    pub fn client_of_a_name(&self, port: u16) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.port(port).user(APP).password(&self.secrets.app).dbname("postgres");
        config
    }

    /// How a client on the server's own host logs in, over the Unix socket.
    #[must_use]
    pub fn local_client(&self) -> tokio_postgres::Config {
        let mut config = self.local();
        config.user(APP).password(&self.secrets.app);
        config
    }

    fn local(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.socket).port(port::POSTGRES).user(ADMIN).password(&self.secrets.admin);
        config.dbname("postgres");
        config
    }

    async fn tool(&self, name: &str, args: impl IntoIterator<Item = String>) -> Result<Said> {
        let program = self.bin.join(name);
        if !program.exists() {
            bail!("there is no {}; `make deps` installs PostgreSQL", program.display());
        }
        must(self.host.command(program, args), SLOW).await
    }
}

/// Runs a query while its connection is driven.
async fn drive<S, T, F>(connection: tokio_postgres::Connection<S, T>, query: F) -> F::Output
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio_postgres::tls::TlsStream + Unpin,
    F: Future,
{
    // The query owns the client; when it ends the client is dropped and so the connection ends. A broken connection
    // shows as an error of the query.
    let (_, output) = tokio::join!(connection, query);
    output
}

fn conninfo(primary: Ipv4Addr, passfile: &Path, name: &str) -> String {
    format!(
        "host={primary} port={} user={REPL} dbname=postgres passfile={} application_name={name}",
        port::POSTGRES,
        show(passfile)
    )
}

fn append(path: &Path, text: &str) -> Result<()> {
    let mut file = std::fs::OpenOptions::new().append(true).open(path)?;
    Ok(std::io::Write::write_all(&mut file, text.as_bytes())?)
}

fn show(path: &Path) -> String {
    path.display().to_string()
}
