//! Waiting with a deadline. A wait that fails says what it saw last.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// What a look found: it is so, or what is seen instead.
pub enum Look<T> {
    /// It is so.
    There(T),
    /// Not yet; what is seen, for the message of a wait that fails.
    NotYet(String),
}

/// Pause between two looks. Short, since measurements use it; long enough to cost nothing.
const PACE: Duration = Duration::from_millis(20);

/// Looks until it is so; an error of a look counts as "not yet".
///
/// # Errors
/// After `limit`, with what was seen last.
pub async fn until<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Look<T>>>,
{
    let end = Instant::now() + limit;
    loop {
        let seen = match look().await {
            Ok(Look::There(value)) => return Ok(value),
            Ok(Look::NotYet(seen)) => seen,
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= end {
            bail!("waited {:.1} s in vain until {what}; seen last: {seen}", limit.as_secs_f64());
        }
        tokio::time::sleep(PACE).await;
    }
}
