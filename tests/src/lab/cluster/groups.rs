//! The groups of the lab's mesh: `orders`, of PostgreSQL or of Redis alone, and `cache`, of Redis beside PostgreSQL.

use std::time::Duration;

use anyhow::{Context as _, Result};
use mesh_proto::operator::GroupStatus;

use super::{Cluster, EAST};
use crate::lab::health::unhealthy;
use crate::lab::mesh;
use crate::lab::redis::RedisServer;
use crate::lab::wait::{Look, until};

impl Cluster {
    pub(super) async fn form_group(&self) -> Result<()> {
        let limit = Duration::from_secs(30);
        until("the agents answer", limit, || async {
            for node in &self.nodes {
                node.status(&self.mesh).await?;
            }
            Ok(Look::There(()))
        })
        .await?;
        self.must(EAST, &["form"]).await?;
        let routes = self.routes();
        let parts = self.parts(&routes);
        let Some(cache) = self.cache() else {
            let first = self.redis.first().map_or("pg-east", |server| server.name.as_str());
            return self.found(mesh::GROUP, parts, &self.wanted.spec, first).await;
        };
        // First, as services of the other group may need it.
        let route = [self.haproxy.cache_lines()];
        self.found(mesh::CACHE, mesh::Of { servers: &[], routes: &route, ..parts }, "", &cache[EAST].name)
            .await?;
        self.found(mesh::GROUP, mesh::Of { redis: &[], ..parts }, &self.wanted.spec, "pg-east").await
    }

    /// Applies a group and adopts its primary.
    async fn found(&self, group: &str, parts: mesh::Of<'_>, settings: &str, first: &str) -> Result<()> {
        let limit = Duration::from_secs(30);
        let spec = mesh::spec(group, parts, settings);
        let file = self.ground.file(&format!("{group}.toml"), &spec)?;
        self.must(EAST, &["apply", "-f", &file.display().to_string()]).await?;
        // The guards' first reports may be on their way: adopt refuses until the instance is known.
        until("the primary can be adopted", limit, || async {
            let said = self.nodes[EAST].ask(&self.mesh, &["adopt", first, "--group", group]).await?;
            Ok(if said.code == 0 { Look::There(()) } else { Look::NotYet(said.text()) })
        })
        .await?;
        self.until_group_healthy(group, first, limit).await.map(|_| ())
    }

    /// The Redis servers that stand beside PostgreSQL, in a group of their own.
    #[must_use]
    pub fn cache(&self) -> Option<&[RedisServer]> {
        (!self.redis.is_empty() && !self.servers.is_empty()).then_some(&self.redis)
    }

    /// The group's part of the status.
    ///
    /// # Errors
    /// When nobody answers or there is no group.
    pub async fn group(&self) -> Result<GroupStatus> {
        self.group_named(mesh::GROUP).await
    }

    /// The part of the status of one group.
    ///
    /// # Errors
    /// When nobody answers or there is no such group.
    pub async fn group_named(&self, name: &str) -> Result<GroupStatus> {
        let mut groups = self.status().await?.groups.into_iter();
        groups
            .find(|group| group.group.as_str() == name)
            .with_context(|| format!("the mesh has no group {name} yet"))
    }

    /// Waits until `primary` serves, everybody else follows, and no run is under way.
    ///
    /// # Errors
    /// When that is not so in time; with status and logs.
    pub async fn until_healthy(&self, primary: &str, limit: Duration) -> Result<GroupStatus> {
        self.until_group_healthy(mesh::GROUP, primary, limit).await
    }

    /// The same of one group.
    ///
    /// # Errors
    /// As [`Self::until_healthy`].
    pub async fn until_group_healthy(
        &self,
        group: &str,
        primary: &str,
        limit: Duration,
    ) -> Result<GroupStatus> {
        let what = format!("{primary} is the healthy primary and the others follow");
        let waited = until(&what, limit, || async {
            let group = self.group_named(group).await?;
            Ok(match unhealthy(&group, primary) {
                None => Look::There(group),
                Some(why) => Look::NotYet(why),
            })
        })
        .await;
        self.explained(waited).await
    }

    /// Waits until whoever is the primary serves, everybody else follows, no run is under way, and a zero-loss group can
    /// keep its word.
    ///
    /// # Errors
    /// As [`Self::until_healthy`].
    pub async fn until_settled(&self, limit: Duration) -> Result<GroupStatus> {
        let waited = until("some primary is healthy and the others follow", limit, || async {
            let group = self.group().await?;
            let primary = group.primary.as_ref().map_or("nobody", |name| name.as_str());
            let why = unhealthy(&group, primary);
            let why = why.or_else(|| group.quorum.as_ref().and_then(|quorum| quorum.not_yet.clone()));
            Ok(why.map_or(Look::There(group), Look::NotYet))
        })
        .await;
        self.explained(waited).await
    }

    /// Index of the node whose server the log calls the primary.
    ///
    /// # Errors
    /// When nobody answers, or there is no primary.
    pub async fn primary(&self) -> Result<usize> {
        let primary = self.group().await?.primary.context("the group has no primary")?;
        let at = self.servers.iter().position(|server| server.name == primary.as_str());
        at.with_context(|| format!("{primary} is no server of the lab"))
    }
}
