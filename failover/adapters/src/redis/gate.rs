//! The gate: `min-replicas-to-write` beyond what can ever be attached. From the answer to the setting on, no connection,
//! open or new, gets a write acknowledged; reads go on, and opening it again lets the same connections write.
//!
//! It is a setting of the running process. A server that is started anew has it from the guard's own configuration.

use std::time::Instant;

use super::fault::{AskError, Fault, WriteStop};
use super::instance::Instance;
use super::link::{Link, as_text, command};

/// More replicas than any server has.
pub(super) const CLOSED: u32 = 1_000_000;
pub(super) const SETTING: &str = "min-replicas-to-write";
/// Without this one the other has no effect.
pub(super) const MAX_LAG: &str = "min-replicas-max-lag";
/// What a primary's setting is, where the operator has none.
pub(super) const MAX_LAG_SECONDS: &str = "10";
/// A primary that lost its replicas for long would stop counting what it writes: a replica that comes to replace it would
/// look as if it had everything.
pub(super) const BACKLOG_TTL: &str = "repl-backlog-ttl";

/// Why the gate is not known to be as it should.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The server refused, or did not answer.
    #[error("the gate of the instance could not be set")]
    Ask(#[from] AskError),
    /// A write went through.
    #[error("{SETTING} is set, and a write was acknowledged all the same; fence the instance")]
    NotInForce,
}

/// Closes the gate and proves by a write of our own that it is in force.
///
/// # Errors
/// Any leaves it uncertain: fence.
pub async fn close(instance: &Instance, deadline: Instant) -> Result<(), GateError> {
    let mut link = instance.link(deadline).await?;
    set_closed(&mut link, deadline).await?;
    match link.order("write behind the gate", &["SET", "mesh:probe", "gate"], deadline).await {
        Err(AskError { fault: Fault::WriteStopped(WriteStop::Replicas) | Fault::ReadOnly, .. }) => Ok(()),
        // It takes no writes for another reason; what counts is that the setting says it too.
        Err(AskError { fault: Fault::WriteStopped(WriteStop::Disk | WriteStop::Memory), .. }) => {
            if closed(&mut link, deadline).await? { Ok(()) } else { Err(GateError::NotInForce) }
        }
        Ok(()) => Err(GateError::NotInForce),
        Err(error) => Err(error.into()),
    }
}

/// Opens the gate to what an open primary requires.
///
/// # Errors
/// When it is not known to be open.
pub async fn open(instance: &Instance, deadline: Instant) -> Result<(), GateError> {
    let mut link = instance.link(deadline).await?;
    let wanted = instance.settings().min_replicas.to_string();
    link.order("open the gate", &["CONFIG", "SET", SETTING, &wanted], deadline).await?;
    if closed(&mut link, deadline).await? {
        return Err(AskError::new("open the gate", Fault::Form).into());
    }
    Ok(())
}

/// Whether the gate is closed.
///
/// # Errors
/// When the server does not say.
pub async fn is_closed(instance: &Instance, deadline: Instant) -> Result<bool, AskError> {
    closed(&mut instance.link(deadline).await?, deadline).await
}

pub(super) async fn set_closed(link: &mut Link, deadline: Instant) -> Result<(), AskError> {
    let what = "close the gate";
    link.order(what, &["CONFIG", "SET", MAX_LAG, MAX_LAG_SECONDS], deadline).await?;
    link.order(what, &["CONFIG", "SET", SETTING, &CLOSED.to_string()], deadline).await
}

pub(super) async fn closed(link: &mut Link, deadline: Instant) -> Result<bool, AskError> {
    let what = "read the gate";
    let value = link.ask(what, &command(&["CONFIG", "GET", SETTING]), deadline).await?;
    parse(&value).ok_or_else(|| AskError::new(what, Fault::Form))
}

/// From the answer to `CONFIG GET`.
pub(super) fn parse(value: &redis::Value) -> Option<bool> {
    let redis::Value::Array(items) = value else { return None };
    let number: u32 = as_text(items.get(1)?)?.parse().ok()?;
    Some(number >= CLOSED)
}
