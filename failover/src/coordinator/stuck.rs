//! A run that cannot go on by itself: what it is looked at again for, and when.
//!
//! It never does for an operator what only an operator may decide: accept a loss, or repeat a program of theirs.

use mesh_proto::InstanceName;
use mesh_proto::run::{Run, Signal, StuckCause};

use super::decide::Step;
use super::fencing::startable;
use super::phases::signal;
use super::{Context, Driver, STUCK_RETRY, TAKEOVERS_MAX};
use crate::plan::assess;
use crate::plan::candidates::uncovered;
use crate::quorum;
use crate::state::Group;

impl Driver {
    pub(super) fn stuck(&mut self, context: &Context<'_>, group: &Group, run: &Run) -> Step {
        if self.in_phase(context, run) < STUCK_RETRY {
            return Step::Rest;
        }
        let Some((cause, _)) = &run.stuck else { return Step::Rest };
        match cause {
            StuckCause::RouteFailed | StuckCause::ProofFailed => {
                Step::Go(vec![signal(group, run, Signal::RetryRoutes, "looking again")])
            }
            // What a program of the operator's did half is not repeated without the operator.
            StuckCause::ErrandFailed => Step::Rest,
            StuckCause::NoCandidate
            | StuckCause::FencerFailed
            | StuckCause::PromotionFailed
            | StuckCause::ReopenFailed => self.look_for_a_primary(context, group, run),
        }
    }

    fn look_for_a_primary(&self, context: &Context<'_>, group: &Group, run: &Run) -> Step {
        if self.primary_may_reopen(context, group) {
            let back =
                if run.promotion.is_some() { Signal::CandidateReturned } else { Signal::PrimaryReturned };
            return Step::Go(vec![signal(group, run, back, "the primary's guard is back")]);
        }
        let waived = context.waived(run.plan.accept_lag, run.plan.accept_loss);
        // Another takeover would end as this one did while nobody can be shown to have everything.
        if quorum::asked(group) && !waived.loss && uncovered(context.now, group, context.heard).is_some() {
            return Step::Rest;
        }
        let could_start = |instance: &InstanceName| {
            *instance != run.ending_instance
                && context
                    .heard
                    .fresh_guard(context.now, &group.spec.group, instance, group.timing.fresh)
                    .is_some_and(startable)
        };
        let somebody = assess(context.now, group, context.heard, waived).into_iter().any(|s| {
            (s.rejected.is_none() || could_start(&s.instance))
                && run.plan.site.as_ref().is_none_or(|site| *site == s.site)
        });
        if somebody && run.takeovers < TAKEOVERS_MAX {
            return Step::Go(vec![signal(group, run, Signal::Retry, "a standby can be promoted now")]);
        }
        Step::Rest
    }
}
