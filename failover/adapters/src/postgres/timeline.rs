//! Timelines: where each branched off, and whether a position lies on the history of another. Pure.

use mesh_proto::Lsn;

/// One ancestor in a timeline's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ancestor {
    /// The ancestor.
    pub timeline: u32,
    /// Where its successor branched off: the end of what counts of it.
    pub until: Lsn,
}

/// A timeline and its ancestors, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The timeline.
    pub timeline: u32,
    /// Its ancestors.
    pub ancestors: Vec<Ancestor>,
}

/// A line of a history file that PostgreSQL would not have written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the history of timeline {timeline} is damaged: {text:?}")]
pub struct HistoryError {
    /// The timeline.
    pub timeline: u32,
    /// Line number from 1.
    pub line: usize,
    /// Its text.
    pub text: String,
}

impl History {
    /// The first timeline, which has no history file.
    #[must_use]
    pub fn first() -> History {
        History { timeline: 1, ancestors: Vec::new() }
    }

    /// Name of the file of a timeline in `pg_wal`.
    #[must_use]
    pub fn file_name(timeline: u32) -> String {
        format!("{timeline:08X}.history")
    }

    /// Reads a history file.
    ///
    /// # Errors
    /// At the first line that is no entry, or is out of order.
    pub fn parse(timeline: u32, text: &str) -> Result<History, HistoryError> {
        let mut ancestors: Vec<Ancestor> = Vec::new();
        for (index, raw) in text.lines().enumerate() {
            let line = raw.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let damaged = || HistoryError { timeline, line: index + 1, text: raw.to_owned() };
            let mut fields = line.split_whitespace();
            let parent: u32 = fields.next().and_then(|f| f.parse().ok()).ok_or_else(damaged)?;
            let until: Lsn = fields.next().and_then(|f| f.parse().ok()).ok_or_else(damaged)?;
            if parent >= timeline || ancestors.last().is_some_and(|last| last.timeline >= parent) {
                return Err(damaged());
            }
            ancestors.push(Ancestor { timeline: parent, until });
        }
        Ok(History { timeline, ancestors })
    }

    /// Where a server whose log ends at `position` of `timeline` stands to this history.
    #[must_use]
    pub fn place(&self, timeline: u32, position: Lsn) -> Lineage {
        if timeline == self.timeline {
            return Lineage::Within;
        }
        match self.ancestors.iter().find(|ancestor| ancestor.timeline == timeline) {
            Some(ancestor) if position <= ancestor.until => Lineage::Within,
            Some(ancestor) => Lineage::Diverged { timeline, at: ancestor.until },
            None => Lineage::Stranger,
        }
    }

    /// Up to where this history and another are the same, and on which timeline that is; `None` when they share nothing.
    /// Two servers promoted apart from each other take the same number for different timelines, so equal numbers with
    /// different beginnings part where the first of them began.
    #[must_use]
    pub fn fork_from(&self, other: &History) -> Option<(u32, Lsn)> {
        let mut shared = None;
        for (ours, theirs) in self.with_self().iter().zip(&other.with_self()) {
            if ours.timeline != theirs.timeline {
                break;
            }
            shared = Some((ours.timeline, ours.until.min(theirs.until)));
            if ours.until != theirs.until {
                break;
            }
        }
        shared
    }

    /// The ancestors and the timeline itself, which has no end.
    fn with_self(&self) -> Vec<Ancestor> {
        let mut all = self.ancestors.clone();
        all.push(Ancestor { timeline: self.timeline, until: Lsn(u64::MAX) });
        all
    }
}

/// How a position relates to a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lineage {
    /// On the history: it can follow without a rewind.
    Within,
    /// On an ancestor, but beyond where the history branched off: what lies beyond is not in the history.
    Diverged {
        /// The ancestor.
        timeline: u32,
        /// Where the history left it.
        at: Lsn,
    },
    /// On a timeline that the history does not know.
    Stranger,
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_fuzz::fuzz;

    const TEXT: &str = "1\t0/60D4FE0\tno recovery target specified\n\n3\t0/7000000\treason\n";

    #[test]
    fn reads_a_history_and_places_positions() {
        let history = History::parse(4, TEXT).unwrap();
        assert_eq!(history.ancestors.len(), 2);
        assert_eq!(history.place(4, Lsn(u64::MAX)), Lineage::Within);
        assert_eq!(history.place(1, Lsn(0x60D_4FE0)), Lineage::Within);
        let beyond = Lineage::Diverged { timeline: 1, at: Lsn(0x60D_4FE0) };
        assert_eq!(history.place(1, Lsn(0x60D_4FE1)), beyond);
        assert_eq!(history.place(2, Lsn(1)), Lineage::Stranger);
        assert_eq!(history.place(5, Lsn(1)), Lineage::Stranger);
    }

    #[test]
    fn damage_is_an_error() {
        for text in ["x 0/1 r", "1", "1 0-1", "4 0/1", "2 0/1\n1 0/2"] {
            assert!(History::parse(4, text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn two_branches_part_at_the_earlier_end() {
        let ours = History { timeline: 1, ancestors: vec![] };
        let theirs = History::parse(2, "1 0/500 r").unwrap();
        assert_eq!(theirs.fork_from(&ours), Some((1, Lsn(0x500))));
        let third = History::parse(3, "1 0/300 r").unwrap();
        assert_eq!(theirs.fork_from(&third), Some((1, Lsn(0x300))));
        let namesake = History::parse(2, "1 0/400 r").unwrap();
        assert_eq!(theirs.fork_from(&namesake), Some((1, Lsn(0x400))));
        assert_eq!(theirs.fork_from(&theirs), Some((2, Lsn(u64::MAX))));
    }

    #[test]
    fn fuzz_history() {
        fuzz!("history", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let Ok(history) = mesh_fuzz::bounded(bytes.len(), || History::parse(9, &text)) else { return };
            let timelines: Vec<u32> = history.with_self().iter().map(|ancestor| ancestor.timeline).collect();
            assert!(timelines.is_sorted_by(|one, next| one < next), "{history:?}");
            let lines = history.ancestors.iter().map(|a| format!("{}\t{}\treason\n", a.timeline, a.until));
            assert_eq!(History::parse(9, &lines.collect::<String>()), Ok(history.clone()));
            assert_eq!(history.fork_from(&history), Some((9, Lsn(u64::MAX))));
            assert!(history.ancestors.iter().all(|a| history.place(a.timeline, a.until) == Lineage::Within));
        });
    }
}
