//! Names that lead to the primary: which records, in which zones, with which value for each instance.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::InstanceSpec;
use crate::InstanceName;

/// Label under which the marker of a name stands.
pub const MARKER_LABEL: &str = "_mesh-epoch";

/// Names in DNS zones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsTarget {
    /// The records, at least one. Those of one zone change together or not at all.
    pub records: Vec<RecordSpec>,
    /// What is done about a record that somebody else changed.
    pub drift: Drift,
}

/// One name and its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordSpec {
    /// The name that clients use.
    pub name: DnsName,
    /// The zone it stands in; the agent's file says which server has it.
    pub zone: DnsName,
    /// Type of the record.
    #[serde(default, rename = "type")]
    pub kind: RecordKind,
    /// How long resolvers may keep it, in seconds.
    #[serde(default = "default_ttl")]
    pub ttl: u32,
    /// Value for each instance; for A and AAAA an instance left out has its own address.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<InstanceName, String>,
}

const fn default_ttl() -> u32 {
    5
}

/// The types of record that can lead to a primary.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RecordKind {
    /// An IPv4 address.
    #[default]
    A,
    /// An IPv6 address.
    Aaaa,
    /// Another name.
    Cname,
}

impl std::fmt::Display for RecordKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Cname => "CNAME",
        })
    }
}

/// What is done about a record that is neither what mesh wrote nor what it wants.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Drift {
    /// It is left alone and reported: somebody had a reason.
    #[default]
    Report,
    /// It is overwritten.
    Overwrite,
}

impl RecordSpec {
    /// The record's value when it leads to this instance, in the form in which values are compared; `None` when the spec
    /// has none that fits the type.
    #[must_use]
    pub fn value(&self, instance: &InstanceSpec) -> Option<String> {
        let stated = self.values.get(&instance.name);
        match self.kind {
            RecordKind::Cname => DnsName::new(stated?).ok().map(|name| name.to_string()),
            RecordKind::A | RecordKind::Aaaa => {
                let address = match stated {
                    Some(text) => text.parse::<std::net::IpAddr>().ok()?,
                    None => instance.address.ip(),
                };
                (address.is_ipv4() == (self.kind == RecordKind::A)).then(|| address.to_string())
            }
        }
    }
}

/// A domain name: absolute, lower case, with its last dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DnsName(String);

/// Longest accepted name, so that its marker's name still fits into the 255 bytes that DNS allows.
const NAME_MAX: usize = 240;

/// The text is no domain name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no domain name; write it whole, with its last dot, such as \"db.example.com.\" (letters, digits, '-' and '_', 63 in a label, {NAME_MAX} in all)"
)]
pub struct DnsNameError(String);

impl DnsName {
    /// Checks and keeps a name.
    ///
    /// # Errors
    /// [`DnsNameError`] for a relative name, a wildcard, or characters that no host name has.
    pub fn new(text: &str) -> Result<Self, DnsNameError> {
        let refused = || DnsNameError(text.to_owned());
        let labels = text.strip_suffix('.').ok_or_else(refused)?;
        let good = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if text.len() > NAME_MAX || !labels.split('.').all(good) {
            return Err(refused());
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this name is the zone's own or below it.
    #[must_use]
    pub fn within(&self, zone: &Self) -> bool {
        self == zone || self.0.strip_suffix(zone.as_str()).is_some_and(|rest| rest.ends_with('.'))
    }
}

impl TryFrom<String> for DnsName {
    type Error = DnsNameError;
    fn try_from(text: String) -> Result<Self, DnsNameError> {
        Self::new(&text)
    }
}

impl From<DnsName> for String {
    fn from(name: DnsName) -> Self {
        name.0
    }
}

impl std::fmt::Display for DnsName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_absolute_and_compare_without_case() {
        let zone = DnsName::new("Example.COM.").unwrap();
        assert_eq!(zone.as_str(), "example.com.");
        assert!(DnsName::new("db.example.com.").unwrap().within(&zone) && zone.within(&zone));
        assert!(!DnsName::new("notexample.com.").unwrap().within(&zone));
        for bad in ["", ".", "db.example.com", "*.example.com.", "a..b.", "a b.", "é."] {
            assert!(DnsName::new(bad).is_err(), "{bad:?}");
        }
        assert!(DnsName::new(&format!("{}.", "x".repeat(64))).is_err());
    }

    #[test]
    fn a_value_fits_its_type_or_there_is_none() {
        let instance = InstanceSpec {
            name: "pg-east".parse().unwrap(),
            site: "east".parse().unwrap(),
            agent: "a-east".parse().unwrap(),
            address: "10.0.0.1:5432".parse().unwrap(),
            guard: "10.0.0.1:7401".parse().unwrap(),
            priority: 100,
            engine: None,
        };
        let text = r#"{"name":"db.example.com.","zone":"example.com."}"#;
        let mut record: RecordSpec = serde_json::from_str(text).unwrap();
        assert_eq!((record.kind, record.ttl), (RecordKind::A, 5));
        assert_eq!(record.value(&instance).unwrap(), "10.0.0.1");
        record.kind = RecordKind::Aaaa;
        assert_eq!(record.value(&instance), None);
        record.values.insert(instance.name.clone(), "2001:DB8:0::1".to_owned());
        assert_eq!(record.value(&instance).unwrap(), "2001:db8::1");
        record.kind = RecordKind::Cname;
        assert_eq!(record.value(&instance), None);
        record.values.insert(instance.name.clone(), "East.example.net.".to_owned());
        assert_eq!(record.value(&instance).unwrap(), "east.example.net.");
    }
}
