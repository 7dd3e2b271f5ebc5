//! An agent that comes later, on a host of its own, and votes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Cluster;
use crate::lab::ground::port;
use crate::lab::host::Host;
use crate::lab::mesh::{self, Node};
use crate::lab::process::{Process, Said, must, run};
use crate::lab::wait::{Look, until};

const SOON: Duration = Duration::from_secs(20);

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
        let mut node = self.newcomer(name, at)?;
        mesh::issue_to_newcomer(&self.ground, &self.mesh, &node).await?;
        mesh::init_newcomer(&self.mesh, &node).await?;
        node.start_agent(&self.ground, &self.mesh)?;
        self.nodes.push(node);
        let newcomer = self.nodes.len() - 1;
        let joined = until(&format!("{name} joins"), Duration::from_secs(30), || async {
            let said = self.add(newcomer).await?;
            Ok(if said.code == 0 { Look::There(()) } else { Look::NotYet(said.text()) })
        })
        .await;
        self.explained(joined).await?;
        Ok(newcomer)
    }

    /// Describes a host that joins later, whose agent has a configuration and no certificate yet.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn newcomer(&self, name: &str, at: u8) -> Result<Node> {
        let id = self.nodes.len() as u64 + 1;
        let host = Host::on_loopback(&self.ground, name, at);
        let node = Node::new(&self.ground, id, &host, None);
        mesh::describe_newcomer(&self.ground, (&node, &self.nodes[..super::SITES.len()]), &self.secrets)?;
        Ok(node)
    }

    /// What `mesh node add` says of a node, with a vote in the log.
    ///
    /// # Errors
    /// When the command cannot be run.
    pub async fn add(&self, node: usize) -> Result<Said> {
        let Node { id, name, host, .. } = &self.nodes[node];
        let (id, address) = (id.to_string(), format!("{}:{}", host.ip(), port::AGENT));
        let words = ["node", "add", name, "--id", &id, "--site", name, "--address", &address, "--voter"];
        self.nodes[super::EAST].ask(&self.mesh, &words).await
    }

    /// Makes a token for a node, in a file that its host may read.
    ///
    /// # Errors
    /// When the product's command refuses.
    pub async fn token_for(&self, node: &Node) -> Result<PathBuf> {
        let dir = self.ground.dir().join("ca").display().to_string();
        let command = node.host.command(&self.mesh, ["ca", "token", "--dir", &dir, "--agent", &node.name]);
        let said = must(command, SOON).await?;
        let line = said.out.lines().next().context("no token was printed")?;
        self.ground.file(&format!("{}/token", node.name), line)
    }

    /// Serves the authority, at the witness's address, while the value lives.
    ///
    /// # Errors
    /// When it does not begin to in time.
    pub async fn serve_authority(&self) -> Result<Process> {
        let dir = self.ground.dir().join("ca").display().to_string();
        let Node { name, host, .. } = &self.nodes[super::WITNESS];
        let (listen, at) = (self.authority(), format!("{name}@{}:{}", host.ip(), port::AGENT));
        let log = self.ground.log("authority");
        let words = ["--at", &at, "ca", "serve", "--dir", &dir, "--listen", &listen];
        let process = Process::start("authority", host.command(&self.mesh, words), &log)?;
        until("the authority is served", SOON, || async {
            let said = std::fs::read_to_string(&log)?;
            Ok(if said.contains("listening") { Look::There(()) } else { Look::NotYet(said) })
        })
        .await?;
        Ok(process)
    }

    /// Where it is served.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("{}:{}", self.nodes[super::WITNESS].host.ip(), port::AUTHORITY)
    }

    /// What `mesh join` says on a node's host, with the token in that file.
    ///
    /// # Errors
    /// When the command cannot be run.
    pub async fn join_by_token(&self, node: &Node, token: &Path) -> Result<Said> {
        let (config, token) = (node.config.display().to_string(), token.display().to_string());
        let words = ["join", "--config", &config, "--token-file", &token, &self.authority()];
        let mut command = node.host.command(&self.mesh, words);
        if let Some(edition) = node.says_edition {
            command.env("MESH_SAYS_EDITION", edition.to_string());
        }
        run(command, Duration::from_secs(60)).await
    }

    /// Starts the agent of a node that has its certificate, which is not a member yet; its index.
    ///
    /// # Errors
    /// When the product's commands refuse.
    pub async fn start_newcomer(&mut self, mut node: Node) -> Result<usize> {
        mesh::init_newcomer(&self.mesh, &node).await?;
        node.start_agent(&self.ground, &self.mesh)?;
        self.nodes.push(node);
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
