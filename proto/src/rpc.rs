//! Generated messages and services of the wire.

#![allow(missing_docs, clippy::all, clippy::wildcard_enum_match_arm, clippy::unwrap_used)]

tonic::include_proto!("mesh.v1");
