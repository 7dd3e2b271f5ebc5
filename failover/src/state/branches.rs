//! Where epochs branch off: which data is a part of the group's history. Timelines do not tell: a former primary that was never
//! rejoined may have a higher one than the primary of today, or the same number for another history.
//!
//! It decides about nothing: plans reject by it who would bring back a history that was left.

use mesh_proto::{Epoch, Lsn};

use super::Group;

/// How many epochs are known back: an instance that was away for longer is judged by its timeline alone.
const KEPT: usize = 64;

impl Group {
    /// Why data that was last joined in the epoch `line`, and ends here, is no part of the history of today's epoch, if so.
    #[must_use]
    pub fn astray(&self, line: Option<Epoch>, end: Lsn) -> Option<String> {
        let line = line?;
        // Older than what is known back.
        self.branches.get(&line.next())?;
        // A later epoch may have begun before an earlier one, which was promoted and never opened.
        let (next, branch) = self.branches.range(line.next()..).min_by_key(|(_, branch)| **branch)?;
        (end > *branch).then(|| {
            format!(
                "has {} bytes of epoch {line} that are no part of epoch {next}: its history was left",
                end.bytes_since(*branch)
            )
        })
    }

    /// The epoch in force began here.
    pub(super) fn branch_off(&mut self, at: Lsn) {
        self.branches.insert(self.epoch, at);
        while self.branches.len() > KEPT {
            self.branches.pop_first();
        }
    }
}
