//! The store against openraft's own suite, power cuts, damage, and disks that refuse.

mod damage;
mod fuzz;
mod power;
pub(crate) mod sim;
mod suite;

use std::sync::Arc;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{CommittedLeaderId, EntryPayload, RaftLogReader};

use super::medium::Medium;
use super::{FaultCell, Store, StoreError, identity};
use crate::types::{Ballot, Command, Entry, LogId};

pub(crate) const MESH: &str = "test-mesh";

pub(crate) fn id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 0), index)
}

pub(crate) fn entry(term: u64, index: u64) -> Entry {
    let command = Command(format!("command {term}-{index}").into_bytes());
    Entry { log_id: id(term, index), payload: EntryPayload::Normal(command) }
}

pub(crate) fn create(medium: &dyn Medium) {
    identity::create(medium, 1, MESH).unwrap();
}

pub(crate) fn open(medium: &dyn Medium) -> Result<Store, StoreError> {
    Store::open(medium, 1, MESH, Arc::new(FaultCell::default()))
}

/// Everything a store says it holds, in comparable form.
pub(crate) async fn dump(store: &Store) -> String {
    let mut store = store.clone();
    let log = store.try_get_log_entries(..).await.unwrap();
    let state = store.get_log_state().await.unwrap();
    let ballot = store.read_vote().await.unwrap();
    let snapshot = store.snapshot().map(|kept| (kept.meta.last_log_id, kept.snapshot.0.clone()));
    let log: Vec<String> = log.iter().map(|entry| format!("{}={:?}", entry.log_id, entry.payload)).collect();
    format!("{:?} {:?} {ballot:?} {snapshot:?} {log:?}", state.last_purged_log_id, state.last_log_id)
}

pub(crate) async fn append(store: &Store, entries: Vec<Entry>) -> Result<(), String> {
    store.clone().blocking_append(entries).await.map_err(|error| error.to_string())
}

pub(crate) async fn vote(store: &Store, term: u64) -> Result<(), String> {
    store.clone().save_vote(&Ballot::new(term, 1)).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn an_append_that_leaves_a_hole_is_refused_and_stops_the_voter() {
    let disk = sim::SimDisk::new(1);
    create(&disk);
    let faults = Arc::new(FaultCell::default());
    let store = Store::open(&disk, 1, MESH, Arc::clone(&faults)).unwrap();
    // An emptied store is sent the middle of the log by a leader that knows what it once acknowledged.
    let refused = append(&store, vec![entry(1, 5)]).await.unwrap_err();
    assert!(refused.contains("lost entries"), "{refused}");
    assert!(matches!(faults.get(), Some(super::Fault::Fatal(_))));
    append(&store, vec![entry(1, 0), entry(1, 1)]).await.unwrap();
    append(&store, vec![entry(1, 3)]).await.unwrap_err();
}

#[tokio::test]
async fn an_own_won_election_is_not_taken_up_again_after_a_restart() {
    let disk = sim::SimDisk::new(2);
    create(&disk);
    let mut store = open(&disk).unwrap();
    store.save_vote(&Ballot::new_committed(4, 1)).await.unwrap();
    store.resign();
    assert_eq!(store.read_vote().await.unwrap(), Some(Ballot::new(4, 1)));
    store.save_vote(&Ballot::new_committed(5, 2)).await.unwrap();
    store.resign();
    assert_eq!(store.read_vote().await.unwrap(), Some(Ballot::new_committed(5, 2)));
}

#[tokio::test]
async fn a_purge_beyond_a_stale_log_leaves_nothing_of_it() {
    use openraft::storage::RaftLogStorage;
    let disk = sim::SimDisk::new(3);
    create(&disk);
    let store = open(&disk).unwrap();
    append(&store, (0..5).map(|index| entry(1, index)).collect()).await.unwrap();
    // A snapshot up to 3-2 was installed, and the power went before the log was cut.
    store.clone().purge(id(3, 2)).await.unwrap();
    append(&store, vec![entry(3, 3)]).await.unwrap();
    let whole = dump(&store).await;
    store.close();
    let again = open(&disk).unwrap();
    assert_eq!(dump(&again).await, whole);
    assert_eq!(again.last(), Some(id(3, 3)));
}
