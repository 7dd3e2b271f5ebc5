//! The leash: a tiny process beside a guard that ends the instance when the guard cannot.
//!
//! The guard is the one that fences; but a guard that was killed fences nothing, and one that was stopped (`SIGSTOP`, a
//! debugger, a frozen cgroup) does not even notice. The leash holds a pidfd of its guard and a deadline that the guard
//! keeps extending; when the guard dies, or the deadline passes, it kills every process of the data directory and
//! writes `standby.signal`. It knows nothing of leases, epochs or networks, reads no configuration, never starts
//! anything, and never touches a disk before everything is killed.
//!
//! `mesh leash` is not for people: the guard starts it ([`Leash`]), in a session of its own, and replaces it at once
//! when it dies. Guard and leash share no memory and no fate but the host's.

mod handle;
mod process;
mod wire;

pub use handle::{FeedError, Leash, LeashError, Target};
pub use process::run;
pub use wire::Duty;
