//! Serves calls on a listener until told to stop.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_stream::Stream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;

/// A silent caller is asked after this long, and dropped [`KEEPALIVE_TIMEOUT`] later: its connection counts against
/// the bound of the listener.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long the answer to a keepalive may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Calls one connection may have under way. Enough for every key of a host; a runaway caller stops here.
const CALLS_PER_CONNECTION: u32 = 256;

/// Serves until `stop` completes; then running calls may end, and no new ones are taken.
///
/// # Errors
/// If serving itself breaks.
pub async fn serve<I, C>(
    routes: Routes,
    incoming: I,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error>
where
    I: Stream<Item = io::Result<C>>,
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(Some(CALLS_PER_CONNECTION))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop)
        .await
}
