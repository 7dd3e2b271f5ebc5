//! The edge of mesh: one adapter for each system that it drives.
//!
//! Adapters do one thing when told, read back what they did, and say what came of it. They decide no policy and hold
//! no mesh state.

#[cfg(feature = "aws")]
pub mod aws;
pub mod dns;
#[cfg(feature = "aws")]
pub mod elbv2;
mod fields;
pub mod haproxy;
pub mod health;
pub mod hooks;
pub mod kept;
mod owned;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod systemd;
pub mod watchdog;

pub use owned::{FileError, Mark};

/// An error with its causes, in one line.
#[must_use]
pub fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
