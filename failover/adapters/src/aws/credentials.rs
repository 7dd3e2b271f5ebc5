//! AWS credentials from a file in the form of `~/.aws/credentials`, read whenever a request is signed.
//!
//! What the file holds is never shown: not in errors, not in debug output.

use std::path::PathBuf;

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, error, future};

/// Longest accepted file.
const FILE_MAX: u64 = 16 * 1024;

/// Where credentials come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialsFrom {
    /// A file in the form of `~/.aws/credentials`, which may be one of systemd's credentials: its section `[default]`, or the
    /// lines that stand before any section.
    File(PathBuf),
    /// Where every AWS tool looks: environment, profile, web identity, the role of container or host.
    Chain,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is no such file.
    #[error("{} is longer than {FILE_MAX} bytes, and so no credentials file", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// A line is missing.
    #[error("{} has no {key} in [default]", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What is not there.
        key: &'static str,
    },
}

/// Reads the file for each request.
#[derive(Debug)]
pub(super) struct FromFile {
    path: PathBuf,
}

impl FromFile {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    async fn load(&self) -> Result<Credentials, CredentialsError> {
        let failed = |source| CredentialsError::Read { path: self.path.clone(), source };
        if tokio::fs::metadata(&self.path).await.map_err(failed)?.len() > FILE_MAX {
            return Err(CredentialsError::TooLong { path: self.path.clone() });
        }
        let text = tokio::fs::read_to_string(&self.path).await.map_err(failed)?;
        parse(&text).map_err(|key| CredentialsError::Missing { path: self.path.clone(), key })
    }
}

impl ProvideCredentials for FromFile {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            self.load().await.map_err(error::CredentialsError::provider_error)
        })
    }
}

/// Tries whether a file could be used, before it is needed.
///
/// # Errors
/// [`CredentialsError`], which says what is wrong with it.
pub fn check(path: &std::path::Path) -> Result<(), CredentialsError> {
    let failed = |source| CredentialsError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > FILE_MAX {
        return Err(CredentialsError::TooLong { path: path.to_owned() });
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    parse(&text).map(drop).map_err(|key| CredentialsError::Missing { path: path.to_owned(), key })
}

/// The keys of `[default]`; else the first that is missing.
fn parse(text: &str) -> Result<Credentials, &'static str> {
    let (mut id, mut secret, mut token) = (None, None, None);
    let mut inside = true;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            inside = section.trim_end_matches(']').trim() == "default";
        } else if inside && let Some((key, value)) = line.split_once('=') {
            let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
            match key.trim() {
                "aws_access_key_id" => id = value,
                "aws_secret_access_key" => secret = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    let id = id.ok_or("aws_access_key_id")?;
    let secret = secret.ok_or("aws_secret_access_key")?;
    Ok(Credentials::new(id, secret, token, None, "file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_section_counts_and_what_is_missing_is_named() {
        let keys = "aws_access_key_id = AKID\naws_secret_access_key=s=cret\n";
        let other = "[other]\naws_access_key_id = no\naws_session_token = no\n";
        for text in
            [keys, &format!("# mine\n[default]\n{keys}{other}"), &format!("{other}[ default ]\n{keys}")]
        {
            let found = parse(text).unwrap();
            assert_eq!((found.access_key_id(), found.secret_access_key()), ("AKID", "s=cret"), "{text}");
            assert_eq!(found.session_token(), None, "{text}");
        }
        let token = format!("{keys}aws_session_token = t==\n");
        assert_eq!(parse(&token).unwrap().session_token(), Some("t=="));
        assert_eq!(parse(other).unwrap_err(), "aws_access_key_id");
        assert_eq!(
            parse("aws_access_key_id = AKID\naws_secret_access_key =").unwrap_err(),
            "aws_secret_access_key"
        );
    }

    #[tokio::test]
    async fn a_file_is_read_anew_each_time_and_its_secret_is_not_in_the_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aws");
        let provider = FromFile::new(path.clone());
        let missing = provider.load().await.unwrap_err();
        assert!(matches!(missing, CredentialsError::Read { .. }), "{missing}");
        assert!(check(&path).is_err());
        std::fs::write(&path, "aws_secret_access_key = hush").unwrap();
        let partly = provider.load().await.unwrap_err();
        assert!(partly.to_string().contains("has no aws_access_key_id"), "{partly}");
        assert!(!format!("{partly} {partly:?} {provider:?}").contains("hush"));
        for id in ["one", "two"] {
            std::fs::write(&path, format!("aws_access_key_id={id}\naws_secret_access_key = hush")).unwrap();
            assert_eq!(provider.load().await.unwrap().access_key_id(), id);
        }
        check(&path).unwrap();
        std::fs::write(&path, "x".repeat(20_000)).unwrap();
        assert!(matches!(check(&path), Err(CredentialsError::TooLong { .. })));
    }

    #[test]
    fn fuzz_credentials() {
        mesh_fuzz::fuzz!("credentials", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            if let Ok(found) = mesh_fuzz::bounded(bytes.len(), || parse(&text)) {
                assert!(!found.access_key_id().is_empty() && !found.secret_access_key().is_empty());
                let secret = found.secret_access_key();
                // The key's id is shown, and a file may say the same for both.
                let told = secret.len() < 8 || found.access_key_id().contains(secret);
                assert!(told || !format!("{found:?}").contains(secret), "a secret is shown");
            }
            let secret = text.trim();
            if !secret.is_empty() && secret.lines().count() == 1 && !secret.contains('\r') {
                let file = format!("[default]\naws_access_key_id=A\naws_secret_access_key = {secret}\n[x]\n");
                assert_eq!(parse(&file).unwrap().secret_access_key(), secret);
            }
        });
    }
}
