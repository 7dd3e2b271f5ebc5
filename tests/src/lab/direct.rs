//! A client that stays with one server, whatever routes say: over the server's own Unix socket, so that neither a
//! partition nor a load balancer is between. It shows whether an old primary still acknowledges after its fence.

use std::time::Instant;

use anyhow::Result;

use super::postgres::Server;
use super::writer::{Ack, Writer};

/// Rows of direct writers are numbered from here on, apart from those through the route.
const FIRST: i64 = 1_000_000_000;

/// A writer on one server.
#[derive(Debug)]
pub struct Direct {
    writer: Writer,
}

impl Direct {
    /// Starts writing to `server`; when its session ends it tries again, at the same server.
    #[must_use]
    pub fn start(server: &Server) -> Self {
        Self { writer: Writer::start(server.local_client(), "direct", FIRST) }
    }

    /// What the server acknowledged after a moment.
    #[must_use]
    pub fn after(&self, moment: Instant) -> Vec<Ack> {
        self.writer.after(moment)
    }

    /// The writer itself.
    #[must_use]
    pub const fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Stops writing.
    ///
    /// # Errors
    /// When the writing task panicked.
    pub async fn stop(&mut self) -> Result<()> {
        self.writer.stop().await
    }
}
