//! The sending end: one kept channel a member, a deadline on every call.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh_proto::raft as pb;
use mesh_proto::raft::raft_client::RaftClient;
use openraft::error::{NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend, RaftNetwork, RaftNetworkFactory};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::{DialError, Dialer, header};
use crate::options::Timings;
use crate::types::{Ballot, Identity, LogId, Member, NodeId, Snapshot, TypeConfig};
use crate::wire;

type CallError = RPCError<NodeId, Member, RaftError<NodeId>>;

/// The channels to all members.
pub(crate) struct Peers {
    me: Identity,
    dialer: Box<dyn Dialer>,
    message_limit: usize,
    timings: Timings,
    kept: Mutex<HashMap<NodeId, (Member, RaftClient<Channel>)>>,
    had: Mutex<HashMap<NodeId, Had>>,
}

/// What a member told this voter that it had, on its disk.
#[derive(Debug)]
struct Had {
    /// In which life of its store.
    incarnation: u64,
    /// Under whose lead it was told last.
    ballot: Ballot,
    /// Up to where, under that lead.
    matching: u64,
    /// Up to where of what was committed, ever.
    committed: u64,
}

/// A member lacks what it had acknowledged: its store is an older copy.
#[derive(Debug, thiserror::Error)]
#[error(
    "voter {node} lacks entry {lacking}, which it had acknowledged: its store was put back from an older copy, and what it \
     promised since is forgotten; stop that agent, and put another voter in its place"
)]
struct Forgot {
    node: NodeId,
    lacking: u64,
}

impl Peers {
    pub(crate) fn new(me: Identity, dialer: Box<dyn Dialer>, message_limit: usize, timings: Timings) -> Self {
        Self { me, dialer, message_limit, timings, kept: Mutex::default(), had: Mutex::default() }
    }

    fn client(&self, node: NodeId, member: &Member) -> Result<RaftClient<Channel>, DialError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, client)) = kept.get(&node)
            && known == member
        {
            return Ok(client.clone());
        }
        let client = RaftClient::new(self.dialer.dial(node, member)?)
            .max_decoding_message_size(self.message_limit)
            .max_encoding_message_size(self.message_limit);
        kept.insert(node, (member.clone(), client.clone()));
        Ok(client)
    }

    /// A member has everything up to here.
    fn has(&self, node: NodeId, member: &Member, ballot: Ballot, matching: u64, committed: u64) {
        let mut had = self.had.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Had { incarnation: member.incarnation, ballot, matching: 0, committed: 0 };
        let known = had.entry(node).or_insert_with(fresh);
        if known.incarnation != member.incarnation {
            *known = fresh();
        }
        if known.ballot != ballot {
            // What is not committed another leader may have had it drop.
            (known.ballot, known.matching) = (ballot, 0);
        }
        known.matching = known.matching.max(matching);
        known.committed = known.committed.max(matching.min(committed));
    }

    /// A member says that it lacks this entry. It never does, once it had it; a leader's core takes that for an impossibility.
    fn lacks(&self, node: NodeId, member: &Member, ballot: Ballot, lacking: u64) -> Result<(), Forgot> {
        let had = self.had.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = had.get(&node).filter(|known| known.incarnation == member.incarnation) else {
            return Ok(());
        };
        let under_this_lead = if known.ballot == ballot { known.matching } else { 0 };
        if lacking > known.committed.max(under_this_lead) { Ok(()) } else { Err(Forgot { node, lacking }) }
    }

    /// Asks a member whether an election would be welcome, or only who it is.
    pub(crate) async fn probe(
        &self,
        node: NodeId,
        member: &Member,
        last: Option<LogId>,
        within: Duration,
    ) -> Result<pb::ProbeResponse, Status> {
        let mut client = self.client(node, member).map_err(|error| Status::unavailable(error.to_string()))?;
        let request = pb::ProbeRequest {
            header: Some(header(&self.me, &self.timings, node, member)),
            last: last.as_ref().map(wire::log_id),
        };
        bounded(within, client.probe(timed(request, within))).await
    }
}

fn timed<T>(message: T, within: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(within);
    request
}

async fn bounded<T>(
    within: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(within, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_elapsed) => Err(Status::deadline_exceeded("no answer within the deadline")),
    }
}

/// openraft's factory of [`Link`]s. It asks for a new one for every read, so a link is only a handle.
#[derive(Clone)]
pub(crate) struct Network(pub(crate) Arc<Peers>);

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, member: &Member) -> Link {
        Link { peers: Arc::clone(&self.0), node: target, member: member.clone() }
    }
}

/// The way to one member.
pub(crate) struct Link {
    peers: Arc<Peers>,
    node: NodeId,
    member: Member,
}

impl Link {
    fn client(&self) -> Result<RaftClient<Channel>, Unreachable> {
        self.peers.client(self.node, &self.member).map_err(|error| Unreachable::new(&error))
    }

    fn header(&self) -> Option<pb::Header> {
        Some(header(&self.peers.me, &self.peers.timings, self.node, &self.member))
    }
}

/// A refusal is repeated at openraft's leisure, not at once: only a passed deadline is worth an immediate retry.
fn failed(status: &Status) -> CallError {
    if status.code() == Code::DeadlineExceeded {
        return RPCError::Network(NetworkError::new(status));
    }
    RPCError::Unreachable(Unreachable::new(status))
}

fn garbled(what: &wire::Lacking) -> CallError {
    RPCError::Unreachable(Unreachable::new(what))
}

impl RaftNetwork<TypeConfig> for Link {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, CallError> {
        let mut client = self.client()?;
        let request = pb::AppendRequest {
            header: self.header(),
            ballot: Some(wire::ballot(&rpc.vote)),
            previous: rpc.prev_log_id.as_ref().map(wire::log_id),
            committed: rpc.leader_commit.as_ref().map(wire::log_id),
            entries: rpc.entries.iter().map(wire::entry).collect(),
        };
        let within = option.hard_ttl();
        let call = client.append(timed(request, within));
        let answer = bounded(within, call).await.map_err(|status| failed(&status))?;
        match answer.outcome() {
            pb::append_response::Outcome::Accepted => {
                let last = rpc.entries.last().map(|entry| entry.log_id).or(rpc.prev_log_id);
                let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
                self.peers.has(self.node, &self.member, rpc.vote, index(last), index(rpc.leader_commit));
                Ok(AppendEntriesResponse::Success)
            }
            pb::append_response::Outcome::Partly => {
                Ok(AppendEntriesResponse::PartialSuccess(answer.matching.as_ref().map(wire::log_id_back)))
            }
            pb::append_response::Outcome::Conflict => {
                let lacking = rpc.prev_log_id.map_or(0, |id| id.index);
                match self.peers.lacks(self.node, &self.member, rpc.vote, lacking) {
                    Ok(()) => Ok(AppendEntriesResponse::Conflict),
                    Err(forgot) => {
                        tracing::error!(%forgot, "a voter is kept out");
                        Err(RPCError::Unreachable(Unreachable::new(&forgot)))
                    }
                }
            }
            pb::append_response::Outcome::Outvoted => {
                let ballot = wire::ballot_back(answer.ballot.as_ref()).map_err(|what| garbled(&what))?;
                Ok(AppendEntriesResponse::HigherVote(ballot))
            }
            pb::append_response::Outcome::Unspecified => Err(garbled(&wire::Lacking("the outcome"))),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, CallError> {
        let mut client = self.client()?;
        let request = pb::VoteRequest {
            header: self.header(),
            ballot: Some(wire::ballot(&rpc.vote)),
            last: rpc.last_log_id.as_ref().map(wire::log_id),
        };
        let within = option.hard_ttl();
        let answer =
            bounded(within, client.vote(timed(request, within))).await.map_err(|status| failed(&status))?;
        let ballot = wire::ballot_back(answer.ballot.as_ref()).map_err(|what| garbled(&what))?;
        Ok(VoteResponse::new(ballot, answer.last.as_ref().map(wire::log_id_back), answer.granted))
    }

    async fn full_snapshot(
        &mut self,
        vote: Ballot,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<NodeId>, StreamingError<TypeConfig, openraft::error::Fatal<NodeId>>> {
        let mut client = self.client()?;
        let request = pb::InstallRequest {
            header: self.header(),
            ballot: Some(wire::ballot(&vote)),
            meta: Some(wire::snapshot_meta(&snapshot.meta)),
            crc32c: crc32c::crc32c(&snapshot.snapshot.0),
            data: snapshot.snapshot.0,
        };
        let within = self.peers.timings.install;
        let answer = tokio::select! {
            closed = cancel => return Err(StreamingError::Closed(closed)),
            answer = bounded(within, client.install(timed(request, within))) => answer,
        };
        let answer = answer.map_err(|status| StreamingError::Unreachable(Unreachable::new(&status)))?;
        let ballot = wire::ballot_back(answer.ballot.as_ref())
            .map_err(|what| StreamingError::Unreachable(Unreachable::from(AnyError::new(&what))))?;
        Ok(SnapshotResponse::new(ballot))
    }

    /// openraft's default is a flat 500 ms, longer than an election takes.
    fn backoff(&self) -> Backoff {
        Backoff::new([50, 100, 200].into_iter().chain(std::iter::repeat(300)).map(Duration::from_millis))
    }
}
