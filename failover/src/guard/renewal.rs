//! Asking voters, and what their answers say: grants, the newest electorate, the group as their logs have it.

use mesh_proto::Epoch;
use mesh_proto::lease::{
    FenceCause, GroupView, LeaseKey, LeaseRecord, PauseView, RenewAnswer, RenewReply, RenewRequest,
};

use super::Guard;
use super::action::Action;
use super::state::{AskedLease, EpochGate};
use crate::Moment;

/// For how many statuses the guard remembers when it sent them: a pause must name one of these.
const SENT_MAX: usize = 1024;

impl Guard {
    /// An answer of a voter to the request of this round.
    pub fn handle_reply(&mut self, now: Moment, round: u64, reply: &RenewReply) {
        // First the end of the lease: a grant that comes after it does not continue it.
        self.watch_lease(now);
        if let Some((term, answer)) = self.holder.answered(now, round, reply) {
            match answer {
                // Only a newer lease number clears this: one voter's stray pledge is not undone by others' grants.
                RenewAnswer::Floor => self.floored = Some(term),
                RenewAnswer::Granted | RenewAnswer::NotCurrent | RenewAnswer::Behind => {}
            }
        }
        let newer = |view: &GroupView| self.view.as_ref().is_none_or(|known| known.applied <= view.applied);
        if let Some(view) = reply.view.as_ref().filter(|view| newer(view)) {
            self.view = Some(view.clone());
            self.learn_view(now, view);
        }
    }

    fn learn_view(&mut self, now: Moment, view: &GroupView) {
        self.timing = view.timing.clone();
        if view.epoch > self.state.gate.epoch {
            self.state.gate = EpochGate { epoch: view.epoch, raft_term: 0 };
            self.changed();
        }
        if view.system_id.is_some() && self.state.system_id != view.system_id {
            self.state.system_id = view.system_id;
            self.changed();
        }
        if let Some(current) = view.hold.as_ref().and_then(|hold| hold.current) {
            self.note_newest(current);
        }
        self.drop_void_lease(now, view);
        if self.view_names_me()
            && let Some(record) = view.own_lease.clone()
        {
            self.acquire(record);
        }
        match &view.pause {
            Some(pause) => self.enter_pause(now, pause),
            None => self.holder.leave_pause(),
        }
    }

    /// Whether the newest view names this life of guard and data as the primary's.
    pub(super) fn view_names_me(&self) -> bool {
        self.view.as_ref().is_some_and(|view| {
            view.primary.as_ref() == Some(&self.state.instance)
                && view.own_lease.as_ref().is_some_and(|record| {
                    record.term.epoch == view.epoch
                        && record.guard == self.state.guard
                        && record.data == self.state.data
                })
        })
    }

    /// The log has gone on without this guard: what it holds is over, whatever its clock says.
    fn drop_void_lease(&mut self, now: Moment, view: &GroupView) {
        if self.view_names_me() {
            return;
        }
        let newer = |record: &LeaseRecord| view.applied >= record.index;
        if self.pending.as_ref().is_some_and(newer) {
            self.pending = None;
        }
        if !self.holder.asking().is_some_and(newer) {
            return;
        }
        let asking = self.holder.asking().map(|record| record.term);
        let held = self.holder.held(now).map(|held| held.term);
        if let Some(term) = asking.max(held) {
            self.holder.spend(term.lease_no);
        }
        if let Some(term) = held.filter(|_| self.fencing.is_none()) {
            self.begin_fence(now, Some(term), FenceCause::LeaseOver, true, false);
        }
    }

    /// Prepares to ask for a lease that the log granted to this life of guard and data. It is on disk before the first
    /// request, so that no later process of this guard asks for it again.
    pub(super) fn acquire(&mut self, record: LeaseRecord) {
        let known = self.holder.asking().into_iter().chain(self.pending.as_ref());
        let newest = known.map(|r| r.term.lease_no).max().unwrap_or_default().max(self.holder.spent());
        let asked = self.state.asked.as_ref().map(|asked| asked.term.lease_no).unwrap_or_default();
        if self.stopping || record.term.lease_no <= newest.max(asked) {
            return;
        }
        self.state.asked = Some(AskedLease { term: record.term, guard: self.state.guard.clone() });
        self.changed();
        self.asked_at = self.state.version;
        self.pending = Some(record);
    }

    /// PROTOCOL, Pause: enters only what it saw committed, and counts its own end from before it was asked for: from the
    /// sending of the status that the leader had seen when it proposed the pause.
    fn enter_pause(&mut self, now: Moment, pause: &PauseView) {
        if pause.id <= self.pause_seen {
            return;
        }
        let Some(from) = pause.counted_from.as_ref().filter(|from| from.guard == self.state.guard) else {
            return;
        };
        let Some(sent) = self.sent.get(&from.seq).copied() else { return };
        if self.holder.enter_pause(now, pause.id, sent.after(pause.length)) {
            self.pause_seen = pause.id;
        }
    }

    /// Sends the status and, when there is one, the request for the lease: every probe interval, and at once when
    /// something changed.
    pub(super) fn ask_voters(&mut self, now: Moment) {
        let essence = self.essence(now);
        let news = self.essence.as_ref() != Some(&essence);
        if now < self.ask_at && !news {
            return;
        }
        // The life of a guard that never ran, and the count of its starts, are on disk before anybody hears of them.
        if self.durable == 0 || self.holder.electorate().members.is_empty() {
            self.ask_at = now.after(self.timing.probe);
            return;
        }
        self.essence = Some(essence);
        self.ask_at = now.after(self.timing.probe);
        self.seq += 1;
        self.sent.insert(self.seq, now);
        while self.sent.len() > SENT_MAX {
            self.sent.pop_first();
        }
        let key = LeaseKey { group: self.state.group.clone(), instance: self.state.instance.clone() };
        // Late counts from the request, so a fencing guard asks for nothing.
        let with_lease = self.fencing.as_ref().is_none_or(|fencing| fencing.level.is_some());
        let (round, lease) = self.holder.ask(now, &key, self.timing.lease, with_lease);
        let request = Box::new(RenewRequest { lease, status: self.status(now) });
        let voters = self.holder.everyone().into_iter().collect();
        self.actions.push(Action::Ask { round, voters, request });
        self.ask_holders(now);
    }

    /// Raises the gate for an order, or says that the order is stale.
    pub(super) fn pass_gate(&mut self, epoch: Epoch, raft_term: u64) -> bool {
        let order = EpochGate { epoch, raft_term };
        if order < self.state.gate {
            return false;
        }
        if order > self.state.gate {
            self.state.gate = order;
            self.changed();
        }
        true
    }
}
