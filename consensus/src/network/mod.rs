//! Messages between voters: who may speak ([`PeerCheck`]), whom to reach ([`Dialer`]), both ends of the wire.
//!
//! TLS is not here: the node supplies channels and mounts the service on its own listener.

mod client;
pub(crate) mod server;

use std::sync::Arc;
use std::time::Duration;

use mesh_proto::raft as pb;
use tonic::transport::{Channel, Endpoint};
use tonic::{Extensions, Status};

pub(crate) use client::{Network, Peers};
pub use server::{RaftService, Service};

use crate::options::Timings;
use crate::types::{Identity, Member, NodeId};

/// The version of every message; a message of another version is refused before it is looked at.
pub const VERSION: u32 = 1;

/// Decides whether the connection with these extensions may speak for this node: usually whether the peer
/// certificate names it. An error refuses the message.
pub type PeerCheck = Arc<dyn Fn(&Extensions, NodeId) -> Result<(), Status> + Send + Sync>;

/// Gives a channel to a member. Called once per member and kept; the channel must connect lazily and reconnect by
/// itself. Use [`tune`] on its endpoint, or dead peers are noticed late.
pub trait Dialer: Send + Sync + 'static {
    /// Returns a lazily connecting channel that reaches `member` and nobody else.
    ///
    /// # Errors
    /// When no channel can be made for the address at all; being unreachable is no error here.
    fn dial(&self, node: NodeId, member: &Member) -> Result<Channel, DialError>;
}

impl<F> Dialer for F
where
    F: Fn(NodeId, &Member) -> Result<Channel, DialError> + Send + Sync + 'static,
{
    fn dial(&self, node: NodeId, member: &Member) -> Result<Channel, DialError> {
        self(node, member)
    }
}

/// Why no channel can be made.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no channel to the member: {0}")]
pub struct DialError(pub String);

/// Sets what a channel between voters needs: keepalive (tonic has none by default, and a dead peer then hangs every
/// call until its deadline), a short connect deadline, no delay. An idle channel is not asked: a follower has two of them, and
/// its next call finds out as fast.
#[must_use]
pub fn tune(endpoint: Endpoint, timings: &Timings) -> Endpoint {
    let patience = (timings.heartbeat * 10).max(Duration::from_millis(500));
    endpoint
        .connect_timeout(timings.heartbeat * 4)
        .http2_keep_alive_interval(patience)
        .keep_alive_timeout(patience)
        .keep_alive_while_idle(false)
        .tcp_nodelay(true)
}

pub(crate) fn header(me: &Identity, timings: &Timings, to: NodeId, member: &Member) -> pb::Header {
    pb::Header {
        version: VERSION,
        mesh: me.mesh.clone(),
        from: me.node,
        from_incarnation: me.incarnation,
        lease_ms: timings.lease_ms(),
        to,
        to_incarnation: member.incarnation,
    }
}
