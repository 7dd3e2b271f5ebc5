//! The results, as JSON lines and as a table.

use std::io::Write;

use anyhow::Result;

use crate::fault::Fault;
use crate::measure::Measured;
use crate::site;

/// Writes one result as a line of JSON.
///
/// # Errors
/// When it cannot be written.
pub fn line(out: &mut dyn Write, result: &Measured) -> Result<()> {
    writeln!(out, "{}", serde_json::to_string(result)?)?;
    Ok(out.flush()?)
}

/// The table of medians and worst cases, in Markdown.
#[must_use]
pub fn table(results: &[Measured]) -> String {
    let mut text = String::from(
        "| system | fault | runs | client outage, median | worst | rows lost, worst | acknowledged by the old primary | started in place | rejoined, median |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for system in ["mesh", "mesh, Redis", site::ROUTED, site::NAMED, site::CACHE, "patroni", "sentinel"] {
        for fault in Fault::ALL {
            let of: Vec<&Measured> =
                results.iter().filter(|r| r.system == system && r.fault == fault).collect();
            if !of.is_empty() {
                text.push_str(&row(system, fault, &of));
            }
        }
    }
    text
}

fn row(system: &str, fault: Fault, of: &[&Measured]) -> String {
    let outages: Vec<u64> = of.iter().map(|result| outage(result)).collect();
    let rejoined: Vec<u64> = of.iter().filter_map(|result| result.rejoined_ms).collect();
    let lost = of.iter().map(|result| result.lost).max().unwrap_or(0);
    let in_place = of.iter().filter(|result| result.in_place).count();
    let late: usize = of.iter().map(|result| result.old_primary_acknowledged).sum();
    format!(
        "| {system} | {} | {} | {} | {} | {lost} | {late} | {in_place} | {} |\n",
        fault.name(),
        of.len(),
        seconds(median(&outages)),
        seconds(outages.iter().max().copied()),
        seconds(median(&rejoined)),
    )
}

/// What the client felt: for a fault, the time since it; for a planned change, in which the client writes on until the
/// hand-over, the gap.
fn outage(result: &Measured) -> u64 {
    match result.fault {
        Fault::Planned => result.gap_ms,
        Fault::PostmasterKill | Fault::HostLost | Fault::Partition | Fault::Hang => result.outage_ms,
    }
}

fn median(values: &[u64]) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get((sorted.len() - 1) / 2)?;
    Some(u64::midpoint(*lower, *upper))
}

fn seconds(ms: Option<u64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{}.{:03} s", ms / 1000, ms % 1000))
}

#[cfg(test)]
mod tests {
    use super::{median, seconds};

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[7]), Some(7));
        assert_eq!(median(&[10, 1, 4]), Some(4));
        assert_eq!(median(&[10, 1, 4, 6]), Some(5));
    }

    #[test]
    fn milliseconds_read_as_seconds() {
        assert_eq!(seconds(Some(45)), "0.045 s");
        assert_eq!(seconds(Some(19_800)), "19.800 s");
        assert_eq!(seconds(None), "-");
    }
}
