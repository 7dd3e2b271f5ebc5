//! PgBouncer at the edge: leads one database of it to the primary over the admin console, and reads back that it is so.
//!
//! PAUSE holds new queries and lets transactions end; a PAUSE that does not return is ended by KILL, or taken back, as the
//! policy says. The entry lives in an include file that mesh owns, written and on disk before RELOAD, so that a restart in
//! the middle leads to the new primary. WAIT_CLOSE, RESUME, and then `SHOW DATABASES` decides: RELOAD answers the same
//! whether or not PgBouncer could read the file.
//!
//! After a failed connection to a dead primary PgBouncer makes no other one for `server_login_retry`, whose default of 15 s
//! would be the longest part of a failover: one that is longer than a second is warned of.
//!
//! It never resumes a database whose entry in force is not the wanted one: the old primary has lost its epoch, so clients
//! wait, and the error says that they do and how to get out. It never enables what an operator has DISABLEd. Whether
//! the order is current is settled by the route's epoch gate before it is called; the mark in the file is the second lock.

mod console;
mod entry;
mod error;
mod lead;

pub use console::{ConsoleAt, ConsoleError};
pub use error::{PgbouncerError, outcome};
pub use lead::{Led, OnStuck, PgBouncer, Settings, Wanted};
