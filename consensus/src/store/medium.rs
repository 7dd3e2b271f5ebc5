//! The bytes under the store: a file with a mark in front and a redb database behind it.
//!
//! The mark holds the number of the last durable commit. redb, after an unclean stop, takes a damaged last commit
//! for a torn one and silently goes back to the commit before; the mark tells the two apart.

use std::fmt::Debug;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::StorageBackend;

use super::StoreError;
use super::codec::Corrupt;

/// Where the database starts: one page, so that redb's own alignment is kept.
const REGION: u64 = 4096;
const MAGIC: &[u8; 16] = b"mesh raft store\n";
/// Magic, format, commit number, checksum.
const MARK: usize = 32;
const FORMAT: u32 = 1;

/// Random access to bytes that last only after `sync`.
pub(crate) trait Block: Debug + Send + Sync + 'static {
    fn len(&self) -> io::Result<u64>;
    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()>;
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;
}

/// Opens the same bytes again and again: a handle whose sync failed is never used twice.
pub(crate) trait Medium: Debug + Send + Sync + 'static {
    /// Starts an empty store that nobody sees before [`Medium::publish`].
    fn create(&self) -> Result<Arc<dyn Block>, StoreError>;
    /// Makes a finished new store the one that [`Medium::open`] opens.
    fn publish(&self) -> Result<(), StoreError>;
    /// Opens an existing store exclusively.
    fn open(&self) -> Result<Arc<dyn Block>, StoreError>;
}

/// A store in a file, locked while it is open.
#[derive(Debug)]
pub(crate) struct FileMedium {
    path: PathBuf,
}

impl FileMedium {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    fn unfinished(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".new");
        PathBuf::from(name)
    }

    fn lock(&self, file: &File) -> Result<(), StoreError> {
        match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: self.path.clone() }),
            Err(TryLockError::Error(source)) => Err(StoreError::io("lock", &self.path, source)),
        }
    }
}

impl Medium for FileMedium {
    fn create(&self) -> Result<Arc<dyn Block>, StoreError> {
        if self.path.exists() {
            return Err(StoreError::Exists { path: self.path.clone() });
        }
        let path = self.unfinished();
        // What a creation that died left behind was never part of any mesh.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| StoreError::io("create", &path, source))?;
        self.lock(&file)?;
        Ok(Arc::new(FileBlock { file }))
    }

    fn publish(&self) -> Result<(), StoreError> {
        // hard_link, not rename: it refuses to replace a store that appeared meanwhile.
        let unfinished = self.unfinished();
        std::fs::hard_link(&unfinished, &self.path)
            .and_then(|()| std::fs::remove_file(&unfinished))
            .and_then(|()| {
                let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
                File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
            })
            .map_err(|source| StoreError::io("publish", &self.path, source))
    }

    fn open(&self) -> Result<Arc<dyn Block>, StoreError> {
        let opened = OpenOptions::new().read(true).write(true).open(&self.path);
        let file = opened.map_err(|source| {
            if source.kind() == io::ErrorKind::NotFound {
                return StoreError::Missing { path: self.path.clone() };
            }
            StoreError::io("open", &self.path, source)
        })?;
        self.lock(&file)?;
        Ok(Arc::new(FileBlock { file }))
    }
}

#[derive(Debug)]
struct FileBlock {
    file: File,
}

impl Block for FileBlock {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, at)
    }
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// The part of a block that redb sees.
#[derive(Debug)]
pub(crate) struct Region(pub Arc<dyn Block>);

impl StorageBackend for Region {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len()?.saturating_sub(REGION))
    }
    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(at + REGION, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len + REGION)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write(at + REGION, bytes)
    }
}

/// Writes the number of the last durable commit. Rides with the next sync: a mark that a power cut loses is one
/// commit old, which is still a lower bound.
pub(crate) fn write_mark(block: &dyn Block, commit: u64) -> io::Result<()> {
    let mut mark = Vec::with_capacity(MARK);
    mark.extend_from_slice(MAGIC);
    mark.extend_from_slice(&FORMAT.to_le_bytes());
    mark.extend_from_slice(&commit.to_le_bytes());
    let sum = crc32c::crc32c(&mark);
    mark.extend_from_slice(&sum.to_le_bytes());
    block.write(0, &mark)
}

/// Reads the mark and makes sure that a database follows it.
pub(crate) fn read_mark(block: &dyn Block) -> Result<u64, StoreError> {
    let doing = |source| StoreError::Io { doing: "read the mark of the store", source };
    let length = block.len().map_err(doing)?;
    if length <= REGION {
        return Err(Corrupt::new("the file", format!("it was truncated to {length} bytes")).into());
    }
    let mut mark = [0; MARK];
    block.read(0, &mut mark).map_err(doing)?;
    let (content, sum) = mark.split_at(MARK - 4);
    if &content[..16] != MAGIC {
        return Err(Corrupt::new("the mark", "this is not a store of mesh, or its first page is gone").into());
    }
    if crc32c::crc32c(content).to_le_bytes() != sum {
        return Err(Corrupt::new("the mark", "its checksum does not match").into());
    }
    let mut format = [0; 4];
    format.copy_from_slice(&content[16..20]);
    if u32::from_le_bytes(format) != FORMAT {
        let found = u32::from_le_bytes(format);
        return Err(
            Corrupt::new("the mark", format!("it has format {found}, this mesh reads {FORMAT}")).into()
        );
    }
    let mut commit = [0; 8];
    commit.copy_from_slice(&content[20..28]);
    Ok(u64::from_le_bytes(commit))
}
