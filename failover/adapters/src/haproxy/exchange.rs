//! One command and its answer over HAProxy's admin socket. A connection each: HAProxy closes it behind the answer, so
//! that an answer is known to be whole.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout_at;

/// Longest accepted answer. A thousand servers are about 200 kB of state.
const MAX_ANSWER_BYTES: u64 = 4 * 1024 * 1024;

/// Where HAProxy's admin socket is (`stats socket … level admin`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP socket.
    Tcp(SocketAddr),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The unix socket does not exist.
    #[error("there is no socket {endpoint}")]
    Missing {
        /// Where.
        endpoint: Endpoint,
    },
    /// This user may not open it.
    #[error("permission denied at {endpoint}")]
    Permission {
        /// Where.
        endpoint: Endpoint,
    },
    /// Nobody listens.
    #[error("nobody listens at {endpoint}")]
    NotListening {
        /// Where.
        endpoint: Endpoint,
    },
    /// Connecting failed otherwise.
    #[error("cannot connect to {endpoint}")]
    Connect {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The deadline passed.
    #[error("no answer from {endpoint} in time")]
    Late {
        /// Where.
        endpoint: Endpoint,
        /// Whether the command was on its way.
        sent: bool,
    },
    /// The connection broke.
    #[error("the connection to {endpoint} broke")]
    Broken {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The answer ended before it was whole, as when HAProxy dies.
    #[error("{endpoint} closed the connection before the answer was whole")]
    CutShort {
        /// Where.
        endpoint: Endpoint,
    },
    /// The answer is not text, or far too long: something else listens there.
    #[error("what {endpoint} answers is not HAProxy's runtime API")]
    NotHaproxy {
        /// Where.
        endpoint: Endpoint,
    },
}

impl ExchangeError {
    /// Whether the command may have reached HAProxy.
    #[must_use]
    pub const fn may_have_been_done(&self) -> bool {
        match self {
            Self::Missing { .. }
            | Self::Permission { .. }
            | Self::NotListening { .. }
            | Self::Connect { .. } => false,
            Self::Late { sent, .. } => *sent,
            Self::Broken { .. } | Self::CutShort { .. } | Self::NotHaproxy { .. } => true,
        }
    }
}

/// Sends one command and reads its answer, without the blank line that ends it.
pub(super) async fn exchange(
    endpoint: &Endpoint,
    command: &str,
    deadline: Instant,
) -> Result<String, ExchangeError> {
    let late = |sent| ExchangeError::Late { endpoint: endpoint.clone(), sent };
    let connected = async {
        match endpoint {
            Endpoint::Unix(path) => UnixStream::connect(path).await.map(|s| Box::new(s) as Box<dyn Stream>),
            Endpoint::Tcp(address) => {
                TcpStream::connect(address).await.map(|s| Box::new(s) as Box<dyn Stream>)
            }
        }
    };
    let stream = timeout_at(deadline.into(), connected).await.map_err(|_| late(false))?;
    let stream = stream.map_err(|source| refused(endpoint, source))?;
    let answer = timeout_at(deadline.into(), converse(stream, command)).await.map_err(|_| late(true))?;
    let bytes = answer.map_err(|source| ExchangeError::Broken { endpoint: endpoint.clone(), source })?;
    if bytes.len() as u64 > MAX_ANSWER_BYTES {
        return Err(ExchangeError::NotHaproxy { endpoint: endpoint.clone() });
    }
    let text =
        String::from_utf8(bytes).map_err(|_| ExchangeError::NotHaproxy { endpoint: endpoint.clone() })?;
    // An empty answer is one newline, any other ends with a blank line.
    match text.strip_suffix("\n\n").or_else(|| text.strip_prefix('\n').filter(|rest| rest.is_empty())) {
        Some(whole) => Ok(whole.trim_end_matches('\n').to_owned()),
        None => Err(ExchangeError::CutShort { endpoint: endpoint.clone() }),
    }
}

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn converse(mut stream: Box<dyn Stream>, command: &str) -> io::Result<Vec<u8>> {
    stream.write_all(format!("{command}\n").as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.take(MAX_ANSWER_BYTES + 1).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

fn refused(endpoint: &Endpoint, source: io::Error) -> ExchangeError {
    let endpoint = endpoint.clone();
    if source.kind() == io::ErrorKind::NotFound {
        ExchangeError::Missing { endpoint }
    } else if source.kind() == io::ErrorKind::PermissionDenied {
        ExchangeError::Permission { endpoint }
    } else if source.kind() == io::ErrorKind::ConnectionRefused {
        ExchangeError::NotListening { endpoint }
    } else {
        ExchangeError::Connect { endpoint, source }
    }
}
