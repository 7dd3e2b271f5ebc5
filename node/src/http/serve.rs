//! The listening side. Everybody may ask, so everything that a caller can hold is bounded: how many connections there are,
//! how long a request may take to arrive, how long its head may be. Bodies are never read.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

use super::RoleSource;
use super::routes::router;
use crate::crowd::Crowd;

/// Connections at a time, the newest: health checks open one for each question, and end it.
const CONNECTIONS: usize = 256;
/// A request's head arrives within this, or the connection is closed; an idle one too.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// Longest head of a request.
const HEAD_BYTES: usize = 16 * 1024;
/// After an error of `accept` itself (out of descriptors) another attempt at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the endpoints until `stop` completes; requests under way are finished. What goes wrong with one connection ends
/// that one.
pub async fn serve<S: RoleSource>(
    listener: TcpListener,
    source: Arc<S>,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let service = TowerToHyperService::new(router(source));
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(HEAD_BYTES);
    let (graceful, mut crowd) = (GracefulShutdown::new(), Crowd::new(CONNECTIONS));
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let stream = match accepted {
            Ok((stream, _from)) => stream,
            Err(error) => {
                tracing::debug!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = builder.serve_connection(TokioIo::new(stream), service.clone()).into_owned();
        let connection = graceful.watch(connection);
        crowd.admit(async move {
            // Whatever a caller does wrong is his own; he has its status where there is one.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP connection ended with an error");
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}
