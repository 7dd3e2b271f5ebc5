//! Whether a primary still takes writes: `SET mesh:probe` over a connection of its own, so that a write that hangs delays
//! nobody. `PING` proves nothing: a server that cannot save, or is full, answers it.

use std::fmt;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use super::fault::{AskError, Fault};
use super::instance::Instance;
use super::link::{Link, Target};

/// What one write probe saw.
#[derive(Clone, Debug)]
pub enum WriteOutcome {
    /// Acknowledged.
    Ok {
        /// How long it took.
        took: Duration,
    },
    /// No answer by the deadline: the server hangs.
    Late {
        /// How long the write has been under way.
        since: Duration,
    },
    /// Refused, or the connection broke.
    Failed {
        /// Why.
        fault: Fault,
    },
}

type Write = BoxFuture<'static, (Link, Result<(), AskError>)>;

struct InFlight {
    write: Write,
    began: Instant,
}

/// A write probe. A write that is late stays under way: the next call waits for the same one, and does not pile up another.
pub struct WriteProbe {
    target: Target,
    link: Option<Link>,
    in_flight: Option<InFlight>,
}

impl fmt::Debug for WriteProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteProbe").field("in_flight", &self.in_flight.is_some()).finish_non_exhaustive()
    }
}

/// A write is given up after this long; by then everybody knows.
const GIVE_UP: Duration = Duration::from_secs(3600);

impl WriteProbe {
    /// A probe of the local server that has no connection yet.
    #[must_use]
    pub fn new(instance: &Instance) -> Self {
        Self { target: instance.target(), link: None, in_flight: None }
    }

    /// Writes, or goes on waiting for the write that is under way.
    pub async fn run(&mut self, deadline: Instant) -> WriteOutcome {
        let mut flight = match self.in_flight.take() {
            Some(flight) => flight,
            None => match self.begin(deadline).await {
                Ok(flight) => flight,
                Err(AskError { fault: Fault::TimedOut, .. }) => {
                    return WriteOutcome::Late { since: Duration::ZERO };
                }
                Err(error) => return WriteOutcome::Failed { fault: error.fault },
            },
        };
        let began = flight.began;
        match tokio::time::timeout_at(deadline.into(), &mut flight.write).await {
            Ok((link, Ok(()))) => {
                self.link = Some(link);
                WriteOutcome::Ok { took: began.elapsed() }
            }
            Ok((_, Err(error))) if error.fault.may_have_been_done() => {
                WriteOutcome::Failed { fault: error.fault }
            }
            Ok((link, Err(error))) => {
                self.link = Some(link);
                WriteOutcome::Failed { fault: error.fault }
            }
            Err(_elapsed) => {
                self.in_flight = Some(flight);
                WriteOutcome::Late { since: began.elapsed() }
            }
        }
    }

    async fn begin(&mut self, deadline: Instant) -> Result<InFlight, AskError> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => Link::open(&self.target, deadline).await?,
        };
        let began = Instant::now();
        let write = Box::pin(async move {
            let done = link.order("write the probe", &["SET", "mesh:probe", "1"], began + GIVE_UP).await;
            (link, done)
        });
        Ok(InFlight { write, began })
    }
}
