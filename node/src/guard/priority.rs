//! What lets a guard run while its host is short of memory or processor: locked memory, and real-time scheduling of the
//! threads on the way to a fence. Where this user may not have it, status says so; nothing else changes.

use std::process::{Command, Stdio};

use rustix::process::{Resource, getrlimit};

/// Just above ordinary threads: it must win against a busy database, not against the kernel's own.
const PRIORITY: &str = "10";

/// Locks memory. `Err` says, for people, what is missing.
pub(super) fn lock_memory() -> Result<(), String> {
    use rustix::mm::{MlockAllFlags, mlockall};
    // Under a limit, locking would make a later allocation fail: worse than a page fault.
    if getrlimit(Resource::Memlock).current.is_some() {
        return Err(
            "the guard's memory is not locked (RLIMIT_MEMLOCK is not unlimited): under memory pressure a \
                    fence may be late; set LimitMEMLOCK=infinity"
                .to_owned(),
        );
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT).map_err(|error| {
        format!("the guard's memory is not locked ({error}): under memory pressure a fence may be late")
    })
}

/// Gives the calling thread real-time priority. `Err` says, for people, what is missing.
pub(super) fn real_time() -> Result<(), String> {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let status = Command::new("chrt")
        .args(["--fifo", "--pid", PRIORITY, &thread])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) | Err(_) => {
            Err("the guard has no real-time priority: on an overloaded host a fence may be late; set \
                               LimitRTPRIO=10 and install util-linux"
                .to_owned())
        }
    }
}
