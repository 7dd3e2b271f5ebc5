//! Health checks of services over TCP and HTTP. They look, once, under a deadline; how often and how many times is asked
//! elsewhere.
//!
//! Names are not resolved: an address is literal, so that a check speaks of the service and not of a name server. An HTTP
//! answer counts by its status alone; redirects are not followed, bodies are not read.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout_at;

/// The longest status line that is read.
const STATUS_LINE_BYTES: u64 = 1024;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// Somebody accepts connections.
    Tcp {
        /// Where.
        address: SocketAddr,
    },
    /// Somebody answers a GET with a good status.
    Http {
        /// Where.
        address: SocketAddr,
        /// The `Host` header.
        host: String,
        /// The path, with its query.
        path: String,
        /// Which statuses are good.
        good: RangeInclusive<u16>,
    },
}

/// Why a service does not count as healthy.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    /// Nothing in time.
    #[error("no answer from {address} in time")]
    Late {
        /// Where.
        address: SocketAddr,
    },
    /// No connection, or it broke.
    #[error("{address} cannot be asked")]
    Io {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another status.
    #[error("{address}{path} answers with status {status}, expected {} to {}", good.start(), good.end())]
    Status {
        /// Where.
        address: SocketAddr,
        /// The path.
        path: String,
        /// The status.
        status: u16,
        /// What is good.
        good: RangeInclusive<u16>,
    },
    /// Something else listens there.
    #[error("what {address} answers is not HTTP")]
    NotHttp {
        /// Where.
        address: SocketAddr,
    },
    /// A path that would carry a second request.
    #[error("{0:?} is no path or host of a request; write it without blanks, the path beginning with /")]
    BadRequest(String),
}

impl Check {
    /// Asks once.
    ///
    /// # Errors
    /// Why the service does not count as healthy.
    pub async fn ask(&self, deadline: Instant) -> Result<Duration, Unhealthy> {
        let began = Instant::now();
        let (Self::Tcp { address } | Self::Http { address, .. }) = self;
        let asked = timeout_at(deadline.into(), self.converse()).await;
        asked.map_err(|_elapsed| Unhealthy::Late { address: *address })??;
        Ok(began.elapsed())
    }

    async fn converse(&self) -> Result<(), Unhealthy> {
        match self {
            Self::Tcp { address } => connect(*address).await.map(drop),
            Self::Http { address, host, path, good } => {
                let status = get(*address, host, path).await?;
                if good.contains(&status) {
                    return Ok(());
                }
                let (path, good) = (path.clone(), good.clone());
                Err(Unhealthy::Status { address: *address, path, status, good })
            }
        }
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, Unhealthy> {
    TcpStream::connect(address).await.map_err(|source| Unhealthy::Io { address, source })
}

async fn get(address: SocketAddr, host: &str, path: &str) -> Result<u16, Unhealthy> {
    let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    if let Some(bad) = [host, path].into_iter().find(|text| !plain(text)) {
        return Err(Unhealthy::BadRequest(bad.to_owned()));
    }
    if !path.starts_with('/') {
        return Err(Unhealthy::BadRequest(path.to_owned()));
    }
    let failed = |source| Unhealthy::Io { address, source };
    let mut stream = connect(address).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: mesh\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut line = Vec::new();
    let mut answer = BufReader::new(stream.take(STATUS_LINE_BYTES));
    answer.read_until(b'\n', &mut line).await.map_err(failed)?;
    status(&line).ok_or(Unhealthy::NotHttp { address })
}

/// `HTTP/1.1 200 OK`
fn status(line: &[u8]) -> Option<u16> {
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    words.next()?.strip_prefix("HTTP/1.")?;
    let digits = words.next()?.trim_end();
    let plain = digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let status: u16 = plain.then(|| digits.parse().ok()).flatten()?;
    (100..600).contains(&status).then_some(status)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    async fn says(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 512];
                let asked = stream.read(&mut request).await.unwrap_or(0);
                assert!(asked == 0 || request.starts_with(b"GET /health?a=1 HTTP/1.1\r\nHost: api\r\n"));
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        address
    }

    fn http(address: SocketAddr) -> Check {
        let (host, path) = ("api".to_owned(), "/health?a=1".to_owned());
        Check::Http { address, host, path, good: 200..=299 }
    }

    #[tokio::test]
    async fn a_status_decides() {
        let good = says("HTTP/1.1 204 No Content\r\n\r\n").await;
        http(good).ask(soon()).await.unwrap();
        Check::Tcp { address: good }.ask(soon()).await.unwrap();
        let bad = says("HTTP/1.1 503 Service Unavailable\r\n\r\n").await;
        assert!(matches!(http(bad).ask(soon()).await, Err(Unhealthy::Status { status: 503, .. })));
        for answer in ["SSH-2.0-x\r\n", "HTTP/1.1 abc\r\n", "HTTP/1.1 999 x\r\n", "\n"] {
            let other = says(answer).await;
            assert!(matches!(http(other).ask(soon()).await, Err(Unhealthy::NotHttp { .. })), "{answer}");
        }
    }

    #[tokio::test]
    async fn nobody_and_silence_are_unhealthy() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let began = Instant::now();
        let silent = http(address).ask(began + Duration::from_millis(100)).await;
        assert!(matches!(silent, Err(Unhealthy::Late { .. })), "{silent:?}");
        assert!(began.elapsed() < Duration::from_secs(2));
        drop(listener);
        assert!(matches!(http(address).ask(soon()).await, Err(Unhealthy::Io { .. })));
        let path = "/x HTTP/1.1\r\nHost: y\r\n\r\nGET /z".to_owned();
        let two = Check::Http { address, host: "api".to_owned(), path, good: 200..=299 };
        assert!(matches!(two.ask(soon()).await, Err(Unhealthy::BadRequest(_))));
    }

    #[test]
    fn fuzz_status() {
        mesh_fuzz::fuzz!("status", |bytes| {
            let Some(status) = mesh_fuzz::bounded(bytes.len(), || status(bytes)) else { return };
            let line = std::str::from_utf8(bytes).unwrap();
            assert!(line.starts_with("HTTP/1.") && line.contains(&format!(" {status}")), "{line:?}");
        });
    }
}
