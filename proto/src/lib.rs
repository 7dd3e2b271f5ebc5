//! The words every part of mesh shares: ids, epochs, group specs, evidence, effects, log commands.
//!
//! Everything here may travel on the wire, sit in the Raft log or on disk, so every type has an explicit, versioned
//! encoding ([`codec`]). This crate holds validation of values and nothing else: it never decides, never reads a
//! clock, never does IO.
//!
//! Reading order: [`ids`] and [`numbers`] (who and which), [`spec`] (what an operator applies), [`evidence`] (what
//! was seen), [`effect`] (what may be done to the world), [`run`] (one execution), [`command`] (log entries).

pub mod access;
pub mod audit;
pub mod codec;
pub mod command;
mod disk;
pub mod edition;
pub mod effect;
pub mod evidence;
pub mod hold;
pub mod ids;
pub mod join;
pub mod lease;
pub mod live;
pub mod lsn;
pub mod numbers;
pub mod operator;
pub mod proposal;
pub mod quorum;
pub mod run;
pub mod spec;

#[cfg(feature = "rpc")]
pub mod rpc;

#[cfg(test)]
mod fuzz;

/// Messages of the agreement between voters, generated from `proto/raft.proto`.
#[cfg(feature = "rpc")]
#[allow(missing_docs, rust_2018_idioms, clippy::all, clippy::wildcard_enum_match_arm)]
pub mod raft {
    tonic::include_proto!("mesh.raft.v1");
}

pub use ids::{AgentName, ErrandName, GroupName, InstanceName, MeshId, OperatorName, RouteName, SiteName};
pub use lsn::Lsn;
pub use numbers::{
    DataIncarnation, Epoch, Generation, GuardIncarnation, LeaseNo, Millis, NodeId, ProposalId, RunId, Wall,
};
