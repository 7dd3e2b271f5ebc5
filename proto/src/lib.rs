//! Words shared by every part of mesh: ids, epochs, positions, log commands, messages.

pub mod lsn;

/// Messages of the agreement between voters, generated from `proto/raft.proto`.
#[cfg(feature = "rpc")]
#[allow(missing_docs, rust_2018_idioms, clippy::all, clippy::wildcard_enum_match_arm)]
pub mod raft {
    tonic::include_proto!("mesh.raft.v1");
}

pub use lsn::Lsn;
