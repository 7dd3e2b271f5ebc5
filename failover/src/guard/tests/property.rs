//! Whatever happens in whatever order: what must hold after every step.

use mesh_proto::effect::Effect;
use mesh_proto::evidence::ProcessState;
use mesh_proto::lease::ReceiptLevel;
use mesh_proto::{Generation, LeaseNo, Millis};
use proptest::prelude::*;

use super::super::{Leash, Task, TaskResult};
use super::{Rig, me, term};

#[derive(Debug, Clone)]
enum Event {
    Run(u64),
    Reach(u64),
    Disk(bool),
    Process(ProcessState),
    TaskGood,
    TaskBad,
    NoAck,
    NewNumber,
    OtherPrimary,
    Floor,
    Restart(bool),
    Fence,
    HandOver,
    Freeze(u64),
    Promote,
}

fn events() -> impl Strategy<Value = Event> {
    use ProcessState::{Died, Primary, Standby, Starting, Stopped, Unresponsive};
    prop_oneof![
        6 => (1_u64..60).prop_map(Event::Run),
        2 => (0_u64..=3).prop_map(Event::Reach),
        1 => any::<bool>().prop_map(Event::Disk),
        2 => prop_oneof![Just(Died), Just(Primary), Just(Standby), Just(Starting), Just(Stopped), Just(Unresponsive)]
            .prop_map(Event::Process),
        5 => Just(Event::TaskGood),
        1 => Just(Event::TaskBad),
        1 => Just(Event::NoAck),
        2 => Just(Event::NewNumber),
        1 => Just(Event::OtherPrimary),
        1 => Just(Event::Floor),
        1 => any::<bool>().prop_map(Event::Restart),
        1 => Just(Event::Fence),
        1 => Just(Event::HandOver),
        1 => (0_u64..4).prop_map(Event::Freeze),
        2 => Just(Event::Promote),
    ]
}

/// The state of the world that the rig does not keep.
struct World {
    rig: Rig,
    highest: u64,
    life: u64,
    /// Lease numbers that a receipt was given for, or that an earlier process asked for.
    over: LeaseNo,
}

impl World {
    fn newest(&self) -> (u64, u64) {
        (self.rig.view.epoch.0.max(1), self.highest)
    }

    fn happen(&mut self, event: &Event) {
        let (epoch, lease_no) = self.newest();
        let rig = &mut self.rig;
        match event {
            Event::Run(steps) => rig.run(Millis(steps * 50)),
            Event::Reach(voters) => rig.reachable = *voters,
            Event::Disk(works) => rig.disk_works = *works,
            Event::Process(process) => rig.process(*process),
            Event::TaskGood => self.finish(),
            Event::TaskBad if rig.job.is_some() => {
                rig.done(TaskResult::Failed { detail: "did not work".to_owned() });
            }
            Event::NoAck if matches!(rig.task(), Some(Task::Fence { .. })) => {
                let job = rig.job.clone().unwrap();
                let result = TaskResult::Fenced { level: ReceiptLevel::NoAck, shutdown_at: None };
                rig.guard.handle_done(rig.now, job.0, result);
                rig.drive();
            }
            Event::TaskBad | Event::NoAck => {}
            Event::NewNumber => {
                self.highest += 1;
                rig.grant(epoch, self.highest);
                rig.floor = LeaseNo(0);
            }
            Event::OtherPrimary => {
                rig.view.applied += 1;
                rig.view.epoch = rig.view.epoch.next();
                rig.view.primary = Some("pg-2".parse().unwrap());
            }
            Event::Floor => rig.floor = LeaseNo(lease_no),
            Event::Restart(same_boot) => {
                self.life += 1;
                if let Some(asked) = rig.disk.as_ref().and_then(|state| state.asked.as_ref()) {
                    self.over = self.over.max(asked.term.lease_no);
                }
                let life = self.life.to_string();
                let boot = if *same_boot { rig.guard.state().boot.clone() } else { format!("boot-{life}") };
                rig.restart(&boot, &life);
            }
            Event::Fence => {
                rig.order(epoch, Effect::Fence { instance: me(), term: term(epoch, lease_no) });
            }
            Event::HandOver => {
                rig.order(epoch, Effect::HandOver { instance: me(), term: term(epoch, lease_no) });
            }
            Event::Freeze(generation) => {
                let generation = Generation(*generation);
                rig.order(epoch, Effect::Freeze { instance: me(), generation });
            }
            Event::Promote => {
                let data = rig.guard.state().data.clone();
                rig.order(epoch, Effect::Promote { instance: me(), term: term(epoch, lease_no), data });
            }
        }
    }

    fn finish(&mut self) {
        let rig = &mut self.rig;
        match rig.task().cloned() {
            None => {}
            Some(Task::Fence { .. } | Task::HandOver { .. }) => rig.quiet(),
            Some(Task::OpenPrimary { term, .. }) => {
                // The runtime asks again immediately before.
                if rig.guard.holds(rig.now, term) {
                    rig.opened();
                } else {
                    rig.done(TaskResult::Failed { detail: "the lease is over".to_owned() });
                }
            }
            Some(Task::StartStandby { .. }) => {
                rig.facts.process = ProcessState::Standby;
                rig.done(TaskResult::Done);
                rig.seen();
            }
            Some(Task::Freeze { .. } | Task::Confirm { .. }) => {
                rig.facts.receiving = None;
                rig.done(TaskResult::At(super::position(5)));
                rig.seen();
            }
            Some(Task::Follow(_)) => {
                rig.done(TaskResult::Follows(mesh_proto::effect::Rejoined::Followed));
            }
            Some(Task::Checkpoint) => rig.done(TaskResult::Done),
            Some(Task::Scan { .. }) => {
                rig.done(TaskResult::Scanned { end: mesh_proto::Lsn(6), commits: 1, bytes: 1 })
            }
        }
    }

    fn check(&mut self) {
        let rig = &self.rig;
        let held = rig.guard.held(rig.now);
        // Armed, and running as a primary without a lease: then it is being fenced.
        if rig.guard.state().armed && held.is_none() && rig.facts.process == ProcessState::Primary {
            assert!(rig.guard.fencing.is_some(), "a primary without a lease");
        }
        // While it may serve, the leash kills at the end of the lease and a half of F.
        if let Some(held) = held.filter(|_| rig.guard.opened().is_some()) {
            let Leash::Until(at) = rig.leash else { panic!("{:?}", rig.leash) };
            assert!(at <= rig.now.after(held.remaining).after(Millis(500)), "the leash is too long");
        }
        // A lease that is over is never asked for, nor held.
        if let Some(receipt) = &rig.guard.status(rig.now).receipt {
            self.over = self.over.max(receipt.term.lease_no);
        }
        let asked = rig.asked.last().and_then(|asked| asked.lease.as_ref()).map(|lease| lease.term);
        let holding = rig.guard.held(rig.now).map(|held| held.term);
        if let Some(term) = holding {
            assert!(term.lease_no > self.over, "{term} was over");
            assert!(asked.is_some());
        }
        // The floors of the state never fall.
        if let Some(disk) = &rig.disk {
            assert!(disk.gate <= rig.guard.state().gate);
            assert!(disk.generation <= rig.guard.state().generation);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens(primary in any::<bool>(), events in prop::collection::vec(events(), 1..60)) {
        let rig = if primary { Rig::serving() } else { Rig::standby() };
        let highest = u64::from(primary);
        let mut world = World { rig, highest, life: 1, over: LeaseNo(0) };
        for event in &events {
            world.happen(event);
            world.check();
        }
    }
}
