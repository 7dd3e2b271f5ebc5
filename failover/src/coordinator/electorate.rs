//! Ends a change of the voters on leases, whoever began it. The waiting is this leader's own: a new one counts again.

use mesh_proto::command::Command;
use mesh_proto::run::Actor;

use super::Context;
use crate::Moment;
use crate::mutants::Mutant;
use crate::state::MeshState;

/// What the leader keeps in mind about a change of voters. All of it may be lost.
#[derive(Debug, Default)]
pub(super) struct Electing {
    /// The proposal whose fate is not known yet.
    pub(super) proposing: Option<u64>,
    /// The version under way, and since when majorities of old and new voters are known to name it to guards.
    known: Option<(u64, Moment)>,
}

impl Electing {
    /// What to propose now, if anything.
    pub(super) fn decide(&mut self, context: &Context<'_>, state: &MeshState) -> Option<(Actor, Command)> {
        let electorate = &state.electorate;
        if !electorate.changes() || self.proposing.is_some() {
            return None;
        }
        let since = match self.known {
            Some((version, since)) if version == electorate.version => since,
            Some(_) | None => {
                if !is_known(context, state) && !context.mutants.has(Mutant::VotersAtOnce) {
                    return None;
                }
                self.known = Some((electorate.version, context.now));
                context.now
            }
        };
        let counted = state.groups.values().any(|group| group.takeover.is_some());
        let mut waited = context.now.since(since);
        if context.mutants.has(Mutant::VotersAtOnce) {
            waited = state.electorate_wait();
        }
        if counted || waited < state.electorate_wait() {
            return None;
        }
        Some((Actor::Mesh, Command::ElectorateChanged { replaces: electorate.version, waited }))
    }
}

/// Whether majorities of old and new voters have this version on disk: whoever they grant something to from now on hears
/// of it, also after they restarted. However old a report is, what it says of the disk stays true.
fn is_known(context: &Context<'_>, state: &MeshState) -> bool {
    let version = state.electorate.version;
    state.electorate.agreed(|voter| {
        let member = state.members.values().find(|member| member.id == voter);
        member
            .and_then(|member| context.heard.report(&member.agent))
            .is_some_and(|report| report.said.electorate >= version)
    })
}

/// Whether every guard that holds a lease has grants of the voters that shall be, as well: else it would lose its lease
/// when the change begins, and a healthy primary with it. Asked before a change is proposed.
///
/// # Errors
/// Which group is not ready, in words.
pub(super) fn ready_for(
    now: Moment,
    heard: &crate::verdict::observations::Observations,
    state: &MeshState,
    members: &std::collections::BTreeSet<mesh_proto::NodeId>,
) -> Result<(), String> {
    let shall = mesh_proto::lease::Electorate::of(0, members.iter().copied());
    for (name, group) in &state.groups {
        let Some(primary) = &group.primary else { continue };
        let status = heard.fresh_guard(now, name, &primary.instance, group.timing.fresh);
        let Some(status) = status.filter(|status| status.lease.is_some()) else {
            return Err(format!(
                "the guard of {} (group {name}) holds no lease that is known here",
                primary.instance
            ));
        };
        if !shall.agreed(|voter| status.granted.contains(&voter)) {
            return Err(format!(
                "the guard of {} (group {name}) has no grants of a majority of them, only of {}",
                primary.instance,
                state.names(&status.granted.iter().copied().collect())
            ));
        }
    }
    Ok(())
}
