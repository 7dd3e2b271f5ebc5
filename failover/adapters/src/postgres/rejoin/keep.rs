//! Keeping the diverged log before it is destroyed: the segments from the fork to the end, and a note of what they are. It
//! never decides what becomes of them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use super::decide::Range;
use super::own::Own;
use super::{Diverged, RejoinError};
use crate::kept::note::{self, LogNote, NOTE, Note};
use crate::kept::turn;
use crate::postgres::durable::off_thread;
use crate::postgres::instance::Instance;
use crate::postgres::wal::{RecordKind, WalReader};

/// Copies the segments. Done before is done: the note is written last.
pub(super) async fn keep(
    instance: &Instance,
    own: &Own,
    range: Range,
    deadline: Instant,
) -> Result<Diverged, RejoinError> {
    let name = LogNote::directory(own.control.system_identifier, own.history.timeline, range.from, range.to);
    let target = instance.settings().keep_dir.join(name);
    let bytes = range.to.bytes_since(range.from);
    let (job_instance, job_own) = (instance.clone(), own.clone());
    let at = target.clone();
    let done = off_thread(&target, "keep the diverged log in", deadline, move || {
        let _turn = turn();
        again(&at).and_then(|kept| kept.map_or_else(|| copy(&job_instance, &job_own, range, &at), Ok))
    });
    let transactions = done.await.map_err(RejoinError::Keep)?;
    Ok(Diverged { bytes, transactions, from: range.from, to: range.to, kept_at: target })
}

/// Whether it was kept before, and how many transactions were in it then. Its age begins anew: what a rejoin needs now is not
/// removed as too old meanwhile.
fn again(target: &Path) -> io::Result<Option<Option<u64>>> {
    let Some(note) = Note::read(target).map_err(io::Error::other)? else { return Ok(None) };
    File::open(target.join(NOTE))?.set_modified(SystemTime::now())?;
    Ok(Some(match note {
        Note::Log(note) => note.transactions,
        Note::Files(_) => None,
    }))
}

/// How many transactions became durable in the range; unknown where it cannot be read record by record to its end.
fn transactions(reader: &mut WalReader, range: Range) -> Option<u64> {
    let mut count = 0;
    let scanned = reader.scan(range.from, |record| {
        count += u64::from(record.kind == RecordKind::Commit && record.end <= range.to);
    });
    match scanned {
        Ok((Some(last), _)) if last.end >= range.to => Some(count),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(%error, "how many transactions are in the diverged log is not known");
            None
        }
    }
}

fn copy(instance: &Instance, own: &Own, range: Range, target: &Path) -> io::Result<Option<u64>> {
    fs::create_dir_all(target)?;
    let mut reader = WalReader::new(instance.data_dir(), &own.control);
    let (first, last) = (reader.segment_of(range.from), reader.segment_of(range.to));
    enough_room(target, (last - first + 1) * own.control.wal_segment_size)?;
    let (mut segments, mut missing) = (Vec::new(), Vec::new());
    for segment in first..=last {
        match copy_segment(instance, &reader, own, segment, target)? {
            Some(name) => segments.push(name),
            None => missing.push(reader.segment_name(own.history.timeline, segment)),
        }
    }
    let transactions = transactions(&mut reader, range);
    let note = LogNote {
        instance: instance.settings().name.clone(),
        system_identifier: own.control.system_identifier,
        timeline: own.history.timeline,
        from: range.from,
        to: range.to,
        bytes: range.to.bytes_since(range.from),
        transactions,
        segments,
        missing,
        read_with: format!("pg_waldump -p . -t {} -s {} -e {}", own.history.timeline, range.from, range.to),
    };
    note::write(target, &note)?;
    Ok(transactions)
}

/// A segment may exist on the end's timeline or on the one it branched from.
fn copy_segment(
    instance: &Instance,
    reader: &WalReader,
    own: &Own,
    segment: u64,
    target: &Path,
) -> io::Result<Option<String>> {
    let ancestors = own.history.ancestors.iter().rev().map(|ancestor| ancestor.timeline);
    for timeline in std::iter::once(own.history.timeline).chain(ancestors) {
        let name = reader.segment_name(timeline, segment);
        let from: PathBuf = instance.data_dir().join("pg_wal").join(&name);
        match fs::copy(&from, target.join(&name)) {
            Ok(_) => {
                File::open(target.join(&name))?.sync_all()?;
                return Ok(Some(name));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Asked beforehand, so that a full disk is found before it is full.
pub(super) fn enough_room(dir: &Path, bytes: u64) -> io::Result<()> {
    let stat = rustix::fs::statvfs(dir)?;
    if stat.f_bavail.saturating_mul(stat.f_frsize) >= bytes {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::StorageFull))
    }
}
