//! What the authority keeps of the tokens that it made: `tokens/ID.json` in its directory, one file each, written as a whole or not
//! at all. A file has the digest of the secret and never the secret. Nothing here asks anybody, and no file is ever removed: whoever
//! reads them sees every token that there was, and what was tried with it.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};

use super::token::Token;
use super::{CaError, digest, draw, open};
use crate::tls::Identity;

/// Where they lie, below the authority's directory.
const TOKENS: &str = "tokens";
/// How much of what was tried with a token is kept: somebody who has one cannot fill the disk.
const TRIED: usize = 32;

/// A token as the authority knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// Whom it is for, as certificates name it.
    pub identity: String,
    /// SHA-256 of its secret.
    pub secret: String,
    /// Seconds since 1970.
    pub expires: u64,
    /// The key that it was used with, and the number of the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Used>,
    /// What was tried with it, the newest last.
    #[serde(default)]
    pub tried: Vec<String>,
}

/// What a token was used for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Used {
    /// SHA-256 of the public key.
    pub key: String,
    /// The number of the certificate that was issued for it.
    pub number: String,
}

/// A token that was just made.
#[derive(Debug)]
pub struct Made {
    /// What to give to the new host.
    pub token: Token,
    /// The authority's name, for people.
    pub authority: String,
}

/// Why a token's record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Its file is not what was written.
    #[error("{} is damaged; make another token with `mesh ca token`", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Its file cannot be read or written.
    #[error("cannot read or write {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The authority itself.
    #[error(transparent)]
    Authority(#[from] CaError),
}

impl Record {
    /// Adds a line to what was tried.
    pub fn note(&mut self, line: String) {
        // The first ones say who used it; of a flood the newest say that it goes on.
        if self.tried.len() >= TRIED {
            self.tried.remove(TRIED / 2);
        }
        self.tried.push(line);
    }
}

fn id(secret: &str) -> &str {
    // What is drawn is told apart by 64 bits; the whole digest is compared before anything is believed.
    secret.get(..16).unwrap_or(secret)
}

fn file(dir: &Path, secret: &str) -> PathBuf {
    dir.join(TOKENS).join(format!("{}.json", id(secret)))
}

/// SHA-256 of the authority's certificate.
pub(super) fn fingerprint(dir: &Path) -> Result<[u8; 32], CaError> {
    let path = dir.join("ca.crt");
    let der = CertificateDer::from_pem_file(&path)
        .map_err(|source| CaError::NoCertificate { path, source: source.into() })?;
    let mut print = [0; 32];
    print.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, &der).as_ref());
    Ok(print)
}

/// Makes a token, and keeps the digest of its secret.
///
/// # Errors
/// [`TokenError`]: no token was made.
pub fn make(dir: &Path, identity: &Identity, expires: u64) -> Result<Made, TokenError> {
    identity.server_name().map_err(CaError::Name)?;
    let (mesh, _issuer) = open(dir)?;
    let token =
        Token { identity: identity.clone(), expires, fingerprint: fingerprint(dir)?, secret: draw()? };
    let tokens = dir.join(TOKENS);
    let failed = |source| TokenError::File { path: tokens.clone(), source };
    match std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&tokens) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let record = Record {
        identity: identity.dns_name(),
        secret: digest(token.secret_text().as_bytes()),
        expires,
        used: None,
        tried: Vec::new(),
    };
    write(dir, &record)?;
    Ok(Made { token, authority: format!("mesh {mesh}") })
}

/// The record of a secret; `None` where this authority made no such token.
pub(super) fn find(dir: &Path, secret: &str) -> Result<Option<Record>, TokenError> {
    let secret = digest(secret.as_bytes());
    let found = read(&file(dir, &secret))?;
    Ok(found.filter(|record| record.secret == secret))
}

/// Every token that there was.
pub(super) fn all(dir: &Path) -> Result<Vec<Record>, TokenError> {
    let tokens = dir.join(TOKENS);
    let failed = |source| TokenError::File { path: tokens.clone(), source };
    let entries = match std::fs::read_dir(&tokens) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut records = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|ending| ending == "json") {
            records.extend(read(&path)?);
        }
    }
    Ok(records)
}

fn read(path: &Path) -> Result<Option<Record>, TokenError> {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| TokenError::Damaged { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TokenError::File { path: path.to_owned(), source }),
    }
}

/// Writes a record as a whole: after this returned, it is on the disk.
pub(super) fn write(dir: &Path, record: &Record) -> Result<(), TokenError> {
    let path = file(dir, &record.secret);
    let text =
        serde_json::to_vec(record).map_err(|source| TokenError::Damaged { path: path.clone(), source })?;
    let part = path.with_extension("part");
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&part, &path)?;
        std::fs::File::open(dir.join(TOKENS))?.sync_all()
    };
    written().map_err(|source| TokenError::File { path: path.clone(), source })
}
