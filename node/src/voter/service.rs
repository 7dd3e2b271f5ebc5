//! The Voter service of the wire.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh_failover::lease::CLOCK_BOUNDS;
use mesh_failover::lease::granter::{Decision, Granter, PledgeDecision, VoterState};
use mesh_proto::lease::{
    Electorate, LeaseKey, PledgeAnswer, PledgeReply, PledgeRequest, RenewAnswer, RenewLease, RenewReply,
    RenewRequest,
};
use mesh_proto::rpc::Envelope;
use mesh_proto::rpc::voter_server::{Voter, VoterServer};
use mesh_proto::{MeshId, Millis, NodeId};
use tonic::{Request, Response, Status};

use super::{VoterLog, VoterStore};
use crate::clock::Clock;
use crate::rpc::{authorise, envelope};

/// How long a renewal may wait for its log index: well below the shortest lease, so that the guard asks again in time.
const INDEX_WAIT: Duration = Duration::from_millis(500);
/// How long an answer may wait for the disk. A disk that takes longer is hung; the request stays unanswered, and the
/// floor stays raised.
const DISK_WAIT: Duration = Duration::from_secs(5);
/// The longest lease that policy allows; anything above comes from no guard of this build.
const LEASE_MAX: Millis = Millis(60_000);
/// A decision asks for the disk at most once or twice (a longer lease, a higher floor); more would be a fault.
const DISK_ROUNDS: usize = 3;

/// Renewals and pledges of one voter.
#[derive(Clone)]
pub struct VoterService {
    inner: Arc<Inner>,
}

struct Inner {
    id: NodeId,
    mesh: MeshId,
    clock: Clock,
    granter: Mutex<Granter>,
    store: VoterStore,
    log: Arc<dyn VoterLog>,
}

impl std::fmt::Debug for VoterService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VoterService").field("id", &self.inner.id).finish_non_exhaustive()
    }
}

impl VoterService {
    /// A voter, at the start of its process.
    #[must_use]
    pub fn new(
        id: NodeId,
        mesh: MeshId,
        (store, state): (VoterStore, VoterState),
        log: Arc<dyn VoterLog>,
    ) -> Self {
        let clock = Clock::for_voter();
        let granter = Mutex::new(Granter::restarted(clock.now(), state, CLOCK_BOUNDS));
        Self { inner: Arc::new(Inner { id, mesh, clock, granter, store, log }) }
    }

    /// The service to mount.
    #[must_use]
    pub fn mount(&self) -> VoterServer<Self> {
        VoterServer::new(self.clone())
    }

    /// Notes the electorate of the applied log on disk if it is newer than the one there; the version that is there now,
    /// which this voter names to every guard from then on, also after a restart.
    pub async fn note_electorate(&self, applied: &Electorate) -> u64 {
        if let Some(state) = self.inner.with_granter(|granter| granter.learn(applied))
            && let Err(hung) = self.inner.persist(state).await
        {
            tracing::warn!(why = hung.message(), "a change of voters is not noted yet");
        }
        self.inner.with_granter(|granter| granter.known_electorate())
    }

    /// A pledge of this very voter, for a leader that collects its own without a connection.
    ///
    /// # Errors
    /// As a remote one: no answer while the disk hangs.
    pub async fn pledge_here(&self, request: &PledgeRequest) -> Result<PledgeReply, Status> {
        self.inner.pledge(request).await
    }
}

impl Inner {
    fn with_granter<T>(&self, act: impl FnOnce(&mut Granter) -> T) -> T {
        act(&mut self.granter.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn renew(&self, request: RenewRequest) -> Result<RenewReply, Status> {
        let RenewRequest { lease, status } = request;
        let key = LeaseKey { group: status.group.clone(), instance: status.instance.clone() };
        // Before any wait: what the guard saw is news now.
        self.log.on_status(status);
        let answer = match lease {
            Some(lease) if lease.key != key => {
                return Err(Status::invalid_argument("the lease is of another instance than the status"));
            }
            Some(lease) if lease.length > LEASE_MAX => {
                return Err(Status::invalid_argument(format!(
                    "a lease of more than {LEASE_MAX} is not granted"
                )));
            }
            Some(lease) => {
                if self.log.view(&key).applied < lease.index {
                    // In time or not, the granter decides by what is applied then.
                    let _ = tokio::time::timeout(INDEX_WAIT, self.log.wait_applied(lease.index)).await;
                }
                Some(self.grant(&lease).await?)
            }
            None => None,
        };
        let view = self.log.view(&key);
        let electorate = self.with_granter(|granter| granter.newest_electorate(view.electorate));
        Ok(RenewReply { voter: self.id, answer, electorate, view: view.group, peers: view.peers })
    }

    async fn grant(&self, lease: &RenewLease) -> Result<RenewAnswer, Status> {
        for _ in 0..DISK_ROUNDS {
            let view = self.log.view(&lease.key);
            let current = view.group.as_ref().and_then(|group| group.own_lease.as_ref());
            let decision =
                self.with_granter(|granter| granter.renew(self.clock.now(), lease, current, view.applied));
            match decision {
                Decision::Grant => return Ok(RenewAnswer::Granted),
                Decision::Refuse(answer) => return Ok(answer),
                Decision::PersistFirst(state) => {
                    if !self.persist(state).await? {
                        return Err(Status::unavailable(
                            "this voter's disk is full or failed, and a longer lease must be noted before it is granted",
                        ));
                    }
                }
            }
        }
        Err(Status::internal("the disk was asked for again and again"))
    }

    async fn pledge(&self, request: &PledgeRequest) -> Result<PledgeReply, Status> {
        for _ in 0..DISK_ROUNDS {
            let view = self.log.view(&request.key);
            let decision =
                self.with_granter(|granter| granter.pledge(self.clock.now(), request, view.raft_term));
            let answer = match decision {
                PledgeDecision::Answer(answer) => answer,
                PledgeDecision::PersistFirst(state) => {
                    if self.persist(state).await? {
                        continue;
                    }
                    PledgeAnswer::CannotPersist
                }
            };
            let electorate = self.with_granter(|granter| granter.newest_electorate(view.electorate));
            return Ok(PledgeReply { voter: self.id, electorate, answer });
        }
        Err(Status::internal("the disk was asked for again and again"))
    }

    /// Whether the state is on disk now.
    async fn persist(&self, state: VoterState) -> Result<bool, Status> {
        match tokio::time::timeout(DISK_WAIT, self.store.store(state.clone())).await {
            Ok(Ok(())) => {
                self.with_granter(|granter| granter.persisted(&state));
                Ok(true)
            }
            Ok(Err(error)) => {
                let why = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(
                    error = why,
                    "cannot write the voter's floors; it grants, but pledges nothing"
                );
                self.with_granter(Granter::not_persisted);
                Ok(false)
            }
            Err(_) => Err(Status::deadline_exceeded("this voter's disk hangs")),
        }
    }
}

#[tonic::async_trait]
impl Voter for VoterService {
    async fn renew(&self, request: Request<Envelope>) -> Result<Response<Envelope>, Status> {
        let caller = authorise::caller(&request)?;
        let body: RenewRequest = envelope::open(&self.inner.mesh, request.get_ref())?;
        authorise::guard_of(&caller, &body.status.instance)?;
        let reply = self.inner.renew(body).await?;
        Ok(Response::new(envelope::seal(&self.inner.mesh, &reply)?))
    }

    async fn pledge(&self, request: Request<Envelope>) -> Result<Response<Envelope>, Status> {
        let caller = authorise::caller(&request)?;
        authorise::member(&caller, |agent| self.inner.log.member(agent).is_some())?;
        let body: PledgeRequest = envelope::open(&self.inner.mesh, request.get_ref())?;
        let reply = self.inner.pledge(&body).await?;
        Ok(Response::new(envelope::seal(&self.inner.mesh, &reply)?))
    }
}
