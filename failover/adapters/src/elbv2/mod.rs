//! Target groups of AWS Elastic Load Balancing (ELBv2): Network Load Balancers, which carry any protocol.
//!
//! The old primary is deregistered before the new one is registered, so that at no moment both are in. Then target health is
//! asked until the new one is healthy: a load balancer sends nothing to a target that it only knows. Connections to a
//! deregistered target go on until its deregistration delay is over; targets that still drain are counted.
//!
//! The API compares nothing: the last writer wins. So a tag on the target group says in which epoch it was led where; it is
//! compared before a change, raised before the first effect, and read back after the last, and the agent's own gate stands
//! before all of it. What is left is a stale agent that was paused between the two looks: its work is seen as astray by the
//! agent of the newer epoch, and led anew.
//!
//! It never changes listeners, rules, or a target group's attributes, never deregisters a target that belongs to none of the
//! group's instances unless the policy says so, and never waits for connections to drain.

mod client;
mod decide;
mod error;
mod lead;
mod marker;

pub use decide::{Target, Wanted};
pub use error::{ElbError, Lost, outcome};
pub use lead::{Led, TargetGroup};
pub use marker::{MARKER_KEY, Marker, MarkerError};
