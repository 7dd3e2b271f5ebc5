//! The section `[keep]`: how long, and how much of, the evidence that rejoins kept stays on this host. It never says where: that is
//! `keep_dir` of each instance.

use mesh_failover::kept::KeepPolicy;
use serde::Deserialize;

use super::NodeConfig;
use super::check::{At, Finding, at, finding};

/// Longer than anybody asks what was lost; the note and the audit stay the record after that.
const DAYS: u32 = 30;
/// 1280 segments of PostgreSQL's default 16 MiB, or some snapshots of a large Redis. The newest may be larger.
const MAX_BYTES: u64 = 20 << 30;
/// A hundred years.
const DAYS_MAX: u32 = 36_500;

/// How long kept evidence stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeepSection {
    /// What is older than this many days is pruned.
    pub days: u32,
    /// While more bytes than this are kept for one instance, the oldest is pruned.
    pub max_bytes: u64,
}

impl Default for KeepSection {
    fn default() -> Self {
        Self { days: DAYS, max_bytes: MAX_BYTES }
    }
}

impl KeepSection {
    /// As the core knows it.
    #[must_use]
    pub const fn policy(self) -> KeepPolicy {
        KeepPolicy { days: self.days, max_bytes: self.max_bytes }
    }
}

/// Checks the values.
pub(super) fn values(config: &NodeConfig, found: &mut Vec<Finding>) {
    if !(1..=DAYS_MAX).contains(&config.keep.days) {
        found.push(finding(
            at!["keep", "days"],
            format!(
                "{} days: a rejoin's evidence would be gone before anybody asks, or never",
                config.keep.days
            ),
            format!("write 1 to {DAYS_MAX}; 30 is the default"),
        ));
    }
    if config.keep.max_bytes == 0 {
        found.push(finding(
            at!["keep", "max_bytes"],
            "0 bytes: of two rejoins only the second's evidence would be left",
            "write a number of bytes such as 21474836480 (20 GiB, the default)",
        ));
    }
}
