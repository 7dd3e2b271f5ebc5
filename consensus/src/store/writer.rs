//! The one thread that writes: jobs in order, in groups, one fdatasync a group.
//!
//! After a failed write or sync it writes nothing more: what the disk holds is then unknown, and a second fsync may
//! claim what the first one lost. The store must be opened anew.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use mesh_proto::raft as pb;
use openraft::storage::LogFlushed;
use redb::{Database, Durability};
use tokio::sync::oneshot;

use super::codec::{self, Corrupt, Kind};
use super::medium::{Block, write_mark};
use super::{Fault, FaultCell, LOG, META};
use crate::types::{Ballot, LogId, TypeConfig};
use crate::wire;

/// Jobs written by one commit; more would only make the first of them wait.
const GROUP: usize = 256;
/// A commit position waits this long for a commit it can ride with; losing it costs a restart some catching up.
const LAZY: Duration = Duration::from_millis(20);
/// Written and removed again to prove that there is room.
const BALLAST: usize = 256 << 10;

/// One change of what is on disk.
#[derive(Debug)]
pub(super) enum Write {
    Append {
        entries: Vec<(u64, Vec<u8>)>,
        tail: LogId,
    },
    Truncate {
        from: u64,
        tail: Option<LogId>,
    },
    /// Entries below an index are gone; `upto` is the last position that was ever purged.
    Purge {
        below: u64,
        upto: LogId,
        tail: LogId,
    },
    Ballot(Ballot),
    /// A framed snapshot record.
    Snapshot(Vec<u8>),
    Committed(Option<LogId>),
    Ballast(bool),
}

/// Who waits for a write to be durable.
pub(super) enum Done {
    Log(LogFlushed<TypeConfig>),
    Reply(oneshot::Sender<io::Result<()>>),
    Nobody,
}

impl Done {
    fn tell(self, result: &Result<(), String>) {
        let result = result.clone().map_err(io::Error::other);
        match self {
            Self::Log(callback) => callback.log_io_completed(result),
            // The one who asked may have gone; the write stands all the same.
            Self::Reply(reply) => drop(reply.send(result)),
            Self::Nobody => {}
        }
    }
}

struct Job {
    write: Write,
    done: Done,
}

/// The handle on the thread.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Mutex<Option<Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(
        database: Database,
        block: Arc<dyn Block>,
        commit: u64,
        faults: Arc<FaultCell>,
    ) -> io::Result<Self> {
        let (queue, jobs) = channel();
        let mut disk = Disk { database, block, commit, faults, broken: None };
        let thread =
            std::thread::Builder::new().name("mesh-store".to_owned()).spawn(move || disk.run(&jobs))?;
        Ok(Self { queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)) })
    }

    pub(super) fn send(&self, write: Write, done: Done) {
        let job = Job { write, done };
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = match queue.as_ref() {
            Some(queue) => queue.send(job).err().map(|error| error.0),
            None => Some(job),
        };
        if let Some(job) = refused {
            job.done.tell(&Err("the store is closed".to_owned()));
        }
    }

    /// Waits for what is queued. Blocks for one group commit at most.
    pub(super) fn close(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the store's writer thread panicked");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

struct Disk {
    database: Database,
    block: Arc<dyn Block>,
    commit: u64,
    faults: Arc<FaultCell>,
    broken: Option<String>,
}

impl Disk {
    fn run(&mut self, jobs: &Receiver<Job>) {
        let mut lazy = None;
        loop {
            let first = if lazy.is_some() {
                match jobs.recv_timeout(LAZY) {
                    Ok(job) => Some(job),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            } else {
                match jobs.recv() {
                    Ok(job) => Some(job),
                    Err(_closed) => break,
                }
            };
            let timed_out = first.is_none();
            let group = gather(first, jobs, &mut lazy);
            if group.is_empty() && !timed_out {
                continue;
            }
            self.write(group, lazy.take());
        }
        if lazy.is_some() {
            self.write(Vec::new(), lazy);
        }
    }

    /// Makes one group durable and tells everyone who waits, in order.
    fn write(&mut self, group: Vec<Job>, committed: Option<Option<LogId>>) {
        let result = match &self.broken {
            Some(text) => Err(text.clone()),
            None => {
                let writes: Vec<&Write> = group.iter().map(|job| &job.write).collect();
                // redb asserts what it reads back; on a damaged file that must end this voter, not this thread.
                let outcome = catch_unwind(AssertUnwindSafe(|| self.commit(&writes, committed)));
                match outcome {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(error)) => Err(self.fail(classify(&error))),
                    Err(_panic) => {
                        let corrupt = Corrupt::new("the database", "redb panicked while writing");
                        Err(self.fail(Fault::Fatal(corrupt.to_string())))
                    }
                }
            }
        };
        for job in group {
            job.done.tell(&result);
        }
    }

    fn fail(&mut self, fault: Fault) -> String {
        let text = fault.text().to_owned();
        self.broken = Some(text.clone());
        self.faults.set(fault);
        text
    }

    fn commit(&mut self, writes: &[&Write], committed: Option<Option<LogId>>) -> Result<(), redb::Error> {
        let next = self.commit + 1;
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut log = transaction.open_table(LOG)?;
            let mut meta = transaction.open_table(META)?;
            let mut tail = None;
            for write in writes {
                match write {
                    Write::Append { entries, tail: last } => {
                        for (index, bytes) in entries {
                            log.insert(*index, bytes.as_slice())?;
                        }
                        tail = Some(Some(*last));
                    }
                    Write::Truncate { from, tail: last } => {
                        log.retain_in::<u64, _>(*from.., |_, _| false)?;
                        tail = Some(*last);
                    }
                    Write::Purge { below, upto, tail: last } => {
                        log.retain_in::<u64, _>(..*below, |_, _| false)?;
                        meta.insert("purged", position(Kind::Purged, Some(*upto)).as_slice())?;
                        tail = Some(Some(*last));
                    }
                    Write::Ballot(vote) => {
                        let record = pb::BallotRecord { ballot: Some(wire::ballot(vote)) };
                        meta.insert("ballot", codec::encode(Kind::Ballot, &record).as_slice())?;
                    }
                    Write::Snapshot(framed) => {
                        meta.insert("snapshot", framed.as_slice())?;
                    }
                    Write::Committed(at) => {
                        meta.insert("committed", position(Kind::Committed, *at).as_slice())?;
                    }
                    Write::Ballast(true) => {
                        meta.insert("ballast", codec::frame(Kind::Ballast, &[0x5a; BALLAST]).as_slice())?;
                    }
                    Write::Ballast(false) => {
                        meta.remove("ballast")?;
                    }
                }
            }
            if let Some(at) = committed {
                meta.insert("committed", position(Kind::Committed, at).as_slice())?;
            }
            if let Some(last) = tail {
                meta.insert("tail", position(Kind::Tail, last).as_slice())?;
            }
            meta.insert("sequence", codec::frame(Kind::Sequence, &next.to_le_bytes()).as_slice())?;
        }
        transaction.commit()?;
        write_mark(self.block.as_ref(), next)?;
        self.commit = next;
        Ok(())
    }
}

/// Collects what is queued; a commit position by itself is no reason to write.
fn gather(first: Option<Job>, jobs: &Receiver<Job>, lazy: &mut Option<Option<LogId>>) -> Vec<Job> {
    let mut group = Vec::new();
    let mut next = first;
    while let Some(job) = next {
        if let Write::Committed(at) = job.write {
            *lazy = Some(at);
            job.done.tell(&Ok(()));
        } else {
            group.push(job);
        }
        next = if group.len() < GROUP { jobs.try_recv().ok() } else { None };
    }
    group
}

pub(super) fn position(kind: Kind, at: Option<LogId>) -> Vec<u8> {
    codec::encode(kind, &pb::LogIdRecord { id: at.as_ref().map(wire::log_id) })
}

/// A refused write may succeed when there is room again; anything else is damage.
fn classify(error: &redb::Error) -> Fault {
    if let redb::Error::Io(source) = error {
        return Fault::Disk(format!("the disk of the store refuses writes: {source}"));
    }
    if matches!(error, redb::Error::PreviousIo) {
        return Fault::Disk("the disk of the store refused a write before".to_owned());
    }
    Fault::Fatal(Corrupt::new("the database", error.to_string()).to_string())
}
