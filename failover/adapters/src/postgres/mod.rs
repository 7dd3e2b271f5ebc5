//! PostgreSQL at the edge: what a guard does to its own instance, and what an observer asks a remote one.
//!
//! Each operation does one thing, reads back that it is done, and says so or why not. Deadlines are instants and come from
//! the caller. SQLSTATE, errno and exit codes decide; text is for people. Nothing here knows leases, groups or
//! runs: that an operation is allowed is settled before it is called.

mod conf;
mod conninfo;
mod control_data;
mod crash_scan;
mod doctor;
mod doctor_data;
pub(crate) mod durable;
mod fence;
mod gate;
mod glance;
mod guarded;
mod handover;
mod hba;
mod healthy;
mod identify;
mod inspect;
mod instance;
pub(crate) mod passfile;
mod postmaster;
mod probe;
mod promote;
mod prove;
mod quorum;
mod rejoin;
mod roles;
mod sql;
mod standby;
mod start;
mod timeline;
mod tool;
mod wal;
mod write_probe;

pub use conninfo::{NameError, Upstream};
pub use control_data::{
    ClusterState, ControlData, ControlDataError, PostmasterPid, PostmasterStatus, control_data,
};
pub use crash_scan::{CrashScan, CrashScanError, crash_scan};
pub use doctor::{Finding, Severity, doctor};
pub use doctor_data::doctor_of_data;
pub use durable::DurableError;
pub use fence::{
    FenceAction, FenceError, FenceMode, FencePlan, FenceStep, NoAck, Quiet, QuietError, fence, quiet,
    write_standby_signal,
};
pub use gate::{GateError, Quorum, SyncSetting, set_sync};
pub use glance::{Glance, Glimpse};
pub use guarded::{ComesUp, MARK, boot_gate, mark_guarded};
pub use handover::{ShutdownPoint, StopError, Stopped, shutdown_point, stop_fast};
pub use hba::{Clients, HbaError, end_clients, set_clients, write_hba};
pub use healthy::{HealthQueryError, healthy};
pub use identify::{IdentifyError, Identity, identify};
pub use inspect::{InspectError, Inspection, inspect, program_version};
pub use instance::{Credentials, Instance, OpenError, Settings, default_mesh_hba};
pub use passfile::PassfileError;
pub use postmaster::{
    AttachError, Control, DirectControl, Launch, LaunchError, Postmaster, attach, lock_file,
};
pub use probe::{ProbeOutcome, ProbeReport, ProbeTarget, Prober, SeenEpoch, ServerFacts};
pub use promote::{
    EpochError, EpochRow, PromoteError, Promoted, Recorded, checkpoint, end_of_wal, promote, record_epoch,
};
pub use prove::{Proof, ProveError, Through, prove};
pub use quorum::{change_sync, marker};
pub use rejoin::{
    Diverged, How, Journal, JournalError, NoRewind, RejoinError, RejoinProgress, RejoinRequest, Rejoined,
    Repointed, Stage, rejoin, repoint, unfinished,
};
pub use roles::{Passwords, PrepareError, Prepared, prepare};
pub use sql::{Durability, SqlError};
pub use standby::{Position, StandbyError, confirm, follow, freeze, position};
pub use start::{
    OrphansError, StandbyUpstream, StartAs, StartError, StartRequest, Started, end_orphans, start,
};
pub use timeline::{Ancestor, History, HistoryError, Lineage};
pub use tool::ToolError;
pub use wal::{EndReason, Record, RecordKind, Step, WalError, WalReader};
pub use write_probe::{WriteOutcome, WriteProbe};
