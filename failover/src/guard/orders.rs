//! Orders of the leader: the gates they pass, the one that runs, and how each is verified without acting.

use mesh_proto::Generation;
use mesh_proto::effect::{Effect, Finding, Order, Outcome, Refusal, StepRef, Target};
use mesh_proto::evidence::ProcessState;
use mesh_proto::lease::{FenceCause, LeaseRecord, LeaseTerm, Receipt};
use mesh_proto::{DataIncarnation, Lsn};

use super::Guard;
use super::action::Task;
use super::jobs::Waiter;
use super::state::{AskedLease, Rejoin};
use crate::Moment;

/// Orders that may wait. A leader gives one at a time; more is a fault, and refused.
const QUEUE_MAX: usize = 16;

/// An order that was let in and is not answered.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) id: u64,
    pub(super) order: Order,
    pub(super) until: Moment,
}

/// An order that was answered: its repeat gets the same answer.
#[derive(Debug, Clone)]
pub(super) struct Finished {
    pub(super) step: StepRef,
    pub(super) effect: Effect,
    pub(super) outcome: Outcome,
}

/// What to do with an order now.
pub(super) enum Next {
    /// Answer it.
    Answer(Outcome),
    /// Begin this task, whose end is the answer.
    Begin(Task),
    /// It waits for a task that runs already.
    Taken,
    /// Not yet.
    Wait,
}

pub(super) fn refuse(code: Refusal, detail: impl Into<String>) -> Next {
    Next::Answer(Outcome::Refused { code, detail: detail.into() })
}

const fn ends_the_primary(effect: &Effect) -> bool {
    match effect {
        Effect::Fence { .. } | Effect::HandOver { .. } => true,
        Effect::Checkpoint { .. }
        | Effect::Freeze { .. }
        | Effect::Confirm { .. }
        | Effect::Promote { .. }
        | Effect::Follow { .. }
        | Effect::Scan { .. }
        | Effect::TurnOff { .. }
        | Effect::Route { .. }
        | Effect::Prove { .. }
        | Effect::Errand { .. } => false,
    }
}

impl Guard {
    /// An order, under an id by which it is answered. It is answered within its budget, counted from now.
    pub fn handle_order(&mut self, now: Moment, id: u64, order: Order) {
        match self.admit(&order) {
            Some(outcome) => self.answer(id, outcome),
            None => {
                let until = now.after(order.budget);
                self.queue.push(Pending { id, order, until });
            }
        }
    }

    /// The gates: what is refused, or known already, without looking at the server.
    fn admit(&mut self, order: &Order) -> Option<Outcome> {
        let refused = |code, detail: String| Some(Outcome::Refused { code, detail });
        let here = order.group == self.state.group
            && match order.effect.target() {
                Target::Instance(instance) => *instance == self.state.instance,
                Target::Route(_) | Target::Fencer(_) | Target::Errand(_) => false,
            };
        if !here {
            let detail = format!("this is the guard of {}/{}", self.state.group, self.state.instance);
            return refused(Refusal::NotConfigured, detail);
        }
        if let Some((founded, found)) = self.foreign_system()
            && !ends_the_primary(&order.effect)
        {
            let detail = format!(
                "the data directory has system identifier {found}, the group was founded with {founded}; \
                 point the instance to its own data directory"
            );
            return refused(Refusal::NotApplicable, detail);
        }
        if !self.pass_gate(order.epoch, order.raft_term) {
            return Some(self.stale(order));
        }
        if self.queue.len() >= QUEUE_MAX {
            return refused(Refusal::Failed, format!("{QUEUE_MAX} orders are waiting already"));
        }
        let repeat = self.finished.iter().find(|f| f.step == order.step && f.effect == order.effect);
        repeat.filter(|_| !order.verify_only).map(|finished| finished.outcome.clone())
    }

    fn stale(&self, order: &Order) -> Outcome {
        let gate = self.state.gate;
        Outcome::Refused {
            code: Refusal::StaleEpoch,
            detail: format!(
                "the order is of epoch {} term {}, the gate has seen epoch {} term {}",
                order.epoch, order.raft_term, gate.epoch, gate.raft_term
            ),
        }
    }

    /// Serves the orders that wait, in their order: one at a time, but a fence or a clean stop at once, and what is only
    /// verified whenever the state is on disk.
    pub(super) fn serve_orders(&mut self, now: Moment) {
        let mut behind = false;
        for pending in std::mem::take(&mut self.queue) {
            let next = self.serve(now, &pending, behind);
            let Pending { id, order, until } = pending;
            match next {
                Next::Answer(outcome) => {
                    if !order.verify_only {
                        self.remember(order.step, order.effect, &outcome);
                    }
                    self.answer(id, outcome);
                }
                Next::Begin(task) => {
                    let waiter = waiter(id, &order, until);
                    self.begin_job(task, until, Some(waiter));
                }
                Next::Taken => {}
                Next::Wait => {
                    behind |= !order.verify_only;
                    self.queue.push(Pending { id, order, until });
                }
            }
        }
    }

    fn serve(&mut self, now: Moment, pending: &Pending, behind: bool) -> Next {
        let Pending { id, order, until } = pending;
        if *until <= now {
            return Next::Answer(self.too_late(order));
        }
        // A newer leader may have passed the gate while this one waited.
        if (order.epoch, order.raft_term) < (self.state.gate.epoch, self.state.gate.raft_term) {
            return Next::Answer(self.stale(order));
        }
        if let Some(job) = self.job.as_mut().filter(|job| !job.overdue)
            && job.waiters.iter().any(|waiter| waiter.effect == order.effect)
        {
            job.waiters.push(waiter(*id, order, *until));
            return Next::Taken;
        }
        if let Effect::Fence { term, .. } = &order.effect
            && !order.verify_only
        {
            return self.fence_ordered(now, *term, waiter(*id, order, *until));
        }
        if !self.settled() {
            return Next::Wait;
        }
        if order.verify_only {
            return self.verify(now, order);
        }
        let free = !behind && !self.busy() && self.fencing.is_none();
        match &order.effect {
            Effect::HandOver { term, .. } => self.hand_over_ordered(now, *term),
            Effect::Promote { term, data, .. } => self.promote_ordered(now, order, *term, data, free),
            Effect::Checkpoint { .. } if free => self.checkpoint_ordered(),
            Effect::Freeze { generation, .. } if free => self.freeze_ordered(now, *generation),
            Effect::Confirm { at, .. } if free => self.confirm_ordered(*at),
            Effect::Follow { .. } if free => self.follow_ordered(now, order),
            Effect::Scan { system_id, boundary, held, .. } if free => {
                self.scan_ordered(*system_id, *boundary, *held)
            }
            Effect::Checkpoint { .. }
            | Effect::Freeze { .. }
            | Effect::Confirm { .. }
            | Effect::Follow { .. }
            | Effect::Scan { .. } => Next::Wait,
            Effect::Fence { .. }
            | Effect::TurnOff { .. }
            | Effect::Route { .. }
            | Effect::Prove { .. }
            | Effect::Errand { .. } => refuse(Refusal::NotConfigured, "not for a guard"),
        }
    }

    /// The time of an order that was never begun is over.
    fn too_late(&self, order: &Order) -> Outcome {
        let busy = self.job.as_ref().map_or("waiting for its state to be written", |job| job.task.words());
        match &order.effect {
            // It may open at any moment, with or without this order, while the lease can be had.
            Effect::Promote { term, .. } if self.holder.asking().is_some_and(|r| r.term == *term) => {
                let why =
                    self.trouble.clone().unwrap_or_else(|| "the lease was not acquired in time".to_owned());
                Outcome::Unknown { detail: why }
            }
            // A disk that hangs: nobody knows what its log would have said.
            Effect::Scan { .. } => {
                Outcome::Unknown { detail: format!("not begun in time: the guard was busy {busy}") }
            }
            Effect::Promote { .. } => Outcome::Refused {
                code: Refusal::NoLease,
                detail: "the lease was not acquired in time".to_owned(),
            },
            Effect::Checkpoint { .. }
            | Effect::HandOver { .. }
            | Effect::Fence { .. }
            | Effect::Freeze { .. }
            | Effect::Confirm { .. }
            | Effect::Follow { .. }
            | Effect::TurnOff { .. }
            | Effect::Route { .. }
            | Effect::Prove { .. }
            | Effect::Errand { .. } => Outcome::Refused {
                code: Refusal::Failed,
                detail: format!("not begun in time: the guard was busy {busy}"),
            },
        }
    }

    pub(super) fn receipt_for(&self, term: LeaseTerm) -> Option<&Receipt> {
        self.state.receipt.as_ref().filter(|r| r.term == term && r.guard == self.state.guard)
    }

    /// Whether this life of the guard is the one that the lease was granted to, so that it can give its receipt. Marks
    /// it as asked for: it never will be afterwards.
    fn takes_over_term(&mut self, term: LeaseTerm) -> Result<(), String> {
        if let Some(asked) = &self.state.asked {
            if asked.term == term && asked.guard == self.state.guard {
                return Ok(());
            }
            if asked.term.lease_no >= term.lease_no {
                return Err(format!("the instance asked for {} since", asked.term));
            }
        }
        let mine = self.view.as_ref().and_then(|view| view.own_lease.as_ref()).is_some_and(|record| {
            record.term == term && record.guard == self.state.guard && record.data == self.state.data
        });
        if !mine {
            return Err(format!("{term} was not granted to this life of the guard and its data"));
        }
        self.state.asked = Some(AskedLease { term, guard: self.state.guard.clone() });
        self.changed();
        self.asked_at = self.state.version;
        Ok(())
    }

    /// A fence does not wait for the disk; its answer does, where a lease was not asked for before.
    fn fence_ordered(&mut self, now: Moment, term: LeaseTerm, waiter: Waiter) -> Next {
        if let Some(receipt) = self.receipt_for(term) {
            return Next::Answer(Outcome::Done(Finding::Fenced(receipt.clone())));
        }
        if self.fencing.as_ref().is_some_and(|fencing| fencing.term == Some(term)) {
            if let Some(fencing) = self.fencing.as_mut() {
                fencing.waiters.push(waiter);
            }
            return Next::Taken;
        }
        if self.fencing.is_some() {
            return Next::Wait;
        }
        if let Err(detail) = self.takes_over_term(term) {
            return refuse(Refusal::NotApplicable, detail);
        }
        self.begin_fence(now, Some(term), FenceCause::Ordered, true, false);
        if let Some(fencing) = self.fencing.as_mut() {
            fencing.waiters.push(waiter);
        }
        Next::Taken
    }

    fn hand_over_ordered(&mut self, now: Moment, term: LeaseTerm) -> Next {
        if let Some(receipt) = self.receipt_for(term) {
            return Next::Answer(Outcome::Done(Finding::Fenced(receipt.clone())));
        }
        if self.fencing.is_some() || self.runs(|task| matches!(task, Task::OpenPrimary { .. })) {
            return Next::Wait;
        }
        let serves = self.opened.is_some_and(|opened| opened.term == term);
        if !serves || !self.holds(now, term) {
            return refuse(Refusal::NotApplicable, format!("the instance does not serve under {term}"));
        }
        Next::Begin(Task::HandOver { term })
    }

    /// The lease is acquired, and the server opened under it, by the guard's own watch: the order says which, waits, and
    /// tells.
    fn promote_ordered(
        &mut self,
        now: Moment,
        order: &Order,
        term: LeaseTerm,
        data: &DataIncarnation,
        free: bool,
    ) -> Next {
        if let Some(done) = self.promoted(now, term) {
            return Next::Answer(done);
        }
        if *data != self.state.data {
            let detail = format!("the data is {}, not {data}", self.state.data);
            return refuse(Refusal::NotApplicable, detail);
        }
        if self.state.rejoin.is_some() {
            return refuse(Refusal::NotApplicable, "a rejoin is not finished");
        }
        if term.lease_no <= self.holder.spent() {
            return refuse(Refusal::NoLease, format!("{term} was given up"));
        }
        if free {
            let guard = self.state.guard.clone();
            // What is asked for is what the order names; what it may be opened after, and held by, only the log says.
            self.acquire(LeaseRecord {
                term,
                guard,
                data: data.clone(),
                index: order.index,
                holders: std::collections::BTreeSet::new(),
                waits: None,
            });
        }
        Next::Wait
    }

    pub(super) fn promoted(&self, now: Moment, term: LeaseTerm) -> Option<Outcome> {
        let opened = self.opened.filter(|opened| opened.term == term && self.holds(now, term))?;
        Some(Outcome::Done(Finding::Promoted { timeline: opened.timeline, at: opened.at }))
    }

    fn checkpoint_ordered(&self) -> Next {
        match self.process() {
            ProcessState::Primary | ProcessState::Standby => Next::Begin(Task::Checkpoint),
            ProcessState::Starting
            | ProcessState::Stopped
            | ProcessState::Died
            | ProcessState::Unresponsive
            | ProcessState::Unknown => refuse(Refusal::NotApplicable, "the server does not run"),
        }
    }

    /// What to do with an order for a standby while the server is none.
    fn unless_standby(&self) -> Option<Next> {
        match self.process() {
            ProcessState::Standby => None,
            // It may be one in a moment.
            ProcessState::Starting | ProcessState::Unknown => Some(Next::Wait),
            ProcessState::Primary
            | ProcessState::Stopped
            | ProcessState::Died
            | ProcessState::Unresponsive => {
                let detail = format!("the server is no running standby: it {}", self.process());
                Some(refuse(Refusal::NotApplicable, detail))
            }
        }
    }

    /// The freeze is on disk before it is done: it survives restarts of guard and server.
    fn freeze_ordered(&mut self, now: Moment, generation: Generation) -> Next {
        if generation < self.state.generation {
            return self.stale_generation(generation);
        }
        if self.holder.held(now).is_some() {
            return refuse(Refusal::NotApplicable, "the instance holds the lease");
        }
        if self.state.rejoin.is_some() && !self.whole {
            return refuse(Refusal::NotApplicable, "a rewind or a rebuild may have begun to change the data");
        }
        // A stopped server still has all that it ever had: it is started, without a receiver, to be compared.
        let stopped = matches!(self.process(), ProcessState::Stopped | ProcessState::Died);
        if stopped {
            self.keep_up = true;
        } else if let Some(next) = self.unless_standby() {
            return next;
        }
        if self.state.frozen == Some(generation) {
            return if stopped { Next::Wait } else { Next::Begin(Task::Freeze { generation }) };
        }
        self.state.frozen = Some(generation);
        self.state.generation = generation;
        // The primary that it was to follow is being replaced, and its data is as it was.
        self.state.rejoin = None;
        self.changed();
        Next::Wait
    }

    fn stale_generation(&self, generation: Generation) -> Next {
        let detail = format!("the order is of generation {generation}, {} was seen", self.state.generation);
        refuse(Refusal::StaleGeneration, detail)
    }

    fn confirm_ordered(&self, at: Lsn) -> Next {
        if self.state.rejoin.is_some() {
            // It could not be promoted afterwards.
            return refuse(Refusal::NotApplicable, "the instance is rejoining");
        }
        self.unless_standby().unwrap_or(Next::Begin(Task::Confirm { at }))
    }

    /// Only a server of which no process is left has a log that ends.
    fn scan_ordered(&self, system: u64, boundary: Lsn, held: Lsn) -> Next {
        match self.process() {
            ProcessState::Stopped | ProcessState::Died => Next::Begin(Task::Scan { system, boundary, held }),
            ProcessState::Unknown => Next::Wait,
            ProcessState::Primary
            | ProcessState::Standby
            | ProcessState::Starting
            | ProcessState::Unresponsive => {
                refuse(Refusal::NotApplicable, format!("the server is not dead: it {}", self.process()))
            }
        }
    }

    /// That a rejoin is begun is on disk before it is: it may rewrite the data directory.
    fn follow_ordered(&mut self, now: Moment, order: &Order) -> Next {
        let Effect::Follow { primary, address, epoch, generation, .. } = &order.effect else {
            return refuse(Refusal::NotConfigured, "not a follow");
        };
        if *generation < self.state.generation {
            return self.stale_generation(*generation);
        }
        if *primary == self.state.instance || self.holder.held(now).is_some() {
            return refuse(Refusal::NotApplicable, "the instance is the primary itself");
        }
        if *epoch < self.state.gate.epoch {
            return Next::Answer(self.stale(order));
        }
        let rejoin = Rejoin {
            primary: primary.clone(),
            address: *address,
            epoch: *epoch,
            generation: *generation,
            budget: order.budget,
        };
        if self.state.rejoin.as_ref() == Some(&rejoin) {
            return Next::Begin(Task::Follow(rejoin));
        }
        self.state.rejoin = Some(rejoin);
        self.state.frozen = None;
        self.state.generation = *generation;
        self.changed();
        Next::Wait
    }
}

fn waiter(id: u64, order: &Order, until: Moment) -> Waiter {
    Waiter { id, step: order.step, effect: order.effect.clone(), until, verify_only: order.verify_only }
}
