//! A `moto` server of our own: it judges the form of requests and answers. It is more lenient than AWS about what it accepts
//! (a stale DELETE passes), so that nothing here relies on what it refuses.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

pub struct Moto {
    pub address: SocketAddr,
    _process: Child,
}

impl Moto {
    pub async fn start() -> Self {
        let address = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let mut command = Command::new("moto_server");
        command.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let process =
            command.spawn().expect("moto_server does not start: pip install 'moto[server]' (tests/deps.sh)");
        let until = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(address).await.is_err() {
            assert!(Instant::now() < until, "moto_server does not listen");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Self { address, _process: process }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A request of an administrator, who is another than the adapter: its own words, and no SDK.
    pub async fn ask(&self, service: &str, request: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let kind = if service == "route53" { "text/xml" } else { "application/x-www-form-urlencoded" };
        let text = format!(
            "{request} HTTP/1.1\r\nHost: {service}.us-east-1.amazonaws.com\r\nConnection: close\r\nContent-Type: {kind}\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=AKIDADMIN/20260101/us-east-1/{service}/aws4_request, \
             SignedHeaders=host, Signature=0\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let first = answer.lines().next().unwrap_or_default();
        assert!(first.contains(" 200 ") || first.contains(" 201 "), "{request}: {answer}");
        answer
    }
}

/// What stands in the first element of this name.
pub fn element(text: &str, name: &str) -> String {
    let inside = text.split(&format!("<{name}>")).nth(1);
    let inside = inside.and_then(|rest| rest.split(&format!("</{name}>")).next());
    inside.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
}
