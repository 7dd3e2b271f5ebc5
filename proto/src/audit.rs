//! The audit: one record for each entry that changed something or was refused, chained by hashes. Records are made by
//! the pure core while it applies the log, so every agent has the same chain.

use serde::{Deserialize, Serialize};

use crate::command::{Command, Refused};
use crate::run::Actor;
use crate::{AgentName, GroupName, RunId, Wall};

/// One link of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Number in the chain, from 1, without gaps.
    pub seq: u64,
    /// Log index of the entry.
    pub index: u64,
    /// The proposer's wall clock.
    pub at: Wall,
    /// The agent that proposed it.
    pub by: AgentName,
    /// Who asked.
    pub actor: Actor,
    /// The group it is about.
    pub group: Option<GroupName>,
    /// The run it belongs to.
    pub run: Option<RunId>,
    /// One line for people.
    pub summary: String,
    /// What was asked, whole.
    pub command: Command,
    /// Why it was refused, if it was.
    pub refused: Option<Refused>,
    /// Hash of the previous record, hexadecimal SHA-256; 64 zeros for the first.
    pub previous: String,
    /// SHA-256 over `previous` and the JSON of this record with an empty `hash`, in hexadecimal.
    pub hash: String,
}
