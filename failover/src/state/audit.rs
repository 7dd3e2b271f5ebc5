//! The chain of audit records: made while applying, hashed, and the same on every agent.

use mesh_proto::audit::AuditRecord;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The hash before the first record.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// How many records an agent keeps. At a few records an hour in ordinary operation, and about fifteen a failover, this
/// is years; older ones are dropped from the front, with the hash they end in kept, after `mesh audit export`.
pub const KEPT: usize = 20_000;

/// The chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Hash and number of the record before the first kept one.
    pub anchor: (u64, String),
    /// The kept records, oldest first.
    pub records: Vec<AuditRecord>,
}

impl Default for Audit {
    fn default() -> Self {
        Self { anchor: (0, GENESIS.to_owned()), records: Vec::new() }
    }
}

/// Why a chain does not verify.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A number is missing or stands twice.
    #[error("record {found} stands where {expected} should")]
    Gap {
        /// The number that should stand here.
        expected: u64,
        /// The number that does.
        found: u64,
    },
    /// A record names another predecessor than the one before it.
    #[error("record {seq} does not continue the record before it")]
    Unchained {
        /// Its number.
        seq: u64,
    },
    /// A record's content does not have its hash.
    #[error("record {seq} was changed after it was written")]
    Changed {
        /// Its number.
        seq: u64,
    },
    /// A record has no JSON form.
    #[error("record {seq} cannot be encoded: {why}")]
    Unencodable {
        /// Its number.
        seq: u64,
        /// What JSON said.
        why: String,
    },
}

/// The hash of a record: SHA-256 over the previous hash and the record's JSON with an empty `hash`.
///
/// # Errors
/// [`Broken::Unencodable`], which cannot happen for records of this build.
pub fn hash_of(record: &AuditRecord) -> Result<String, Broken> {
    let mut bare = record.clone();
    bare.hash = String::new();
    let json =
        serde_json::to_vec(&bare).map_err(|e| Broken::Unencodable { seq: record.seq, why: e.to_string() })?;
    let mut hasher = Sha256::new();
    hasher.update(record.previous.as_bytes());
    hasher.update(&json);
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Verifies a chain from its anchor on.
///
/// # Errors
/// [`Broken`]: the first record that does not fit, and how.
pub fn verify(audit: &Audit) -> Result<(), (u64, Broken)> {
    let (mut seq, mut previous) = audit.anchor.clone();
    for record in &audit.records {
        seq += 1;
        let fail = |broken| Err((record.seq, broken));
        if record.seq != seq {
            return fail(Broken::Gap { expected: seq, found: record.seq });
        }
        if record.previous != previous {
            return fail(Broken::Unchained { seq });
        }
        match hash_of(record) {
            Ok(hash) if hash == record.hash => previous = hash,
            Ok(_) => return fail(Broken::Changed { seq }),
            Err(broken) => return fail(broken),
        }
    }
    Ok(())
}

impl Audit {
    /// Number and hash of the newest record.
    #[must_use]
    pub fn head(&self) -> (u64, String) {
        self.records.last().map_or_else(|| self.anchor.clone(), |record| (record.seq, record.hash.clone()))
    }

    /// The hash at a number, if the record is still kept.
    #[must_use]
    pub fn hash_at(&self, seq: u64) -> Option<&str> {
        if seq == self.anchor.0 {
            return Some(&self.anchor.1);
        }
        let at = usize::try_from(seq.checked_sub(self.anchor.0 + 1)?).ok()?;
        self.records.get(at).map(|record| record.hash.as_str())
    }

    /// Adds a record: gives it its number, its predecessor and its hash.
    pub(crate) fn push(&mut self, mut record: AuditRecord) -> Result<(), Broken> {
        let (seq, previous) = self.head();
        record.seq = seq + 1;
        record.previous = previous;
        record.hash = hash_of(&record)?;
        self.records.push(record);
        if self.records.len() > KEPT {
            let dropped = self.records.remove(0);
            self.anchor = (dropped.seq, dropped.hash);
        }
        Ok(())
    }
}
