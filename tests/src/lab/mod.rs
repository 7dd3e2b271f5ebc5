//! The lab: real PostgreSQL, real HAProxy, real agents and guards, on hosts that can be lost.
//!
//! Reading order: [`ground`] (a scratch directory and what belongs to it), [`host`] (where processes run, and how to
//! lose a host), [`postgres`], the routes ([`haproxy`], [`pgbouncer`], [`bind`]), [`mesh`] (configuration, certificates, agents, guards, command line),
//! [`cluster`] (all of it together), [`writer`] (a client that remembers what was acknowledged).
//!
//! It never decides whether mesh did well: the tests, the demonstration and the measurements do. It leaves nothing
//! behind, however it ends: see [`ground`].

pub mod bind;
pub mod clock;
pub mod cluster;
pub mod direct;
pub mod disk;
pub mod footprint;
pub mod ground;
pub mod haproxy;
mod health;
pub mod host;
pub mod mesh;
pub mod name;
pub mod net;
pub mod patroni;
pub mod pgbouncer;
pub mod postgres;
pub mod prepared;
pub mod process;
pub mod redis;
pub mod routes;
pub mod sentinel;
pub mod timeline;
pub mod wait;
pub mod writer;
