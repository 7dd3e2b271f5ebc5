//! A connection that lasts as long as its peer is accepted: when newer files revoke the peer's certificate, or take away its
//! authority, the connection ends. It never ends one whose certificate has merely run out since.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::{Identity, Material};

/// Ends, with the reason, when the peer is not accepted any more.
pub(super) async fn until_refused(
    mut material: watch::Receiver<Material>,
    chain: Vec<CertificateDer<'static>>,
) -> String {
    loop {
        if material.changed().await.is_err() {
            // Nobody is left who could read newer files.
            return std::future::pending().await;
        }
        let newer = material.borrow_and_update().clone();
        if let Err(why) = newer.accepts(&chain) {
            let peer = chain.first().and_then(|leaf| Identity::of(leaf).ok());
            let peer = peer.map_or_else(|| "somebody".to_owned(), |(_, identity)| identity.to_string());
            return format!("{peer} is not accepted any more: {why}");
        }
    }
}

/// A stream with an end of its own.
pub(super) struct Tethered<S> {
    stream: S,
    until: Pin<Box<dyn Future<Output = String> + Send>>,
    over: bool,
}

impl<S: std::fmt::Debug> std::fmt::Debug for Tethered<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tethered")
            .field("stream", &self.stream)
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

impl<S> Tethered<S> {
    pub(super) fn new(stream: S, until: impl Future<Output = String> + Send + 'static) -> Self {
        Self { stream, until: Box::pin(until), over: false }
    }

    /// Looks whether it is over. HTTP/2 reads all the time, so the reader is whom the end wakes.
    fn look(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.over {
            let Poll::Ready(why) = self.until.as_mut().poll(cx) else { return Ok(()) };
            self.over = true;
            tracing::warn!(%why, "a connection was ended");
        }
        Err(ended())
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the peer's certificate is not accepted any more")
}

impl<S: AsyncRead + Unpin> AsyncRead for Tethered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.look(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tethered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.over {
            return Poll::Ready(Err(ended()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
