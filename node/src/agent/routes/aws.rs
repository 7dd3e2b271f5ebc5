//! What the agent's file says about AWS, as the adapters take it.

use std::path::PathBuf;

use mesh_adapters::aws::{Access, CredentialsFrom};
use mesh_adapters::dns::route53::HostedZone;

use crate::config::{Endpoint, Route53Section};

/// An API, and who asks it.
pub(super) fn access(region: &str, endpoint: Option<&Endpoint>, credentials: Option<&PathBuf>) -> Access {
    Access {
        region: region.to_owned(),
        endpoint: endpoint.map(|endpoint| endpoint.as_str().to_owned()),
        credentials: credentials.map_or(CredentialsFrom::Chain, |file| CredentialsFrom::File(file.clone())),
    }
}

/// A hosted zone.
pub(super) fn zone(section: &Route53Section) -> HostedZone {
    let access = access(&section.region, section.endpoint.as_ref(), section.credentials_file.as_ref());
    HostedZone::new(section.zone.clone(), section.hosted_zone.clone(), access, section.authoritative.clone())
}
