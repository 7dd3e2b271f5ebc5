//! Zones on name servers that take dynamic updates (RFC 2136) signed with TSIG (RFC 8945): BIND, Knot, PowerDNS.
//!
//! One update changes all names of a route in a zone, with prerequisites on each marker and record exactly as they were
//! read: the server itself refuses what is stale, and applies all or nothing. Then each authoritative server is asked until
//! it shows the new marker; those that do not in time are named, and hold nothing up.
//!
//! It never changes a zone over UDP, without a key, or through a secondary.

mod exchange;
mod key;
mod message;
pub(super) mod shown;

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use mesh_proto::spec::{DnsName, RecordKind};

use self::exchange::Connection;
use self::message::{NoWireForm, Verdict};
use super::decide::{Name, Seen, Wanted};
use super::error::{DnsError, Lost};
use super::lead::{NotChanged, Zone};

pub use exchange::ExchangeError;
pub use key::{Algorithm, Key, KeyError, KeyFile};

/// A zone at its primary server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServer {
    /// The zone.
    pub zone: DnsName,
    /// `IP:port` of the server that takes changes.
    pub server: SocketAddr,
    /// The key that signs them.
    pub key: KeyFile,
    /// The servers that clients' resolvers ask; when empty, those that the zone's NS records name.
    pub authoritative: Vec<SocketAddr>,
}

impl NameServer {
    async fn open(&self, deadline: Instant) -> Result<Connection, DnsError> {
        let key = self.key.load().map_err(|source| DnsError::Key { zone: self.zone.clone(), source })?;
        let opened = Connection::open(self.server, Some(key), deadline).await;
        opened.map_err(|source| DnsError::NotReached { zone: self.zone.clone(), source: source.into() })
    }

    /// One question, answered by the server's own knowledge.
    async fn ask(
        &self,
        connection: &mut Connection,
        name: &str,
        kind: RecordType,
        deadline: Instant,
    ) -> Result<Message, DnsError> {
        let question = message::question(name, kind).map_err(|error| self.no_wire_form(&error))?;
        let answer = connection.exchange(question, deadline).await.map_err(|error| self.failed(error))?;
        let refused = |code: String, hint, for_good| DnsError::Refused {
            zone: self.zone.clone(),
            doing: "show what stands there",
            code,
            hint,
            for_good,
        };
        if answer.response_code == ResponseCode::Refused {
            return Err(refused("REFUSED".to_owned(), "it must let this agent query the zone", true));
        }
        if !matches!(answer.response_code, ResponseCode::NoError | ResponseCode::NXDomain) {
            return Err(refused(format!("{:?}", answer.response_code), "look at its log", false));
        }
        if !answer.authoritative {
            let hint = "it must be an authoritative server of the zone, and not a resolver";
            return Err(refused("without authority".to_owned(), hint, true));
        }
        Ok(answer)
    }

    async fn seen(
        &self,
        connection: &mut Connection,
        name: &Name,
        deadline: Instant,
    ) -> Result<Seen, DnsError> {
        let marker = message::marker_name(&name.name);
        let answer = self.ask(connection, &marker, RecordType::TXT, deadline).await?;
        let (markers, marker_ttl) = message::values(&answer, &marker, RecordType::TXT);
        let (at, kind) = (name.name.as_str(), message::wire_kind(name.kind));
        let answer = self.ask(connection, at, kind, deadline).await?;
        let (values, ttl) = message::values(&answer, at, kind);
        let mut other = None;
        for kind in message::excluded(name) {
            let answer = self.ask(connection, at, *kind, deadline).await?;
            if !message::values(&answer, at, *kind).0.is_empty() {
                other = Some(kind.to_string());
            }
        }
        let (written, markers_written) = (values.clone(), markers.clone());
        Ok(Seen { markers, markers_written, marker_ttl, values, written, ttl, other })
    }

    /// Where a client that follows this name connects now, by the server's own knowledge.
    ///
    /// # Errors
    /// [`DnsError`] when the server does not say, or the name leads nowhere.
    pub async fn address(&self, name: &Name, deadline: Instant) -> Result<IpAddr, DnsError> {
        let mut connection = self.open(deadline).await?;
        let (at, kind) = (name.name.as_str(), message::wire_kind(name.kind));
        let answer = self.ask(&mut connection, at, kind, deadline).await?;
        let (values, _) = message::values(&answer, at, kind);
        let first = values.first().map(String::as_str);
        let address = match name.kind {
            RecordKind::A | RecordKind::Aaaa => first.and_then(|value| value.parse::<IpAddr>().ok()),
            RecordKind::Cname => match first {
                Some(target) => shown::resolve(target, deadline).await.first().map(SocketAddr::ip),
                None => None,
            },
        };
        address.ok_or_else(|| DnsError::NotInForce {
            zone: self.zone.clone(),
            what: format!("{} {} leads to no address ({})", name.name, name.kind, first.unwrap_or("absent")),
        })
    }

    fn failed(&self, error: ExchangeError) -> DnsError {
        match error {
            ExchangeError::Connect { .. } | ExchangeError::NotTaken { .. } => {
                DnsError::NotReached { zone: self.zone.clone(), source: error.into() }
            }
            ExchangeError::Key { code, .. } => DnsError::KeyRefused { zone: self.zone.clone(), code },
            ExchangeError::Late { .. }
            | ExchangeError::Broken { .. }
            | ExchangeError::NotSent { .. }
            | ExchangeError::NotDns { .. }
            | ExchangeError::NotSigned { .. }
            | ExchangeError::Unusable { .. } => {
                DnsError::Unreadable { zone: self.zone.clone(), source: error.into() }
            }
        }
    }

    fn no_wire_form(&self, error: &NoWireForm) -> DnsError {
        let source = ExchangeError::NotSent { what: error.to_string() };
        DnsError::Unreadable { zone: self.zone.clone(), source: source.into() }
    }

    fn judged(&self, answer: &Message) -> Result<(), NotChanged> {
        let code = answer.response_code;
        match message::verdict(code) {
            Verdict::Done => Ok(()),
            Verdict::Differs => Err(NotChanged::Differs),
            Verdict::Refused(hint) => Err(NotChanged::Because(DnsError::Refused {
                zone: self.zone.clone(),
                doing: "change names",
                code: format!("{code:?}").to_uppercase(),
                hint,
                for_good: true,
            })),
            Verdict::Failed => Err(NotChanged::Lost(Lost::Exchange(
                ExchangeError::Unusable { server: self.server, what: format!("{code:?}") }.into(),
            ))),
        }
    }
}

impl Zone for NameServer {
    async fn read(&self, wanted: &Wanted, deadline: Instant) -> Result<Vec<Seen>, DnsError> {
        let mut connection = self.open(deadline).await?;
        let mut all = Vec::with_capacity(wanted.names.len());
        for name in &wanted.names {
            all.push(self.seen(&mut connection, name, deadline).await?);
        }
        Ok(all)
    }

    async fn change(&self, wanted: &Wanted, seen: &[Seen], deadline: Instant) -> Result<(), NotChanged> {
        let update =
            message::update(wanted, seen).map_err(|error| NotChanged::Because(self.no_wire_form(&error)))?;
        let mut connection = self.open(deadline).await.map_err(NotChanged::Because)?;
        match connection.exchange(update, deadline).await {
            Ok(answer) => self.judged(&answer),
            Err(error @ (ExchangeError::NotSent { .. } | ExchangeError::Key { .. })) => {
                Err(NotChanged::Because(self.failed(error)))
            }
            // The change may have arrived, and may be in force.
            Err(
                error @ (ExchangeError::Connect { .. }
                | ExchangeError::NotTaken { .. }
                | ExchangeError::Late { .. }
                | ExchangeError::Broken { .. }
                | ExchangeError::NotDns { .. }
                | ExchangeError::NotSigned { .. }
                | ExchangeError::Unusable { .. }),
            ) => Err(NotChanged::Lost(Lost::Exchange(error.into()))),
        }
    }
}
