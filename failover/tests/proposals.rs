//! Forced runs that take two persons: what one alone may not, who may approve, and what makes a proposal void.

// A test file: a failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use mesh_failover::Moment;
use mesh_failover::coordinator::{Coordinator, Todo};
use mesh_failover::state::{Group, MeshState};
use mesh_proto::command::{Applied, Command, Entry, MemberRecord};
use mesh_proto::proposal::{Approved, Forced, PROPOSAL_LASTS, ProposalEnd, Proposed};
use mesh_proto::run::{Actor, Phase, Plan, RunKind, Signal, StuckCause};
use mesh_proto::spec::GroupSpec;
use mesh_proto::{DataIncarnation, GuardIncarnation, NodeId, ProposalId, RunId, SiteName, Wall};

const SPEC: &str = r#"{"group":"g","two_person":["forced-cross-site"],"instance":[
    {"name":"pg-a","site":"east","agent":"a","address":"10.0.0.1:5432","guard":"10.0.0.1:7401"},
    {"name":"pg-b","site":"east","agent":"a","address":"10.0.0.1:5433","guard":"10.0.0.1:7402"},
    {"name":"pg-c","site":"dr","agent":"c","address":"10.0.0.1:5434","guard":"10.0.0.1:7403"}]}"#;

struct Log {
    state: MeshState,
    index: u64,
}

impl Log {
    fn founded(two_person: bool) -> Self {
        let mut log = Self { state: MeshState::default(), index: 0 };
        let member = |id, agent: &str, site: &str| MemberRecord {
            id: NodeId(id),
            agent: agent.parse().unwrap(),
            site: site.parse().unwrap(),
            address: format!("127.0.0.1:{id}"),
            voter: true,
        };
        let members = vec![member(1, "a", "east"), member(2, "c", "dr")];
        log.done("root", Command::MeshFormed { mesh: "m".parse().unwrap(), members });
        let mut spec: GroupSpec = serde_json::from_str(SPEC).unwrap();
        if !two_person {
            spec.two_person.clear();
        }
        log.done("root", Command::SpecApplied { replaces: 0, spec });
        log.done(
            "root",
            Command::Founded {
                group: "g".parse().unwrap(),
                instance: "pg-a".parse().unwrap(),
                data: DataIncarnation("d".to_owned()),
                guard: GuardIncarnation("g".to_owned()),
                system_id: 7,
                reason: None,
            },
        );
        log
    }

    fn take(&mut self, by: &str, command: Command) -> Applied {
        self.index += 1;
        let actor = if by == "mesh" { Actor::Mesh } else { Actor::Operator(by.to_owned()) };
        let entry = Entry { by: "a".parse().unwrap(), actor, at: Wall(self.index), commands: vec![command] };
        let applied = self.state.apply(self.index, &entry).unwrap();
        assert_eq!(self.state.check_invariants(), Ok(()));
        applied
    }

    fn done(&mut self, by: &str, command: Command) {
        let applied = self.take(by, command);
        assert!(matches!(applied, Applied::Done { .. }), "{applied:?}");
    }

    #[track_caller]
    fn refused(&mut self, by: &str, command: Command, why: &str) {
        let before = self.state.without_audit();
        match self.take(by, command) {
            Applied::Refused(said) => assert!(said.to_string().contains(why), "{said}"),
            Applied::Done { .. } => panic!("not refused"),
        }
        let before = MeshState { edition: self.state.edition, ..before };
        assert_eq!(self.state.without_audit(), before, "a refusal changes nothing");
    }

    fn group(&self) -> &Group {
        self.state.groups.values().next().unwrap()
    }

    fn open(&self) -> ProposalId {
        self.group().proposal.as_ref().unwrap().id
    }

    /// A forced plan of ada's.
    fn plan(&self, wanted: Option<&str>) -> Plan {
        Plan {
            kind: RunKind::Failover,
            group: "g".parse().unwrap(),
            parent: self.group().lease().unwrap().term,
            from: self.group().primary.clone().unwrap().instance,
            candidates: vec!["pg-c".parse().unwrap()],
            rejected: Vec::new(),
            site: site(wanted),
            actor: Actor::Operator("ada".to_owned()),
            reason: "east is dark".to_owned(),
            accept_lag: true,
            accept_loss: false,
            lost_for: None,
            errands: Vec::new(),
        }
    }

    fn propose(&self, run: Option<RunId>) -> Command {
        Command::RunProposed {
            group: "g".parse().unwrap(),
            proposed: Proposed {
                forced: Forced {
                    site: site(Some("dr")),
                    instance: None,
                    force: true,
                    accept_loss: false,
                    reason: "east is dark".to_owned(),
                },
                from: self.group().primary.clone().unwrap().instance,
                epoch: self.group().epoch,
                run,
                would: Vec::new(),
            },
        }
    }

    fn approve(&self, plan: Plan) -> Command {
        let opens = Approved::Run(Box::new(plan));
        Command::RunApproved { group: "g".parse().unwrap(), proposal: self.open(), opens }
    }

    fn signal(&mut self, signal: Signal, cause: Option<StuckCause>) {
        let (group, run) = ("g".parse().unwrap(), self.group().run.as_ref().unwrap().id);
        self.done("mesh", Command::Signalled { group, run, signal, detail: "so".to_owned(), cause });
    }

    /// A run of mesh's own that found nobody to promote.
    fn stuck(&mut self) -> RunId {
        let plan = Plan { actor: Actor::Mesh, accept_lag: false, ..self.plan(None) };
        self.done("mesh", Command::RunOpened { plan });
        self.signal(Signal::PledgedByMajority, None);
        self.signal(Signal::NoCandidate, Some(StuckCause::NoCandidate));
        assert_eq!(self.group().run.as_ref().unwrap().phase, Phase::Stuck);
        self.group().run.as_ref().unwrap().id
    }

    fn last(&self) -> (String, String) {
        let record = self.state.audit.records.last().unwrap();
        (record.actor.to_string(), record.summary.clone())
    }
}

fn site(name: Option<&str>) -> Option<SiteName> {
    name.map(|name| name.parse().unwrap())
}

fn overridden(run: RunId, wanted: Option<&str>) -> Command {
    let (group, reason) = ("g".parse().unwrap(), "east is dark".to_owned());
    Command::RunOverridden { group, run, site: site(wanted), accept_loss: false, reason }
}

#[test]
fn one_person_forces_nothing_out_of_its_site_where_two_are_asked_for() {
    for wanted in [None, Some("dr")] {
        let mut log = Log::founded(true);
        let plan = log.plan(wanted);
        log.refused("ada", Command::RunOpened { plan: plan.clone() }, "two persons");
        let losing = Plan { accept_lag: false, accept_loss: true, ..plan.clone() };
        log.refused("ada", Command::RunOpened { plan: losing }, "two persons");
        log.done("ada", Command::RunOpened { plan: Plan { accept_lag: false, ..plan } });
    }
    let mut log = Log::founded(true);
    let plan = log.plan(Some("east"));
    log.done("ada", Command::RunOpened { plan });
    let mut log = Log::founded(false);
    let proposed = log.propose(None);
    log.refused("ada", proposed, "one person only");
    let plan = log.plan(Some("dr"));
    log.done("ada", Command::RunOpened { plan });
}

#[test]
fn another_person_approves_and_both_are_in_the_audit() {
    let mut log = Log::founded(true);
    let proposed = log.propose(None);
    log.done("ada", proposed.clone());
    assert!(log.group().active_run().is_none(), "a proposal begins nothing");
    let (by, summary) = log.last();
    assert_eq!(
        (by.as_str(), summary.contains("failover to dr, forced is proposed")),
        ("ada", true),
        "{summary}"
    );
    log.refused("bob", proposed, "of ada waits already");
    let approved = log.approve(log.plan(Some("dr")));
    for (by, why) in [
        ("ada", "cannot approve it too"),
        ("mesh", "no person"),
        ("uid 1001", "has no name"),
        ("", "has no name"),
    ] {
        log.refused(by, approved.clone(), why);
    }
    log.done("bob", approved.clone());
    let run = log.group().active_run().unwrap();
    assert_eq!((run.id, run.plan.actor.to_string()), (RunId(log.index), "ada".to_owned()));
    assert_eq!(log.group().proposal, None);
    let (by, summary) = log.last();
    assert_eq!((by.as_str(), summary.contains("of ada approved")), ("bob", true), "{summary}");
    log.refused("eve", approved, "open proposal");
}

#[test]
fn nothing_but_what_was_proposed_can_be_approved() {
    let mut log = Log::founded(true);
    let proposed = log.propose(None);
    log.done("ada", proposed);
    let plan = log.plan(Some("dr"));
    for other in [
        Plan { site: None, ..plan.clone() },
        Plan { site: site(Some("east")), ..plan.clone() },
        Plan { accept_loss: true, ..plan.clone() },
        Plan { reason: "another".to_owned(), ..plan.clone() },
        Plan { actor: Actor::Operator("bob".to_owned()), ..plan.clone() },
        Plan { from: "pg-b".parse().unwrap(), ..plan.clone() },
    ] {
        let approved = log.approve(other);
        log.refused("bob", approved, "not what");
    }
    let stuck = Command::RunApproved {
        group: "g".parse().unwrap(),
        proposal: log.open(),
        opens: Approved::Stuck(RunId(1)),
    };
    log.refused("bob", stuck, "not what");
    // The same, planned when another lease was in force.
    let mut stale = log.plan(Some("dr"));
    stale.parent.lease_no = stale.parent.lease_no.next();
    let approved = log.approve(stale);
    log.refused("bob", approved, "the lease to end");
}

#[test]
fn a_proposal_ends_with_what_it_was_made_for() {
    let mut log = Log::founded(true);
    let proposed = log.propose(None);
    log.done("ada", proposed);
    let (id, approved) = (log.open(), log.approve(log.plan(Some("dr"))));
    // Mesh began a run meanwhile.
    let run = log.stuck();
    log.refused("bob", approved.clone(), "another run is going on");
    assert!(log.group().proposal_stands().is_err());
    // To send that one on is another proposal, and takes the place of the void one.
    let on = log.propose(Some(run));
    log.done("ada", on);
    assert_ne!(log.open(), id);
    log.refused("bob", approved, "open proposal");
    let withdrawn = |id| Command::ProposalEnded {
        group: "g".parse().unwrap(),
        proposal: id,
        how: ProposalEnd::Withdrawn("no".to_owned()),
    };
    log.refused("bob", withdrawn(id), "open proposal");
    let id = log.open();
    log.done("bob", withdrawn(id));
    assert_eq!((log.group().proposal.as_ref(), log.last().1), (None, format!("{id} withdrawn: no")));
}

#[test]
fn a_stuck_run_is_not_sent_to_another_site_by_one_person() {
    let mut log = Log::founded(true);
    let run = log.stuck();
    for wanted in [None, Some("dr")] {
        log.refused("ada", overridden(run, wanted), "two persons");
    }
    let proposed = log.propose(Some(run));
    log.done("ada", proposed);
    let approved = |log: &Log, run| Command::RunApproved {
        group: "g".parse().unwrap(),
        proposal: log.open(),
        opens: Approved::Stuck(run),
    };
    let (right, wrong) = (approved(&log, run), approved(&log, RunId(1)));
    log.refused("ada", right.clone(), "cannot approve it too");
    log.refused("bob", wrong, "not what");
    log.done("bob", right);
    let going_on = log.group().active_run().unwrap();
    assert_eq!((going_on.phase, going_on.plan.accept_lag), (Phase::Pledging, true));
    assert_eq!(going_on.plan.site, site(Some("dr")));
    // Within the site one person is enough.
    let mut log = Log::founded(true);
    let run = log.stuck();
    log.done("ada", overridden(run, Some("east")));
}

#[test]
fn a_proposal_outlives_its_leader_and_ends_in_time() {
    let mut log = Log::founded(true);
    let proposed = log.propose(None);
    log.done("ada", proposed);
    let kept = serde_json::to_string(&log.state).unwrap();
    let state: MeshState = serde_json::from_str(&kept).unwrap();
    assert_eq!(state, log.state, "a snapshot has it");
    let ended = |coordinator: &mut Coordinator, now| {
        let todo = coordinator.poll(Moment(now), log.index, &state);
        todo.into_iter().find_map(|one| match one {
            Todo::Propose { commands, ticket, group, .. } => {
                let ended = commands.iter().any(|one| matches!(one, Command::ProposalEnded { .. }));
                let lost = mesh_failover::coordinator::ProposalResult::Lost;
                coordinator.proposed(group.as_ref(), ticket, &lost);
                ended.then_some(commands)
            }
            Todo::Pledge { .. } | Todo::Execute { .. } => None,
        })
    };
    let minutes = |count: u64| count * 60_000;
    let mut first = Coordinator::new("a".parse().unwrap());
    first.lead(Moment(0), 1);
    assert_eq!(ended(&mut first, 1_000), None);
    assert_eq!(ended(&mut first, minutes(14)), None);
    // The next leader counts from when it saw it first.
    let mut next = Coordinator::new("a".parse().unwrap());
    next.lead(Moment(minutes(14)), 2);
    assert_eq!(ended(&mut next, minutes(14)), None);
    assert_eq!(ended(&mut next, minutes(14) + PROPOSAL_LASTS.0 - 1), None);
    let commands = ended(&mut next, minutes(14) + PROPOSAL_LASTS.0).unwrap();
    let approved = log.approve(log.plan(Some("dr")));
    for command in commands {
        log.done("mesh", command);
    }
    assert!(log.last().1.contains("nobody approved it"), "{:?}", log.last());
    log.refused("bob", approved, "open proposal");
}

#[test]
fn a_group_with_two_persons_waits_for_no_member_that_is_lost() {
    let log = Log::founded(true);
    let heard = mesh_failover::verdict::observations::Observations::default();
    assert_eq!(heard.older(&log.state, log.propose(None).edition()), Vec::new(), "nobody was heard yet");
    let without = Log::founded(false);
    assert_eq!(heard.older(&without.state, log.propose(None).edition()).len(), 2);
}

#[test]
fn a_state_of_an_older_build_has_no_proposals() {
    let log = Log::founded(false);
    let kept = serde_json::to_string(&log.state).unwrap();
    assert!(
        !kept.contains("proposal") && !kept.contains("two_person") && !kept.contains("edition"),
        "older builds read what these are not in"
    );
}
