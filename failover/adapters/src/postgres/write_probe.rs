//! Whether a primary can still write: an update of `mesh.heartbeat` over a session of its own, so that a write that hangs
//! blocks nobody. `SELECT 1` proves nothing about the log or its disk.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use super::instance::Instance;
use super::sql::{Durability, Session, SqlError, get};

/// What one write probe saw.
#[derive(Debug)]
pub enum WriteOutcome {
    /// Committed.
    Ok {
        /// How long the write took.
        took: Duration,
    },
    /// Not committed by the deadline, and not because of standbys: the disk, a lock, or the server hangs.
    Late {
        /// How long the write has been under way.
        since: Duration,
    },
    /// Flushed here, waiting for the commit quorum. It speaks of the standbys, or of a commit gate, not of the primary.
    WaitingForStandbys {
        /// How long the write has been under way.
        since: Duration,
    },
    /// The server refused it or the session broke.
    Failed {
        /// Why.
        source: SqlError,
    },
}

type Write = BoxFuture<'static, Result<(), SqlError>>;

struct InFlight {
    write: Write,
    began: Instant,
}

/// A write probe of the local instance. A write that is late stays under way: the next call waits for the same one, and
/// does not pile up another.
pub struct WriteProbe {
    durability: Durability,
    session: Option<(Arc<Session>, i32)>,
    in_flight: Option<InFlight>,
}

impl fmt::Debug for WriteProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let busy = self.in_flight.is_some();
        f.debug_struct("WriteProbe").field("durability", &self.durability).field("in_flight", &busy).finish()
    }
}

/// A write is given up by the server after this long; by then everybody knows.
const GIVE_UP: Duration = Duration::from_secs(3600);

impl WriteProbe {
    /// A probe that has no session yet. `Durability::Local` measures this server's log and disk alone.
    #[must_use]
    pub fn new(durability: Durability) -> WriteProbe {
        WriteProbe { durability, session: None, in_flight: None }
    }

    /// Writes, or goes on waiting for the write that is under way.
    pub async fn run(&mut self, instance: &Instance, deadline: Instant) -> WriteOutcome {
        if self.in_flight.is_none()
            && let Err(source) = self.begin(instance, deadline).await
        {
            self.session = None;
            return WriteOutcome::Failed { source };
        }
        let Some(flight) = &mut self.in_flight else {
            return WriteOutcome::Late { since: Duration::ZERO };
        };
        let began = flight.began;
        match tokio::time::timeout_at(deadline.into(), &mut flight.write).await {
            Ok(done) => {
                self.in_flight = None;
                match done {
                    Ok(()) => WriteOutcome::Ok { took: began.elapsed() },
                    Err(source) => {
                        self.session = None;
                        WriteOutcome::Failed { source }
                    }
                }
            }
            Err(_elapsed) => self.explain(instance, began).await,
        }
    }

    async fn begin(&mut self, instance: &Instance, deadline: Instant) -> Result<(), SqlError> {
        let session = match &self.session {
            Some((session, _)) => Arc::clone(session),
            None => {
                let lasting = Session::local_lasting(instance, self.durability, GIVE_UP, deadline).await?;
                let what = "name the session";
                let row = lasting.row(what, "SELECT pg_backend_pid()", &[], deadline).await?;
                let pid = get(what, &row, 0)?;
                let session = Arc::new(lasting);
                self.session = Some((Arc::clone(&session), pid));
                session
            }
        };
        let began = Instant::now();
        let write = Box::pin(async move {
            let sql = "UPDATE mesh.heartbeat SET at = clock_timestamp() WHERE id = 1";
            session.run("write the heartbeat", sql, began + GIVE_UP).await
        });
        self.in_flight = Some(InFlight { write, began });
        Ok(())
    }

    /// Why it is late, asked of the server over another session; if that hangs too, it is simply late.
    async fn explain(&self, instance: &Instance, began: Instant) -> WriteOutcome {
        let since = began.elapsed();
        let Some((_, pid)) = &self.session else { return WriteOutcome::Late { since } };
        let soon = Instant::now() + Duration::from_millis(100);
        match waits_for_standbys(instance, *pid, soon).await {
            Ok(true) => WriteOutcome::WaitingForStandbys { since },
            Ok(false) | Err(_) => WriteOutcome::Late { since },
        }
    }
}

async fn waits_for_standbys(instance: &Instance, pid: i32, deadline: Instant) -> Result<bool, SqlError> {
    let session = Session::local(instance, Durability::Local, deadline).await?;
    let what = "ask what a write waits for";
    let sql = "SELECT coalesce(bool_or(wait_event = 'SyncRep'), false) FROM pg_stat_activity WHERE pid = $1";
    get(what, &session.row(what, sql, &[&pid], deadline).await?, 0)
}
