//! Certificate and key files, checked as a whole before anything listens or dials with them. What is loaded never changes:
//! newer files are another [`Material`] ([`super::renewal`]). It never writes, and never shows a key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_proto::MeshId;
use rustls::CertificateError;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::ends::End;
use super::identity::{Identity, IdentityError};
use super::revoked::{Lists, RevokedError};

/// Everything a process needs to prove who it is and to check others.
#[derive(Clone)]
pub struct Material {
    identity: Identity,
    mesh: MeshId,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
    ends: Arc<[End]>,
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
    /// Everybody on this host may read the key.
    #[error("{} holds a secret and everybody on this host may use it; run: chmod o= {}", path.display(), path.display())]
    Exposed {
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
    /// The lists of revoked certificates.
    #[error("{} cannot be used as list of revoked certificates", path.display())]
    Revoked {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: RevokedError,
    },
    /// Our own certificate was revoked.
    #[error(
        "{} is revoked by {}: no other agent or guard would accept it; issue another with `mesh ca issue`",
        cert.display(), crl.display()
    )]
    OwnRevoked {
        /// The certificate.
        cert: PathBuf,
        /// The list.
        crl: PathBuf,
    },
    /// They are good, but not now.
    #[error(
        "{} or {} is not valid at {at}, which is the time by this host's clock; set the clock right, or issue it again with \
         `mesh ca issue`",
        cert.display(), ca.display()
    )]
    NotNow {
        /// Authority.
        ca: PathBuf,
        /// Certificate.
        cert: PathBuf,
        /// When it was looked at.
        at: jiff::Timestamp,
        /// What rustls said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
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

/// The files.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// Certificate of the authority; several while one takes the place of another.
    pub ca: &'a Path,
    /// Our certificate.
    pub cert: &'a Path,
    /// Our key.
    pub key: &'a Path,
    /// Lists of revoked certificates, one of each authority; none where nothing is revoked.
    pub crl: Option<&'a Path>,
}

/// What stands in the files, read at one time. It has no `Debug`: the key must not get into a log.
pub(super) struct Texts {
    ca: Vec<u8>,
    cert: Vec<u8>,
    key: Vec<u8>,
    crl: Option<Vec<u8>>,
}

impl Texts {
    pub(super) fn read(files: Files<'_>) -> Result<Self, MaterialError> {
        Ok(Self {
            ca: bytes("the authority's certificate", files.ca)?,
            cert: bytes("a certificate", files.cert)?,
            key: bytes("a private key", files.key)?,
            crl: files.crl.map(|path| bytes("revoked certificates (`mesh ca crl`)", path)).transpose()?,
        })
    }

    /// The same texts have the same digest, so that a change is noticed without keeping the key a second time.
    pub(super) fn digest(&self) -> ring::digest::Digest {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        for text in [&self.ca, &self.cert, &self.key].into_iter().chain(&self.crl) {
            context.update(&text.len().to_le_bytes());
            context.update(text);
        }
        context.finish()
    }
}

impl Material {
    /// Reads the files and checks that they are this process's.
    ///
    /// # Errors
    /// [`MaterialError`].
    pub fn load(files: Files<'_>, mesh: &MeshId, identity: &Identity) -> Result<Self, MaterialError> {
        Self::of(&Texts::read(files)?, files, mesh, identity)
    }

    /// Checks texts that are in no file yet, as if they were in these: what is about to be written, or never will be.
    ///
    /// # Errors
    /// [`MaterialError`], which names the files.
    pub fn check(
        (ca, cert, key): (&str, &str, &str),
        files: Files<'_>,
        mesh: &MeshId,
        identity: &Identity,
    ) -> Result<Self, MaterialError> {
        let texts = Texts { ca: ca.into(), cert: cert.into(), key: key.into(), crl: None };
        Self::of(&texts, files, mesh, identity)
    }

    /// Checks texts that were read from these files.
    pub(super) fn of(
        texts: &Texts,
        files: Files<'_>,
        mesh: &MeshId,
        identity: &Identity,
    ) -> Result<Self, MaterialError> {
        let authorities = certificates("the authority's certificate", files.ca, &texts.ca)?;
        let chain = certificates("a certificate", files.cert, &texts.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&texts.key).map_err(|source| MaterialError::Read {
            what: "a private key",
            path: files.key.to_owned(),
            source,
        })?;
        let lists = match (files.crl, &texts.crl) {
            (Some(path), Some(text)) => Lists::of(path, text, &authorities, super::ends::now())
                .map_err(|source| MaterialError::Revoked { path: path.to_owned(), source })?,
            (Some(_), None) | (None, _) => Lists::default(),
        };
        let ends = [(files.ca, &authorities), (files.cert, &chain)]
            .into_iter()
            .flat_map(|(path, list)| list.iter().filter_map(|der| End::of(path, der)))
            .chain(lists.ends.iter().cloned())
            .collect();
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
        if let Some(crl) = files.crl.filter(|_| lists.name(&leaf)) {
            return Err(MaterialError::OwnRevoked { cert: files.cert.to_owned(), crl: crl.to_owned() });
        }
        configs(authorities, chain, key, lists)
            .map(|(server, client, verifier)| Self {
                identity: found,
                mesh: found_mesh,
                server,
                client,
                verifier,
                ends,
            })
            .map_err(|source| refused(files, source))
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
    /// When what it rests on ends.
    #[must_use]
    pub fn ends(&self) -> &[End] {
        &self.ends
    }
    /// Whether a peer that was accepted once would still be. That its certificate has run out since is no reason to end
    /// what it began: it is looked at as on its last day.
    ///
    /// # Errors
    /// Why not: it was revoked, or its authority is trusted no more.
    pub(super) fn accepts(&self, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let Some((leaf, rest)) = chain.split_first() else {
            return Err(rustls::Error::NoCertificatesPresented);
        };
        let end = End::of(Path::new(""), leaf).map_or(i64::MAX, |end| end.at);
        let at = u64::try_from(super::ends::now().min(end)).unwrap_or_default();
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at));
        self.verifier.verify_client_cert(leaf, rest, at).map(|_| ())
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

/// Files that a peer would not accept.
fn refused(files: Files<'_>, source: Box<dyn std::error::Error + Send + Sync>) -> MaterialError {
    let (ca, cert) = (files.ca.to_owned(), files.cert.to_owned());
    match source.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
            | CertificateError::Expired
            | CertificateError::ExpiredContext { .. },
        )) => MaterialError::NotNow { ca, cert, at: jiff::Timestamp::now(), source },
        _ => MaterialError::Mismatch { ca, cert, key: files.key.to_owned(), source },
    }
}

type Configs = (Arc<ServerConfig>, Arc<ClientConfig>, Arc<dyn ClientCertVerifier>);

fn configs(
    authorities: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    lists: Lists,
) -> Result<Configs, Box<dyn std::error::Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority)?;
    }
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = &[&rustls::version::TLS13];
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
        .with_crls(lists.ders.clone())
        .build()?;
    let of_servers = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .with_crls(lists.ders)
        .build()?;
    // Our own certificate must pass what others will check; better now than at the first call at night.
    if let Some(leaf) = chain.first() {
        verifier.verify_client_cert(leaf, &[], UnixTime::now())?;
    }
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(Arc::clone(&verifier))
        .with_single_cert(chain.clone(), key.clone_key())?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_webpki_verifier(of_servers)
        .with_client_auth_cert(chain, key)?;
    client.alpn_protocols = vec![b"h2".to_vec()];
    Ok((Arc::new(server), Arc::new(client), verifier))
}

fn bytes(what: &'static str, path: &Path) -> Result<Vec<u8>, MaterialError> {
    std::fs::read(path).map_err(|source| MaterialError::Read {
        what,
        path: path.to_owned(),
        source: pem::Error::Io(source),
    })
}

fn certificates(
    what: &'static str,
    path: &Path,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let read = |source| MaterialError::Read { what, path: path.to_owned(), source };
    let list: Vec<_> = CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().map_err(read)?;
    if list.is_empty() {
        return Err(MaterialError::Empty { path: path.to_owned() });
    }
    Ok(list)
}
