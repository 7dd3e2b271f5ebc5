//! The promises, checked after every event. Numbers are those of DESIGN.md §3 and ARCHITECTURE.md.
//!
//! | promise | here |
//! |---|---|
//! | 1 one writer | `check_step`: at most one server able to acknowledge, and it is the committed primary's; none without a lease for longer than F |
//! | 2 no promotion without proof | `check_promotion`: the old primary really cannot acknowledge when the entry commits, whatever the proof claims |
//! | 3 zero loss | `check_zero_loss`: no acknowledged write is missing from what is promoted, unless a person accepted it |
//! | 4 intent before effect | `accept_order`: every order that acts was committed as an intent first, with its epoch; `check_asked_first`: none is repeated before somebody asked what became of it |
//! | 5 any agent can finish it | `check_signal`: a phase is entered only for what is really so; liveness ends every run |
//! | 6 a minority never acts, the blind are no witnesses | `check_promotion`: a majority of voters has the floor on disk; `check_opened`: mesh opens a failover only if something really is wrong |
//! | 7 every state has an exit | `liveness` |
//! | 9 the audit is complete | `liveness`: the same chain on every agent, and it verifies |

use std::collections::{BTreeMap, BTreeSet};

use mesh_failover::state::MeshState;
use mesh_proto::command::{Command, Entry};
use mesh_proto::effect::{Effect, EffectKind, Finding, Order, Outcome, Refusal, StepRef};
use mesh_proto::lease::{LeaseKey, LeaseTerm, Proof};
use mesh_proto::quorum::DurabilityProof;
use mesh_proto::run::{Actor, Phase, RunKind};
use mesh_proto::{AgentName, Epoch, InstanceName, RunId};

use super::clock::{Time, ms, us};
use super::postgres::Processes;
use super::setup::host_of;
use super::world::{Event, World};

/// What the checks remember.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// Since when a server is able to acknowledge without a lease at its guard.
    unleased: BTreeMap<usize, Time>,
    /// Epochs in which the primary could acknowledge at some time.
    served: BTreeSet<Epoch>,
    /// Epochs in which the primary served by promises alone.
    pub alone: BTreeSet<Epoch>,
    /// When something was last really wrong with the primary or its connections.
    pub wrong_at: Time,
    /// Every intent that was ever committed.
    intents: BTreeSet<(StepRef, String)>,
    /// Who committed each.
    intended_by: BTreeMap<StepRef, AgentName>,
    /// Whether an agent, in one life, may send a step so that it acts: it heard that the step was not done.
    not_done: BTreeMap<(usize, u64, StepRef), bool>,
    /// And of which kinds they were.
    pub kinds: BTreeSet<EffectKind>,
    pub failovers: u64,
    pub switchovers: u64,
    pub aborted: u64,
}

impl Checks {
    /// Whether the primary of this epoch could acknowledge at some time.
    pub(super) fn served(&self, epoch: Epoch) -> bool {
        self.served.contains(&epoch)
    }
}

impl World {
    /// After every event.
    pub(super) fn check_step(&mut self) {
        let able: Vec<usize> = (0..self.servers.len()).filter(|at| self.able(*at)).collect();
        // What opens early leaves the old primary its readers: its acknowledgements are looked at in `release`.
        let early = self.setup.opens_early();
        if able.len() > 1 && !early {
            self.fail(format!("promise 1: servers {able:?} can all acknowledge writes"));
        }
        let epoch = self.group().epoch;
        let primary = self.group().primary.as_ref().and_then(|p| self.setup.instance(&p.instance));
        for at in &able {
            if primary == Some(*at) {
                self.checks.served.insert(epoch);
                self.check_alone(*at);
            } else if !early && !self.still_held(*at) {
                self.fail(format!(
                    "promise 1: server {at} can acknowledge writes, but the primary of epoch {epoch} is {primary:?}"
                ));
            }
        }
        let grace = us(self.setup.timing.fence) + ms(60);
        for at in 0..self.servers.len() {
            let guard = &self.guards[at];
            let armed = guard.disk.as_ref().is_some_and(|disk| disk.armed);
            let holds = guard.up && guard.guard.held(self.clock(self.host(at))).is_some();
            if !armed || holds || !able.contains(&at) {
                self.checks.unleased.remove(&at);
                continue;
            }
            let since = *self.checks.unleased.entry(at).or_insert(self.now);
            if self.now - since > grace {
                self.fail(format!("promise 1: server {at} serves without a lease for longer than F"));
            }
        }
    }

    /// Nothing but the commit gate, a stop signal or its own disk keeps the server from acknowledging: no proof of a
    /// takeover may rest on those, since each of them may end by itself.
    fn unfenced(&self, instance: usize) -> bool {
        let host = &self.hosts[self.host(instance)];
        let server = &self.servers[instance];
        let runs = matches!(server.processes, Processes::Primary | Processes::Orphans);
        host.up && !host.frozen && runs && server.clients
    }

    /// Something is really wrong with the primary: it does not serve, or most other sites cannot reach it.
    fn really_wrong(&self) -> bool {
        let Some(primary) = self.group().primary.as_ref().and_then(|p| self.setup.instance(&p.instance))
        else {
            return true;
        };
        if !self.able(primary) || !self.guards[primary].up {
            return true;
        }
        let home = self.host(primary);
        let home_site = &self.setup.hosts[home].1;
        // A site is cut off if one of its agents sees it so; a site whose agents are all dead saw nothing.
        let mut sites: BTreeMap<&str, bool> = BTreeMap::new();
        for (host, (_, site)) in self.setup.hosts.iter().enumerate() {
            if site != home_site {
                let lost = self.works(host) && !self.net.talks(host, home);
                *sites.entry(site.as_str()).or_default() |= lost;
            }
        }
        let cut_off = sites.values().filter(|lost| **lost).count();
        cut_off * 2 > sites.len()
    }

    pub(super) fn watch(&mut self) {
        self.after(ms(10), Event::Watch);
        if self.really_wrong() {
            self.checks.wrong_at = self.now;
        }
    }

    /// An entry took effect.
    pub(super) fn check_entry(&mut self, before: &MeshState, entry: &Entry) {
        if let Err(what) = self.truth.check_invariants() {
            self.fail(format!("state invariant: {what}"));
        }
        let index = self.raft.entries.len() as u64;
        for command in &entry.commands {
            match command {
                Command::StepsStarted { run, steps, .. } => {
                    self.check_errands(*run, steps);
                    for step in steps {
                        let at = StepRef { run: *run, step: step.step, attempt: step.attempt };
                        self.checks.intents.insert((at, step.effect.to_string()));
                        self.checks.intended_by.insert(at, entry.by.clone());
                        self.checks.kinds.insert(step.effect.kind());
                    }
                }
                Command::RepairStarted { effect, .. } => {
                    let at = StepRef { run: RunId(index), step: 0, attempt: 1 };
                    self.checks.intents.insert((at, effect.to_string()));
                    self.checks.intended_by.insert(at, entry.by.clone());
                    self.checks.kinds.insert(effect.kind());
                }
                Command::RunOpened { plan } if plan.actor == Actor::Mesh => self.check_opened(),
                Command::PromotionCommitted { instance, ends, position, proof, durability, .. } => {
                    self.check_promotion(before, instance, *ends, *position, proof, durability.as_ref());
                }
                Command::Signalled { .. } | Command::ErrandSkipped { .. } => self.check_signal(before),
                Command::RunOpened { .. }
                | Command::StepEnded { .. }
                | Command::MeshFormed { .. }
                | Command::MeshRecovered { .. }
                | Command::MemberAdded { .. }
                | Command::MemberRemoved { .. }
                | Command::AccessDenied { .. }
                | Command::TokenTried { .. }
                | Command::RunProposed { .. }
                | Command::RunApproved { .. }
                | Command::ProposalEnded { .. }
                | Command::ElectorateChanging { .. }
                | Command::ElectorateChanged { .. }
                | Command::ElectorateKept { .. }
                | Command::SpecApplied { .. }
                | Command::Founded { .. }
                | Command::LeaseGranted { .. }
                | Command::VerdictChanged { .. }
                | Command::RepairEnded { .. }
                | Command::Paused { .. }
                | Command::Resumed { .. }
                | Command::Acknowledged { .. }
                | Command::QuorumChanged { .. }
                | Command::QuorumConfirmed { .. }
                | Command::DegradeBegun { .. }
                | Command::DegradeEnded { .. }
                | Command::HoldersKnown { .. }
                | Command::RunOverridden { .. } => {}
            }
        }
    }

    /// Promise 6: mesh by itself begins a failover only for a reason.
    fn check_opened(&mut self) {
        let timing = &self.setup.timing;
        // What was wrong may be over: evidence is as old as `fresh` when it is judged, and a restarted guard tells later.
        let window = us(timing.fresh) + us(timing.hang_after) + us(timing.lease) + ms(1_500);
        if self.now - self.checks.wrong_at > window {
            self.fail(
                "promise 6: a failover was opened although the primary serves and is reached".to_owned(),
            );
        }
    }

    /// Promises 2, 3 and 6 at the decision itself.
    fn check_promotion(
        &mut self,
        before: &MeshState,
        instance: &InstanceName,
        ends: LeaseTerm,
        position: mesh_proto::evidence::Position,
        proof: &Proof,
        durability: Option<&DurabilityProof>,
    ) {
        let Some(group) = before.groups.get(self.group_name()) else { return };
        let Some(old) = group.primary.as_ref().map(|p| p.instance.clone()) else { return };
        let (Some(old_at), Some(new_at)) = (self.setup.instance(&old), self.setup.instance(instance)) else {
            return;
        };
        self.checks.failovers += 1;
        let early = matches!(proof, Proof::Frozen(_)) && self.setup.opens_early();
        // Fenced when the promises end: the new lease waits for that.
        if self.unfenced(old_at) && !early && !self.still_held(old_at) {
            self.fail(format!("promise 2: {old} is not fenced while {instance} is promoted by {proof:?}"));
        }
        let key = LeaseKey { group: self.group_name().clone(), instance: old.clone() };
        let pledged = |voter| {
            self.agents[host_of(voter)].disk.floors.get(&key).is_some_and(|floor| *floor >= ends.lease_no)
        };
        if !before.electorate.agreed(pledged) {
            let floors = before.electorate.everyone().into_iter().filter(|voter| pledged(*voter)).count();
            self.fail(format!(
                "promise 6: only {floors} voters have the pledge on disk that {instance} is promoted by"
            ));
        }
        let server = &self.servers[new_at];
        if server.streaming
            && server.upstream.is_some_and(|up| self.servers[up].processes == Processes::Primary)
        {
            self.fail(format!("PROTOCOL, Taking over 7: {instance} is promoted without being frozen"));
        }
        if self.servers[new_at].end() != position.have {
            let end = self.servers[new_at].end();
            self.fail(format!(
                "PROTOCOL, Taking over 7: {instance} stands at {end}, promoted at {}",
                position.have
            ));
        }
        if self.setup.zero_loss() {
            self.check_zero_loss(new_at, durability);
        } else {
            self.check_loss(group, old_at, new_at);
        }
        let clean = matches!(proof, Proof::Receipt(receipt) if receipt.shutdown_at.is_some());
        let planned = group.run.as_ref().is_some_and(|run| {
            run.plan.kind == RunKind::Switchover && run.takeovers == 1 && run.promotion.is_none()
        });
        if clean && planned {
            self.checks.switchovers += 1;
            let lost = self.missing(old_at, group.epoch, new_at);
            if lost > 0 {
                self.fail(format!(
                    "promise 3: a planned switchover to {instance} loses {lost} acknowledged writes"
                ));
            }
        }
    }

    /// Promise 3: what a failover may lose is bounded beforehand: the lag limit, and what the primary wrote since it was
    /// last heard.
    fn check_loss(&mut self, group: &mesh_failover::state::Group, old: usize, new: usize) {
        let waived = group.run.as_ref().is_some_and(|run| run.plan.accept_lag);
        // What a primary writes that no leader hears of is bounded by nothing, and the spec that says so says this too.
        let unheard_of = self.checks.alone.contains(&group.epoch);
        if waived || unheard_of || !self.checks.served.contains(&group.epoch) {
            return;
        }
        let lost = self.missing(old, group.epoch, new) as u64;
        // Whoever is promoted because a dead log was read lacks nothing of it.
        let scanned = group
            .run
            .iter()
            .flat_map(|run| run.steps.values())
            .any(|step| matches!(step.outcome, Some(Outcome::Done(Finding::Scanned { commits: 0, .. }))));
        if scanned && group.run.as_ref().is_some_and(|run| run.takeovers == 1) && lost > 0 {
            self.fail(format!("promise 3: the dead log was read, and {lost} acknowledged writes are lost"));
        }
        let timing = &self.setup.timing;
        let unheard = (timing.lease.0 + timing.fence.0 + timing.leave_site_after.0 + timing.fresh.0) / 15;
        let most = super::setup::MAX_LAG_BYTES / 64 + unheard;
        if lost > most {
            self.fail(format!("promise 3: {lost} acknowledged writes are lost, at most {most} may be"));
        }
    }

    /// Promise 5: what a run says of itself is so.
    fn check_signal(&mut self, before: &MeshState) {
        let phase = |state: &MeshState| {
            state.groups.get(self.group_name()).and_then(|g| g.run.as_ref()).map(|run| (run.id, run.phase))
        };
        let (was, is) = (phase(before), phase(&self.truth));
        let epoch = self.group().epoch;
        if was == is {
            return;
        }
        let held_down = before.groups.get(self.group_name()).and_then(|g| g.hold_down);
        let hold_down = self.group().hold_down;
        match is {
            Some((run, Phase::Routing)) if !self.checks.served.contains(&epoch) => {
                self.fail(format!("promise 5: {run} routes to a primary that never could acknowledge"));
            }
            Some((_, Phase::Aborted)) => self.checks.aborted += 1,
            Some((run, phase)) if hold_down.is_some() && hold_down != held_down && phase != Phase::Done => {
                self.fail(format!("promise 5: unfinished run {run} ({phase}) begins a hold-down"));
            }
            Some(_) | None => {}
        }
    }

    /// Promise 4: an order that acts is the first of its step, or whoever sends it asked and heard that it was not done. One who
    /// was deposed and does not know it may take another's intent for its own: that is what the gate for terms is for.
    pub(super) fn check_asked_first(&mut self, host: usize, order: &Order) {
        if order.verify_only || order.raft_term < self.raft.term {
            return;
        }
        let own = self.checks.intended_by.get(&order.step) == Some(&self.setup.hosts[host].0);
        let sender = (host, self.agents[host].life, order.step);
        if !self.checks.not_done.insert(sender, false).unwrap_or(own) {
            self.fail(format!(
                "promise 4: {} ({}) is ordered again by {host}, which did not ask what became of it",
                order.step, order.effect
            ));
        }
    }

    /// What an agent hears of an order that it sent.
    pub(super) fn heard_of(&mut self, host: usize, order: &Order, outcome: &Outcome) {
        let sender = (host, self.agents[host].life, order.step);
        let not_done = match outcome {
            Outcome::Refused { code: Refusal::NotSo, .. } => order.verify_only,
            // Nobody received it, so whoever might do it still might.
            Outcome::Refused { code: Refusal::NotDelivered, .. } => !order.verify_only,
            Outcome::Done(_) | Outcome::Refused { .. } | Outcome::Unknown { .. } => false,
        };
        if not_done {
            self.checks.not_done.insert(sender, true);
        }
    }

    /// Promise 4: an order that acts was committed as an intent. The answer is whether to go on.
    pub(super) fn accept_order(&mut self, order: &Order) -> bool {
        if order.verify_only {
            return true;
        }
        let known = self.checks.intents.contains(&(order.step, order.effect.to_string()));
        if !known {
            self.fail(format!(
                "promise 4: {} ({}) is ordered without a committed intent",
                order.step, order.effect
            ));
        }
        if order.epoch > self.group().epoch {
            self.fail(format!("promise 4: {} carries an epoch that is not committed", order.step));
        }
        // A newer lease than the one named must never be ended by an old order.
        if let Effect::Fence { instance, term } | Effect::HandOver { instance, term } = &order.effect
            && let Some(at) = self.setup.instance(instance)
            && self.guards[at].guard.opened().is_some_and(|opened| opened.term.lease_no < term.lease_no)
        {
            self.say(|| format!("{instance} is told to end {term}, which it has not opened"));
        }
        known
    }
}
