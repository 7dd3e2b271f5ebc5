//! Certificates of this host: whether they are there, ours, and for how long.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Finding, Level};
use crate::cli::with_causes;
use crate::config::{Guarded, NodeConfig};
use crate::tls::material::Files;
use crate::tls::{Identity, Material};

/// A certificate that ends within so many days is said.
const SOON_DAYS: i64 = 30;

/// The agent's own.
pub(super) fn agent(config: &NodeConfig) -> Vec<Finding> {
    let tls = &config.tls;
    let files = Files { ca: &tls.ca, cert: &tls.cert, key: &tls.key };
    of(config, files, &Identity::Agent(config.agent.name.clone()))
}

/// A guard's own.
pub(super) fn guard(config: &NodeConfig, section: Guarded<'_>) -> Vec<Finding> {
    let files = Files { ca: &config.tls.ca, cert: section.cert(), key: section.key() };
    of(config, files, &Identity::Guard(section.name().clone()))
}

fn of(config: &NodeConfig, files: Files<'_>, identity: &Identity) -> Vec<Finding> {
    let (ca, cert) = (files.ca, files.cert);
    let mut found = Vec::new();
    if let Err(error) = Material::load(files, &config.mesh.id, identity) {
        let next = "issue it with `mesh ca issue`, and copy certificate, key and ca.crt to where this host's file names them";
        found.push(Finding::new(Level::Blocking, "certificate", with_causes(&error), next));
        return found;
    }
    found.extend([ca, cert].into_iter().filter_map(|path| ends(path, days_left(path))));
    found
}

/// Days until a certificate ends; `None` where it says nothing that can be read, which its loading has reported.
fn days_left(path: &Path) -> Option<i64> {
    let der = CertificateDer::from_pem_file(path).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
    let left = certificate.validity().not_after.timestamp() - i64::try_from(now.as_secs()).ok()?;
    Some(left.div_euclid(86_400))
}

pub(super) fn ends(path: &Path, days: Option<i64>) -> Option<Finding> {
    let days = days?;
    let path = path.display();
    let next = "issue it anew with `mesh ca issue`, replace it, and restart that agent or guard (a guard under `mesh pause`)";
    if days < 0 {
        let found = format!("{path} ended {} days ago", -days);
        return Some(Finding::new(Level::Blocking, "certificate_end", found, next));
    }
    (days < SOON_DAYS)
        .then(|| Finding::new(Level::Warning, "certificate_end", format!("{path} ends in {days} days"), next))
}
