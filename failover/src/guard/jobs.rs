//! The one task that runs beside the renewals, and fences, which end whatever else runs.

use mesh_proto::effect::{Effect, Finding, Outcome, Refusal, Rejoined, StepRef};
use mesh_proto::evidence::{Position, ProcessState};
use mesh_proto::lease::{FenceCause, LeaseKey, LeaseTerm, Receipt, ReceiptLevel};
use mesh_proto::{Lsn, Millis};

use super::action::{Action, Task, TaskResult};
use super::state::Opened;
use super::{Guard, RETRY};
use crate::Moment;

/// After `no-ack`, how long until an instance that is not `quiet` yet is killed again. Processes in uninterruptible IO
/// stay for as long as their disk hangs; killing again costs nothing.
const QUIET_BUDGET: Millis = Millis(5_000);

/// An order that waits for a task.
#[derive(Debug, Clone)]
pub(super) struct Waiter {
    pub(super) id: u64,
    pub(super) step: StepRef,
    pub(super) effect: Effect,
    pub(super) until: Moment,
    /// Only verified: its answer is not kept for repeats.
    pub(super) verify_only: bool,
}

/// The task that runs.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) task: Task,
    pub(super) until: Moment,
    /// Its time is over and the runtime has not said how it ended: anything may take its place.
    pub(super) overdue: bool,
    pub(super) waiters: Vec<Waiter>,
}

impl Job {
    /// When it must be looked at.
    pub(super) fn next(&self) -> Moment {
        self.waiters.iter().map(|waiter| waiter.until).chain([self.until]).min().unwrap_or(self.until)
    }
}

/// A fence that is not `quiet` yet.
#[derive(Debug, Clone)]
pub(super) struct Fencing {
    pub(super) term: Option<LeaseTerm>,
    pub(super) cause: FenceCause,
    pub(super) level: Option<ReceiptLevel>,
    /// Up to when the leash leaves the ladder its first rungs; `None`: it kills at once.
    pub(super) soft_until: Option<Moment>,
    /// Up to when it must have got as far as `no-ack`: the fence budget from its begin.
    pub(super) due: Moment,
    /// When a failed attempt is repeated.
    pub(super) again_at: Option<Moment>,
    /// The guard's first act after its own start: the server is started as a standby afterwards.
    pub(super) at_start: bool,
    pub(super) waiters: Vec<Waiter>,
}

impl Guard {
    /// A task runs, and its time is not over.
    pub(super) fn busy(&self) -> bool {
        self.job.as_ref().is_some_and(|job| !job.overdue)
    }

    pub(super) fn runs(&self, what: impl Fn(&Task) -> bool) -> bool {
        self.job.as_ref().is_some_and(|job| !job.overdue && what(&job.task))
    }

    pub(super) fn begin_job(&mut self, task: Task, until: Moment, waiter: Option<Waiter>) {
        if let Some(old) = self.job.take() {
            let detail = format!("{} was ended by {}", old.task.words(), task.words());
            for waiter in old.waiters {
                self.answer_waiter(waiter, Outcome::Unknown { detail: detail.clone() });
            }
        }
        if matches!(task, Task::Follow(_)) {
            self.whole = false;
        }
        let id = self.next_job;
        self.next_job += 1;
        self.actions.push(Action::Do { job: id, task: task.clone(), until });
        self.job = Some(Job { id, task, until, overdue: false, waiters: waiter.into_iter().collect() });
    }

    /// Begins to fence, ending whatever runs. `hard: false` only with the commit gate in force.
    pub(super) fn begin_fence(
        &mut self,
        now: Moment,
        term: Option<LeaseTerm>,
        cause: FenceCause,
        hard: bool,
        at_start: bool,
    ) {
        if let Some(term) = term {
            self.give_up(term);
        }
        self.opened = None;
        self.keep_up = false;
        self.was_standby = false;
        // A clean stop that did not make it ends as this fence: who waited for it gets this receipt.
        let waiters = match self.job.take_if(|job| matches!(job.task, Task::HandOver { .. })) {
            Some(job) => job.waiters,
            None => Vec::new(),
        };
        let soft_until = (!hard).then(|| now.after(Millis(self.timing.fence.0 / 2)));
        let due = now.after(self.timing.fence);
        self.fencing =
            Some(Fencing { term, cause, level: None, soft_until, due, again_at: None, at_start, waiters });
        self.begin_job(Task::Fence { hard, term, cause }, now.after(self.timing.fence), None);
    }

    /// Never again this lease, nor an older one.
    fn give_up(&mut self, term: LeaseTerm) {
        self.holder.spend(term.lease_no);
        if self.pending.as_ref().is_some_and(|record| record.term.lease_no <= term.lease_no) {
            self.pending = None;
        }
    }

    /// A task ended, or a fence reached its first level.
    pub fn handle_done(&mut self, now: Moment, job: u64, result: TaskResult) {
        let Some(current) = self.job.as_ref().filter(|current| current.id == job) else {
            // Of a task that was ended by another one: its result is not wanted any more.
            return;
        };
        match (current.task.clone(), result) {
            (Task::Fence { .. }, TaskResult::Fenced { level, shutdown_at }) => {
                self.fenced(now, level, shutdown_at);
            }
            (Task::HandOver { term }, TaskResult::Fenced { level, shutdown_at }) => {
                self.handed_over(now, term, level, shutdown_at);
            }
            (Task::Fence { .. }, TaskResult::Failed { detail } | TaskResult::Unknown { detail }) => {
                self.fence_again(now, detail);
            }
            (Task::Fence { .. }, other) => self.fence_again(now, format!("unexpected result {other:?}")),
            (Task::OpenPrimary { term, .. }, TaskResult::Opened { timeline, at }) => {
                self.opened_primary(Opened { term, timeline, at });
            }
            (Task::Freeze { .. }, TaskResult::At(position)) => {
                if let Some((_, facts)) = self.facts.as_mut() {
                    facts.receiving = None;
                }
                self.stood_at(position);
            }
            (Task::Confirm { .. }, TaskResult::At(position)) => self.stood_at(position),
            (Task::Scan { .. }, TaskResult::Scanned { end, commits, bytes }) => {
                self.finish_job(Outcome::Done(Finding::Scanned { end, commits, bytes }));
            }
            (Task::Follow(_), TaskResult::Follows(how)) => self.follows(how),
            (task @ Task::Follow(_), TaskResult::NotFollowed { detail, whole }) => {
                self.whole = whole;
                self.failed(now, &task, &detail);
                self.finish_job(Outcome::Unknown { detail });
            }
            (Task::StartStandby { .. }, TaskResult::Done) => {
                self.keep_up = false;
                self.learn_process(ProcessState::Standby);
                self.trouble = None;
                self.finish_job(Outcome::Done(Finding::Nothing));
            }
            (Task::Checkpoint, TaskResult::Done) => self.finish_job(Outcome::Done(Finding::Nothing)),
            (task, TaskResult::Failed { detail }) => {
                self.failed(now, &task, &detail);
                self.finish_job(Outcome::Refused { code: Refusal::Failed, detail });
            }
            (task, TaskResult::Unknown { detail }) => {
                self.failed(now, &task, &detail);
                self.finish_job(Outcome::Unknown { detail });
            }
            (task, other) => {
                let detail = format!("unexpected result {other:?}");
                self.failed(now, &task, &detail);
                self.finish_job(Outcome::Unknown { detail });
            }
        }
    }

    /// What a task's end says about the server counts until the runtime has looked again: nothing is decided from what
    /// was seen before.
    fn learn_process(&mut self, process: ProcessState) {
        self.was_standby = process == ProcessState::Standby;
        if let Some((_, facts)) = self.facts.as_mut() {
            facts.process = process;
        }
    }

    fn stood_at(&mut self, position: Position) {
        if let Some((_, facts)) = self.facts.as_mut() {
            facts.position = Some(position);
        }
        let outcome = self.stands_at(position);
        self.finish_job(outcome);
    }

    fn failed(&mut self, now: Moment, task: &Task, detail: &str) {
        match task {
            Task::Checkpoint | Task::Confirm { .. } | Task::Freeze { .. } | Task::Scan { .. } => {}
            Task::Fence { .. }
            | Task::HandOver { .. }
            | Task::StartStandby { .. }
            | Task::OpenPrimary { .. }
            | Task::Follow(_) => {
                // Whatever it left behind: it was a standby, if it was one, before this.
                let was_standby = self.was_standby;
                self.learn_process(ProcessState::Unknown);
                self.was_standby = was_standby;
            }
        }
        self.retry_at = now.after(RETRY);
        self.trouble = Some(format!("{} failed: {detail}", task.words()));
        self.start_failed = matches!(task, Task::StartStandby { .. });
    }

    /// Ends the task that runs and answers who waits for it.
    fn finish_job(&mut self, outcome: Outcome) {
        if let Some(job) = self.job.take() {
            for waiter in job.waiters {
                self.answer_waiter(waiter, outcome.clone());
            }
        }
    }

    pub(super) fn answer_waiter(&mut self, waiter: Waiter, outcome: Outcome) {
        if !waiter.verify_only {
            self.remember(waiter.step, waiter.effect, &outcome);
        }
        self.answer(waiter.id, outcome);
    }

    /// Queues an answer until what it says is on disk. A refusal promises nothing; a receipt needs only that its lease
    /// is never asked for again after a restart.
    pub(super) fn answer(&mut self, id: u64, outcome: Outcome) {
        let needs = match &outcome {
            Outcome::Done(Finding::Fenced(_)) => self.asked_at,
            Outcome::Done(
                Finding::Nothing
                | Finding::Frozen { .. }
                | Finding::Promoted { .. }
                | Finding::Follows { .. }
                | Finding::Scanned { .. }
                | Finding::Off { .. }
                | Finding::Routed { .. }
                | Finding::Named { .. }
                | Finding::Proved { .. }
                | Finding::Ran { .. }
                | Finding::Skipped { .. },
            )
            | Outcome::Unknown { .. } => self.state.version,
            Outcome::Refused { .. } => 0,
        };
        self.answers.push((needs, id, outcome));
    }

    fn handed_over(&mut self, now: Moment, term: LeaseTerm, level: ReceiptLevel, shutdown_at: Option<Lsn>) {
        if self.fencing.is_none() {
            self.give_up(term);
            self.opened = None;
            self.keep_up = false;
            self.was_standby = false;
            let waiters = self.job.as_mut().map(|job| std::mem::take(&mut job.waiters)).unwrap_or_default();
            self.fencing = Some(Fencing {
                term: Some(term),
                cause: FenceCause::HandOver,
                level: None,
                soft_until: Some(now.after(QUIET_BUDGET)),
                due: now.after(self.timing.fence),
                again_at: None,
                at_start: false,
                waiters,
            });
        }
        self.fenced(now, level, shutdown_at);
    }

    fn fenced(&mut self, now: Moment, level: ReceiptLevel, shutdown_at: Option<Lsn>) {
        let Some(fencing) = self.fencing.as_mut() else { return };
        fencing.level = fencing.level.max(Some(level));
        fencing.again_at = None;
        let (term, cause) = (fencing.term, fencing.cause);
        let known = self.state.receipt.as_ref().filter(|r| Some(r.term) == term);
        let shutdown_at = shutdown_at.or(known.and_then(|r| r.shutdown_at));
        if let Some(term) = term {
            self.state.receipt = Some(Receipt {
                key: LeaseKey { group: self.state.group.clone(), instance: self.state.instance.clone() },
                term,
                guard: self.state.guard.clone(),
                data: self.state.data.clone(),
                level,
                shutdown_at,
                cause,
                signature: String::new(),
            });
            self.changed();
        }
        // A clean stop is over when the shutdown checkpoint was read; a fence when nothing can be acknowledged.
        let tells = cause != FenceCause::HandOver || shutdown_at.is_some() || level == ReceiptLevel::Quiet;
        if tells {
            self.answer_fenced();
        }
        match level {
            ReceiptLevel::NoAck => {
                if let Some(job) = self.job.as_mut() {
                    job.until = now.after(QUIET_BUDGET);
                }
            }
            ReceiptLevel::Quiet => {
                self.trouble = None;
                self.learn_process(ProcessState::Stopped);
                self.keep_up = self.fencing.take().is_some_and(|fencing| fencing.at_start);
                self.job = None;
            }
        }
    }

    fn answer_fenced(&mut self) {
        let Some(fencing) = self.fencing.as_mut() else { return };
        let waiters = std::mem::take(&mut fencing.waiters);
        let term = fencing.term;
        let receipt = self.state.receipt.clone().filter(|receipt| Some(receipt.term) == term);
        for waiter in waiters {
            let outcome = match &receipt {
                Some(receipt) => Outcome::Done(Finding::Fenced(receipt.clone())),
                None => Outcome::Unknown { detail: "fenced, but no lease to give a receipt for".to_owned() },
            };
            self.answer_waiter(waiter, outcome);
        }
    }

    fn fence_again(&mut self, now: Moment, detail: String) {
        self.trouble = Some(format!("the fence is not proven yet: {detail}"));
        self.job = None;
        match self.fencing.as_mut() {
            Some(fencing) => fencing.again_at = Some(now.after(RETRY)),
            None => self.retry_at = now.after(RETRY),
        }
    }

    fn opened_primary(&mut self, opened: Opened) {
        self.opened = Some(opened);
        self.state.line = Some(opened.term.epoch);
        self.trouble = None;
        self.keep_up = false;
        self.learn_process(ProcessState::Primary);
        // The receipt and the freeze are over: this instance is the primary of a newer lease.
        self.state.receipt = None;
        self.state.frozen = None;
        self.changed();
        self.finish_job(Outcome::Done(Finding::Nothing));
    }

    fn follows(&mut self, how: Rejoined) {
        match &how {
            Rejoined::Followed => {}
            Rejoined::Rewound { data, .. } | Rejoined::Rebuilt { data, .. } => {
                self.state.data = data.clone();
            }
        }
        if let Some(rejoin) = self.state.rejoin.take() {
            self.state.line = Some(rejoin.epoch);
        }
        self.changed();
        self.trouble = None;
        self.keep_up = false;
        self.learn_process(ProcessState::Standby);
        self.finish_job(Outcome::Done(Finding::Follows { how }));
    }

    /// Where a frozen or confirmed standby stands.
    pub(super) fn stands_at(&self, position: Position) -> Outcome {
        match self.facts.as_ref().and_then(|(_, facts)| facts.system_id) {
            Some(system_id) => Outcome::Done(Finding::Frozen {
                position,
                data: self.state.data.clone(),
                guard: self.state.guard.clone(),
                system_id,
            }),
            None => Outcome::Unknown { detail: "the system identifier cannot be read".to_owned() },
        }
    }

    /// Deadlines of the task that runs and of who waits for it.
    pub(super) fn watch_job(&mut self, now: Moment) {
        let mut late = Vec::new();
        if let Some(job) = self.job.as_mut() {
            late.extend(job.waiters.extract_if(.., |waiter| waiter.until <= now));
            job.overdue |= job.until <= now;
        }
        if let Some(fencing) = self.fencing.as_mut() {
            late.extend(fencing.waiters.extract_if(.., |waiter| waiter.until <= now));
        }
        for waiter in late {
            let words = self.job.as_ref().map_or("fencing", |job| job.task.words());
            let detail = format!("still {words} when the time for it was over");
            self.answer_waiter(waiter, Outcome::Unknown { detail });
        }
        self.repeat_fence(now);
    }

    /// A fence that is not proven within its budget is repeated, by force.
    fn repeat_fence(&mut self, now: Moment) {
        let Some(fencing) = self.fencing.as_mut() else { return };
        let failed = self.job.is_none() && fencing.again_at.is_none_or(|at| at <= now);
        let overdue = self.job.as_ref().is_some_and(|job| job.overdue);
        if !(failed || overdue) {
            return;
        }
        if overdue {
            self.trouble = Some(format!(
                "not fenced within {}: a process does not die; check for hung storage, and cut the host off",
                self.timing.fence
            ));
        }
        fencing.again_at = None;
        fencing.soft_until = None;
        let task = Task::Fence { hard: true, term: fencing.term, cause: fencing.cause };
        self.begin_job(task, now.after(self.timing.fence), None);
    }
}
