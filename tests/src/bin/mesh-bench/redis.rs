//! The same measurement of Redis: mesh with HAProxy as its route, Sentinel with a client that asks the Sentinels.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mesh_proto::run::Run;
use mesh_tests::lab::cluster::{Cluster, DR, EAST, WITNESS, Wanted};
use mesh_tests::lab::ground::port;
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::host::Terrain;
use mesh_tests::lab::net::Cut;
use mesh_tests::lab::process::send;
use mesh_tests::lab::redis::{Entrance, RedisWriter, lost};
use mesh_tests::lab::sentinel::Sentinels;
use mesh_tests::lab::timeline::{stretches, wall};
use rustix::process::Signal;

use crate::fault::Fault;
use crate::measure::{CALM, Measured, PATIENCE, SILENCE, millis};

/// Writes that must flow again before the outage counts as over.
const FLOWING: usize = 100;

/// Measures mesh once.
///
/// # Errors
/// When something does not come up, or a write does not flow again; with status and logs.
pub async fn mesh(fault: Fault, spec: &str) -> Result<Measured> {
    let wanted = Wanted {
        name: "bench",
        terrain: Terrain::Namespaces,
        follows: Follows::RuntimeApi,
        spec: spec.to_owned(),
        also: Vec::new(),
    };
    let mut cluster = Cluster::raise_redis(wanted).await?;
    cluster.form().await?;
    let writer = RedisWriter::start((cluster.haproxy.ip, port::ROUTE).into());
    let direct = RedisWriter::start_at(Entrance::At(cluster.redis[EAST].address()), "k:direct:");
    calm(&writer).await?;
    let (zero, began) = (wall(), Instant::now());
    let mut frozen = Vec::new();
    match fault {
        Fault::PostmasterKill => drop(cluster.redis[EAST].signal(Signal::KILL)?),
        Fault::HostLost => cluster.lose(EAST).await?,
        Fault::Partition => cluster.nodes[EAST].host.isolate(Cut::Both).await?,
        Fault::Hang => frozen = cluster.redis[EAST].signal(Signal::STOP)?,
        Fault::Planned => {
            let args = ["switchover", "--site", "dr", "--yes", "--reason", "measurement"];
            let done = cluster.must(WITNESS, &args).await;
            cluster.explained(done).await?;
        }
    }
    let over = over(&writer, began).await;
    let over = cluster.explained(over).await?;
    let run: Option<Run> = cluster.group().await?.run;
    let mended = Instant::now();
    match fault {
        Fault::HostLost => cluster.boot(EAST)?,
        Fault::Partition => cluster.nodes[EAST].host.heal().await?,
        Fault::Hang => {
            for pid in frozen {
                // Its guard may have killed it meanwhile.
                drop(send(pid, Signal::CONT));
            }
        }
        Fault::PostmasterKill | Fault::Planned => {}
    }
    cluster.until_healthy("redis-dr", Duration::from_secs(60)).await?;
    let rejoined_ms = Some(millis(mended.elapsed()));
    let timeline = run.map(|run| stretches(&run, zero)).unwrap_or_default();
    let survivor = cluster.redis[DR].address();
    let measured = ended(writer, &direct, over, (began, survivor)).await?;
    Ok(Measured { system: "mesh, Redis", fault, rejoined_ms, timeline, ..measured })
}

/// Measures the peer once.
///
/// # Errors
/// When something does not come up, or a write does not flow again.
pub async fn sentinel(fault: Fault) -> Result<Measured> {
    let mut peer = Sentinels::raise().await?;
    let writer = RedisWriter::start_at(Entrance::Sentinels(peer.sentinels()), "k:");
    let direct = RedisWriter::start_at(Entrance::At(peer.server(EAST)), "k:direct:");
    calm(&writer).await?;
    let began = Instant::now();
    match fault {
        Fault::PostmasterKill => peer.primary.signal(Signal::KILL)?,
        Fault::HostLost => peer.hosts[EAST].crash().await?,
        Fault::Partition => peer.hosts[EAST].isolate(Cut::Both).await?,
        Fault::Hang => peer.primary.signal(Signal::STOP)?,
        Fault::Planned => peer.failover().await?,
    }
    let over = over(&writer, began).await?;
    let measured = ended(writer, &direct, over, (began, peer.server(DR))).await?;
    Ok(Measured { system: "sentinel", fault, ..measured })
}

/// The longest gap since the fault, and when it ended.
pub async fn over(writer: &RedisWriter, began: Instant) -> Result<(Duration, Instant)> {
    // Until the client has noticed, writes flow on: what is waited for is a gap, and writes after it.
    let quiet = began + Duration::from_secs(8);
    loop {
        let (gap, end) = writer.gap(began);
        let settled = end.is_some_and(|end| writer.after(end) > FLOWING);
        let noticed = gap > Duration::from_millis(400);
        if let Some(end) = end.filter(|_| settled && (noticed || Instant::now() > quiet)) {
            return Ok((gap, end));
        }
        if began.elapsed() > PATIENCE {
            anyhow::bail!("no write flows {} s after the fault", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits whether the old primary is silent, and counts.
pub async fn ended(
    writer: RedisWriter,
    direct: &RedisWriter,
    (gap, end): (Duration, Instant),
    (began, survivor): (Instant, SocketAddr),
) -> Result<Measured> {
    tokio::time::sleep(SILENCE).await;
    let late = direct.after(end);
    let acknowledged = writer.stop().await?;
    let lost = lost(survivor, &acknowledged).await.context("the surviving primary cannot be asked")?;
    Ok(Measured {
        system: "",
        fault: Fault::Planned,
        gap_ms: millis(gap),
        outage_ms: millis(end - began),
        acknowledged: acknowledged.len(),
        lost: lost.len(),
        old_primary_acknowledged: late,
        in_place: false,
        rejoined_ms: None,
        timeline: Vec::new(),
    })
}

async fn calm(writer: &RedisWriter) -> Result<()> {
    writer.flows(50, Duration::from_secs(20)).await.context("the client cannot write before the fault")?;
    tokio::time::sleep(CALM).await;
    Ok(())
}
