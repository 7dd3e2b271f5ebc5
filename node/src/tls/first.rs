//! The first contact of a new host: it has no certificate yet, and knows the digest of the authority's. The other side must show that
//! very authority, and a certificate by it that says that it is the authority itself: no agent or guard of the mesh has one.
//!
//! Nothing is sent before that is so. It trusts no other root, and no name but this one.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, PeerIncompatible, RootCertStore,
    ServerConfig, SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::Identity;

/// How long reaching the authority, and its handshake, may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Why the authority was not reached. Nothing was sent to whoever is there.
#[derive(Debug, thiserror::Error)]
pub enum FirstError {
    /// Nobody answers.
    #[error("nobody answers at {address}")]
    NotReached {
        /// As given.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody else is there.
    #[error("at {address} is not the authority that this token is of")]
    Other {
        /// As given.
        address: String,
    },
    /// It is the right one, and its certificate is not valid now.
    #[error(
        "the certificate of the authority at {address} is not valid at {at}, which is the time by this host's clock"
    )]
    NotNow {
        /// As given.
        address: String,
        /// The time here.
        at: jiff::Timestamp,
    },
    /// The connection could not be used.
    #[error("the connection to {address} cannot be used")]
    Broken {
        /// As given.
        address: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What is wrong with whoever answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Other,
    NotNow,
}

/// Believes one authority, by its digest.
#[derive(Debug)]
struct Pinned {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
    wrong: Mutex<Option<Wrong>>,
}

impl Pinned {
    fn wrong(&self, wrong: Wrong) -> Error {
        *self.wrong.lock().unwrap_or_else(PoisonError::into_inner) = Some(wrong);
        match wrong {
            Wrong::Other => Error::InvalidCertificate(CertificateError::UnknownIssuer),
            Wrong::NotNow => Error::InvalidCertificate(CertificateError::Expired),
        }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let known = |one: &&CertificateDer<'_>| {
            ring::digest::digest(&ring::digest::SHA256, one).as_ref() == self.fingerprint
        };
        let authority = others.iter().find(known).ok_or_else(|| self.wrong(Wrong::Other))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned()).map_err(|_| self.wrong(Wrong::Other))?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
                .build()
                .map_err(|_| self.wrong(Wrong::Other))?;
        verifier.verify_server_cert(leaf, &[], name, ocsp, now).map_err(|error| {
            let not_now = matches!(
                error,
                Error::InvalidCertificate(
                    CertificateError::NotValidYet
                        | CertificateError::NotValidYetContext { .. }
                        | CertificateError::Expired
                        | CertificateError::ExpiredContext { .. },
                )
            );
            self.wrong(if not_now { Wrong::NotNow } else { Wrong::Other })
        })
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A connection to the authority with this digest; it is open when this returns.
///
/// # Errors
/// [`FirstError`]: nothing was sent.
pub async fn contact(address: &str, fingerprint: [u8; 32]) -> Result<Channel, FirstError> {
    let broken = |source: Box<dyn std::error::Error + Send + Sync>| FirstError::Broken {
        address: address.to_owned(),
        source,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pinned = Arc::new(Pinned { fingerprint, provider: Arc::clone(&provider), wrong: Mutex::new(None) });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| broken(error.into()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&pinned) as _)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = Identity::Authority.server_name().map_err(|error| broken(error.into()))?;
    let connecting = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let connected = tokio::time::timeout(CONNECT, connecting).await.unwrap_or_else(|_| Err(late()));
    let stream = connected.map_err(|source| {
        let wrong = *pinned.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        let address = address.to_owned();
        match wrong {
            Some(Wrong::Other) => FirstError::Other { address },
            Some(Wrong::NotNow) => FirstError::NotNow { address, at: jiff::Timestamp::now() },
            // It speaks something else than TLS, so it is nobody of ours.
            None if source.get_ref().is_some_and(|inner| inner.is::<Error>()) => {
                FirstError::Other { address }
            }
            None => FirstError::NotReached { address, source },
        }
    })?;
    let mut stream = Some(stream);
    Endpoint::from_static("http://authority.invalid")
        .connect_with_connector(service_fn(move |_: Uri| {
            let stream = stream.take();
            async move { stream.map(TokioIo::new).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
        }))
        .await
        .map_err(|error| broken(error.into()))
}

/// What the authority listens with: its own certificate, and the one that a new host knows by its digest. It asks for none.
///
/// # Errors
/// What rustls says of the key or certificate.
pub fn server(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
