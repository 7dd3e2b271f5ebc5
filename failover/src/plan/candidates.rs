//! Who may become the primary. A total order with a stated reason for every rejection; first from what guards say while
//! planning, then, decisively, from the positions at which the standbys were frozen.

use mesh_proto::effect::{Effect, Finding, Outcome};
use mesh_proto::evidence::{Position, ProcessState};
use mesh_proto::quorum::QuorumMember;
use mesh_proto::{DataIncarnation, Epoch, GuardIncarnation, InstanceName, Lsn, SiteName};

use crate::Moment;
use crate::quorum;
use crate::state::Group;
use crate::verdict::observations::Observations;

/// The limits that an operator waived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waived {
    /// The lag limit.
    pub lag: bool,
    /// That nothing acknowledged may be lost, in a zero-loss group.
    pub loss: bool,
}

/// A standby before it is frozen: a candidate, or rejected with a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The standby.
    pub instance: InstanceName,
    /// Its site.
    pub site: SiteName,
    /// Why it may not be promoted; `None` if it may.
    pub rejected: Option<String>,
    /// Bytes behind the primary's last known position.
    pub lag: Option<u64>,
}

/// A standby after it was frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The standby.
    pub instance: InstanceName,
    /// Where it stands for good.
    pub position: Position,
    /// The life of its data.
    pub data: DataIncarnation,
    /// The life of its guard.
    pub guard: GuardIncarnation,
    /// Its system identifier.
    pub system_id: u64,
    /// The newest epoch that its data is known to be of.
    pub line: Option<Epoch>,
}

/// The furthest position of the primary that is known, with its timeline: as its guard last told this leader, or as the
/// log has it from when the primary was opened. A leader that never heard the primary must not take a standby that was
/// away during the whole epoch for a current one.
#[must_use]
pub fn primary_position(group: &Group, heard: &Observations) -> Option<Position> {
    let primary = group.primary.as_ref()?;
    let told = heard.last_position(&group.spec.group, &primary.instance);
    [told, opened_at(group)].into_iter().flatten().max_by_key(|position| (position.timeline, position.have))
}

/// Where the primary of the current epoch began to write, if the log says so.
fn opened_at(group: &Group) -> Option<Position> {
    let primary = group.primary.as_ref()?;
    let steps = group.history.iter().chain(&group.run).flat_map(|run| run.steps.values());
    let opened = steps.filter_map(|step| match (&step.effect, &step.outcome) {
        (Effect::Promote { instance, term, .. }, Some(Outcome::Done(Finding::Promoted { timeline, at })))
            if *instance == primary.instance && term.epoch == group.epoch =>
        {
            Some(Position { timeline: *timeline, have: *at, replayed: *at })
        }
        _ => None,
    });
    opened.max_by_key(|position| (position.timeline, position.have))
}

/// Assesses every standby of the group, best first.
#[must_use]
pub fn assess(now: Moment, group: &Group, heard: &Observations, waived: Waived) -> Vec<Standing> {
    let Some(primary) = &group.primary else { return Vec::new() };
    // In a zero-loss group it counts who must have every acknowledged write, not how far the primary was beyond that.
    let zero_loss = quorum::asked(group);
    let uncovered = (zero_loss && !waived.loss).then(|| uncovered(now, group, heard)).flatten();
    let reference = primary_position(group, heard);
    let mut all: Vec<(Standing, Lsn, u32, usize)> = Vec::new();
    for spec in group.spec.instances.iter().filter(|i| i.name != primary.instance) {
        let status = heard.fresh_guard(now, &group.spec.group, &spec.name, group.timing.fresh);
        let position = status.and_then(|s| s.position);
        let lag = match (reference, position) {
            (Some(reference), Some(position)) => Some(reference.have.bytes_since(position.have)),
            (None, _) | (_, None) => None,
        };
        let left = || group.astray(status?.line, position?.have).filter(|_| !waived.loss);
        let rejected = match status {
            None => Some("its guard is silent".to_owned()),
            Some(_) if spec.priority == 0 => Some("priority 0: never promoted".to_owned()),
            Some(status) if status.process != ProcessState::Standby => Some(
                status
                    .trouble
                    .clone()
                    .unwrap_or_else(|| format!("is no running standby: it {}", status.process)),
            ),
            Some(status) if status.system_id != group.system_id => {
                Some("is a server of another cluster: the system identifier differs".to_owned())
            }
            Some(status) if status.engine != group.spec.engine => {
                Some(format!("its guard guards {}, and the group is of {}", status.engine, group.spec.engine))
            }
            Some(status) if status.data.is_none() => Some("the life of its data is not known".to_owned()),
            Some(_) if position.is_none() => Some("its position is not known".to_owned()),
            Some(_) if zero_loss => left().or_else(|| uncovered.clone()),
            Some(_) => left().or_else(|| position_rejection(group, reference, position, lag, waived.lag)),
        };
        let rank = site_rank(group, &spec.site);
        let have = position.map(|p| p.have).unwrap_or_default();
        all.push((
            Standing { instance: spec.name.clone(), site: spec.site.clone(), rejected, lag },
            have,
            spec.priority,
            rank,
        ));
    }
    // Candidates first; then the furthest, the highest priority, the preferred site, the name.
    all.sort_by(|(a, have_a, priority_a, rank_a), (b, have_b, priority_b, rank_b)| {
        let key_a = (a.rejected.is_some(), std::cmp::Reverse((have_a, priority_a)), rank_a, &a.instance);
        let key_b = (b.rejected.is_some(), std::cmp::Reverse((have_b, priority_b)), rank_b, &b.instance);
        key_a.cmp(&key_b)
    });
    all.into_iter().map(|(standing, ..)| standing).collect()
}

/// Why standbys that could be frozen now might lack an acknowledged write, if so. Where they stand is compared later.
pub(crate) fn uncovered(now: Moment, group: &Group, heard: &Observations) -> Option<String> {
    let within_reach = group.spec.instances.iter().filter_map(|spec| {
        let status = heard.fresh_guard(now, &group.spec.group, &spec.name, group.timing.fresh)?;
        let usable = match status.process {
            ProcessState::Standby | ProcessState::Stopped | ProcessState::Died => true,
            ProcessState::Primary
            | ProcessState::Starting
            | ProcessState::Unresponsive
            | ProcessState::Unknown => false,
        };
        let former = group.primary.as_ref().is_some_and(|primary| primary.instance == spec.name);
        let data = status.data.clone().filter(|_| usable && !former)?;
        Some(QuorumMember { instance: spec.name.clone(), data })
    });
    quorum::covers(&group.quorums, &within_reach.collect()).err().map(|missing| missing.to_string())
}

fn position_rejection(
    group: &Group,
    reference: Option<Position>,
    position: Option<Position>,
    lag: Option<u64>,
    accept_lag: bool,
) -> Option<String> {
    let Some(position) = position else { return Some("its position is not known".to_owned()) };
    if let Some(reference) = reference
        && position.timeline != reference.timeline
    {
        return Some(format!(
            "stands on timeline {}, the primary on {}: its history differs",
            position.timeline, reference.timeline
        ));
    }
    match lag {
        Some(lag) if lag > group.spec.max_lag_bytes && !accept_lag => Some(format!(
            "lags by {lag} bytes, more than max_lag_bytes = {}; `mesh failover --force` would lose them",
            group.spec.max_lag_bytes
        )),
        Some(_) | None => None,
    }
}

fn site_rank(group: &Group, site: &SiteName) -> usize {
    group.spec.site_preference.iter().position(|s| s == site).unwrap_or(usize::MAX)
}

/// The best of the frozen standbys, and why the others are not: lineage, then the furthest position, then priority,
/// then the preferred site, then the name, so that the answer is the same whoever asks.
///
/// `timeline` is the primary's last known one: a standby on another has another history, however far it is.
#[must_use]
pub fn best<'a>(
    group: &Group,
    frozen: &'a [Candidate],
    timeline: Option<u32>,
    reference: Option<Lsn>,
    accept_lag: bool,
) -> (Option<&'a Candidate>, Vec<(InstanceName, String)>) {
    let mut rejected = Vec::new();
    let mut fit: Vec<&Candidate> = Vec::new();
    let left = |candidate: &Candidate| group.astray(candidate.line, candidate.position.have);
    // Without a word of the primary, the lineage is the furthest timeline that a standby of its history reached.
    let of_it = frozen.iter().filter(|candidate| left(candidate).is_none());
    let lineage = timeline.or_else(|| of_it.map(|c| c.position.timeline).max());
    for candidate in frozen {
        let lag = reference.map(|r| r.bytes_since(candidate.position.have));
        let why = if group.system_id.is_some_and(|id| id != candidate.system_id) {
            Some("is a server of another cluster: the system identifier differs".to_owned())
        } else if group.instance(&candidate.instance).is_none_or(|i| i.priority == 0) {
            Some("priority 0: never promoted".to_owned())
        } else if let Some(why) = left(candidate) {
            Some(why)
        } else if lineage.is_some_and(|l| l != candidate.position.timeline) {
            Some(format!("stands on timeline {}, not {}", candidate.position.timeline, lineage.unwrap_or(0)))
        } else if lag.is_some_and(|lag| lag > group.spec.max_lag_bytes) && !accept_lag {
            Some(format!("lags by {} bytes, more than max_lag_bytes", lag.unwrap_or(0)))
        } else {
            None
        };
        match why {
            Some(why) => rejected.push((candidate.instance.clone(), why)),
            None => fit.push(candidate),
        }
    }
    fit.sort_by_key(|c| {
        let spec = group.instance(&c.instance);
        let priority = spec.map_or(0, |s| s.priority);
        let rank = spec.map_or(usize::MAX, |s| site_rank(group, &s.site));
        (std::cmp::Reverse((c.position.have, priority)), rank, c.instance.clone())
    });
    let mut fit = fit.into_iter();
    let chosen = fit.next();
    for other in fit {
        rejected.push((
            other.instance.clone(),
            format!("{} is preferred", chosen.map_or("", |c| c.instance.as_str())),
        ));
    }
    (chosen, rejected)
}
