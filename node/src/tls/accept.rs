//! The listening side: accepts connections, requires a certificate, and hands over only those whose caller is known.
//!
//! A slow or silent caller cannot hold up others: each handshake runs in its own task with a deadline, both handshakes and
//! connections are bounded, and the oldest handshake makes way for the newest, so that silent callers shut nobody out.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use super::tethered::{Tethered, until_refused};
use super::{Credentials, Identity};
use crate::crowd::{Crowd, Sparing};
use crate::rpc::Caller;

/// A handshake on a healthy network takes a few milliseconds; one that takes this long is dead.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(2);
/// Handshakes at a time, the newest: callers without a certificate get no further than this.
const HANDSHAKES: usize = 64;
/// Connections at a time: a mesh of 100 agents with 100 guards keeps about 300.
const CONNECTIONS: usize = 1024;
/// After an error of `accept` itself (out of descriptors) another attempt at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections whose callers are known, for `tonic`'s `serve_with_incoming`. Dropping it stops listening.
#[derive(Debug)]
pub struct Incoming {
    ready: mpsc::Receiver<MeshStream>,
    accepting: AbortHandle,
}

impl Incoming {
    /// Starts accepting on a bound listener.
    #[must_use]
    pub fn start(listener: TcpListener, credentials: &Credentials) -> Self {
        let (sender, ready) = mpsc::channel(HANDSHAKES);
        let accepting = tokio::spawn(accept(listener, credentials.clone(), sender)).abort_handle();
        Self { ready, accepting }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Stream for Incoming {
    type Item = io::Result<MeshStream>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|stream| stream.map(Ok))
    }
}

async fn accept(listener: TcpListener, credentials: Credentials, ready: mpsc::Sender<MeshStream>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let strangers = Sparing::default();
    // Lines of its own: a crowd must not keep back why somebody was refused.
    let refusals = Arc::new(Sparing::default());
    // Owned here, so that nothing outlives the listener: aborting this task drops the crowd and ends its tasks.
    let mut crowd = Crowd::new(HANDSHAKES);
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(kept_back) = strangers.line(Instant::now()) {
                    tracing::warn!(%error, kept_back, "cannot accept a connection");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(connection) = Arc::clone(&connections).try_acquire_owned() else {
            if let Some(kept_back) = strangers.line(Instant::now()) {
                tracing::warn!(%from, kept_back, "too many connections; this one was closed");
            }
            continue;
        };
        let (credentials, ready) = (credentials.clone(), ready.clone());
        let complaints = Arc::clone(&refusals);
        let crowded = crowd.admit(async move {
            let refusal = match tokio::time::timeout(HANDSHAKE_DEADLINE, identify(stream, &credentials)).await
            {
                Ok(Ok((stream, peer))) => {
                    let caller = Caller::Peer(peer);
                    let stream = MeshStream { stream, caller, from, _permit: connection };
                    // The receiver is gone only when the server stops.
                    let _ = ready.send(stream).await;
                    return;
                }
                Ok(Err(error)) => error,
                Err(_) => io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake did not finish in time"),
            };
            if let Some(kept_back) = complaints.line(Instant::now()) {
                tracing::warn!(%from, error = %refusal, kept_back, "refused a connection");
            }
        });
        if crowded && let Some(kept_back) = strangers.line(Instant::now()) {
            tracing::warn!(%from, kept_back, "many unfinished TLS handshakes; the oldest was dropped");
        }
    }
}

async fn identify(
    stream: TcpStream,
    credentials: &Credentials,
) -> io::Result<(Tethered<TlsStream<TcpStream>>, Identity)> {
    stream.set_nodelay(true)?;
    // Before the handshake, so that nothing newer is missed in between.
    let newer = credentials.subscribe();
    let ours = credentials.current();
    let stream = TlsAcceptor::from(ours.server()).accept(stream).await?;
    let chain = peer_chain(stream.get_ref().1);
    let certificate = chain.first().ok_or_else(|| io::Error::other("no certificate"))?;
    let (theirs, identity) = Identity::of(certificate).map_err(io::Error::other)?;
    if theirs != *ours.mesh() {
        return Err(io::Error::other(format!(
            "{identity} belongs to mesh {theirs}, this is mesh {}; meshes do not talk to each other",
            ours.mesh()
        )));
    }
    Ok((Tethered::new(stream, until_refused(newer, chain)), identity))
}

/// What the other side proved its identity with.
pub(super) fn peer_chain(connection: &rustls::CommonState) -> Vec<CertificateDer<'static>> {
    let chain = connection.peer_certificates().unwrap_or_default();
    chain.iter().map(|certificate| certificate.clone().into_owned()).collect()
}

/// A connection whose caller proved who it is.
#[derive(Debug)]
pub struct MeshStream {
    stream: Tethered<TlsStream<TcpStream>>,
    caller: Caller,
    from: SocketAddr,
    _permit: OwnedSemaphorePermit,
}

impl MeshStream {
    /// The address the caller came from.
    #[must_use]
    pub const fn from(&self) -> SocketAddr {
        self.from
    }
}

impl Connected for MeshStream {
    type ConnectInfo = Caller;
    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for MeshStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for MeshStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
