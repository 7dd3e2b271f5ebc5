//! Words shared by every part of mesh: ids, epochs, positions, log commands, messages.

pub mod lsn;

pub use lsn::Lsn;
