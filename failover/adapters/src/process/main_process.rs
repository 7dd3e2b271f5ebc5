//! The main process of a server, held by pidfd: the one whose death is the server's.
//!
//! It says nothing of the processes below it, and never ends any.

use std::io;

use super::handle::{Exit, ProcessHandle};
use super::stat::{ProcStat, RunState};

/// A running server's main process.
#[derive(Clone, Debug)]
pub struct MainProcess {
    process: ProcessHandle,
    adopted: bool,
}

impl MainProcess {
    pub(crate) const fn new(process: ProcessHandle, adopted: bool) -> Self {
        Self { process, adopted }
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &ProcessHandle {
        &self.process
    }

    /// Whether somebody else started it. Such a one does not die with us until it is started by us once.
    #[must_use]
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Waits until it is dead: the kernel tells within milliseconds.
    ///
    /// # Errors
    /// When the runtime cannot watch it.
    pub async fn death(&self) -> io::Result<Exit> {
        self.process.death().await
    }

    /// Whether it is stopped by a signal: alive, but deaf to any polite request.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        matches!(ProcStat::read(self.process.pid()), Ok(Some(stat)) if stat.state == RunState::Stopped)
    }
}
