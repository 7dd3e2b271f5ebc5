//! The lab without mesh: two databases, a route, a writer. `floor` measures what PostgreSQL and HAProxy themselves cost
//! when the promotion is done by hand at once; `up` leaves them running until it is interrupted.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mesh_tests::lab::cluster::{Cluster, DR, EAST, Wanted};
use mesh_tests::lab::direct::Direct;
use mesh_tests::lab::ground;
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::host::Terrain;
use mesh_tests::lab::wait::{Look, until};

const USAGE: &str = "usage: mesh-lab up [--namespaces] | floor [--namespaces] [RUNS] | sweep DIRECTORY";

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (terrain, words): (Terrain, Vec<&str>) = match words.iter().position(|word| *word == "--namespaces") {
        Some(at) => (Terrain::Namespaces, [&words[..at], &words[at + 1..]].concat()),
        None => (Terrain::Loopback, words),
    };
    match words[..] {
        ["up"] => up(terrain).await,
        ["floor"] => floor(terrain, 5).await,
        ["floor", runs] => floor(terrain, runs.parse()?).await,
        ["sweep", dir] => ground::sweep(dir.as_ref()),
        _ => bail!("{USAGE}"),
    }
}

fn wanted(terrain: Terrain) -> Wanted {
    Wanted { name: "lab", terrain, follows: Follows::RuntimeApi, spec: String::new(), also: Vec::new() }
}

async fn up(terrain: Terrain) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    // Before anybody is told that it is up: whoever reads that may interrupt at once.
    let mut interrupted = signal(SignalKind::interrupt())?;
    let cluster = Cluster::raise(wanted(terrain)).await?;
    println!("up {}", cluster.dir().display());
    interrupted.recv().await;
    Ok(())
}

async fn floor(terrain: Terrain, runs: usize) -> Result<()> {
    for _ in 0..runs {
        let cluster = Cluster::raise(wanted(terrain)).await?;
        let mut writer = cluster.writer();
        let mut direct = Direct::start(&cluster.servers[EAST]);
        until("writes flow", Duration::from_secs(10), || async {
            Ok(if writer.count() > 100 {
                Look::There(())
            } else {
                Look::NotYet(format!("{:?}", writer.last_error()))
            })
        })
        .await?;
        let (old, new) = (&cluster.servers[EAST], &cluster.servers[DR]);
        let fault = Instant::now();
        old.signal_all(rustix::process::Signal::KILL)?;
        new.superuser("SELECT pg_promote(false)").await?;
        while !new.is_primary().await? {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let promoted = fault.elapsed();
        cluster.haproxy.lead("pg-east", "pg-dr").await?;
        let outage = writer.outage(fault, Duration::from_secs(5), Duration::from_secs(20)).await?;
        writer.stop().await?;
        direct.stop().await?;
        let (acked, lost) = writer.lost(&new.local_client()).await?;
        println!(
            "promoted by hand {} ms, first write through the route {} ms after the kill; {} acknowledged, {} lost; old primary after it: {}",
            promoted.as_millis(),
            outage.from_fault.as_millis(),
            acked,
            lost.len(),
            direct.after(fault + Duration::from_millis(20)).len(),
        );
    }
    Ok(())
}
