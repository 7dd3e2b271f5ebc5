//! Whom a takeover promotes in a zero-loss group, and why nothing acknowledged is lost by it. It never promotes on a
//! guess: where the frozen standbys do not cover every quorum that may have been in force, nobody is chosen unless a named
//! person accepted the loss.

use std::collections::BTreeSet;

use mesh_proto::evidence::ProcessState;
use mesh_proto::lease::{Frozen, Proof};
use mesh_proto::quorum::{DurabilityProof, FrozenAt, QuorumMember};
use mesh_proto::run::Run;
use mesh_proto::spec::Open;
use mesh_proto::{InstanceName, Lsn};

use super::{Context, Driver};
use crate::mutants::Mutant;
use crate::plan::{Candidate, Waived, best};
use crate::quorum::{asked, covers, loses_nothing};
use crate::state::Group;

/// The one to promote, with what the entry says of durability; or nobody. And why the others are not.
pub(super) type Choice<'a> = (Option<(&'a Candidate, Option<DurabilityProof>)>, Vec<(InstanceName, String)>);

/// Chooses in a zero-loss group: `all` are the frozen standbys, `within` those of them that may be promoted at all.
pub(super) fn choose<'a>(
    context: &Context<'_>,
    group: &Group,
    run: &Run,
    all: &[Candidate],
    within: &'a [Candidate],
) -> Choice<'a> {
    let frozen: Vec<FrozenAt> = all
        .iter()
        .filter(|c| group.system_id.is_none_or(|id| id == c.system_id))
        .map(|c| FrozenAt { member: identity(context, group, c), position: c.position })
        .collect();
    let mut pool = within.to_vec();
    let mut rejected: Vec<(InstanceName, String)> = Vec::new();
    let mut first: Option<(InstanceName, String)> = None;
    loop {
        // The lag limit is about writes that nobody saw acknowledged; the furthest timeline is the lineage.
        let (chosen, others) = best(group, &pool, None, None, true);
        let Some(name) = chosen.map(|c| c.instance.clone()) else {
            rejected.extend(others);
            break;
        };
        let Some(candidate) = within.iter().find(|c| c.instance == name) else { break };
        let member = identity(context, group, candidate);
        let proved = if context.mutants.has(Mutant::NoIntersection) {
            Ok(forged(group, candidate))
        } else {
            loses_nothing(&group.quorums, &frozen, &member)
        };
        match proved {
            Ok(covering) => {
                rejected.extend(others);
                return (Some((candidate, Some(DurabilityProof::CoveringFreeze(covering)))), rejected);
            }
            Err(missing) => {
                let why = missing.to_string();
                first.get_or_insert((name.clone(), why.clone()));
                rejected.push((name.clone(), why));
                pool.retain(|c| c.instance != name);
            }
        }
    }
    // With the loss accepted, the furthest is the least loss; where nobody is left, also one whose history was left.
    if first.is_none() {
        let left = |c: &&Candidate| group.astray(c.line, c.position.have).is_some();
        let may = |c: &&Candidate| group.instance(&c.instance).is_some_and(|spec| spec.priority > 0);
        let same = |c: &&Candidate| group.system_id.is_none_or(|id| id == c.system_id);
        let all = within.iter().filter(left).filter(may).filter(same);
        let furthest = all.max_by_key(|c| (c.line, c.position.have));
        first = furthest.and_then(|c| Some((c.instance.clone(), group.astray(c.line, c.position.have)?)));
    }
    if run.plan.accept_loss
        && let Some((name, missing)) = first
        && let Some(candidate) = within.iter().find(|c| c.instance == name)
    {
        return (Some((candidate, Some(DurabilityProof::LossAccepted { missing }))), rejected);
    }
    (None, rejected)
}

/// Who a frozen standby is for the quorum.
fn identity(context: &Context<'_>, group: &Group, candidate: &Candidate) -> QuorumMember {
    let member = QuorumMember { instance: candidate.instance.clone(), data: candidate.data.clone() };
    if !context.mutants.has(Mutant::IdentityWithoutData) {
        return member;
    }
    // A build that goes by the name alone takes it for whoever is listed under that name.
    let mut listed = group.quorums.iter().rev().flat_map(|config| &config.standbys);
    listed.find(|known| known.instance == member.instance).cloned().unwrap_or(member)
}

/// Claims that everybody was frozen: what a build without the rule would commit.
fn forged(group: &Group, candidate: &Candidate) -> Vec<FrozenAt> {
    let listed = group.quorums.iter().flat_map(|config| config.standbys.iter().chain([&config.led_by]));
    let own = QuorumMember { instance: candidate.instance.clone(), data: candidate.data.clone() };
    listed.cloned().chain([own]).map(|member| FrozenAt { member, position: candidate.position }).collect()
}

/// What a switchover's entry says of durability.
pub(super) fn handed_over(group: &Group, at: Lsn) -> Option<DurabilityProof> {
    asked(group).then_some(DurabilityProof::ShutdownConfirmed { at })
}

/// Whose flush counts in the next epoch, until its leader sees who really streams: the other frozen standbys; after a
/// clean stop everybody, the old primary too, whose data stays as it is.
pub(super) fn next_standbys(
    context: &Context<'_>,
    group: &Group,
    run: &Run,
    frozen: &[Candidate],
    chosen: &Candidate,
    clean: bool,
) -> BTreeSet<QuorumMember> {
    let mut next = BTreeSet::new();
    if !asked(group) {
        return next;
    }
    for one in frozen {
        next.insert(QuorumMember { instance: one.instance.clone(), data: one.data.clone() });
    }
    if clean {
        for spec in &group.spec.instances {
            let data = if spec.name == run.ending_instance {
                group.leases.get(&spec.name).map(|lease| lease.data.clone())
            } else {
                let fresh = group.timing.fresh;
                let status = context.heard.fresh_guard(context.now, &group.spec.group, &spec.name, fresh);
                status.filter(|s| s.process == ProcessState::Standby).and_then(|s| s.data.clone())
            };
            if let Some(data) = data {
                next.insert(QuorumMember { instance: spec.name.clone(), data });
            }
        }
    }
    next.retain(|member| member.instance != chosen.instance);
    next
}

impl Driver {
    /// Whether the standbys that run already cover the quorums, so that no stopped one need be started to be compared.
    pub(super) fn running_cover(&self, context: &Context<'_>, group: &Group, run: &Run) -> bool {
        let running = group.spec.instances.iter().filter(|spec| spec.name != run.ending_instance);
        let members = running.filter_map(|spec| {
            let fresh = group.timing.fresh;
            let status = context.heard.fresh_guard(context.now, &group.spec.group, &spec.name, fresh)?;
            let data = status.data.clone().filter(|_| status.process == ProcessState::Standby)?;
            Some(QuorumMember { instance: spec.name.clone(), data })
        });
        covers(&group.quorums, &members.collect()).is_ok()
    }
}

impl Driver {
    /// Where the group opens on durability alone: that the frozen standbys cut the commit quorum, as `durability` says, and
    /// who pledged. Never in a pause, and never where a loss was accepted: then nothing says that the quorum is cut.
    pub(super) fn frozen_quorum(&self, group: &Group, durability: Option<&DurabilityProof>) -> Option<Proof> {
        let cut = matches!(durability, Some(DurabilityProof::CoveringFreeze(_)));
        let (term, collector) = self.pledges.as_ref()?;
        if group.spec.open != Open::DurabilityOnly || !cut || group.pause.is_some() {
            return None;
        }
        let electorate = collector.electorate().version;
        (collector.pledged() && !collector.deposed())
            .then(|| Proof::Frozen(Frozen { term: *term, pledges: collector.pledgers(), electorate }))
    }
}

impl Context<'_> {
    /// The limits that a run waives; a build without the rule of the quorum never looks at it.
    pub(super) fn waived(&self, lag: bool, loss: bool) -> Waived {
        let blind = self.mutants.has(Mutant::NoIntersection) || self.mutants.has(Mutant::IdentityWithoutData);
        Waived { lag, loss: loss || blind }
    }
}
