//! Lets commits of a zero-loss group go on without standbys where its policy says so, after they have waited for that long,
//! and ends that when enough standbys are back and no longer behind. What an operator decided it never ends.

use std::collections::BTreeSet;

use mesh_proto::command::Command;
use mesh_proto::evidence::{GuardStatus, WriteProbe};
use mesh_proto::quorum::{DegradedBy, QuorumConfig, QuorumMember};
use mesh_proto::spec::Degrade;
use mesh_proto::{InstanceName, Millis};

use super::decide::Step;
use super::quorum::streaming;
use super::{Context, Driver};
use crate::Moment;
use crate::quorum::asked;
use crate::state::Group;
use crate::verdict::observations::Observations;

/// How far behind the primary a standby may be that commits shall wait for again, in bytes: one WAL segment of PostgreSQL's
/// default size. Further behind, commits would stand still until it has caught up.
const BEHIND_MAX: u64 = 16 * 1024 * 1024;

/// How long enough standbys must have kept up before commits wait for them again: a flapping link does not switch to and fro.
const STEADY_FOR: Millis = Millis(5_000);

impl Driver {
    /// The policy's next decision, if one is due.
    pub(super) fn degrade(
        &mut self,
        context: &Context<'_>,
        group: &Group,
        primary: &GuardStatus,
    ) -> Option<Step> {
        if !asked(group) || group.spec.degrade != Degrade::After {
            self.short_since = None;
            return None;
        }
        let name = group.spec.group.clone();
        match &group.degraded {
            None => {
                self.kept_up_since = None;
                let Some((newest, how)) = short(context.now, context.heard, group, primary) else {
                    self.short_since = None;
                    return None;
                };
                let since = *self.short_since.get_or_insert(context.now);
                let patience = Millis(group.spec.degrade_after_seconds.saturating_mul(1_000));
                (context.now.since(since) >= patience).then(|| {
                    let reason = format!("they had waited {patience} for {newest}, and {how}");
                    Step::Go(vec![Command::DegradeBegun { group: name, by: DegradedBy::Policy, reason }])
                })
            }
            Some(known) if known.by == DegradedBy::Hand => None,
            Some(_) => {
                self.short_since = None;
                let back = keeps_up(context.now, context.heard, group, primary);
                if back.len() < group.spec.quorum_size as usize {
                    self.kept_up_since = None;
                    return None;
                }
                let since = *self.kept_up_since.get_or_insert(context.now);
                (context.now.since(since) >= STEADY_FOR).then(|| {
                    let names: Vec<_> = back.iter().map(InstanceName::as_str).collect();
                    let reason = format!("{} kept up for {STEADY_FOR}", names.join(" and "));
                    Step::Go(vec![Command::DegradeEnded { group: name, by: DegradedBy::Policy, reason }])
                })
            }
        }
    }
}

/// Why commits stand still for want of standbys, if they do.
#[must_use]
pub fn commits_wait(
    now: Moment,
    heard: &Observations,
    group: &Group,
    primary: &GuardStatus,
) -> Option<String> {
    let (newest, how) = short(now, heard, group, primary)?;
    Some(format!("commits wait for {newest}, and {how}"))
}

/// What commits wait for that is not there, and how it is not there.
fn short<'a>(
    now: Moment,
    heard: &Observations,
    group: &'a Group,
    primary: &GuardStatus,
) -> Option<(&'a QuorumConfig, String)> {
    let newest = group.quorum().filter(|newest| newest.k > 0)?;
    let present: BTreeSet<QuorumMember> = streaming(now, heard, group);
    let there = newest.standbys.intersection(&present).count();
    if there < newest.k as usize {
        let streams = match there {
            0 => "none of them streams".to_owned(),
            1 => "one of them streams".to_owned(),
            more => format!("{more} of them stream"),
        };
        return Some((newest, streams));
    }
    // It streams and flushes nothing: its disk hangs, say.
    (primary.write_probe == WriteProbe::WaitingForStandbys)
        .then(|| (newest, "what is written there is not flushed".to_owned()))
}

/// The standbys that would not keep a commit waiting: they stream, and are hardly behind.
#[must_use]
pub fn keeps_up(
    now: Moment,
    heard: &Observations,
    group: &Group,
    primary: &GuardStatus,
) -> Vec<InstanceName> {
    let Some(end) = primary.position else { return Vec::new() };
    let members = streaming(now, heard, group).into_iter();
    let near = members.filter(|member| {
        let heard = heard.fresh_guard(now, &group.spec.group, &member.instance, group.timing.fresh);
        heard.and_then(|status| status.position).is_some_and(|position| {
            position.timeline == end.timeline && end.have.0.saturating_sub(position.have.0) <= BEHIND_MAX
        })
    });
    near.map(|member| member.instance).collect()
}
