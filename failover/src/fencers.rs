//! External fencers: when a host is turned off from outside, and what that proves.
//!
//! Never before a majority has pledged durably (PROTOCOL, Taking over 4): a host that is off is not turned on again by mesh, so
//! nothing is turned off for a verdict that may still be taken back. Never while the guard itself can still fence in time.

use std::collections::BTreeSet;

use mesh_proto::command::MemberRecord;
use mesh_proto::effect::{Effect, Finding, Outcome};
use mesh_proto::lease::{LeaseTerm, Outside};
use mesh_proto::run::Run;
use mesh_proto::spec::{FencerSpec, GroupSpec};
use mesh_proto::{ErrandName, InstanceName, Millis};

use crate::policy;

/// Longest deadline of a fencer, in seconds: a management controller that takes longer is no help in a failover.
const DEADLINE_MAX: u64 = 300;

/// The fencers that turn this instance's host off.
pub fn of<'a>(spec: &'a GroupSpec, instance: &InstanceName) -> impl Iterator<Item = &'a FencerSpec> {
    let instance = instance.clone();
    spec.fencers.iter().filter(move |fencer| fencer.fences.contains(&instance))
}

/// What has the host of the instance whose lease a run ends turned off: each fencer, by each of its agents, once per takeover.
#[must_use]
pub fn effects(spec: &GroupSpec, run: &Run) -> Vec<Effect> {
    let each = |fencer: &FencerSpec| {
        let of_agent = |agent: &mesh_proto::AgentName| Effect::TurnOff {
            fencer: fencer.name.clone(),
            agent: agent.clone(),
            instance: run.ending_instance.clone(),
            term: run.ending,
            takeover: run.takeovers,
        };
        fencer.agents.iter().map(of_agent).collect::<Vec<_>>()
    };
    of(spec, &run.ending_instance).flat_map(each).collect()
}

/// What a step that turned the host off proves of a lease, if one did.
#[must_use]
pub fn proof(run: &Run, instance: &InstanceName, term: LeaseTerm) -> Option<Outside> {
    run.steps.iter().find_map(|(number, step)| {
        let Effect::TurnOff { fencer, agent, instance: off, term: ended, .. } = &step.effect else {
            return None;
        };
        match &step.outcome {
            Some(Outcome::Done(Finding::Off { said, .. })) if off == instance && *ended == term => {
                Some(Outside {
                    term,
                    step: *number,
                    fencer: fencer.clone(),
                    agent: agent.clone(),
                    said: said.clone(),
                })
            }
            Some(Outcome::Done(_) | Outcome::Refused { .. } | Outcome::Unknown { .. }) | None => None,
        }
    })
}

/// Whether the end of the lease alone does not let this run promote: a fencer is required, and no operator waived it.
#[must_use]
pub fn demanded(spec: &GroupSpec, run: &Run) -> bool {
    !run.plan.accept_lag && of(spec, &run.ending_instance).any(|fencer| fencer.required)
}

/// How long the fencers of an instance may take, the slowest of them.
#[must_use]
pub fn patience(spec: &GroupSpec, instance: &InstanceName) -> Millis {
    let longest = of(spec, instance).map(|fencer| fencer.deadline_seconds).max().unwrap_or(0);
    Millis(longest.saturating_mul(1_000))
}

/// How long the executor of a step may take.
#[must_use]
pub fn deadline(spec: &GroupSpec, name: &ErrandName) -> Millis {
    let known = spec.fencers.iter().find(|fencer| fencer.name == *name);
    Millis(known.map_or(0, |fencer| fencer.deadline_seconds.saturating_mul(1_000)))
}

/// What came of those that failed, for people.
#[must_use]
pub fn failures(run: &Run) -> Vec<String> {
    let told = |step: &mesh_proto::run::Step| match (&step.effect, &step.outcome) {
        (
            effect @ Effect::TurnOff { takeover, .. },
            Some(Outcome::Refused { detail, .. } | Outcome::Unknown { detail }),
        ) if *takeover == run.takeovers => Some(format!("{effect}: {detail}")),
        _ => None,
    };
    run.steps.values().filter_map(told).collect()
}

/// Checks the fencers of a spec against itself and the members of the mesh.
#[must_use]
pub fn check(spec: &GroupSpec, members: &[MemberRecord]) -> Vec<policy::Finding> {
    let mut findings = Vec::new();
    let errands = spec.services.iter().map(|s| &s.name).chain(spec.hooks.iter().map(|h| &h.name));
    let mut names: BTreeSet<&ErrandName> = errands.collect();
    for fencer in &spec.fencers {
        let key = |field: &str| format!("fencer[{}].{field}", fencer.name);
        let mut add = |field: &str, what: String, next: &str| {
            findings.push(policy::Finding::new(key(field), what, next));
        };
        if !names.insert(&fencer.name) {
            let next = "give each service, hook and fencer of the group a name of its own";
            add("name", "the name stands twice".to_owned(), next);
        }
        if !(1..=DEADLINE_MAX).contains(&fencer.deadline_seconds) {
            let what =
                format!("{} s is no time, or longer than a failover can wait", fencer.deadline_seconds);
            add("deadline_seconds", what, "use 1 to 300");
        }
        if fencer.fences.is_empty() {
            add("fences", "it fences nobody".to_owned(), "name the instances whose hosts it turns off");
        }
        for name in fencer.fences.iter().filter(|name| !spec.instances.iter().any(|i| i.name == **name)) {
            add("fences", format!("there is no instance {name}"), "name an instance of this group");
        }
        if fencer.agents.is_empty() {
            add(
                "agents",
                "nobody runs it".to_owned(),
                "name at least one agent, best one at each other site",
            );
        }
        for agent in &fencer.agents {
            let goes_with =
                spec.instances.iter().any(|i| i.agent == *agent && fencer.fences.contains(&i.name));
            if !members.iter().any(|member| member.agent == *agent) {
                let next = "name a member, or add it with `mesh node add`";
                add("agents", format!("there is no agent {agent}"), next);
            } else if goes_with {
                let what = format!("{agent} stands at a host that it turns off, and would go with it");
                add("agents", what, "name an agent of another host, best at another site");
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use mesh_proto::NodeId;

    use super::*;

    fn spec(fencer: &str) -> GroupSpec {
        let text = format!(
            r#"{{"group":"orders","instance":[
            {{"name":"pg-east","site":"east","agent":"east-1","address":"10.0.0.1:5","guard":"10.0.0.1:7"}},
            {{"name":"pg-dr","site":"dr","agent":"dr-1","address":"10.0.0.2:5","guard":"10.0.0.2:7"}}],
            "hook":[{{"name":"page","agents":["dr-1"]}}],"fencer":[{fencer}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn keys(fencer: &str) -> Vec<String> {
        let member = |(agent, site, id): (&str, &str, u64)| MemberRecord {
            id: NodeId(id),
            agent: agent.parse().unwrap(),
            site: site.parse().unwrap(),
            address: format!("10.0.0.{id}:1"),
            voter: true,
        };
        let members: Vec<_> =
            [("east-1", "east", 1), ("dr-1", "dr", 2), ("wit-1", "wit", 3)].map(member).into();
        check(&spec(fencer), &members).into_iter().map(|finding| finding.key).collect()
    }

    #[test]
    fn each_mistake_is_named_with_its_key() {
        let good = r#"{"name":"bmc","fences":["pg-east"],"agents":["wit-1","dr-1"]}"#;
        assert_eq!(keys(good), [""; 0]);
        for (from, to, key) in [
            ("\"bmc\"", "\"page\"", "fencer[page].name"),
            ("[\"pg-east\"]", "[]", "fencer[bmc].fences"),
            ("pg-east", "pg-mars", "fencer[bmc].fences"),
            ("[\"wit-1\",\"dr-1\"]", "[]", "fencer[bmc].agents"),
            ("wit-1", "mars-1", "fencer[bmc].agents"),
            ("wit-1", "east-1", "fencer[bmc].agents"),
            ("}", ",\"deadline_seconds\":0}", "fencer[bmc].deadline_seconds"),
            ("}", ",\"deadline_seconds\":900}", "fencer[bmc].deadline_seconds"),
        ] {
            assert_eq!(keys(&good.replace(from, to)), [key], "{from} {to}");
        }
        let command = good.replace('}', ",\"program\":\"/bin/sh\"}");
        assert!(serde_json::from_str::<FencerSpec>(&command).unwrap_err().to_string().contains("program"));
    }
}
