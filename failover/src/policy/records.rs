//! What must hold of names that lead to the primary. Pure, as all of it.

use mesh_proto::spec::{DnsTarget, GroupSpec, RecordKind, RecordSpec, RouteTarget};

use super::Finding;

/// Checks the route at this place of the spec.
pub(super) fn check(spec: &GroupSpec, at: usize, target: &DnsTarget) -> Vec<Finding> {
    let mut findings = Vec::new();
    let earlier: Vec<&RecordSpec> = spec.routes[..at]
        .iter()
        .filter_map(|route| match &route.target {
            RouteTarget::Dns(other) => Some(&other.records),
            RouteTarget::Haproxy(_) | RouteTarget::Pgbouncer(_) | RouteTarget::Elbv2(_) => None,
        })
        .flatten()
        .collect();
    for (number, record) in target.records.iter().enumerate() {
        let RecordSpec { name, zone, kind, ttl, values } = record;
        let mut wrong = |what: String, next: &str| {
            findings.push(Finding::new(format!("route[{}].record", spec.routes[at].name), what, next));
        };
        if !name.within(zone) {
            wrong(format!("{name} does not lie in zone {zone}"), "correct one of them");
        }
        if name == zone && *kind == RecordKind::Cname {
            wrong(format!("{name} is a zone, and no zone can be a CNAME"), "use a name below it");
        }
        if !(1..=3600).contains(ttl) {
            let what =
                format!("with a ttl of {ttl}, clients of {name} would follow too late or never keep it");
            wrong(what, "use 1 to 3600 seconds, best 5");
        }
        if earlier.iter().copied().chain(&target.records[..number]).any(|other| other.name == *name) {
            wrong(format!("{name} stands twice"), "name it once, in one route");
        }
        for instance in spec.instances.iter().filter(|instance| record.value(instance).is_none()) {
            let what = format!("{name} has no {kind} for instance {}", instance.name);
            wrong(what, "add one to the record's `values`, such as values = { pg-east = \"…\" }");
        }
        for name in values.keys().filter(|name| !spec.instances.iter().any(|i| i.name == **name)) {
            wrong(format!("there is no instance {name}"), "correct or remove it from the record's `values`");
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::{check_beside, check_routes};
    use super::*;

    #[test]
    fn groups_share_no_name() {
        let text = r#"{"group": "orders", "route": [{"name": "db", "kind": "dns", "agent": "w",
            "record": [{"name": "db.example.com.", "zone": "example.com."}]}]}"#;
        let orders: GroupSpec = serde_json::from_str(text).unwrap();
        let mut other = orders.clone();
        other.group = "billing".parse().unwrap();
        other.routes[0].name = "other".parse().unwrap();
        let found = check_beside(&other, [&orders].into_iter());
        assert_eq!(found.iter().map(|f| f.key.as_str()).collect::<Vec<_>>(), ["route[other].record"]);
        assert!(found[0].what.contains("db.example.com. belongs to group orders"), "{found:?}");
    }

    #[test]
    fn names_have_a_zone_and_a_value_for_each_instance_and_stand_once() {
        let instance = |name: &str| {
            format!(
                r#"{{"name":"{name}","site":"east","agent":"a","address":"10.0.0.1:5432","guard":"10.0.0.1:7401"}}"#
            )
        };
        let text = format!(
            r#"{{"group":"orders","instance":[{}],"route":[
                {{"name":"good","kind":"dns","agent":"a","record":[{{"name":"db.example.com.","zone":"example.com."}}]}},
                {{"name":"bad","kind":"dns","agent":"a","record":[
                    {{"name":"db.example.com.","zone":"example.com.","ttl":0}},
                    {{"name":"db.example.org.","zone":"example.com."}},
                    {{"name":"example.com.","zone":"example.com.","type":"CNAME","values":{{"pg-west":"x.example.com."}}}}]}}]}}"#,
            instance("pg-east")
        );
        let spec: GroupSpec = serde_json::from_str(&text).unwrap();
        let found = check_routes(&spec, &[]);
        let said =
            |key: &str, part: &str| found.iter().filter(|f| f.key == key && f.what.contains(part)).count();
        assert_eq!(said("route[good].record", ""), 0, "{found:?}");
        for part in [
            "ttl of 0",
            "db.example.com. stands twice",
            "db.example.org. does not lie in zone example.com.",
            "no zone can be a CNAME",
            "example.com. has no CNAME for instance pg-east",
            "no instance pg-west",
        ] {
            assert_eq!(said("route[bad].record", part), 1, "{part}: {found:?}");
        }
    }
}
