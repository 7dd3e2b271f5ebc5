//! openraft's view of the log and the vote.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::RangeBounds;

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{AnyError, OptionalSend, RaftLogReader};
use prost::Message;

use super::codec::{self, Kind};
use super::{Done, Fault, Store, Write};
use crate::types::{Ballot, Entry, LogId, StorageError, StorageIoError, TypeConfig};
use crate::wire;

/// Entries of one message to a follower: well below the limit of a gRPC message.
const BATCH_BYTES: usize = 8 << 20;

impl RaftLogReader<TypeConfig> for Store {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        Ok(self.state().entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        let mut bytes = 0;
        let state = self.state();
        let fitting = state.entries.range(start..end).take_while(|(_, entry)| {
            // At least one, however large.
            let fits = bytes < BATCH_BYTES;
            bytes += size(entry);
            fits
        });
        Ok(fitting.map(|(_, entry)| entry.clone()).collect())
    }
}

fn size(entry: &Entry) -> usize {
    match &entry.payload {
        openraft::EntryPayload::Normal(command) => command.0.len(),
        openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => 0,
    }
}

impl RaftLogStorage<TypeConfig> for Store {
    type LogReader = Store;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let state = self.state();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last() })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Ballot) -> Result<(), StorageError> {
        self.write(Write::Ballot(*vote)).await.map_err(|error| StorageIoError::write_vote(&error))?;
        self.state().ballot = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Ballot>, StorageError> {
        Ok(self.state().ballot)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.state().committed = committed;
        // Not waited for: after a restart the leader says again what is committed.
        self.inner.writer.send(Write::Committed(committed), Done::Nobody);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let state = self.state();
        // A position that a torn restart left ahead of the log would make openraft read what is not there.
        Ok(state.committed.min(state.last()))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut framed = Vec::new();
        {
            let mut state = self.state();
            let mut expected = state.last().map_or(0, |last| last.index + 1);
            for entry in entries {
                let index = entry.log_id.index;
                if expected != index && !self.inner.lenient {
                    return Err(self.hole(expected, &entry.log_id));
                }
                expected = index + 1;
                framed.push((index, codec::frame(Kind::Entry, &wire::entry(&entry).encode_to_vec())));
                state.entries.insert(index, entry);
            }
        }
        let Some(tail) = self.state().last().filter(|_| !framed.is_empty()) else {
            callback.log_io_completed(Ok(()));
            return Ok(());
        };
        self.inner.writer.send(Write::Append { entries: framed, tail }, Done::Log(callback));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let tail = {
            let mut state = self.state();
            state.entries.split_off(&log_id.index);
            state.last()
        };
        let write = Write::Truncate { from: log_id.index, tail };
        self.write(write).await.map_err(|error| StorageIoError::write_logs(&error).into())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let write = {
            let mut state = self.state();
            // A snapshot that was installed over a log that ended elsewhere, before the log could be cut: what is
            // left of such a log was never committed, however high its index.
            let stale = state.last().is_some_and(|last| last < log_id);
            state.entries =
                if stale { BTreeMap::new() } else { state.entries.split_off(&(log_id.index + 1)) };
            let upto = state.purged.map_or(log_id, |before| before.max(log_id));
            state.purged = Some(upto);
            let below = if stale { u64::MAX } else { upto.index + 1 };
            Write::Purge { below, upto, tail: state.last().unwrap_or(upto) }
        };
        self.write(write).await.map_err(|error| StorageIoError::write_logs(&error).into())
    }
}

impl Store {
    /// A leader that thinks this voter has entries it lost sends from the middle; accepting them would hide that.
    fn hole(&self, expected: u64, found: &LogId) -> StorageError {
        let text = format!(
            "the leader sent log entry {found}, but the next one of this store is {expected}; this voter has lost \
             entries that it acknowledged: remove it and join again under a new id"
        );
        self.inner.faults.set(Fault::Fatal(text.clone()));
        StorageIoError::write_log_entry(*found, AnyError::error(text)).into()
    }
}
