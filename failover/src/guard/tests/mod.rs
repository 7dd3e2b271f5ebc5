//! The guard against three willing or unreachable voters, a log that the test writes, and a server that does what the
//! test says.

mod disks;
mod hold;
mod leases;
mod orders;
mod property;
mod quorum;
mod watchdog;

use std::collections::BTreeMap;

use mesh_proto::codec::{Kind, decode, encode};
use mesh_proto::effect::{Effect, Order, Outcome, StepRef};
use mesh_proto::evidence::{GuardStatus, Position, ProcessState, Receiving, WriteProbe};
use mesh_proto::hold::{HoldAnswer, HoldRequest};
use mesh_proto::lease::{
    Electorate, GroupView, LeaseRecord, LeaseTerm, RenewAnswer, RenewReply, RenewRequest,
};
use mesh_proto::spec::Profile;
use mesh_proto::{
    DataIncarnation, Epoch, GuardIncarnation, InstanceName, LeaseNo, Lsn, Millis, NodeId, RunId,
};

use super::{Action, CommitGate, Fresh, Guard, GuardConfig, GuardState, Leash, LocalFacts, Task, TaskResult};
use crate::{Moment, policy};

const SYSTEM: u64 = 77;
const STEP: Millis = Millis(50);

fn term(epoch: u64, lease_no: u64) -> LeaseTerm {
    LeaseTerm { epoch: Epoch(epoch), lease_no: LeaseNo(lease_no) }
}
fn me() -> InstanceName {
    "pg-1".parse().unwrap()
}
fn fresh(boot: &str, life: &str) -> Fresh {
    Fresh {
        boot: boot.to_owned(),
        guard: GuardIncarnation(format!("guard-{life}")),
        data: DataIncarnation(format!("data-{life}")),
    }
}
fn config() -> GuardConfig {
    GuardConfig {
        group: "orders".parse().unwrap(),
        instance: me(),
        engine: mesh_proto::spec::Engine::Postgres,
        public_key: "key".to_owned(),
        timing: policy::profile(Profile::Lan),
        electorate: Electorate::of(1, (1..=3).map(NodeId)),
    }
}
fn position(at: u64) -> Position {
    Position { timeline: 1, have: Lsn(at), replayed: Lsn(at) }
}

/// A guard and its world.
struct Rig {
    now: Moment,
    guard: Guard,
    disk: Option<GuardState>,
    disk_works: bool,
    view: GroupView,
    /// Voters that answer.
    reachable: u64,
    /// Lease numbers up to this are refused by a floor.
    floor: LeaseNo,
    facts: LocalFacts,
    leash: Leash,
    job: Option<(u64, Task)>,
    gated: bool,
    /// The versions of the commit quorum that it was told to set.
    quorums: Vec<u64>,
    answers: BTreeMap<u64, Outcome>,
    asked: Vec<RenewRequest>,
    /// Rounds in which other guards were asked for promises: whom, and what.
    asked_holders: Vec<(u64, Vec<InstanceName>, HoldRequest)>,
    /// What was promised to other guards, by the request's id.
    promises: BTreeMap<u64, HoldAnswer>,
    next_order: u64,
}

impl Rig {
    /// A guard that never ran, beside a running server, in a group that is not founded.
    fn new(process: ProcessState) -> Self {
        let guard = Guard::start(Moment(1_000), config(), None, fresh("boot-1", "1")).unwrap();
        let view = GroupView {
            applied: 1,
            epoch: Epoch(0),
            primary: None,
            own_lease: None,
            timing: policy::profile(Profile::Lan),
            pause: None,
            system_id: None,
            quorum: None,
            hold: None,
        };
        let facts = LocalFacts {
            process,
            system_id: Some(SYSTEM),
            position: Some(position(100)),
            receiving: None,
            write_probe: WriteProbe::NotApplicable,
            disks: Vec::new(),
            commit_gate: CommitGate::Open,
            clients_wait: false,
            quorum: None,
            downgraded: Vec::new(),
            trouble: None,
            rival: None,
        };
        let mut rig = Self {
            now: Moment(1_000),
            guard,
            disk: None,
            disk_works: true,
            view,
            reachable: 3,
            floor: LeaseNo(0),
            facts,
            leash: Leash::Off,
            job: None,
            gated: false,
            quorums: Vec::new(),
            answers: BTreeMap::new(),
            asked: Vec::new(),
            asked_holders: Vec::new(),
            promises: BTreeMap::new(),
            next_order: 1,
        };
        rig.seen();
        rig
    }

    /// A primary that was adopted and serves under (epoch 1, lease 1).
    fn serving() -> Self {
        let mut rig = Self::new(ProcessState::Primary);
        rig.grant(1, 1);
        rig.run(Millis(300));
        rig.opened();
        rig.run(Millis(300));
        assert!(rig.guard.opened().is_some());
        rig
    }

    /// A standby of a founded group whose primary is another.
    fn standby() -> Self {
        let mut rig = Self::new(ProcessState::Standby);
        rig.facts.receiving = Some(Receiving {
            streaming: true,
            from: Some("10.0.0.2:5432".to_owned()),
            advanced: Millis(10),
            name: None,
        });
        rig.view.applied += 1;
        rig.view.epoch = Epoch(1);
        rig.view.system_id = Some(SYSTEM);
        rig.view.primary = Some("pg-2".parse().unwrap());
        rig.seen();
        rig.run(Millis(300));
        rig
    }

    /// The log makes this instance the primary under this lease, for its present lives.
    fn grant(&mut self, epoch: u64, lease_no: u64) {
        let state = self.guard.state();
        self.view.applied += 1;
        self.view.epoch = Epoch(epoch);
        self.view.system_id = Some(SYSTEM);
        self.view.primary = Some(me());
        self.view.own_lease = Some(LeaseRecord {
            term: term(epoch, lease_no),
            guard: state.guard.clone(),
            data: state.data.clone(),
            index: self.view.applied,
            holders: std::collections::BTreeSet::new(),
            waits: None,
        });
    }

    fn seen(&mut self) {
        self.guard.handle_facts(self.now, self.facts.clone());
        self.drive();
    }

    fn process(&mut self, process: ProcessState) {
        self.facts.process = process;
        self.seen();
    }

    fn run(&mut self, length: Millis) {
        let end = self.now.after(length);
        while self.now < end {
            self.now = self.now.after(STEP);
            self.drive();
        }
    }

    /// Polls until nothing new comes of it.
    fn drive(&mut self) {
        loop {
            let actions = self.guard.poll(self.now);
            if actions.is_empty() {
                assert!(self.guard.next_wakeup(self.now) > self.now, "a wakeup that is always due");
                return;
            }
            for mut action in actions {
                action.sign(|bytes| format!("{} bytes", bytes.len()));
                self.act(action);
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Leash(leash) => self.leash = leash,
            Action::SetQuorum(config) => self.quorums.push(config.version),
            Action::Persist(state) if self.disk_works => {
                let bytes = encode(Kind::GuardState, &*state).unwrap();
                self.disk = Some(decode(Kind::GuardState, &bytes).unwrap());
                self.guard.handle_persisted(self.now, state.version);
            }
            Action::Persist(_) => self.guard.handle_persist_failed(self.now),
            Action::Ask { round, voters, request } => {
                assert!(self.disk.is_some(), "nobody hears of a life that is not on disk");
                if let Some(lease) = &request.lease {
                    let stored = self.disk.as_ref().and_then(|state| state.asked.clone()).unwrap();
                    assert!(stored.term.lease_no >= lease.term.lease_no, "what is asked for is on disk");
                }
                for voter in voters.iter().filter(|voter| voter.0 <= self.reachable) {
                    let reply = self.reply(*voter, &request);
                    self.guard.handle_reply(self.now, round, &reply);
                }
                self.asked.push(*request);
            }
            Action::AskHolders { round, to, request } => {
                let to = to.into_iter().map(|peer| peer.instance).collect();
                self.asked_holders.push((round, to, *request));
            }
            Action::Promise { id, answer } => {
                assert!(self.promises.insert(id, answer).is_none(), "answered twice");
            }
            Action::GateCommits => self.gated = true,
            Action::UngateCommits => self.gated = false,
            Action::Do { job, task, .. } => self.job = Some((job, task)),
            Action::Answer { id, outcome } => {
                assert!(self.answers.insert(id, outcome).is_none(), "answered twice");
            }
        }
    }

    fn reply(&self, voter: NodeId, request: &RenewRequest) -> RenewReply {
        let answer = request.lease.as_ref().map(|lease| {
            let current = self.view.own_lease.as_ref().filter(|_| self.view.primary == Some(me()));
            if lease.term.lease_no <= self.floor {
                RenewAnswer::Floor
            } else if current.is_some_and(|r| r.term == lease.term && r.guard == lease.guard) {
                RenewAnswer::Granted
            } else {
                RenewAnswer::NotCurrent
            }
        });
        let electorate = Electorate::of(1, (1..=3).map(NodeId));
        RenewReply { voter, answer, electorate, view: Some(self.view.clone()), peers: Vec::new() }
    }

    /// The task that runs ends like this.
    fn done(&mut self, result: TaskResult) {
        let (job, _) = self.job.take().expect("a task runs");
        self.guard.handle_done(self.now, job, result);
        self.drive();
    }

    fn opened(&mut self) {
        assert!(matches!(self.task(), Some(Task::OpenPrimary { .. })), "{:?}", self.job);
        self.facts.process = ProcessState::Primary;
        self.done(TaskResult::Opened { timeline: 1, at: Lsn(200) });
        self.seen();
    }

    fn quiet(&mut self) {
        assert!(matches!(self.task(), Some(Task::Fence { .. } | Task::HandOver { .. })), "{:?}", self.job);
        self.facts.process = ProcessState::Stopped;
        self.done(TaskResult::Fenced { level: mesh_proto::lease::ReceiptLevel::Quiet, shutdown_at: None });
        self.seen();
    }

    fn task(&self) -> Option<&Task> {
        self.job.as_ref().map(|(_, task)| task)
    }

    fn status(&self) -> &GuardStatus {
        &self.asked.last().unwrap().status
    }

    /// The guard process is killed, and started again with what is on disk. The leash killed its server.
    fn restart(&mut self, boot: &str, life: &str) {
        self.job = None;
        self.facts.process = ProcessState::Stopped;
        self.guard = Guard::start(self.now, config(), self.disk.clone(), fresh(boot, life)).unwrap();
        self.drive();
        self.seen();
    }

    fn order(&mut self, epoch: u64, effect: Effect) -> u64 {
        self.order_as(epoch, 1, effect, false)
    }

    fn verify(&mut self, epoch: u64, effect: Effect) -> Option<Outcome> {
        let id = self.order_as(epoch, 1, effect, true);
        self.answers.get(&id).cloned()
    }

    fn order_as(&mut self, epoch: u64, raft_term: u64, effect: Effect, verify_only: bool) -> u64 {
        let id = self.next_order;
        self.next_order += 1;
        let step = StepRef { run: RunId(5), step: u32::try_from(id).unwrap(), attempt: 1 };
        self.give(id, step, epoch, raft_term, effect, verify_only);
        id
    }

    fn give(
        &mut self,
        id: u64,
        step: StepRef,
        epoch: u64,
        raft_term: u64,
        effect: Effect,
        verify_only: bool,
    ) {
        let order = Order {
            group: "orders".parse().unwrap(),
            step,
            epoch: Epoch(epoch),
            raft_term,
            effect,
            verify_only,
            index: self.view.applied,
            budget: Millis(5_000),
        };
        self.guard.handle_order(self.now, id, order);
        self.drive();
    }
}
