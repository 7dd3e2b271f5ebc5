//! Redis and Valkey (6.2 and later) at the edge: what a guard does to its own instance, and what an observer asks a remote
//! one.
//!
//! Each operation does one thing, reads back that it is done, and says so or why not. Deadlines are instants and come from
//! the caller. The codes of replies, errno and exit codes decide; text is for people. It knows no leases, groups or runs.
//!
//! - `link`, `fault`, `info`: connections, closed errors, `INFO` as values.
//! - `stamp`: the key `mesh:epoch`, in which a primary says in which epoch and history it writes.
//! - `gate`: `min-replicas-to-write` beyond reach. Reversible, and in force for open connections at once. Every instance that is
//!   not the open primary has it, so one that somebody else promotes still acknowledges nothing.
//! - `look`, `probe`, `write_probe`, `prove`: what is seen.
//! - `start`, `fence`, `handover`, `standby`, `promote`, `follow`, `keep`: what is done.
//! - `well`: the health check of a service.
//! - `sentinel`: whether somebody else decides here.
//!
//! It never rewrites the operator's configuration file, never runs `CONFIG REWRITE`, and never lets a full copy destroy
//! what only this instance has before that is kept.

mod acl;
mod fault;
mod fence;
mod follow;
mod gate;
mod handover;
mod info;
mod instance;
mod keep;
mod link;
mod look;
mod probe;
mod promote;
mod prove;
mod sentinel;
mod stamp;
mod standby;
mod start;
mod well;
mod write_probe;

pub use acl::{OBSERVER_RULES, REPLICA_RULES, RULES};
pub use fault::{AskError, Fault, WriteStop};
pub use fence::{
    FenceAction, FenceError, FenceMode, FencePlan, FenceStep, NoAck, Quiet, QuietError, fence, quiet,
    write_held,
};
pub use follow::{FollowError, Followed, How, follow, outcome, verify_follows};
pub use gate::{GateError, close, is_closed, open};
pub use handover::{HandOverError, HandedOver, hand_over};
pub use info::{Attached, Info, ReplId, Replication, Role, Upstream, info};
pub use instance::{AttachError, Instance, OpenError, Settings, attach};
pub use keep::{KeepError, Kept, keep};
pub use link::{Credentials, Link, Target, Tls, TlsError, TlsFiles};
pub use look::{Glance, Look};
pub use probe::{ProbeOutcome, ProbeReport, Prober};
pub use promote::{Opened, PromoteError, Promoted, open_primary, promote, renew_stamp};
pub use prove::{Proof, ProveError, prove};
pub use sentinel::{Sentinels, sentinels};
pub use stamp::{NewStamp, Stamp};
pub use standby::{Position, StandbyError, confirm, freeze, position};
pub use start::{Control, DirectControl, Launch, LaunchError, StartError, Started, start};
pub use well::{WellError, well};
pub use write_probe::{WriteOutcome, WriteProbe};
