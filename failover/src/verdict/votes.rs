//! Votes of observers, counted by site: three agents at one site are one witness of a partition.

use std::collections::BTreeMap;

use mesh_proto::evidence::Seen;
use mesh_proto::{AgentName, InstanceName, Millis, SiteName};

use super::observations::{Observations, sighting};
use crate::Moment;
use crate::mutants::{Mutant, Mutants};
use crate::state::{Group, MeshState};

/// What one observer says of the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vote {
    /// It has been lost to the observer for this long.
    Lost(Millis),
    /// It answers.
    Sees(Seen),
    /// The observer says nothing that counts, because …
    Disqualified(Why),
}

/// Why an observer's word does not count: blind is not a witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// No fresh report.
    Silent,
    /// It reaches no other agent: it is itself cut off.
    CutOff,
    /// Its own loop ran late: it was starved.
    Starved,
    /// Its newest probe is too old, or none was made.
    NoProbe,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Silent => "silent",
            Self::CutOff => "reaches no other agent",
            Self::Starved => "ran late itself",
            Self::NoProbe => "has no recent probe",
        })
    }
}

/// The votes on one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Each expected observer with its site and vote.
    pub votes: Vec<(AgentName, SiteName, Vote)>,
    /// Whether a majority of the expected observers reported freshly.
    pub enough_fresh: bool,
    /// Sites other than the primary's that say "lost", each with the shortest time its observers say.
    pub lost_sites: BTreeMap<SiteName, Millis>,
    /// How many other sites there are.
    pub other_sites: usize,
    /// Whether any qualified observer sees it answer.
    pub seen_by_any: bool,
}

impl Tally {
    /// How long a majority of the other sites has had it lost; `None` if no majority has.
    #[must_use]
    pub fn lost_for(&self) -> Option<Millis> {
        let majority = self.other_sites / 2 + 1;
        let mut lengths: Vec<_> = self.lost_sites.values().copied().collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        // The majority has existed for as long as its last member has said so.
        if self.other_sites == 0 { None } else { lengths.get(majority - 1).copied() }
    }

    /// How many observers reported freshly, of how many.
    #[must_use]
    pub fn fresh(&self) -> (u32, u32) {
        let silent = self.votes.iter().filter(|(_, _, v)| *v == Vote::Disqualified(Why::Silent)).count();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        (count(self.votes.len() - silent), count(self.votes.len()))
    }
}

/// The observers that a group expects, with their sites.
#[must_use]
pub fn expected(state: &MeshState, group: &Group) -> Vec<(AgentName, SiteName)> {
    let all = group.spec.observers.is_empty();
    let wanted = state.members.values().filter(|m| all || group.spec.observers.contains(&m.agent));
    wanted.map(|m| (m.agent.clone(), m.site.clone())).collect()
}

/// Counts the votes on an instance.
#[must_use]
pub fn count(
    now: Moment,
    state: &MeshState,
    group: &Group,
    of: &InstanceName,
    heard: &Observations,
) -> Tally {
    count_without(&Mutants::none(), now, state, group, of, heard)
}

/// The same, with rules switched off by a test.
pub(super) fn count_without(
    mutants: &Mutants,
    now: Moment,
    state: &MeshState,
    group: &Group,
    of: &InstanceName,
    heard: &Observations,
) -> Tally {
    let blind_is_witness = mutants.has(Mutant::BlindIsWitness);
    let home = group.instance(of).map(|i| &i.site);
    let fresh = group.timing.fresh;
    let mut votes = Vec::new();
    for (agent, site) in expected(state, group) {
        let mut vote = vote(now, state, group, of, heard, &agent, fresh);
        if blind_is_witness && matches!(vote, Vote::Disqualified(_)) {
            vote = Vote::Lost(group.timing.leave_site_after);
        }
        votes.push((agent, site, vote));
    }
    let silent = votes.iter().filter(|(_, _, v)| *v == Vote::Disqualified(Why::Silent)).count();
    let enough_fresh = (votes.len() - silent) * 2 > votes.len();
    let by_agent = mutants.has(Mutant::VotesByAgent);
    let mut by_site: BTreeMap<SiteName, Vec<&Vote>> = BTreeMap::new();
    for (agent, site, vote) in &votes {
        if Some(site) != home {
            let site = if by_agent { agent.as_str().parse().unwrap_or(site.clone()) } else { site.clone() };
            by_site.entry(site).or_default().push(vote);
        }
    }
    let other_sites = by_site.len();
    let lost_sites =
        by_site.into_iter().filter_map(|(site, votes)| site_lost(&votes).map(|l| (site, l))).collect();
    let seen_by_any = votes.iter().any(|(_, _, v)| matches!(v, Vote::Sees(_)));
    Tally { votes, enough_fresh, lost_sites, other_sites, seen_by_any }
}

/// A site says "lost" when a majority of its qualified observers does.
fn site_lost(votes: &[&Vote]) -> Option<Millis> {
    let qualified = votes.iter().filter(|v| !matches!(v, Vote::Disqualified(_))).count();
    let mut lost: Vec<Millis> =
        votes.iter().filter_map(|v| if let Vote::Lost(length) = v { Some(*length) } else { None }).collect();
    if lost.is_empty() || lost.len() * 2 <= qualified {
        return None;
    }
    lost.sort_unstable();
    lost.first().copied()
}

fn vote(
    now: Moment,
    state: &MeshState,
    group: &Group,
    of: &InstanceName,
    heard: &Observations,
    agent: &AgentName,
    fresh: Millis,
) -> Vote {
    let Some(report) = heard.fresh_report(now, agent, fresh) else { return Vote::Disqualified(Why::Silent) };
    if report.said.starved.is_some_and(|ago| ago.plus(report.age(now)) < fresh) {
        return Vote::Disqualified(Why::Starved);
    }
    if state.members.len() > 1 && report.said.reaches.is_empty() {
        return Vote::Disqualified(Why::CutOff);
    }
    let Some((sighting, age)) = sighting(now, report, &group.spec.group, of) else {
        return Vote::Disqualified(Why::NoProbe);
    };
    // A probe that hangs ends as "timed out" within a few intervals; an older one means the prober itself stopped.
    if age > fresh.plus(group.timing.probe.times(4)) || sighting.seen == Seen::NotYet {
        return Vote::Disqualified(Why::NoProbe);
    }
    match sighting.lost_for {
        Some(lost) if sighting.seen.is_lost() => Vote::Lost(lost.plus(report.age(now))),
        Some(_) | None => Vote::Sees(sighting.seen),
    }
}
