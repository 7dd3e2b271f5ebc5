//! A write and a read through a route, as the observers' user: the only thing that shows that clients who follow the route write
//! to the primary of this epoch.

use std::time::{Duration, Instant};

use redis::Pipeline;

use super::fault::{AskError, Fault};
use super::link::{Link, Target, as_text, command};
use super::stamp;

/// The write arrived at the primary of the expected epoch and was acknowledged there, and was then read through the route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// From connecting to the acknowledgement.
    pub took: Duration,
    /// The read that followed it.
    pub read: Duration,
}

/// Why the write through the route is no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// No connection through the route, a refusal, or the deadline.
    #[error("the write through the route did not succeed")]
    Ask(#[from] AskError),
    /// The route leads to a primary of another epoch, or to a server that mesh does not know.
    #[error(
        "the route leads to a server that holds epoch {found:?} of {by:?}, expected epoch {expected} of {instance}"
    )]
    OtherPrimary {
        /// The epoch there.
        found: Option<u64>,
        /// Whose.
        by: Option<String>,
        /// Expected.
        expected: u64,
        /// Expected.
        instance: String,
    },
    /// What was written is not what is read.
    #[error(
        "epoch {expected} was written through the route, and {found:?} is read through it: reads go elsewhere"
    )]
    NotRead {
        /// What stands there.
        found: Option<String>,
        /// What was written.
        expected: u64,
    },
}

/// Writes a key through the route, checks that it landed where this epoch's primary is, and reads it. Safe to repeat.
///
/// # Errors
/// [`ProveError`]; after `Ask` the write may or may not have been done, which does not matter.
pub async fn prove(
    target: &Target,
    route: &str,
    instance: &str,
    epoch: u64,
    deadline: Instant,
) -> Result<Proof, ProveError> {
    let began = Instant::now();
    let what = "write through the route";
    let mut link = Link::open(target, deadline).await?;
    // One packet: what is read and what is written is of one server.
    let mut both = Pipeline::new();
    both.add_command(stamp::read_command());
    both.add_command(command(&["SET", &key(route), &epoch.to_string()]));
    let mut answers = link.ask_all(what, &both, deadline).await?.into_iter();
    let mut next = || answers.next().ok_or_else(|| AskError::new(what, Fault::Form));
    let stamp = stamp::parse(what, &next()??)?;
    let written = next()?;
    match stamp {
        Some(stamp) if stamp.epoch == epoch && stamp.instance == instance => {
            written?;
            let took = began.elapsed();
            Ok(Proof { took, read: read(target, route, epoch, deadline).await? })
        }
        other => Err(ProveError::OtherPrimary {
            found: other.as_ref().map(|stamp| stamp.epoch),
            by: other.map(|stamp| stamp.instance),
            expected: epoch,
            instance: instance.to_owned(),
        }),
    }
}

fn key(route: &str) -> String {
    format!("mesh:route:{route}")
}

/// Over another connection: a proxy that sends some of them elsewhere shows itself.
async fn read(target: &Target, route: &str, epoch: u64, deadline: Instant) -> Result<Duration, ProveError> {
    let began = Instant::now();
    let what = "read through the route";
    let mut link = Link::open(target, deadline).await?;
    let found = as_text(&link.ask(what, &command(&["GET", &key(route)]), deadline).await?);
    if found == Some(epoch.to_string()) {
        return Ok(began.elapsed());
    }
    Err(ProveError::NotRead { found, expected: epoch })
}
