//! Damaged store files and messages that nobody wrote: an error that names the damage, or exactly what was written.

use mesh_fuzz::{bounded, flipped, fuzz};
use mesh_proto::raft as pb;
use prost::Message;

use super::super::codec::{self, Kind};
use super::super::medium::{Block, read_mark, write_mark};
use super::super::{StoreError, snapshot};
use super::sim::SimDisk;
use super::{create, damage, dump, open};
use crate::wire;

const KINDS: [Kind; 9] = [
    Kind::Identity,
    Kind::Ballot,
    Kind::Committed,
    Kind::Purged,
    Kind::Tail,
    Kind::Snapshot,
    Kind::Entry,
    Kind::Sequence,
    Kind::Ballast,
];

#[test]
fn fuzz_frames() {
    fuzz!("frames", |bytes| {
        for kind in KINDS {
            if let Ok(payload) = codec::unframe("x", kind, bytes) {
                assert_eq!(codec::frame(kind, payload), bytes);
            }
            let framed = codec::frame(kind, bytes);
            assert_eq!(codec::unframe("x", kind, &framed), Ok(bytes));
            let damaged = flipped(&framed, bytes).unwrap();
            assert!(codec::unframe("x", kind, &damaged).is_err(), "a turned bit was not noticed");
        }
    });
}

fn read<T: Message + Default>(bytes: &[u8]) -> Option<T> {
    bounded(bytes.len(), || codec::decode("x", Kind::Entry, &codec::frame(Kind::Entry, bytes))).ok()
}

#[test]
fn fuzz_records() {
    fuzz!("records", |bytes| {
        if let Some(read) = read::<pb::Entry>(bytes)
            && let Ok(entry) = wire::entry_back(read)
        {
            assert_eq!(wire::entry_back(wire::entry(&entry)).unwrap(), entry);
        }
        if let Some(read) = read::<pb::BallotRecord>(bytes)
            && let Ok(ballot) = wire::ballot_back(read.ballot.as_ref())
        {
            assert_eq!(wire::ballot_back(Some(&wire::ballot(&ballot))).unwrap(), ballot);
        }
        if let Some(read) = read::<pb::SnapshotRecord>(bytes)
            && let Ok(Some(kept)) = snapshot::parse(read)
        {
            let meta = wire::snapshot_meta(&kept.meta);
            assert_eq!(wire::snapshot_meta_back(Some(&meta)).unwrap(), kept.meta);
        }
        if let Some(mut read) = read::<pb::AppendRequest>(bytes) {
            let first = read.previous.as_ref().map(|previous| previous.index);
            if let Ok(entries) = crate::network::server::entries(&mut read) {
                let indices = entries.iter().map(|entry| Some(entry.log_id.index));
                let follow = indices.scan(first, |before, at| Some(std::mem::replace(before, at) < at));
                assert!(follow.into_iter().all(|follows| follows));
            }
        }
    });
}

#[test]
fn fuzz_mark() {
    fuzz!("mark", |bytes| {
        let mut image = bytes.to_vec();
        image.resize(4097, 0);
        let Ok(commit) = read_mark(&SimDisk::from_image(image.clone())) else { return };
        let other = SimDisk::from_image(vec![0; 4097]);
        write_mark(&other, commit).unwrap();
        assert_eq!(other.image()[..32], image[..32], "commit {commit} of another mark");
        assert_eq!(other.len().unwrap(), 4097);
    });
}

/// Several hits on one image: bits, bytes, sectors that read as zeros, pages written to the wrong place, a lost end.
fn hit(image: &[u8], recipe: &[u8]) -> Vec<u8> {
    let mut damaged = image.to_vec();
    for hit in recipe.chunks_exact(6).take(4) {
        let (kind, value) = (hit[4], hit[5]);
        let drawn = u32::from_le_bytes([hit[0], hit[1], hit[2], hit[3]]) as usize;
        // What is in front decides most: the mark, and the head of the database.
        let within = if kind & 0x80 == 0 { damaged.len() } else { damaged.len().min(8192) };
        let Some(at) = drawn.checked_rem(within) else { break };
        let page = at - at % 4096;
        match kind % 5 {
            0 => damaged[at] ^= 1 << (value % 8),
            1 => damaged[at] = value,
            2 => {
                let sector = at - at % 512;
                let upto = (sector + 512).min(damaged.len());
                damaged[sector..upto].fill(0);
            }
            3 => {
                let from = usize::from(value) * 4096;
                if from + 4096 <= damaged.len() && page + 4096 <= damaged.len() {
                    damaged.copy_within(from..from + 4096, page);
                }
            }
            _ => damaged.truncate(at),
        }
    }
    damaged
}

/// The image of a filled store, stopped cleanly or killed, and what it holds.
fn filled(runtime: &tokio::runtime::Runtime, clean: bool) -> (Vec<u8>, String) {
    runtime.block_on(async {
        let disk = SimDisk::new(u64::from(clean));
        create(&disk);
        let store = open(&disk).unwrap();
        damage::fill(&store).await;
        let whole = dump(&store).await;
        let killed = disk.image();
        store.close();
        (if clean { disk.image() } else { killed }, whole)
    })
}

#[test]
fn fuzz_image() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let images = [filled(&runtime, true), filled(&runtime, false)];
    fuzz!("image", 20, |bytes| {
        let (image, whole) = &images[bytes.len() % 2];
        let damaged = hit(image, bytes);
        let disk = SimDisk::from_image(damaged.clone());
        match bounded(damaged.len(), || open(&disk)) {
            Err(StoreError::Corrupt(_)) => {}
            Err(error) => panic!("not said to be damage: {error}"),
            Ok(store) => {
                assert_eq!(&runtime.block_on(dump(&store)), whole, "it holds something else now");
                store.close();
            }
        }
    });
}
