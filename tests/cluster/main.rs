//! Real processes on loopback addresses: PostgreSQL, HAProxy, agents, guards.
//!
//! Needs Debian's packages (`make deps`), no root; as root the services run under the account `postgres`. Each test
//! raises a cluster of its own, and leaves nothing behind.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in tests a panic is the report")]

mod boot_gate;
mod chaos;
mod clocks;
mod crash;
mod disks;
mod doctor;
mod failover;
mod fencer;
mod ground;
mod hold;
mod join;
mod leave;
mod live;
mod network;
mod recovery;
mod redis;
mod refusals;
mod routes;
mod services;
mod site;
mod support;
mod two_person;
mod upgrade;
mod voters;
mod zero_loss;
