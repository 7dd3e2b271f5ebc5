//! One measurement: a fresh system, a writer, a fault, and what the client felt.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mesh_proto::run::Run;
use mesh_tests::lab::cluster::{Also, Cluster, DR, EAST, WITNESS, Wanted};
use mesh_tests::lab::direct::Direct;
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::host::Terrain;
use mesh_tests::lab::net::Cut;
use mesh_tests::lab::patroni::Patroni;
use mesh_tests::lab::process::{send, tree};
use mesh_tests::lab::timeline::{Stretch, stretches, wall};
use mesh_tests::lab::wait::{Look, until};
use mesh_tests::lab::writer::Writer;
use rustix::process::Signal;
use serde::Serialize;

use crate::fault::Fault;

/// The client writes for this long before the fault.
pub const CALM: Duration = Duration::from_secs(3);
/// No system here needs longer than this.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// An old primary that came back is watched for this long before it is believed to be silent.
pub const SILENCE: Duration = Duration::from_secs(3);

/// What one run found.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// `mesh` or `patroni`.
    pub system: &'static str,
    /// What was done.
    pub fault: Fault,
    /// Longest time between two acknowledgements, in milliseconds.
    pub gap_ms: u64,
    /// From the fault (or the request) to the first acknowledgement after the gap, in milliseconds.
    pub outage_ms: u64,
    /// Rows acknowledged through the route.
    pub acknowledged: usize,
    /// Of these, rows that the surviving primary lacks.
    pub lost: usize,
    /// Rows that the old primary acknowledged to a session of its own host after the new one's first.
    pub old_primary_acknowledged: usize,
    /// Nobody was promoted: the primary that crashed was started again.
    pub in_place: bool,
    /// From the mending (or the end of the outage) until the old primary follows, in milliseconds; mesh only.
    pub rejoined_ms: Option<u64>,
    /// The phases of the run; mesh only.
    pub timeline: Vec<Stretch>,
}

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
        // With its only standby lost or promoted, a zero-loss group acknowledges nothing: it takes a second one.
        also: if spec.contains("zero-loss") { vec![Also::Standby] } else { Vec::new() },
    };
    let mut cluster = Cluster::raise(wanted).await?;
    cluster.form().await?;
    let mut writer = cluster.writer();
    let mut direct = Direct::start(&cluster.servers[EAST]);
    calm(&writer).await?;
    let (zero, began) = (wall(), Instant::now());
    let mut frozen = Vec::new();
    match fault {
        Fault::PostmasterKill => cluster.servers[EAST].kill_postmaster()?,
        Fault::HostLost => cluster.lose(EAST).await?,
        Fault::Partition => cluster.nodes[EAST].host.isolate(Cut::Both).await?,
        Fault::Hang => frozen = cluster.servers[EAST].signal_all(Signal::STOP)?,
        Fault::Planned => {
            let args = ["switchover", "--site", "dr", "--yes", "--reason", "measurement"];
            let done = cluster.must(WITNESS, &args).await;
            cluster.explained(done).await?;
        }
    }
    let outage = writer.outage(began, Duration::from_secs(20), PATIENCE).await;
    let outage = cluster.explained(outage).await?;
    let mended = Instant::now();
    match fault {
        Fault::HostLost => cluster.boot(EAST)?,
        Fault::Partition => cluster.nodes[EAST].host.heal().await?,
        Fault::Hang => {
            for pid in frozen {
                send(pid, Signal::CONT)?;
            }
        }
        Fault::PostmasterKill | Fault::Planned => {}
    }
    let (run, survivor) = survivor(&cluster).await?;
    let in_place = survivor == EAST;
    cluster.until_healthy(&cluster.servers[survivor].name, Duration::from_secs(60)).await?;
    let rejoined_ms = Some(millis(mended.elapsed()));
    tokio::time::sleep(SILENCE).await;
    writer.stop().await?;
    direct.stop().await?;
    let (acknowledged, lost) = writer.lost(&cluster.servers[survivor].local_client()).await?;
    Ok(Measured {
        system: "mesh",
        fault,
        gap_ms: millis(outage.gap),
        outage_ms: millis(outage.from_fault),
        acknowledged,
        lost: lost.len(),
        old_primary_acknowledged: if in_place { 0 } else { direct.after(began + outage.from_fault).len() },
        in_place,
        rejoined_ms,
        timeline: run.map(|run| stretches(&run, zero)).unwrap_or_default(),
    })
}

/// The newest run when it is over, and whose server is the primary then: a crashed one may have been started again in place.
async fn survivor(cluster: &Cluster) -> Result<(Option<Run>, usize)> {
    let over = until("the run is over", Duration::from_secs(60), || async {
        let run = cluster.group().await?.run;
        Ok(match run {
            Some(run) if !run.phase.is_final() => Look::NotYet(format!("{:?}", run.phase)),
            run => Look::There(run),
        })
    })
    .await;
    Ok((cluster.explained(over).await?, cluster.primary().await?))
}

/// Measures the peer once.
///
/// # Errors
/// When something does not come up, or a write does not flow again.
pub async fn patroni(fault: Fault) -> Result<Measured> {
    let peer = Patroni::raise().await?;
    let mut writer = Writer::start(peer.client(), "route", 0);
    let mut direct = Writer::start(peer.local_client(EAST), "direct", 1_000_000_000);
    calm(&writer).await?;
    let began = Instant::now();
    match fault {
        Fault::PostmasterKill => send(peer.postmaster(EAST)?, Signal::KILL)?,
        Fault::HostLost => peer.hosts[EAST].crash().await?,
        Fault::Partition => peer.hosts[EAST].isolate(Cut::Both).await?,
        Fault::Hang => {
            for pid in tree(peer.postmaster(EAST)?)? {
                send(pid, Signal::STOP)?;
            }
        }
        Fault::Planned => peer.switchover().await?,
    }
    let outage = writer.outage(began, Duration::from_secs(60), PATIENCE).await?;
    tokio::time::sleep(SILENCE).await;
    writer.stop().await?;
    direct.stop().await?;
    let (acknowledged, lost) = writer.lost(&peer.local_client(DR)).await?;
    Ok(Measured {
        system: "patroni",
        fault,
        gap_ms: millis(outage.gap),
        outage_ms: millis(outage.from_fault),
        acknowledged,
        lost: lost.len(),
        old_primary_acknowledged: direct.after(began + outage.from_fault).len(),
        in_place: false,
        rejoined_ms: None,
        timeline: Vec::new(),
    })
}

async fn calm(writer: &Writer) -> Result<()> {
    writer.flows(50, Duration::from_secs(20)).await.context("the client cannot write before the fault")?;
    tokio::time::sleep(CALM).await;
    Ok(())
}

pub fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}
