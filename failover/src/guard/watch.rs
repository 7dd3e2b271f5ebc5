//! What the guard does of its own accord: the end of the lease, a server that died or runs without a lease, opening
//! what the log allows to open, keeping a standby up.

use mesh_proto::evidence::ProcessState;
use mesh_proto::lease::FenceCause;
use mesh_proto::{Epoch, Millis};

use super::Guard;
use super::action::{Action, Leash, Task};
use super::state::CommitGate;
use crate::Moment;

/// How long a start as a standby may take before it is tried anew: `pg_ctl -w` waits as long by default.
const START_BUDGET: Millis = Millis(60_000);
/// How long one attempt to open may take; the end of the lease ends it anyhow.
const OPEN_BUDGET: Millis = Millis(60_000);
/// How long one attempt to freeze again may take.
const FREEZE_BUDGET: Millis = Millis(10_000);

impl Guard {
    /// The end of the lease. Nothing else is needed to fence: no voter, no leader, no disk.
    pub(super) fn watch_lease(&mut self, now: Moment) {
        if self.holder.held(now).is_some() && !self.state.armed {
            // Birth: from the first lease on it fences.
            self.state.armed = true;
            self.changed();
        }
        let Some(term) = self.holder.lapse(now) else { return };
        if self.fencing.is_none() && self.may_serve() {
            let gate = self.facts.as_ref().map(|(_, facts)| facts.commit_gate);
            // A commit gate not verified by the end of the lease: skip the ladder, kill.
            let hard = gate != Some(CommitGate::InForce) || self.runs_open();
            self.begin_fence(now, Some(term), FenceCause::LeaseOver, hard, false);
        }
    }

    fn runs_open(&self) -> bool {
        self.job.as_ref().is_some_and(|job| matches!(job.task, Task::OpenPrimary { .. }))
    }

    /// Whether the server could be acknowledging writes, as far as is known.
    fn may_serve(&self) -> bool {
        let by_process = match self.process() {
            ProcessState::Primary
            | ProcessState::Starting
            | ProcessState::Unresponsive
            | ProcessState::Unknown => true,
            ProcessState::Standby | ProcessState::Stopped | ProcessState::Died => false,
        };
        self.opened.is_some() || self.runs_open() || by_process
    }

    /// A guard that was armed starts by making sure that nothing of its earlier life is left. The receipt names the
    /// lease last asked for, if this life asked for it and gave none yet.
    pub(super) fn fence_found_at_start(&mut self, now: Moment) {
        let mine = self.state.asked.as_ref().filter(|asked| asked.guard == self.state.guard);
        let given = self.state.receipt.as_ref().map(|receipt| receipt.term);
        let term = mine.map(|asked| asked.term).filter(|term| Some(*term) != given);
        self.begin_fence(now, term, FenceCause::Found, true, true);
    }

    pub(super) fn fence_for_stop(&mut self, now: Moment) {
        if self.state.armed && self.fencing.is_none() {
            let term = self.holder.held(now).map(|held| held.term);
            self.begin_fence(now, term, FenceCause::GuardStopped, false, false);
        }
    }

    pub(super) fn watch_server(&mut self, now: Moment) {
        if self.fencing.is_some() || self.stopping {
            return;
        }
        self.watch_primary(now);
        if self.fencing.is_some() || self.busy() || !self.settled() || now < self.retry_at {
            return;
        }
        self.open(now);
        if !self.busy() {
            self.keep_standby(now);
        }
    }

    /// A primary that died, and a primary without a lease.
    fn watch_primary(&mut self, now: Moment) {
        let held = self.holder.held(now);
        let ending = self.runs(|task| matches!(task, Task::HandOver { .. } | Task::OpenPrimary { .. }));
        let gone = match self.process() {
            ProcessState::Died => true,
            // In a pause an operator may stop it; otherwise a stopped primary is a lost one.
            ProcessState::Stopped => self.holder.pause().is_none(),
            ProcessState::Primary
            | ProcessState::Standby
            | ProcessState::Starting
            | ProcessState::Unresponsive
            | ProcessState::Unknown => false,
        };
        if gone && self.opened.is_some() && !ending {
            // Killing the postmaster is no fence: orphaned backends keep committing.
            let term = held.map(|held| held.term);
            self.begin_fence(now, term, FenceCause::Died, true, false);
            return;
        }
        if self.process() == ProcessState::Primary && held.is_none() && self.must_not_serve() {
            self.begin_fence(now, None, FenceCause::Found, true, false);
        }
    }

    /// Whether a primary without a lease is to be fenced. Before it is armed the guard only observes, unless the log
    /// says that this server has no business being a primary: another one is, or another life of guard or data is.
    fn must_not_serve(&self) -> bool {
        if self.state.armed {
            return true;
        }
        let Some(view) = &self.view else { return false };
        let same_system = self.state.system_id.is_some()
            && self.facts.as_ref().and_then(|(_, facts)| facts.system_id) == self.state.system_id;
        view.epoch > Epoch(0) && same_system && !self.view_names_me()
    }

    /// Opens under the lease that it holds (PROTOCOL: `LeaseGranted`, never something read in a copy of the log).
    fn open(&mut self, now: Moment) {
        let Some(held) = self.holder.held(now) else { return };
        if self.state.rejoin.is_some() || self.foreign_system().is_some() {
            return;
        }
        let runs = match self.process() {
            ProcessState::Primary => true,
            ProcessState::Standby | ProcessState::Stopped | ProcessState::Died => false,
            ProcessState::Starting | ProcessState::Unresponsive | ProcessState::Unknown => return,
        };
        let stopped_in_pause = self.process() == ProcessState::Stopped && self.holder.pause().is_some();
        let granted = self.view.as_ref().and_then(|view| view.own_lease.as_ref());
        let named = self.view_names_me() && granted.is_some_and(|record| record.term == held.term);
        match self.opened.as_mut() {
            // Acquired anew in place, in the same epoch: nothing to write.
            Some(opened) if runs && opened.term.epoch == held.term.epoch => opened.term = held.term,
            Some(_) if stopped_in_pause => {}
            // Before the log was seen that granted this lease, nobody knows what its commits shall wait for.
            Some(_) | None if !named => {}
            Some(_) | None => {
                // An older lease may still be held by promises.
                if !self.may_open(now, held) {
                    self.fence_if_runs(now, runs);
                    return;
                }
                self.opened = None;
                self.quorum_told = None;
                let quorum = self.view.as_ref().and_then(|view| view.quorum.clone()).map(Box::new);
                let task = Task::OpenPrimary { term: held.term, quorum };
                self.begin_job(task, now.after(OPEN_BUDGET), None);
            }
        }
    }

    /// Somebody else started the server as a primary while it must not be opened yet. The lease stays: it was not opened.
    fn fence_if_runs(&mut self, now: Moment, runs: bool) {
        if runs && self.state.armed {
            self.begin_fence(now, None, FenceCause::Found, true, false);
        }
    }

    /// Runs the server as a standby where it should be one, frozen where it is, joined where that was begun.
    fn keep_standby(&mut self, now: Moment) {
        let managed = self.state.armed || self.state.system_id.is_some();
        if !managed || self.holder.held(now).is_some() || self.foreign_system().is_some() {
            return;
        }
        if let Some(rejoin) = self.state.rejoin.clone() {
            // Begun and not finished: whatever lies in the data directory must not be started as it is.
            if rejoin.epoch == self.state.gate.epoch && !self.asked_to_follow() {
                let until = now.after(rejoin.budget);
                self.begin_job(Task::Follow(rejoin), until, None);
            }
            return;
        }
        match self.process() {
            ProcessState::Died | ProcessState::Stopped => {
                let died = self.process() == ProcessState::Died && self.was_standby;
                // What is about to be opened is started as a primary.
                if (self.keep_up || died) && self.holder.asking().is_none() && self.pending.is_none() {
                    let task = Task::StartStandby { frozen: self.state.frozen.is_some() };
                    self.begin_job(task, now.after(START_BUDGET), None);
                }
            }
            ProcessState::Standby => {
                if std::mem::take(&mut self.start_failed) {
                    self.trouble = None;
                }
                let streams = self
                    .facts
                    .as_ref()
                    .and_then(|(_, facts)| facts.receiving.as_ref())
                    .is_some_and(|receiving| receiving.streaming);
                if let Some(generation) = self.state.frozen.filter(|_| streams) {
                    // Somebody gave a frozen standby its receiver back.
                    self.begin_job(Task::Freeze { generation }, now.after(FREEZE_BUDGET), None);
                }
            }
            ProcessState::Primary
            | ProcessState::Starting
            | ProcessState::Unresponsive
            | ProcessState::Unknown => {}
        }
    }

    /// Renewals late: commits wait, reversibly, so that the fence that may follow can be gentle.
    pub(super) fn watch_gate(&mut self, now: Moment) {
        let serves = self.opened.is_some() && self.process() == ProcessState::Primary;
        if !serves || self.fencing.is_some() || self.busy() {
            self.gated = None;
            return;
        }
        let late = self.holder.late_from(self.timing.gate_after).is_some_and(|from| from <= now);
        let seen =
            self.facts.as_ref().map_or(CommitGate::Open, |(_, facts)| facts.commit_gate) != CommitGate::Open;
        let again = match self.gated {
            Some((told, at)) => told != late || (seen != late && at.after(self.timing.probe) <= now),
            None => seen != late,
        };
        if again {
            self.gated = Some((late, now));
            self.actions.push(if late { Action::GateCommits } else { Action::UngateCommits });
        }
    }

    pub(super) fn set_leash(&mut self, now: Moment) {
        let margin = Millis(self.timing.fence.0 / 2);
        let wanted = match (&self.fencing, self.holder.held_until()) {
            (Some(fencing), _) => fencing.soft_until.map_or(Leash::Now, Leash::Until),
            (None, Some(until)) if now < until => Leash::Until(until.after(margin)),
            (None, _) if self.state.armed => Leash::Bound,
            (None, _) => Leash::Off,
        };
        if self.leash != Some(wanted) {
            self.leash = Some(wanted);
            self.actions.push(Action::Leash(wanted));
        }
    }

    /// A follow order stands in the queue, so the guard does not begin one by itself.
    fn asked_to_follow(&self) -> bool {
        self.queue.iter().any(|p| matches!(p.order.effect, mesh_proto::effect::Effect::Follow { .. }))
    }
}
