//! Reading the write-ahead log of a stopped server from its files: record after record, each verified, up to the end.
//!
//! Only the framing is read (length, back link, kind, checksum), which has been the same since PostgreSQL 9.5; no
//! content. An I/O error is an error and never an end of the log.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use mesh_proto::Lsn;

use super::control_data::ControlData;

/// Length of a record's header, and where its checksum lies in it.
const HEADER: usize = 24;
const CHECKSUM_AT: usize = 20;
/// Page headers: of the first page of a segment, and of the others.
const LONG_PAGE_HEADER: u64 = 40;
const SHORT_PAGE_HEADER: u64 = 24;
/// PostgreSQL refuses longer records (`XLogRecordMaxSize` is 1020 MiB).
const LONGEST_RECORD: u32 = 1020 * 1024 * 1024;

/// No log comes near this position, and from here on no sum of a position, a record and the rest of a segment overflows.
const FURTHEST: Lsn = Lsn(u64::MAX - (1 << 33));

/// Kinds of record that matter to a failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A transaction becomes durable: COMMIT, PREPARE TRANSACTION or COMMIT PREPARED.
    Commit,
    /// The rest of the segment is unused.
    Switch,
    /// A checkpoint, of whichever kind.
    Checkpoint,
    /// Anything else.
    Other,
}

/// One verified record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it starts.
    pub start: Lsn,
    /// Just behind it, rounded up as PostgreSQL does.
    pub end: Lsn,
    /// The record before it.
    pub previous: Lsn,
    /// Its kind.
    pub kind: RecordKind,
    /// The timeline of the file it was read from.
    pub timeline: u32,
}

/// Why there is no further record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// Zeros: the log was never written further.
    Unwritten,
    /// A page of a recycled segment: likewise.
    Recycled,
    /// The next segment is not there.
    NoSegment,
    /// A record that is not whole: the last one before a crash, or damage.
    Torn,
}

/// The outcome of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A verified record.
    Record(Record),
    /// The end of the log.
    End(EndReason),
}

/// The log could not be read. It says nothing of where the log ends.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the log file {}", path.display())]
pub struct WalError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// A reader of one server's `pg_wal`.
#[derive(Debug)]
pub struct WalReader {
    dir: PathBuf,
    segment_size: u64,
    block_size: u64,
    open: Option<(u64, u32, PathBuf, File)>,
}

/// Bytes of the log, or where they end.
enum Bytes {
    Here(Vec<u8>),
    Not(EndReason),
}

impl WalReader {
    /// A reader for the data directory with this control file.
    #[must_use]
    pub fn new(data_dir: &Path, control: &ControlData) -> WalReader {
        let dir = data_dir.join("pg_wal");
        WalReader {
            dir,
            segment_size: control.wal_segment_size,
            block_size: control.wal_block_size,
            open: None,
        }
    }

    /// Reads and verifies the record at a record's start. `previous` is checked where it is known.
    ///
    /// # Errors
    /// When a file is there and cannot be read.
    pub fn record(&mut self, at: Lsn, previous: Option<Lsn>) -> Result<Step, WalError> {
        if at > FURTHEST {
            return Ok(Step::End(EndReason::NoSegment));
        }
        let start = self.skip_page_header(at);
        let header = match self.bytes(start, HEADER)? {
            Bytes::Here(bytes) => bytes,
            Bytes::Not(reason) => return Ok(Step::End(reason)),
        };
        let length = number(&header, 0);
        if length == 0 {
            return Ok(Step::End(EndReason::Unwritten));
        }
        let back = Lsn(u64::from(number(&header, 12)) << 32 | u64::from(number(&header, 8)));
        if !(HEADER as u32..=LONGEST_RECORD).contains(&length) || previous.is_some_and(|p| p != back) {
            return Ok(Step::End(EndReason::Torn));
        }
        let whole = match self.bytes(start, length as usize)? {
            Bytes::Here(bytes) => bytes,
            Bytes::Not(_) => return Ok(Step::End(EndReason::Torn)),
        };
        let sum = crc32c::crc32c_append(crc32c::crc32c(&whole[HEADER..]), &whole[..CHECKSUM_AT]);
        if sum != number(&whole, CHECKSUM_AT) {
            return Ok(Step::End(EndReason::Torn));
        }
        let kind = kind(whole[17], whole[16]);
        let end = self.behind(start, u64::from(length));
        let timeline = self.open.as_ref().map_or(0, |(_, timeline, ..)| *timeline);
        Ok(Step::Record(Record { start, end, previous: back, kind, timeline }))
    }

    /// Reads on to the end of the log from a record's start; `each` sees every record. Returns the last record and why
    /// there is no further one.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn scan(
        &mut self,
        from: Lsn,
        mut each: impl FnMut(&Record),
    ) -> Result<(Option<Record>, EndReason), WalError> {
        let mut last: Option<Record> = None;
        let mut at = from;
        loop {
            match self.record(at, last.map(|record| record.start))? {
                Step::End(reason) => return Ok((last, reason)),
                Step::Record(record) => {
                    each(&record);
                    at = match record.kind {
                        RecordKind::Switch => Lsn(record.end.0.next_multiple_of(self.segment_size)),
                        RecordKind::Commit | RecordKind::Checkpoint | RecordKind::Other => record.end,
                    };
                    last = Some(record);
                }
            }
        }
    }

    /// The file of the segment that holds a position, on a timeline.
    #[must_use]
    pub fn segment_name(&self, timeline: u32, segment: u64) -> String {
        let per_id = 0x1_0000_0000 / self.segment_size;
        format!("{timeline:08X}{:08X}{:08X}", segment / per_id, segment % per_id)
    }

    /// The number of the segment that holds a position.
    #[must_use]
    pub fn segment_of(&self, position: Lsn) -> u64 {
        position.0 / self.segment_size
    }

    /// A position at a page's start means the first record behind the page's header.
    fn skip_page_header(&self, at: Lsn) -> Lsn {
        if at.0.is_multiple_of(self.block_size) { Lsn(at.0 + self.page_header(at.0)) } else { at }
    }

    fn page_header(&self, page: u64) -> u64 {
        if page.is_multiple_of(self.segment_size) { LONG_PAGE_HEADER } else { SHORT_PAGE_HEADER }
    }

    /// The position behind `length` bytes of a record, with the page headers in between, rounded up to 8.
    fn behind(&self, start: Lsn, length: u64) -> Lsn {
        let (mut at, mut left) = (start.0, length);
        loop {
            let here = (self.block_size - at % self.block_size).min(left);
            at += here;
            left -= here;
            if left == 0 {
                return Lsn(at.next_multiple_of(8));
            }
            at += self.page_header(at);
        }
    }

    /// Collects a record's bytes over page and segment borders; each new page must be the one that belongs there.
    fn bytes(&mut self, start: Lsn, length: usize) -> Result<Bytes, WalError> {
        let mut collected = Vec::with_capacity(length.min(1 << 20));
        let mut at = start.0;
        while collected.len() < length {
            let page = at - at % self.block_size;
            if let Some(reason) = self.wrong_page(page)? {
                return Ok(Bytes::Not(reason));
            }
            if at == page {
                at += self.page_header(page);
            }
            let here = (page + self.block_size - at).min((length - collected.len()) as u64);
            let mut chunk = vec![0; here as usize];
            if !self.read(at, &mut chunk)? {
                return Ok(Bytes::Not(EndReason::NoSegment));
            }
            collected.extend_from_slice(&chunk);
            at += here;
        }
        Ok(Bytes::Here(collected))
    }

    /// A page names its own address; a recycled segment still has the old one.
    fn wrong_page(&mut self, page: u64) -> Result<Option<EndReason>, WalError> {
        let mut header = [0; 16];
        if !self.read(page, &mut header)? {
            return Ok(Some(EndReason::NoSegment));
        }
        let address = u64::from(number(&header, 12)) << 32 | u64::from(number(&header, 8));
        Ok(match address {
            address if address == page && number(&header, 0) != 0 => None,
            0 => Some(EndReason::Unwritten),
            _ => Some(EndReason::Recycled),
        })
    }

    /// Reads within one page; false when there is no such segment.
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<bool, WalError> {
        let segment = at / self.segment_size;
        if self.open.as_ref().is_none_or(|(open, ..)| *open != segment) {
            self.open = self.open_newest(segment)?;
        }
        let Some((_, _, path, file)) = &self.open else { return Ok(false) };
        let read = file.read_exact_at(into, at % self.segment_size);
        read.map(|()| true).map_err(|source| WalError { path: path.clone(), source })
    }

    /// After a promotion two timelines have the segment; the newer one repeats the older one's part of it. A segment
    /// of a newer timeline that begins later does not exist for an earlier number.
    fn open_newest(&self, segment: u64) -> Result<Option<(u64, u32, PathBuf, File)>, WalError> {
        let suffix = self.segment_name(0, segment)[8..].to_owned();
        let dir_error = |source| WalError { path: self.dir.clone(), source };
        let mut newest: Option<(u32, PathBuf)> = None;
        for entry in std::fs::read_dir(&self.dir).map_err(dir_error)? {
            let entry = entry.map_err(dir_error)?;
            let name = entry.file_name();
            // Whoever keeps files of his own here gives them what name he likes.
            let of_segment = name.to_str().and_then(|name| name.strip_suffix(suffix.as_str()));
            let digits =
                of_segment.filter(|d| d.len() == 8 && d.bytes().all(|byte| byte.is_ascii_hexdigit()));
            let Some(Ok(timeline)) = digits.map(|digits| u32::from_str_radix(digits, 16)) else { continue };
            if newest.as_ref().is_none_or(|(best, _)| *best < timeline) {
                newest = Some((timeline, entry.path()));
            }
        }
        let Some((timeline, path)) = newest else { return Ok(None) };
        match File::open(&path) {
            Ok(file) => Ok(Some((segment, timeline, path, file))),
            Err(source) => Err(WalError { path, source }),
        }
    }
}

/// Little-endian, as on every machine that PostgreSQL's packages are built for.
fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |four| u32::from_le_bytes(*four))
}

fn kind(manager: u8, info: u8) -> RecordKind {
    match (manager, info & 0x70, info & 0xF0) {
        // The transaction manager uses bit 0x80 for "has more"; commit, prepare, commit prepared.
        (1, 0x00 | 0x10 | 0x30, _) => RecordKind::Commit,
        (0, _, 0x40) => RecordKind::Switch,
        (0, _, 0x00 | 0x10) => RecordKind::Checkpoint,
        _ => RecordKind::Other,
    }
}

#[cfg(test)]
mod fuzz;
