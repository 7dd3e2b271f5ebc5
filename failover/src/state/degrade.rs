//! Commits of a zero-loss group that go on without standbys: who decided it, and that it ends. It only says what shall be; the
//! configurations that may be in force are changed by their own entries, and a failover goes by those alone: while one with
//! k = 0 is among them, no freeze proves anything (PROTOCOL, Commit quorum).

use mesh_proto::command::Refused;
use mesh_proto::quorum::{Degraded, DegradedBy};
use mesh_proto::spec::Degrade;

use super::Group;
use super::apply::{Stamp, conflict};
use crate::quorum::asked;

impl Group {
    /// Why commits may not be let go by this decision, if so.
    #[must_use]
    pub fn may_not_degrade(&self, by: DegradedBy) -> Option<String> {
        if !asked(self) {
            return Some("commits wait for no standby here anyway: the group is not zero-loss".to_owned());
        }
        match (self.spec.degrade, by) {
            (Degrade::Never, DegradedBy::Hand | DegradedBy::Policy) => {
                Some("the spec says degrade = \"never\": commits wait until a standby is back".to_owned())
            }
            (Degrade::ByHand, DegradedBy::Policy) => {
                Some("the spec leaves it to an operator (degrade = \"by-hand\")".to_owned())
            }
            (Degrade::ByHand, DegradedBy::Hand) | (Degrade::After, DegradedBy::Hand | DegradedBy::Policy) => {
                None
            }
        }
    }

    pub(super) fn begin_degrade(
        &mut self,
        stamp: Stamp,
        by: DegradedBy,
        reason: &str,
    ) -> Result<(), Refused> {
        if let Some(why) = self.may_not_degrade(by) {
            return Err(Refused::Forbidden(why));
        }
        match (&self.degraded, by) {
            // An operator may take it over from the policy: from then on it stays.
            (None, DegradedBy::Hand | DegradedBy::Policy)
            | (Some(Degraded { by: DegradedBy::Policy, .. }), DegradedBy::Hand) => {}
            (Some(known), DegradedBy::Hand | DegradedBy::Policy) => {
                return Err(Refused::Forbidden(format!(
                    "commits wait for no standby already: {}",
                    known.reason
                )));
            }
        }
        if reason.trim().is_empty() {
            return Err(Refused::Forbidden("letting commits go without standbys needs a reason".to_owned()));
        }
        self.degraded = Some(Degraded { by, reason: reason.to_owned(), since: stamp.at });
        Ok(())
    }

    pub(super) fn end_degrade(&mut self, by: DegradedBy) -> Result<(), Refused> {
        match &self.degraded {
            None => Err(Refused::Forbidden("commits wait for standbys already".to_owned())),
            Some(known) if known.by != by => {
                Err(conflict("who let commits go on", format!("{by:?}"), format!("{:?}", known.by)))
            }
            Some(_) => {
                self.degraded = None;
                Ok(())
            }
        }
    }

    /// After a new spec: what it does not allow is over.
    pub(super) fn keep_degraded(&mut self) {
        if self.degraded.as_ref().is_some_and(|known| self.may_not_degrade(known.by).is_some()) {
            self.degraded = None;
        }
    }
}
