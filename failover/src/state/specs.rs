//! Specs: a compare-and-set on the version, checked as a whole.

use mesh_proto::command::Refused;
use mesh_proto::spec::GroupSpec;

use super::apply::{Stamp, compare};
use super::{Group, MeshState};
use crate::policy;

impl MeshState {
    pub(super) fn apply_spec(
        &mut self,
        stamp: Stamp,
        replaces: u64,
        spec: &GroupSpec,
    ) -> Result<(), Refused> {
        if self.mesh.is_none() {
            return Err(Refused::Forbidden("the mesh is not formed yet; run `mesh form`".to_owned()));
        }
        let mut findings = policy::check(spec, &self.member_list());
        findings.extend(policy::check_beside(spec, self.groups.values().map(|group| &group.spec)));
        if let Some(first) = findings.first() {
            return Err(Refused::Forbidden(first.to_string()));
        }
        let timing = policy::timing(spec);
        let Some(group) = self.groups.get_mut(&spec.group) else {
            compare("the version of the spec", &replaces, &0)?;
            self.groups.insert(spec.group.clone(), Group::new(spec.clone(), timing, stamp.at));
            return Ok(());
        };
        compare("the version of the spec", &replaces, &group.version)?;
        if group.active_run().is_some() {
            return Err(Refused::Forbidden("a run is going on; apply the spec when it is over".to_owned()));
        }
        group.keep_identities(spec)?;
        group.largest_fence = group.largest_fence.max(timing.fence);
        group.largest_lease = group.largest_lease.max(group.timing.lease).max(timing.lease);
        group.timing = timing;
        group.spec = spec.clone();
        group.version += 1;
        group.begin_quorums();
        group.keep_degraded();
        Ok(())
    }
}

impl Group {
    /// An instance's name is its identity: it cannot be taken from a primary, or moved to another host.
    fn keep_identities(&self, spec: &GroupSpec) -> Result<(), Refused> {
        if let Some(primary) = &self.primary
            && !spec.instances.iter().any(|i| i.name == primary.instance)
        {
            return Err(Refused::Forbidden(format!(
                "{} is the primary of this group; fail over to another instance before removing it",
                primary.instance
            )));
        }
        for old in &self.spec.instances {
            let moved = spec.instances.iter().any(|new| new.name == old.name && new.agent != old.agent);
            if moved {
                return Err(Refused::Forbidden(format!(
                    "{} cannot move to another agent: a server elsewhere is another instance; give it a new name",
                    old.name
                )));
            }
        }
        Ok(())
    }
}
