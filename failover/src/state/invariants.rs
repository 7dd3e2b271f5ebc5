//! What must hold of the replicated state after every entry. Checked in debug builds, and by the simulator.

use super::{Group, MeshState};

impl MeshState {
    /// Checks every group.
    ///
    /// # Errors
    /// The first invariant that does not hold, in words.
    pub fn check_invariants(&self) -> Result<(), String> {
        for group in self.groups.values() {
            group.check().map_err(|what| format!("group {}: {what}", group.spec.group))?;
        }
        Ok(())
    }
}

impl Group {
    fn check(&self) -> Result<(), String> {
        match (&self.primary, self.epoch.0) {
            (None, 0) => {}
            (None, _) if self.recovered.is_some() => {}
            (None, _) => return Err("an epoch without a primary".to_owned()),
            (Some(_), 0) => return Err("a primary without an epoch".to_owned()),
            (Some(primary), _) => {
                let Some(lease) = self.leases.get(&primary.instance) else {
                    return Err("a primary without a lease".to_owned());
                };
                if lease.term.epoch != self.epoch {
                    return Err("the primary's lease is of another epoch".to_owned());
                }
                if lease.data != primary.data {
                    return Err("the primary's lease is for another life of its data".to_owned());
                }
            }
        }
        for (name, lease) in &self.leases {
            let is_primary = self.primary.as_ref().is_some_and(|p| p.instance == *name);
            if !is_primary && lease.term.epoch >= self.epoch {
                return Err(format!("{name} has a lease of the current epoch and is not its primary"));
            }
        }
        if let Some(takeover) = &self.takeover {
            let Some(run) = self.active_run() else {
                return Err("a takeover is open without a run".to_owned());
            };
            if run.id != takeover.run {
                return Err("a takeover belongs to another run than the one going on".to_owned());
            }
            if self.lease().map(|lease| lease.term) != Some(takeover.term) {
                return Err("a takeover ends another lease than the current one".to_owned());
            }
        }
        if self.unended.is_some() && self.lease().is_some_and(|lease| !lease.holders.is_empty()) {
            return Err("a lease has holders while an older one is not over".to_owned());
        }
        self.check_quorums()?;
        if self.pause.is_some() && self.active_run().is_some() {
            return Err("a run goes on in a paused group".to_owned());
        }
        Ok(())
    }

    fn check_quorums(&self) -> Result<(), String> {
        let Some(newest) = self.quorum() else {
            let wanted = crate::quorum::asked(self) && self.primary.is_some();
            return if wanted { Err("a zero-loss group without a commit quorum".to_owned()) } else { Ok(()) };
        };
        let led = self.primary.as_ref().is_some_and(|p| {
            newest.led_by.instance == p.instance && newest.led_by.data == p.data && newest.epoch == self.epoch
        });
        if !led {
            return Err("the newest commit quorum is not the current primary's".to_owned());
        }
        if !self.quorums.is_sorted_by(|one, other| one.version < other.version) {
            return Err("the commit quorums are out of order".to_owned());
        }
        Ok(())
    }
}
