//! What each route says of itself: in the file of the agent that holds it, and in the group spec.

use std::net::Ipv4Addr;

use super::mesh::Node;

/// The lines of one route.
#[derive(Debug, Clone)]
pub struct RouteLines {
    /// Where it is held: the address of its host.
    pub ip: Ipv4Addr,
    /// The section in the file of the agent there.
    pub held: String,
    /// The keys of its `[[route]]`, without the agent.
    pub spec: String,
}

impl RouteLines {
    /// Its table in the group spec; `None` if no node stands on its host.
    #[must_use]
    pub fn table(&self, nodes: &[Node]) -> Option<String> {
        let node = nodes.iter().find(|node| node.host.ip() == self.ip)?;
        Some(format!("[[route]]\nagent = \"{}\"\n{}", node.name, self.spec))
    }
}
