//! Notes in the log that a primary may go on without a majority of voters, once it serves and every other guard of the group
//! says that it would promise; gives the primary its next lease number where those that must promise are others than before.
//! It never asks for a promise itself, and takes none for a sign of life.

use std::collections::BTreeSet;

use mesh_proto::InstanceName;
use mesh_proto::command::Command;
use mesh_proto::evidence::GuardStatus;

use super::decide::Step;
use super::{Context, Driver};
use crate::state::Group;

impl Driver {
    /// What the log does not say yet of the lease in force, by what the guards themselves say. The caller has seen that the
    /// primary's guard holds it and that the server runs as the primary.
    pub(super) fn holders(
        &self,
        context: &Context<'_>,
        group: &Group,
        primary: &GuardStatus,
    ) -> Option<Step> {
        let lease = group.lease()?;
        if group.takeover.is_some() || group.pause.is_some() {
            return None;
        }
        let wanted = group.wanted_holders();
        let standing = primary.hold.as_ref()?;
        let serves = primary.guard == lease.guard && standing.opened == Some(lease.term);
        let known = lease.holders == wanted && group.unended.is_none();
        if !serves || known || !ready(context, group, &wanted) {
            return None;
        }
        let name = group.spec.group.clone();
        if lease.holders.is_empty() {
            return Some(Step::Go(vec![Command::HoldersKnown {
                group: name,
                term: lease.term,
                guard: lease.guard.clone(),
                holders: wanted,
            }]));
        }
        // Its guard may be holding by those that the log names, as long as it has this number.
        Some(Step::GoAndWait(vec![Command::LeaseGranted {
            group: name,
            instance: primary.instance.clone(),
            replaces: lease.term,
            data: lease.data.clone(),
            guard: lease.guard.clone(),
            proof: None,
            reason: "whose promises it needs without a majority has changed".to_owned(),
        }]))
    }
}

/// Whether each of them knows what it may be asked for, and would promise.
fn ready(context: &Context<'_>, group: &Group, holders: &BTreeSet<InstanceName>) -> bool {
    holders.iter().all(|holder| {
        let fresh = group.timing.fresh;
        let status = context.heard.fresh_guard(context.now, &group.spec.group, holder, fresh);
        status.and_then(|status| status.hold.as_ref()).is_some_and(|standing| standing.willing)
    })
}
