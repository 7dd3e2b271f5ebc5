//! Power cuts at every change of the disk: what was acknowledged is there, and nothing else but the write under way.

use openraft::storage::RaftLogStorage;

use super::sim::{Dice, SimDisk};
use super::{append, create, dump, entry, id, open, vote};
use crate::types::{SnapshotBytes, SnapshotMeta};

/// One durable step of a voter's life. The same seed makes the same life.
async fn step(store: &super::Store, dice: &mut Dice, term: &mut u64) -> Result<(), String> {
    let last = store.last();
    let next = last.map_or(0, |last| last.index + 1);
    match dice.below(10) {
        0 => {
            *term += 1;
            vote(store, *term).await
        }
        1 if next > 4 => {
            let state = store.clone().get_log_state().await.unwrap();
            let kept = state.last_purged_log_id.map_or(0, |purged| purged.index + 1);
            let from = kept + dice.below(next - kept + 1);
            if from >= next {
                return Ok(());
            }
            store.clone().truncate(id(0, from)).await.map_err(|error| error.to_string())
        }
        2 if next > 8 => {
            let upto = store.last().unwrap();
            let meta = SnapshotMeta {
                last_log_id: Some(upto),
                snapshot_id: format!("{upto}"),
                ..SnapshotMeta::default()
            };
            let bytes = SnapshotBytes(vec![7; dice.below(20_000) as usize]);
            store.save_snapshot(&meta, &bytes).await.map_err(|error| error.to_string())
        }
        3 if next > 8 && store.snapshot().is_some() => {
            let upto = store.snapshot().and_then(|kept| kept.meta.last_log_id).unwrap();
            store.clone().purge(upto).await.map_err(|error| error.to_string())
        }
        4 => {
            store.clone().save_committed(store.last()).await.unwrap();
            Ok(())
        }
        _ => {
            *term = (*term).max(last.map_or(0, |last| last.leader_id.term));
            let count = 1 + dice.below(4);
            append(store, (next..next + count).map(|index| entry(*term, index)).collect()).await
        }
    }
}

async fn live(seed: u64) {
    let disk = SimDisk::new(seed);
    create(&disk);
    let mut dice = Dice::new(seed);
    // A second disk that never fails shows what the interrupted step would have done.
    let twin_disk = SimDisk::new(seed);
    create(&twin_disk);
    let twin = open(&twin_disk).unwrap();
    let (mut term, mut twin_term) = (0, 0);
    for cut in 0..3 {
        let store = open(&disk).unwrap_or_else(|error| panic!("seed {seed} cut {cut}: {error}"));
        disk.die_after(dice.below(150));
        loop {
            let before = dump(&twin).await;
            let mut twin_dice = dice.clone();
            let outcome = step(&store, &mut dice, &mut term).await;
            step(&twin, &mut twin_dice, &mut twin_term).await.unwrap();
            if outcome.is_ok() {
                assert_eq!(dump(&store).await, dump(&twin).await, "seed {seed}");
                continue;
            }
            store.close();
            disk.power_up();
            let again = open(&disk).unwrap_or_else(|error| panic!("seed {seed} cut {cut}: {error}"));
            let (found, after) = (dump(&again).await, dump(&twin).await);
            assert!(
                found == before || found == after,
                "seed {seed} cut {cut}:\nbefore {before}\nafter  {after}\nfound  {found}"
            );
            again.close();
            if found == before && found != after {
                // The step was lost as a whole; the twin cannot go back, so this life ends here.
                return;
            }
            term = twin_term;
            break;
        }
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_in_400_lives() {
    for seed in 0..400 {
        live(seed).await;
    }
}

#[tokio::test]
async fn appends_under_way_together_are_lost_only_from_the_end() {
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        create(&disk);
        let store = open(&disk).unwrap();
        disk.die_after(Dice::new(seed).below(120));
        let mut waiting = Vec::new();
        for index in 0..40 {
            let mut handle = store.clone();
            // Entered in order, as openraft does; answered by group.
            let (done, answer) = tokio::sync::oneshot::channel();
            let appended = tokio::spawn(async move {
                use openraft::storage::RaftLogStorageExt;
                let _ = done.send(handle.blocking_append(vec![entry(1, index)]).await.is_ok());
            });
            tokio::task::yield_now().await;
            waiting.push((appended, answer));
        }
        let mut acknowledged = 0;
        for (index, (appended, answer)) in waiting.into_iter().enumerate() {
            appended.await.unwrap();
            if answer.await.unwrap() {
                assert_eq!(acknowledged, index, "seed {seed}: acknowledged out of order");
                acknowledged = index + 1;
            }
        }
        store.close();
        disk.power_up();
        let again = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let found = again.last().map_or(0, |last| last.index as usize + 1);
        assert!(found >= acknowledged, "seed {seed}: {acknowledged} acknowledged, {found} found");
        again.close();
    }
}
