//! What is wrong with the disks under an instance, in words, and what to do.

use mesh_failover::verdict::disk::{DiskTrouble, hung_from, trouble};
use mesh_proto::Millis;
use mesh_proto::evidence::GuardStatus;

use super::text::{self, Tone};

/// A line for each disk with which something is wrong.
pub(super) fn notes(guard: &GuardStatus, hang_after: Millis) -> Vec<(Tone, String)> {
    let found = guard.disks.iter().filter_map(|disk| Some((disk, trouble(disk, hang_after)?)));
    found
        .map(|(disk, trouble)| {
            let (tone, says) = words(trouble, hang_after);
            (tone, format!("the disk of its {} ({}) {says}", disk.holds, disk.at))
        })
        .collect()
}

fn words(trouble: DiskTrouble, hang_after: Millis) -> (Tone, String) {
    match trouble {
        DiskTrouble::Hung(time) => (
            Tone::Bad,
            format!(
                "hangs: an fsync has not returned for {}. Look at the kernel's log and the storage (`dmesg -T`, `mount`). With writes \
                 that hang too it is failed over",
                text::length(time)
            ),
        ),
        DiskTrouble::Failing(errno) => {
            let error = std::io::Error::from_raw_os_error(errno);
            (
                Tone::Bad,
                format!(
                    "refuses writes: {error}. Look at the kernel's log and the storage (`dmesg -T`, `mount`)"
                ),
            )
        }
        DiskTrouble::Full(bytes) => (
            Tone::Bad,
            format!(
                "is full: {} left. Make room there, never by removing files of the server. It is failed over only if the server crashes for it",
                text::bytes(bytes)
            ),
        ),
        DiskTrouble::NoFiles => (
            Tone::Bad,
            "can take no further file (`df -i`). Remove small files there, never those of the server"
                .to_owned(),
        ),
        DiskTrouble::Slow(time) => (
            Tone::Warn,
            format!(
                "is slow: an fsync took {}, and commits wait as long. Look for what else writes there; from {} on it counts as hung",
                text::length(time),
                text::length(hung_from(hang_after))
            ),
        ),
        DiskTrouble::Unseen(age) => (
            Tone::Warn,
            format!(
                "was last looked at {} ago: its guard's host is overloaded, or its guard is stuck",
                text::length(age)
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use mesh_proto::evidence::{DiskHolds, DiskRoom, DiskStanding, DiskSync};

    use super::super::samples::healthy_status;
    use super::*;

    #[test]
    fn each_trouble_says_which_disk_and_what_to_do() {
        let (mut guard, _) = healthy_status().groups[0].instances[0].guard.clone().unwrap();
        assert_eq!(notes(&guard, Millis(1_250)), []);
        let room = |bytes, files| Some(DiskRoom { bytes, size: 1 << 30, files, age: Millis(10) });
        let sound = DiskSync::Ok { took: Millis(3), age: Millis(10) };
        let cases = [
            (
                DiskSync::Waiting { waiting: Millis(6_200) },
                room(1 << 29, None),
                "hangs: an fsync has not returned",
            ),
            (DiskSync::NoRoom { age: Millis(10) }, room(0, None), "is full: 0 B left. Make room"),
            (DiskSync::Failed { errno: 5, age: Millis(10) }, None, "refuses writes: Input/output error"),
            (sound, room(1 << 29, Some(0)), "can take no further file"),
            (
                DiskSync::Ok { took: Millis(1_500), age: Millis(10) },
                room(1 << 29, None),
                "is slow: an fsync took 1.5",
            ),
            (DiskSync::Ok { took: Millis(3), age: Millis(11_000) }, None, "was last looked at 11"),
        ];
        for (sync, room, says) in cases {
            guard.disks = vec![DiskStanding { at: "/srv/pg".to_owned(), holds: DiskHolds::Log, sync, room }];
            let found = notes(&guard, Millis(1_250));
            assert_eq!(found.len(), 1, "{sync:?}");
            assert!(found[0].1.starts_with("the disk of its log (/srv/pg) "), "{found:?}");
            assert!(found[0].1.contains(says), "{found:?}");
        }
    }
}
