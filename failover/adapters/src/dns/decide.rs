//! What to do about a name, from what stands there: nothing, change it, or leave it alone and say why. Pure.

use mesh_proto::spec::{DnsName, Drift, RecordKind};
use mesh_proto::{Epoch, GroupName, InstanceName, SiteName};

use super::error::DnsError;
use super::marker::Marker;

/// Where names of one zone shall lead. They change together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Their group.
    pub group: GroupName,
    /// The epoch of the order.
    pub epoch: Epoch,
    /// The step that wants it.
    pub step: String,
    /// The instance they shall lead to.
    pub instance: InstanceName,
    /// Its site.
    pub site: SiteName,
    /// The zone.
    pub zone: DnsName,
    /// The names.
    pub names: Vec<Name>,
    /// What is done about a record that somebody else changed.
    pub drift: Drift,
}

/// One name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The name.
    pub name: DnsName,
    /// Type of its record.
    pub kind: RecordKind,
    /// How long resolvers may keep it, in seconds.
    pub ttl: u32,
    /// The value it shall have.
    pub value: String,
    /// The values it may have before mesh first leads it: those of the group's instances.
    pub known: Vec<String>,
}

impl Wanted {
    /// The marker that goes with a name.
    #[must_use]
    pub fn marker(&self, name: &Name) -> Marker {
        Marker {
            group: self.group.clone(),
            epoch: self.epoch,
            step: self.step.clone(),
            site: self.site.clone(),
            instance: self.instance.clone(),
            value: name.value.clone(),
        }
    }
}

/// What stands at a name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The texts of its marker; none or one where mesh alone writes there.
    pub markers: Vec<String>,
    /// The same as the system writes them, where it wants them back exactly so.
    pub markers_written: Vec<String>,
    /// How long resolvers may keep the marker.
    pub marker_ttl: u32,
    /// The values of the wanted type, in the form in which they are compared, sorted.
    pub values: Vec<String>,
    /// The same as the system writes them, where it wants them back exactly so.
    pub written: Vec<String>,
    /// How long resolvers may keep the record.
    pub ttl: u32,
    /// Another type of record at the name that shuts out the wanted one.
    pub other: Option<String>,
}

/// What to do about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// It leads there, in this epoch.
    Nothing,
    /// Change it, if it still is as seen.
    Change,
}

/// Decides for all names of a zone.
pub(super) fn decide(wanted: &Wanted, seen: &[Seen]) -> Result<Decision, DnsError> {
    let mut all = Decision::Nothing;
    for (name, seen) in wanted.names.iter().zip(seen) {
        if decide_one(wanted, name, seen)? == Decision::Change {
            all = Decision::Change;
        }
    }
    Ok(all)
}

fn decide_one(wanted: &Wanted, name: &Name, seen: &Seen) -> Result<Decision, DnsError> {
    let at = || name.name.clone();
    let marker = match seen.markers.as_slice() {
        [] => None,
        [text] => Some(text.parse::<Marker>().map_err(|source| DnsError::Marker { name: at(), source })?),
        [_, _, ..] => return Err(DnsError::Markers { name: at(), count: seen.markers.len() }),
    };
    if let Some(marker) = &marker {
        if marker.group != wanted.group {
            return Err(DnsError::OtherGroup { name: at(), group: marker.group.clone() });
        }
        if marker.epoch > wanted.epoch {
            return Err(DnsError::Stale { name: at(), seen: marker.epoch });
        }
        if marker.epoch == wanted.epoch && marker.instance != wanted.instance {
            return Err(DnsError::Conflict { name: at(), instance: marker.instance.clone() });
        }
    }
    if let Some(kind) = &seen.other {
        return Err(DnsError::OtherType { name: at(), found: kind.clone(), wanted: name.kind });
    }
    let right = seen.values == [name.value.as_str()];
    let current = marker.as_ref().is_some_and(|m| m.epoch == wanted.epoch && m.value == name.value);
    if right && current && seen.ttl == name.ttl {
        return Ok(Decision::Nothing);
    }
    let expected = match &marker {
        Some(marker) => vec![marker.value.clone()],
        // Before mesh first led it, the name may be new, or lead to any of the group's instances.
        None => name.known.clone(),
    };
    let as_left = match seen.values.as_slice() {
        [] => marker.is_none(),
        [one] => expected.contains(one),
        [_, _, ..] => false,
    };
    // Somebody who already led it where it shall lead is thanked, not argued with.
    if as_left || right || wanted.drift == Drift::Overwrite {
        return Ok(Decision::Change);
    }
    Err(DnsError::Drift { name: at(), kind: name.kind, found: seen.values.clone(), expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(epoch: u64, instance: &str, value: &str) -> Wanted {
        Wanted {
            group: "orders".parse().unwrap(),
            epoch: Epoch(epoch),
            step: "7.3.1".to_owned(),
            instance: instance.parse().unwrap(),
            site: "dr".parse().unwrap(),
            zone: DnsName::new("example.com.").unwrap(),
            names: vec![Name {
                name: DnsName::new("db.example.com.").unwrap(),
                kind: RecordKind::A,
                ttl: 5,
                value: value.to_owned(),
                known: vec!["10.0.0.1".to_owned(), "10.1.0.1".to_owned()],
            }],
            drift: Drift::Report,
        }
    }

    /// As `wanted` leaves it.
    fn after(wanted: &Wanted) -> Seen {
        let name = &wanted.names[0];
        Seen {
            markers: vec![wanted.marker(name).to_string()],
            markers_written: Vec::new(),
            marker_ttl: name.ttl,
            values: vec![name.value.clone()],
            written: vec![name.value.clone()],
            ttl: name.ttl,
            other: None,
        }
    }

    fn now(wanted: &Wanted, seen: &Seen) -> Result<Decision, DnsError> {
        decide(wanted, std::slice::from_ref(seen))
    }

    #[test]
    fn epochs_only_rise_and_each_names_one_instance() {
        let (east, dr) = (wanted(4, "pg-east", "10.0.0.1"), wanted(5, "pg-dr", "10.1.0.1"));
        assert_eq!(now(&dr, &after(&east)).unwrap(), Decision::Change);
        assert_eq!(now(&dr, &after(&dr)).unwrap(), Decision::Nothing);
        assert!(matches!(now(&east, &after(&dr)), Err(DnsError::Stale { seen: Epoch(5), .. })));
        // Overwriting is about people's edits, never about epochs.
        let force = |w: &Wanted| Wanted { drift: Drift::Overwrite, ..w.clone() };
        assert!(matches!(now(&force(&east), &after(&dr)), Err(DnsError::Stale { .. })));
        let other = wanted(5, "pg-east", "10.0.0.1");
        assert!(matches!(now(&force(&other), &after(&dr)), Err(DnsError::Conflict { .. })));
        let mut foreign = after(&east);
        foreign.markers[0] = foreign.markers[0].replace("orders", "billing");
        assert!(matches!(now(&force(&dr), &foreign), Err(DnsError::OtherGroup { .. })));
        // The same epoch with another step, or another TTL in the spec.
        let mut again = dr.clone();
        again.step = "8.1.1".to_owned();
        assert_eq!(now(&again, &after(&dr)).unwrap(), Decision::Nothing);
        again.names[0].ttl = 60;
        assert_eq!(now(&again, &after(&dr)).unwrap(), Decision::Change);
    }

    #[test]
    fn a_name_without_marker_is_adopted_only_if_it_leads_to_the_group() {
        let dr = wanted(1, "pg-dr", "10.1.0.1");
        let at = |values: &[&str]| Seen {
            values: values.iter().map(ToString::to_string).collect(),
            ttl: 5,
            ..Seen::default()
        };
        for adopted in [&[][..], &["10.0.0.1"], &["10.1.0.1"]] {
            assert_eq!(now(&dr, &at(adopted)).unwrap(), Decision::Change, "{adopted:?}");
        }
        for foreign in [&["192.0.2.9"][..], &["10.0.0.1", "10.1.0.1"]] {
            assert!(matches!(now(&dr, &at(foreign)), Err(DnsError::Drift { .. })), "{foreign:?}");
            let force = Wanted { drift: Drift::Overwrite, ..dr.clone() };
            assert_eq!(now(&force, &at(foreign)).unwrap(), Decision::Change);
        }
    }

    #[test]
    fn an_edit_by_hand_is_left_alone_unless_it_is_what_is_wanted() {
        let (east, dr) = (wanted(4, "pg-east", "10.0.0.1"), wanted(5, "pg-dr", "10.1.0.1"));
        let mut edited = after(&east);
        edited.values = vec!["192.0.2.9".to_owned()];
        assert!(matches!(now(&dr, &edited), Err(DnsError::Drift { .. })));
        assert!(matches!(now(&east, &edited), Err(DnsError::Drift { .. })), "also in its own epoch");
        edited.values.clear();
        assert!(matches!(now(&dr, &edited), Err(DnsError::Drift { .. })), "deleted is edited too");
        edited.values = vec!["10.1.0.1".to_owned()];
        assert_eq!(now(&dr, &edited).unwrap(), Decision::Change);
        edited.other = Some("CNAME".to_owned());
        assert!(matches!(now(&dr, &edited), Err(DnsError::OtherType { .. })));
        edited.markers = vec!["v=spf1".to_owned()];
        assert!(matches!(now(&dr, &edited), Err(DnsError::Marker { .. })));
        edited.markers.push("more".to_owned());
        assert!(matches!(now(&dr, &edited), Err(DnsError::Markers { count: 2, .. })));
    }
}
