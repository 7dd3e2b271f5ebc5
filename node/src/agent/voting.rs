//! What the voter of this agent reads: the applied state, the agreement's term; and whom it tells what guards say.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use mesh_proto::evidence::GuardStatus;
use mesh_proto::lease::LeaseKey;
use mesh_proto::{AgentName, NodeId};

use super::driver::Driver;
use crate::config::NodeConfig;
use crate::voter::{LogView, StoreError, VoterLog, VoterService, VoterStore};

/// Bound of a wait that its caller bounds more tightly.
const WAIT: Duration = Duration::from_secs(5);

struct Log(Arc<Driver>);

impl VoterLog for Log {
    fn view(&self, key: &LeaseKey) -> LogView {
        let standing = self.0.consensus.standing();
        // Entries that are not ours (elections, membership) move the index on too, and change nothing of ours.
        let reached = standing.applied.map_or(0, |at| at.index);
        self.0.consensus.read(|machine| {
            let applied = machine.applied().max(reached);
            LogView {
                applied,
                group: machine.state().group_view(&key.group, &key.instance, applied),
                electorate: machine.state().electorate.clone(),
                peers: machine.state().voter_peers(),
                raft_term: standing.term,
            }
        })
    }

    fn wait_applied(&self, index: u64) -> BoxFuture<'_, ()> {
        async move {
            // Too late or stopped: the granter decides by what is applied then.
            let _ = self.0.consensus.wait_applied(index, Instant::now() + WAIT).await;
        }
        .boxed()
    }

    fn member(&self, agent: &AgentName) -> Option<NodeId> {
        self.0.consensus.read(|machine| machine.state().members.get(agent).map(|member| member.id))
    }

    fn on_status(&self, status: GuardStatus) {
        self.0.heard_guard(status);
    }
}

/// Where the voter's floors lie.
#[must_use]
pub fn floors(data_dir: &Path) -> PathBuf {
    data_dir.join("voter-floors")
}

/// The voter of this agent.
///
/// # Errors
/// [`StoreError`] when its floors cannot be used.
pub fn service(config: &NodeConfig, driver: &Arc<Driver>) -> Result<VoterService, StoreError> {
    let node = NodeId(driver.consensus.identity().node);
    let store = VoterStore::open(&floors(&config.agent.data_dir))?;
    Ok(VoterService::new(node, config.mesh.acting.clone(), store, Arc::new(Log(Arc::clone(driver)))))
}
