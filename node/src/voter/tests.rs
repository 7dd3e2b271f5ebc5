use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use mesh_failover::lease::granter::VoterState;
use mesh_failover::policy;
use mesh_proto::evidence::{GuardStatus, ProcessState, WriteProbe};
use mesh_proto::lease::*;
use mesh_proto::rpc::voter_server::Voter as _;
use mesh_proto::spec::Profile;
use mesh_proto::*;
use tonic::{Code, Request};

use super::{LogView, StoreError, VoterLog, VoterService, VoterStore};
use crate::rpc::{Caller, envelope};
use crate::tls::Identity;

fn key() -> LeaseKey {
    LeaseKey { group: GroupName::new("orders").unwrap(), instance: InstanceName::new("pg").unwrap() }
}
fn term(lease_no: u64) -> LeaseTerm {
    LeaseTerm { epoch: Epoch(1), lease_no: LeaseNo(lease_no) }
}
fn guard() -> GuardIncarnation {
    GuardIncarnation("g1".to_owned())
}
fn data() -> DataIncarnation {
    DataIncarnation("d1".to_owned())
}

/// A log that has applied one grant.
struct Log {
    lease: u64,
    seen: Mutex<Vec<GuardStatus>>,
}

impl VoterLog for Log {
    fn view(&self, _: &LeaseKey) -> LogView {
        let record = LeaseRecord {
            term: term(self.lease),
            guard: guard(),
            data: data(),
            index: 7,
            holders: std::collections::BTreeSet::new(),
            waits: None,
        };
        LogView {
            applied: 9,
            group: Some(GroupView {
                applied: 9,
                epoch: Epoch(1),
                primary: Some(key().instance),
                own_lease: Some(record),
                system_id: Some(1),
                timing: policy::profile(Profile::Lan),
                quorum: None,
                pause: None,
                hold: None,
            }),
            electorate: Electorate::of(3, [NodeId(1)]),
            raft_term: 5,
            peers: Vec::new(),
        }
    }
    fn wait_applied(&self, _: u64) -> BoxFuture<'_, ()> {
        std::future::pending().boxed()
    }
    fn member(&self, agent: &AgentName) -> Option<NodeId> {
        (agent.as_str() == "east-1").then_some(NodeId(1))
    }
    fn on_status(&self, status: GuardStatus) {
        self.seen.lock().unwrap().push(status);
    }
}

fn status() -> GuardStatus {
    GuardStatus {
        group: key().group,
        instance: key().instance,
        guard: guard(),
        seq: 1,
        data: Some(data()),
        system_id: Some(1),
        public_key: String::new(),
        lease: None,
        granted: Vec::new(),
        floored: None,
        paused: None,
        gate: Epoch(1),
        process: ProcessState::Primary,
        commit_gated: false,
        clients_wait: false,
        write_probe: WriteProbe::NotApplicable,
        disks: Vec::new(),
        position: None,
        receiving: None,
        quorum: None,
        frozen: None,
        receipt: None,
        busy: None,
        trouble: None,
        downgraded: Vec::new(),
        engine: mesh_proto::spec::Engine::Postgres,
        line: None,
        rival: None,
        hold: None,
    }
}

fn renewal(lease_no: u64, length: u64, index: u64) -> RenewRequest {
    let lease = RenewLease {
        key: key(),
        term: term(lease_no),
        guard: guard(),
        data: data(),
        length: Millis(length),
        index,
    };
    RenewRequest { lease: Some(lease), status: status() }
}

fn pledge(lease_no: u64, raft_term: u64, durable: bool) -> PledgeRequest {
    PledgeRequest { raft_term, run: RunId(1), key: key(), term: term(lease_no), electorate: 3, durable }
}

fn voter(opened: (VoterStore, VoterState)) -> (VoterService, Arc<Log>) {
    let log = Arc::new(Log { lease: 1, seen: Mutex::default() });
    let mesh = MeshId::new("shop").unwrap();
    (VoterService::new(NodeId(1), mesh, opened, Arc::clone(&log) as Arc<dyn VoterLog>), log)
}

fn from<T: serde::Serialize>(caller: Identity, body: &T) -> Request<mesh_proto::rpc::Envelope> {
    let mut request = Request::new(envelope::seal(&MeshId::new("shop").unwrap(), body).unwrap());
    request.extensions_mut().insert(Caller::Peer(caller));
    request
}

fn pg() -> Identity {
    Identity::Guard(key().instance)
}

async fn renew(voter: &VoterService, request: &RenewRequest) -> RenewAnswer {
    let reply = voter.renew(from(pg(), request)).await.unwrap();
    let reply: RenewReply = envelope::open(&MeshId::new("shop").unwrap(), reply.get_ref()).unwrap();
    assert_eq!((reply.electorate.version, reply.view.unwrap().applied), (3, 9));
    reply.answer.unwrap()
}

#[tokio::test]
async fn a_pledge_outlives_the_process_and_knows_what_was_granted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("voter");
    let (first, log) = voter(VoterStore::create(&path).unwrap());
    assert_eq!(renew(&first, &renewal(1, 2500, 7)).await, RenewAnswer::Granted);
    assert_eq!(log.seen.lock().unwrap().len(), 1);
    assert_eq!(renew(&first, &renewal(2, 2500, 7)).await, RenewAnswer::NotCurrent);
    let began = std::time::Instant::now();
    assert_eq!(renew(&first, &renewal(2, 2500, 99)).await, RenewAnswer::Behind);
    assert!(began.elapsed().as_millis() >= 500, "it waits, but not for ever");
    let asked = first.pledge_here(&pledge(1, 5, false)).await.unwrap();
    assert!(matches!(asked.answer, PledgeAnswer::Pledged { .. }));
    assert_eq!(renew(&first, &renewal(1, 2500, 7)).await, RenewAnswer::Granted, "asking poisons nothing");
    assert_eq!(first.pledge_here(&pledge(1, 4, true)).await.unwrap().answer, PledgeAnswer::StaleTerm);
    let PledgeAnswer::Pledged { remainder } = first.pledge_here(&pledge(1, 5, true)).await.unwrap().answer
    else {
        panic!("must pledge")
    };
    assert!(remainder.0 > 2000, "{remainder}");
    assert_eq!(renew(&first, &renewal(1, 2500, 7)).await, RenewAnswer::Floor);
    drop(first);
    let (second, _) = voter(VoterStore::open(&path).unwrap());
    assert_eq!(renew(&second, &renewal(1, 2500, 7)).await, RenewAnswer::Floor);
    let PledgeAnswer::Pledged { remainder } = second.pledge_here(&pledge(1, 5, true)).await.unwrap().answer
    else {
        panic!("must pledge")
    };
    assert!(remainder.0 > 2000, "a restarted voter assumes the longest lease it ever granted: {remainder}");
}

#[tokio::test]
async fn a_disk_without_room_stops_pledges_and_not_grants() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("voter");
    let (service, _) = voter(VoterStore::create(&path).unwrap());
    assert_eq!(renew(&service, &renewal(1, 2500, 7)).await, RenewAnswer::Granted);
    // The temporary file cannot be made: its name is taken by a directory.
    std::fs::create_dir(dir.path().join("voter.new")).unwrap();
    let answer = service.pledge_here(&pledge(0, 5, true)).await.unwrap().answer;
    assert!(matches!(answer, PledgeAnswer::Pledged { .. }), "nothing to write for a floor that is there");
    assert_eq!(renew(&service, &renewal(1, 2500, 7)).await, RenewAnswer::Granted);
    assert_eq!(service.pledge_here(&pledge(1, 5, true)).await.unwrap().answer, PledgeAnswer::CannotPersist);
    assert_eq!(service.pledge_here(&pledge(1, 5, false)).await.unwrap().answer, PledgeAnswer::CannotPersist);
    assert_eq!(renew(&service, &renewal(1, 2500, 7)).await, RenewAnswer::Floor, "the floor in memory counts");
    std::fs::remove_dir(dir.path().join("voter.new")).unwrap();
    let answer = service.pledge_here(&pledge(1, 5, true)).await.unwrap().answer;
    assert!(matches!(answer, PledgeAnswer::Pledged { .. }));
}

#[tokio::test]
async fn only_the_guard_renews_and_only_members_ask_for_pledges() {
    let dir = tempfile::tempdir().unwrap();
    let (service, _) = voter(VoterStore::create(&dir.path().join("voter")).unwrap());
    let other = Identity::Guard(InstanceName::new("other").unwrap());
    for stranger in [other.clone(), Identity::Agent(AgentName::new("east-1").unwrap())] {
        let refused = service.renew(from(stranger, &renewal(1, 2500, 7))).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    for stranger in [other, Identity::Agent(AgentName::new("removed").unwrap())] {
        let refused = service.pledge(from(stranger, &pledge(1, 5, true))).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    let member = Identity::Agent(AgentName::new("east-1").unwrap());
    service.pledge(from(member, &pledge(1, 5, false))).await.unwrap();
    let refused = service.renew(from(pg(), &renewal(1, 60_001, 7))).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[test]
fn a_voter_without_its_floors_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("voter");
    assert!(matches!(VoterStore::open(&path), Err(StoreError::Missing { .. })));
    drop(VoterStore::create(&path).unwrap());
    assert!(matches!(VoterStore::create(&path), Err(StoreError::Exists { .. })));
    let bytes = std::fs::read(&path).unwrap();
    for bad in [&bytes[..0], &bytes[..bytes.len() - 1], b"nonsense".as_slice()] {
        std::fs::write(&path, bad).unwrap();
        assert!(matches!(VoterStore::open(&path), Err(StoreError::Damaged { .. })));
    }
}
