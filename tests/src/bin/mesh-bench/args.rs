//! The words of the command line.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::fault::Fault;

/// Shown on request and after a mistake.
pub const USAGE: &str = "\
mesh-bench: what a client feels when a primary is lost, on hosts as network namespaces (needs root)

  mesh-bench [--runs N] [--faults A,B] [--spec LINES] [--peer patroni [--peer-runs N]] [--out FILE]
  mesh-bench --engine redis [--peer sentinel] …    the same of Redis
  mesh-bench --engine site …     PostgreSQL and Redis on the same hosts, a name and HAProxy; host-lost, partition, planned
  mesh-bench --idle              memory and processor time of agents and guards at rest

  faults   postmaster-kill, host-lost, partition, hang, planned (all of them when left out)
  --spec   further lines of the group spec, such as 'profile = \"fast\"'
  --out    JSON lines, one a run; they go to standard output when left out

A table of medians and worst cases ends the output.";

/// The databases that are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// PostgreSQL; the peer is Patroni.
    Postgres,
    /// Redis; the peer is Sentinel.
    Redis,
    /// Both on the same hosts, with a name; no peer does it.
    Site,
}

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Runs of each fault.
    pub runs: usize,
    /// Which.
    pub faults: Vec<Fault>,
    /// Lines of the group spec.
    pub spec: String,
    /// Runs of the peer of each fault; 0 leaves it out.
    pub peer_runs: usize,
    /// Where the JSON lines go.
    pub out: Option<PathBuf>,
    /// Which databases.
    pub engine: Engine,
    /// Only the footprint at rest.
    pub idle: bool,
}

/// Reads the command line; `None` asks for the usage.
///
/// # Errors
/// When a word is not known.
pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Asked>> {
    let mut asked = Asked {
        runs: 10,
        faults: Fault::ALL.to_vec(),
        spec: String::new(),
        peer_runs: 0,
        out: None,
        engine: Engine::Postgres,
        idle: false,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--runs" => asked.runs = value()?.parse()?,
            "--faults" => asked.faults = value()?.split(',').map(Fault::named).collect::<Result<_>>()?,
            "--spec" => asked.spec = value()?,
            "--peer" => match value()?.as_str() {
                "patroni" | "sentinel" => asked.peer_runs = asked.peer_runs.max(3),
                other => bail!("there is no peer {other:?}; take patroni, or for Redis sentinel"),
            },
            "--engine" => {
                asked.engine = match value()?.as_str() {
                    "postgres" => Engine::Postgres,
                    "redis" => Engine::Redis,
                    "site" => Engine::Site,
                    other => bail!("there is no engine {other:?}; take postgres, redis or site"),
                }
            }
            "--peer-runs" => asked.peer_runs = value()?.parse()?,
            "--out" => asked.out = Some(value()?.into()),
            "--idle" => asked.idle = true,
            "--help" | "-h" => return Ok(None),
            other => bail!("{other:?} is not known; see mesh-bench --help"),
        }
    }
    if asked.engine == Engine::Site {
        asked.faults.retain(|fault| Fault::OF_A_SITE.contains(fault));
        if asked.faults.is_empty() || asked.peer_runs > 0 {
            bail!(
                "a whole site is lost, cut off or moved by plan, and there is no peer; see mesh-bench --help"
            );
        }
    }
    Ok(Some(asked))
}
