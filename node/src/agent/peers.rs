//! Connections to other agents and to guards: one channel each, made when first needed and kept. A channel is bound to
//! the name of its peer, so an address that another one holds by now fails as unreachable.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use mesh_proto::{AgentName, InstanceName, MeshId};
use tonic::transport::Channel;

use crate::rpc::{AgentClient, GuardClient, VoterClient};
use crate::tls::connect::DialError;
use crate::tls::{Dialer, Identity};

/// Channels by peer and address.
#[derive(Debug)]
pub struct Peers {
    mesh: MeshId,
    dialer: Dialer,
    channels: Mutex<BTreeMap<(String, String), Channel>>,
}

impl Peers {
    /// No channels yet.
    #[must_use]
    pub const fn new(mesh: MeshId, dialer: Dialer) -> Self {
        Self { mesh, dialer, channels: Mutex::new(BTreeMap::new()) }
    }

    /// Calls to another agent.
    ///
    /// # Errors
    /// [`DialError`] when the address or name cannot be used at all; being unreachable is found out by the call.
    pub fn agent(&self, name: &AgentName, address: &str) -> Result<AgentClient, DialError> {
        Ok(AgentClient::new(self.mesh.clone(), self.channel(&Identity::Agent(name.clone()), address)?))
    }

    /// Calls to another agent as a voter.
    ///
    /// # Errors
    /// As [`Peers::agent`].
    pub fn voter(&self, name: &AgentName, address: &str) -> Result<VoterClient, DialError> {
        Ok(VoterClient::new(self.mesh.clone(), self.channel(&Identity::Agent(name.clone()), address)?))
    }

    /// Calls to a guard.
    ///
    /// # Errors
    /// As [`Peers::agent`].
    pub fn guard(&self, instance: &InstanceName, address: SocketAddr) -> Result<GuardClient, DialError> {
        let identity = Identity::Guard(instance.clone());
        Ok(GuardClient::new(self.mesh.clone(), self.channel(&identity, &address.to_string())?))
    }

    fn channel(&self, peer: &Identity, address: &str) -> Result<Channel, DialError> {
        let key = (peer.to_string(), address.to_owned());
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&key) {
            return Ok(channel.clone());
        }
        let channel = self.dialer.channel(peer, address)?;
        channels.insert(key, channel.clone());
        Ok(channel)
    }
}
