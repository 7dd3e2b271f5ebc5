//! A real PgBouncer with two servers that speak just enough of PostgreSQL's protocol to say their names.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use mesh_adapters::Mark;
use mesh_adapters::pgbouncer::{ConsoleAt, OnStuck, Settings, Wanted};
use mesh_proto::effect::StepRef;
use mesh_proto::{Epoch, RunId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::contract::way::{Cut, way};

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// Where nobody listens.
pub fn free_port() -> SocketAddr {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

pub struct Lab {
    dir: tempfile::TempDir,
    listen: SocketAddr,
    east: SocketAddr,
    dr: SocketAddr,
    process: Child,
}

impl Lab {
    pub async fn start(pool_mode: &str) -> Self {
        Self::with(pool_mode, server("east").await).await
    }

    /// With another server at east.
    pub async fn with(pool_mode: &str, east: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (listen, dr) = (free_port(), server("dr").await);
        let at = dir.path().display();
        let main = format!(
            "%include {at}/app.ini\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\n\
             auth_type = scram-sha-256\nauth_file = {at}/users\nadmin_users = mesh\nstats_users = looker\n\
             pool_mode = {pool_mode}\nserver_login_retry = 0.2\n",
            listen.port()
        );
        let users = "\"mesh\" \"secret\"\n\"looker\" \"secret\"\n\"app\" \"secret\"\n";
        // As an operator writes it at first: without a mark.
        let entry = format!("[databases]\napp = host=127.0.0.1 port={} pool_size=7\n", east.port());
        for (name, text) in [("main", main.as_str()), ("users", users), ("app.ini", &entry)] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let process = spawn(&dir.path().join("main"));
        let lab = Self { dir, listen, east, dr, process };
        lab.ready().await;
        lab
    }

    async fn ready(&self) {
        let end = soon();
        while TcpStream::connect(self.listen).await.is_err() {
            assert!(Instant::now() < end, "PgBouncer does not come up");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn stop(&mut self) {
        if self.process.id().is_some() {
            self.process.kill().await.unwrap();
        }
    }
    pub async fn restart(&mut self) {
        self.stop().await;
        self.process = spawn(&self.dir.path().join("main"));
        self.ready().await;
    }

    pub fn settings(&self) -> Settings {
        Settings {
            console: ConsoleAt::Tcp(self.listen),
            user: "mesh".to_owned(),
            passfile: Some(self.passfile("secret")),
            file: self.file_path(),
            entry: "pool_size=7".to_owned(),
            pause: Duration::from_millis(300),
            on_stuck: OnStuck::Kill,
        }
    }

    /// The same, by a way that is cut.
    pub async fn through(&self, cut: Cut) -> Settings {
        Settings { console: ConsoleAt::Tcp(way(self.listen, cut).await), ..self.settings() }
    }

    pub fn passfile(&self, password: &str) -> PathBuf {
        let path = self.dir.path().join(format!("pass-{password}"));
        std::fs::write(&path, format!("*:*:*:*:{password}\n")).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    pub fn to(&self, server: &str, epoch: u64) -> Wanted {
        let address = if server == "east" { self.east } else { self.dr };
        let step = StepRef { run: RunId(5), step: 8, attempt: 1 };
        let mark = Mark { route: "orders/app".to_owned(), epoch: Epoch(epoch), step };
        Wanted { database: "app".to_owned(), address, mark }
    }

    pub fn file_path(&self) -> PathBuf {
        self.dir.path().join("app.ini")
    }
    pub fn file(&self) -> String {
        std::fs::read_to_string(self.file_path()).unwrap()
    }

    pub async fn client(&self) -> Client {
        connect(self.listen, "app", "app").await
    }

    /// The name of the server that a new client reaches; `None` when it waits or is refused.
    pub async fn reached(&self) -> Option<String> {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.listen.port()).user("app").password("secret").dbname("app");
        let asked = async {
            let (client, connection) = config.connect(NoTls).await.ok()?;
            let driver = tokio::spawn(connection);
            let name = ask(&client).await;
            driver.abort();
            name
        };
        tokio::time::timeout(Duration::from_secs(1), asked).await.ok()?
    }

    pub async fn console(&self, command: &str) -> Vec<SimpleQueryMessage> {
        connect(self.listen, "mesh", "pgbouncer").await.simple_query(command).await.unwrap()
    }

    pub async fn until_paused(&self) {
        let end = soon();
        loop {
            let rows = self.console("SHOW DATABASES").await;
            let paused = rows.iter().any(|row| {
                let SimpleQueryMessage::Row(row) = row else { return false };
                row.get("name") == Some("app") && row.get("paused") == Some("1")
            });
            if paused {
                return;
            }
            assert!(Instant::now() < end, "it is not paused");
        }
    }
}

fn spawn(file: &Path) -> Child {
    let mut command = Command::new("pgbouncer");
    if rustix::process::geteuid().is_root() {
        // It refuses to run as root.
        command.args(["-u", "nobody"]);
    }
    command
        .arg(file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("these tests need PgBouncer: apt-get install pgbouncer")
}

async fn connect(at: SocketAddr, user: &str, database: &str) -> Client {
    let mut config = Config::new();
    config.host("127.0.0.1").port(at.port()).user(user).password("secret").dbname(database);
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The name of the server behind a session.
pub async fn ask(client: &Client) -> Option<String> {
    let answer = client.simple_query("who").await.ok()?;
    answer.iter().find_map(|message| {
        let SimpleQueryMessage::Row(row) = message else { return None };
        row.get(0).map(str::to_owned)
    })
}

/// A server that lets everybody in, knows BEGIN and COMMIT, and answers everything else with its name.
async fn server(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that goes away is no failure.
            tokio::spawn(async move { drop(serve(stream, name).await) });
        }
    });
    address
}

async fn serve(mut stream: TcpStream, name: &str) -> std::io::Result<()> {
    let mut startup = vec![0; stream.read_u32().await? as usize - 4];
    stream.read_exact(&mut startup).await?;
    let mut hello = message(b'R', &[0; 4]);
    hello.extend(message(b'S', b"server_version\x0015.0\0"));
    hello.extend(message(b'S', b"client_encoding\0UTF8\0"));
    hello.extend(message(b'Z', b"I"));
    stream.write_all(&hello).await?;
    let mut state = b'I';
    loop {
        let kind = stream.read_u8().await?;
        let mut body = vec![0; stream.read_u32().await? as usize - 4];
        stream.read_exact(&mut body).await?;
        if kind != b'Q' {
            return Ok(());
        }
        let mut answer = Vec::new();
        match body.as_slice() {
            b"BEGIN\0" => state = b'T',
            b"COMMIT\0" => state = b'I',
            _ => {
                let column =
                    [b"\0\x01name\0".as_slice(), &[0; 6], &[0, 0, 0, 25], &[255; 6], &[0; 2]].concat();
                answer.extend(message(b'T', &column));
                let length = u32::try_from(name.len()).unwrap().to_be_bytes();
                answer.extend(message(b'D', &[&[0, 1], length.as_slice(), name.as_bytes()].concat()));
            }
        }
        answer.extend(message(b'C', b"OK\0"));
        answer.extend(message(b'Z', &[state]));
        stream.write_all(&answer).await?;
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[kind], length.as_slice(), body].concat()
}
