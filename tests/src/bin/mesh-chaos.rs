//! `make chaos`: real faults drawn from a seed, one round after the other, against a zero-loss mesh of real processes (root).
//!
//! Ends with 1 when a promise was broken or the mesh did not come right by itself; the logs are left then.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mesh_tests::chaos::{Asked, Fault, Round, Until, play, report};
use mesh_tests::lab::cluster::SITES;

const USAGE: &str = "\
mesh-chaos: real faults against a zero-loss mesh on hosts as network namespaces (needs root)

  mesh-chaos [--seed N] [--rounds N | --minutes N] [--faults A,B] [--spec LINES] [--out FILE]

  --seed     where chance begins (1): the same seed draws the same faults
  --rounds   how many rounds (20); --minutes: for how long instead
  --faults   the faults to draw from (all of them when left out)
  --spec     further lines of the group spec, such as 'profile = \"fast\"'
  --out      JSON lines, one a round

A round is one fault, sometimes a second on top of it. After it everything is mended, the mesh must come right by itself,
every row that any client was ever told is committed must be there, and every transaction that it was told is prepared must be
prepared, or committed, or rolled back by its client. A table of all rounds ends the output.";

#[tokio::main]
async fn main() -> ExitCode {
    let work = async {
        match parse(std::env::args().skip(1))? {
            None => {
                println!("{USAGE}");
                Ok(true)
            }
            Some((asked, out)) => run(&asked, out).await,
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
            eprintln!("mesh-chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(asked: &Asked, out: Option<PathBuf>) -> Result<bool> {
    let mut file: Box<dyn Write> = match out {
        Some(path) => Box::new(std::fs::OpenOptions::new().create(true).append(true).open(path)?),
        None => Box::new(std::io::sink()),
    };
    println!("seed {}", asked.seed);
    let mut told = Vec::new();
    let played = play(asked, &mut file, |round| {
        println!("{}", line(round));
        told.push(round.clone());
    })
    .await;
    println!("\n{}", report::table(&told));
    let rounds = played.with_context(|| format!("seed {}", asked.seed))?;
    let acknowledged: usize = rounds.iter().map(|round| round.acknowledged).sum();
    let prepared: usize = rounds.iter().map(|round| round.prepared).sum();
    match rounds.iter().find(|round| !round.kept()) {
        None => println!(
            "{} rounds, {acknowledged} acknowledged rows: none lost, none by a second writer; {prepared} prepared \
             transactions: each as its client was told",
            rounds.len()
        ),
        Some(round) => println!("round {} broke a promise: {round:?}", round.round),
    }
    Ok(rounds.iter().all(Round::kept))
}

fn line(round: &Round) -> String {
    let blows: Vec<String> = round
        .plan
        .blows
        .iter()
        .zip(&round.nodes)
        .map(|(blow, node)| {
            let (of, place) = (if *node == round.primary.0 { " (primary)" } else { "" }, SITES[*node]);
            format!("{} at {place}{of}{}", blow.fault.name(), after(blow.after_ms))
        })
        .collect();
    format!(
        "{:>4}  {:<78} {:>6} ms held  {}  gap {:>6} ms  right after {:>6} ms  {:>5} rows{}",
        round.round,
        blows.join(", "),
        round.plan.hold_ms,
        if round.primary.0 == round.primary.1 { "stayed" } else { "moved " },
        round.gap_ms,
        round.healed_ms,
        round.acknowledged,
        if round.kept() { "" } else { "  A PROMISE WAS BROKEN" },
    )
}

fn after(ms: u64) -> String {
    if ms == 0 { String::new() } else { format!(" {ms} ms later") }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<(Asked, Option<PathBuf>)>> {
    let mut asked =
        Asked { seed: 1, until: Until::Rounds(20), faults: Fault::ALL.to_vec(), spec: String::new() };
    let mut out = None;
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--seed" => asked.seed = value()?.parse()?,
            "--rounds" => asked.until = Until::Rounds(value()?.parse()?),
            "--minutes" => asked.until = Until::Time(Duration::from_secs(value()?.parse::<u64>()? * 60)),
            "--faults" => asked.faults = value()?.split(',').map(Fault::named).collect::<Result<_>>()?,
            "--spec" => asked.spec = value()?,
            "--out" => out = Some(value()?.into()),
            "--help" | "-h" => return Ok(None),
            other => bail!("{other:?} is not known; see mesh-chaos --help"),
        }
    }
    Ok(Some((asked, out)))
}
