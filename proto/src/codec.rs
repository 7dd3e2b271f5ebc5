//! The explicit encoding of everything that sits in the Raft log, in a snapshot or in a file: a kind, a version, a
//! checksum, and JSON. Bytes that do not decode are an error that names the record; they are never "empty".
//!
//! Layout: `b"MESH"`, kind (1 byte), version (1 byte), CRC-32C of the body (4 bytes, big-endian), body.
//!
//! To add a version: give the new shape a new number in [`Kind::version`], keep the old type in a module `v1`, decode by
//! the version found, and add the old bytes to the corpus in `proto/corpus`, which a test decodes for ever.

use serde::{Serialize, de::DeserializeOwned};

const MAGIC: &[u8; 4] = b"MESH";
const HEADER: usize = 10;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A log entry.
    Entry,
    /// A snapshot of the replicated state.
    Snapshot,
    /// A guard's state file.
    GuardState,
    /// A voter's floors.
    VoterState,
    /// The answer to an applied entry.
    Applied,
    /// The body of an RPC between agents, guards and the command line.
    Message,
    /// An agent's route gates.
    RouteGates,
    /// An agent's services and hooks: what it began last, and how that ended.
    Errands,
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Self::Entry => 1,
            Self::Snapshot => 2,
            Self::GuardState => 3,
            Self::VoterState => 4,
            Self::Applied => 5,
            Self::Message => 6,
            Self::RouteGates => 7,
            Self::Errands => 8,
        }
    }
    /// The version that this build writes.
    #[must_use]
    pub const fn version(self) -> u8 {
        1
    }
}

/// Why bytes were refused.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Shorter than a header, or the magic bytes differ.
    #[error("not a mesh {kind:?} record: {len} bytes without the expected header")]
    NotARecord {
        /// Expected kind.
        kind: Kind,
        /// Length found.
        len: usize,
    },
    /// A record of another kind.
    #[error("expected a {kind:?} record, found one of kind {found}")]
    WrongKind {
        /// Expected kind.
        kind: Kind,
        /// Kind byte found.
        found: u8,
    },
    /// Written by a newer build.
    #[error(
        "this {kind:?} record has version {found}, this build reads up to {known}; upgrade this host's mesh"
    )]
    NewerVersion {
        /// Expected kind.
        kind: Kind,
        /// Version found.
        found: u8,
        /// Newest known version.
        known: u8,
    },
    /// The checksum does not fit: the bytes changed after they were written.
    #[error(
        "the checksum of this {kind:?} record does not fit its {len} bytes: it was damaged after it was written"
    )]
    Damaged {
        /// Expected kind.
        kind: Kind,
        /// Length of the body.
        len: usize,
    },
    /// The body is not what the version says.
    #[error("the body of this {kind:?} record does not decode")]
    Body {
        /// Expected kind.
        kind: Kind,
        /// What JSON said.
        #[source]
        source: serde_json::Error,
    },
}

/// Encodes a value as a record of `kind`.
///
/// # Errors
/// [`CodecError::Body`] if the value has no JSON form (a map with keys that are not text).
pub fn encode<T: Serialize>(kind: Kind, value: &T) -> Result<Vec<u8>, CodecError> {
    let body = serde_json::to_vec(value).map_err(|source| CodecError::Body { kind, source })?;
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.push(kind.byte());
    bytes.push(kind.version());
    bytes.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// Decodes a record of `kind`.
///
/// # Errors
/// [`CodecError`], which says what is wrong with the bytes.
pub fn decode<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, CodecError> {
    let (header, body) = match bytes.split_at_checked(HEADER) {
        // No build ever wrote version 0.
        Some((header, body)) if header.starts_with(MAGIC) && header[5] != 0 => (header, body),
        Some(_) | None => return Err(CodecError::NotARecord { kind, len: bytes.len() }),
    };
    if header[4] != kind.byte() {
        return Err(CodecError::WrongKind { kind, found: header[4] });
    }
    if header[5] > kind.version() {
        return Err(CodecError::NewerVersion { kind, found: header[5], known: kind.version() });
    }
    let sum = u32::from_be_bytes([header[6], header[7], header[8], header[9]]);
    if sum != crc32c::crc32c(body) {
        return Err(CodecError::Damaged { kind, len: body.len() });
    }
    serde_json::from_slice(body).map_err(|source| CodecError::Body { kind, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_an_error_and_never_empty() {
        let bytes = encode(Kind::Entry, &vec![1, 2, 3]).unwrap();
        assert_eq!(decode::<Vec<u32>>(Kind::Entry, &bytes).unwrap(), [1, 2, 3]);
        for cut in 0..bytes.len() {
            assert!(decode::<Vec<u32>>(Kind::Entry, &bytes[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            // Version 1 with bit 4 set is newer; every other flip breaks magic, kind, sum or body.
            assert!(decode::<Vec<u32>>(Kind::Entry, &bad).is_err(), "flip at {at}");
            bad[at] = 0;
            assert!(decode::<Vec<u32>>(Kind::Entry, &bad).is_err() || bad == bytes, "zero at {at}");
        }
        assert!(matches!(decode::<Vec<u32>>(Kind::Snapshot, &bytes), Err(CodecError::WrongKind { .. })));
    }
}
