//! HAProxy at the edge: leads a backend to one server through the runtime API, ends the sessions to the others, and reads
//! back that it is so.
//!
//! Each server of the backend carries the name of an instance. The old servers go out before the new one comes in, so
//! at no moment two are in. What HAProxy says in words is shown to people and decides nothing: its tables decide.
//!
//! Where mesh owns the backend's server-state file, that is written first, so that a reload or restart in the middle comes up
//! led to the new primary. It never edits another file of HAProxy; without a state file a reload returns to what those say,
//! and route repairs lead the backend anew. And it does not reach a former HAProxy process that lingers after a reload with old sessions (`hard-stop-after` bounds
//! that). Whether the order is current is settled by the route's epoch gate before it is called.

mod error;
mod exchange;
mod lead;
mod state_file;
mod table;

pub use error::{HaproxyError, outcome};
pub use exchange::{Endpoint, ExchangeError};
pub use lead::{Haproxy, Info, Led, Wanted};
pub use table::TableError;
