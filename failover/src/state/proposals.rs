//! Two persons for a forced run that may leave the primary's site, in groups that ask for it: the first proposes, another
//! one approves. The rule stands in the group's spec and is kept here, by every agent alike, so no agent can be asked
//! instead. It never judges whether the run is safe: that is planned and checked anew when it is approved.

use mesh_proto::command::Refused;
use mesh_proto::proposal::{Approved, Proposal, ProposalEnd, Proposed, TwoPerson};
use mesh_proto::run::{Actor, Plan, Signal};
use mesh_proto::{InstanceName, ProposalId, RunId, SiteName};

use super::Group;
use super::apply::{Stamp, compare, unknown};
use super::runs::wants_a_primary;

/// The name by which a person is told from others. A user without one could have another number on the next host.
///
/// # Errors
/// In words, when the actor is nobody who could be told from others.
pub fn person(actor: &Actor) -> Result<&str, String> {
    match actor {
        Actor::Operator(name) if !name.is_empty() && !name.starts_with("uid ") => Ok(name),
        Actor::Operator(name) => Err(format!(
            "{name} has no name on that host, and two persons are told apart by their names; use an account that has one"
        )),
        Actor::Mesh => Err("mesh itself is no person".to_owned()),
    }
}

impl Group {
    /// Whether a run that waives limits, and may promote at this site (`None`: anywhere), takes two persons.
    #[must_use]
    pub fn takes_two(&self, from: &InstanceName, site: Option<&SiteName>) -> bool {
        let asked = self.spec.two_person.contains(&TwoPerson::ForcedCrossSite);
        let old = self.instance(from).map(|instance| &instance.site);
        let leaves = |there: &SiteName| old != Some(there);
        asked
            && match site {
                Some(site) => leaves(site),
                None => self.spec.instances.iter().any(|instance| leaves(&instance.site)),
            }
    }

    /// The same, of a plan.
    pub(super) fn plan_takes_two(&self, plan: &Plan) -> bool {
        (plan.accept_lag || plan.accept_loss) && self.takes_two(&plan.from, plan.site.as_ref())
    }

    /// Whether what a proposal was made for is still so.
    fn still_so(&self, what: &Proposed) -> Result<(), Refused> {
        compare("the epoch", &what.epoch, &self.epoch)?;
        let primary = self.primary.as_ref().map_or("nobody", |primary| primary.instance.as_str());
        compare("the primary", &what.from.as_str(), &primary)?;
        match (what.run, self.active_run()) {
            (Some(id), Some(run)) if run.id == id && wants_a_primary(run) => Ok(()),
            (Some(id), _) => {
                Err(Refused::Forbidden(format!("run {id} does not want for a primary any more")))
            }
            (None, Some(_)) if !self.free_for_a_run() => {
                Err(Refused::Forbidden("another run is going on".to_owned()))
            }
            (None, _) => Ok(()),
        }
    }

    pub(super) fn propose(&mut self, stamp: Stamp, actor: &Actor, what: &Proposed) -> Result<(), Refused> {
        let by = person(actor).map_err(Refused::Forbidden)?;
        if what.forced.reason.trim().is_empty() {
            return Err(Refused::Forbidden("a proposal needs a reason".to_owned()));
        }
        if !self.takes_two(&what.from, what.forced.site.as_ref()) {
            return Err(Refused::Forbidden("this takes one person only".to_owned()));
        }
        self.still_so(what)?;
        // One that nobody could approve any more stands in nobody's way.
        if let Some(open) = &self.proposal
            && self.still_so(&open.what).is_ok()
        {
            return Err(Refused::Forbidden(format!(
                "{} of {} waits already: approve or withdraw it",
                open.id, open.by
            )));
        }
        self.proposal = Some(Proposal {
            id: ProposalId(stamp.index),
            by: by.to_owned(),
            at: stamp.at,
            what: what.clone(),
        });
        Ok(())
    }

    /// Whether the proposal that waits could still be approved.
    ///
    /// # Errors
    /// [`Refused`]: what has changed since it was made.
    pub fn proposal_stands(&self) -> Result<(), Refused> {
        self.proposal.as_ref().map_or(Ok(()), |open| self.still_so(&open.what))
    }

    /// The proposal of this name.
    ///
    /// # Errors
    /// [`Refused::Unknown`]: it was approved or withdrawn, its time is over, or there never was one.
    fn open_proposal(&self, id: ProposalId) -> Result<&Proposal, Refused> {
        let open = self.proposal.as_ref().filter(|open| open.id == id);
        open.ok_or_else(|| unknown("open proposal", &id.to_string()))
    }

    pub(super) fn approve(
        &mut self,
        stamp: Stamp,
        actor: &Actor,
        id: ProposalId,
        opens: &Approved,
    ) -> Result<(), Refused> {
        let open = self.open_proposal(id)?.clone();
        let by = person(actor).map_err(Refused::Forbidden)?;
        if by == open.by {
            return Err(Refused::Forbidden(format!("{by} asked for {id}, and cannot approve it too")));
        }
        self.still_so(&open.what)?;
        let forced = &open.what.forced;
        self.proposal = None;
        match (opens, open.what.run) {
            (Approved::Run(plan), None) => {
                if !is_planned_for(plan, &open) {
                    return Err(Refused::Forbidden(format!("that is not what {id} proposes")));
                }
                self.begin_run(stamp, plan)
            }
            (Approved::Stuck(run), Some(proposed)) if *run == proposed => {
                self.lift_limits(*run, forced.site.as_ref(), forced.accept_loss, &forced.reason)?;
                self.signal(stamp, *run, Signal::Retry, &forced.reason, None)
            }
            (Approved::Run(_) | Approved::Stuck(_), _) => {
                Err(Refused::Forbidden(format!("that is not what {id} proposes")))
            }
        }
    }

    /// Lifts the limits of a run that found nobody within them. The plan that was committed stays in the audit, and this
    /// entry after it.
    pub(super) fn override_run(
        &mut self,
        id: RunId,
        site: Option<&SiteName>,
        accept_loss: bool,
        reason: &str,
    ) -> Result<(), Refused> {
        let from = self.run_mut(id)?.plan.from.clone();
        if self.takes_two(&from, site) {
            return Err(two_needed());
        }
        self.lift_limits(id, site, accept_loss, reason)
    }

    /// The same, once as many persons have approved it as it takes.
    pub(super) fn lift_limits(
        &mut self,
        id: RunId,
        site: Option<&SiteName>,
        accept_loss: bool,
        reason: &str,
    ) -> Result<(), Refused> {
        if accept_loss && reason.trim().is_empty() {
            return Err(Refused::Forbidden("accepting a loss needs a reason".to_owned()));
        }
        if let Some(site) = site
            && !self.spec.instances.iter().any(|instance| instance.site == *site)
        {
            return Err(unknown("instance at site", site.as_str()));
        }
        let run = self.run_mut(id)?;
        if !wants_a_primary(run) {
            return Err(Refused::Forbidden(format!(
                "run {id} is {}, and does not want for a primary",
                run.phase
            )));
        }
        run.plan.accept_lag = true;
        run.plan.accept_loss |= accept_loss;
        run.plan.site = site.cloned();
        Ok(())
    }

    pub(super) fn end_proposal(&mut self, id: ProposalId, how: &ProposalEnd) -> Result<(), Refused> {
        self.open_proposal(id)?;
        match how {
            ProposalEnd::Withdrawn(_) | ProposalEnd::Expired => self.proposal = None,
        }
        Ok(())
    }
}

pub(super) fn two_needed() -> Refused {
    Refused::Forbidden(
        "the group asks for two persons: it has to be proposed, and approved by another one".to_owned(),
    )
}

/// Whether a plan waives, wants and says what was proposed, and no more.
fn is_planned_for(plan: &Plan, open: &Proposal) -> bool {
    let forced = &open.what.forced;
    plan.from == open.what.from
        && plan.site == forced.site
        && forced.instance.as_ref().is_none_or(|wanted| plan.candidates.iter().all(|one| one == wanted))
        && plan.accept_loss == forced.accept_loss
        && plan.reason == forced.reason
        && plan.actor == Actor::Operator(open.by.clone())
}
