//! The reader of a dead log against pages that were torn, damaged or written by nobody: what it reports is what was written,
//! from the start on, or less; never anything else.

use mesh_fuzz::{bounded, fuzz};

use super::*;
use crate::postgres::control_data::ClusterState;

/// A real log of PostgreSQL 15: the beginning of segment 9, up to a switch, and of segment 10.
const REAL: &[u8] = include_bytes!("__fuzz__/pages/corpus/two-segments");
const FIRST: usize = 512;
const SEGMENT: u64 = 1 << 20;
const START: Lsn = Lsn(9 * SEGMENT + LONG_PAGE_HEADER);

fn control() -> ControlData {
    ControlData {
        system_identifier: 1,
        state: ClusterState::InProduction,
        checkpoint: START,
        redo: START,
        timeline: 1,
        min_recovery_end: Lsn::INVALID,
        min_recovery_timeline: 0,
        wal_segment_size: SEGMENT,
        wal_block_size: 8192,
        checksums: false,
        wal_log_hints: false,
    }
}

/// A data directory with these bytes as segments 9 and 10, zeros behind them.
fn reader(dir: &Path, bytes: &[u8]) -> WalReader {
    let wal = dir.join("pg_wal");
    std::fs::create_dir_all(&wal).unwrap();
    let (first, second) = bytes.split_at(bytes.len().min(FIRST));
    for (name, content) in [("000000010000000000000009", first), ("00000001000000000000000A", second)] {
        let path = wal.join(name);
        std::fs::write(&path, content).unwrap();
        File::options().write(true).open(path).unwrap().set_len(SEGMENT).unwrap();
    }
    // What others keep beside the log is no log.
    std::fs::write(wal.join("0000001\u{e9}000000000000009"), "").unwrap();
    WalReader::new(dir, &control())
}

fn records(reader: &mut WalReader) -> Vec<Record> {
    let mut found = Vec::new();
    // A byte of the log is a byte of input, whoever wrote it.
    bounded(2 * SEGMENT as usize, || reader.scan(START, |record| found.push(*record))).unwrap();
    found
}

#[test]
fn fuzz_pages() {
    fuzz!("pages", 4, |bytes| {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = reader(dir.path(), bytes);
        let found = records(&mut reader);
        for pair in found.windows(2) {
            assert!(pair[0].end <= pair[1].start && pair[1].previous == pair[0].start, "{pair:?}");
        }
        // A position is what another host said.
        let anywhere = bytes.last_chunk().map_or(0, |eight| u64::from_le_bytes(*eight));
        for at in [anywhere, u64::MAX, u64::MAX - anywhere % SEGMENT, START.0 + anywhere % (2 * SEGMENT)] {
            if let Step::Record(record) = reader.record(Lsn(at), None).unwrap() {
                assert!(record.start >= Lsn(at) && record.end > record.start, "{record:?}");
            }
        }
    });
}

#[test]
fn fuzz_damage() {
    let dir = tempfile::tempdir().unwrap();
    let whole = records(&mut reader(dir.path(), REAL));
    assert!(whole.len() > 8 && whole.iter().any(|record| record.kind == RecordKind::Switch), "{whole:?}");
    fuzz!("damage", 4, |bytes| {
        let mut damaged = REAL.to_vec();
        for hit in bytes.chunks_exact(4).take(8) {
            let at = usize::from(u16::from_le_bytes([hit[0], hit[1]])) % damaged.len();
            match hit[2] % 4 {
                0 => damaged[at] ^= 1 << (hit[3] % 8),
                1 => damaged[at] = hit[3],
                2 => damaged.truncate(at.max(FIRST)),
                _ => {
                    let upto = (at + 512).min(damaged.len());
                    damaged[at..upto].fill(0);
                }
            }
        }
        let found = records(&mut reader(dir.path(), &damaged));
        assert!(whole.starts_with(&found), "{found:?} was never written");
    });
}
