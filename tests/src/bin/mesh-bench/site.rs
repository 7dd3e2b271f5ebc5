//! A whole site: PostgreSQL and Redis on the same hosts, each in a group, and three clients: through HAProxy to either, and by
//! a name in BIND to the server itself.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mesh_tests::lab::cluster::{Also, Cluster, DR, EAST, WITNESS, Wanted};
use mesh_tests::lab::direct::Direct;
use mesh_tests::lab::ground::port;
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::host::Terrain;
use mesh_tests::lab::mesh as lab;
use mesh_tests::lab::net::Cut;
use mesh_tests::lab::redis::{Entrance, RedisWriter};
use mesh_tests::lab::timeline::{Stretch, stretches, wall};
use mesh_tests::lab::writer::{Outage, Writer};

use crate::fault::Fault;
use crate::measure::{CALM, Measured, PATIENCE, SILENCE, millis};
use crate::redis;

/// PostgreSQL through HAProxy.
pub const ROUTED: &str = "mesh, site: PostgreSQL by HAProxy";
/// PostgreSQL by the name.
pub const NAMED: &str = "mesh, site: PostgreSQL by its name";
/// Redis through HAProxy.
pub const CACHE: &str = "mesh, site: Redis by HAProxy";

/// Measures once: what each of the three clients felt.
///
/// # Errors
/// When something does not come up, or a write does not flow again; with status and logs.
pub async fn mesh(fault: Fault, spec: &str) -> Result<Vec<Measured>> {
    let wanted = Wanted {
        name: "bench",
        terrain: Terrain::Namespaces,
        follows: Follows::RuntimeApi,
        spec: spec.to_owned(),
        also: vec![Also::Bind, Also::Redis],
    };
    let mut cluster = Cluster::raise(wanted).await?;
    cluster.form().await?;
    let mut direct = Direct::start(&cluster.servers[EAST]);
    let mut routed = cluster.writer();
    let mut named = cluster.named_writer().context("the name server is there")?;
    let keys = RedisWriter::start((cluster.haproxy.ip, port::CACHE).into());
    let old = RedisWriter::start_at(Entrance::At(cluster.redis[EAST].address()), "k:direct:");
    keys.flows(50, Duration::from_secs(20)).await?;
    tokio::time::sleep(CALM).await;
    if routed.count() < 50 || named.count() < 50 {
        bail!("a client cannot write before the fault: {:?}, {:?}", routed.last_error(), named.last_error());
    }
    let (zero, began) = (wall(), Instant::now());
    inflict(&mut cluster, fault).await?;
    let felt = tokio::try_join!(
        routed.outage(began, Duration::from_secs(20), PATIENCE),
        named.outage(began, Duration::from_secs(20), PATIENCE),
        redis::over(&keys, began),
    );
    let (by_route, by_name, of_keys) = cluster.explained(felt).await?;
    let timelines =
        (timeline(&cluster, lab::GROUP, zero).await?, timeline(&cluster, lab::CACHE, zero).await?);
    let mended = Instant::now();
    match fault {
        Fault::HostLost => cluster.boot(EAST)?,
        Fault::Partition => cluster.nodes[EAST].host.heal().await?,
        Fault::Planned | Fault::PostmasterKill | Fault::Hang => {}
    }
    cluster.until_healthy("pg-dr", Duration::from_secs(60)).await?;
    let database = millis(mended.elapsed());
    cluster.until_group_healthy(lab::CACHE, "redis-dr", Duration::from_secs(60)).await?;
    let cache = millis(mended.elapsed());
    tokio::time::sleep(SILENCE).await;
    for writer in [&mut routed, &mut named] {
        writer.stop().await?;
    }
    direct.stop().await?;
    let late = direct.after(began + by_route.from_fault).len();
    let rejoined = (database, timelines.0);
    let survivor = cluster.redis[DR].address();
    let caches = redis::ended(keys, &old, of_keys, (began, survivor)).await?;
    Ok(vec![
        told(ROUTED, fault, &cluster, (&routed, by_route), (late, rejoined.clone())).await?,
        told(NAMED, fault, &cluster, (&named, by_name), (late, rejoined)).await?,
        Measured { system: CACHE, fault, rejoined_ms: Some(cache), timeline: timelines.1, ..caches },
    ])
}

async fn inflict(cluster: &mut Cluster, fault: Fault) -> Result<()> {
    match fault {
        Fault::HostLost => cluster.lose(EAST).await,
        Fault::Partition => cluster.nodes[EAST].host.isolate(Cut::Both).await,
        Fault::Planned => {
            let args = ["failover", "--site", "dr", "--all", "--yes", "--reason", "measurement"];
            let done = cluster.must(WITNESS, &args).await;
            cluster.explained(done).await.map(drop)
        }
        Fault::PostmasterKill | Fault::Hang => bail!("{} is no fault of a site", fault.name()),
    }
}

async fn timeline(cluster: &Cluster, group: &str, zero: u64) -> Result<Vec<Stretch>> {
    let run = cluster.group_named(group).await?.run;
    Ok(run.map(|run| stretches(&run, zero)).unwrap_or_default())
}

async fn told(
    system: &'static str,
    fault: Fault,
    cluster: &Cluster,
    (writer, outage): (&Writer, Outage),
    (late, (rejoined, timeline)): (usize, (u64, Vec<Stretch>)),
) -> Result<Measured> {
    let (acknowledged, lost) = writer.lost(&cluster.servers[DR].local_client()).await?;
    Ok(Measured {
        system,
        fault,
        gap_ms: millis(outage.gap),
        outage_ms: millis(outage.from_fault),
        acknowledged,
        lost: lost.len(),
        old_primary_acknowledged: late,
        in_place: false,
        rejoined_ms: Some(rejoined),
        timeline,
    })
}
