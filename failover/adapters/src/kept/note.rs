//! The notes beside what a rejoin kept: what it is, whose, and which files belong to it. A note is written last, so that what
//! has one is whole; by it, and by nothing else, mesh knows again what it wrote itself.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Component, Path};

use mesh_proto::Lsn;
use serde::{Deserialize, Serialize};

use crate::postgres::durable::sync_parent;

/// What a note is called.
pub(crate) const NOTE: &str = "note.json";
/// A note that is being written.
pub(crate) const FRESH: &str = "note.json.new";
/// A longer file is no note: a terabyte of log in segments of 16 MiB is named in 2 MB.
const LONGEST: u64 = 16 << 20;

/// The diverged log of a PostgreSQL server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogNote {
    pub(crate) instance: String,
    pub(crate) system_identifier: u64,
    pub(crate) timeline: u32,
    pub(crate) from: Lsn,
    pub(crate) to: Lsn,
    pub(crate) bytes: u64,
    /// COMMIT, PREPARE and COMMIT PREPARED records in it; absent when they could not be counted to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) transactions: Option<u64>,
    pub(crate) segments: Vec<String>,
    pub(crate) missing: Vec<String>,
    pub(crate) read_with: String,
}

impl LogNote {
    /// The directory of such a log.
    pub(crate) fn directory(system: u64, timeline: u32, from: Lsn, to: Lsn) -> String {
        format!("{system}-{timeline}-{:016X}-{:016X}", from.0, to.0)
    }
}

/// The files of a diverged Redis server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FilesNote {
    pub(crate) instance: String,
    pub(crate) replid: String,
    pub(crate) offset: u64,
    pub(crate) epoch: Option<u64>,
    /// Bytes that the new primary does not have; absent when the histories have nothing to do with each other.
    pub(crate) diverged_bytes: Option<u64>,
    pub(crate) keys: u64,
    pub(crate) files: Vec<String>,
    pub(crate) read_with: String,
}

impl FilesNote {
    /// The directory of such files.
    pub(crate) fn directory(instance: &str, replid: &str, offset: u64) -> String {
        format!("{instance}-{replid}-{offset:016}")
    }
}

/// Either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    Log(LogNote),
    Files(FilesNote),
}

/// Why a note says nothing that mesh may act upon.
#[derive(Debug, thiserror::Error)]
pub enum NoteError {
    /// The disk.
    #[error("its note cannot be read")]
    Read(#[source] io::Error),
    /// It is not what mesh writes.
    #[error("its note is none that mesh understands")]
    Form(#[source] serde_json::Error),
    /// It names a file that is not beside it.
    #[error("its note names {0:?}, which does not lie beside it")]
    Outside(String),
}

impl Note {
    /// Reads the note of a directory; `None` when there is none.
    pub(crate) fn read(dir: &Path) -> Result<Option<Note>, NoteError> {
        let file = match File::open(dir.join(NOTE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(NoteError::Read(error)),
        };
        let mut bytes = Vec::new();
        file.take(LONGEST).read_to_end(&mut bytes).map_err(NoteError::Read)?;
        Note::parse(&bytes).map(Some)
    }

    fn parse(bytes: &[u8]) -> Result<Note, NoteError> {
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(NoteError::Form)?;
        let note = match value.get("segments") {
            Some(_) => Note::Log(serde_json::from_value(value).map_err(NoteError::Form)?),
            None => Note::Files(serde_json::from_value(value).map_err(NoteError::Form)?),
        };
        let inside = |name: &&String| {
            let mut parts = Path::new(name).components().peekable();
            parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
        };
        match note.files().iter().find(|name| !inside(name)) {
            Some(name) => Err(NoteError::Outside(name.clone())),
            None => Ok(note),
        }
    }

    /// What it belongs to.
    pub(crate) fn instance(&self) -> &str {
        match self {
            Self::Log(note) => &note.instance,
            Self::Files(note) => &note.instance,
        }
    }

    /// What its directory is called.
    pub(crate) fn own_directory(&self) -> String {
        match self {
            Self::Log(note) => LogNote::directory(note.system_identifier, note.timeline, note.from, note.to),
            Self::Files(note) => FilesNote::directory(&note.instance, &note.replid, note.offset),
        }
    }

    /// The files beside it.
    pub(crate) fn files(&self) -> &[String] {
        match self {
            Self::Log(note) => &note.segments,
            Self::Files(note) => &note.files,
        }
    }
}

/// Writes a note, durably, and the directory with it.
pub(crate) fn write(dir: &Path, note: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(note)?;
    let fresh = dir.join(FRESH);
    fs::write(&fresh, text)?;
    File::open(&fresh)?.sync_all()?;
    fs::rename(&fresh, dir.join(NOTE))?;
    sync_parent(&dir.join(NOTE))?;
    sync_parent(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"{"instance":"pg-east","system_identifier":7,"timeline":1,"from":"0/3000000","to":"0/3000100",
        "bytes":256,"segments":["000000010000000000000003"],"missing":[],"read_with":"x"}"#;
    const FILES: &str = r#"{"instance":"redis-east","replid":"ab","offset":12,"epoch":1,"diverged_bytes":null,"keys":3,
        "files":["dump.rdb","appendonlydir/a.aof"],"read_with":"x"}"#;

    #[test]
    fn notes_of_both_engines_are_known_again_also_those_of_earlier_versions() {
        let log = Note::parse(LOG.as_bytes()).unwrap();
        assert_eq!(log.own_directory(), "7-1-0000000003000000-0000000003000100");
        assert_eq!((log.instance(), log.files().len()), ("pg-east", 1));
        let files = Note::parse(FILES.as_bytes()).unwrap();
        assert_eq!(files.own_directory(), "redis-east-ab-0000000000000012");
        assert_eq!(files.files().len(), 2);
    }

    #[test]
    fn what_is_no_note_of_mesh_is_refused() {
        for text in ["", "{}", "[]", r#"{"segments":[]}"#, &LOG[..LOG.len() - 1]] {
            assert!(matches!(Note::parse(text.as_bytes()), Err(NoteError::Form(_))), "{text}");
        }
        for name in ["/etc/passwd", "../a", "a/../../b", "", "."] {
            let text = FILES.replace("dump.rdb", name);
            assert!(matches!(Note::parse(text.as_bytes()), Err(NoteError::Outside(_))), "{name}");
        }
    }
}
