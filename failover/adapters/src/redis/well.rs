//! Whether a server answers, and holds a key that somebody else keeps there: the health check of a service.
//!
//! It writes nothing and reads no value: a key's existence says that its writer lives, its content is nobody's business.

use std::time::Instant;

use redis::Value;

use super::fault::{AskError, Fault};
use super::link::{Link, Target, command};

/// Why the check is not content.
#[derive(Debug, thiserror::Error)]
pub enum WellError {
    /// No connection, no answer in time, or a refusal: one that still loads its data, or that may not be asked this.
    #[error("Redis gave no good answer")]
    Ask(#[from] AskError),
    /// It answers, and the key is not there.
    #[error("there is no key {key:?}")]
    NoKey {
        /// As asked for.
        key: String,
    },
}

/// Asks once: `PING` without a key, `EXISTS` with one.
///
/// # Errors
/// [`WellError`].
pub async fn well(target: &Target, key: Option<&str>, deadline: Instant) -> Result<(), WellError> {
    let what = "check a service in Redis";
    let mut link = Link::open(target, deadline).await?;
    let Some(key) = key else {
        return Ok(link.order(what, &["PING"], deadline).await?);
    };
    let Value::Int(found) = link.ask(what, &command(&["EXISTS", key]), deadline).await? else {
        return Err(AskError::new(what, Fault::Form).into());
    };
    if found == 1 { Ok(()) } else { Err(WellError::NoKey { key: key.to_owned() }) }
}
