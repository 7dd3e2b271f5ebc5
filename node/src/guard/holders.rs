//! Asks the guards of the group's other instances for promises, each over a connection of its own that stays
//! (`majority_lost = "hold"`). It counts nothing: an answer goes to the core with the round that it answers, and one that
//! does not come is no answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use mesh_proto::hold::{GuardPeer, HoldRequest};
use mesh_proto::{InstanceName, MeshId};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;

use super::driver::Input;
use crate::rpc::GuardClient;
use crate::tls::{Dialer, Identity};

/// A request that was not answered by now is worth little: the shortest lease is about as long.
const ANSWER_WITHIN: Duration = Duration::from_millis(1500);
/// Requests under way to hosts that do not answer, at the quickest pace: more would only pile up.
const UNDER_WAY: usize = 128;

/// One round of questions.
#[derive(Debug)]
pub(super) struct AskHolders {
    pub(super) round: u64,
    pub(super) to: Vec<GuardPeer>,
    pub(super) request: Arc<HoldRequest>,
}

/// Asks until the driver is gone.
pub(super) async fn ask_all(
    mesh: &MeshId,
    dialer: &Dialer,
    mut asked: Receiver<AskHolders>,
    answers: Sender<Input>,
) {
    let mut clients = Clients::new();
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            ask = asked.recv() => {
                let Some(ask) = ask else { return };
                for peer in ask.to {
                    if calls.len() >= UNDER_WAY {
                        tracing::warn!("too many requests for promises are unanswered; this one is left out");
                        continue;
                    }
                    let Some(client) = client(&mut clients, mesh, dialer, &peer) else { continue };
                    let (request, round) = (Arc::clone(&ask.request), ask.round);
                    calls.spawn(async move {
                        (round, peer.instance, client.hold(&request, ANSWER_WITHIN).await)
                    });
                }
            }
            Some(done) = calls.join_next(), if !calls.is_empty() => match done {
                Ok((round, giver, Ok(answer))) => {
                    let _ = answers.send(Input::Promise { round, giver, answer });
                }
                Ok((_, giver, Err(error))) => tracing::debug!(%giver, %error, "a guard did not promise"),
                Err(error) => tracing::error!(%error, "a request for a promise broke off"),
            }
        }
    }
}

type Clients = BTreeMap<InstanceName, (SocketAddr, GuardClient)>;

/// The connection to a guard, made anew where the log says that it moved.
fn client(clients: &mut Clients, mesh: &MeshId, dialer: &Dialer, peer: &GuardPeer) -> Option<GuardClient> {
    if let Some((_, client)) = clients.get(&peer.instance).filter(|(address, _)| *address == peer.address) {
        return Some(client.clone());
    }
    match dialer.channel(&Identity::Guard(peer.instance.clone()), &peer.address.to_string()) {
        Ok(channel) => {
            let client = GuardClient::new(mesh.clone(), channel);
            clients.insert(peer.instance.clone(), (peer.address, client.clone()));
            Some(client)
        }
        Err(error) => {
            tracing::error!(instance = %peer.instance, %error, "this guard cannot be asked");
            None
        }
    }
}
