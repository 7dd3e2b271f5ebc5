//! Flipped bits and lost ends: an error that names what is damaged, or exactly what was written; never less.

use std::os::unix::fs::FileExt;

use super::super::StoreError;
use super::super::medium::FileMedium;
use super::sim::{Dice, SimDisk};
use super::{append, create, dump, entry, open, vote};
use crate::types::{SnapshotBytes, SnapshotMeta};

pub(super) async fn fill(store: &super::Store) {
    vote(store, 3).await.unwrap();
    for index in 0..60 {
        append(store, vec![entry(3, index)]).await.unwrap();
    }
    let meta = SnapshotMeta {
        last_log_id: Some(super::id(3, 20)),
        snapshot_id: "kept".to_owned(),
        ..SnapshotMeta::default()
    };
    store.save_snapshot(&meta, &SnapshotBytes(vec![9; 3000])).await.unwrap();
    use openraft::storage::RaftLogStorage;
    store.clone().purge(super::id(3, 10)).await.unwrap();
    append(store, (60..70).map(|index| entry(3, index)).collect()).await.unwrap();
}

/// Opens a damaged image: damage must be named, or have hit nothing.
async fn judge(image: Vec<u8>, whole: &str, what: &str) -> bool {
    let disk = SimDisk::from_image(image);
    // redb reports some damage by panicking; the store turns that into an error.
    match open(&disk) {
        Err(StoreError::Corrupt(_)) => true,
        Err(error) => panic!("{what}: not said to be damage: {error}"),
        Ok(store) => {
            let found = dump(&store).await;
            assert_eq!(found, whole, "{what} changed what the store holds");
            store.close();
            false
        }
    }
}

async fn bombard(image: &[u8], whole: &str, seed: u64) -> (usize, usize) {
    let mut dice = Dice::new(seed);
    let (mut noticed, mut harmless) = (0, 0);
    let used: Vec<usize> = (0..image.len()).filter(|at| image[*at] != 0).collect();
    for _ in 0..400 {
        let mut damaged = image.to_vec();
        let at = used[dice.below(used.len() as u64) as usize];
        let bit = dice.below(8);
        damaged[at] ^= 1 << bit;
        if judge(damaged, whole, &format!("bit {bit} of byte {at}")).await {
            noticed += 1
        } else {
            harmless += 1
        }
    }
    for _ in 0..60 {
        let length = dice.below(image.len() as u64) as usize;
        let what = format!("truncation to {length}");
        if judge(image[..length].to_vec(), whole, &what).await { noticed += 1 } else { harmless += 1 }
    }
    (noticed, harmless)
}

#[tokio::test]
async fn damage_after_a_clean_stop_is_named() {
    let disk = SimDisk::new(5);
    create(&disk);
    let store = open(&disk).unwrap();
    fill(&store).await;
    let whole = dump(&store).await;
    store.close();
    let (noticed, harmless) = bombard(&disk.image(), &whole, 1).await;
    println!("after a clean stop: {noticed} noticed, {harmless} hit nothing in use");
    assert!(noticed > 40);
}

#[tokio::test]
async fn damage_after_a_kill_is_named() {
    let disk = SimDisk::new(6);
    create(&disk);
    let store = open(&disk).unwrap();
    fill(&store).await;
    let whole = dump(&store).await;
    // The image of a process that was killed: everything written, nothing closed.
    let image = disk.image();
    store.close();
    let (noticed, harmless) = bombard(&image, &whole, 2).await;
    println!("after a kill: {noticed} noticed, {harmless} hit nothing in use");
    assert!(noticed > 40);
}

#[tokio::test]
async fn a_commit_that_redb_would_roll_back_is_missed() {
    let disk = SimDisk::new(7);
    create(&disk);
    let store = open(&disk).unwrap();
    append(&store, vec![entry(1, 0)]).await.unwrap();
    let older = disk.image();
    append(&store, vec![entry(1, 1)]).await.unwrap();
    let newer = disk.image();
    store.close();
    // The database of before the last commit under the mark of after it.
    let mut mixed = older;
    mixed[..4096].copy_from_slice(&newer[..4096]);
    let error = open(&SimDisk::from_image(mixed)).unwrap_err();
    assert!(error.to_string().contains("was acknowledged"), "{error}");
}

#[tokio::test]
async fn damage_in_a_real_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("real.store");
    let medium = FileMedium::new(&path);
    create(&medium);
    let store = open(&medium).unwrap();
    fill(&store).await;
    store.close();
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 3).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 3).unwrap();
    assert!(matches!(open(&medium), Err(StoreError::Corrupt(_))));
    file.write_all_at(&byte, 3).unwrap();
    open(&medium).unwrap().close();
    file.set_len(0).unwrap();
    let error = open(&medium).unwrap_err();
    assert!(error.to_string().contains("truncated to 0 bytes"), "{error}");
}
