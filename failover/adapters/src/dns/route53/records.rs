//! What stands at a name as Route 53 lists it, and the batch that changes it. Pure.
//!
//! A DELETE must repeat a record as Route 53 keeps it, to the letter and the TTL; so what was listed is kept beside the form
//! in which it is compared.

use std::net::IpAddr;

use aws_sdk_route53::error::BuildError;
use aws_sdk_route53::types::{Change, ChangeAction, ChangeBatch, ResourceRecord, ResourceRecordSet, RrType};
use mesh_proto::spec::RecordKind;

use super::text::{quoted, unquoted};
use crate::dns::decide::{Name, Seen, Wanted};
use crate::dns::marker::marker_name;

const fn kind_of(kind: RecordKind) -> RrType {
    match kind {
        RecordKind::A => RrType::A,
        RecordKind::Aaaa => RrType::Aaaa,
        RecordKind::Cname => RrType::Cname,
    }
}

/// Whether a listed record stands at this name. Both are lower case with their last dot; the listed one writes what no host
/// name has as octal escapes, which ours never contain.
pub(super) fn stands_at(set: &ResourceRecordSet, name: &str) -> bool {
    set.name().trim_end_matches('.').eq_ignore_ascii_case(name.trim_end_matches('.'))
}

/// Why a record is none of those that mesh leads: it is answered differently to different people, or computed.
fn special(set: &ResourceRecordSet) -> Option<&'static str> {
    if set.alias_target().is_some() {
        return Some("alias");
    }
    let routed = set.set_identifier().is_some()
        || set.health_check_id().is_some()
        || set.traffic_policy_instance_id().is_some();
    routed.then_some("routing-policy")
}

/// What stands at a name, from the listed records of the name and of its marker.
pub(super) fn seen(name: &Name, sets: &[ResourceRecordSet]) -> Seen {
    let mut seen = Seen::default();
    let marker = marker_name(&name.name);
    for set in sets {
        let kind = set.r#type();
        let written =
            || set.resource_records().iter().map(|record| record.value().to_owned()).collect::<Vec<_>>();
        let ttl = set.ttl().and_then(|ttl| u32::try_from(ttl).ok()).unwrap_or_default();
        if stands_at(set, &marker) && *kind == RrType::Txt {
            if let Some(how) = special(set) {
                seen.other = Some(format!("marker with {how}"));
                continue;
            }
            seen.markers_written = written();
            seen.markers = seen.markers_written.iter().map(|value| unquoted(value)).collect();
            seen.marker_ttl = ttl;
        } else if stands_at(set, name.name.as_str()) {
            if *kind != kind_of(name.kind) {
                if shuts_out(kind, name.kind) {
                    seen.other = Some(kind.as_str().to_owned());
                }
                continue;
            }
            if let Some(how) = special(set) {
                seen.other = Some(format!("{how} {kind}"));
                continue;
            }
            seen.written = written();
            seen.values = seen.written.iter().map(|value| compared(name.kind, value)).collect();
            seen.values.sort();
            seen.ttl = ttl;
        }
    }
    seen
}

/// Whether a record of this type cannot stand beside the wanted one.
fn shuts_out(found: &RrType, wanted: RecordKind) -> bool {
    match wanted {
        RecordKind::A | RecordKind::Aaaa => *found == RrType::Cname,
        // Beside an alias to another name there can be nothing.
        RecordKind::Cname => true,
    }
}

/// The form in which values are compared.
fn compared(kind: RecordKind, value: &str) -> String {
    match kind {
        RecordKind::A | RecordKind::Aaaa => {
            value.parse::<IpAddr>().map_or_else(|_| value.to_owned(), |address| address.to_string())
        }
        RecordKind::Cname => format!("{}.", value.trim_end_matches('.').to_ascii_lowercase()),
    }
}

/// The change of all names of a zone: what was seen is deleted exactly as it stands, and what is wanted is created, so that
/// the batch fails as a whole when anything is another by then. Never UPSERT, which compares nothing.
pub(super) fn batch(wanted: &Wanted, seen: &[Seen]) -> Result<ChangeBatch, BuildError> {
    let mut batch = ChangeBatch::builder().comment(format!(
        "mesh: {} to {} in epoch {}, step {}",
        wanted.group, wanted.instance, wanted.epoch.0, wanted.step
    ));
    for (name, seen) in wanted.names.iter().zip(seen) {
        let marker = marker_name(&name.name);
        let (at, kind) = (name.name.as_str(), kind_of(name.kind));
        let mut change = |action, set| -> Result<(), BuildError> {
            let change = Change::builder().action(action).resource_record_set(set).build()?;
            batch = std::mem::take(&mut batch).changes(change);
            Ok(())
        };
        if !seen.markers_written.is_empty() {
            change(ChangeAction::Delete, set(&marker, RrType::Txt, seen.marker_ttl, &seen.markers_written)?)?;
        }
        if !seen.written.is_empty() {
            change(ChangeAction::Delete, set(at, kind.clone(), seen.ttl, &seen.written)?)?;
        }
        let text = [quoted(&wanted.marker(name).to_string())];
        change(ChangeAction::Create, set(&marker, RrType::Txt, name.ttl, &text)?)?;
        change(ChangeAction::Create, set(at, kind, name.ttl, std::slice::from_ref(&name.value))?)?;
    }
    batch.build()
}

fn set(name: &str, kind: RrType, ttl: u32, values: &[String]) -> Result<ResourceRecordSet, BuildError> {
    let mut set = ResourceRecordSet::builder().name(name).r#type(kind).ttl(i64::from(ttl));
    for value in values {
        set = set.resource_records(ResourceRecord::builder().value(value).build()?);
    }
    set.build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_proto::Epoch;
    use mesh_proto::spec::{DnsName, Drift};

    fn wanted(kind: RecordKind, value: &str) -> Wanted {
        Wanted {
            group: "orders".parse().unwrap(),
            epoch: Epoch(5),
            step: "7.3.1".to_owned(),
            instance: "pg-dr".parse().unwrap(),
            site: "dr".parse().unwrap(),
            zone: DnsName::new("example.com.").unwrap(),
            names: vec![Name {
                name: DnsName::new("db.example.com.").unwrap(),
                kind,
                ttl: 5,
                value: value.to_owned(),
                known: Vec::new(),
            }],
            drift: Drift::Report,
        }
    }

    fn listed(name: &str, kind: RrType, ttl: u32, values: &[&str]) -> ResourceRecordSet {
        set(name, kind, ttl, &values.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn what_is_deleted_is_what_was_listed_to_the_letter() {
        let wanted = wanted(RecordKind::Aaaa, "2001:db8::2");
        let listed = [
            listed("db.example.com.", RrType::Aaaa, 30, &["2001:DB8:0::1"]),
            listed("db.example.com.", RrType::Mx, 60, &["10 mail.example.com."]),
            listed("_mesh-epoch.db.example.com.", RrType::Txt, 60, &["\"v=mesh1;\" \"rest\""]),
        ];
        let seen = seen(&wanted.names[0], &listed);
        assert_eq!((seen.values.as_slice(), seen.ttl), (&["2001:db8::1".to_owned()][..], 30));
        assert_eq!((seen.markers.as_slice(), seen.other.as_ref()), (&["v=mesh1;rest".to_owned()][..], None));
        let batch = batch(&wanted, &[seen]).unwrap();
        let changes: Vec<_> = batch
            .changes()
            .iter()
            .map(|change| {
                let set = change.resource_record_set().unwrap();
                let value = set.resource_records()[0].value().to_owned();
                (change.action().as_str(), set.r#type().as_str(), set.ttl().unwrap(), value)
            })
            .collect();
        let marker =
            "\"v=mesh1;group=orders;epoch=5;step=7.3.1;site=dr;instance=pg-dr;value=2001:db8::2\"".to_owned();
        assert_eq!(
            changes,
            [
                ("DELETE", "TXT", 60, "\"v=mesh1;\" \"rest\"".to_owned()),
                ("DELETE", "AAAA", 30, "2001:DB8:0::1".to_owned()),
                ("CREATE", "TXT", 5, marker),
                ("CREATE", "AAAA", 5, "2001:db8::2".to_owned()),
            ]
        );
    }

    #[test]
    fn where_nothing_stands_nothing_is_deleted_and_a_second_creation_fails_at_the_server() {
        let wanted = wanted(RecordKind::A, "10.1.0.1");
        let batch = batch(&wanted, &[Seen::default()]).unwrap();
        assert!(batch.changes().iter().all(|change| *change.action() == ChangeAction::Create));
        assert_eq!(batch.changes().len(), 2);
    }

    #[test]
    fn records_that_mesh_does_not_lead_shut_it_out() {
        let name = &wanted(RecordKind::A, "10.1.0.1").names[0];
        let simple = || ResourceRecordSet::builder().name("db.example.com.").r#type(RrType::A).ttl(5);
        let weighted = simple().set_identifier("east").weight(10).build().unwrap();
        assert_eq!(seen(name, &[weighted]).other.unwrap(), "routing-policy A");
        let cname = listed("DB.example.com", RrType::Cname, 5, &["other.example.net"]);
        assert_eq!(seen(name, std::slice::from_ref(&cname)).other.unwrap(), "CNAME");
        let alias = &wanted(RecordKind::Cname, "dr.example.net.").names[0];
        assert_eq!(seen(alias, &[cname]).values, ["other.example.net."]);
        let mx = listed("db.example.com.", RrType::Mx, 60, &["10 mail.example.com."]);
        assert_eq!(seen(alias, &[mx]).other.unwrap(), "MX");
    }
}
