//! Processes as the kernel shows them: who runs in a directory, when one dies, and how to end all of them for certain.
//!
//! Everything rests on pidfds, so a reused process number never receives a signal meant for another, and on `/proc`,
//! so nothing here touches the disk of the database. It never decides *whether* to kill.

mod awaited;
mod handle;
mod main_process;
mod spawn;
mod stat;
mod tree;

pub(crate) use awaited::Awaited;
pub use handle::{Delivery, Exit, ProcessHandle};
pub use main_process::MainProcess;
pub use spawn::{RunAs, SpawnError, SpawnSpec, Spawner, become_subreaper};
pub use stat::{ProcStat, RunState, executable, working_directory};
pub use tree::{DirectoryTree, KillError, KillReport, Member, Survivors, reap_adopted};

pub use rustix::process::Signal;
