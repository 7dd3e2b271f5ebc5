//! How one record is framed on disk: version, kind, length, CRC-32C, payload.
//!
//! A frame that cannot be read is an error that names its record. It is never skipped and never "empty".

use prost::Message;

/// Raised when a reader of the old version would misunderstand a record.
const VERSION: u8 = 1;
const HEADER: usize = 10;

/// What a record is; part of the checksum, so that one record cannot be taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Identity = 1,
    Ballot = 2,
    Committed = 3,
    Purged = 4,
    Tail = 5,
    Snapshot = 6,
    Entry = 7,
    Sequence = 8,
    Ballast = 9,
}

/// A record that should be there and is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the store is damaged at {record}: {problem}; this voter must not vote with it: remove the member and join \
     again under a new id with an empty data directory"
)]
pub struct Corrupt {
    /// Which record.
    pub record: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Corrupt {
    pub(crate) fn new(record: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { record: record.into(), problem: problem.into() }
    }
}

/// Frames a message.
pub(crate) fn encode(kind: Kind, message: &impl Message) -> Vec<u8> {
    frame(kind, &message.encode_to_vec())
}

/// Frames bytes.
pub(crate) fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(HEADER + payload.len());
    out.push(VERSION);
    out.push(kind as u8);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&checksum(&out, payload).to_le_bytes());
    out.extend_from_slice(payload);
    out
}

/// Reads a framed message back.
pub(crate) fn decode<T: Message + Default>(record: &str, kind: Kind, bytes: &[u8]) -> Result<T, Corrupt> {
    let payload = unframe(record, kind, bytes)?;
    T::decode(payload).map_err(|error| Corrupt::new(record, format!("its content does not decode: {error}")))
}

/// Checks a frame and returns its payload.
pub(crate) fn unframe<'a>(record: &str, kind: Kind, bytes: &'a [u8]) -> Result<&'a [u8], Corrupt> {
    let Some((header, payload)) = bytes.split_at_checked(HEADER) else {
        return Err(Corrupt::new(record, format!("only {} bytes are left of it", bytes.len())));
    };
    let (lead, sums) = header.split_at(6);
    let (version, found, length) =
        (lead[0], lead[1], u32::from_le_bytes([lead[2], lead[3], lead[4], lead[5]]));
    let stored = u32::from_le_bytes([sums[0], sums[1], sums[2], sums[3]]);
    if checksum(lead, payload) != stored {
        return Err(Corrupt::new(record, "its checksum does not match"));
    }
    if version != VERSION {
        return Err(Corrupt::new(record, format!("it has version {version}, this mesh reads {VERSION}")));
    }
    if found != kind as u8 {
        return Err(Corrupt::new(record, format!("it is of kind {found}, expected {}", kind as u8)));
    }
    if usize::try_from(length).ok() != Some(payload.len()) {
        return Err(Corrupt::new(record, format!("it has {} bytes of {length}", payload.len())));
    }
    Ok(payload)
}

fn checksum(lead: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(lead), payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_truncation_is_noticed() {
        let framed = frame(Kind::Entry, b"a command");
        assert_eq!(unframe("x", Kind::Entry, &framed), Ok(&b"a command"[..]));
        for byte in 0..framed.len() {
            for bit in 0..8 {
                let mut damaged = framed.clone();
                damaged[byte] ^= 1 << bit;
                assert!(unframe("x", Kind::Entry, &damaged).is_err(), "byte {byte} bit {bit}");
            }
            assert!(unframe("x", Kind::Entry, &framed[..byte]).is_err());
        }
        let found = unframe("the vote", Kind::Ballot, &framed).unwrap_err();
        assert!(found.to_string().contains("the vote"), "{found}");
    }
}
