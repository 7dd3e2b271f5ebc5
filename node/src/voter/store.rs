//! The voter's floors on disk: one small file, replaced whole. It never reads anything as "empty": a voter without its
//! floors must not come back under its number.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use mesh_failover::lease::granter::VoterState;
use mesh_proto::codec::{self, CodecError, Kind};
use tokio::sync::oneshot;

/// Why a voter's floors could not be read or made. The agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no file.
    #[error(
        "{} is missing: this voter lost what it promised and must not vote again under its number; leave it stopped, and follow the runbook page voter-store",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file does not decode.
    #[error(
        "{} is damaged: this voter cannot know what it promised and must not vote again under its number; leave it stopped, and follow the runbook page voter-store",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: CodecError,
    },
    /// A new voter, but the file is there.
    #[error("{} exists already, but this voter is said to be new; give it an empty data_dir", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The disk refused.
    #[error("cannot read or write {}; check the disk and the permissions", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// The disk did not take a state, and nothing of it may be relied on.
#[derive(Debug, thiserror::Error)]
#[error("the voter's floors were not written")]
pub struct NotWritten(#[source] pub(super) io::Error);

struct Job {
    state: VoterState,
    answer: oneshot::Sender<Result<(), NotWritten>>,
}

/// Writes states on a thread of its own, so that a hung disk holds up nobody else.
#[derive(Debug)]
pub struct VoterStore {
    jobs: Sender<Job>,
}

impl VoterStore {
    /// Makes the file of a voter that never ran.
    ///
    /// # Errors
    /// [`StoreError`]; `Exists` if this voter ran before.
    pub fn create(path: &Path) -> Result<(Self, VoterState), StoreError> {
        if path.exists() {
            return Err(StoreError::Exists { path: path.to_owned() });
        }
        let state = VoterState::default();
        write(path, &state)
            .map_err(|failure| StoreError::Disk { path: path.to_owned(), source: failure.into_inner() })?;
        Ok((Self::start(path)?, state))
    }

    /// Opens the file of a voter that ran before.
    ///
    /// # Errors
    /// [`StoreError`], each fatal: the voter must not start.
    pub fn open(path: &Path) -> Result<(Self, VoterState), StoreError> {
        let bytes = std::fs::read(path).map_err(|source| match source.kind() == io::ErrorKind::NotFound {
            true => StoreError::Missing { path: path.to_owned() },
            false => StoreError::Disk { path: path.to_owned(), source },
        })?;
        let state = codec::decode(Kind::VoterState, &bytes)
            .map_err(|source| StoreError::Damaged { path: path.to_owned(), source })?;
        Ok((Self::start(path)?, state))
    }

    fn start(path: &Path) -> Result<Self, StoreError> {
        let (jobs, inbox) = channel();
        let own = path.to_owned();
        std::thread::Builder::new()
            .name("voter-state".to_owned())
            .spawn(move || serve(&own, &inbox))
            .map_err(|source| StoreError::Disk { path: path.to_owned(), source })?;
        Ok(Self { jobs })
    }

    /// Stores a state; returns when file and directory are synced.
    ///
    /// # Errors
    /// [`NotWritten`] when there is no room, or the disk refused before the sync. A failed sync ends the process.
    pub async fn store(&self, state: VoterState) -> Result<(), NotWritten> {
        let (answer, done) = oneshot::channel();
        let gone = || NotWritten(io::Error::from(io::ErrorKind::BrokenPipe));
        self.jobs.send(Job { state, answer }).map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }
}

/// Ends with the process, or when the store is dropped.
fn serve(path: &Path, inbox: &Receiver<Job>) {
    // A newer state holds everything an older one does, so those that queued up behind a slow disk need one write.
    while let Ok(first) = inbox.recv() {
        let mut jobs = vec![first];
        jobs.extend(inbox.try_iter());
        let Some(newest) = jobs.iter().max_by_key(|job| job.state.version) else { continue };
        let result = write(path, &newest.state);
        if let Err(Failure::Sync(error)) = &result {
            // What the disk holds now is unknown, and the next fsync would report success without it.
            let _ = writeln!(
                io::stderr(),
                "mesh: the disk failed to sync {}: {error}; this voter stops, because it cannot know what it promised. Replace the disk.",
                path.display()
            );
            std::process::abort();
        }
        for job in jobs {
            let said = result.as_ref().copied().map_err(|failure| NotWritten(failure.copy()));
            // Whoever asked may have stopped waiting.
            let _ = job.answer.send(said);
        }
    }
}

enum Failure {
    Before(io::Error),
    Sync(io::Error),
}

impl Failure {
    fn into_inner(self) -> io::Error {
        match self {
            Self::Before(error) | Self::Sync(error) => error,
        }
    }
    fn copy(&self) -> io::Error {
        match self {
            Self::Before(error) | Self::Sync(error) => {
                error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
            }
        }
    }
}

fn write(path: &Path, state: &VoterState) -> Result<(), Failure> {
    let bytes =
        codec::encode(Kind::VoterState, state).map_err(|error| Failure::Before(io::Error::other(error)))?;
    let temporary = path.with_extension("new");
    let put = || -> io::Result<File> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
        file.write_all(&bytes)?;
        Ok(file)
    };
    put().map_err(Failure::Before)?.sync_all().map_err(Failure::Sync)?;
    std::fs::rename(&temporary, path).map_err(Failure::Before)?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    File::open(dir).map_err(Failure::Before)?.sync_all().map_err(Failure::Sync)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_floors() {
        mesh_fuzz::fuzz!("floors", |bytes| {
            let dir = tempfile::tempdir().unwrap();
            let open = |bytes: &[u8]| {
                std::fs::write(dir.path().join("floors"), bytes).unwrap();
                mesh_fuzz::bounded(bytes.len(), || {
                    VoterStore::open(&dir.path().join("floors")).map(|(_store, state)| state)
                })
            };
            let Ok(found) = open(bytes) else { return };
            let written = codec::encode(Kind::VoterState, &found).unwrap();
            for cut in [0, bytes.len() / 2, bytes.len() - 1] {
                assert!(open(&bytes[..cut]).is_err(), "a file that ends early is no whole one");
            }
            let damaged = mesh_fuzz::flipped(&written, bytes).unwrap();
            assert!(open(&damaged).is_err(), "a turned bit was not noticed");
            assert_eq!(open(&written).unwrap(), found);
        });
    }
}
