//! The pure core of the guard: the small process beside one PostgreSQL server that holds its lease and fences it.
//!
//! Input by `handle_*`, output by [`Guard::poll`]; call `poll` after every input and at [`Guard::next_wakeup`]. It never
//! reads a clock, touches a process or signs: the runtime does, as [`Action`] says. Its rules (PROTOCOL, The guard):
//! - It only observes until it first holds a lease: a running primary is adopted and never restarted (Birth).
//! - Lease over: fence, whoever is reachable, whatever else goes on. The fence waits for no disk.
//! - A lease that lapsed, or that a receipt was given for, is never asked for again; nor is one after a restart.
//! - It opens the server only while it holds the lease that the log granted, never for what a copy of the log says.
//! - What it promised (gate, freeze, asked lease) is on disk before it acts on it or answers.
//! - One task at a time; a fence ends whatever else runs.

mod action;
mod hold;
mod jobs;
mod orders;
mod promises;
mod quorum;
mod renewal;
mod state;
mod status;
#[cfg(test)]
mod tests;
mod verify;
mod watch;
mod watchdog;

use std::collections::BTreeMap;

use mesh_proto::effect::{Outcome, StepRef};
use mesh_proto::evidence::{HeldLease, ProcessState};
use mesh_proto::lease::{GroupView, LeaseKey, LeaseRecord, LeaseTerm};
use mesh_proto::spec::Timing;
use mesh_proto::{LeaseNo, Millis};

pub use action::{Action, Leash, Task, TaskResult};
pub use state::{
    AskedLease, CommitGate, EpochGate, Fresh, GuardConfig, GuardState, LocalFacts, Opened, Rejoin, StartError,
};

pub use watchdog::Safe;

use crate::Moment;
use crate::lease::holder::Holder;
use crate::mutants::Mutants;
use jobs::{Fencing, Job};
use orders::{Finished, Pending};
use status::Essence;

/// How long a failed write of the state, or a failed task of the guard's own, waits before it is tried again.
const RETRY: Millis = Millis(250);

/// The guard of one instance.
#[derive(Debug, Clone)]
pub struct Guard {
    config: GuardConfig,
    timing: Timing,
    state: GuardState,
    /// Version of the state that is on disk.
    durable: u64,
    /// Version last given to the runtime.
    writing: u64,
    write_again: Option<Moment>,
    /// The version from which on the newest asked lease is on disk.
    asked_at: u64,
    /// A lease that the log granted and that is not asked for before that is on disk.
    pending: Option<LeaseRecord>,
    holder: Holder,
    view: Option<GroupView>,
    facts: Option<(Moment, LocalFacts)>,
    job: Option<Job>,
    next_job: u64,
    fencing: Option<Fencing>,
    opened: Option<Opened>,
    /// The server shall run as a standby: at the start, and after a standby died.
    keep_up: bool,
    /// It was seen as a standby since it was last started.
    was_standby: bool,
    /// The rejoin that is not finished has changed nothing of the data: said by the attempt that ended last.
    whole: bool,
    /// The runtime is going down.
    stopping: bool,
    /// Not before this are failed tasks of its own begun again.
    retry_at: Moment,
    queue: Vec<Pending>,
    finished: Vec<Finished>,
    /// (state version that must be on disk, order id, outcome)
    answers: Vec<(u64, u64, Outcome)>,
    leash: Option<Leash>,
    gated: Option<(bool, Moment)>,
    /// The version of the commit quorum last told to the runtime.
    quorum_told: Option<(u64, Moment)>,
    ask_at: Moment,
    essence: Option<Essence>,
    seq: u64,
    /// When each recent status was sent.
    sent: BTreeMap<u64, Moment>,
    floored: Option<LeaseTerm>,
    /// The newest pause that was entered: it is not entered twice.
    pause_seen: u64,
    trouble: Option<String>,
    /// That is about a start as a standby: over as soon as the server is seen to be one, whoever started it.
    start_failed: bool,
    /// What it asked other guards for, and what it promised to them.
    holding: hold::Holding,
    given: promises::Given,
    /// Rules switched off by tests that prove that the simulator notices.
    mutants: Mutants,
    actions: Vec<Action>,
}

impl Guard {
    /// Starts the guard with the state on disk, if there is any.
    ///
    /// A guard that was armed first makes sure that nothing of an earlier life is left running (cause `Found`); that
    /// gives the receipt of the lease that a killed guard held. The server then starts as a standby.
    ///
    /// # Errors
    /// [`StartError`] when the state is another instance's.
    pub fn start(
        now: Moment,
        config: GuardConfig,
        stored: Option<GuardState>,
        fresh: Fresh,
    ) -> Result<Self, StartError> {
        let key = LeaseKey { group: config.group.clone(), instance: config.instance.clone() };
        let born = stored.is_none();
        let state = match stored {
            None => state::first(&config, fresh),
            Some(state) => {
                let found = LeaseKey { group: state.group.clone(), instance: state.instance.clone() };
                if found != key {
                    return Err(StartError::OtherInstance {
                        expected: key.to_string(),
                        found: found.to_string(),
                    });
                }
                state::again(state, fresh)
            }
        };
        // After a restart no lease is continued: the first of its own acquisitions has a new number.
        let spent = state.asked.as_ref().map_or(LeaseNo(0), |asked| asked.term.lease_no);
        let mut holder = Holder::new(spent);
        holder.learn(&config.electorate);
        let mut guard = Self {
            timing: config.timing.clone(),
            asked_at: state.version,
            keep_up: true,
            seq: state.starts << 32,
            config,
            state,
            durable: 0,
            writing: 0,
            write_again: None,
            pending: None,
            holder,
            view: None,
            facts: None,
            job: None,
            next_job: 1,
            fencing: None,
            opened: None,
            was_standby: false,
            whole: false,
            stopping: false,
            retry_at: now,
            queue: Vec::new(),
            finished: Vec::new(),
            answers: Vec::new(),
            leash: None,
            gated: None,
            quorum_told: None,
            ask_at: now,
            essence: None,
            sent: BTreeMap::new(),
            floored: None,
            pause_seen: 0,
            trouble: None,
            start_failed: false,
            holding: hold::Holding::default(),
            given: promises::Given::none_yet(now, born),
            mutants: Mutants::none(),
            actions: Vec::new(),
        };
        if guard.state.armed {
            guard.fence_found_at_start(now);
        }
        Ok(guard)
    }

    /// The same with rules switched off: only for tests that prove that the rules are needed.
    #[must_use]
    pub fn with_mutants(self, mutants: Mutants) -> Self {
        Self { mutants, ..self }
    }

    /// What the runtime saw of the server: every probe interval, and at once when the process dies or changes its role.
    pub fn handle_facts(&mut self, now: Moment, facts: LocalFacts) {
        if facts.process == ProcessState::Standby {
            self.was_standby = true;
            self.keep_up = false;
        }
        let mut facts = facts;
        // A primary that died, was fenced or hangs cannot be asked any more where it stands, and what its successor may
        // lack is counted from there.
        let silent =
            matches!(facts.process, ProcessState::Died | ProcessState::Stopped | ProcessState::Unresponsive);
        if silent && facts.position.is_none() {
            facts.position = self.facts.as_ref().and_then(|(_, before)| before.position);
        }
        self.facts = Some((now, facts));
    }

    /// The state of this version is on disk, file and directory fsynced.
    pub fn handle_persisted(&mut self, now: Moment, version: u64) {
        self.durable = self.durable.max(version);
        if self.durable >= self.asked_at
            && let Some(record) = self.pending.take()
            && self.holder.begin(&record)
        {
            self.floored = None;
            self.ask_at = now;
        }
    }

    /// The state could not be written. Nothing new is promised until it can; renewals and fences go on.
    pub fn handle_persist_failed(&mut self, now: Moment) {
        self.writing = self.durable;
        self.write_again = Some(now.after(RETRY));
    }

    /// The guard shall go down: it fences first, if it ever held a lease. Over when [`Self::is_down`].
    pub fn handle_stop(&mut self, now: Moment) {
        self.stopping = true;
        self.fence_for_stop(now);
    }

    /// After [`Self::handle_stop`]: nothing is left to do.
    #[must_use]
    pub const fn is_down(&self) -> bool {
        self.stopping && self.fencing.is_none()
    }

    /// Whether it holds exactly this lease now: what the runtime asks again immediately before it opens the server.
    #[must_use]
    pub fn holds(&self, now: Moment, term: LeaseTerm) -> bool {
        self.fencing.is_none() && self.holder.held(now).is_some_and(|held| held.term == term)
    }

    /// The lease held, with what remains of it.
    #[must_use]
    pub fn held(&self, now: Moment) -> Option<HeldLease> {
        self.holder.held(now)
    }

    /// The lease that the server was opened under, while it runs as the primary.
    #[must_use]
    pub const fn opened(&self) -> Option<Opened> {
        self.opened
    }

    /// The timing in force.
    #[must_use]
    pub const fn timing(&self) -> &Timing {
        &self.timing
    }

    /// The state as it is in memory.
    #[must_use]
    pub const fn state(&self) -> &GuardState {
        &self.state
    }

    /// Whether the server serves or follows and nothing is under way, ordered or unfinished: the time to tidy up.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let runs = match self.process() {
            ProcessState::Primary => self.opened.is_some(),
            ProcessState::Standby => self.opened.is_none(),
            ProcessState::Starting
            | ProcessState::Stopped
            | ProcessState::Died
            | ProcessState::Unresponsive
            | ProcessState::Unknown => false,
        };
        let idle = self.job.is_none() && self.fencing.is_none() && self.queue.is_empty() && !self.stopping;
        runs && idle && self.state.rejoin.is_none() && self.state.frozen.is_none()
    }

    /// The holder of its lease, for status and tests.
    #[must_use]
    pub const fn holder(&self) -> &Holder {
        &self.holder
    }

    /// What to do now, in this order.
    #[must_use]
    pub fn poll(&mut self, now: Moment) -> Vec<Action> {
        self.watch_lease(now);
        self.watch_job(now);
        self.serve_orders(now);
        self.watch_server(now);
        self.watch_gate(now);
        self.watch_quorum(now);
        self.write_state(now);
        self.set_leash(now);
        self.send_answers();
        self.send_promises();
        self.ask_voters(now);
        // Fences and the leash never stand behind a write or a message.
        let mut actions = std::mem::take(&mut self.actions);
        actions.sort_by_key(|action| match action {
            Action::Leash(_) => 0,
            Action::Do { task: Task::Fence { .. }, .. } => 1,
            Action::GateCommits | Action::UngateCommits | Action::SetQuorum(_) => 2,
            Action::Do { .. } => 3,
            Action::Persist(_) => 4,
            Action::Answer { .. } | Action::Promise { .. } => 5,
            Action::Ask { .. } | Action::AskHolders { .. } => 6,
        });
        actions
    }

    fn write_state(&mut self, now: Moment) {
        if self.write_again.is_some_and(|again| now < again) {
            return;
        }
        if self.state.version > self.writing {
            self.write_again = None;
            self.writing = self.state.version;
            self.actions.push(Action::Persist(Box::new(self.state.clone())));
        }
    }

    fn send_answers(&mut self) {
        let durable = self.durable;
        for (_, id, outcome) in self.answers.extract_if(.., |(needs, ..)| *needs <= durable) {
            self.actions.push(Action::Answer { id, outcome });
        }
    }

    /// The next moment at which something is due without an input.
    #[must_use]
    pub fn next_wakeup(&self, now: Moment) -> Moment {
        let job = self.job.as_ref().filter(|job| !job.overdue);
        let gate_after = self.timing.gate_after;
        let due = [
            Some(self.ask_at),
            self.holder.held_until(),
            self.holder.late_from(gate_after).filter(|_| self.opened.is_some()),
            self.write_again,
            job.map(Job::next),
            self.queue.iter().map(|pending| pending.until).min(),
            Some(self.retry_at),
            self.holding.due(),
            self.fencing.as_ref().and_then(|fencing| fencing.again_at),
        ];
        // What is due now was done by the last `poll`; at the latest a probe interval later it is looked at again.
        let later = now.after(self.timing.probe.max(Millis(1)));
        due.into_iter().flatten().filter(|at| *at > now).min().map_or(later, |at| at.min(later))
    }

    /// Everything promised so far is on disk.
    const fn settled(&self) -> bool {
        self.durable >= self.state.version
    }

    const fn changed(&mut self) {
        self.state.version += 1;
    }

    fn process(&self) -> ProcessState {
        self.facts.as_ref().map_or(ProcessState::Unknown, |(_, facts)| facts.process)
    }

    /// The data directory is another cluster's: everything is refused (DESIGN: nothing changed, nothing lost).
    fn foreign_system(&self) -> Option<(u64, u64)> {
        let (_, facts) = self.facts.as_ref()?;
        let (founded, here) = (self.state.system_id?, facts.system_id?);
        (founded != here).then_some((founded, here))
    }

    fn remember(&mut self, step: StepRef, effect: mesh_proto::effect::Effect, outcome: &Outcome) {
        const REMEMBERED_MAX: usize = 32;
        self.finished.retain(|f| f.step != step);
        // Not knowing is no answer: whoever asks again has looked first, and wants it done.
        if matches!(outcome, Outcome::Unknown { .. }) {
            return;
        }
        self.finished.push(Finished { step, effect, outcome: outcome.clone() });
        if self.finished.len() > REMEMBERED_MAX {
            self.finished.remove(0);
        }
    }
}
