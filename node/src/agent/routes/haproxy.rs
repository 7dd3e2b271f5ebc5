//! Routes through HAProxy: a backend whose admin socket this agent's file names.

use std::net::SocketAddr;
use std::path::PathBuf;

use mesh_adapters::haproxy::{self, Endpoint, Haproxy, HaproxyError, Led, Wanted};
use mesh_proto::effect::{Outcome, Refusal};
use mesh_proto::spec::HaproxyTarget;

use super::{Asked, Kind, No, mark, no, refused};
use crate::config::{HaproxySection, HaproxySocket};

/// An admin socket.
#[derive(Debug)]
pub(super) struct Held {
    backend: String,
    endpoint: Endpoint,
    state_file: Option<PathBuf>,
}

impl Held {
    pub(super) fn of(section: &HaproxySection) -> Self {
        let endpoint = match &section.socket {
            HaproxySocket::Unix(path) => Endpoint::Unix(path.clone()),
            HaproxySocket::Tcp(address) => Endpoint::Tcp(*address),
        };
        Self { backend: section.backend.clone(), endpoint, state_file: section.state_file.clone() }
    }
}

/// A backend, and the HAProxy that has it.
pub(super) struct Route<'a> {
    target: &'a HaproxyTarget,
    haproxy: Haproxy,
    state_file: Option<PathBuf>,
}

impl<'a> Route<'a> {
    pub(super) fn new(held: &[Held], target: &'a HaproxyTarget) -> Result<Self, No> {
        let Some(held) = held.iter().find(|held| held.backend == target.backend) else {
            let what = format!("this agent's file names no admin socket for backend {}", target.backend);
            return Err(no(Refusal::NotConfigured, what));
        };
        let haproxy = Haproxy::new(held.endpoint.clone());
        Ok(Self { target, haproxy, state_file: held.state_file.clone() })
    }

    fn haproxy(&self, asked: &Asked<'_>) -> Haproxy {
        match &self.state_file {
            Some(path) => self.haproxy.clone().keeping(path.clone(), mark(asked)),
            None => self.haproxy.clone(),
        }
    }

    fn wanted(&self, asked: &Asked<'_>) -> Wanted {
        Wanted {
            backend: self.target.backend.clone(),
            server: asked.instance.name.as_str().to_owned(),
            address: Some(asked.instance.address),
        }
    }
}

impl Kind for Route<'_> {
    async fn lead(&self, asked: &Asked<'_>) -> Outcome {
        outcome(self.haproxy(asked).lead(&self.wanted(asked), asked.deadline).await)
    }

    async fn verify(&self, asked: &Asked<'_>) -> Outcome {
        outcome(self.haproxy(asked).verify(&self.wanted(asked), asked.deadline).await)
    }

    fn counts_sessions(&self) -> bool {
        true
    }

    async fn entrance(&self, _: &Asked<'_>) -> Result<SocketAddr, No> {
        Ok(self.target.listen)
    }
}

/// A HAProxy that is not there may come back in a moment: nothing was done, so the order is simply sent again.
fn outcome(result: Result<Led, HaproxyError>) -> Outcome {
    if let Err(error @ HaproxyError::NotReached { .. }) = &result {
        return refused(Refusal::NotDelivered, &crate::cli::with_causes(error));
    }
    haproxy::outcome(result)
}
