//! The guard's own directory: its state, its lock, the key that signs receipts. On another disk than the data where there
//! is one, because nothing on the way to a fence may wait for the data's disk.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use mesh_failover::guard::GuardState;
use mesh_proto::codec::{self, CodecError, Kind};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustix::fs::{FlockOperation, flock};

/// Why the guard's own files cannot be used. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// Another guard of the same state.
    #[error("another guard (process {holder}) uses {}; stop it first: an instance has one guard", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// What the lock file says.
        holder: String,
    },
    /// Another guard of the same data.
    #[error("another guard already guards {}; stop it first, or correct `data_dir`", data_dir.display())]
    Guarded {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// The state does not decode.
    #[error(
        "{} is damaged, and what this guard promised is not known; with the instance stopped, remove the file: the guard then comes back as a new one",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: CodecError,
    },
    /// The receipt key is unusable.
    #[error("{} is no receipt key; remove it, and another one is made", path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// The disk refused.
    #[error("cannot use {}; check that it exists and that the guard's user owns it", path.display())]
    Disk {
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> FilesError {
    let path = path.to_owned();
    move |source| FilesError::Disk { path, source }
}

/// The directory, held against other guards for as long as this value lives.
pub(super) struct StateDir {
    path: PathBuf,
    key: Ed25519KeyPair,
    shares_disk: bool,
    _lock: File,
    _data_lock: UnixListener,
}

impl StateDir {
    /// Locks the directory, and reads what an earlier guard left there.
    pub(super) fn open(path: &Path, data_dir: &Path) -> Result<(Self, Option<GuardState>), FilesError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(disk(path))?;
        let lock = lock(path)?;
        let data_lock = lock_data(data_dir)?;
        let stored = read_state(&path.join("state"))?;
        let key = receipt_key(&path.join("receipt.key"))?;
        let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev());
        let parent = data_dir.parent().unwrap_or(data_dir);
        let shares_disk = match (device(path), device(data_dir).or_else(|_| device(parent))) {
            (Ok(ours), Ok(theirs)) => ours == theirs,
            (Err(_), _) | (_, Err(_)) => true,
        };
        Ok((Self { path: path.to_owned(), key, shares_disk, _lock: lock, _data_lock: data_lock }, stored))
    }

    /// Whether the state lies on the file system of the data.
    pub(super) const fn shares_disk(&self) -> bool {
        self.shares_disk
    }

    /// The key that verifies receipts, in hexadecimal.
    pub(super) fn public_key(&self) -> String {
        hex(self.key.public_key().as_ref())
    }

    /// Signs, in hexadecimal.
    pub(super) fn sign(&self, bytes: &[u8]) -> String {
        hex(self.key.sign(bytes).as_ref())
    }

    /// Where the state lies, for the thread that writes it.
    pub(super) fn state_file(&self) -> PathBuf {
        self.path.join("state")
    }
}

fn lock(dir: &Path) -> Result<File, FilesError> {
    let path = dir.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(disk(&path))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        file.read_to_string(&mut holder).map_err(disk(&path))?;
        return Err(FilesError::Locked { dir: dir.to_owned(), holder: holder.trim().to_owned() });
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(disk(&path))?;
    writeln!(file, "{}", std::process::id()).map_err(disk(&path))?;
    Ok(file)
}

/// Two guards with different state directories must not guard the same data either. The kernel forgets this lock when
/// its holder dies.
fn lock_data(data_dir: &Path) -> Result<UnixListener, FilesError> {
    let name = format!("mesh-guard:{}", data_dir.display());
    let address = SocketAddr::from_abstract_name(name.as_bytes()).map_err(disk(data_dir))?;
    UnixListener::bind_addr(&address).map_err(|source| match source.kind() == io::ErrorKind::AddrInUse {
        true => FilesError::Guarded { data_dir: data_dir.to_owned() },
        false => FilesError::Disk { path: data_dir.to_owned(), source },
    })
}

fn read_state(path: &Path) -> Result<Option<GuardState>, FilesError> {
    match std::fs::read(path) {
        Ok(bytes) => codec::decode(Kind::GuardState, &bytes)
            .map(Some)
            .map_err(|source| FilesError::Damaged { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FilesError::Disk { path: path.to_owned(), source }),
    }
}

/// Replaces the state: new file, fsync, rename, fsync of the directory.
pub(super) fn write_state(path: &Path, state: &GuardState) -> io::Result<()> {
    let bytes = codec::encode(Kind::GuardState, state).map_err(io::Error::other)?;
    replace(path, &bytes)
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

fn receipt_key(path: &Path) -> Result<Ed25519KeyPair, FilesError> {
    let unusable = |_| FilesError::Key { path: path.to_owned() };
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made =
                Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| FilesError::Disk {
                    path: path.to_owned(),
                    source: io::Error::other("the kernel gives no random numbers"),
                })?;
            replace(path, made.as_ref()).map_err(disk(path))?;
            made.as_ref().to_vec()
        }
        Err(source) => return Err(FilesError::Disk { path: path.to_owned(), source }),
    };
    Ed25519KeyPair::from_pkcs8(&bytes).map_err(unusable)
}

/// Random bytes in the name of a life of a guard.
pub(super) const GUARD_BYTES: usize = 8;
/// Random bytes in the name of a life of data: it becomes part of an `application_name`, which has 63 bytes for an
/// instance of up to 32, this, and an epoch.
pub(super) const DATA_BYTES: usize = 6;

/// A name that was never used before.
pub(super) fn unique(prefix: &str, bytes: usize) -> io::Result<String> {
    let mut random = [0; GUARD_BYTES];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| io::Error::other("the kernel gives no random numbers"))?;
    Ok(format!("{prefix}{}", hex(&random[..bytes.min(GUARD_BYTES)])))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_guard_a_directory_and_one_a_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (state, data) = (dir.path().join("state"), dir.path().join("data"));
        let (held, stored) = StateDir::open(&state, &data).unwrap();
        assert!(stored.is_none());
        let Err(FilesError::Locked { holder, .. }) = StateDir::open(&state, &dir.path().join("other")) else {
            panic!("must be refused")
        };
        assert_eq!(holder, std::process::id().to_string());
        let other = StateDir::open(&dir.path().join("state2"), &data);
        assert!(matches!(other, Err(FilesError::Guarded { .. })));
        let key = held.public_key();
        drop(held);
        let (again, _) = StateDir::open(&state, &data).unwrap();
        assert_eq!(again.public_key(), key, "the key stays");
        let verifier = ring::signature::UnparsedPublicKey::new(
            &ring::signature::ED25519,
            (0..key.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&key[at..at + 2], 16).unwrap())
                .collect::<Vec<_>>(),
        );
        let signature = again.sign(b"receipt");
        let raw: Vec<u8> = (0..signature.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&signature[at..at + 2], 16).unwrap())
            .collect();
        verifier.verify(b"receipt", &raw).unwrap();
    }

    #[test]
    fn a_damaged_state_is_never_no_state() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        assert!(read_state(&path).unwrap().is_none());
        for bad in [b"".as_slice(), b"MESH", b"nonsense that is long enough"] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(read_state(&path), Err(FilesError::Damaged { .. })));
        }
    }

    #[test]
    fn fuzz_state() {
        mesh_fuzz::fuzz!("state", |bytes| {
            let dir = tempfile::tempdir().unwrap();
            let open = |bytes: &[u8]| {
                std::fs::write(dir.path().join("state"), bytes).unwrap();
                mesh_fuzz::bounded(bytes.len(), || read_state(&dir.path().join("state")).map(Option::unwrap))
            };
            let Ok(found) = open(bytes) else { return };
            let written = codec::encode(Kind::GuardState, &found).unwrap();
            for cut in [0, bytes.len() / 2, bytes.len() - 1] {
                assert!(open(&bytes[..cut]).is_err(), "a file that ends early is no whole one");
            }
            let damaged = mesh_fuzz::flipped(&written, bytes).unwrap();
            assert!(open(&damaged).is_err(), "a turned bit was not noticed");
            assert_eq!(open(&written).unwrap(), found);
        });
    }
}
