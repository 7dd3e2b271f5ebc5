//! Reading a store when it is opened, and writing an empty one.
//!
//! Everything is read and checked once: redb's own checksums, each record's, the log's contiguity, its end, and that
//! no acknowledged commit is missing.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use mesh_proto::raft as pb;
use prost::Message;
use redb::{Database, DatabaseError, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable};

use super::codec::{self, Corrupt, Kind};
use super::medium::{Block, Medium, Region, read_mark, write_mark};
use super::{CACHE_BYTES, LOG, META, State, StoreError};
use crate::types::{Entry, Identity, LogId};
use crate::wire;

pub(super) struct Opened {
    pub(super) database: Database,
    pub(super) block: Arc<dyn Block>,
    pub(super) commit: u64,
    pub(super) identity: Identity,
    pub(super) state: State,
}

/// What a new store says beside whose it is.
pub(super) struct Records {
    pub(super) ballot: Option<pb::Ballot>,
    pub(super) position: [(&'static str, Vec<u8>); 3],
    pub(super) snapshot: Vec<u8>,
}

impl Records {
    /// The explicit statement that there is nothing yet.
    pub(super) fn nothing() -> Self {
        let snapshot = pb::SnapshotRecord { meta: None, data: Vec::new() };
        Self {
            ballot: None,
            position: super::salvage::position_records(None),
            snapshot: codec::encode(Kind::Snapshot, &snapshot),
        }
    }
}

/// Writes a new store: an identity, and what it begins with.
pub(super) fn create(medium: &dyn Medium, identity: &Identity, begins: &Records) -> Result<(), StoreError> {
    let block = medium.create()?;
    let database = database(&block)?;
    let record = pb::IdentityRecord {
        id: identity.node,
        incarnation: identity.incarnation,
        mesh: identity.mesh.clone(),
    };
    let ballot = pb::BallotRecord { ballot: begins.ballot };
    let mut records = vec![
        ("identity", codec::encode(Kind::Identity, &record)),
        ("ballot", codec::encode(Kind::Ballot, &ballot)),
        ("snapshot", begins.snapshot.clone()),
        ("sequence", codec::frame(Kind::Sequence, &1_u64.to_le_bytes())),
    ];
    records.extend(begins.position.iter().cloned());
    write_records(&database, &records).map_err(refused)?;
    drop(database);
    let io = |source| StoreError::Io { doing: "write the mark of the store", source };
    write_mark(block.as_ref(), 1).map_err(io)?;
    block.sync().map_err(io)?;
    medium.publish()
}

fn write_records(database: &Database, records: &[(&str, Vec<u8>)]) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    {
        transaction.open_table(LOG)?;
        let mut meta = transaction.open_table(META)?;
        for (name, bytes) in records {
            meta.insert(*name, bytes.as_slice())?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Opens and reads a store.
pub(super) fn open(medium: &dyn Medium) -> Result<Opened, StoreError> {
    let block = medium.open()?;
    let mark = read_mark(block.as_ref())?;
    // redb asserts what it reads; a damaged file must become an error that says so.
    let outcome = catch_unwind(AssertUnwindSafe(|| read(&block, mark)));
    outcome.unwrap_or_else(|_panic| {
        Err(Corrupt::new("the database", "redb cannot make sense of its pages").into())
    })
}

fn read(block: &Arc<dyn Block>, mark: u64) -> Result<Opened, StoreError> {
    let mut database = database(block)?;
    let whole = database.check_integrity().map_err(|error| refused(error.into()))?;
    if !whole {
        return Err(Corrupt::new("the database", "its page checksums do not match").into());
    }
    let (identity, commit, state) = load(&database)?;
    if commit < mark {
        let problem = format!("commit {mark} was acknowledged, but the last one found is {commit}");
        return Err(Corrupt::new("the last commits", problem).into());
    }
    Ok(Opened { database, block: Arc::clone(block), commit, identity, state })
}

fn database(block: &Arc<dyn Block>) -> Result<Database, StoreError> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    let opened = builder.create_with_backend(Region(Arc::clone(block)));
    opened.map_err(|error: DatabaseError| refused(error.into()))
}

fn refused(error: redb::Error) -> StoreError {
    if let redb::Error::Io(source) = error {
        // redb reports a file that ends early as a read past its end.
        if source.kind() == std::io::ErrorKind::UnexpectedEof
            || source.kind() == std::io::ErrorKind::InvalidData
        {
            return Corrupt::new("the database", source.to_string()).into();
        }
        return StoreError::Io { doing: "read the store", source };
    }
    Corrupt::new("the database", error.to_string()).into()
}

fn load(database: &Database) -> Result<(Identity, u64, State), StoreError> {
    let transaction = database.begin_read().map_err(|error| refused(error.into()))?;
    let meta = transaction.open_table(META).map_err(|error| refused(error.into()))?;
    let log = transaction.open_table(LOG).map_err(|error| refused(error.into()))?;

    let identity: pb::IdentityRecord = record(&meta, "identity", Kind::Identity)?;
    let identity = Identity { node: identity.id, incarnation: identity.incarnation, mesh: identity.mesh };
    let ballot: pb::BallotRecord = record(&meta, "ballot", Kind::Ballot)?;
    let ballot = ballot.ballot.as_ref().map(|ballot| wire::ballot_back(Some(ballot)));
    let ballot = ballot.transpose().map_err(|lacking| Corrupt::new("ballot", lacking.to_string()))?;
    let purged = position_of(&meta, "purged", Kind::Purged)?;
    let tail = position_of(&meta, "tail", Kind::Tail)?;
    let committed = position_of(&meta, "committed", Kind::Committed)?;
    let snapshot = super::snapshot::parse(record(&meta, "snapshot", Kind::Snapshot)?)?;
    let sequence = raw(&meta, "sequence")?;
    let sequence = codec::unframe("sequence", Kind::Sequence, &sequence)?;
    let commit = <[u8; 8]>::try_from(sequence)
        .map(u64::from_le_bytes)
        .map_err(|_| Corrupt::new("sequence", "it is not a number"))?;

    let entries = entries(&log)?;
    let state = State { entries, purged, ballot, committed, snapshot };
    check_log(&state, tail)?;
    Ok((identity, commit, state))
}

type Meta = ReadOnlyTable<&'static str, &'static [u8]>;
type Log = ReadOnlyTable<u64, &'static [u8]>;

fn raw(meta: &Meta, name: &str) -> Result<Vec<u8>, StoreError> {
    match meta.get(name).map_err(|error| refused(error.into()))? {
        Some(found) => Ok(found.value().to_vec()),
        None => Err(Corrupt::new(name, "it is missing").into()),
    }
}

fn record<T: Message + Default>(meta: &Meta, name: &str, kind: Kind) -> Result<T, StoreError> {
    Ok(codec::decode(name, kind, &raw(meta, name)?)?)
}

fn position_of(meta: &Meta, name: &str, kind: Kind) -> Result<Option<LogId>, StoreError> {
    let record: pb::LogIdRecord = record(meta, name, kind)?;
    Ok(record.id.as_ref().map(wire::log_id_back))
}

fn entries(log: &Log) -> Result<BTreeMap<u64, Entry>, StoreError> {
    let mut entries = BTreeMap::new();
    for item in log.iter().map_err(|error| refused(error.into()))? {
        let (key, value) = item.map_err(|error| refused(error.into()))?;
        let index = key.value();
        let name = format!("log entry {index}");
        let decoded: pb::Entry = codec::decode(&name, Kind::Entry, value.value())?;
        let entry = wire::entry_back(decoded).map_err(|lacking| Corrupt::new(&name, lacking.to_string()))?;
        if entry.log_id.index != index {
            let problem = format!("it says that it is entry {}", entry.log_id.index);
            return Err(Corrupt::new(name, problem).into());
        }
        entries.insert(index, entry);
    }
    Ok(entries)
}

/// No hole, no step back in term, and the end where the last write put it.
fn check_log(state: &State, tail: Option<LogId>) -> Result<(), StoreError> {
    let first = state.purged.map_or(0, |at| at.index + 1);
    let mut term = state.purged.map_or(0, |at| at.leader_id.term);
    for (expected, (index, entry)) in (first..).zip(&state.entries) {
        if *index != expected {
            let problem = format!("it is missing (the next one found is {index})");
            return Err(Corrupt::new(format!("log entry {expected}"), problem).into());
        }
        if entry.log_id.leader_id.term < term {
            let problem = format!("its term is lower than the term {term} of the one before");
            return Err(Corrupt::new(format!("log entry {index}"), problem).into());
        }
        term = entry.log_id.leader_id.term;
    }
    if state.last() != tail {
        let text = |at: Option<LogId>| at.map_or("nothing".to_owned(), |at| at.to_string());
        let problem = format!("it should end with {}, but ends with {}", text(tail), text(state.last()));
        return Err(Corrupt::new("the end of the log", problem).into());
    }
    Ok(())
}
