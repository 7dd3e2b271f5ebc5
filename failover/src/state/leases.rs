//! Founding a group, granting leases anew, pausing and resuming.

use std::collections::BTreeSet;

use mesh_proto::command::{Refused, ResumeProof};
use mesh_proto::lease::{Electorate, LeaseKey, LeaseRecord, LeaseTerm, Outside, Proof, Receipt, StatusRef};
use mesh_proto::run::Phase;
use mesh_proto::spec::Open;
use mesh_proto::{DataIncarnation, Epoch, GuardIncarnation, InstanceName, LeaseNo, Millis, NodeId};

use super::apply::{Stamp, compare, conflict, unknown};
use super::{Group, Pause, Primary};
use crate::fencers;
use crate::quorum::asked;

impl Group {
    /// PROTOCOL, Birth: a compare-and-set on "no epoch yet"; after a recovery of the mesh on "no primary", in an epoch beyond
    /// every one that the lost voters may have begun.
    pub(super) fn found(
        &mut self,
        stamp: Stamp,
        instance: &InstanceName,
        data: &DataIncarnation,
        guard: &GuardIncarnation,
        system_id: u64,
    ) -> Result<(), Refused> {
        if self.recovered.is_none() {
            compare("the epoch", &Epoch(0), &self.epoch)?;
        } else if let Some(primary) = &self.primary {
            return Err(conflict("the primary", "none", &primary.instance));
        }
        self.instance(instance).ok_or_else(|| unknown("instance", instance.as_str()))?;
        if let Some(known) = self.system_id {
            compare("the system identifier", &system_id, &known)?;
        }
        self.epoch = self.epoch.next();
        self.system_id = Some(system_id);
        self.primary = Some(Primary { instance: instance.clone(), data: data.clone() });
        self.set_lease(stamp, instance, data, guard);
        self.begin_quorums();
        Ok(())
    }

    /// Gives an instance the next lease number in the current epoch.
    pub(super) fn set_lease(
        &mut self,
        stamp: Stamp,
        instance: &InstanceName,
        data: &DataIncarnation,
        guard: &GuardIncarnation,
    ) -> LeaseTerm {
        let last = self.leases.get(instance).map_or(LeaseNo(0), |lease| lease.term.lease_no);
        let last = last.max(self.recovered.unwrap_or_default());
        let term = LeaseTerm { epoch: self.epoch, lease_no: last.next() };
        let record = LeaseRecord {
            term,
            guard: guard.clone(),
            data: data.clone(),
            index: stamp.index,
            holders: BTreeSet::new(),
            waits: self.unended.clone(),
        };
        self.leases.insert(instance.clone(), record);
        term
    }

    /// PROTOCOL, Identities: a compare-and-set on (epoch, previous lease number); refused for other data, and for
    /// another life of the guard without a proof.
    #[allow(clippy::too_many_arguments)] // one entry, spelled out
    pub(super) fn grant(
        &mut self,
        stamp: Stamp,
        instance: &InstanceName,
        replaces: LeaseTerm,
        data: &DataIncarnation,
        guard: &GuardIncarnation,
        proof: Option<&Proof>,
        electorate: &Electorate,
    ) -> Result<(), Refused> {
        let Some(primary) = &self.primary else {
            return Err(Refused::Forbidden("the group has no primary; use `mesh adopt`".to_owned()));
        };
        compare("the primary", &instance.as_str(), &primary.instance.as_str())?;
        compare("the life of the primary's data", data, &primary.data)?;
        let Some(lease) = self.leases.get(instance) else {
            return Err(Refused::Forbidden(format!("{instance} never had a lease")));
        };
        compare("the lease", &replaces, &lease.term)?;
        // An entry that was late would end the takeover under the feet of its run.
        if let Some(takeover) = &self.takeover
            && self.active_run().is_some_and(|run| matches!(run.phase, Phase::Pledging | Phase::Fencing))
        {
            return Err(Refused::Forbidden(format!(
                "run {} ends the lease of {instance} at this moment; it gets another one when that is given up",
                takeover.run
            )));
        }
        let another = *guard != lease.guard;
        if another {
            // The host may have been cloned: the old life's lease must be over before another one begins.
            match proof {
                None => {
                    return Err(Refused::Forbidden(format!(
                        "the guard of {instance} is another life ({guard}) than the one that held the lease; \
                         that needs a receipt or the end of the old lease"
                    )));
                }
                Some(Proof::Frozen(_)) => {
                    return Err(Refused::Forbidden(
                        "a frozen commit quorum ends no lease; that needs a receipt or the end of it"
                            .to_owned(),
                    ));
                }
                Some(proof @ (Proof::Receipt(_) | Proof::Expired(_) | Proof::External(_))) => {
                    self.check_proof(instance, replaces, proof, electorate)?;
                }
            }
        }
        // A proof that this life of the guard needed none of is no proof.
        self.supersede(proof.filter(|_| another));
        self.set_lease(stamp, instance, data, guard);
        self.takeover = None;
        self.generation = self.generation.next();
        Ok(())
    }

    /// Whether a proof ends this lease, its pledges counted by the electorate.
    pub(super) fn check_proof(
        &self,
        instance: &InstanceName,
        ends: LeaseTerm,
        proof: &Proof,
        electorate: &Electorate,
    ) -> Result<(), Refused> {
        match proof {
            Proof::Frozen(frozen) => {
                let opens = self.spec.open == Open::DurabilityOnly && asked(self);
                let held = self.lease().is_some_and(|lease| !lease.holders.is_empty());
                if !opens || held || self.pause.is_some() {
                    return Err(Refused::Forbidden(
                        "a frozen commit quorum is no proof here: the group opens when the old lease is over"
                            .to_owned(),
                    ));
                }
                compare("the lease that is granted no more", &ends, &frozen.term)?;
                check_pledges(electorate, frozen.electorate, frozen.pledges.iter().copied())
            }
            Proof::Receipt(receipt) => self.check_receipt(instance, ends, receipt),
            Proof::External(outside) => self.check_outside(instance, ends, outside),
            Proof::Expired(expiry) => {
                if self.pause.is_some() {
                    return Err(Refused::Forbidden(
                        "the group is paused: while it is, the end of a lease is no proof; `mesh resume` first".to_owned(),
                    ));
                }
                compare("the lease that ran out", &ends, &expiry.term)?;
                check_pledges(electorate, expiry.electorate, expiry.pledges.iter().map(|(voter, _)| *voter))?;
                let longest =
                    expiry.pledges.iter().map(|(_, remainder)| *remainder).max().unwrap_or(Millis::ZERO);
                if expiry.waited < longest.plus(self.largest_fence) {
                    return Err(Refused::Forbidden(format!(
                        "waiting {} does not cover a remainder of {longest} and a fence of {}",
                        expiry.waited, self.largest_fence
                    )));
                }
                Ok(())
            }
        }
    }

    /// Whether a receipt ends this lease: of that instance, that guard's life and that data.
    fn check_receipt(
        &self,
        instance: &InstanceName,
        ends: LeaseTerm,
        receipt: &Receipt,
    ) -> Result<(), Refused> {
        let key = LeaseKey { group: self.spec.group.clone(), instance: instance.clone() };
        if receipt.key != key {
            return Err(conflict("the receipt's instance", &key, &receipt.key));
        }
        compare("the receipt's lease", &ends, &receipt.term)?;
        let Some(lease) = self.leases.get(instance) else {
            return Err(Refused::Forbidden(format!("{instance} never had a lease")));
        };
        compare("the receipt's guard", &lease.guard, &receipt.guard)?;
        compare("the receipt's data", &lease.data, &receipt.data)
    }

    /// Whether the run's own step says that the host was turned off, and under this lease.
    fn check_outside(
        &self,
        instance: &InstanceName,
        ends: LeaseTerm,
        outside: &Outside,
    ) -> Result<(), Refused> {
        compare("the lease that ended with its host", &ends, &outside.term)?;
        let found = self.active_run().and_then(|run| fencers::proof(run, instance, ends));
        match found {
            Some(found) if found == *outside => Ok(()),
            Some(_) | None => Err(Refused::Forbidden(format!(
                "no step of the run says that {} turned the host of {instance} off",
                outside.fencer
            ))),
        }
    }

    /// Where a fencer is required, the end of the lease alone promotes nobody, unless a person waived it.
    pub(super) fn check_fencer(&self, proof: &Proof) -> Result<(), Refused> {
        match proof {
            Proof::Receipt(_) | Proof::External(_) => return Ok(()),
            Proof::Expired(_) | Proof::Frozen(_) => {}
        }
        if self.active_run().is_some_and(|run| fencers::demanded(&self.spec, run)) {
            return Err(Refused::Forbidden(
                "a fencer is required here: the old primary's host must be off, or its guard give a receipt"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    pub(super) fn pause(
        &mut self,
        stamp: Stamp,
        length: Millis,
        counted_from: Option<&StatusRef>,
        reason: &str,
    ) -> Result<(), Refused> {
        if let Some(pause) = &self.pause {
            return Err(Refused::Forbidden(format!("the group is paused already: {}", pause.reason)));
        }
        if self.active_run().is_some() {
            return Err(Refused::Forbidden(
                "a run is going on; pause when it is over, or abort it".to_owned(),
            ));
        }
        if reason.trim().is_empty() {
            return Err(Refused::Forbidden("a pause needs a reason".to_owned()));
        }
        let lease_no = self.lease().map_or(LeaseNo(0), |lease| lease.term.lease_no);
        self.pause = Some(Pause {
            id: stamp.index,
            length,
            counted_from: counted_from.cloned(),
            reason: reason.to_owned(),
            lease_no,
            at: stamp.at,
        });
        Ok(())
    }

    /// PROTOCOL, Pause: ends only with a fresh lease number held, after a receipt, which is a proof while paused too, or
    /// after the whole length by the leader's own clock.
    pub(super) fn resume(&mut self, id: u64, how: &ResumeProof) -> Result<(), Refused> {
        let Some(pause) = &self.pause else {
            return Err(Refused::Forbidden("the group is not paused".to_owned()));
        };
        compare("the pause", &id, &pause.id)?;
        match how {
            ResumeProof::HoldsLease(lease_no) => {
                let lease_no = *lease_no;
                if lease_no <= pause.lease_no || self.lease().map(|l| l.term.lease_no) != Some(lease_no) {
                    return Err(Refused::Forbidden(format!(
                        "lease {lease_no} was not acquired after the pause began"
                    )));
                }
            }
            ResumeProof::Waited(waited) => {
                let least = pause.length.plus(self.timing.lease).plus(self.largest_fence);
                if *waited < least {
                    return Err(Refused::Forbidden(format!("waited {waited}, which is less than {least}")));
                }
            }
            ResumeProof::NothingHeld => {
                if self.primary.is_some() {
                    return Err(Refused::Forbidden(
                        "the group has a primary, whose lease the pause froze".to_owned(),
                    ));
                }
            }
            ResumeProof::Fenced(receipt) => {
                let (Some(primary), Some(lease)) = (&self.primary, self.lease()) else {
                    return Err(Refused::Forbidden("the group has no primary that was fenced".to_owned()));
                };
                self.check_receipt(&primary.instance, lease.term, receipt)?;
            }
        }
        self.pause = None;
        Ok(())
    }
}

/// Whether a majority of the electorate that is in force pledged.
fn check_pledges(
    electorate: &Electorate,
    counted_by: u64,
    pledges: impl Iterator<Item = NodeId>,
) -> Result<(), Refused> {
    compare("the electorate", &electorate.version, &counted_by)?;
    let voters: BTreeSet<_> = pledges.collect();
    if electorate.agreed(|voter| voters.contains(&voter)) {
        return Ok(());
    }
    let (count, of) = (voters.len(), electorate.everyone().len());
    Err(Refused::Forbidden(format!("{count} pledges are no majority of {of} voters")))
}
