//! What a disk means. A disk that hangs while writes fail is a server that hangs; a full disk or a slow one is said, and never fails
//! over by itself: a standby's disk is no better for it, and a database that waits for its disk is not dead (DESIGN promise 10).

use mesh_proto::Millis;
use mesh_proto::evidence::{DiskStanding, DiskSync, GuardStatus, WriteProbe};

/// A checkpoint or a writeback of a busy host holds up an fsync for seconds: for so long a disk is slow and not hung, however short
/// `hang_after` is. Twice the longest lease of the profiles for one site and those near it.
pub const DISK_PATIENCE: Millis = Millis(5_000);
/// From here on it is said that an fsync is slow: two hundred times what a sound disk needs, and what clients notice.
pub const SLOW_FROM: Millis = Millis(1_000);
/// Two segments of the log (16 MiB by default): PostgreSQL makes the next while it fills one, and stops when it cannot.
pub const FULL_BELOW: u64 = 32 << 20;
/// Guards look once a second: what is older than this is no result any more.
pub const STALE_AFTER: Millis = Millis(10_000);

/// What is wrong with a disk, the worst only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskTrouble {
    /// A write has not returned for this long.
    Hung(Millis),
    /// The system refuses writes with this error.
    Failing(i32),
    /// There is no room: so many bytes are left.
    Full(u64),
    /// No file can be made.
    NoFiles,
    /// A write takes, or has taken so far, this long.
    Slow(Millis),
    /// Nothing was seen of it for this long.
    Unseen(Millis),
}

impl std::fmt::Display for DiskTrouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hung(time) => write!(f, "hangs, an fsync has not returned for {time}"),
            Self::Failing(errno) => write!(f, "refuses writes (errno {errno})"),
            Self::Full(bytes) => write!(f, "full, {bytes} bytes are left"),
            Self::NoFiles => f.write_str("can take no further file"),
            Self::Slow(time) => write!(f, "slow, an fsync takes {time}"),
            Self::Unseen(age) => write!(f, "not looked at for {age}"),
        }
    }
}

/// How long a write to a disk must not return for the disk to be hung.
#[must_use]
pub fn hung_from(hang_after: Millis) -> Millis {
    hang_after.max(DISK_PATIENCE)
}

/// What is wrong with a disk, if anything is.
#[must_use]
pub fn trouble(disk: &DiskStanding, hang_after: Millis) -> Option<DiskTrouble> {
    let full = disk.room.filter(|room| room.age < STALE_AFTER).and_then(|room| match room.files {
        _ if room.bytes < FULL_BELOW => Some(DiskTrouble::Full(room.bytes)),
        Some(0) => Some(DiskTrouble::NoFiles),
        Some(_) | None => None,
    });
    let left = disk.room.map_or(0, |room| room.bytes);
    match disk.sync {
        DiskSync::Waiting { waiting } if waiting >= hung_from(hang_after) => Some(DiskTrouble::Hung(waiting)),
        DiskSync::Ok { age, .. } | DiskSync::NoRoom { age } | DiskSync::Failed { age, .. }
            if age >= STALE_AFTER =>
        {
            Some(DiskTrouble::Unseen(age))
        }
        DiskSync::Failed { errno, .. } => Some(DiskTrouble::Failing(errno)),
        DiskSync::NoRoom { .. } => Some(full.unwrap_or(DiskTrouble::Full(left))),
        DiskSync::Waiting { waiting: time } | DiskSync::Ok { took: time, .. } if time >= SLOW_FROM => {
            Some(full.unwrap_or(DiskTrouble::Slow(time)))
        }
        DiskSync::NotYet | DiskSync::Waiting { .. } | DiskSync::Ok { .. } => full,
    }
}

/// How long the disk of a primary's log has hung, if its writes fail as long as a hung server's: only both together are a server
/// that hangs.
#[must_use]
pub fn hung_under_writes(status: &GuardStatus, hang_after: Millis) -> Option<Millis> {
    let stalled = match status.write_probe {
        WriteProbe::Late { waiting } => waiting,
        // Refused for want of a connection: busy.
        WriteProbe::Failed { code, .. } if code == *b"53300" => return None,
        WriteProbe::Failed { since, .. } => since,
        WriteProbe::Ok { .. } | WriteProbe::NotApplicable | WriteProbe::WaitingForStandbys => return None,
    };
    // What mesh itself holds up is no evidence.
    if status.commit_gated || stalled < hang_after {
        return None;
    }
    status.disks.iter().filter(|disk| disk.holds.log()).find_map(|disk| match disk.sync {
        DiskSync::Waiting { waiting } if waiting >= hung_from(hang_after) => Some(waiting),
        DiskSync::Waiting { .. }
        | DiskSync::NotYet
        | DiskSync::Ok { .. }
        | DiskSync::NoRoom { .. }
        | DiskSync::Failed { .. } => None,
    })
}

#[cfg(test)]
mod tests {
    use mesh_proto::evidence::{DiskHolds, DiskRoom};

    use super::*;

    const HANG: Millis = Millis(1_250);

    fn disk(sync: DiskSync, bytes: u64) -> DiskStanding {
        let room = DiskRoom { bytes, size: 1 << 40, files: Some(1000), age: Millis(100) };
        DiskStanding { at: "/d".to_owned(), holds: DiskHolds::All, sync, room: Some(room) }
    }

    fn ok(took: u64, age: u64) -> DiskSync {
        DiskSync::Ok { took: Millis(took), age: Millis(age) }
    }

    #[test]
    fn each_trouble_has_its_bound() {
        let room = 1 << 30;
        let waiting = |ms| DiskSync::Waiting { waiting: Millis(ms) };
        for (sync, bytes, found) in [
            (DiskSync::NotYet, room, None),
            (ok(4, 900), room, None),
            (ok(999, 900), room, None),
            (ok(1_000, 900), room, Some(DiskTrouble::Slow(Millis(1_000)))),
            (waiting(999), room, None),
            (waiting(4_999), room, Some(DiskTrouble::Slow(Millis(4_999)))),
            (waiting(5_000), room, Some(DiskTrouble::Hung(Millis(5_000)))),
            (waiting(5_000), 0, Some(DiskTrouble::Hung(Millis(5_000)))),
            (ok(4, 900), FULL_BELOW, None),
            (ok(4, 900), FULL_BELOW - 1, Some(DiskTrouble::Full(FULL_BELOW - 1))),
            (ok(2_000, 900), 7, Some(DiskTrouble::Full(7))),
            (DiskSync::NoRoom { age: Millis(900) }, room, Some(DiskTrouble::Full(room))),
            (DiskSync::Failed { errno: 5, age: Millis(900) }, room, Some(DiskTrouble::Failing(5))),
        ] {
            assert_eq!(trouble(&disk(sync, bytes), HANG), found, "{sync:?} {bytes}");
        }
        assert_eq!(
            trouble(&disk(waiting(5_000), room), Millis(8_000)),
            Some(DiskTrouble::Slow(Millis(5_000)))
        );
        let mut none = disk(ok(4, 900), room);
        none.room = Some(DiskRoom { files: Some(0), ..none.room.unwrap() });
        assert_eq!(trouble(&none, HANG), Some(DiskTrouble::NoFiles));
    }

    #[test]
    fn an_old_result_is_no_result() {
        let seen = disk(ok(4, 9_999), 1 << 30);
        assert_eq!(trouble(&seen, HANG), None);
        assert_eq!(trouble(&seen.aged(Millis(1)), HANG), Some(DiskTrouble::Unseen(Millis(10_000))));
        // What was free then says nothing of now.
        let full = disk(DiskSync::NotYet, 0);
        assert_eq!(trouble(&full.aged(STALE_AFTER), HANG), None);
    }
}
