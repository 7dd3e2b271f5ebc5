//! A BIND of our own: a primary with a TSIG key, optionally a secondary, on free ports and in a temporary directory.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use mesh_adapters::dns::rfc2136::{Algorithm, KeyFile, NameServer};
use tokio::process::{Child, Command};

pub const ZONE: &str = "ha.test.";
const SECRET: &str = "bWVzaC1kbnMtdGVzdC1zZWNyZXQtMzItYnl0ZXMhISE=";

pub struct Bind {
    pub address: SocketAddr,
    pub dir: tempfile::TempDir,
    process: Child,
}

pub fn free_port() -> SocketAddr {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

impl Bind {
    /// The primary server of the zone, with the key `mesh.`, which may change `db` and `ro`, and with the key `human.`,
    /// which may change anything. `secondary` is told of changes.
    pub async fn primary(secondary: Option<SocketAddr>) -> Self {
        let notify = secondary.map_or_else(
            || "notify no;".to_owned(),
            |to| {
                format!("notify explicit; notify-delay 0; also-notify {{ {} port {}; }};", to.ip(), to.port())
            },
        );
        let grants = ["db", "ro", "alias"].map(|name| {
            format!(
                "grant mesh. name {name}.{ZONE} A AAAA CNAME; grant mesh. name _mesh-epoch.{name}.{ZONE} TXT;"
            )
        });
        let zone = format!(
            "zone \"{ZONE}\" {{ type primary; file \"zone\"; {notify} allow-transfer {{ any; }};\n\
             update-policy {{ {} grant human. zonesub ANY; }}; }};\n",
            grants.join(" ")
        );
        // Whoever else asked for a free port at this moment may have been given the same; BIND then runs without it.
        for _ in 0..5 {
            let bind = Self::start(free_port(), &zone).await;
            if !bind.log().contains("address in use") {
                return bind;
            }
        }
        panic!("no port stays free")
    }

    pub async fn secondary(at: SocketAddr, primary: SocketAddr) -> Self {
        let zone = format!(
            "zone \"{ZONE}\" {{ type secondary; file \"zone.copy\"; masterfile-format text; notify no;\n\
             primaries {{ {} port {}; }}; allow-notify {{ any; }}; }};\n",
            primary.ip(),
            primary.port()
        );
        Self::start(at, &zone).await
    }

    async fn start(address: SocketAddr, zone: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let conf = format!(
            "options {{ directory \"{path}\"; pid-file \"{path}/pid\"; session-keyfile \"{path}/session.key\";\n\
             managed-keys-directory \"{path}\"; listen-on port {} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};\n\
             recursion no; dnssec-validation no; empty-zones-enable no; max-journal-size 1m; }};\n\
             controls {{ }};\n\
             key mesh. {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};\n\
             key human. {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};\n{zone}",
            address.port()
        );
        std::fs::write(dir.path().join("named.conf"), conf).unwrap();
        std::fs::write(
            dir.path().join("zone"),
            "$TTL 60\n@ IN SOA ns root 1 60 60 3600 5\n@ IN NS ns\nns IN A 127.0.0.9\n",
        )
        .unwrap();
        std::fs::write(dir.path().join("secret"), SECRET).unwrap();
        let process = Self::spawn(dir.path());
        let bind = Self { address, dir, process };
        bind.answers().await;
        bind
    }

    fn spawn(dir: &Path) -> Child {
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let mut command = Command::new("/usr/sbin/named");
        command.args(["-g", "-n", "1", "-c"]).arg(dir.join("named.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        command.spawn().expect("named does not start: install bind9 (tests/deps.sh)")
    }

    /// Starts it again with what it left on disk.
    pub async fn restart(&mut self) {
        self.process = Self::spawn(self.dir.path());
        self.answers().await;
    }

    async fn answers(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        while !self.log().contains(" running\n") {
            assert!(Instant::now() < until, "named does not run:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    pub async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    /// The zone with mesh's key, at the server itself or at what stands in front of it.
    pub fn zone(&self, at: SocketAddr) -> NameServer {
        zone(at, "mesh.", &self.dir.path().join("secret"))
    }

    /// Edits the zone by hand, as people do.
    pub async fn nsupdate(&self, script: &str) {
        use tokio::io::AsyncWriteExt as _;
        let mut command = Command::new("nsupdate");
        command.args(["-y", &format!("hmac-sha256:human.:{SECRET}")]);
        let mut child =
            command.stdin(Stdio::piped()).kill_on_drop(true).spawn().expect("install bind9-dnsutils");
        let script = format!("server 127.0.0.1 {}\n{script}\nsend\n", self.address.port());
        let mut input = child.stdin.take().unwrap();
        input.write_all(script.as_bytes()).await.unwrap();
        drop(input);
        assert!(child.wait().await.unwrap().success(), "nsupdate refused {script}");
    }
}

pub fn zone(server: SocketAddr, key: &str, secret: &Path) -> NameServer {
    NameServer {
        zone: ZONE.to_owned().try_into().unwrap(),
        server,
        key: KeyFile {
            name: key.to_owned(),
            algorithm: Algorithm::HmacSha256,
            secret_file: secret.to_owned(),
        },
        authoritative: Vec::new(),
    }
}
