//! What turning a host off from outside proves, in the entry itself: whoever proposes it.

// A test file: a failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use mesh_failover::state::MeshState;
use mesh_proto::command::{Applied, Command, Entry, MemberRecord, StepIntent};
use mesh_proto::effect::{Effect, Finding, Outcome, Refusal};
use mesh_proto::evidence::Position;
use mesh_proto::lease::{Expiry, LeaseTerm, Outside, Proof};
use mesh_proto::run::{Actor, Plan, RunKind, Signal, StuckCause};
use mesh_proto::{DataIncarnation, GuardIncarnation, Lsn, Millis, NodeId, RunId, Wall};

const RUN: RunId = RunId(10);

/// A log that is applied entry by entry.
struct Log {
    state: MeshState,
    index: u64,
}

impl Log {
    fn add(&mut self, commands: Vec<Command>) -> Applied {
        self.index += 1;
        let actor = Actor::Operator("ann".to_owned());
        let entry = Entry { by: "a".parse().unwrap(), actor, at: Wall(0), commands };
        self.state.apply(self.index, &entry).unwrap()
    }

    fn must(&mut self, command: Command) {
        let applied = self.add(vec![command]);
        assert!(matches!(applied, Applied::Done { .. }), "{applied:?}");
    }

    fn term(&self) -> LeaseTerm {
        self.state.groups.values().next().unwrap().lease().unwrap().term
    }
}

/// A run whose pledges are there, in a group with a fencer.
fn fencing(required: bool) -> Log {
    let spec = format!(
        r#"{{"group":"g","instance":[
        {{"name":"old","site":"east","agent":"a","address":"10.0.0.1:5","guard":"10.0.0.1:7"}},
        {{"name":"new","site":"dr","agent":"b","address":"10.0.0.2:5","guard":"10.0.0.2:7"}}],
        "fencer":[{{"name":"bmc","fences":["old"],"agents":["b"],"required":{required}}}]}}"#
    );
    let member = |(agent, site, id): (&str, &str, u64)| MemberRecord {
        id: NodeId(id),
        agent: agent.parse().unwrap(),
        site: site.parse().unwrap(),
        address: format!("10.0.0.{id}:1"),
        voter: true,
    };
    let mut log = Log { state: MeshState::default(), index: 0 };
    let members = vec![member(("a", "east", 1)), member(("b", "dr", 2))];
    log.must(Command::MeshFormed { mesh: "m".parse().unwrap(), members });
    log.must(Command::SpecApplied { replaces: 0, spec: serde_json::from_str(&spec).unwrap() });
    log.must(Command::Founded {
        group: "g".parse().unwrap(),
        instance: "old".parse().unwrap(),
        data: DataIncarnation("d-old".to_owned()),
        guard: GuardIncarnation("g-old".to_owned()),
        system_id: 7,
        reason: None,
    });
    log.index = RUN.0 - 1;
    let plan = Plan {
        kind: RunKind::Failover,
        group: "g".parse().unwrap(),
        parent: log.term(),
        from: "old".parse().unwrap(),
        candidates: vec!["new".parse().unwrap()],
        rejected: Vec::new(),
        site: None,
        actor: Actor::Mesh,
        reason: "lost".to_owned(),
        accept_lag: false,
        accept_loss: false,
        lost_for: None,
        errands: Vec::new(),
    };
    log.must(Command::RunOpened { plan });
    log.must(signalled(Signal::PledgedByMajority, None));
    log
}

fn signalled(signal: Signal, cause: Option<StuckCause>) -> Command {
    Command::Signalled { group: "g".parse().unwrap(), run: RUN, signal, detail: String::new(), cause }
}

fn promotion(log: &Log, proof: Proof) -> Vec<Command> {
    let group = log.state.groups.values().next().unwrap();
    vec![Command::PromotionCommitted {
        group: "g".parse().unwrap(),
        run: RUN,
        ends: log.term(),
        instance: "new".parse().unwrap(),
        data: DataIncarnation("d-new".to_owned()),
        guard: GuardIncarnation("g-new".to_owned()),
        freeze: group.generation,
        position: Position { timeline: 1, have: Lsn(50_000), replayed: Lsn(50_000) },
        proof,
        durability: None,
        standbys: [].into(),
    }]
}

/// The step that turns a host off under a lease.
fn turn_off(log: &mut Log, number: u32, instance: &str, term: LeaseTerm, outcome: Option<Outcome>) {
    let effect = Effect::TurnOff {
        fencer: "bmc".parse().unwrap(),
        agent: "b".parse().unwrap(),
        instance: instance.parse().unwrap(),
        term,
        takeover: number,
    };
    let steps = vec![StepIntent { step: number, attempt: 1, effect }];
    log.must(Command::StepsStarted { group: "g".parse().unwrap(), run: RUN, steps });
    if let Some(outcome) = outcome {
        log.must(Command::StepEnded {
            group: "g".parse().unwrap(),
            run: RUN,
            step: number,
            attempt: 1,
            outcome,
        });
    }
}

fn off() -> Option<Outcome> {
    Some(Outcome::Done(Finding::Off { took: Millis(9), said: "power is off".to_owned() }))
}

fn outside(log: &Log, step: u32) -> Outside {
    Outside {
        term: log.term(),
        step,
        fencer: "bmc".parse().unwrap(),
        agent: "b".parse().unwrap(),
        said: "power is off".to_owned(),
    }
}

#[test]
fn a_host_is_off_only_if_a_step_of_this_run_says_so_of_this_lease() {
    let mut log = fencing(false);
    let term = log.term();
    let other = LeaseTerm { lease_no: term.lease_no.next(), ..term };
    let proof = |log: &Log, step| Proof::External(outside(log, step));
    // Nothing was done; it was not answered; it failed; nobody knows; it was another lease; it was another host.
    let refused = |log: &mut Log, step: u32, what: &str| {
        let commands = promotion(log, proof(log, step));
        assert!(matches!(log.add(commands), Applied::Refused(_)), "{what}");
    };
    refused(&mut log, 1, "never begun");
    turn_off(&mut log, 1, "old", term, None);
    refused(&mut log, 1, "not answered");
    let failed = Outcome::Refused { code: Refusal::Failed, detail: "no controller".to_owned() };
    turn_off(&mut log, 2, "old", term, Some(failed));
    refused(&mut log, 2, "failed");
    turn_off(&mut log, 3, "old", term, Some(Outcome::Unknown { detail: String::new() }));
    refused(&mut log, 3, "nobody knows");
    turn_off(&mut log, 4, "old", other, off());
    refused(&mut log, 4, "another lease");
    turn_off(&mut log, 5, "new", term, off());
    refused(&mut log, 5, "another host");
    turn_off(&mut log, 6, "old", term, off());
    for wrong in [
        Outside { term: other, ..outside(&log, 6) },
        Outside { step: 5, ..outside(&log, 6) },
        Outside { agent: "a".parse().unwrap(), ..outside(&log, 6) },
        Outside { said: "trust me".to_owned(), ..outside(&log, 6) },
    ] {
        let commands = promotion(&log, Proof::External(wrong.clone()));
        assert!(matches!(log.add(commands), Applied::Refused(_)), "{wrong:?}");
    }
    let commands = promotion(&log, proof(&log, 6));
    assert!(matches!(log.add(commands), Applied::Done { .. }));
}

#[test]
fn where_a_fencer_is_required_the_end_of_the_lease_promotes_nobody_unless_a_person_says_so() {
    for (required, waived, promoted) in [(false, false, true), (true, false, false), (true, true, true)] {
        let mut log = fencing(required);
        if waived {
            log.must(signalled(Signal::NoCandidate, Some(StuckCause::FencerFailed)));
            log.must(Command::RunOverridden {
                group: "g".parse().unwrap(),
                run: RUN,
                site: None,
                accept_loss: false,
                reason: "it is unplugged".to_owned(),
            });
            log.must(signalled(Signal::Retry, None));
            log.must(signalled(Signal::PledgedByMajority, None));
        }
        let waited = log.state.groups.values().next().unwrap().largest_fence.plus(Millis(5_000));
        let pledges = vec![(NodeId(1), Millis(2_000)), (NodeId(2), Millis(2_000))];
        let electorate = log.state.electorate.version;
        let expiry = Expiry { term: log.term(), pledges, waited, electorate };
        let commands = promotion(&log, Proof::Expired(expiry));
        let applied = log.add(commands);
        assert_eq!(matches!(applied, Applied::Done { .. }), promoted, "{required} {waived}: {applied:?}");
    }
}
