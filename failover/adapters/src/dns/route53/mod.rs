//! Hosted zones of Amazon Route 53.
//!
//! One change batch for all names of a route in a zone: each marker and record is deleted exactly as it was listed and
//! created as it shall be. Route 53 applies a batch as a whole or not at all, and refuses it when anything that it deletes is
//! not there to the letter, or anything that it creates is: a compare-and-set at the API itself. Listing shows a change as
//! soon as it was accepted, so that a lost answer is read back; how far it has spread is asked apart (`shown`), and
//! holds nothing up.
//!
//! It never uses UPSERT, never changes a record with a routing policy or an alias, and takes a time-out for no refusal. The
//! API of all zones stands in one region (us-east-1): a site whose names have no other way than Route 53 cannot be left
//! while that region's control plane is lost, whatever the quorum says.

mod client;
mod records;
mod text;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_route53::error::BuildError;
use aws_sdk_route53::types::{ChangeStatus, ResourceRecordSet};
use mesh_proto::spec::{DnsName, RecordKind};

use self::client::Client;
use super::decide::{Name, Seen, Wanted};
use super::error::{DnsError, Lost};
use super::lead::{Led, NotChanged, Zone};
use super::marker::marker_name;
use super::rfc2136::shown::{Server, each_shows, resolve};
use crate::aws::{Access, CallError};

/// Pause between two questions whether a change has spread: an account has five requests a second.
const AGAIN: Duration = Duration::from_millis(400);
/// The code of a batch that does not fit what stands there.
const DOES_NOT_FIT: &str = "InvalidChangeBatch";

/// A hosted zone.
#[derive(Debug)]
pub struct HostedZone {
    /// The zone.
    pub zone: DnsName,
    /// Servers that are asked whether they show a change; none when empty, since Route 53 itself says when it has spread.
    pub authoritative: Vec<SocketAddr>,
    client: Client,
    /// The newest change of each route's first name, until it was asked about.
    sent: Mutex<BTreeMap<DnsName, String>>,
}

impl HostedZone {
    /// The zone with this id, such as `Z0123456789ABC`.
    #[must_use]
    pub fn new(zone: DnsName, id: String, access: Access, authoritative: Vec<SocketAddr>) -> Self {
        Self { zone, authoritative, client: Client::new(id, access), sent: Mutex::default() }
    }

    fn sent(&self) -> MutexGuard<'_, BTreeMap<DnsName, String>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn seen(&self, name: &Name, deadline: Instant) -> Result<Seen, DnsError> {
        let marker = marker_name(&name.name);
        let mut sets = self.listed(name.name.as_str(), deadline).await?;
        // Nearly always the marker follows its name at once, and came with it.
        if !sets.complete && !sets.found.iter().any(|set| records::stands_at(set, &marker)) {
            sets.found.extend(self.listed(&marker, deadline).await?.found);
        }
        Ok(records::seen(name, &sets.found))
    }

    async fn listed(&self, from: &str, deadline: Instant) -> Result<Listed, DnsError> {
        let (found, complete) = self.client.list(from, deadline).await.map_err(|error| self.unread(error))?;
        Ok(Listed { found, complete })
    }

    /// Where a client that follows this name connects now, by what Route 53 has accepted.
    ///
    /// # Errors
    /// [`DnsError`] when it does not say, or the name leads nowhere.
    pub async fn address(&self, name: &Name, deadline: Instant) -> Result<IpAddr, DnsError> {
        let seen = self.seen(name, deadline).await?;
        let first = seen.values.first().map(String::as_str);
        let address = match name.kind {
            RecordKind::A | RecordKind::Aaaa => first.and_then(|value| value.parse::<IpAddr>().ok()),
            RecordKind::Cname => match first {
                Some(target) => resolve(target, deadline).await.first().map(SocketAddr::ip),
                None => None,
            },
        };
        address.ok_or_else(|| DnsError::NotInForce {
            zone: self.zone.clone(),
            what: format!(
                "{} {} leads to no address ({}); correct it, or let mesh lead it",
                name.name,
                name.kind,
                first.unwrap_or("absent")
            ),
        })
    }

    /// Waits until Route 53 says that its servers have what was changed last, and the named servers show it; or until the
    /// deadline. It takes Route 53 up to a minute.
    pub async fn shown(&self, wanted: &Wanted, deadline: Instant) -> Led {
        let servers: Vec<_> = self.authoritative.iter().copied().map(Server::at).collect();
        let first = wanted.names.first().map(|name| &name.name);
        let change = first.and_then(|name| self.sent().get(name).cloned());
        let (spread, mut led) =
            tokio::join!(self.spread(change.as_deref(), deadline), each_shows(&servers, wanted, deadline));
        match spread {
            Spread::NotAsked => {}
            Spread::Everywhere => {
                led.servers += 1;
                if let Some(name) = first {
                    self.sent().retain(|known, sent| known != name || Some(&*sent) != change.as_ref());
                }
            }
            Spread::NotYet(why) => {
                led.servers += 1;
                led.lagging.push(format!("Route 53: {why}"));
            }
        }
        led
    }

    async fn spread(&self, change: Option<&str>, deadline: Instant) -> Spread {
        let Some(change) = change else { return Spread::NotAsked };
        loop {
            let why = match self.client.status(change, deadline).await {
                Ok(ChangeStatus::Insync) => return Spread::Everywhere,
                Ok(_) => format!(
                    "change {change} has not spread to all its servers yet; that takes up to a minute"
                ),
                Err(error) => {
                    format!("whether change {change} has spread is not known: {}", crate::words(&error))
                }
            };
            let again = Instant::now() + AGAIN;
            if again >= deadline {
                return Spread::NotYet(why);
            }
            tokio::time::sleep_until(again.into()).await;
        }
    }

    /// A call failed that changes nothing.
    fn unread(&self, error: CallError) -> DnsError {
        match error {
            CallError::Lost(source) => DnsError::NotReached { zone: self.zone.clone(), source },
            CallError::Failed { .. } | CallError::NotSent(_) => {
                DnsError::Unreadable { zone: self.zone.clone(), source: error.into() }
            }
            CallError::Credentials(_) | CallError::Refused { .. } | CallError::PutOff { .. } => {
                self.not_done("show what stands there", error)
            }
        }
    }

    /// What it means that a call certainly did nothing.
    fn not_done(&self, doing: &'static str, error: CallError) -> DnsError {
        let zone = self.zone.clone();
        match error {
            CallError::Credentials(source) => DnsError::Credentials { zone, source },
            CallError::PutOff { code, .. } => DnsError::PutOff { zone, code },
            CallError::Refused { code, message } => {
                let (hint, for_good) = client::hint(&code);
                let code = if message.is_empty() { code } else { format!("{code} ({message})") };
                DnsError::Refused { zone, doing, code, hint, for_good }
            }
            error @ (CallError::NotSent(_) | CallError::Failed { .. } | CallError::Lost(_)) => {
                DnsError::Unreadable { zone, source: error.into() }
            }
        }
    }

    fn unfit(&self, error: BuildError) -> NotChanged {
        NotChanged::Because(DnsError::Unreadable { zone: self.zone.clone(), source: error.into() })
    }

    /// A batch did not fit. Either something is another by now, or Route 53 would not have it in any case: then what it says
    /// about the batch is the answer, and trying again is not.
    async fn differs(
        &self,
        wanted: &Wanted,
        before: &[Seen],
        message: String,
        deadline: Instant,
    ) -> NotChanged {
        match self.read(wanted, deadline).await {
            Ok(now) if now == before => NotChanged::Because(DnsError::NotInForce {
                zone: self.zone.clone(),
                what: format!(
                    "Route 53 refuses the change although nothing else changed the names ({message}); check that they lie \
                     in the zone with this id, and that their values are right"
                ),
            }),
            Ok(_) | Err(_) => NotChanged::Differs,
        }
    }
}

/// Records from a name on.
struct Listed {
    found: Vec<ResourceRecordSet>,
    /// Whether the zone ends with them.
    complete: bool,
}

/// How far a change has spread.
enum Spread {
    /// This agent has sent none since it started, or knew before that it is everywhere.
    NotAsked,
    Everywhere,
    NotYet(String),
}

impl Zone for HostedZone {
    async fn read(&self, wanted: &Wanted, deadline: Instant) -> Result<Vec<Seen>, DnsError> {
        let mut all = Vec::with_capacity(wanted.names.len());
        for name in &wanted.names {
            all.push(self.seen(name, deadline).await?);
        }
        Ok(all)
    }

    async fn change(&self, wanted: &Wanted, seen: &[Seen], deadline: Instant) -> Result<(), NotChanged> {
        let batch = records::batch(wanted, seen).map_err(|error| self.unfit(error))?;
        match self.client.change(batch, deadline).await {
            Ok(change) => {
                if let (Some(name), Some(change)) = (wanted.names.first(), change) {
                    self.sent().insert(name.name.clone(), change);
                }
                Ok(())
            }
            Err(CallError::Refused { code, message }) if code == DOES_NOT_FIT => {
                Err(self.differs(wanted, seen, message, deadline).await)
            }
            Err(
                error @ (CallError::Credentials(_)
                | CallError::NotSent(_)
                | CallError::Refused { .. }
                | CallError::PutOff { .. }),
            ) => Err(NotChanged::Because(self.not_done("change names", error))),
            // It may have arrived, and may be in force.
            Err(error @ (CallError::Failed { .. } | CallError::Lost(_))) => {
                Err(NotChanged::Lost(Lost::Exchange(error.into())))
            }
        }
    }
}
