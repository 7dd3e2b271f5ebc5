//! From evidence to a verdict. One value of facts in, one judgement out; the same evidence always gives the same one.
//!
//! Evidence has classes. What an instance's own guard says is first hand and suffices alone. What others observe needs
//! a majority of the other sites, fresh, from observers that are not blind themselves, with no standby vouching for the
//! primary. "I cannot see" is not "it is dead" (DESIGN promise 6). What mesh itself caused is no evidence: a frozen
//! standby that does not stream, a gated primary whose probe waits, say nothing.

pub mod disk;
pub mod observations;
pub mod votes;

use mesh_proto::command::{Verdict, VerdictRecord};
use mesh_proto::evidence::{GuardStatus, ProcessState, WriteProbe};
use mesh_proto::lease::{LeaseRecord, Receipt};
use mesh_proto::{InstanceName, Millis};

use crate::Moment;
use crate::mutants::Mutants;
use crate::state::{Group, MeshState};
use observations::Observations;
use votes::{Tally, Vote};

/// What the mesh concludes about a group's primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The conclusion.
    pub verdict: Verdict,
    /// One sentence.
    pub summary: String,
    /// The evidence it rests on, a line each.
    pub evidence: Vec<String>,
    /// How the primary was lost, when the verdict is `Down`.
    pub loss: Option<Loss>,
    /// How many observers were fresh, of how many.
    pub observers: (u32, u32),
}

/// How a primary was lost: what a takeover has to count on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// Its guard says so first hand, and proves it.
    FirstHand(Box<Receipt>),
    /// It runs, but answers nobody, and does not advance.
    Hung,
    /// Nobody who can see sees it.
    Unreachable,
}

impl Judgement {
    /// The record for the log.
    #[must_use]
    pub fn record(&self, blocked: Option<String>) -> VerdictRecord {
        VerdictRecord {
            verdict: self.verdict,
            summary: self.summary.clone(),
            evidence: self.evidence.clone(),
            blocked,
        }
    }
}

/// Judges a group's primary. `leaving` says whether the best candidate stands at another site: leaving takes longer
/// than staying.
#[must_use]
pub fn judge(
    now: Moment,
    state: &MeshState,
    group: &Group,
    heard: &Observations,
    leaving: bool,
) -> Judgement {
    judge_without(&Mutants::none(), now, state, group, heard, leaving)
}

/// The same, with rules switched off by a test.
pub(crate) fn judge_without(
    mutants: &Mutants,
    now: Moment,
    state: &MeshState,
    group: &Group,
    heard: &Observations,
    leaving: bool,
) -> Judgement {
    let (Some(primary), Some(lease)) = (&group.primary, group.lease()) else {
        return Judgement {
            verdict: Verdict::Unfounded,
            summary: "no primary yet; `mesh adopt` names the first".to_owned(),
            evidence: Vec::new(),
            loss: None,
            observers: (0, 0),
        };
    };
    let tally = votes::count_without(mutants, now, state, group, &primary.instance, heard);
    let guard = heard.fresh_guard(now, &group.spec.group, &primary.instance, group.timing.fresh);
    let facts = Facts { now, group, primary: &primary.instance, lease, tally: &tally, guard, heard, leaving };
    let (verdict, summary, loss) = facts.conclude();
    Judgement { verdict, summary, evidence: facts.evidence(), loss, observers: tally.fresh() }
}

struct Facts<'a> {
    now: Moment,
    group: &'a Group,
    primary: &'a InstanceName,
    lease: &'a LeaseRecord,
    tally: &'a Tally,
    guard: Option<&'a GuardStatus>,
    heard: &'a Observations,
    leaving: bool,
}

impl Facts<'_> {
    fn conclude(&self) -> (Verdict, String, Option<Loss>) {
        let name = self.primary;
        // First hand, and proved: the instance cannot acknowledge anything under this lease any more.
        if let Some(receipt) = self.receipt() {
            let why = format!("{name}'s guard proves that it is fenced ({})", receipt.cause);
            return (Verdict::Down, why, Some(Loss::FirstHand(Box::new(receipt.clone()))));
        }
        if let Some(status) = self.guard {
            return self.with_guard(status);
        }
        // The guard is silent: what do others see?
        if let Some(standby) = self.voucher() {
            let what = format!("{name}'s guard is silent, but {standby} streams from it and advances");
            return (Verdict::UnreachableButStreaming, what, None);
        }
        if !self.tally.enough_fresh {
            let (fresh, all) = self.tally.fresh();
            let what = format!("only {fresh} of {all} observers report: nothing can be said about {name}");
            return (Verdict::Blind, what, None);
        }
        let after =
            if self.leaving { self.group.timing.leave_site_after } else { self.group.timing.down_after };
        match self.tally.lost_for() {
            Some(lost) if lost >= after => {
                let what = format!(
                    "{name} has been out of reach for {lost} of {} of {} other sites, and its guard is silent",
                    self.tally.lost_sites.len(),
                    self.tally.other_sites
                );
                (Verdict::Down, what, Some(Loss::Unreachable))
            }
            Some(lost) => (
                Verdict::Suspect,
                format!("{name} has been out of reach for {lost}; lost after {after}"),
                None,
            ),
            None if self.tally.seen_by_any => {
                (Verdict::Suspect, format!("{name} answers, but its guard is silent"), None)
            }
            None => {
                let what =
                    format!("{name}'s guard is silent, and too few other sites can say whether it is lost");
                (Verdict::Suspect, what, None)
            }
        }
    }

    /// The guard is heard, and has not fenced.
    fn with_guard(&self, status: &GuardStatus) -> (Verdict, String, Option<Loss>) {
        let name = self.primary;
        let hang_after = self.group.timing.hang_after;
        if let Some(hung) = disk::hung_under_writes(status, hang_after) {
            return self.disk_hangs(hung);
        }
        let stalled = match status.write_probe {
            // A gated primary's probe waits because of the gate; one that waits for standbys speaks of the standbys.
            WriteProbe::Late { waiting } if !status.commit_gated => Some(waiting),
            WriteProbe::Late { .. }
            | WriteProbe::NotApplicable
            | WriteProbe::Ok { .. }
            | WriteProbe::WaitingForStandbys
            | WriteProbe::Failed { .. } => None,
        };
        match stalled {
            // The guard's own write hangs, nobody else gets an answer, and no standby advances: hung, not busy.
            Some(waiting) if waiting >= hang_after && self.voucher().is_none() && !self.tally.seen_by_any => {
                if self.tally.enough_fresh && self.tally.lost_for().is_some() {
                    let what = format!(
                        "{name} hangs: its guard's write has waited for {waiting}, nobody gets an answer"
                    );
                    return (Verdict::Down, what, Some(Loss::Hung));
                }
                let what = format!("{name}'s guard sees it hang, but too few observers confirm it");
                return (Verdict::Suspect, what, None);
            }
            Some(waiting) if waiting >= self.group.timing.probe.times(3) => {
                let what = format!("a write to {name} has waited for {waiting}; hung after {hang_after}");
                return (Verdict::Suspect, what, None);
            }
            Some(_) | None => {}
        }
        match status.process {
            ProcessState::Primary | ProcessState::Unresponsive => {}
            ProcessState::Standby
            | ProcessState::Starting
            | ProcessState::Stopped
            | ProcessState::Unknown => {
                return self.not_running_as_primary(status);
            }
            ProcessState::Died => {
                return (
                    Verdict::Suspect,
                    format!("{name}'s postmaster died; its guard is fencing it"),
                    None,
                );
            }
        }
        if status.lease.is_none_or(|held| held.term != self.lease.term) {
            let what = format!("{name} runs, but its guard does not hold {}", self.lease.term);
            return (Verdict::Isolated, what, None);
        }
        if self.tally.lost_for().is_some() {
            let what =
                format!("other sites do not reach {name}, but its guard holds the lease and sees it write");
            return (Verdict::UnreachableButStreaming, what, None);
        }
        (Verdict::Healthy, format!("{name} serves in epoch {}", self.group.epoch), None)
    }

    /// The disk of its log hangs, and so do its writes: first hand. Whoever only reads gets answers from memory, and proves nothing.
    fn disk_hangs(&self, hung: Millis) -> (Verdict, String, Option<Loss>) {
        let name = self.primary;
        if let Some(standby) = self.voucher() {
            let what = format!("the disk of {name}'s log has hung for {hung}, but {standby} advances");
            return (Verdict::Suspect, what, None);
        }
        let what = format!("{name} hangs: its disk has not returned an fsync for {hung}, and no write ends");
        (Verdict::Down, what, Some(Loss::Hung))
    }

    /// The guard is there, without a receipt, and its server is not a primary: it restarted, or the host rebooted.
    fn not_running_as_primary(&self, status: &GuardStatus) -> (Verdict, String, Option<Loss>) {
        let name = self.primary;
        if self.lease.term.lease_no.0 <= 1 && self.lease.guard == status.guard && status.lease.is_none() {
            // Just founded or promoted: the guard has not acquired its first lease yet.
            return (Verdict::Suspect, format!("{name} does not serve yet"), None);
        }
        if status.guard == self.lease.guard && status.lease.is_some() {
            return (Verdict::Suspect, format!("{name} holds its lease and is about to serve"), None);
        }
        // Its guard answers and says that nothing runs as a primary there. That is first hand, but no proof that a
        // lease of an earlier life is over: the takeover waits for its end.
        (
            Verdict::Down,
            format!("{name} does not run as a primary, says its own guard"),
            Some(Loss::Unreachable),
        )
    }

    /// A receipt for the current lease, however old the status that carried it: a fenced lease stays fenced.
    fn receipt(&self) -> Option<&Receipt> {
        let heard = self.heard.guard(&self.group.spec.group, self.primary)?;
        let receipt = heard.said.receipt.as_ref()?;
        let fits = receipt.term == self.lease.term
            && receipt.guard == self.lease.guard
            && receipt.data == self.lease.data
            && receipt.key.instance == *self.primary;
        fits.then_some(receipt)
    }

    /// A standby that still streams from the primary, and whose position advanced within the time of freshness.
    fn voucher(&self) -> Option<&InstanceName> {
        let address = self.group.instance(self.primary)?.address.to_string();
        let standbys = self.group.spec.instances.iter().filter(|i| i.name != *self.primary);
        standbys.map(|i| &i.name).find(|name| {
            let Some(heard) = self.heard.guard(&self.group.spec.group, name) else { return false };
            let age = heard.age(self.now);
            let status = &heard.said;
            // Frozen by mesh itself: it says nothing.
            if age > self.group.timing.fresh || status.frozen.is_some() {
                return false;
            }
            status.receiving.as_ref().is_some_and(|r| {
                r.streaming && r.from.as_deref() == Some(&address) && r.advanced.plus(age) <= self.vouching()
            })
        })
    }

    /// A standby vouches only while its position advances: keepalives flow from a hung primary too. The guard's own
    /// write probe makes WAL every interval, so a healthy primary always advances within a few.
    fn vouching(&self) -> Millis {
        self.group.timing.probe.times(3)
    }

    fn evidence(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let guard = self.heard.guard(&self.group.spec.group, self.primary);
        lines.push(guard.map_or_else(
            || format!("guard of {}: never heard", self.primary),
            |heard| {
                let held = heard.said.lease.map_or_else(
                    || "no lease".to_owned(),
                    |l| format!("{} with {} left", l.term, l.remaining),
                );
                format!(
                    "guard of {}: heard {} ago, {}, {held}, {}{}",
                    self.primary,
                    heard.age(self.now),
                    heard.said.process,
                    heard.said.write_probe,
                    if heard.said.receipt.is_some() { ", and a receipt that it is fenced" } else { "" }
                )
            },
        ));
        if let Some(heard) = guard {
            lines.extend(heard.said.disks.iter().filter_map(|disk| {
                let trouble = disk::trouble(disk, self.group.timing.hang_after)?;
                Some(format!("disk of {}'s {}: {trouble}", self.primary, disk.holds))
            }));
        }
        for instance in self.group.spec.instances.iter().filter(|i| i.name != *self.primary) {
            if let Some(heard) = self.heard.guard(&self.group.spec.group, &instance.name) {
                let stream = heard.said.receiving.as_ref().map_or_else(
                    || "not receiving".to_owned(),
                    |r| {
                        format!(
                            "{}, advanced {} ago",
                            if r.streaming { "streams" } else { "does not stream" },
                            r.advanced
                        )
                    },
                );
                let frozen = if heard.said.frozen.is_some() { ", frozen" } else { "" };
                lines.push(format!(
                    "standby {}: heard {} ago, {stream}{frozen}",
                    instance.name,
                    heard.age(self.now)
                ));
            }
        }
        for (agent, site, vote) in &self.tally.votes {
            let word = match vote {
                Vote::Lost(length) => format!("has not reached {} for {length}", self.primary),
                Vote::Sees(seen) => format!("gets an answer from {}: {seen}", self.primary),
                Vote::Disqualified(why) => format!("does not count: {why}"),
            };
            lines.push(format!("observer {agent} at {site}: {word}"));
        }
        lines
    }
}
