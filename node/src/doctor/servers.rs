//! The servers of this host's file, as their guards would find them.

use std::time::{Duration, Instant};

use mesh_adapters::{postgres, redis};

use super::{Finding, Level};
use crate::cli::with_causes;
use crate::config::{InstanceSection, NodeConfig, RedisSection};
use crate::guard::settings;

/// A server answers within this long, or is not looked at.
const WITHIN: Duration = Duration::from_secs(10);

pub(super) async fn postgres(config: &NodeConfig, section: &InstanceSection) -> Vec<Finding> {
    let instance = match settings::postgres(config, section) {
        Ok(instance) => instance,
        Err(error) => return vec![unusable(&error)],
    };
    let deadline = Instant::now() + WITHIN;
    let mut found: Vec<Finding> = match postgres::doctor(&instance, deadline).await {
        Ok(found) => found.into_iter().map(Finding::from).collect(),
        Err(error) => return vec![silent(&error, "PostgreSQL")],
    };
    match postgres::doctor_of_data(&instance, deadline).await {
        Ok(more) => found.extend(more.into_iter().map(Finding::from)),
        Err(error) => found.push(silent(&error, "PostgreSQL")),
    }
    found
}

pub(super) async fn redis(section: &RedisSection) -> Vec<Finding> {
    let instance = match settings::redis(section) {
        Ok(instance) => instance,
        Err(error) => return vec![unusable(&error)],
    };
    let deadline = Instant::now() + WITHIN;
    let mut found = Vec::new();
    match redis::is_closed(&instance, deadline).await {
        Ok(_) => {}
        Err(error) => return vec![silent(&error, "Redis")],
    }
    match redis::sentinels(&instance, deadline).await {
        Ok(sentinels) => found.extend(sentinels.refusal().map(|words| {
            let next = "mesh does nothing by itself beside them, only what an operator asks for";
            Finding::new(Level::Blocking, "rival", words, next)
        })),
        Err(error) => found.push(silent(&error, "Redis")),
    }
    found
}

fn unusable(error: &dyn std::error::Error) -> Finding {
    let next = "correct its section in this host's file";
    Finding::new(Level::Blocking, "section", with_causes(error), next)
}

/// A server that cannot be asked: stopped, or it lets us not in.
fn silent(error: &dyn std::error::Error, engine: &str) -> Finding {
    let found = format!("it was not looked at: {}", with_causes(error));
    let next = format!(
        "start {engine}, or run this as the account that its guard runs under; `mesh adopt` needs a running primary"
    );
    Finding::new(Level::Warning, "not_asked", found, next)
}
