//! Real faults, one after the other, drawn from a seed, against one zero-loss mesh of real processes in network namespaces.
//!
//! A seed fixes which faults come, where, for how long and in which order; how the processes take them is up to the kernel, so
//! a round that fails is a reason to look, not a recording. After each round everything is mended, and the mesh must come right
//! by itself and have kept every acknowledged write. Nothing here decides what mesh should do: whether the primary moved is told,
//! not judged.

mod fault;
mod inflict;
mod oracle;
pub mod report;

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;

pub use self::fault::{Fault, Plan, Where};
use self::inflict::Inflicted;
use self::oracle::Oracle;
use crate::lab::cluster::{Also, Cluster, EAST, Wanted};
use crate::lab::ground::port;
use crate::lab::haproxy::Follows;
use crate::lab::host::Terrain;
use crate::lab::writer::Writer;
use crate::sim::rng::Rng;

/// After everything is mended, the mesh has this long to come right without a person.
const HEALING: Duration = Duration::from_secs(120);
/// The client writes for this long between two rounds.
const CALM: Duration = Duration::from_millis(1_500);
/// Every row that was ever acknowledged is looked for again after so many rounds.
const WHOLE: usize = 20;

/// How long to go on.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// So many rounds.
    Rounds(usize),
    /// No round begins after this long.
    Time(Duration),
}

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Where chance begins.
    pub seed: u64,
    /// How long.
    pub until: Until,
    /// The faults to draw from.
    pub faults: Vec<Fault>,
    /// Further lines of the group spec.
    pub spec: String,
}

/// What one round found.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// Its number, from 1.
    pub round: usize,
    /// What was done.
    #[serde(flatten)]
    pub plan: Plan,
    /// The node of each blow.
    pub nodes: Vec<usize>,
    /// The node that had the primary before, and after.
    pub primary: (usize, usize),
    /// Epochs that passed.
    pub epochs: u64,
    /// The client's longest time without an acknowledgement from the fault until everything was right again, in milliseconds.
    pub gap_ms: u64,
    /// From the mending until the mesh was right, in milliseconds.
    pub healed_ms: u64,
    /// Rows acknowledged in this round, by every writer.
    pub acknowledged: usize,
    /// Transactions acknowledged as prepared in this round.
    pub prepared: usize,
    /// Acknowledged rows that the primary lacks.
    pub lost: Vec<i64>,
    /// Prepared transactions that are not as their client was told.
    pub astray: Vec<String>,
    /// Whether two servers acknowledged in turns, which needs two that may at once.
    pub two_writers: bool,
}

impl Round {
    /// Whether every promise was kept.
    #[must_use]
    pub fn kept(&self) -> bool {
        self.lost.is_empty() && self.astray.is_empty() && !self.two_writers
    }
}

/// Plays rounds until one breaks a promise or it is time; tells each to `each`; all of them.
///
/// # Errors
/// When the mesh does not come right by itself after a round; with status and logs.
pub async fn play(asked: &Asked, out: &mut dyn Write, mut each: impl FnMut(&Round)) -> Result<Vec<Round>> {
    let began = Instant::now();
    let mut cluster = raise(asked).await?;
    let writer = cluster.writer();
    let mut oracle = Oracle::start(&cluster, cluster.servers[EAST].client(cluster.haproxy.ip, port::ROUTE));
    let mut rng = Rng::new(asked.seed);
    let mut rounds: Vec<Round> = Vec::new();
    flowing(&cluster, &writer).await?;
    loop {
        let number = rounds.len() + 1;
        let over = match asked.until {
            Until::Rounds(count) => number > count,
            Until::Time(length) => began.elapsed() > length,
        };
        if over {
            break;
        }
        let round = one(&mut cluster, &writer, &mut oracle, &mut rng, asked, number).await;
        let round = match round {
            Ok(round) => round,
            Err(error) => {
                cluster.ground().leave(crate::lab::ground::Leave::Logs);
                return Err(error);
            }
        };
        writeln!(out, "{}", serde_json::to_string(&round)?)?;
        out.flush()?;
        each(&round);
        let kept = round.kept();
        rounds.push(round);
        if !kept {
            cluster.ground().leave(crate::lab::ground::Leave::Logs);
            break;
        }
    }
    Ok(rounds)
}

async fn raise(asked: &Asked) -> Result<Cluster> {
    let wanted = Wanted {
        name: "chaos",
        terrain: Terrain::Namespaces,
        follows: Follows::RuntimeApi,
        spec: format!(
            "durability = \"zero-loss\"\nhold_down_seconds = 0\nsite_preference = [\"east\", \"dr\"]\n{}\n",
            asked.spec
        ),
        also: vec![Also::Standby, Also::Disks, Also::Clocks],
    };
    let mut cluster = Cluster::raise(wanted).await?;
    cluster.form().await?;
    cluster.until_settled(HEALING).await?;
    Ok(cluster)
}

async fn one(
    cluster: &mut Cluster,
    writer: &Writer,
    oracle: &mut Oracle,
    rng: &mut Rng,
    asked: &Asked,
    number: usize,
) -> Result<Round> {
    let before = cluster.group().await?.epoch.0;
    let from = cluster.primary().await?;
    let plan = Plan::draw(rng, &asked.faults);
    let fault = Instant::now();
    let (mut inflicted, mut nodes) = (Inflicted::default(), Vec::new());
    for blow in &plan.blows {
        tokio::time::sleep(Duration::from_millis(blow.after_ms)).await;
        let struck = inflicted.inflict(cluster, blow, from).await;
        nodes.push(struck.with_context(|| format!("round {number}: {blow:?}"))?);
    }
    tokio::time::sleep(Duration::from_millis(plan.hold_ms)).await;
    inflicted.mend(cluster).await.with_context(|| format!("round {number} could not be mended"))?;
    let mended = Instant::now();
    let told = || format!("round {number}, {plan:?}: the mesh did not come right");
    let first = cluster.until_settled(HEALING).await.with_context(told)?.epoch;
    let mut healed_ms = millis(mended.elapsed());
    flowing(cluster, writer).await.with_context(told)?;
    tokio::time::sleep(CALM).await;
    // What the faults began may show only now: a lease that nobody renewed ends after the links are whole again.
    let group = cluster.until_settled(HEALING).await.with_context(told)?;
    if group.epoch != first {
        healed_ms = millis(mended.elapsed());
    }
    flowing(cluster, writer).await.with_context(told)?;
    let (gap, to) = (writer.gap(fault), cluster.primary().await?);
    let epochs = cluster.group().await?.epoch.0 - before;
    let found = oracle.look(cluster, writer, to, number.is_multiple_of(WHOLE), epochs).await;
    let found = found.with_context(|| format!("round {number}: the primary cannot be asked"))?;
    Ok(Round {
        round: number,
        plan,
        nodes,
        primary: (from, to),
        epochs,
        gap_ms: millis(gap),
        healed_ms,
        acknowledged: found.acknowledged,
        prepared: found.prepared,
        lost: found.lost,
        astray: found.astray,
        two_writers: found.two_writers,
    })
}

/// Waits until the client's rows are acknowledged.
async fn flowing(cluster: &Cluster, writer: &Writer) -> Result<()> {
    let flows = writer.flows(20, HEALING).await;
    cluster.explained(flows).await
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}
