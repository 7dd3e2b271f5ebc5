//! What an observer sees of a server: two cheap questions over a connection kept open, with a deadline around everything.
//!
//! It reports; that several reports make a loss is decided elsewhere. It writes nothing.

use std::time::{Duration, Instant};

use redis::Pipeline;

use super::fault::{AskError, Fault};
use super::info::{Role, parse};
use super::link::{Link, Target, as_text, command};
use super::stamp::{self, Stamp};

/// What one probe saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// It answers as a primary.
    Primary {
        /// What its data says.
        stamp: Option<Stamp>,
    },
    /// It answers as a replica.
    Replica,
    /// It is a server of other data.
    WrongSystem {
        /// What identifies its data.
        found: Option<u64>,
    },
    /// It does not answer that.
    Fault(Fault),
}

/// One probe.
#[derive(Clone, Debug)]
pub struct ProbeReport {
    /// What was seen.
    pub outcome: ProbeOutcome,
    /// How long it took.
    pub took: Duration,
    /// Whether a connection was opened for it.
    pub fresh: bool,
}

/// An observer of one server.
#[derive(Debug)]
pub struct Prober {
    target: Target,
    system: Option<u64>,
    open: Option<Link>,
}

impl Prober {
    /// An observer that has no connection yet. `system`: what identifies the group's data, where it is known.
    #[must_use]
    pub const fn new(target: Target, system: Option<u64>) -> Self {
        Self { target, system, open: None }
    }

    /// Probes over the open connection, or a new one where there is none or it broke.
    pub async fn probe(&mut self, timeout: Duration) -> ProbeReport {
        let began = Instant::now();
        let deadline = began + timeout;
        let mut fresh = self.open.is_none();
        let mut result = self.ask(deadline).await;
        if !fresh && matches!(&result, Err(AskError { fault: Fault::Broken, .. })) {
            // The kept connection broke; that alone says little, a restart does it too.
            fresh = true;
            result = self.ask(deadline).await;
        }
        let outcome = result.unwrap_or_else(|error| ProbeOutcome::Fault(error.fault));
        ProbeReport { outcome, took: began.elapsed(), fresh }
    }

    async fn ask(&mut self, deadline: Instant) -> Result<ProbeOutcome, AskError> {
        // Taken out, so that a probe that fails half way never leaves an answer under way.
        let mut link = match self.open.take() {
            Some(link) => link,
            None => Link::open(&self.target, deadline).await?,
        };
        let what = "probe Redis";
        let form = || AskError::new(what, Fault::Form);
        let mut both = Pipeline::new();
        both.add_command(command(&["INFO"]));
        both.add_command(stamp::read_command());
        let mut answers = link.ask_all(what, &both, deadline).await?.into_iter();
        let mut next = || answers.next().ok_or_else(form);
        let info = parse(&as_text(&next()??).ok_or_else(form)?).ok_or_else(form)?;
        let stamp = match next()? {
            Ok(value) => stamp::parse(what, &value)?,
            // Cut off from its primary and told to serve nothing stale: a replica all the same.
            Err(AskError { fault: Fault::MasterDown, .. }) => None,
            Err(error) => return Err(error),
        };
        self.open = Some(link);
        let found = stamp::system(&info, stamp.as_ref());
        Ok(match info.replication.role {
            Role::Replica => ProbeOutcome::Replica,
            Role::Primary if self.system.is_some() && found != self.system => {
                ProbeOutcome::WrongSystem { found }
            }
            Role::Primary => ProbeOutcome::Primary { stamp },
        })
    }
}
