//! The Redis adapter against real Redis servers.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod access;
#[path = "../contract/mod.rs"]
mod contract;
mod faults;
mod lab;
mod order;
mod switch;
