//! What the rounds came to: medians and worst cases of each fault, as a table.

use std::fmt::Write as _;

use super::{Fault, Round};

/// The table, in Markdown. A round with two faults stands in the row of the first, and is counted in the column "of two".
#[must_use]
pub fn table(rounds: &[Round]) -> String {
    let mut text = String::from(
        "| fault | rounds | of two | primary moved | client's gap, median | p99 | worst | right again, median | worst |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for fault in Fault::ALL {
        let of: Vec<&Round> = rounds
            .iter()
            .filter(|round| round.plan.blows.first().is_some_and(|blow| blow.fault == fault))
            .collect();
        if !of.is_empty() {
            row(&mut text, fault.name(), &of);
        }
    }
    row(&mut text, "all", &rounds.iter().collect::<Vec<_>>());
    text
}

fn row(text: &mut String, name: &str, of: &[&Round]) {
    let gaps = sorted(of.iter().map(|round| round.gap_ms));
    let healed = sorted(of.iter().map(|round| round.healed_ms));
    let two = of.iter().filter(|round| round.plan.blows.len() > 1).count();
    let moved = of.iter().filter(|round| round.primary.0 != round.primary.1).count();
    // Writing to a String does not fail.
    let written = writeln!(
        text,
        "| {name} | {} | {two} | {moved} | {} | {} | {} | {} | {} |",
        of.len(),
        seconds(rank(&gaps, 50)),
        seconds(rank(&gaps, 99)),
        seconds(rank(&gaps, 100)),
        seconds(rank(&healed, 50)),
        seconds(rank(&healed, 100)),
    );
    debug_assert!(written.is_ok());
}

fn sorted(values: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut sorted: Vec<u64> = values.collect();
    sorted.sort_unstable();
    sorted
}

/// The value that `percent` of all do not exceed; of few values the 99th is the worst.
fn rank(sorted: &[u64], percent: usize) -> Option<u64> {
    let at = (sorted.len() * percent).div_ceil(100);
    sorted.get(at.saturating_sub(1)).copied()
}

fn seconds(ms: Option<u64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{}.{:03} s", ms / 1000, ms % 1000))
}

#[cfg(test)]
mod tests {
    use super::rank;

    #[test]
    fn of_few_values_the_highest_rank_is_the_worst() {
        assert_eq!(rank(&[], 50), None);
        assert_eq!(rank(&[4], 99), Some(4));
        assert_eq!(rank(&[1, 2, 3, 4], 50), Some(2));
        assert_eq!(rank(&[1, 2, 3, 4], 99), Some(4));
        assert_eq!(rank(&(1..=200).collect::<Vec<_>>(), 99), Some(198));
    }
}
