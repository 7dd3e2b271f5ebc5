//! The edge of mesh: one adapter for each system that it drives.
//!
//! Adapters do one thing when told, read back what they did, and say what came of it. They decide no policy and hold
//! no mesh state.

pub mod dns;
pub mod haproxy;
pub mod postgres;
pub mod process;
