//! The receiving end: every message is checked for version, mesh, identity and incarnation before it counts.

use std::sync::Arc;
use std::time::Instant;

use mesh_proto::raft as pb;
use mesh_proto::raft::raft_server::{Raft as RaftRpc, RaftServer};
use openraft::ServerState;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use tonic::{Request, Response, Status};

use super::VERSION;
use crate::hub::{Core, Hub};
use crate::types::{NodeId, Snapshot, SnapshotBytes};
use crate::wire;

/// The service to mount into a tonic router.
pub type RaftService = RaftServer<Service>;

/// The handler behind [`RaftService`].
#[derive(Clone)]
pub struct Service {
    hub: Arc<Hub>,
}

impl Service {
    pub(crate) fn mount(hub: Arc<Hub>) -> RaftService {
        let limit = hub.options.message_limit();
        RaftServer::new(Self { hub }).max_decoding_message_size(limit).max_encoding_message_size(limit)
    }

    /// Checks who speaks. Returns the core that may answer, and the sender.
    fn admit<T>(&self, request: &Request<T>, header: Option<&pb::Header>) -> Result<(Core, NodeId), Status> {
        let header = header.ok_or_else(|| Status::invalid_argument("the message has no header"))?;
        let me = &self.hub.identity;
        if header.version != VERSION {
            return Err(Status::failed_precondition(format!(
                "the message has version {}, this agent speaks {VERSION}; upgrade the older agent",
                header.version
            )));
        }
        if header.mesh != me.mesh {
            return Err(Status::failed_precondition(format!(
                "the message is of mesh {:?}, this agent belongs to mesh {:?}",
                header.mesh, me.mesh
            )));
        }
        if header.to != me.node {
            return Err(Status::failed_precondition(format!(
                "the message is for node {}, this is node {}; check the addresses of the members",
                header.to, me.node
            )));
        }
        if header.to_incarnation != me.incarnation && header.to_incarnation != 0 {
            return Err(Status::failed_precondition(format!(
                "the message is for another incarnation of node {}: this one has a new store; a voter that lost \
                 its disk joins under a new id",
                me.node
            )));
        }
        let lease = self.hub.options.timings.lease_ms();
        if header.lease_ms != lease {
            return Err(Status::failed_precondition(format!(
                "the sender's leader lease is {} ms, this agent's {lease} ms; give `network` in [mesh] the same value \
                 in every agent's file, and restart the agents",
                header.lease_ms
            )));
        }
        (self.hub.options.peer_check)(request.extensions(), header.from)?;
        let core = self.hub.core().ok_or_else(|| Status::unavailable("this voter has stopped"))?;
        if let Some(known) = core.member(header.from)
            && known.incarnation != header.from_incarnation
        {
            return Err(Status::permission_denied(format!(
                "node {} is a member with another incarnation; a voter that lost its disk joins under a new id",
                header.from
            )));
        }
        Ok((core, header.from))
    }

    /// As [`Service::admit`], and the sender must know whom it speaks to.
    fn admit_exactly<T>(
        &self,
        request: &Request<T>,
        header: Option<&pb::Header>,
    ) -> Result<(Core, NodeId), Status> {
        if header.is_some_and(|header| header.to_incarnation == 0) {
            return Err(Status::failed_precondition("the message does not say for which incarnation it is"));
        }
        self.admit(request, header)
    }
}

fn garbled(what: &wire::Lacking) -> Status {
    Status::invalid_argument(what.to_string())
}

fn stopped<E: std::error::Error>(_error: &E) -> Status {
    Status::unavailable("this voter has stopped")
}

pub(crate) fn entries(request: &mut pb::AppendRequest) -> Result<Vec<crate::types::Entry>, Status> {
    let mut before = request.previous.as_ref().map(|previous| previous.index);
    let sent = std::mem::take(&mut request.entries);
    let checked = sent.into_iter().map(|entry| {
        let entry = wire::entry_back(entry).map_err(|what| garbled(&what))?;
        let expected = before.map_or(Some(0), |before| before.checked_add(1));
        before = Some(entry.log_id.index);
        if expected != before {
            return Err(Status::invalid_argument("the entries do not follow each other"));
        }
        Ok(entry)
    });
    checked.collect()
}

#[tonic::async_trait]
impl RaftRpc for Service {
    async fn append(
        &self,
        request: Request<pb::AppendRequest>,
    ) -> Result<Response<pb::AppendResponse>, Status> {
        let (core, _from) = self.admit_exactly(&request, request.get_ref().header.as_ref())?;
        let mut request = request.into_inner();
        let rpc = AppendEntriesRequest {
            vote: wire::ballot_back(request.ballot.as_ref()).map_err(|what| garbled(&what))?,
            prev_log_id: request.previous.as_ref().map(wire::log_id_back),
            entries: entries(&mut request)?,
            leader_commit: request.committed.as_ref().map(wire::log_id_back),
        };
        let answer = core.raft.append_entries(rpc).await.map_err(|error| stopped(&error))?;
        use pb::append_response::Outcome;
        let (outcome, matching, ballot) = match answer {
            AppendEntriesResponse::Success => (Outcome::Accepted, None, None),
            AppendEntriesResponse::PartialSuccess(upto) => (Outcome::Partly, upto, None),
            AppendEntriesResponse::Conflict => (Outcome::Conflict, None, None),
            AppendEntriesResponse::HigherVote(vote) => (Outcome::Outvoted, None, Some(vote)),
        };
        if outcome != Outcome::Outvoted {
            self.hub.contact.hear(Instant::now());
        }
        Ok(Response::new(pb::AppendResponse {
            outcome: outcome.into(),
            matching: matching.as_ref().map(wire::log_id),
            ballot: ballot.as_ref().map(wire::ballot),
        }))
    }

    async fn vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteResponse>, Status> {
        let (core, _from) = self.admit_exactly(&request, request.get_ref().header.as_ref())?;
        let request = request.into_inner();
        let vote = wire::ballot_back(request.ballot.as_ref()).map_err(|what| garbled(&what))?;
        let rpc = VoteRequest::new(vote, request.last.as_ref().map(wire::log_id_back));
        let Some(_giving) = self.hub.contact.voting(Instant::now).await else {
            return Err(Status::failed_precondition("this leader is confirmed and votes for nobody yet"));
        };
        let answer = core.raft.vote(rpc).await.map_err(|error| stopped(&error))?;
        Ok(Response::new(pb::VoteResponse {
            ballot: Some(wire::ballot(&answer.vote)),
            last: answer.last_log_id.as_ref().map(wire::log_id),
            granted: answer.vote_granted,
        }))
    }

    async fn install(
        &self,
        request: Request<pb::InstallRequest>,
    ) -> Result<Response<pb::InstallResponse>, Status> {
        let (core, _from) = self.admit_exactly(&request, request.get_ref().header.as_ref())?;
        let request = request.into_inner();
        let vote = wire::ballot_back(request.ballot.as_ref()).map_err(|what| garbled(&what))?;
        let meta = wire::snapshot_meta_back(request.meta.as_ref()).map_err(|what| garbled(&what))?;
        if crc32c::crc32c(&request.data) != request.crc32c {
            return Err(Status::data_loss("the snapshot was damaged on its way"));
        }
        let snapshot = Snapshot { meta, snapshot: Box::new(SnapshotBytes(request.data)) };
        let answer =
            core.raft.install_full_snapshot(vote, snapshot).await.map_err(|error| stopped(&error))?;
        if answer.vote == vote {
            self.hub.contact.hear(Instant::now());
        }
        Ok(Response::new(pb::InstallResponse { ballot: Some(wire::ballot(&answer.vote)) }))
    }

    async fn probe(&self, request: Request<pb::ProbeRequest>) -> Result<Response<pb::ProbeResponse>, Status> {
        let (core, _from) = self.admit(&request, request.get_ref().header.as_ref())?;
        let last = request.get_ref().last.as_ref().map(wire::log_id_back);
        let (term, leader, leading) = {
            let metrics = core.raft.metrics();
            let metrics = metrics.borrow();
            let confirmed = metrics
                .millis_since_quorum_ack
                .is_some_and(|millis| u128::from(millis) < self.hub.options.timings.election_max.as_millis());
            let leading = metrics.state == ServerState::Leader && confirmed;
            (metrics.current_term, metrics.current_leader, leading)
        };
        let quiet = crate::gate::quiet(&self.hub, Instant::now());
        let ahead = core.store.last() > last;
        Ok(Response::new(pb::ProbeResponse {
            welcome: quiet && !leading && !ahead,
            term,
            leader,
            id: self.hub.identity.node,
            incarnation: self.hub.identity.incarnation,
            messages: self.hub.options.build.messages,
            edition: self.hub.options.build.edition,
        }))
    }
}
