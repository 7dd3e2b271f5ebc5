//! What processes cost at rest: memory (proportional set size) and processor time.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// What one process costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Proportional set size in MB (10^6 bytes).
    pub memory_mb: f64,
    /// Per cent of one core.
    pub cpu_percent: f64,
}

/// Measures processes over a time of rest.
///
/// # Errors
/// When a process is gone, or its memory map may not be read.
pub async fn measure(pids: &[u32], over: Duration) -> Result<Vec<Cost>> {
    let before = pids.iter().map(|pid| ticks(*pid)).collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    tokio::time::sleep(over).await;
    let mut costs = Vec::new();
    for (pid, before) in pids.iter().zip(before) {
        let used = u32::try_from(ticks(*pid)?.saturating_sub(before))?;
        let seconds = f64::from(used) / f64::from(u32::try_from(rustix::param::clock_ticks_per_second())?);
        let cpu_percent = 100.0 * seconds / began.elapsed().as_secs_f64();
        costs.push(Cost { memory_mb: memory_mb(*pid)?, cpu_percent });
    }
    Ok(costs)
}

/// User and system time of a process, in clock ticks.
fn ticks(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(") ").context("unexpected form of /proc/<pid>/stat")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    // Fields 14 and 15 of proc(5), counted from the state, which is field 3.
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

fn memory_mb(pid: u32) -> Result<f64> {
    let map = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = map.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss line")?;
    let kib: u32 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(f64::from(kib) * 1024.0 / 1e6)
}
