//! The pure core of mesh: evidence in, verdict out; facts in, plan out; commands in, replicated state out.
//!
//! It never waits, reads a clock, draws a random number, does IO or depends on the order of a hash map: the real agent
//! and the simulator drive the same code. Reading order: [`policy`] (timing and its relations), [`lease`] (who may
//! accept writes, until when), [`guard`] (what keeps an instance inside its lease), [`state`] (the replicated state and
//! its single door), [`verdict`] (what the evidence says), [`run`] (phases of a run), [`errands`] (its services and hooks), [`quorum`] (what frozen standbys must
//! hold), [`coordinator`] (what the leader does next), [`kept`] (what of kept
//! evidence may go).

pub mod coordinator;
pub mod errands;
pub mod fencers;
pub mod guard;
pub mod kept;
pub mod lease;
pub mod moment;
pub mod mutants;
pub mod plan;
pub mod policy;
pub mod quorum;
pub mod run;
pub mod state;
pub mod verdict;

pub use moment::Moment;
