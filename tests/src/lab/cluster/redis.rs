//! The three sites with Redis in the place of PostgreSQL.

use std::path::PathBuf;

use anyhow::Result;

use super::{Cluster, DR, EAST, WITNESS, Wanted, hosts};
use crate::lab::ground::{Ground, port};
use crate::lab::haproxy::{Backend, Haproxy};
use crate::lab::host::Host;
use crate::lab::mesh::Node;
use crate::lab::postgres::Secrets;
use crate::lab::redis::RedisServer;

impl Cluster {
    /// As [`Cluster::raise`], with Redis in the place of PostgreSQL.
    ///
    /// # Errors
    /// When a part does not come up; everything that did is ended.
    pub async fn raise_redis(wanted: Wanted) -> Result<Self> {
        let ground = Ground::take(wanted.name)?;
        let hosts = hosts(&ground, wanted.terrain).await?;
        let east = RedisServer::start(&ground, &hosts[EAST], "redis-east", None, port::GUARD).await?;
        let dr = RedisServer::start(&ground, &hosts[DR], "redis-dr", Some(&east), port::GUARD).await?;
        let redis = vec![east, dr];
        let backends = backends(&redis);
        let haproxy = Haproxy::start(&ground, &hosts[WITNESS], wanted.follows, &backends).await?;
        let names = redis.iter().map(|server| Some(server.name.clone())).chain([None]);
        let nodes = hosts.iter().zip(1..).zip(names);
        let nodes = nodes.map(|((host, id), name)| Node::new(&ground, id, host, name)).collect();
        let (secrets, servers, mesh) = (Secrets::draw()?, Vec::new(), PathBuf::new());
        let (bind, pgbouncer) = (None, None);
        Ok(Self { nodes, servers, redis, haproxy, bind, pgbouncer, mesh, secrets, wanted, ground })
    }
}

/// Redis beside PostgreSQL, on the same hosts, in a group of its own.
pub(super) async fn beside(ground: &Ground, hosts: &[Host]) -> Result<Vec<RedisServer>> {
    let port = port::CACHE_GUARD;
    let east = RedisServer::start(ground, &hosts[EAST], "redis-east", None, port).await?;
    let dr = RedisServer::start(ground, &hosts[DR], "redis-dr", Some(&east), port).await?;
    Ok(vec![east, dr])
}

/// What HAProxy is told of them.
pub(super) fn backends(redis: &[RedisServer]) -> Vec<Backend> {
    let backend = |(n, server): (usize, &RedisServer)| Backend {
        name: server.name.clone(),
        ip: server.host.ip(),
        port: port::REDIS,
        enabled: n == EAST,
    };
    redis.iter().enumerate().map(backend).collect()
}
