//! The dialling side: channels that reach exactly the agent or guard that was meant.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::accept::peer_chain;
use super::tethered::{Tethered, until_refused};
use super::{Credentials, Identity, identity::IdentityError};

/// A connect that takes longer than this is given up and tried again: a lost SYN is repeated after one second only.
const CONNECT_DEADLINE: Duration = Duration::from_millis(1000);
/// A silent connection is asked after this long, and closed after [`KEEPALIVE_TIMEOUT`] more: without it a vanished
/// peer would be noticed by TCP alone, after minutes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_millis(1000);
/// How long the answer to a keepalive may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_millis(1000);
/// Longest any call may take; callers give shorter deadlines of their own.
const CALL_DEADLINE: Duration = Duration::from_secs(120);

/// Makes channels with this process's identity.
#[derive(Debug, Clone)]
pub struct Dialer {
    credentials: Credentials,
}

impl Dialer {
    /// A dialer with this identity.
    #[must_use]
    pub fn new(credentials: impl Into<Credentials>) -> Self {
        Self { credentials: credentials.into() }
    }

    /// A channel to a peer at `address` (`IP:port`, or `host:port`). It connects at its first call, and again after
    /// each loss; a call while the peer is not reached fails, it never queues.
    ///
    /// # Errors
    /// [`DialError`] if the peer's name or the address is malformed. Nothing is connected here.
    pub fn channel(&self, peer: &Identity, address: &str) -> Result<Channel, DialError> {
        self.channel_with(peer, address, |endpoint| endpoint)
    }

    /// As [`Dialer::channel`], with other keepalive or deadlines than usual (voters among themselves are stricter).
    ///
    /// # Errors
    /// As [`Dialer::channel`].
    pub fn channel_with(
        &self,
        peer: &Identity,
        address: &str,
        tune: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Channel, DialError> {
        let name = peer.server_name().map_err(DialError::Name)?;
        let endpoint = endpoint(&format!("http://{address}"))
            .map_err(|source| DialError::Address { address: address.to_owned(), source })?;
        let credentials = self.credentials.clone();
        let address: Arc<str> = Arc::from(address);
        Ok(tune(endpoint).connect_with_connector_lazy(service_fn(move |_: Uri| {
            let (credentials, name, address) = (credentials.clone(), name.clone(), Arc::clone(&address));
            async move { connect(&credentials, name, &address).await.map(TokioIo::new) }
        })))
    }
}

/// A channel to the agent on this host, over its Unix socket.
///
/// # Errors
/// [`DialError::Socket`] if nothing listens there.
pub async fn local(socket: &std::path::Path) -> Result<Channel, DialError> {
    let refused = |source| DialError::Socket { path: socket.to_owned(), source };
    let path = socket.to_owned();
    endpoint("http://agent.invalid")
        .map_err(|source| refused(source.into()))?
        .connect_with_connector(service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|source| refused(source.into()))
}

/// Why a channel could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The peer's name cannot stand in a certificate.
    #[error("the peer's name is not usable")]
    Name(#[source] IdentityError),
    /// The address is not one.
    #[error("{address:?} is no address; expected IP:port")]
    Address {
        /// As given.
        address: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// No agent on this host.
    #[error("no agent answers at {}; start it (`mesh agent`), or name its configuration with --config", path.display())]
    Socket {
        /// The socket.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn endpoint(uri: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(uri.to_owned())?
        .connect_timeout(CONNECT_DEADLINE)
        .timeout(CALL_DEADLINE)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

async fn connect(
    credentials: &Credentials,
    name: ServerName<'static>,
    address: &str,
) -> io::Result<Tethered<tokio_rustls::client::TlsStream<TcpStream>>> {
    let connecting = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        // Before the handshake, so that nothing newer is missed in between.
        let newer = credentials.subscribe();
        let stream = TlsConnector::from(credentials.current().client()).connect(name, stream).await?;
        let chain = peer_chain(stream.get_ref().1);
        Ok(Tethered::new(stream, until_refused(newer, chain)))
    };
    tokio::time::timeout(CONNECT_DEADLINE, connecting)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
