//! An agent that comes later, on a host of its own, and votes.

use std::time::Duration;

use anyhow::Result;

use super::Cluster;
use crate::lab::ground::port;
use crate::lab::host::Host;
use crate::lab::mesh::{self, Node};
use crate::lab::wait::{Look, until};

impl Cluster {
    /// Raises an agent on a further loopback host and adds it, with a vote in the log, as an operator would; its node.
    ///
    /// # Errors
    /// When the product's commands refuse, or the agent does not come up.
    pub async fn join(&mut self, name: &str) -> Result<usize> {
        let at = u8::try_from(self.nodes.len() + 1)?;
        self.join_at(name, at).await
    }

    /// The same in the place of a node whose agent is gone: at its address and its ports.
    ///
    /// # Errors
    /// As [`Self::join`].
    pub async fn join_in_place_of(&mut self, node: usize, name: &str) -> Result<usize> {
        self.join_at(name, u8::try_from(node + 1)?).await
    }

    async fn join_at(&mut self, name: &str, at: u8) -> Result<usize> {
        let id = self.nodes.len() as u64 + 1;
        let host = Host::on_loopback(&self.ground, name, at);
        let mut node = Node::new(&self.ground, id, &host, None);
        mesh::configure_newcomer(
            &self.ground,
            &self.mesh,
            (&node, &self.nodes[..super::SITES.len()]),
            &self.secrets,
        )
        .await?;
        node.start_agent(&self.ground, &self.mesh)?;
        self.nodes.push(node);
        let (id, address) = (id.to_string(), format!("{}:{}", host.ip(), port::AGENT));
        let words = ["node", "add", name, "--id", &id, "--site", name, "--address", &address, "--voter"];
        let joined = until(&format!("{name} joins"), Duration::from_secs(30), || async {
            let said = self.nodes[super::EAST].ask(&self.mesh, &words).await?;
            Ok(if said.code == 0 { Look::There(()) } else { Look::NotYet(said.text()) })
        })
        .await;
        self.explained(joined).await?;
        Ok(self.nodes.len() - 1)
    }

    /// Waits until exactly these nodes vote on leases, and no change is under way.
    ///
    /// # Errors
    /// When that is not so in time; with status and logs.
    pub async fn until_voters(&self, nodes: &[usize], limit: Duration) -> Result<()> {
        let wanted = nodes.iter().map(|node| mesh_proto::NodeId(self.nodes[*node].id)).collect();
        let waited = until("the voters have changed", limit, || async {
            let electorate = self.status().await?.electorate;
            let done = !electorate.changes() && electorate.members == wanted;
            Ok(if done { Look::There(()) } else { Look::NotYet(format!("{electorate:?}")) })
        })
        .await;
        self.explained(waited).await
    }
}
