//! Whether a Sentinel watches the server: it decides by itself who is primary, and turns a primary that mesh made into a
//! replica again. Two deciders are none.
//!
//! Every Sentinel listens on the channel `__sentinel__:hello` of each server that it watches, so the number of listeners there
//! tells, whatever the Sentinels call themselves. It never talks to them.

use std::time::Instant;

use redis::{Cmd, Value};

use super::fault::{AskError, Fault};
use super::instance::Instance;
use super::link::command;

/// Sentinels that watch one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sentinels {
    /// How many.
    pub watching: u32,
}

impl Sentinels {
    /// Why mesh must not act here by itself, if so.
    #[must_use]
    pub fn refusal(self) -> Option<String> {
        (self.watching > 0).then(|| {
            format!(
                "{} Sentinel{} this server and would undo what mesh does; run `SENTINEL REMOVE` on each, or stop them",
                self.watching,
                if self.watching == 1 { " watches" } else { "s watch" }
            )
        })
    }
}

/// Counts the Sentinels that watch the local server.
///
/// # Errors
/// When the server does not say.
pub async fn sentinels(instance: &Instance, deadline: Instant) -> Result<Sentinels, AskError> {
    let what = "ask for Sentinels";
    let mut link = instance.link(deadline).await?;
    let value = link.ask(what, &count_command(), deadline).await?;
    parse(&value).ok_or_else(|| AskError::new(what, Fault::Form))
}

pub(super) fn count_command() -> Cmd {
    command(&["PUBSUB", "NUMSUB", "__sentinel__:hello"])
}

pub(super) fn parse(value: &Value) -> Option<Sentinels> {
    let Value::Array(items) = value else { return None };
    let Value::Int(count) = items.get(1)? else { return None };
    Some(Sentinels { watching: u32::try_from(*count).ok()? })
}
