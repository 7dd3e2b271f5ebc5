//! The marker of a rejoin under way, on disk before the first change: whoever comes after a crash knows that the data
//! directory may be half rewound, and does not start it.

use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::Diverged;
use crate::postgres::durable::{self, DurableError};
use crate::postgres::instance::Instance;

/// How far a rejoin has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// pg_rewind may have begun to change files: the directory must be neither started nor followed.
    Rewinding,
    /// pg_rewind has changed it, completely: it may be started, and its data is another than before.
    Rewound,
    /// A copy is being made beside the directory, which is as it was.
    Copying,
    /// The copy is complete and takes the directory's place.
    Swapping,
    /// The copy is in place; the old directory is kept aside until the new one streams.
    Swapped,
}

/// What the marker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// How far.
    pub stage: Stage,
    /// What was kept of the old log before.
    pub diverged: Option<Diverged>,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It is there and says nothing that is understood.
    #[error("the rejoin journal {} is damaged; rejoin this instance with a rebuild, do not start it by hand", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The disk.
    #[error("the rejoin journal cannot be read or written")]
    Disk(#[from] DurableError),
}

fn path(instance: &Instance) -> PathBuf {
    instance.settings().state_dir.join("rejoin.json")
}

/// The journal of an unfinished rejoin, if there is one.
///
/// # Errors
/// When it is there and cannot be read or understood.
pub async fn unfinished(instance: &Instance, deadline: Instant) -> Result<Option<Journal>, JournalError> {
    let path = path(instance);
    let Some(bytes) = durable::read(&path, deadline).await? else { return Ok(None) };
    let journal = serde_json::from_slice(&bytes);
    journal.map(Some).map_err(|source| JournalError::Damaged { path, source })
}

pub(super) async fn enter(
    instance: &Instance,
    stage: Stage,
    diverged: Option<&Diverged>,
    deadline: Instant,
) -> Result<(), JournalError> {
    let path = path(instance);
    let journal = Journal { stage, diverged: diverged.cloned() };
    let bytes = serde_json::to_vec(&journal)
        .map_err(|source| JournalError::Damaged { path: path.clone(), source })?;
    Ok(durable::replace(&path, bytes, instance.settings().run_as, deadline).await?)
}

pub(super) async fn clear(instance: &Instance, deadline: Instant) -> Result<(), JournalError> {
    Ok(durable::remove(&path(instance), deadline).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_journal() {
        mesh_fuzz::fuzz!("journal", |bytes| {
            let read = |bytes: &[u8]| serde_json::from_slice::<Journal>(bytes);
            let Ok(journal) = mesh_fuzz::bounded(bytes.len(), || read(bytes)) else { return };
            let written = serde_json::to_vec(&journal).unwrap();
            assert_eq!(read(&written).unwrap(), journal);
            assert!(
                (0..written.len()).all(|cut| read(&written[..cut]).is_err()),
                "half of it was taken for a whole"
            );
        });
    }
}
