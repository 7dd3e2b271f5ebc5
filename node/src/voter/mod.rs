//! A voter of the lease electorate: answers guards that renew and leaders that collect pledges (PROTOCOL, Granting and
//! holding, Taking over 4).
//!
//! The rules are [`mesh_failover::lease::granter::Granter`]'s; this module brings it the clock, the applied log, the disk and
//! the wire. A hung disk stops pledges, never grants; a failed fsync ends the process. It knows no leader and needs
//! none.

mod service;
mod store;

use futures_util::future::BoxFuture;
use mesh_proto::evidence::GuardStatus;
use mesh_proto::lease::{Electorate, GroupView, LeaseKey, VoterPeer};
use mesh_proto::{AgentName, NodeId};

pub use service::VoterService;
pub use store::{StoreError, VoterStore};

/// What the voter's own log says about a key, all read at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogView {
    /// Applied log index.
    pub applied: u64,
    /// The group, with the lease of the asking instance; `None` while the group is unknown.
    pub group: Option<GroupView>,
    /// The electorate of the applied log.
    pub electorate: Electorate,
    /// Everybody who votes in the agreement.
    pub peers: Vec<VoterPeer>,
    /// Raft term of this voter.
    pub raft_term: u64,
}

/// The agreement, as the voter needs it.
pub trait VoterLog: Send + Sync + 'static {
    /// What the log says now.
    fn view(&self, key: &LeaseKey) -> LogView;

    /// Waits until this index is applied. The voter bounds it; it may be dropped at any moment.
    fn wait_applied(&self, index: u64) -> BoxFuture<'_, ()>;

    /// Whether this agent belongs to the mesh, and under which number.
    fn member(&self, agent: &AgentName) -> Option<NodeId>;

    /// A guard told how its instance is, just now.
    fn on_status(&self, status: GuardStatus);
}

#[cfg(test)]
mod tests;
