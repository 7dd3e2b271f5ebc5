//! What clients follow, as an operator writes it: one flat table whose `kind` says which other keys it has. In here it is
//! typed: each kind is a struct with exactly its keys, so that nothing behind this file meets a route half described.
//!
//! To add a kind: a struct and a variant of [`RouteTarget`], its keys in `RawRoute` (each one optional), and its arm in
//! both conversions. A key that the kind does not take is refused by itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::dns::{DnsTarget, Drift, RecordSpec};
use super::elbv2::{Elbv2Target, LbTarget, TargetGroupArn};
use crate::{AgentName, InstanceName, RouteName};

/// What clients follow to the primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawRoute", into = "RawRoute")]
pub struct RouteSpec {
    /// Its name.
    pub name: RouteName,
    /// The agent that holds the credentials (for HAProxy: the admin socket) and changes it.
    pub agent: AgentName,
    /// What is changed, and where clients come in.
    pub target: RouteTarget,
}

/// The kinds of route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteTarget {
    /// An HAProxy backend, changed through the runtime API.
    Haproxy(HaproxyTarget),
    /// Names in zones that take dynamic updates (RFC 2136).
    Dns(DnsTarget),
    /// A PgBouncer database, changed through its include file and its admin console.
    Pgbouncer(PgbouncerTarget),
    /// A target group of AWS Elastic Load Balancing.
    Elbv2(Elbv2Target),
}

/// An HAProxy backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HaproxyTarget {
    /// Name of the backend. Its servers carry the names of the instances.
    pub backend: String,
    /// `IP:port` at which clients connect; the proving write goes through it.
    pub listen: std::net::SocketAddr,
}

/// A PgBouncer database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgbouncerTarget {
    /// Its name, as clients know it.
    pub database: String,
    /// `IP:port` at which clients connect; the proving write goes through it.
    pub listen: std::net::SocketAddr,
}

impl RouteTarget {
    /// The word for this kind in the file.
    #[must_use]
    pub const fn kind(&self) -> RouteKind {
        match self {
            Self::Haproxy(_) => RouteKind::Haproxy,
            Self::Dns(_) => RouteKind::Dns,
            Self::Pgbouncer(_) => RouteKind::Pgbouncer,
            Self::Elbv2(_) => RouteKind::Elbv2,
        }
    }

    /// What clients know it by, for people.
    #[must_use]
    pub fn entrance(&self) -> String {
        match self {
            Self::Haproxy(haproxy) => haproxy.listen.to_string(),
            Self::Dns(dns) => {
                let names: Vec<_> = dns.records.iter().map(|record| record.name.as_str()).collect();
                names.join(", ")
            }
            Self::Pgbouncer(pgbouncer) => format!("{}/{}", pgbouncer.listen, pgbouncer.database),
            Self::Elbv2(elb) => elb.listen.to_string(),
        }
    }
}

/// The kinds of route, without what belongs to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteKind {
    /// [`RouteTarget::Haproxy`]
    Haproxy,
    /// [`RouteTarget::Dns`]
    Dns,
    /// [`RouteTarget::Pgbouncer`]
    Pgbouncer,
    /// [`RouteTarget::Elbv2`]
    Elbv2,
}

impl std::fmt::Display for RouteKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Haproxy => "haproxy",
            Self::Dns => "dns",
            Self::Pgbouncer => "pgbouncer",
            Self::Elbv2 => "elbv2",
        })
    }
}

/// Why a route's table is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The kind needs a key that is not there.
    #[error("route {route} of kind \"{kind}\" needs `{key}`")]
    Missing {
        /// The route.
        route: RouteName,
        /// Its kind.
        kind: RouteKind,
        /// The key.
        key: &'static str,
    },
    /// A key that belongs to another kind.
    #[error("route {route} of kind \"{kind}\" knows no `{key}`")]
    Foreign {
        /// The route.
        route: RouteName,
        /// Its kind.
        kind: RouteKind,
        /// The key.
        key: &'static str,
    },
}

/// A route as written, in the file and in the log: the keys of all kinds side by side.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRoute {
    name: RouteName,
    kind: RouteKind,
    agent: AgentName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backend: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    listen: Option<std::net::SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drift: Option<Drift>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    record: Vec<RecordSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    database: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target_group: Option<TargetGroupArn>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    targets: BTreeMap<InstanceName, LbTarget>,
}

impl RawRoute {
    const fn new(name: RouteName, kind: RouteKind, agent: AgentName) -> Self {
        Self {
            name,
            kind,
            agent,
            backend: None,
            listen: None,
            drift: None,
            record: Vec::new(),
            database: None,
            target_group: None,
            targets: BTreeMap::new(),
        }
    }

    /// The value of a key that the kind needs.
    fn needed<T>(&self, key: &'static str, value: Option<T>) -> Result<T, RouteError> {
        value.ok_or_else(|| RouteError::Missing { route: self.name.clone(), kind: self.kind, key })
    }

    /// The first key that the kind did not take.
    fn left(&self) -> Option<&'static str> {
        // Named one by one, so that a new key cannot be forgotten here.
        let Self {
            name: _,
            kind: _,
            agent: _,
            backend,
            listen,
            drift,
            record,
            database,
            target_group,
            targets,
        } = self;
        let keys = [
            ("backend", backend.is_some()),
            ("listen", listen.is_some()),
            ("drift", drift.is_some()),
            ("record", !record.is_empty()),
            ("database", database.is_some()),
            ("target_group", target_group.is_some()),
            ("targets", !targets.is_empty()),
        ];
        keys.into_iter().find_map(|(key, left)| left.then_some(key))
    }
}

impl TryFrom<RawRoute> for RouteSpec {
    type Error = RouteError;

    /// Each kind takes its keys; what is left belongs to another.
    fn try_from(mut raw: RawRoute) -> Result<Self, RouteError> {
        let target = match raw.kind {
            RouteKind::Haproxy => {
                let (backend, listen) = (raw.backend.take(), raw.listen.take());
                RouteTarget::Haproxy(HaproxyTarget {
                    backend: raw.needed("backend", backend)?,
                    listen: raw.needed("listen", listen)?,
                })
            }
            RouteKind::Dns => {
                let records = std::mem::take(&mut raw.record);
                let records = (!records.is_empty()).then_some(records);
                let drift = raw.drift.take().unwrap_or_default();
                RouteTarget::Dns(DnsTarget { records: raw.needed("record", records)?, drift })
            }
            RouteKind::Pgbouncer => {
                let (database, listen) = (raw.database.take(), raw.listen.take());
                RouteTarget::Pgbouncer(PgbouncerTarget {
                    database: raw.needed("database", database)?,
                    listen: raw.needed("listen", listen)?,
                })
            }
            RouteKind::Elbv2 => {
                let (target_group, listen) = (raw.target_group.take(), raw.listen.take());
                RouteTarget::Elbv2(Elbv2Target {
                    targets: std::mem::take(&mut raw.targets),
                    drift: raw.drift.take().unwrap_or_default(),
                    target_group: raw.needed("target_group", target_group)?,
                    listen: raw.needed("listen", listen)?,
                })
            }
        };
        match raw.left() {
            Some(key) => Err(RouteError::Foreign { route: raw.name, kind: raw.kind, key }),
            None => Ok(Self { name: raw.name, agent: raw.agent, target }),
        }
    }
}

impl From<RouteSpec> for RawRoute {
    fn from(RouteSpec { name, agent, target }: RouteSpec) -> Self {
        let raw = Self::new(name, target.kind(), agent);
        match target {
            RouteTarget::Haproxy(HaproxyTarget { backend, listen }) => {
                Self { backend: Some(backend), listen: Some(listen), ..raw }
            }
            RouteTarget::Dns(DnsTarget { records, drift }) => {
                Self { record: records, drift: stated(drift), ..raw }
            }
            RouteTarget::Pgbouncer(PgbouncerTarget { database, listen }) => {
                Self { database: Some(database), listen: Some(listen), ..raw }
            }
            RouteTarget::Elbv2(Elbv2Target { target_group, targets, listen, drift }) => Self {
                target_group: Some(target_group),
                targets,
                listen: Some(listen),
                drift: stated(drift),
                ..raw
            },
        }
    }
}

/// As it is written: what every reader assumes is left out.
fn stated(drift: Drift) -> Option<Drift> {
    Some(drift).filter(|drift| *drift != Drift::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As logs of version 0.1 hold it.
    const HAPROXY: &str =
        r#"{"name":"app","kind":"haproxy","agent":"witness-1","backend":"pg","listen":"10.2.0.1:6432"}"#;

    fn read(text: &str) -> Result<RouteSpec, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn what_logs_hold_is_read_and_written_as_ever() {
        let route = read(HAPROXY).unwrap();
        let listen = "10.2.0.1:6432".parse().unwrap();
        assert_eq!(route.target, RouteTarget::Haproxy(HaproxyTarget { backend: "pg".to_owned(), listen }));
        assert_eq!(route.target.entrance(), "10.2.0.1:6432");
        assert_eq!(serde_json::to_string(&route).unwrap(), HAPROXY);
    }

    const DNS: &str = r#"{"name":"name","kind":"dns","agent":"witness-1","drift":"overwrite","record":[{"name":"db.example.com.","zone":"example.com.","type":"A","ttl":5}]}"#;

    #[test]
    fn names_are_read_and_written() {
        let route = read(DNS).unwrap();
        assert_eq!(route.target.entrance(), "db.example.com.");
        assert_eq!(serde_json::to_string(&route).unwrap(), DNS);
        let both = read(&DNS.replace("\"drift\"", "\"backend\":\"pg\",\"drift\"")).unwrap_err();
        assert!(both.contains("route name of kind \"dns\" knows no `backend`"), "{both}");
        let none = read(r#"{"name":"name","kind":"dns","agent":"witness-1"}"#).unwrap_err();
        assert!(none.contains("route name of kind \"dns\" needs `record`"), "{none}");
    }

    #[test]
    fn a_pooler_is_read_and_written() {
        let text = r#"{"name":"app","kind":"pgbouncer","agent":"dr-1","listen":"10.2.0.1:6432","database":"orders"}"#;
        let route = read(text).unwrap();
        assert_eq!(route.target.entrance(), "10.2.0.1:6432/orders");
        assert_eq!(serde_json::to_string(&route).unwrap(), text);
        let foreign = read(&text.replace("database", "backend")).unwrap_err();
        assert!(foreign.contains("needs `database`"), "{foreign}");
        let foreign = read(&HAPROXY.replace(r#""backend""#, r#""database":"x","backend""#)).unwrap_err();
        assert!(foreign.contains("of kind \"haproxy\" knows no `database`"), "{foreign}");
    }

    #[test]
    fn a_target_group_is_read_and_written() {
        let text = r#"{"name":"lb","kind":"elbv2","agent":"dr-1","listen":"10.2.0.9:5432","target_group":"arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/orders/0123456789abcdef","targets":{"pg-dr":"10.1.0.1:5432@all","pg-east":"i-0123456789abcdef0"}}"#;
        let route = read(text).unwrap();
        assert_eq!(route.target.entrance(), "10.2.0.9:5432");
        assert_eq!(serde_json::to_string(&route).unwrap(), text);
        let none = read(&text.replace("\"listen\":\"10.2.0.9:5432\",", "")).unwrap_err();
        assert!(none.contains("route lb of kind \"elbv2\" needs `listen`"), "{none}");
        let foreign =
            read(&HAPROXY.replace(r#""backend""#, r#""targets":{"a":"i-01"},"backend""#)).unwrap_err();
        assert!(foreign.contains("of kind \"haproxy\" knows no `targets`"), "{foreign}");
    }

    #[test]
    fn a_kind_has_all_its_keys_and_no_others() {
        let missing = read(&HAPROXY.replace(r#","backend":"pg""#, "")).unwrap_err();
        assert!(missing.contains("route app of kind \"haproxy\" needs `backend`"), "{missing}");
        let unknown = read(&HAPROXY.replace("backend", "backends")).unwrap_err();
        assert!(unknown.contains("unknown field `backends`"), "{unknown}");
        let mut raw: RawRoute = serde_json::from_str(HAPROXY).unwrap();
        assert_eq!(raw.left(), Some("backend"));
        raw.backend = None;
        assert_eq!(raw.left(), Some("listen"));
        raw.listen = None;
        assert_eq!(raw.left(), None);
    }
}
