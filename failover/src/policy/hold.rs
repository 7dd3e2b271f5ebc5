//! What must hold of a group that goes on without a majority of voters. Pure, as all of it.

use mesh_proto::spec::{GroupSpec, MajorityLost, Open};

use super::Finding;

/// What makes `majority_lost = "hold"` unsound, or void.
pub(super) fn check(spec: &GroupSpec) -> Vec<Finding> {
    match spec.majority_lost {
        MajorityLost::Fence => return Vec::new(),
        MajorityLost::Hold => {}
    }
    let mut findings = Vec::new();
    if spec.instances.len() == 1 {
        findings.push(Finding::new(
            "majority_lost",
            "\"hold\" rests on the promises of the guards of all other instances, and the group has no other",
            "add an [[instance]], or leave it out: a primary without a majority of voters is fenced",
        ));
    }
    if spec.open == Open::DurabilityOnly {
        findings.push(Finding::new(
            "majority_lost",
            "with \"hold\" nobody can say beforehand for how long an old primary answers readers, and \
             open = \"durability-only\" does not wait for its end",
            "leave out one of the two",
        ));
    }
    findings
}

/// What a fault means in a group that holds, for people: each line a case and what becomes of it.
#[must_use]
pub fn cases(spec: &GroupSpec) -> Vec<String> {
    match spec.majority_lost {
        MajorityLost::Fence => return Vec::new(),
        MajorityLost::Hold => {}
    }
    let others = spec.instances.len().saturating_sub(1);
    let guards = if others == 1 { "the other guard" } else { "every other guard" };
    let mut cases = vec![
        format!(
            "the majority of the voters is lost, {guards} is reached: the primary serves on, and nobody can be \
             promoted meanwhile"
        ),
        format!("and then {guards} is not reached any more, for a lease: the primary is fenced"),
        "the primary is cut off together with all other instances, and a majority of voters is not: it serves on \
         where it is"
            .to_owned(),
        "an instance that was added since the primary was last granted a lease is promoted only after a receipt, or \
         when the primary's host is turned off"
            .to_owned(),
    ];
    if others == 1 {
        cases.push(
            "the primary's host comes back from a reboot while the other guard is down: it opens only when the other \
             guard answers, since nobody else can say that no older life of it serves"
                .to_owned(),
        );
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(more: &str, instances: usize) -> GroupSpec {
        let all: Vec<_> = (0..instances)
            .map(|at| {
                format!(
                    r#"{{"name":"pg-{at}","site":"east","agent":"a","address":"10.0.0.{at}:1","guard":"10.0.0.{at}:2"}}"#
                )
            })
            .collect();
        serde_json::from_str(&format!(r#"{{"group":"g",{more}"instance":[{}]}}"#, all.join(","))).unwrap()
    }

    #[test]
    fn a_group_that_holds_has_somebody_to_promise_and_waits_for_the_old_primary() {
        let found = |more: &str, instances| check(&spec(more, instances)).len();
        assert_eq!(found("", 1), 0);
        assert_eq!(found(r#""majority_lost":"hold","#, 2), 0);
        assert_eq!(found(r#""majority_lost":"hold","#, 1), 1);
        let early = r#""majority_lost":"hold","durability":"zero-loss","open":"durability-only","#;
        assert_eq!(found(early, 3), 1);
        assert_eq!(found(r#""majority_lost":"hold","durability":"zero-loss","#, 3), 0);
    }

    #[test]
    fn what_it_means_is_said_only_where_it_is_asked_for() {
        assert!(cases(&spec("", 2)).is_empty());
        assert_eq!(cases(&spec(r#""majority_lost":"hold","#, 2)).len(), 5);
        assert_eq!(cases(&spec(r#""majority_lost":"hold","#, 3)).len(), 4);
    }
}
