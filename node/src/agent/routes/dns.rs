//! Routes that are names in zones that this agent may change: on name servers that take dynamic updates (RFC 2136), and in
//! Route 53.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mesh_adapters::dns::rfc2136::{Algorithm, KeyFile, NameServer};
use mesh_adapters::dns::{self, DnsError, Led, Name, Seen, Wanted, Zone as _};
use mesh_proto::effect::{Finding, Outcome, Refusal};
use mesh_proto::spec::{DnsName, DnsTarget, InstanceSpec, RecordSpec};

use super::{Asked, Kind, No, no};
use crate::config::{DnsSection, NodeConfig, TsigAlgorithm};

/// How long a route waits, once it is led, for authoritative servers to show it. One that is lost with its site must
/// not hold up the proving write.
const SHOWN_WITHIN: Duration = Duration::from_millis(1_000);

/// A zone, at the system that keeps it.
#[derive(Debug)]
pub(super) enum Held {
    /// A name server that takes dynamic updates.
    Updates(NameServer),
    /// Route 53.
    #[cfg(feature = "aws")]
    Route53(Box<mesh_adapters::dns::route53::HostedZone>),
}

impl Held {
    /// The zones of the file.
    pub(super) fn all(config: &NodeConfig) -> Vec<Self> {
        let zones = config.zones.iter().map(|section| Self::Updates(held(section)));
        #[cfg(feature = "aws")]
        let zones = zones.chain(
            config.hosted_zones.iter().map(|section| Self::Route53(Box::new(super::aws::zone(section)))),
        );
        zones.collect()
    }

    fn zone(&self) -> &DnsName {
        match self {
            Self::Updates(server) => &server.zone,
            #[cfg(feature = "aws")]
            Self::Route53(zone) => &zone.zone,
        }
    }

    /// Whether a look costs requests of which an account has few.
    pub(super) const fn is_metered(&self) -> bool {
        match self {
            Self::Updates(_) => false,
            #[cfg(feature = "aws")]
            Self::Route53(_) => true,
        }
    }

    /// What stands at the names, read from the system that takes changes.
    pub(super) async fn read(&self, wanted: &Wanted, deadline: Instant) -> Result<Vec<Seen>, DnsError> {
        match self {
            Self::Updates(server) => server.read(wanted, deadline).await,
            #[cfg(feature = "aws")]
            Self::Route53(zone) => zone.read(wanted, deadline).await,
        }
    }

    async fn lead(&self, wanted: &Wanted, deadline: Instant) -> Result<Led, DnsError> {
        match self {
            Self::Updates(server) => dns::lead(server, wanted, deadline).await,
            #[cfg(feature = "aws")]
            Self::Route53(zone) => dns::lead(&**zone, wanted, deadline).await,
        }
    }

    async fn verify(&self, wanted: &Wanted, deadline: Instant) -> Result<Led, DnsError> {
        match self {
            Self::Updates(server) => dns::verify(server, wanted, deadline).await,
            #[cfg(feature = "aws")]
            Self::Route53(zone) => dns::verify(&**zone, wanted, deadline).await,
        }
    }

    async fn shown(&self, wanted: &Wanted, deadline: Instant) -> Led {
        match self {
            Self::Updates(server) => server.shown(wanted, deadline).await,
            #[cfg(feature = "aws")]
            Self::Route53(zone) => zone.shown(wanted, deadline).await,
        }
    }

    async fn address(&self, name: &Name, deadline: Instant) -> Result<std::net::IpAddr, DnsError> {
        match self {
            Self::Updates(server) => server.address(name, deadline).await,
            #[cfg(feature = "aws")]
            Self::Route53(zone) => zone.address(name, deadline).await,
        }
    }
}

/// Whether any of a route's zones is metered.
pub(super) fn is_metered(held: &[Held], target: &DnsTarget) -> bool {
    let named = |zone: &Held| target.records.iter().any(|record| record.zone == *zone.zone());
    held.iter().any(|zone| zone.is_metered() && named(zone))
}

/// What the file says about a zone of the first kind.
pub(super) fn held(section: &DnsSection) -> NameServer {
    let algorithm = match section.algorithm {
        TsigAlgorithm::HmacSha256 => Algorithm::HmacSha256,
        TsigAlgorithm::HmacSha384 => Algorithm::HmacSha384,
        TsigAlgorithm::HmacSha512 => Algorithm::HmacSha512,
    };
    NameServer {
        zone: section.zone.clone(),
        server: section.server,
        key: KeyFile { name: section.key_name.clone(), algorithm, secret_file: section.secret_file.clone() },
        authoritative: section.authoritative.clone(),
    }
}

/// The zones of a route, each with its server and its names.
pub(super) struct Route<'a> {
    target: &'a DnsTarget,
    zones: Vec<&'a Held>,
}

impl<'a> Route<'a> {
    pub(super) fn new(held: &'a [Held], target: &'a DnsTarget) -> Result<Self, No> {
        let mut zones: Vec<&Held> = Vec::new();
        for record in &target.records {
            let Some(server) = held.iter().find(|held| *held.zone() == record.zone) else {
                let zone = &record.zone;
                let what = format!("this agent's file has no [[dns]] or [[route53]] section for zone {zone}");
                return Err(no(Refusal::NotConfigured, what));
            };
            if !zones.iter().any(|known| known.zone() == server.zone()) {
                zones.push(server);
            }
        }
        Ok(Self { target, zones })
    }

    fn wanted(&self, asked: &Asked<'_>, zone: &DnsName) -> Result<Wanted, No> {
        let records = self.target.records.iter().filter(|record| record.zone == *zone);
        let step = asked.order.step;
        Ok(Wanted {
            group: asked.group.group.clone(),
            epoch: asked.order.epoch,
            step: format!("{step}.{}", step.attempt),
            instance: asked.instance.name.clone(),
            site: asked.instance.site.clone(),
            zone: zone.clone(),
            names: records.map(|record| name(asked, record)).collect::<Result<_, _>>()?,
            drift: self.target.drift,
        })
    }

    /// What each zone's server can be asked about this route.
    pub(super) fn questions(
        &self,
        asked: &Asked<'_>,
    ) -> impl Iterator<Item = (&'a Held, Result<Wanted, No>)> {
        self.zones.iter().map(|zone| (*zone, self.wanted(asked, zone.zone())))
    }

    async fn lead_zone(&self, asked: &Asked<'_>, server: &Held) -> Result<Outcome, No> {
        let wanted = self.wanted(asked, server.zone())?;
        let led = match server.lead(&wanted, asked.deadline).await {
            Ok(led) => led,
            Err(error) => return Ok(dns::outcome(Err(error))),
        };
        let until = asked.deadline.min(Instant::now() + SHOWN_WITHIN);
        let shown = server.shown(&wanted, until).await;
        Ok(dns::outcome(Ok(Led { changed: led.changed, ..shown })))
    }

    async fn verify_zone(&self, asked: &Asked<'_>, server: &Held) -> Result<Outcome, No> {
        let wanted = self.wanted(asked, server.zone())?;
        Ok(dns::outcome(server.verify(&wanted, asked.deadline).await))
    }
}

fn name(asked: &Asked<'_>, record: &RecordSpec) -> Result<Name, No> {
    let value = |instance: &InstanceSpec| {
        record.value(instance).ok_or_else(|| {
            let what = format!("the spec has no {} of {} for {}", record.kind, record.name, instance.name);
            no(Refusal::NotConfigured, what)
        })
    };
    Ok(Name {
        name: record.name.clone(),
        kind: record.kind,
        ttl: record.ttl,
        value: value(asked.instance)?,
        known: asked.group.instances.iter().map(value).collect::<Result<_, _>>()?,
    })
}

impl Kind for Route<'_> {
    /// The zones change at the same time, each by itself: one whose server is lost does not keep the others back.
    async fn lead(&self, asked: &Asked<'_>) -> Outcome {
        let zones: Vec<_> = self.zones.iter().map(|zone| self.lead_zone(asked, zone)).collect();
        worst(join_all(zones).await)
    }

    async fn verify(&self, asked: &Asked<'_>) -> Outcome {
        let zones: Vec<_> = self.zones.iter().map(|zone| self.verify_zone(asked, zone)).collect();
        worst(join_all(zones).await)
    }

    /// The first name, as its server knows it; the port is the instance's own.
    async fn entrance(&self, asked: &Asked<'_>) -> Result<SocketAddr, No> {
        let (Some(record), Some(server)) = (self.target.records.first(), self.zones.first()) else {
            return Err(no(Refusal::NotConfigured, "the route has no record"));
        };
        let found = server.address(&name(asked, record)?, asked.deadline).await;
        // Where a name leads is only asked, so that it can simply be asked again.
        let failed = |error: DnsError| no(Refusal::NotDelivered, crate::cli::with_causes(&error));
        Ok(SocketAddr::new(found.map_err(failed)?, asked.instance.address.port()))
    }
}

/// One outcome for all zones: done if all are, unknown if any is, else the first refusal.
fn worst(outcomes: Vec<Result<Outcome, No>>) -> Outcome {
    let (mut servers, mut lagging) = (0, Vec::new());
    let (mut unknown, mut first) = (None, None);
    for outcome in outcomes {
        match outcome.unwrap_or_else(Outcome::from) {
            Outcome::Done(Finding::Named { servers: asked, lagging: late }) => {
                servers += asked;
                lagging.extend(late);
            }
            Outcome::Done(_) => {}
            outcome @ Outcome::Unknown { .. } => unknown = unknown.or(Some(outcome)),
            outcome @ Outcome::Refused { .. } => first = first.or(Some(outcome)),
        }
    }
    unknown.or(first).unwrap_or(Outcome::Done(Finding::Named { servers, lagging }))
}

#[cfg(test)]
mod tests {
    use super::super::refused;
    use super::*;

    #[test]
    fn a_route_of_several_zones_is_done_only_when_all_are() {
        let done = |late: &[&str]| {
            let lagging = late.iter().map(ToString::to_string).collect();
            Ok(Outcome::Done(Finding::Named { servers: 2, lagging }))
        };
        let lost = || Ok(Outcome::Unknown { detail: "lost".to_owned() });
        let both = Outcome::Done(Finding::Named { servers: 4, lagging: vec!["ns2: late".to_owned()] });
        assert_eq!(worst(vec![done(&[]), done(&["ns2: late"])]), both);
        let drift = || Ok(refused(Refusal::Drift, "changed by hand"));
        assert_eq!(worst(vec![done(&[]), drift()]), refused(Refusal::Drift, "changed by hand"));
        assert!(matches!(worst(vec![drift(), lost()]), Outcome::Unknown { .. }));
    }
}
