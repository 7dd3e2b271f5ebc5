//! The single door: a committed entry either takes effect whole, or is refused whole. Both leave audit records.

use mesh_proto::audit::AuditRecord;
use mesh_proto::command::{Applied, Command, Entry, Refused};
use mesh_proto::proposal::Approved;
use mesh_proto::run::Actor;
use mesh_proto::{GroupName, RunId, Wall};

use super::audit::Broken;
use super::{Group, MeshState};

/// Who an entry is from and where it stands in the log: what apply knows besides the command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    /// Log index.
    pub index: u64,
    /// The proposer's wall clock, copied into records for people.
    pub at: Wall,
}

impl MeshState {
    /// Applies a committed entry. Deterministic: every agent gets the same answer and the same state.
    ///
    /// # Errors
    /// [`Broken`] when an audit record cannot be encoded: the agent must stop, since its state would no longer be the
    /// others'.
    pub fn apply(&mut self, index: u64, entry: &Entry) -> Result<Applied, Broken> {
        let stamp = Stamp { index, at: entry.at };
        // The audit is the only part that grows; everything else is small, so all-or-none is a copy.
        let audit = std::mem::take(&mut self.audit);
        let mut next = self.clone();
        let mut refused = None;
        for (at, command) in entry.commands.iter().enumerate() {
            if let Err(why) = next.take(stamp, &entry.actor, command) {
                refused = Some((at, why));
                break;
            }
        }
        self.audit = audit;
        match refused {
            None => {
                next.audit = std::mem::take(&mut self.audit);
                *self = next;
                for command in &entry.commands {
                    self.record(index, entry, command, None)?;
                }
                debug_assert_eq!(self.check_invariants(), Ok(()));
                Ok(Applied::Done { index })
            }
            Some((at, why)) => {
                self.record(index, entry, &entry.commands[at], Some(why.clone()))?;
                Ok(Applied::Refused(why))
            }
        }
    }

    fn take(&mut self, stamp: Stamp, actor: &Actor, command: &Command) -> Result<(), Refused> {
        match command {
            Command::MeshFormed { mesh, members } => self.form(mesh, members),
            // What committed it would have had the majority that a recovery does without.
            Command::MeshRecovered { .. } => Err(Refused::Forbidden(
                "a mesh is recovered with `mesh quorum-recover` on a stopped agent, never through its log"
                    .to_owned(),
            )),
            Command::MemberAdded { member } => self.add_member(member),
            Command::MemberRemoved { agent } => self.remove_member(agent),
            Command::ElectorateChanging { replaces, members } => self.change_electorate(*replaces, members),
            Command::ElectorateChanged { replaces, waited } => self.end_electorate_change(*replaces, *waited),
            Command::ElectorateKept { replaces } => self.keep_electorate(*replaces),
            Command::SpecApplied { replaces, spec } => self.apply_spec(stamp, *replaces, spec),
            Command::Founded { group, instance, data, guard, system_id, reason: _ } => {
                self.group_mut(group)?.found(stamp, instance, data, guard, *system_id)
            }
            Command::LeaseGranted { group, instance, replaces, data, guard, proof, reason: _ } => {
                let electorate = self.electorate.clone();
                self.group_mut(group)?.grant(
                    stamp,
                    instance,
                    *replaces,
                    data,
                    guard,
                    proof.as_ref(),
                    &electorate,
                )
            }
            Command::VerdictChanged { group, verdict } => {
                let group = self.group_mut(group)?;
                group.verdict = verdict.clone();
                group.verdict_at = stamp.at;
                Ok(())
            }
            Command::RunOpened { plan } => self.group_mut(&plan.group)?.open_run(stamp, plan),
            Command::StepsStarted { group, run, steps } => {
                self.group_mut(group)?.start_steps(stamp, *run, steps)
            }
            Command::StepEnded { group, run, step, attempt, outcome } => {
                self.group_mut(group)?.end_step(stamp, *run, *step, *attempt, outcome)
            }
            Command::ErrandSkipped { group, run, errand, reason } => {
                self.group_mut(group)?.skip_errand(stamp, *run, errand, reason)
            }
            Command::Signalled { group, run, signal, detail, cause } => {
                self.group_mut(group)?.signal(stamp, *run, *signal, detail, *cause)
            }
            Command::PromotionCommitted {
                group,
                run,
                ends,
                instance,
                data,
                guard,
                freeze,
                position,
                proof,
                durability,
                standbys,
            } => {
                let promotion = super::runs::Wanted {
                    ends: *ends,
                    instance,
                    data,
                    guard,
                    freeze: *freeze,
                    position: *position,
                    proof,
                    durability: durability.as_ref(),
                    standbys,
                };
                let electorate = self.electorate.clone();
                self.group_mut(group)?.promote(stamp, *run, promotion, &electorate)
            }
            Command::RepairStarted { group, effect, epoch } => {
                self.group_mut(group)?.start_repair(stamp, effect, *epoch)
            }
            Command::RepairEnded { group, repair, outcome } => {
                self.group_mut(group)?.end_repair(*repair, outcome)
            }
            Command::Paused { group, length, counted_from, reason } => {
                self.group_mut(group)?.pause(stamp, *length, counted_from.as_ref(), reason)
            }
            Command::Resumed { group, pause, how } => self.group_mut(group)?.resume(*pause, how),
            Command::Acknowledged { group } => {
                self.group_mut(group)?.hold_down = None;
                Ok(())
            }
            Command::RunOverridden { group, run, site, accept_loss, reason } => {
                self.group_mut(group)?.override_run(*run, site.as_ref(), *accept_loss, reason)
            }
            Command::QuorumChanged { group, replaces, epoch, k, standbys, reason: _ } => {
                self.group_mut(group)?.change_quorum(*replaces, *epoch, *k, standbys)
            }
            Command::QuorumConfirmed { group, version } => self.group_mut(group)?.confirm_quorum(*version),
            Command::DegradeBegun { group, by, reason } => {
                self.group_mut(group)?.begin_degrade(stamp, *by, reason)
            }
            Command::DegradeEnded { group, by, reason: _ } => self.group_mut(group)?.end_degrade(*by),
            Command::RunProposed { group, proposed } => {
                self.group_mut(group)?.propose(stamp, actor, proposed)
            }
            Command::RunApproved { group, proposal, opens } => {
                self.group_mut(group)?.approve(stamp, actor, *proposal, opens)
            }
            Command::ProposalEnded { group, proposal, how } => {
                self.group_mut(group)?.end_proposal(*proposal, how)
            }
            Command::HoldersKnown { group, term, guard, holders } => {
                self.group_mut(group)?.note_holders(*term, guard, holders)
            }
            // Its record is all there is to it.
            Command::AccessDenied { denial: _ } | Command::TokenTried { tried: _ } => Ok(()),
        }
    }

    fn group_mut(&mut self, name: &GroupName) -> Result<&mut Group, Refused> {
        self.groups.get_mut(name).ok_or_else(|| unknown("group", name.as_str()))
    }

    pub(super) fn record(
        &mut self,
        index: u64,
        entry: &Entry,
        command: &Command,
        refused: Option<Refused>,
    ) -> Result<(), Broken> {
        // Also of what was refused: it stands in the log and in the audit all the same.
        self.edition = self.edition.max(command.edition());
        let (group, run) = about(command, index);
        self.audit.push(AuditRecord {
            seq: 0,
            index,
            at: entry.at,
            by: entry.by.clone(),
            actor: entry.actor.clone(),
            group,
            run,
            summary: self.summary(command),
            command: command.clone(),
            refused,
            previous: String::new(),
            hash: String::new(),
        })
    }
}

pub(crate) fn unknown(what: &str, name: &str) -> Refused {
    Refused::Unknown { what: what.to_owned(), name: name.to_owned() }
}

pub(crate) fn conflict(what: &str, expected: impl ToString, found: impl ToString) -> Refused {
    Refused::Conflict { what: what.to_owned(), expected: expected.to_string(), found: found.to_string() }
}

/// Compares what an entry expects with what is.
pub(crate) fn compare<T: PartialEq + ToString>(what: &str, expected: &T, found: &T) -> Result<(), Refused> {
    if expected == found { Ok(()) } else { Err(conflict(what, expected.to_string(), found.to_string())) }
}

fn about(command: &Command, index: u64) -> (Option<GroupName>, Option<RunId>) {
    match command {
        Command::MeshFormed { .. }
        | Command::MeshRecovered { .. }
        | Command::MemberAdded { .. }
        | Command::MemberRemoved { .. }
        | Command::AccessDenied { .. }
        | Command::TokenTried { .. }
        | Command::ElectorateChanging { .. }
        | Command::ElectorateChanged { .. }
        | Command::ElectorateKept { .. } => (None, None),
        Command::SpecApplied { spec, .. } => (Some(spec.group.clone()), None),
        Command::RunOpened { plan } => (Some(plan.group.clone()), Some(RunId(index))),
        Command::StepsStarted { group, run, .. }
        | Command::StepEnded { group, run, .. }
        | Command::ErrandSkipped { group, run, .. }
        | Command::Signalled { group, run, .. }
        | Command::RunOverridden { group, run, .. }
        | Command::PromotionCommitted { group, run, .. } => (Some(group.clone()), Some(*run)),
        Command::RunApproved { group, opens: Approved::Run(_), .. } => {
            (Some(group.clone()), Some(RunId(index)))
        }
        Command::RunApproved { group, opens: Approved::Stuck(run), .. } => (Some(group.clone()), Some(*run)),
        Command::RunProposed { group, proposed } => (Some(group.clone()), proposed.run),
        Command::Founded { group, .. }
        | Command::ProposalEnded { group, .. }
        | Command::LeaseGranted { group, .. }
        | Command::VerdictChanged { group, .. }
        | Command::RepairStarted { group, .. }
        | Command::RepairEnded { group, .. }
        | Command::Paused { group, .. }
        | Command::Resumed { group, .. }
        | Command::QuorumChanged { group, .. }
        | Command::QuorumConfirmed { group, .. }
        | Command::DegradeBegun { group, .. }
        | Command::DegradeEnded { group, .. }
        | Command::HoldersKnown { group, .. }
        | Command::Acknowledged { group } => (Some(group.clone()), None),
    }
}
