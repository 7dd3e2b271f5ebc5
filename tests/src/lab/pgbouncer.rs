//! PgBouncer in front of the databases: as an operator would have set it up for mesh.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::ground::{Ground, port};
use super::host::Host;
use super::postgres::{APP, PROBE, Secrets};
use super::process::Process;
use super::routes::RouteLines;
use super::wait::{Look, until};

/// The database's name, as clients know it.
pub const DATABASE: &str = "orders";
const SOON: Duration = Duration::from_secs(5);
const ENTRY: &str = "dbname=postgres pool_size=8";

/// A running PgBouncer.
#[derive(Debug)]
pub struct Pgbouncer {
    /// Its host.
    pub host: Host,
    file: PathBuf,
    passfile: PathBuf,
    /// The process.
    pub process: Process,
}

impl Pgbouncer {
    /// Writes the configuration and starts it; the database is at `first`.
    ///
    /// # Errors
    /// When PgBouncer is not installed, refuses its configuration, or does not come up.
    pub async fn start(ground: &Ground, host: &Host, first: &Host, secrets: &Secrets) -> Result<Self> {
        let folder = ground.folder("pgbouncer")?;
        let at = folder.display();
        let entry =
            format!("[databases]\n{DATABASE} = host={} port={} {ENTRY}\n", first.ip(), port::POSTGRES);
        let file = ground.file("pgbouncer/orders.ini", &entry)?;
        let users = format!(
            "\"{APP}\" \"{}\"\n\"{PROBE}\" \"{}\"\n\"mesh\" \"{}\"\n",
            secrets.app, secrets.probe, secrets.probe
        );
        ground.file("pgbouncer/users", &users)?;
        let passfile = ground.file("pgbouncer/console.pgpass", &format!("*:*:*:mesh:{}\n", secrets.probe))?;
        let config = format!(
            "%include {at}/orders.ini\n[pgbouncer]\nlisten_addr = {}\nlisten_port = {}\nunix_socket_dir =\n\
             auth_type = scram-sha-256\nauth_file = {at}/users\nadmin_users = mesh\npool_mode = session\n\
             server_login_retry = 0.2\nserver_connect_timeout = 1\nignore_startup_parameters = extra_float_digits,options\n\
             query_wait_timeout = 5\n",
            host.ip(),
            port::POOLED
        );
        let main = ground.file("pgbouncer/pgbouncer.ini", &config)?.display().to_string();
        let process =
            Process::start("pgbouncer", host.command("pgbouncer", ["-q", &main]), &ground.log("pgbouncer"))
                .context("PgBouncer is missing (`make deps` installs it)")?;
        let started = Self { host: host.clone(), file, passfile, process };
        let address = (host.ip(), port::POOLED);
        until("PgBouncer listens", SOON, || async {
            Ok(match tokio::net::TcpStream::connect(address).await {
                Ok(_) => Look::There(()),
                Err(error) => Look::NotYet(error.to_string()),
            })
        })
        .await?;
        Ok(started)
    }

    /// What agent and group are told of it.
    #[must_use]
    pub fn lines(&self) -> RouteLines {
        let (ip, port) = (self.host.ip(), port::POOLED);
        let held = format!(
            "[[pgbouncer]]\ndatabase = \"{DATABASE}\"\nconsole = \"tcp:{ip}:{port}\"\nuser = \"mesh\"\n\
             password_file = \"{}\"\nfile = \"{}\"\nentry = \"{ENTRY}\"\n",
            self.passfile.display(),
            self.file.display()
        );
        let spec = format!(
            "name = \"orders-pooled\"\nkind = \"pgbouncer\"\ndatabase = \"{DATABASE}\"\nlisten = \"{ip}:{port}\"\n"
        );
        RouteLines { ip, held, spec }
    }
}
