//! Asks every voter, each over a connection of its own that stays. An answer that comes late is still given to the core,
//! which counts from when the request was sent; a voter that does not answer holds up no other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use mesh_proto::lease::RenewRequest;
use mesh_proto::{AgentName, NodeId};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;

use super::driver::Input;
use crate::config::MeshSection;
use crate::rpc::VoterClient;
use crate::tls::{Dialer, Identity};

/// Requests that may wait. The driver drops what finds it full: a newer request says more.
pub(super) const QUEUE: usize = 64;
/// A request that was not answered by now is worth little: the shortest lease is about as long.
const ANSWER_WITHIN: Duration = Duration::from_millis(1500);
/// Requests under way to one host that does not answer, at the quickest pace: more would only pile up.
const UNDER_WAY: usize = 128;

/// One round of questions.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) round: u64,
    pub(super) voters: Vec<NodeId>,
    pub(super) request: Arc<RenewRequest>,
}

/// Asks until the driver is gone.
pub(super) async fn ask_all(
    mesh: &MeshSection,
    dialer: &Dialer,
    mut asked: Receiver<Ask>,
    answers: Sender<Input>,
) {
    let mut clients = BTreeMap::new();
    for voter in &mesh.voters {
        know((&mut clients, mesh, dialer), voter.id, &voter.agent, &voter.address.to_string());
    }
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            ask = asked.recv() => {
                let Some(ask) = ask else { return };
                for voter in &ask.voters {
                    // A voter that joined later is known from the answer of another one.
                    let Some(client) = clients.get(voter) else {
                        tracing::warn!(voter = voter.0, "nobody said yet where this voter is; add its [[mesh.voter]] to this host's file");
                        continue;
                    };
                    if calls.len() >= UNDER_WAY {
                        tracing::warn!("too many renewals are unanswered; this one is left out");
                        continue;
                    }
                    let (client, request, round) = (client.clone(), Arc::clone(&ask.request), ask.round);
                    calls.spawn(async move { (round, client.renew(&request, ANSWER_WITHIN).await) });
                }
            }
            Some(done) = calls.join_next(), if !calls.is_empty() => match done {
                Ok((round, Ok(reply))) => {
                    for peer in &reply.peers {
                        know((&mut clients, mesh, dialer), peer.id, &peer.agent, &peer.address);
                    }
                    let _ = answers.send(Input::Reply { round, reply: Box::new(reply) });
                }
                Ok((_, Err(error))) => tracing::debug!(%error, "a voter did not answer"),
                Err(error) => tracing::error!(%error, "a renewal broke off"),
            }
        }
    }
}

type Clients = BTreeMap<NodeId, VoterClient>;

/// Remembers where a voter is, if that is new. What this host's file says of it stands: an address may be meant for here.
fn know(
    (clients, mesh, dialer): (&mut Clients, &MeshSection, &Dialer),
    id: NodeId,
    agent: &AgentName,
    address: &str,
) {
    if clients.contains_key(&id) {
        return;
    }
    match dialer.channel(&Identity::Agent(agent.clone()), address) {
        Ok(channel) => {
            clients.insert(id, VoterClient::new(mesh.acting.clone(), channel));
        }
        Err(error) => tracing::error!(voter = %agent, %error, "this voter cannot be asked"),
    }
}
