//! Keeps the commit quorum of a zero-loss group as its standbys really are: who streams under its own name joins, who has
//! been away for too long leaves, and both are entries of the log before the primary hears of them. It never lowers the
//! number of standbys that a commit waits for: the spec does, or a decision that stands in the log (`degrade`).

use std::collections::BTreeSet;

use mesh_proto::Millis;
use mesh_proto::command::Command;
use mesh_proto::evidence::{GuardStatus, ProcessState};
use mesh_proto::quorum::{QuorumConfig, QuorumMember, QuorumStage};

use super::decide::Step;
use super::{Context, Driver};
use crate::Moment;
use crate::mutants::Mutant;
use crate::quorum::asked;
use crate::state::Group;
use crate::verdict::observations::Observations;

/// How long a change may wait for its marker before another one takes its place.
const MARKER_PATIENCE: Millis = Millis(3_000);

impl Driver {
    /// The next change of the quorum, or the confirmation of the last: by what the primary's own guard says.
    pub(super) fn quorum(
        &mut self,
        context: &Context<'_>,
        group: &Group,
        primary: &GuardStatus,
    ) -> Option<Step> {
        let newest = group.quorum()?;
        let name = group.spec.group.clone();
        let open = group.quorums.len() > 1;
        let early = context.mutants.has(Mutant::RetiredBeforeMarker);
        let marked = primary.quorum.is_some_and(|seen| {
            seen.version == newest.version && (early || seen.stage == QuorumStage::Marked)
        });
        if open && marked {
            let version = newest.version;
            return Some(Step::Go(vec![Command::QuorumConfirmed { group: name, version }]));
        }
        let since = match self.quorum_open {
            Some((version, since)) if version == newest.version => since,
            Some(_) | None => {
                self.quorum_open = Some((newest.version, context.now));
                context.now
            }
        };
        let (k, standbys, reason) = self.wanted_quorum(context, group, newest)?;
        // One change at a time, unless the last one cannot come to its end, or nobody shall be waited for any more.
        let waits = open && k > 0 && newest.satisfiable() && context.now.since(since) < MARKER_PATIENCE;
        if waits {
            return None;
        }
        Some(Step::GoAndWait(vec![Command::QuorumChanged {
            group: name,
            replaces: newest.version,
            epoch: group.epoch,
            k,
            standbys,
            reason,
        }]))
    }

    /// What the quorum should be, if that is another one than the newest.
    fn wanted_quorum(
        &mut self,
        context: &Context<'_>,
        group: &Group,
        newest: &QuorumConfig,
    ) -> Option<(u32, BTreeSet<QuorumMember>, String)> {
        if !asked(group) {
            let reason = "the spec asks for no zero loss any more".to_owned();
            return (newest.k > 0).then(|| (0, BTreeSet::new(), reason));
        }
        if let Some(degraded) = &group.degraded {
            return (newest.k > 0).then(|| (0, BTreeSet::new(), degraded.reason.clone()));
        }
        let k = group.spec.quorum_size;
        let present = streaming(context.now, context.heard, group);
        self.absent.retain(|member, _| newest.standbys.contains(member) && !present.contains(member));
        let patience = Millis(group.spec.quorum_drop_after_seconds.saturating_mul(1_000));
        let mut wanted = present.clone();
        let mut gone = Vec::new();
        for member in newest.standbys.difference(&present) {
            let since = *self.absent.entry(member.clone()).or_insert(context.now);
            let away = context.now.since(since) >= patience;
            let replaced = present.iter().any(|other| other.instance == member.instance);
            // Below k it would make commits wait for ever, and a failover no easier.
            if (away || replaced) && present.len() >= k as usize {
                gone.push(format!("{} has been away", member.instance));
            } else {
                wanted.insert(member.clone());
            }
        }
        if wanted.len() < k as usize || (wanted == newest.standbys && k == newest.k) {
            return None;
        }
        let came = wanted.difference(&newest.standbys).map(|member| format!("{} streams", member.instance));
        let mut reasons: Vec<String> = came.chain(gone).collect();
        if newest.k > 0 && newest.k != k {
            reasons.push(format!("the spec asks for {k}"));
        }
        Some((k, wanted, reasons.join(", ")))
    }
}

/// The standbys that stream from the primary under the name of its epoch.
pub(super) fn streaming(now: Moment, heard: &Observations, group: &Group) -> BTreeSet<QuorumMember> {
    let Some(primary) = &group.primary else { return BTreeSet::new() };
    let standbys = group.spec.instances.iter().filter(|spec| spec.name != primary.instance);
    let there = standbys.filter_map(|spec| {
        let fresh = group.timing.fresh;
        let status = heard.fresh_guard(now, &group.spec.group, &spec.name, fresh)?;
        let member = QuorumMember { instance: spec.name.clone(), data: status.data.clone()? };
        let address = group.instance(&primary.instance)?.address.to_string();
        let receiving = status.receiving.as_ref()?;
        let streams = status.process == ProcessState::Standby
            && status.frozen.is_none()
            && receiving.streaming
            && receiving.from.as_deref() == Some(&address)
            && named(group, &member, receiving.name.as_deref());
        streams.then_some(member)
    });
    there.collect()
}

/// Whether a standby streams under the name that the quorum of this epoch lists it by.
pub(super) fn named(group: &Group, member: &QuorumMember, name: Option<&str>) -> bool {
    name == Some(&member.application_name(group.epoch))
}
