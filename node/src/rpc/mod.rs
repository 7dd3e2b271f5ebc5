//! Calls between agents, guards and the command line: who called, what was said, within which deadline.
//!
//! Bodies are `codec` records in an envelope that names the mesh ([`envelope`]); the caller's identity comes from its
//! certificate ([`authorise`]), or from the kernel ([`access`]), never from what a message claims. Everything here moves messages; nothing decides.

pub mod access;
pub mod authorise;
pub mod client;
pub mod envelope;
pub mod server;

pub use access::{Access, NoRole, check_operator};
pub use authorise::{Caller, LocalUser, actor, caller, guard_of, is_agent, member};
pub use client::{AgentClient, CallError, GuardClient, VoterClient};
pub use envelope::{open, open_local, seal};

#[cfg(test)]
mod tests;
