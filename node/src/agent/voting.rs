//! What the voter of this agent reads: the applied state, the agreement's term; and whom it tells what guards say.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use mesh_proto::evidence::GuardStatus;
use mesh_proto::lease::{Electorate, GroupView, LeaseKey, LeaseRecord};
use mesh_proto::rpc::voter_server::VoterServer;
use mesh_proto::{AgentName, GroupName, InstanceName, NodeId};

use super::driver::Driver;
use crate::config::NodeConfig;
use crate::voter::{VoterError, VoterService, VoterView};

struct View(Arc<Driver>);

impl VoterView for View {
    fn wait_applied(&self, index: u64, deadline: Instant) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            // Too late: the granter answers that it is behind.
            let _ = self.0.consensus.wait_applied(index, deadline).await;
        })
    }
    fn lease(&self, key: &LeaseKey) -> (Option<LeaseRecord>, u64) {
        // Entries without a command of ours move the agreement on too; what matters is that nothing below is missing.
        let applied = self.0.consensus.standing().applied.map_or(0, |at| at.index);
        self.0
            .consensus
            .read(|machine| (machine.state().current_lease(key).cloned(), machine.applied().max(applied)))
    }
    fn electorate(&self) -> Electorate {
        self.0.consensus.read(|machine| machine.state().electorate.clone())
    }
    fn group(&self, group: &GroupName, instance: &InstanceName) -> Option<GroupView> {
        self.0.consensus.read(|machine| machine.state().group_view(group, instance, machine.applied()))
    }
    fn raft_term(&self) -> u64 {
        self.0.consensus.standing().term
    }
    fn is_member(&self, agent: &AgentName) -> bool {
        self.0.consensus.read(|machine| machine.state().members.contains_key(agent))
    }
    fn heard(&self, status: GuardStatus) {
        self.0.heard_guard(status);
    }
}

/// The voter of this agent.
///
/// # Errors
/// [`VoterError`] when its floors cannot be used.
pub fn service(config: &NodeConfig, driver: &Arc<Driver>) -> Result<VoterServer<VoterService>, VoterError> {
    let node = NodeId(driver.consensus.identity().node);
    let view = Arc::new(View(Arc::clone(driver)));
    let voter = VoterService::open(config.mesh.id.clone(), node, &config.agent.data_dir, view)?;
    Ok(VoterServer::new(voter))
}
