//! Hooks: a command of the operator's, run under a contract.
//!
//! One JSON object on stdin says what it is run for. It may be run again (`attempt`), so it must be able to bear that. Exit
//! code 0 means done, 75 not done and try again, anything else failed. At its deadline the whole process group gets SIGKILL;
//! so does whatever of the group is left when it ends, since nothing runs detached. The command that starts a service is the
//! exception: what it leaves is the service. Of its output the first part is
//! kept and the rest is counted and thrown away, so that it never waits for a reader.
//!
//! Nothing of the order is in its arguments or environment; the environment is empty but for PATH and LC_ALL. What its
//! failure means for a run is the run's business.

mod output;
mod run;

pub use output::{KEPT_BYTES, Output};
pub use run::{Call, Ended, Hook, HookError, Report, outcome, run};
