//! Certificate and key files, read once and checked before anything listens or dials with them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_proto::MeshId;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::identity::{Identity, IdentityError};

/// Everything a process needs to prove who it is and to check others.
#[derive(Clone)]
pub struct Material {
    identity: Identity,
    mesh: MeshId,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// Shows names only: the key must not get into a log.
impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material").field("identity", &self.identity).field("mesh", &self.mesh).finish()
    }
}

/// Why the files were refused.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// A file cannot be read, or is not PEM.
    #[error("cannot read {what} from {}; issue it with `mesh ca issue`, or correct the path", path.display())]
    Read {
        /// What should be there.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The certificate file is empty.
    #[error("there is no certificate in {}; issue it with `mesh ca issue`", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The certificate names nobody.
    #[error("the certificate {} cannot be used", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: IdentityError,
    },
    /// The certificate is somebody else's.
    #[error(
        "{} is the certificate of {}, but this process is {}; name the right file, or issue one with `mesh ca issue`",
        path.display(), parties.0, parties.1
    )]
    Somebody {
        /// The file.
        path: PathBuf,
        /// Whom it names, and who we are, each with its mesh.
        parties: Box<(String, String)>,
    },
    /// Authority, certificate and key do not fit together.
    #[error(
        "{}, {} and {} do not belong together; issue certificate and key again with `mesh ca issue`",
        ca.display(), cert.display(), key.display()
    )]
    Mismatch {
        /// Authority.
        ca: PathBuf,
        /// Certificate.
        cert: PathBuf,
        /// Key.
        key: PathBuf,
        /// What rustls said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The three files.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// Certificate of the authority.
    pub ca: &'a Path,
    /// Our certificate.
    pub cert: &'a Path,
    /// Our key.
    pub key: &'a Path,
}

impl Material {
    /// Reads the files and checks that they are this process's.
    ///
    /// # Errors
    /// [`MaterialError`].
    pub fn load(files: Files<'_>, mesh: &MeshId, identity: &Identity) -> Result<Self, MaterialError> {
        let authorities = certificates("the authority's certificate", files.ca)?;
        let chain = certificates("a certificate", files.cert)?;
        let key = PrivateKeyDer::from_pem_file(files.key).map_err(|source| MaterialError::Read {
            what: "a private key",
            path: files.key.to_owned(),
            source,
        })?;
        let leaf = chain.first().ok_or_else(|| MaterialError::Empty { path: files.cert.to_owned() })?.clone();
        let (found_mesh, found) = Identity::of(&leaf)
            .map_err(|source| MaterialError::Identity { path: files.cert.to_owned(), source })?;
        if found != *identity || found_mesh != *mesh {
            let party = |who: &Identity, of: &MeshId| format!("{who} of mesh {of}");
            return Err(MaterialError::Somebody {
                path: files.cert.to_owned(),
                parties: Box::new((party(&found, &found_mesh), party(identity, mesh))),
            });
        }
        configs(authorities, chain, key, &leaf)
            .map(|(server, client)| Self { identity: found, mesh: found_mesh, server, client })
            .map_err(|source| MaterialError::Mismatch {
                ca: files.ca.to_owned(),
                cert: files.cert.to_owned(),
                key: files.key.to_owned(),
                source,
            })
    }

    /// Who this process is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }
    /// The mesh it belongs to.
    #[must_use]
    pub const fn mesh(&self) -> &MeshId {
        &self.mesh
    }
    /// For listening.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }
    /// For dialling.
    #[must_use]
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }
}

type Configs = (Arc<ServerConfig>, Arc<ClientConfig>);

fn configs(
    authorities: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    leaf: &CertificateDer<'static>,
) -> Result<Configs, Box<dyn std::error::Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority)?;
    }
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = &[&rustls::version::TLS13];
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build()?;
    // Our own certificate must pass what others will check; better now than at the first call at night.
    verifier.verify_client_cert(leaf, &[], rustls::pki_types::UnixTime::now())?;
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    client.alpn_protocols = vec![b"h2".to_vec()];
    Ok((Arc::new(server), Arc::new(client)))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let read = |source| MaterialError::Read { what, path: path.to_owned(), source };
    let list: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(read)?.collect::<Result<_, _>>().map_err(read)?;
    if list.is_empty() {
        return Err(MaterialError::Empty { path: path.to_owned() });
    }
    Ok(list)
}
