//! Leases that may go on without a majority of voters (`majority_lost = "hold"`), as the log has them: whose promises each
//! needs, and which older one nobody has proved to be over. It never takes a promise for a proof: it only says whose end of
//! promising ends a lease, and a guard that opens later waits for that (`guard/hold.rs`).
//!
//! A lease gets its holders once, when the primary is seen to serve under it, in an entry of its own. So nobody is asked for
//! a promise before every guard knows what one is, and no lease has holders while an older one is not over: at most one is.

use std::collections::BTreeSet;

use mesh_proto::command::Refused;
use mesh_proto::hold::{GuardPeer, HoldView, Unended};
use mesh_proto::lease::{LeaseTerm, Proof};
use mesh_proto::spec::MajorityLost;
use mesh_proto::{GuardIncarnation, InstanceName};

use super::Group;
use super::apply::compare;

impl Group {
    /// Whose promises the current primary's lease should need: the guards of all other instances. Empty where it should be
    /// fenced instead.
    #[must_use]
    pub fn wanted_holders(&self) -> BTreeSet<InstanceName> {
        let Some(primary) = &self.primary else { return BTreeSet::new() };
        match self.spec.majority_lost {
            MajorityLost::Fence => BTreeSet::new(),
            MajorityLost::Hold => {
                let others = self.spec.instances.iter().map(|i| &i.name).filter(|i| **i != primary.instance);
                others.cloned().collect()
            }
        }
    }

    /// The lease that is not proved to be over when the current one ends by this proof, or is replaced without one.
    fn unended_after(&self, proof: Option<&Proof>) -> Option<Unended> {
        let (Some(primary), Some(lease)) = (&self.primary, self.lease()) else { return self.unended.clone() };
        match proof {
            // Its guard has ended every lease that it had, or the host is off.
            Some(Proof::Receipt(_) | Proof::External(_)) => self
                .unended
                .clone()
                .filter(|old| !(old.instance == primary.instance && old.guard == lease.guard)),
            // The grants of voters are over; the promises of other guards may not be.
            Some(Proof::Expired(_) | Proof::Frozen(_)) | None if !lease.holders.is_empty() => Some(Unended {
                instance: primary.instance.clone(),
                guard: lease.guard.clone(),
                term: lease.term,
                holders: lease.holders.clone(),
            }),
            Some(Proof::Expired(_) | Proof::Frozen(_)) | None => self.unended.clone(),
        }
    }

    /// The current lease ends so, and another one follows.
    pub(super) fn supersede(&mut self, proof: Option<&Proof>) {
        self.unended = self.unended_after(proof);
    }

    /// Why an instance may not be promoted by this proof, if so: where an older lease may be held by promises, only one whose
    /// own promise it needs knows when that is over.
    #[must_use]
    pub fn barred(
        &self,
        instance: &InstanceName,
        guard: &GuardIncarnation,
        proof: Option<&Proof>,
    ) -> Option<String> {
        let old = self.unended_after(proof)?;
        let knows = old.holders.contains(instance) || (old.instance == *instance && old.guard == *guard);
        (!knows).then(|| {
            format!(
                "{} may go on serving under {} by promises that {instance} has no part in; that needs a receipt, or \
                 its host turned off",
                old.instance, old.term
            )
        })
    }

    /// The primary serves under its lease, and every other guard may be asked to promise.
    pub(super) fn note_holders(
        &mut self,
        term: LeaseTerm,
        guard: &GuardIncarnation,
        holders: &BTreeSet<InstanceName>,
    ) -> Result<(), Refused> {
        if self.takeover.is_some() || self.pause.is_some() {
            return Err(Refused::Forbidden("the lease is being ended, or the group is paused".to_owned()));
        }
        let wanted = self.wanted_holders();
        let Some(primary) = &self.primary else {
            return Err(Refused::Forbidden("the group has no primary".to_owned()));
        };
        let Some(lease) = self.leases.get_mut(&primary.instance) else {
            return Err(Refused::Forbidden(format!("{} never had a lease", primary.instance)));
        };
        compare("the lease", &term, &lease.term)?;
        compare("the life of the guard", guard, &lease.guard)?;
        if !lease.holders.is_empty() {
            return Err(Refused::Forbidden(format!("{term} has its holders, and keeps them to its end")));
        }
        if *holders != wanted {
            return Err(Refused::Forbidden("these are not the other instances of the group".to_owned()));
        }
        lease.holders = holders.clone();
        self.unended = None;
        Ok(())
    }

    /// What guards must know of it; `None` where there is nothing to know.
    pub(super) fn hold_view(&self) -> Option<HoldView> {
        let on = self.spec.majority_lost == MajorityLost::Hold;
        let held = self.lease().is_some_and(|lease| !lease.holders.is_empty() || lease.waits.is_some());
        (on || held || self.unended.is_some()).then(|| HoldView {
            on,
            longest: self.largest_lease.max(self.timing.lease),
            fence: self.largest_fence,
            current: self.lease().map(|lease| lease.term),
            guards: self
                .spec
                .instances
                .iter()
                .map(|i| GuardPeer { instance: i.name.clone(), address: i.guard })
                .collect(),
        })
    }
}
