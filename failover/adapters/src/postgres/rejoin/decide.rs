//! Which rung of the ladder: follow, rewind, rebuild, or none. Pure.

use mesh_proto::Lsn;

use super::own::Own;
use super::source::Source;
use crate::postgres::timeline::Lineage;

/// How an instance rejoins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// Nothing to undo: start as a standby.
    Follow,
    /// Undo what the new primary never had.
    Rewind,
    /// Copy the new primary as a whole.
    Rebuild,
}

/// The part of the old log that the new primary's history does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) timeline: u32,
    pub(super) from: Lsn,
    pub(super) to: Lsn,
}

/// Why not rewound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRewind {
    /// Its pages do not tell which of them changed.
    #[error("the data directory has neither checksums nor wal_log_hints")]
    NoHints,
    /// Not even a common beginning.
    #[error("its timeline shares nothing with the new primary's")]
    NoCommonHistory,
    /// pg_rewind or the rebuild before was interrupted.
    #[error("an earlier rewind was interrupted and left the directory unusable")]
    Interrupted,
    /// Its own files are unusable.
    #[error("its own files cannot be read")]
    Unreadable,
    /// It would not work, or did not.
    #[error("pg_rewind cannot do it")]
    Failed,
    /// The caller wants none.
    #[error("a rewind is not allowed here")]
    NotAllowed,
}

/// What the facts say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Follow,
    Rewind(Range),
    Rebuild(NoRewind, Option<Range>),
    OtherCluster,
}

pub(super) fn decide(own: &Own, source: &Source) -> Decision {
    if own.control.system_identifier != source.system_identifier {
        return Decision::OtherCluster;
    }
    let Some((timeline, fork)) = source.history.fork_from(&own.history) else {
        return Decision::Rebuild(NoRewind::NoCommonHistory, None);
    };
    // A standby's pages may be ahead of a log that its receiver has begun to overwrite from a segment's start.
    let (pages, pages_timeline) = (own.control.min_recovery_end, own.control.min_recovery_timeline);
    let pages_within = !pages.is_valid() || source.history.place(pages_timeline, pages) == Lineage::Within;
    if own.end <= fork && pages_within {
        return Decision::Follow;
    }
    let to = if pages_within { own.end } else { own.end.max(pages) };
    let range = Range { timeline, from: fork.min(to), to };
    if own.control.checksums || own.control.wal_log_hints {
        Decision::Rewind(range)
    } else {
        Decision::Rebuild(NoRewind::NoHints, Some(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::control_data::{ClusterState, ControlData};
    use crate::postgres::timeline::History;

    fn own(history: History, end: u64, hints: bool) -> Own {
        let control = ControlData {
            system_identifier: 7,
            state: ClusterState::InProduction,
            checkpoint: Lsn(100),
            redo: Lsn(90),
            timeline: history.timeline,
            min_recovery_end: Lsn::INVALID,
            min_recovery_timeline: 0,
            wal_segment_size: 1 << 24,
            wal_block_size: 8192,
            checksums: false,
            wal_log_hints: hints,
        };
        Own { major: 15, control, history, end: Lsn(end) }
    }

    fn source(system_identifier: u64, history: &str, timeline: u32) -> Source {
        let history = History::parse(timeline, history).unwrap();
        Source { system_identifier, history, size: 0, has_tablespaces: false }
    }

    #[test]
    fn each_rung_has_its_facts() {
        let first = History::first;
        assert_eq!(decide(&own(first(), 500, true), &source(7, "1 0/200 x", 2)), Decision::Follow);
        let range = Range { timeline: 1, from: Lsn(0x200), to: Lsn(0x201) };
        assert_eq!(decide(&own(first(), 0x201, true), &source(7, "1 0/200 x", 2)), Decision::Rewind(range));
        let bare = decide(&own(first(), 0x201, false), &source(7, "1 0/200 x", 2));
        assert_eq!(bare, Decision::Rebuild(NoRewind::NoHints, Some(range)));
        assert_eq!(decide(&own(first(), 1, true), &source(8, "1 0/200 x", 2)), Decision::OtherCluster);
        let orphan = History { timeline: 5, ancestors: vec![] };
        let alone = decide(&own(orphan, 1, true), &source(7, "1 0/200 x", 2));
        assert_eq!(alone, Decision::Rebuild(NoRewind::NoCommonHistory, None));
    }

    #[test]
    fn a_lost_branch_of_a_higher_number_is_rewound_too() {
        let lost = History::parse(3, "1 0/100 x").unwrap();
        let range = Range { timeline: 1, from: Lsn(0x100), to: Lsn(0x900) };
        assert_eq!(decide(&own(lost, 0x900, true), &source(7, "1 0/200 x", 2)), Decision::Rewind(range));
    }
}
