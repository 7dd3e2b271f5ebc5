//! `mesh doctor`: what of this host would make a failover fail, or a promise weaker. It works before there is a mesh, asks no
//! agent, and changes nothing; what it cannot look at it says, and never takes for well.

mod certificates;
mod host;
mod servers;
#[cfg(test)]
mod tests;

use mesh_adapters::postgres;
use serde::Serialize;

use crate::config::{Guarded, NodeConfig};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Failover or rejoin would fail, or a promise would be broken.
    Blocking,
    /// A promise is weaker, or a failover slower.
    Warning,
    /// Good to know, or not looked at.
    Note,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad.
    pub level: Level,
    /// Short name, stable, for scripts.
    pub check: &'static str,
    /// What was found.
    pub found: String,
    /// What to do.
    pub next: String,
}

impl Finding {
    fn new(level: Level, check: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { level, check, found: found.into(), next: next.into() }
    }
}

impl From<postgres::Finding> for Finding {
    fn from(found: postgres::Finding) -> Self {
        let level = match found.severity {
            postgres::Severity::Blocking => Level::Blocking,
            postgres::Severity::Warning => Level::Warning,
            postgres::Severity::Note => Level::Note,
        };
        Self::new(level, found.check, found.found, found.advice)
    }
}

/// What was looked at, and what was found there, the worst first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Examined {
    /// `this host`, or a server and what it is.
    pub what: String,
    /// The findings.
    pub findings: Vec<Finding>,
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// Part by part.
    pub parts: Vec<Examined>,
}

impl Diagnosis {
    /// How many findings are this bad.
    #[must_use]
    pub fn count(&self, level: Level) -> usize {
        self.parts.iter().flat_map(|part| &part.findings).filter(|finding| finding.level == level).count()
    }
}

/// Looks at this host and every server of its file.
pub async fn examine(config: &NodeConfig) -> Diagnosis {
    let mut parts = vec![Examined { what: "this host".to_owned(), findings: host::look(config) }];
    for section in &config.instances {
        let findings = servers::postgres(config, section).await;
        parts.push(Examined { what: format!("{} (PostgreSQL)", section.name), findings });
    }
    for section in &config.redis {
        let findings = servers::redis(section).await;
        parts.push(Examined { what: format!("{} (Redis)", section.name), findings });
    }
    let guarded = config.instances.iter().map(Guarded::Postgres);
    for (at, section) in guarded.chain(config.redis.iter().map(Guarded::Redis)).enumerate() {
        if let Some(part) = parts.get_mut(at + 1) {
            part.findings.extend(certificates::guard(config, section));
            part.findings.extend(host::state_dir(section.state_dir(), section.data_dir()));
        }
    }
    for part in &mut parts {
        part.findings.sort_by_key(|finding| finding.level);
    }
    Diagnosis { parts }
}
