//! Whose store it is. Created once, on purpose; never as a side effect of opening.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::medium::{FileMedium, Medium};
use super::{StoreError, load};
use crate::types::{Identity, NodeId};

/// Creates the store of a new member and draws its incarnation.
///
/// # Errors
/// When there is a store already, which is never overwritten, or the system refuses.
pub fn create_store(path: &Path, node: NodeId, mesh: &str) -> Result<Identity, StoreError> {
    create(&FileMedium::new(path), node, mesh)
}

pub(super) fn create(medium: &dyn Medium, node: NodeId, mesh: &str) -> Result<Identity, StoreError> {
    let identity = Identity { node, incarnation: draw()?, mesh: mesh.to_owned() };
    load::create(medium, &identity, &load::Records::nothing())?;
    Ok(identity)
}

/// Reads whose store it is, without an agent running on it.
///
/// # Errors
/// When there is none, it is in use, or it is damaged.
pub fn read_identity(path: &Path) -> Result<Identity, StoreError> {
    Ok(load::open(&FileMedium::new(path))?.identity)
}

pub(super) fn check(found: &Identity, node: NodeId, mesh: &str) -> Result<(), StoreError> {
    if found.mesh != mesh {
        return Err(StoreError::OtherMesh { found: found.mesh.clone(), expected: mesh.to_owned() });
    }
    if found.node != node {
        return Err(StoreError::OtherNode { found: found.node, expected: node });
    }
    Ok(())
}

/// A random number that is not 0, which means "not known" in messages.
pub(super) fn draw() -> Result<u64, StoreError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 8];
    File::open(path)
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|source| StoreError::io("read", path, source))?;
    Ok(u64::from_le_bytes(bytes).max(1))
}
