//! Certificates of this host: whether they are there, ours, and for how long.

use super::{Finding, Level};
use crate::cli::with_causes;
use crate::config::{Guarded, NodeConfig};
use crate::tls::ends::{self, End, Nearness};
use crate::tls::material::Files;
use crate::tls::{Identity, Material};

/// The agent's own.
pub(super) fn agent(config: &NodeConfig) -> Vec<Finding> {
    let tls = &config.tls;
    let files = Files { ca: &tls.ca, cert: &tls.cert, key: &tls.key, crl: tls.crl.as_deref() };
    of(config, files, &Identity::Agent(config.agent.name.clone()))
}

/// A guard's own.
pub(super) fn guard(config: &NodeConfig, section: Guarded<'_>) -> Vec<Finding> {
    let tls = &config.tls;
    let files = Files { ca: &tls.ca, cert: section.cert(), key: section.key(), crl: tls.crl.as_deref() };
    of(config, files, &Identity::Guard(section.name().clone()))
}

fn of(config: &NodeConfig, files: Files<'_>, identity: &Identity) -> Vec<Finding> {
    match Material::load(files, &config.mesh.id, identity) {
        Ok(material) => material.ends().iter().filter_map(|end| near(end, ends::now())).collect(),
        Err(error) => {
            let next = "issue it with `mesh ca issue`, and copy certificate, key and ca.crt to where this host's file names them";
            vec![Finding::new(Level::Blocking, "certificate", with_causes(&error), next)]
        }
    }
}

/// `now` in seconds since 1970.
pub(super) fn near(end: &End, now: i64) -> Option<Finding> {
    let next = "issue it anew (`mesh ca issue`, `mesh ca crl`) and put it there: agent and guard take it within seconds, without a restart (deploy/runbooks/certificates.md)";
    let (level, found) = match end.nearness(now) {
        Nearness::Far => return None,
        Nearness::Soon(found) => (Level::Warning, found),
        Nearness::Over(found) => (Level::Blocking, found),
    };
    Some(Finding::new(level, "certificate_end", found, next))
}
