//! What must hold between the instances of a group and the targets of a load balancer's target group. Pure, as all of it.

use mesh_proto::spec::{Elbv2Target, GroupSpec, InstanceSpec, LbTarget};

use super::{Finding, same_target};

/// Checks the route at this place of the spec.
pub(super) fn check(spec: &GroupSpec, at: usize, target: &Elbv2Target) -> Vec<Finding> {
    let mut findings = Vec::new();
    let route = &spec.routes[at];
    let mut wrong = |field: &str, what: String, next: &str| {
        findings.push(Finding::new(format!("route[{}].{field}", route.name), what, next));
    };
    if spec.routes[..at].iter().any(|other| same_target(route, other).is_some()) {
        wrong("target_group", "two routes have the same target group".to_owned(), "name it in one route");
    }
    for name in target.targets.keys().filter(|name| !spec.instances.iter().any(|i| i.name == **name)) {
        wrong("targets", format!("there is no instance {name}"), "correct or remove it");
    }
    let targets: Vec<_> = spec.instances.iter().map(|instance| (instance, whole(target, instance))).collect();
    for (number, (instance, target)) in targets.iter().enumerate() {
        if let Some((other, _)) = targets[..number].iter().find(|(_, other)| other == target) {
            let what = format!("{} and {} are both {target}", other.name, instance.name);
            wrong("targets", what, "give each instance a target of its own");
        }
        if targets.first().is_some_and(|(_, first)| is_address(first) != is_address(target)) {
            let what =
                format!("a target group has EC2 instances or addresses, and {target} is not as the first");
            wrong("targets", what, "write all as i-…, or all as IP:port");
        }
    }
    findings
}

/// A target with its port, and without where it lies: as the load balancer tells targets apart.
fn whole(target: &Elbv2Target, instance: &InstanceSpec) -> LbTarget {
    match target.target(instance) {
        LbTarget::Ec2 { id, port } => {
            LbTarget::Ec2 { id, port: Some(port.unwrap_or(instance.address.port())) }
        }
        LbTarget::Address { at, outside: _ } => LbTarget::Address { at, outside: false },
    }
}

const fn is_address(target: &LbTarget) -> bool {
    match target {
        LbTarget::Ec2 { .. } => false,
        LbTarget::Address { .. } => true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{check as check_spec, check_beside};
    use super::*;

    fn spec(group: &str, targets: &str) -> GroupSpec {
        let text = format!(
            r#"{{"group": "{group}", "instance": [
                {{"name": "pg-a", "site": "a", "agent": "a", "address": "10.0.0.1:5432", "guard": "10.0.0.1:7401"}},
                {{"name": "pg-b", "site": "b", "agent": "b", "address": "10.1.0.1:5432", "guard": "10.1.0.1:7401"}}],
                "route": [{{"name": "lb", "kind": "elbv2", "agent": "a", "listen": "10.2.0.9:5432", "targets": {targets},
                "target_group": "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/orders/01"}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn each_instance_is_a_target_of_its_own_and_all_are_of_one_type() {
        let found = |targets: &str| -> Vec<String> {
            let found = check_spec(&spec("orders", targets), &[]);
            found.into_iter().filter(|f| f.key == "route[lb].targets").map(|f| f.what).collect()
        };
        for good in ["{}", r#"{"pg-b": "10.1.0.1:5432@all"}"#, r#"{"pg-a": "i-01", "pg-b": "i-01:5433"}"#] {
            assert!(found(good).is_empty(), "{good}: {:?}", found(good));
        }
        for (bad, what) in [
            (r#"{"pg-b": "10.0.0.1:5432@all"}"#, "pg-a and pg-b are both 10.0.0.1:5432"),
            (r#"{"pg-a": "i-01", "pg-b": "i-01:5432"}"#, "pg-a and pg-b are both i-01:5432"),
            (r#"{"pg-b": "i-01"}"#, "EC2 instances or addresses"),
            (r#"{"pg-c": "10.3.0.1:5432"}"#, "no instance pg-c"),
        ] {
            assert!(found(bad).iter().any(|f| f.contains(what)), "{bad}: {:?}", found(bad));
        }
    }

    #[test]
    fn groups_and_routes_share_no_target_group() {
        let orders = spec("orders", "{}");
        let mut other = spec("billing", "{}");
        other.instances.clear();
        let beside = check_beside(&other, [&orders].into_iter());
        assert_eq!(beside.iter().map(|f| f.key.as_str()).collect::<Vec<_>>(), ["route[lb].target_group"]);
        let mut twice = orders.clone();
        let mut second = twice.routes[0].clone();
        second.name = "other".parse().unwrap();
        twice.routes.push(second);
        assert!(check_spec(&twice, &[]).iter().any(|f| f.key == "route[other].target_group"));
    }
}
