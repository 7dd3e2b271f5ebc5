//! Keeping the diverged log before it is destroyed: the segments from the fork to the end, and a note of what they are. It
//! never decides what becomes of them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use mesh_proto::Lsn;
use serde::Serialize;

use super::decide::Range;
use super::own::Own;
use super::{Diverged, RejoinError};
use crate::postgres::durable::{off_thread, sync_parent};
use crate::postgres::instance::Instance;
use crate::postgres::wal::WalReader;

/// The note beside the segments.
#[derive(Debug, Serialize)]
struct Note<'a> {
    instance: &'a str,
    system_identifier: u64,
    timeline: u32,
    from: Lsn,
    to: Lsn,
    bytes: u64,
    segments: &'a [String],
    missing: &'a [String],
    read_with: String,
}

/// Copies the segments. Done before is done: the note is written last.
pub(super) async fn keep(
    instance: &Instance,
    own: &Own,
    range: Range,
    deadline: Instant,
) -> Result<Diverged, RejoinError> {
    let name = format!(
        "{}-{}-{:016X}-{:016X}",
        own.control.system_identifier, own.history.timeline, range.from.0, range.to.0
    );
    let target = instance.settings().keep_dir.join(name);
    let bytes = range.to.bytes_since(range.from);
    let diverged = Diverged { bytes, from: range.from, to: range.to, kept_at: target.clone() };
    let (job_instance, job_own) = (instance.clone(), own.clone());
    let at = target.clone();
    let done = off_thread(&target, "keep the diverged log in", deadline, move || {
        if at.join("note.json").exists() { Ok(()) } else { copy(&job_instance, &job_own, range, &at) }
    });
    done.await.map_err(RejoinError::Keep)?;
    Ok(diverged)
}

fn copy(instance: &Instance, own: &Own, range: Range, target: &Path) -> io::Result<()> {
    fs::create_dir_all(target)?;
    let reader = WalReader::new(instance.data_dir(), &own.control);
    let (first, last) = (reader.segment_of(range.from), reader.segment_of(range.to));
    enough_room(target, (last - first + 1) * own.control.wal_segment_size)?;
    let (mut segments, mut missing) = (Vec::new(), Vec::new());
    for segment in first..=last {
        match copy_segment(instance, &reader, own, segment, target)? {
            Some(name) => segments.push(name),
            None => missing.push(reader.segment_name(own.history.timeline, segment)),
        }
    }
    let note = Note {
        instance: &instance.settings().name,
        system_identifier: own.control.system_identifier,
        timeline: own.history.timeline,
        from: range.from,
        to: range.to,
        bytes: range.to.bytes_since(range.from),
        segments: &segments,
        missing: &missing,
        read_with: format!("pg_waldump -p . -t {} -s {} -e {}", own.history.timeline, range.from, range.to),
    };
    let text = serde_json::to_vec_pretty(&note)?;
    let fresh = target.join("note.json.new");
    fs::write(&fresh, text)?;
    File::open(&fresh)?.sync_all()?;
    fs::rename(&fresh, target.join("note.json"))?;
    sync_parent(&target.join("note.json"))?;
    sync_parent(target)
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
