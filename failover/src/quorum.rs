//! Whether frozen standbys must hold every acknowledged write (PROTOCOL, Commit quorum), and what a spec's quorum is worth
//! when a site is lost. Arithmetic over sets: it never looks at positions of a running server, and never trusts a name
//! without the life of its data.

use std::collections::BTreeSet;

use mesh_proto::quorum::{FrozenAt, QuorumConfig, QuorumMember};
use mesh_proto::spec::{Degrade, Durability, GroupSpec};
use mesh_proto::{InstanceName, SiteName};

use crate::policy::Finding;
use crate::state::Group;

/// What keeps frozen standbys from being known to hold everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shortfall {
    /// Commits may have been acknowledged without any standby.
    NobodyWaitedFor,
    /// A write may have been acknowledged by standbys that are not among these.
    NotCovered {
        /// The configuration, in words.
        config: String,
        /// How many more of the missing ones it takes.
        more: usize,
        /// The listed standbys that are not there.
        missing: Vec<QuorumMember>,
    },
}

impl std::fmt::Display for Shortfall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NobodyWaitedFor => f.write_str(
                "commits may have been acknowledged that wait for no standby: only the old primary surely has them",
            ),
            Self::NotCovered { config, more, missing } => {
                let names: Vec<_> = missing.iter().map(|m| format!("{} ({})", m.instance, m.data)).collect();
                write!(
                    f,
                    "a write acknowledged by {config} may be missing: {more} more of {} must be frozen and stand no further",
                    names.join(", ")
                )
            }
        }
    }
}

/// Whether every set of standbys that could have acknowledged a write, under every configuration that may be in force, has
/// one of these in it.
///
/// # Errors
/// The first configuration for which it is not so.
pub fn covers(configs: &[QuorumConfig], frozen: &BTreeSet<QuorumMember>) -> Result<(), Shortfall> {
    for config in configs {
        // Its own primary, in the same life of its data, has all that it acknowledged.
        if frozen.contains(&config.led_by) {
            continue;
        }
        if config.k == 0 {
            return Err(Shortfall::NobodyWaitedFor);
        }
        // A quorum that cannot be met never acknowledged anything.
        let least = (config.standbys.len() + 1).saturating_sub(config.k as usize);
        let have = config.standbys.intersection(frozen).count();
        if have < least {
            return Err(Shortfall::NotCovered {
                config: config.to_string(),
                more: least - have,
                missing: config.standbys.difference(frozen).cloned().collect(),
            });
        }
    }
    Ok(())
}

/// Of the frozen, those that stand no further than this one: what it surely has all of.
#[must_use]
pub fn no_further(frozen: &[FrozenAt], chosen: &QuorumMember) -> Vec<FrozenAt> {
    let Some(at) = frozen.iter().find(|one| one.member == *chosen).map(|one| one.position) else {
        return Vec::new();
    };
    let within = |one: &&FrozenAt| one.position.timeline <= at.timeline && one.position.have <= at.have;
    frozen.iter().filter(within).cloned().collect()
}

/// Whether promoting this one of the frozen loses nothing.
///
/// # Errors
/// What is missing.
pub fn loses_nothing(
    configs: &[QuorumConfig],
    frozen: &[FrozenAt],
    chosen: &QuorumMember,
) -> Result<Vec<FrozenAt>, Shortfall> {
    let within = no_further(frozen, chosen);
    let members = within.iter().map(|one| one.member.clone()).collect();
    covers(configs, &members).map(|()| within)
}

/// Whether a promotion of this group needs a proof that nothing acknowledged is lost.
#[must_use]
pub fn asked(group: &Group) -> bool {
    group.spec.durability == Durability::ZeroLoss
}

/// Whether a spec's quorum could ever be met, and means anything.
#[must_use]
pub(crate) fn check(spec: &GroupSpec) -> Option<Finding> {
    let standbys = spec.instances.len().saturating_sub(1);
    match spec.durability {
        Durability::Bounded => None,
        Durability::ZeroLoss if spec.degrade == Degrade::After && spec.degrade_after_seconds == 0 => {
            Some(Finding::new(
                "degrade_after_seconds",
                "with 0, commits would be let go at the first moment that a standby is away, and a failover could lose them",
                "use at least 1, or durability = \"bounded\"",
            ))
        }
        Durability::ZeroLoss if spec.quorum_size == 0 => Some(Finding::new(
            "quorum_size",
            "with 0, commits would wait for no standby, and a failover could lose them",
            "use at least 1, or durability = \"bounded\"",
        )),
        Durability::ZeroLoss if spec.quorum_size as usize > standbys => Some(Finding::new(
            "quorum_size",
            format!("{} standbys can never have flushed: the group has {standbys}", spec.quorum_size),
            "add an instance, or lower it",
        )),
        Durability::ZeroLoss => None,
    }
}

/// What the loss of one site leaves a zero-loss group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteLoss {
    /// The site.
    pub site: SiteName,
    /// The primary for which this is the worst case.
    pub primary: InstanceName,
    /// Whether what is left could go on acknowledging, or be promoted without losing anything.
    pub what: Left,
}

/// What is left after a site was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Left {
    /// Commits go on, where need be after a failover that loses nothing.
    Serves,
    /// Nothing is lost, but commits wait until a standby is back.
    Waits,
    /// A failover would be stuck: acknowledged writes might be on the lost site alone.
    Stuck,
}

impl std::fmt::Display for SiteLoss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { site, primary, what } = self;
        match what {
            Left::Serves => write!(f, "{site} lost: nothing is lost, and commits go on"),
            Left::Waits => write!(
                f,
                "{site} lost with {primary} as primary: nothing is lost, but commits wait until a standby is back"
            ),
            Left::Stuck => write!(
                f,
                "{site} lost with {primary} as primary: acknowledged writes may stand there alone, so a failover is \
                 stuck until it is back (or an operator accepts the loss)"
            ),
        }
    }
}

/// For each site, the worst that its loss does, whoever is the primary and with every standby in the quorum.
#[must_use]
pub fn site_losses(spec: &GroupSpec) -> Vec<SiteLoss> {
    let mut sites: Vec<_> = spec.instances.iter().map(|i| &i.site).collect();
    sites.sort_unstable();
    sites.dedup();
    let k = spec.quorum_size as usize;
    let worst = |site: &&SiteName| {
        let primaries = spec.instances.iter().filter(|i| i.priority > 0);
        let of = |primary: &mesh_proto::spec::InstanceSpec| {
            let standbys = spec.instances.iter().filter(|i| i.name != primary.name);
            let left: Vec<_> = standbys.clone().filter(|i| i.site != **site).collect();
            if primary.site != **site {
                return if left.len() >= k { Left::Serves } else { Left::Waits };
            }
            let listed = standbys.count();
            let promotable = left.iter().any(|i| i.priority > 0);
            if left.len() + k <= listed || !promotable {
                Left::Stuck
            } else if left.len() > k {
                Left::Serves
            } else {
                Left::Waits
            }
        };
        let all = primaries.map(|primary| (of(primary), &primary.name));
        all.max_by_key(|(left, _)| *left).map(|(what, primary)| SiteLoss {
            site: (*site).clone(),
            primary: primary.clone(),
            what,
        })
    };
    sites.iter().filter_map(worst).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_proto::evidence::Position;
    use mesh_proto::{DataIncarnation, Epoch, Lsn};

    fn member(name: &str) -> QuorumMember {
        QuorumMember { instance: name.parse().unwrap(), data: DataIncarnation(format!("d-{name}")) }
    }

    fn config(version: u64, k: u32, names: &[&str]) -> QuorumConfig {
        QuorumConfig {
            version,
            epoch: Epoch(1),
            led_by: member("p"),
            k,
            standbys: names.iter().map(|name| member(name)).collect(),
        }
    }

    fn subsets(of: &[&'static str]) -> Vec<Vec<&'static str>> {
        (0..1_usize << of.len())
            .map(|bits| {
                of.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, n)| *n).collect()
            })
            .collect()
    }

    /// Exhaustive over four standbys: the rule says yes iff no set of k listed standbys is disjoint from the frozen.
    #[test]
    fn the_rule_is_what_it_stands_for() {
        let all = ["a", "b", "c", "d"];
        let mut said_yes = 0;
        for listed in subsets(&all) {
            for k in 1..=4_u32 {
                for frozen in subsets(&all) {
                    let hidden = subsets(&listed)
                        .iter()
                        .any(|acks| acks.len() == k as usize && acks.iter().all(|one| !frozen.contains(one)));
                    let members = frozen.iter().map(|name| member(name)).collect();
                    let said = covers(&[config(1, k, &listed)], &members).is_ok();
                    assert_eq!(said, !hidden, "{k} of {listed:?}, frozen {frozen:?}");
                    said_yes += u32::from(said);
                }
            }
        }
        assert!(said_yes > 100);
    }

    #[test]
    fn every_configuration_that_may_be_in_force_must_be_covered() {
        let configs = [config(1, 1, &["a"]), config(2, 1, &["a", "b"])];
        let set = |names: &[&str]| names.iter().map(|n| member(n)).collect::<BTreeSet<_>>();
        assert!(covers(&configs, &set(&["a"])).is_err(), "b alone may have acknowledged under the newer");
        assert!(covers(&configs, &set(&["b"])).is_err());
        assert!(covers(&configs, &set(&["a", "b"])).is_ok());
        assert!(covers(&configs, &set(&["p"])).is_ok(), "the primary of the epoch has everything");
        let none = [config(0, 0, &[]), config(1, 1, &["a"])];
        assert_eq!(covers(&none, &set(&["a"])), Err(Shortfall::NobodyWaitedFor));
    }

    #[test]
    fn another_life_of_the_data_is_another_standby() {
        let rebuilt = QuorumMember { data: DataIncarnation("d-new".to_owned()), ..member("a") };
        let found = covers(&[config(1, 1, &["a"])], &BTreeSet::from([rebuilt]));
        let Err(Shortfall::NotCovered { more: 1, missing, .. }) = found else { panic!("{found:?}") };
        assert_eq!(missing, [member("a")]);
    }

    #[test]
    fn who_is_behind_another_does_not_count_with_it() {
        let at = |name: &str, timeline: u32, have: u64| FrozenAt {
            member: member(name),
            position: Position { timeline, have: Lsn(have), replayed: Lsn(have) },
        };
        let frozen = [at("a", 1, 50), at("b", 1, 80)];
        let configs = [config(1, 1, &["a", "b"])];
        assert!(loses_nothing(&configs, &frozen, &member("a")).is_err(), "b may have what a has not");
        assert_eq!(loses_nothing(&configs, &frozen, &member("b")).unwrap().len(), 2);
        let other = [at("a", 2, 50), at("b", 1, 80)];
        assert!(loses_nothing(&configs, &other, &member("a")).is_err(), "further on an older timeline");
        assert!(loses_nothing(&configs, &frozen, &member("c")).is_err(), "not frozen at all");
    }

    /// Every change from one configuration to another, over three standbys, the primary dying at every point of it: what was
    /// acknowledged is in every set that the rule accepts. Removed on purpose, each half of the rule lets a write be lost.
    #[test]
    fn a_change_is_safe_only_with_both_configurations_and_the_marker() {
        let all = ["a", "b", "c"];
        let configs: Vec<_> = subsets(&all)
            .into_iter()
            .flat_map(|names| (1..=names.len() as u32).map(move |k| (k, names.clone())))
            .collect();
        let mut losses = (0, 0, 0);
        for (k, old) in &configs {
            for (l, new) in &configs {
                let (before, after) = (config(1, *k, old), config(2, *l, new));
                losses.0 += lost(&before, &after, true, true);
                losses.1 += lost(&before, &after, false, true);
                losses.2 += lost(&before, &after, true, false);
            }
        }
        assert_eq!(losses.0, 0, "with both rules nothing is ever lost");
        assert!(losses.1 > 0 && losses.2 > 0, "each rule is needed: {losses:?}");
    }

    /// In how many situations a frozen set that the rule accepts lacks the write. One write, flushed by some standbys:
    /// acknowledged under `before` or `after` while either may be in force, or under `before` alone earlier.
    fn lost(before: &QuorumConfig, after: &QuorumConfig, both: bool, marker: bool) -> usize {
        let all = ["a", "b", "c"];
        let met = |config: &QuorumConfig, by: &BTreeSet<QuorumMember>| {
            config.standbys.intersection(by).count() >= config.k as usize
        };
        let journals: [(Vec<QuorumConfig>, bool); 2] = [
            // While it is being changed.
            (if both { vec![before.clone(), after.clone()] } else { vec![after.clone()] }, false),
            // After it was retired: with the marker, whatever was acknowledged stands on the new quorum too.
            (vec![after.clone()], marker),
        ];
        let mut count = 0;
        for (at, (journal, marked)) in journals.iter().enumerate() {
            for flushed in subsets(&all) {
                let flushed: BTreeSet<_> = flushed.iter().map(|name| member(name)).collect();
                // Retired: what was acknowledged under the old one is asked for, and what the marker waited for holds.
                let acknowledged = match at {
                    0 => met(before, &flushed) || met(after, &flushed),
                    _ => met(before, &flushed) && (!marked || met(after, &flushed)),
                };
                if !acknowledged {
                    continue;
                }
                for frozen in subsets(&all) {
                    let frozen: BTreeSet<_> = frozen.iter().map(|name| member(name)).collect();
                    let accepted = covers(journal, &frozen).is_ok();
                    count += usize::from(accepted && frozen.is_disjoint(&flushed));
                }
            }
        }
        count
    }

    #[test]
    fn the_worst_case_of_each_site_is_told() {
        let spec = |k: u32, sites: &[(&str, &str)]| -> GroupSpec {
            let instances: Vec<_> = sites
                .iter()
                .enumerate()
                .map(|(at, (name, site))| {
                    format!(
                        r#"{{"name":"{name}","site":"{site}","agent":"x","address":"10.0.0.{at}:1","guard":"10.0.0.{at}:2"}}"#
                    )
                })
                .collect();
            let text = format!(
                r#"{{"group":"g","durability":"zero-loss","quorum_size":{k},"instance":[{}]}}"#,
                instances.join(",")
            );
            serde_json::from_str(&text).unwrap()
        };
        let left = |k, sites: &[(&str, &str)]| -> Vec<Left> {
            site_losses(&spec(k, sites)).into_iter().map(|loss| loss.what).collect()
        };
        assert_eq!(left(1, &[("a", "east"), ("b", "dr")]), [Left::Waits, Left::Waits]);
        assert_eq!(left(1, &[("a", "east"), ("b", "dr"), ("c", "west")]), [Left::Serves; 3]);
        assert_eq!(left(2, &[("a", "east"), ("b", "dr"), ("c", "west")]), [Left::Waits; 3]);
        // b at the primary's site may be the only one that acknowledged.
        assert_eq!(left(1, &[("a", "east"), ("b", "east"), ("c", "dr")]), [Left::Serves, Left::Stuck]);
    }
}
