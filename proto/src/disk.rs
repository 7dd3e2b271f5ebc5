//! What a guard sees of the file systems under its instance: whether a write to them becomes durable, how long that takes, and what
//! room is left. Every result has an age; there is no word for "healthy".

use serde::{Deserialize, Serialize};

use crate::Millis;

/// One file system under an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStanding {
    /// The directory through which it is looked at.
    pub at: String,
    /// What of the instance is on it.
    pub holds: DiskHolds,
    /// What became of the newest write of the guard's own.
    pub sync: DiskSync,
    /// What room is left; `None` before that was ever seen.
    pub room: Option<DiskRoom>,
}

/// What of an instance is on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskHolds {
    /// Everything: data and log.
    All,
    /// The log alone (`pg_wal`).
    Log,
    /// The data without the log.
    Data,
}

impl DiskHolds {
    /// Whether what makes a commit durable is on it.
    #[must_use]
    pub const fn log(self) -> bool {
        match self {
            Self::All | Self::Log => true,
            Self::Data => false,
        }
    }
}

impl std::fmt::Display for DiskHolds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::All => "data and log",
            Self::Log => "log",
            Self::Data => "data",
        })
    }
}

/// What became of a write and an fsync of a small file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskSync {
    /// None ended yet.
    NotYet,
    /// It is durable.
    Ok {
        /// How long that took.
        took: Millis,
        /// Since it was.
        age: Millis,
    },
    /// It has not returned.
    Waiting {
        /// Since it began.
        waiting: Millis,
    },
    /// There is no room for it.
    NoRoom {
        /// Since that was said.
        age: Millis,
    },
    /// The system refused it with another error.
    Failed {
        /// Its number (errno).
        errno: i32,
        /// Since that was said.
        age: Millis,
    },
}

/// What is left of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRoom {
    /// Bytes that the instance may still take.
    pub bytes: u64,
    /// Bytes of all of it.
    pub size: u64,
    /// Files that may still be made; `None` where the file system sets no limit.
    pub files: Option<u64>,
    /// Since that was seen.
    pub age: Millis,
}

impl DiskStanding {
    /// The same, as long after it as `more`.
    #[must_use]
    pub fn aged(mut self, more: Millis) -> Self {
        self.sync = match self.sync {
            DiskSync::NotYet => DiskSync::NotYet,
            DiskSync::Ok { took, age } => DiskSync::Ok { took, age: age.plus(more) },
            DiskSync::Waiting { waiting } => DiskSync::Waiting { waiting: waiting.plus(more) },
            DiskSync::NoRoom { age } => DiskSync::NoRoom { age: age.plus(more) },
            DiskSync::Failed { errno, age } => DiskSync::Failed { errno, age: age.plus(more) },
        };
        self.room = self.room.map(|room| DiskRoom { age: room.age.plus(more), ..room });
        self
    }
}
