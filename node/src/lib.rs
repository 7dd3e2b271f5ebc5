//! The mesh daemon, its guard and its command line: where the pure core, the agreement and the adapters meet.

pub mod agent;
pub mod ca;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crowd;
pub mod doctor;
pub mod guard;
pub mod http;
pub mod leash;
pub mod programs;
pub mod rpc;
pub mod telemetry;
pub mod tls;
pub mod voter;
