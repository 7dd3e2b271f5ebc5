//! `make bench`: the five faults on hosts as network namespaces, many times each, beside a peer if asked for.
//!
//! Each run raises a system of its own, so that none inherits anything from the one before.

mod args;
mod fault;
mod measure;
mod redis;
mod report;
mod site;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use args::Engine;
use mesh_tests::lab::cluster::{Cluster, Wanted};
use mesh_tests::lab::footprint;
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::host::Terrain;
use mesh_tests::lab::patroni::Patroni;

/// How long the footprint is measured, after as long a rest.
const REST: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> ExitCode {
    let work = async {
        match args::parse(std::env::args().skip(1))? {
            None => {
                println!("{}", args::USAGE);
                Ok(true)
            }
            Some(asked) if asked.idle => idle(&asked).await.map(|()| true),
            Some(asked) => faults(&asked).await,
        }
    };
    // Dropping the work ends everything that it started.
    let ended = tokio::select! {
        ended = work => ended,
        _ = tokio::signal::ctrl_c() => return ExitCode::from(130),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mesh-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures; whether every run came to its end.
async fn faults(asked: &args::Asked) -> Result<bool> {
    let mut out: Box<dyn Write> = match &asked.out {
        Some(path) => Box::new(std::fs::OpenOptions::new().create(true).append(true).open(path)?),
        None => Box::new(std::io::stdout()),
    };
    let (mut results, mut failures) = (Vec::new(), 0);
    for run in 1..=asked.runs.max(asked.peer_runs) {
        for fault in &asked.faults {
            let mut found = Vec::new();
            let (mesh, peer) = (run <= asked.runs, run <= asked.peer_runs);
            match asked.engine {
                Engine::Postgres if mesh => found.push(("mesh", measure::mesh(*fault, &asked.spec).await)),
                Engine::Redis if mesh => found.push(("mesh", redis::mesh(*fault, &asked.spec).await)),
                Engine::Site if mesh => match site::mesh(*fault, &asked.spec).await {
                    Ok(all) => found.extend(all.into_iter().map(|one| ("mesh", Ok(one)))),
                    Err(error) => found.push(("mesh", Err(error))),
                },
                Engine::Postgres | Engine::Redis | Engine::Site => {}
            }
            match asked.engine {
                Engine::Postgres if peer => found.push(("patroni", measure::patroni(*fault).await)),
                Engine::Redis if peer => found.push(("sentinel", redis::sentinel(*fault).await)),
                Engine::Postgres | Engine::Redis | Engine::Site => {}
            }
            for (system, found) in found {
                match found {
                    Ok(result) => {
                        report::line(&mut out, &result)?;
                        results.push(result);
                    }
                    Err(error) => {
                        failures += 1;
                        eprintln!("{system}, {}, run {run}: {error:#}", fault.name());
                    }
                }
            }
        }
    }
    println!("\n{}", report::table(&results));
    if failures > 0 {
        println!("{failures} runs did not come to their end; they are not in the table");
    }
    Ok(failures == 0)
}

async fn idle(asked: &args::Asked) -> Result<()> {
    println!("| process | PSS | of a core |\n|---|---|---|");
    let wanted = Wanted {
        name: "bench",
        terrain: Terrain::Namespaces,
        follows: Follows::RuntimeApi,
        spec: asked.spec.clone(),
        also: Vec::new(),
    };
    let mut cluster = Cluster::raise(wanted).await?;
    cluster.form().await?;
    let processes =
        cluster.nodes.iter().flat_map(|node| [node.agent.as_ref(), node.guard.as_ref()]).flatten();
    let named = processes.map(|process| (process.name().to_owned(), process.pid())).collect();
    footprint(named).await?;
    drop(cluster);
    if asked.peer_runs > 0 {
        let peer = Patroni::raise().await?;
        footprint(peer.pids()).await?;
    }
    Ok(())
}

async fn footprint(named: Vec<(String, u32)>) -> Result<()> {
    tokio::time::sleep(REST).await;
    let pids: Vec<u32> = named.iter().map(|(_, pid)| *pid).collect();
    for ((name, _), cost) in named.iter().zip(footprint::measure(&pids, REST).await?) {
        println!("| {name} | {:.1} MB | {:.2} % |", cost.memory_mb, cost.cpu_percent);
    }
    Ok(())
}
