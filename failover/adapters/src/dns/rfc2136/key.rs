//! The TSIG key, read from its file whenever it is needed, so that a new secret is taken without a restart. It is never
//! shown: not in errors, not in debug output.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use hickory_proto::rr::{Name, TSigner};

/// How far the clocks of both hosts may differ, in seconds (RFC 8945 recommends this).
const FUDGE: u16 = 300;
/// Longest accepted secret file.
const FILE_MAX: u64 = 4096;

/// Which key, and where its secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    /// Its name, as the server knows it.
    pub name: String,
    /// How it signs.
    pub algorithm: Algorithm,
    /// The file with the secret: base64, alone or in the form that `tsig-keygen` writes.
    pub secret_file: PathBuf,
}

/// The algorithms in use. MD5 and SHA-1 are not among them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// hmac-sha256
    #[default]
    HmacSha256,
    /// hmac-sha384
    HmacSha384,
    /// hmac-sha512
    HmacSha512,
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file holds no secret.
    #[error("{} holds no base64 secret; write what `tsig-keygen` prints, or the secret alone", path.display())]
    NoSecret {
        /// The file.
        path: PathBuf,
    },
    /// The name is none.
    #[error("{0:?} is no name of a key; write it as in the server's `key` statement")]
    Name(String),
}

impl KeyFile {
    /// Reads the secret.
    ///
    /// # Errors
    /// [`KeyError`], which never quotes the file.
    pub fn load(&self) -> Result<Key, KeyError> {
        let secret = secret(&self.secret_file)?;
        let name = Name::from_ascii(&self.name).map_err(|_| KeyError::Name(self.name.clone()))?;
        let algorithm = match self.algorithm {
            Algorithm::HmacSha256 => TsigAlgorithm::HmacSha256,
            Algorithm::HmacSha384 => TsigAlgorithm::HmacSha384,
            Algorithm::HmacSha512 => TsigAlgorithm::HmacSha512,
        };
        let signer = TSigner::new(secret, algorithm, name, FUDGE);
        signer.map(Key).map_err(|_| KeyError::Name(self.name.clone()))
    }
}

/// A key, ready to sign.
#[derive(Clone)]
pub struct Key(pub(super) TSigner);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.0.signer_name())
    }
}

fn secret(path: &Path) -> Result<Vec<u8>, KeyError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
    decoded(&bytes).ok_or_else(|| KeyError::NoSecret { path: path.to_owned() })
}

/// The secret in a file. One that stands alone may spell the word that names it in the other form.
fn decoded(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() as u64 <= FILE_MAX)?;
    let decode = |encoded: &str| data_encoding::BASE64.decode(encoded.as_bytes()).ok();
    let named = || decode(text.split_once("secret")?.1.split('"').nth(1)?);
    decode(text.trim()).or_else(named).filter(|secret| !secret.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_in_both_forms_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let file =
            KeyFile { name: "mesh.".to_owned(), algorithm: Algorithm::HmacSha256, secret_file: path.clone() };
        for text in [
            "c2VjcmV0LXNlY3JldA==\n",
            "key \"mesh\" {\n\talgorithm hmac-sha256;\n\tsecret \"c2VjcmV0LXNlY3JldA==\";\n};\n",
        ] {
            std::fs::write(&path, text).unwrap();
            let key = file.load().unwrap();
            assert_eq!(key.0.key(), b"secret-secret");
            assert_eq!(format!("{key:?}"), "Key(mesh.)");
        }
        for text in ["", "not base64!", "secret", "key \"mesh\" { secret \"%%\"; };"] {
            std::fs::write(&path, text).unwrap();
            let error = file.load().unwrap_err();
            assert!(matches!(error, KeyError::NoSecret { .. }), "{text:?}");
        }
        // Base64 that happens to spell the word.
        std::fs::write(&path, "AAsecretAAA=").unwrap();
        assert_eq!(file.load().unwrap().0.key(), data_encoding::BASE64.decode(b"AAsecretAAA=").unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(file.load(), Err(KeyError::Read { .. })));
    }

    #[test]
    fn fuzz_key() {
        mesh_fuzz::fuzz!("key", |bytes| {
            let _ = mesh_fuzz::bounded(bytes.len(), || decoded(bytes));
            let short = &bytes[..bytes.len().min(64)];
            let encoded = data_encoding::BASE64.encode(short);
            let generated =
                format!("key \"mesh\" {{\n\talgorithm hmac-sha256;\n\tsecret \"{encoded}\";\n}};\n");
            for text in [format!("{encoded}\n"), generated] {
                let found = decoded(text.as_bytes());
                assert_eq!(found.as_deref(), Some(short).filter(|short| !short.is_empty()), "{text}");
            }
            assert_eq!(decoded(&[bytes, &[b'A'; 4097]].concat()), None, "longer than any secret");
        });
    }
}
