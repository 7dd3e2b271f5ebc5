//! BIND with a zone that takes dynamic updates, and a name in it that leads to the primary.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::AsyncWriteExt as _;

use super::ground::{Ground, port};
use super::host::Host;
use super::process::{Process, Said, run, tail};
use super::routes::RouteLines;
use super::wait::{Look, until};

/// The zone.
pub const ZONE: &str = "lab.test.";
/// The name that leads to the primary.
pub const NAME: &str = "db.lab.test.";
/// Seconds that resolvers may keep it.
const TTL: u32 = 1;
/// Of no use elsewhere: the zone is served on loopback, or in a namespace.
const SECRET: &str = "bWVzaC1sYWItc2VjcmV0LTMyLWJ5dGVzLWxvbmchISE=";
const SOON: Duration = Duration::from_secs(10);

/// A running BIND.
#[derive(Debug)]
pub struct Bind {
    host: Host,
    /// Where it is asked.
    pub address: SocketAddrV4,
    folder: PathBuf,
    log: PathBuf,
    /// The process, while it runs.
    pub process: Option<Process>,
}

impl Bind {
    /// Writes the configuration and starts it; the name leads to `first`.
    ///
    /// # Errors
    /// When BIND is not installed, refuses its configuration, or does not come up.
    pub async fn start(ground: &Ground, host: &Host, first: Ipv4Addr) -> Result<Self> {
        let folder = ground.folder("bind")?;
        let address = address(host);
        ground.file("bind/named.conf", &config(address, &folder.display().to_string()))?;
        ground.file("bind/secret", SECRET)?;
        let zone = format!("$TTL 60\n@ IN SOA ns root 1 60 60 3600 5\n@ IN NS ns\nns IN A {}\n", host.ip());
        ground.file("bind/zone", &format!("{zone}{NAME} {TTL} IN A {first}\n"))?;
        let mut bind = Self { host: host.clone(), address, folder, log: ground.log("bind"), process: None };
        bind.restart().await?;
        Ok(bind)
    }

    /// Starts it, with what it left on disk.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart(&mut self) -> Result<()> {
        let file = self.folder.join("named.conf").display().to_string();
        let named = self.host.command("/usr/sbin/named", ["-g", "-n", "1", "-c", &file]);
        let started = Process::start("bind", named, &self.log);
        self.process = Some(started.context("BIND is missing (`make deps` installs it)")?);
        until("BIND answers", SOON, || async {
            let said = self.dig(NAME, "SOA").await?;
            Ok(if said.code == 0 { Look::There(()) } else { Look::NotYet(said.text()) })
        })
        .await
        .with_context(|| format!("BIND does not come up; its log ends\n{}", tail(&self.log, 8)))
    }

    /// Kills it.
    ///
    /// # Errors
    /// When it survives.
    pub async fn kill(&mut self) -> Result<()> {
        match &mut self.process {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    /// What stands at a name, a value a line.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn at(&self, name: &str, kind: &str) -> Result<Vec<String>> {
        let said = self.dig(name, kind).await?;
        if said.code != 0 {
            bail!("dig {name} {kind}: {}", said.text());
        }
        Ok(said.out.lines().map(|line| line.trim().to_owned()).collect())
    }

    async fn dig(&self, name: &str, kind: &str) -> Result<Said> {
        let server = format!("@{}", self.address.ip());
        let port = self.address.port().to_string();
        let words = ["+short", "+tries=1", "+time=1", &server, "-p", &port, name, kind];
        run(self.host.command("dig", words), SOON).await
    }

    /// Changes the name as a person would, with another key than mesh's.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn edit(&self, value: Ipv4Addr) -> Result<()> {
        let key = format!("hmac-sha256:human.:{SECRET}");
        let mut child = self
            .host
            .command("nsupdate", ["-y", &key])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("nsupdate is missing (`make deps` installs it)")?;
        let mut input = child.stdin.take().context("nsupdate has no input")?;
        let script = format!(
            "server {} {}\nupdate delete {NAME} A\nupdate add {NAME} {TTL} A {value}\nsend\n",
            self.address.ip(),
            self.address.port()
        );
        input.write_all(script.as_bytes()).await?;
        drop(input);
        let status = tokio::time::timeout(SOON, child.wait()).await.context("nsupdate hangs")??;
        if !status.success() {
            bail!("nsupdate ended with {status}");
        }
        Ok(())
    }

    /// What agent and group are told of it.
    #[must_use]
    pub fn lines(&self) -> RouteLines {
        let at = self.address;
        let held = format!(
            "[[dns]]\nzone = \"{ZONE}\"\nserver = \"{at}\"\nkey_name = \"mesh\"\nsecret_file = \"{}\"\n\
             authoritative = [\"{at}\"]\n",
            self.folder.join("secret").display(),
        );
        let spec = format!(
            "name = \"orders-name\"\nkind = \"dns\"\n\
             [[route.record]]\nname = \"{NAME}\"\nzone = \"{ZONE}\"\ntype = \"A\"\nttl = {TTL}\n"
        );
        RouteLines { ip: self.host.ip(), held, spec }
    }
}

/// BIND listens on addresses that interfaces have: on loopback that is one, and each lab takes a port of its own.
fn address(host: &Host) -> SocketAddrV4 {
    let [_, _, block, _] = host.ip().octets();
    match host.ip().is_loopback() {
        true => SocketAddrV4::new(Ipv4Addr::LOCALHOST, port::DNS + u16::from(block)),
        false => SocketAddrV4::new(host.ip(), port::DNS),
    }
}

fn config(at: SocketAddrV4, folder: &str) -> String {
    format!(
        "options {{ directory \"{folder}\"; pid-file \"{folder}/pid\"; session-keyfile \"{folder}/session.key\";\n\
         managed-keys-directory \"{folder}\"; listen-on port {} {{ {}; }}; listen-on-v6 {{ none; }};\n\
         recursion no; dnssec-validation no; empty-zones-enable no; max-journal-size 1m; }};\n\
         controls {{ }};\n\
         key mesh. {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};\n\
         key human. {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};\n\
         zone \"{ZONE}\" {{ type primary; file \"zone\"; notify no;\n\
         update-policy {{ grant mesh. name {NAME} A; grant mesh. name _mesh-epoch.{NAME} TXT; grant human. zonesub ANY; }}; }};\n",
        at.port(),
        at.ip()
    )
}
