//! A real agent, and callers who mean it no good, on both of its ports: garbage, silence, floods, far too much, no
//! certificate. It goes on leading, answers whoever belongs to it, and writes down a few lines without a secret.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mesh_node::ca;
use mesh_node::rpc::{AgentClient, CallError};
use mesh_node::tls::material::Files;
use mesh_node::tls::{Dialer, Identity, Material};
use mesh_proto::MeshId;
use mesh_proto::evidence::Report;
use support::{MESH, SOON, port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// More callers than either port serves at a time.
const FLOOD: usize = 400;
const SECRET: &str = "s3cret-of-somebody";

struct Agent {
    dir: tempfile::TempDir,
    child: Child,
    mtls: SocketAddr,
    http: SocketAddr,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn mesh_id() -> MeshId {
    MeshId::new("lab").unwrap()
}

fn identity(name: &str) -> Identity {
    Identity::Agent(name.parse().unwrap())
}

impl Agent {
    /// The only voter of a mesh, leading it.
    async fn leading() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |what: &str| dir.path().join(what);
        ca::init(&at("ca"), &mesh_id()).unwrap();
        ca::issue(&at("ca"), &identity("east"), &[], &at("tls")).unwrap();
        let (mtls, http) =
            (SocketAddr::from(([127, 0, 0, 1], port())), SocketAddr::from(([127, 0, 0, 1], port())));
        let (base, tls) = (dir.path().display(), at("tls"));
        let text = format!(
            "[mesh]\nid = \"lab\"\n[[mesh.voter]]\nid = 1\nagent = \"east\"\nsite = \"east\"\naddress = \"{mtls}\"\n\
             [agent]\nname = \"east\"\nsite = \"east\"\ndata_dir = \"{base}/data\"\nlisten = \"{mtls}\"\nhttp = \"{http}\"\n\
             socket = \"{base}/mesh.sock\"\n[tls]\nca = \"{base}/ca/ca.crt\"\ncert = \"{0}/agent-east.crt\"\nkey = \"{0}/agent-east.key\"\n",
            tls.display()
        );
        std::fs::write(at("mesh.toml"), text).unwrap();
        run(&dir, &["agent", "init", "--config", "mesh.toml"]);
        let log = std::fs::File::create(at("log")).unwrap();
        let child = Command::new(MESH)
            .args(["agent", "--config", "mesh.toml"])
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let agent = Self { dir, child, mtls, http };
        let began = Instant::now();
        while !agent.dir.path().join("mesh.sock").exists() {
            assert!(began.elapsed() < SOON, "{}", agent.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        run(&agent.dir, &["--socket", "mesh.sock", "form"]);
        agent.is_well("formed").await;
        agent
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn material(&self, name: &str) -> Material {
        let (ca, out) = (self.dir.path().join("ca"), self.dir.path().join(name));
        let pair = ca::issue(&ca, &identity(name), &[], &out).unwrap();
        let files = Files { ca: &ca.join("ca.crt"), cert: &pair.cert, key: &pair.key, crl: None };
        Material::load(files, &mesh_id(), &identity(name)).unwrap()
    }

    /// A new connection of a peer gets in, and so does one of a load balancer, each in good time.
    async fn is_well(&self, while_what: &str) {
        let began = Instant::now();
        static PEERS: AtomicU32 = AtomicU32::new(0);
        let material = self.material(&format!("peer-{}", PEERS.fetch_add(1, Ordering::Relaxed)));
        let channel = Dialer::new(material).channel(&identity("east"), &self.mtls.to_string()).unwrap();
        let report = Report {
            agent: "somebody-else".parse().unwrap(),
            boot: 1,
            generation: 1,
            sightings: Vec::new(),
            reaches: Vec::new(),
            starved: None,
            routes: Vec::new(),
            electorate: 0,
            edition: 0,
        };
        let answer = AgentClient::new(mesh_id(), channel).report(&report, SOON).await;
        assert!(matches!(&answer, Err(CallError::Refused(_))), "{while_what}: {answer:?}\n{}", self.log());
        let status =
            self.http_status("GET /readiness HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        assert_eq!(status, "200", "{while_what}: {}", self.log());
        assert!(began.elapsed() < SOON, "{while_what}: it took {:?}", began.elapsed());
    }

    /// The status of an answer, or nothing when the connection is closed without one.
    async fn http_status(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        // It may answer and close before it has read everything.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut answer))
            .await
            .expect("it neither answers nor closes");
        String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap_or_default().to_owned()
    }

    /// Resident memory, in KiB.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

fn run(dir: &tempfile::TempDir, args: &[&str]) {
    let out = Command::new(MESH).args(args).current_dir(dir.path()).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// So many connections that say this much and nothing more.
async fn flood(to: SocketAddr, words: &[u8]) -> Vec<TcpStream> {
    let mut open = Vec::with_capacity(FLOOD);
    for _ in 0..FLOOD {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let _ = stream.write_all(words).await;
        open.push(stream);
    }
    open
}

/// The beginning of a TLS handshake, as a client sends it before it falls silent.
fn client_hello(ca: &Path) -> Vec<u8> {
    let mut client =
        rustls::ClientConnection::new(stranger(ca), "agent.east.mesh".try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// A client that trusts the mesh and has no certificate of it.
fn stranger(ca: &Path) -> Arc<rustls::ClientConfig> {
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(ca.join("ca.crt")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_shut_nobody_out_and_fill_no_log() {
    let agent = Agent::leading().await;
    let ca = agent.dir.path().join("ca");
    let memory = agent.memory();

    let garbage = format!("{SECRET} \x00\u{ff}\r\n").repeat(500);
    drop(flood(agent.mtls, garbage.as_bytes()).await);
    drop(flood(agent.http, garbage.as_bytes()).await);
    agent.is_well("after garbage").await;

    let held = [flood(agent.mtls, b"").await, flood(agent.mtls, &client_hello(&ca)).await];
    agent.is_well("beside silent handshakes").await;
    let half = format!("GET /primary HTTP/1.1\r\nAuthorization: {SECRET}\r\n");
    let slow = flood(agent.http, half.as_bytes()).await;
    agent.is_well("beside unfinished requests").await;
    drop((held, slow));

    for _ in 0..20 {
        let tls = TlsConnector::from(stranger(&ca));
        let stream = TcpStream::connect(agent.mtls).await.unwrap();
        // In TLS 1.3 the client is done before the server has looked at its certificate.
        if let Ok(mut stream) = tls.connect("agent.east.mesh".try_into().unwrap(), stream).await {
            let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
            let mut answer = Vec::new();
            let ended = stream.read_to_end(&mut answer).await;
            assert!(
                ended.is_err() && answer.is_empty(),
                "it spoke with somebody without a certificate: {answer:?}"
            );
        }
    }
    agent.is_well("after callers without a certificate").await;

    let log = agent.log();
    assert!(!log.contains(SECRET), "{log}");
    let complaints = log.lines().filter(|line| line.contains("WARN")).count();
    assert!((1..60).contains(&complaints), "{complaints} lines about {} callers:\n{log}", 5 * FLOOD);
    assert!(log.contains("refused a connection") && !log.contains("panicked"), "{log}");
    let grown = agent.memory().saturating_sub(memory);
    assert!(grown < 64 << 10, "{grown} KiB more than before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_much_is_refused_by_its_size() {
    let agent = Agent::leading().await;
    let memory = agent.memory();
    let long = "x".repeat(8 << 20);
    let head =
        agent.http_status(&format!("GET /primary HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\n\r\n")).await;
    assert!(head == "431" || head.is_empty(), "a long head: {head:?}");
    let path = agent.http_status(&format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    assert!(matches!(path.as_str(), "414" | "431" | ""), "a long path: {path:?}");
    let many: String = (0..5000).map(|n| format!("h{n}: v\r\n")).collect();
    let heads = agent.http_status(&format!("GET /primary HTTP/1.1\r\nHost: a\r\n{many}\r\n")).await;
    assert!(heads == "431" || heads.is_empty(), "many heads: {heads:?}");
    // Announced, sent in part; nobody reads it.
    let request = format!("POST /primary HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n{long}");
    assert_eq!(agent.http_status(&request).await, "405");
    for request in
        ["\0\0\0\0\r\n\r\n", "GET\r\n\r\n", "GET /x HTTP/9.9\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        let status = agent.http_status(request).await;
        assert!(
            status.is_empty() || status.starts_with('4') || status.starts_with('5'),
            "{request:?}: {status:?}"
        );
    }
    agent.is_well("after too much").await;
    let grown = agent.memory().saturating_sub(memory);
    assert!(grown < 32 << 10, "{grown} KiB more than before");
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
}
