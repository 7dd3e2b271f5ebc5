//! Agreement for mesh: openraft with a durable store, behind guards of our own.
//!
//! The only crate that names openraft. It carries opaque command bytes to a [`Machine`] and knows nothing of what they
//! mean; it never reads a wall clock, never acts on the world, and never treats "I am leader" as a permission.
//!
//! Reading order: [`Consensus`] (the handle), `supervise` (its life), `store` (what is durable), `machine`, `network`,
//! `leadership` (the permission to act), `gate` (who may stand for election), `contact` (what was heard and promised).
//!
//! Invariants:
//! - nothing is acknowledged that is not on disk; a damaged, missing or misplaced record stops the voter;
//! - an id belongs to one incarnation of one store; anything else is refused on both ends;
//! - [`Acting`] ends before another leader can exist;
//! - a voter without a store, or that went back in time, never rejoins under its old id.

mod consensus;
mod contact;
mod error;
mod gate;
mod hub;
mod leadership;
mod machine;
mod members;
mod network;
mod options;
mod standing;
mod store;
mod supervise;
mod types;
mod wire;

pub use consensus::{Consensus, Proposed};
pub use error::{MembersError, NotActing, OpenError, ProposeError, ReadError};
pub use leadership::Acting;
pub use members::{Members, Met};
pub use network::{DialError, Dialer, PeerCheck, RaftService, Service, VERSION as PROTOCOL, tune};
pub use options::{Build, Options, OptionsError, Timings};
pub use standing::{Role, Standing};
pub use store::{
    Beginning, Corrupt, SalvageError, Salvaged, StoreError, begin_store, create_store, read_identity, salvage,
};
pub use types::{EntryId, Identity, Machine, MachineError, Member, NodeId};

#[cfg(test)]
mod tests;
