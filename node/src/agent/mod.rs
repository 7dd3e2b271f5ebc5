//! The agent: votes, observes, leads when elected, changes the routes whose credentials it holds, answers people.
//!
//! It never touches an instance: that is its guard's business, which needs no agent. An agent may therefore be stopped,
//! upgraded or crash without a database noticing.
//!
//! Reading order: `machine` (the replicated state), [`driver`] (the coordinator and what it wants done), [`sightings`]
//! and [`reporter`] (what this agent sees), [`routes`], [`gates`] and [`errands`] (what it changes), [`service`] and [`ask`] (what it
//! is asked), [`denials`] (who may not ask it), [`traces`] (whom it tells of a run that is over).

pub mod ask;
pub mod denials;
pub mod driver;
pub mod edition;
pub mod errands;
pub mod gates;
pub mod left_behind;
pub mod machine;
pub mod peers;
pub mod receipts;
pub mod recovery;
pub mod reporter;
pub mod roles;
pub mod routes;
pub mod service;
pub mod sightings;
pub mod traces;
pub mod voting;

mod news;
mod start;
mod supervisor;

pub use start::{AgentError, init, run};
