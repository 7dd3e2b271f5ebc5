//! Redis beside PostgreSQL: a client of its own through HAProxy, and what becomes of the group `cache`.
//!
//! It judges nothing: what was promised is said by whoever asks.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mesh_tests::lab::cluster::Cluster;
use mesh_tests::lab::ground::port;
use mesh_tests::lab::mesh::CACHE;
use mesh_tests::lab::redis::{Entrance, RedisWriter, lost};

/// The client, and the primary as it was.
#[derive(Debug)]
pub struct Cache {
    writer: RedisWriter,
    epoch: u64,
}

/// What a change meant for the client of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The longest time without an acknowledged write.
    pub gap: Duration,
    /// The primary now.
    pub primary: String,
    /// Whether another one was promoted since the last look.
    pub moved: bool,
}

impl Cache {
    /// Starts writing through the route.
    ///
    /// # Errors
    /// When nobody answers, or writes do not flow.
    pub async fn begin(cluster: &Cluster) -> Result<Self> {
        let route = Entrance::At((cluster.haproxy.ip, port::CACHE).into());
        let writer = RedisWriter::start_at(route, "k:");
        let epoch = cluster.group_named(CACHE).await?.epoch.0;
        writer.flows(10, Duration::from_secs(10)).await?;
        Ok(Self { writer, epoch })
    }

    /// Waits until the primary is well and writes flow, and says what the change since `fault` meant.
    ///
    /// # Errors
    /// When it does not come right in time; with status and logs.
    pub async fn after(
        &mut self,
        cluster: &Cluster,
        fault: Instant,
        primary: &str,
        limit: Duration,
    ) -> Result<Seen> {
        let served = mesh_tests::lab::wait::until("Redis serves", limit, || async {
            use mesh_tests::lab::wait::Look;
            let group = cluster.group_named(CACHE).await?;
            let busy = group.run.as_ref().is_some_and(|run| !run.phase.is_final());
            let found = group.primary.as_ref().map(ToString::to_string);
            Ok(match found {
                Some(found) if found == primary && !busy => Look::There(group.epoch.0),
                found => Look::NotYet(format!("the primary is {found:?}, a run is under way: {busy}")),
            })
        })
        .await;
        let epoch = cluster.explained(served).await?;
        let flows = self.writer.flows(100, limit).await;
        cluster.explained(flows).await?;
        let (gap, _) = self.writer.gap(fault);
        let moved = std::mem::replace(&mut self.epoch, epoch) != epoch;
        Ok(Seen { gap, primary: primary.to_owned(), moved })
    }

    /// Stops, and says how many writes were acknowledged, and how many of them the primary lacks.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn end(self, cluster: &Cluster, primary: usize) -> Result<(usize, usize)> {
        let acknowledged = self.writer.stop().await?;
        let servers = cluster.cache().context("the demonstration has Redis beside PostgreSQL")?;
        Ok((acknowledged.len(), lost(servers[primary].address(), &acknowledged).await?.len()))
    }
}
