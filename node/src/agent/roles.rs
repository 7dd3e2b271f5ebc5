//! Where the HTTP role endpoints get their answers: from the guards of this host, asked at that moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_consensus::{Consensus, Role};
use mesh_failover::state::Group;
use mesh_proto::operator::StatusView;
use mesh_proto::{GroupName, InstanceName, Millis};

use super::ask::Asked;
use super::machine::MeshMachine;
use super::peers::Peers;
use crate::config::NodeConfig;
use crate::http::{Lead, LocalInstance, Reading, RoleSource, Silence};
use crate::rpc::CallError;

/// The probe interval assumed before a group states one.
const PROBE: Millis = Millis(250);

/// The guards of this host.
pub struct LocalRoles {
    instances: Vec<(InstanceName, GroupName, std::net::SocketAddr)>,
    peers: Arc<Peers>,
    consensus: Consensus<MeshMachine>,
    asked: Arc<Asked>,
}

impl LocalRoles {
    /// The guards that this host's file names.
    #[must_use]
    pub fn new(config: &NodeConfig, peers: Arc<Peers>, asked: Arc<Asked>) -> Self {
        let consensus = asked.driver.consensus.clone();
        let instances =
            config.instances.iter().map(|i| (i.name.clone(), i.group.clone(), i.guard_listen)).collect();
        Self { instances, peers, consensus, asked }
    }

    async fn ask(
        &self,
        name: &InstanceName,
        address: std::net::SocketAddr,
        limit: Duration,
    ) -> Result<Reading, Silence> {
        let asked = Instant::now();
        let client = self.peers.guard(name, address).map_err(|_| Silence::NotReached)?;
        match client.status(&(), limit).await {
            Ok(status) => Ok(Reading { status, age: Millis::from(asked.elapsed()), lag_bytes: None }),
            Err(CallError::NotReached(_)) => Err(Silence::NotReached),
            Err(CallError::NoAnswer(_)) => Err(Silence::Late(Millis::from(limit))),
            Err(CallError::Refused(_) | CallError::Envelope(_)) => Err(Silence::Failed),
        }
    }
}

impl RoleSource for LocalRoles {
    async fn instances(&self, limit: Millis) -> Vec<LocalInstance> {
        let asked = self.instances.iter().map(|(name, group, address)| async move {
            let probe = self
                .consensus
                .read(|machine| machine.state().groups.get(group).map(|group| group.timing.probe))
                .unwrap_or(PROBE);
            let reading = self.ask(name, *address, limit.duration()).await;
            LocalInstance { name: name.clone(), probe, reading }
        });
        futures_util::future::join_all(asked).await
    }

    fn live(&self) -> Result<(), String> {
        match self.consensus.standing().fault {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }

    fn ready(&self) -> Result<(), String> {
        self.live()?;
        let standing = self.consensus.standing();
        if standing.role == Role::Stopped {
            return Err("the agreement has stopped".to_owned());
        }
        if standing.leader.is_none() {
            return Err("no leader is known".to_owned());
        }
        if self.consensus.read(|machine| machine.state().mesh.is_none()) {
            return Err("the mesh is not formed".to_owned());
        }
        Ok(())
    }

    fn status(&self) -> StatusView {
        self.asked.status()
    }

    fn leads(&self) -> Vec<Lead> {
        self.consensus.read(|machine| {
            let lead = |(name, group): (&GroupName, &Group)| {
                // Whoever is being taken over may be fenced at this moment.
                let primary = group.primary.as_ref().filter(|_| group.takeover.is_none());
                let spec = primary.and_then(|primary| {
                    group.spec.instances.iter().find(|known| known.name == primary.instance)
                });
                Lead { group: name.clone(), epoch: group.epoch, to: spec.map(|spec| spec.address) }
            };
            machine.state().groups.iter().map(lead).collect()
        })
    }
}
