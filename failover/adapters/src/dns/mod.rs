//! DNS names that lead to the primary, changed by compare-and-set at the server itself.
//!
//! Beside each name stands a marker, `_mesh-epoch.<name> TXT`, that says in which epoch the name was led where, and by
//! which step. A change names the marker and the record exactly as they were read, so the server refuses it when either
//! is another by then: a stale agent loses against a newer one, and nobody's edit is overwritten unseen. After any doubt the
//! marker is read back; a change that arrives late does the same as its repetition or, if a newer epoch came between,
//! nothing at all.
//!
//! It never lowers an epoch, never touches a name that it was not told, and never asks a resolver's cache what is so.
//! Reading order: `marker`, `decide` (what to do about what stands there, pure), `lead` (the loop that all systems share),
//! [`rfc2136`] and `route53`, the systems.

mod decide;
mod error;
mod lead;
mod marker;
pub mod rfc2136;
#[cfg(feature = "aws")]
pub mod route53;

pub use decide::{Name, Seen, Wanted};
pub use error::{Cause, DnsError, Lost, outcome};
pub use lead::{Led, NotChanged, Zone, lead, verify};
pub use marker::{Marker, MarkerError};
