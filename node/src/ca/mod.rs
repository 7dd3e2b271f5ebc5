//! The mesh's own certificate authority: `mesh ca init`, `issue`, `operator`, `token`, `serve`, `crl` and `revoke`.
//!
//! Plain PEM files in one directory, kept on whatever machine the operator trusts; agents never need the authority's
//! key. It never overwrites a key or a certificate: replacing an identity is a decision of the operator, who removes the old one.

pub mod desk;
pub mod revoke;
pub mod serve;
pub mod token;
mod tokens;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use mesh_proto::access::Role;
use mesh_proto::{MeshId, OperatorName};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::tls::Identity;

pub use tokens::{Made, TokenError, make as make_token};

/// Certificates of agents and guards are valid this long. Expiry would take the mesh down by itself, so it is far away; whoever
/// wants shorter lives issues anew.
const YEARS: i64 = 10;
/// Names that would be taken for somebody else in the audit.
const NOT_A_PERSON: [&str; 3] = ["root", "mesh", "authority"];

/// Two files that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate, readable by everybody.
    pub cert: PathBuf,
    /// The private key, readable by its owner only.
    pub key: PathBuf,
}

/// Why no certificate was made. No existing file was changed.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file is there already.
    #[error("{} exists already and is never overwritten; remove it first if it is to be replaced", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The authority is not there or not readable.
    #[error("cannot read the authority in {}; create it with `mesh ca init --dir {} --mesh NAME`", dir.display(), dir.display())]
    NoAuthority {
        /// Its directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The authority's files are not what `mesh ca init` wrote.
    #[error("the authority in {} is not one of mesh, or is damaged; restore it from a copy", dir.display())]
    BadAuthority {
        /// Its directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The name cannot stand in a certificate.
    #[error("this name cannot be used")]
    Name(#[source] crate::tls::identity::IdentityError),
    /// A person's name that the audit would not tell from another's.
    #[error(
        "an operator cannot be called {0}: in the audit nobody could tell them from that user; take the person's own name"
    )]
    NotAPerson(String),
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something is to be added to a list that is not there.
    #[error("there is no {}; if this authority never had one, make it with `mesh ca crl`, else restore it from a copy: it is the only record of what was revoked", path.display())]
    NoList {
        /// The list.
        path: PathBuf,
    },
    /// The list is not one, or not this authority's.
    #[error("{} is damaged, or another authority's; restore it from a copy (a host's `crl` file is one): it is the only record of what was revoked", path.display())]
    BadList {
        /// The list.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file holds no certificate.
    #[error("there is no certificate in {}", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The certificate is another authority's.
    #[error("{} was issued by {issuer}, and this is {authority}; name the directory of that one", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        issuer: String,
        /// Whose directory it is.
        authority: String,
    },
    /// The record of what was issued cannot be read.
    #[error("cannot read the record of issued certificates in {}; name the certificate itself with --cert FILE, or its number with --number", dir.display())]
    Issued {
        /// Its directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing was issued to it, as far as the record says.
    #[error("{} has no certificate of {whom}; name the certificate itself with --cert FILE, or its number with --number", dir.display())]
    NotIssued {
        /// The record's directory.
        dir: PathBuf,
        /// Whose.
        whom: String,
    },
    /// The certificate could not be made.
    #[error("the certificate or list could not be made")]
    Make(#[source] Box<dyn std::error::Error + Send + Sync>),
}

fn make(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> CaError {
    CaError::Make(error.into())
}

/// Creates the authority of a mesh.
///
/// # Errors
/// [`CaError`]; if one of the two files exists already, neither is touched.
pub fn init(dir: &Path, mesh: &MeshId) -> Result<Pair, CaError> {
    std::fs::create_dir_all(dir).map_err(|source| CaError::Write { path: dir.to_owned(), source })?;
    let pair = Pair { cert: dir.join("ca.crt"), key: dir.join("ca.key") };
    let key = KeyPair::generate().map_err(make)?;
    // Authorities of a mesh that follow each other have names of their own: a list of revoked certificates is found by it.
    let id = ring::digest::digest(&ring::digest::SHA256, key.public_key_raw());
    let id: String = id.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let mut params = params(mesh, &format!("mesh {mesh} authority {id}"), ten_years())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(make)?;
    write_pair(&pair, &certificate.pem(), &key.serialize_pem())?;
    Ok(pair)
}

/// How a certificate is called as a file, and its key.
#[must_use]
pub fn stem(identity: &Identity) -> String {
    match identity {
        Identity::Agent(name) => format!("agent-{name}"),
        Identity::Guard(instance) => format!("guard-{instance}"),
        // In a directory of the person's own, which `--identity` names.
        Identity::Operator(..) => "operator".to_owned(),
        Identity::Authority => "authority".to_owned(),
    }
}

/// Issues a certificate for an agent (`agent-NAME.crt`, `.key`) or a guard (`guard-INSTANCE.crt`, `.key`) into `out`, with a
/// copy of the authority's certificate beside it. The addresses are for people: a peer is known by its name.
///
/// # Errors
/// [`CaError`]; if one of the two files exists already, neither is touched.
pub fn issue(dir: &Path, identity: &Identity, addresses: &[IpAddr], out: &Path) -> Result<Pair, CaError> {
    pair(dir, identity, addresses, ten_years(), out)
}

/// Issues a certificate for a person (`operator.crt`, `.key`), who asks agents from elsewhere with it.
///
/// # Errors
/// [`CaError`]; if one of the two files exists already, neither is touched.
pub fn operator(dir: &Path, name: &OperatorName, role: Role, days: u32, out: &Path) -> Result<Pair, CaError> {
    if NOT_A_PERSON.contains(&name.as_str()) {
        return Err(CaError::NotAPerson(name.to_string()));
    }
    let identity = Identity::Operator(name.clone(), role);
    pair(dir, &identity, &[], jiff::Span::new().days(i64::from(days)), out)
}

fn pair(
    dir: &Path,
    identity: &Identity,
    addresses: &[IpAddr],
    lasts: jiff::Span,
    out: &Path,
) -> Result<Pair, CaError> {
    identity.server_name().map_err(CaError::Name)?;
    let stem = stem(identity);
    let pair = Pair { cert: out.join(format!("{stem}.crt")), key: out.join(format!("{stem}.key")) };
    let authority = open(dir)?;
    std::fs::create_dir_all(out).map_err(|source| CaError::Write { path: out.to_owned(), source })?;
    copy_authority(dir, out)?;
    let key = KeyPair::generate().map_err(make)?;
    let certificate = sign(&authority, identity, addresses, lasts, &key)?;
    absent(&pair)?;
    // First: what is in nobody's record could not be revoked by name.
    record(dir, certificate.der(), &certificate.pem())?;
    write_pair(&pair, &certificate.pem(), &key.serialize_pem())?;
    Ok(pair)
}

/// A certificate of this identity for a key, which the authority need not have.
fn sign(
    (mesh, issuer): &(MeshId, Issuer<'static, KeyPair>),
    identity: &Identity,
    addresses: &[IpAddr],
    lasts: jiff::Span,
    key: &impl PublicKeyData,
) -> Result<rcgen::Certificate, CaError> {
    identity.server_name().map_err(CaError::Name)?;
    let mut params = params(mesh, &identity.to_string(), lasts)?;
    params.subject_alt_names.push(SanType::DnsName(identity.dns_name().try_into().map_err(make)?));
    params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match identity {
        Identity::Agent(_) | Identity::Guard(_) | Identity::Authority => {
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
        }
        // A person only asks.
        Identity::Operator(..) => vec![ExtendedKeyUsagePurpose::ClientAuth],
    };
    params.use_authority_key_identifier_extension = true;
    // Drawn, not made of the key: the same key may be certified a second time, and each certificate is revoked by its number.
    let mut number: [u8; 16] = draw()?;
    number[0] = (number[0] & 0x7f) | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&number));
    params.signed_by(key, issuer).map_err(make)
}

fn draw<const N: usize>() -> Result<[u8; N], CaError> {
    let mut drawn = [0; N];
    SystemRandom::new().fill(&mut drawn).map_err(|_| make("the system gives no random numbers"))?;
    Ok(drawn)
}

/// SHA-256, in hexadecimal.
fn digest(bytes: &[u8]) -> String {
    revoke::hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

fn record(dir: &Path, der: &CertificateDer<'_>, pem: &str) -> Result<(), CaError> {
    let issued = dir.join(revoke::ISSUED);
    std::fs::create_dir_all(&issued).map_err(|source| CaError::Write { path: issued.clone(), source })?;
    let number = revoke::hex(&revoke::number_of(&issued, der)?);
    write_new(&issued.join(format!("{number}.crt")), pem, 0o644)
}

/// What is there already must hold the same authority, or the new certificate would be of no use beside it. It may hold
/// others too, while one takes the place of another.
fn copy_authority(dir: &Path, out: &Path) -> Result<(), CaError> {
    let (from, to) = (dir.join("ca.crt"), out.join("ca.crt"));
    let text = std::fs::read_to_string(&from)
        .map_err(|source| CaError::NoAuthority { dir: dir.to_owned(), source })?;
    match std::fs::read_to_string(&to) {
        Ok(there) if there == text || holds(&there, &text) => Ok(()),
        Ok(_) => Err(CaError::Exists { path: to }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => write_new(&to, &text, 0o644),
        Err(source) => Err(CaError::Write { path: to, source }),
    }
}

fn holds(bundle: &str, authority: &str) -> bool {
    let list = |text: &str| CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    match (list(bundle), list(authority)) {
        (Ok(bundle), Ok(authority)) => authority.iter().all(|one| bundle.contains(one)),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

fn open(dir: &Path) -> Result<(MeshId, Issuer<'static, KeyPair>), CaError> {
    let read = |name: &str| {
        std::fs::read_to_string(dir.join(name))
            .map_err(|source| CaError::NoAuthority { dir: dir.to_owned(), source })
    };
    let (cert, key) = (read("ca.crt")?, read("ca.key")?);
    let bad = |source: Box<dyn std::error::Error + Send + Sync>| CaError::BadAuthority {
        dir: dir.to_owned(),
        source,
    };
    let mesh = mesh_of(&cert).map_err(bad)?;
    let key = KeyPair::from_pem(&key).map_err(|error| bad(error.into()))?;
    let issuer = Issuer::from_ca_cert_pem(&cert, key).map_err(|error| bad(error.into()))?;
    Ok((mesh, issuer))
}

fn mesh_of(pem: &str) -> Result<MeshId, Box<dyn std::error::Error + Send + Sync>> {
    use x509_parser::prelude::FromDer;
    let der = CertificateDer::from_pem_slice(pem.as_bytes())?;
    let (_, parsed) = x509_parser::prelude::X509Certificate::from_der(&der).map_err(|e| e.to_string())?;
    let organization = parsed.subject().iter_organization().next();
    let name = organization.ok_or("the authority does not name its mesh")?.as_str()?;
    Ok(MeshId::new(name)?)
}

fn ten_years() -> jiff::Span {
    jiff::Span::new().years(YEARS)
}

fn params(mesh: &MeshId, common_name: &str, lasts: jiff::Span) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, mesh.as_str());
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    // A day earlier, so that a host whose clock is a little behind accepts it at once.
    let begin = today.yesterday().map_err(make)?;
    let end = today.checked_add(lasts).map_err(make)?;
    let ((y, m, d), (end_y, end_m, end_d)) = (ymd(begin)?, ymd(end)?);
    params.not_before = rcgen::date_time_ymd(y, m, d);
    params.not_after = rcgen::date_time_ymd(end_y, end_m, end_d);
    Ok(params)
}

/// `rcgen` takes a date in three numbers.
fn ymd(date: jiff::civil::Date) -> Result<(i32, u8, u8), CaError> {
    let part = |value: i8| u8::try_from(value).map_err(make);
    Ok((i32::from(date.year()), part(date.month())?, part(date.day())?))
}

fn absent(pair: &Pair) -> Result<(), CaError> {
    match [&pair.cert, &pair.key].into_iter().find(|path| path.exists()) {
        Some(path) => Err(CaError::Exists { path: path.clone() }),
        None => Ok(()),
    }
}

fn write_pair(pair: &Pair, cert: &str, key: &str) -> Result<(), CaError> {
    absent(pair)?;
    // The key first: a certificate without its key would look complete.
    write_new(&pair.key, key, 0o600)?;
    write_new(&pair.cert, cert, 0o644)
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), CaError> {
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    written().map_err(|source| {
        if source.kind() == io::ErrorKind::AlreadyExists {
            CaError::Exists { path: path.to_owned() }
        } else {
            CaError::Write { path: path.to_owned(), source }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use mesh_proto::AgentName;

    use super::*;

    #[test]
    fn makes_files_once_and_keeps_keys_to_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        let mesh = MeshId::new("shop").unwrap();
        let agent = Identity::Agent(AgentName::new("east-1").unwrap());
        let out = dir.path().join("east-1");
        let issue = |addresses: &[IpAddr]| issue(dir.path(), &agent, addresses, &out);
        assert!(matches!(issue(&[]), Err(CaError::NoAuthority { .. })));
        let ca = init(dir.path(), &mesh).unwrap();
        let pair = issue(&["10.0.0.1".parse().unwrap()]).unwrap();
        for key in [&ca.key, &pair.key] {
            assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let before = std::fs::read(&pair.key).unwrap();
        assert!(matches!(issue(&[]), Err(CaError::Exists { .. })));
        assert!(matches!(init(dir.path(), &mesh), Err(CaError::Exists { .. })));
        assert_eq!(std::fs::read(&pair.key).unwrap(), before);
        let der = CertificateDer::from_pem_file(&pair.cert).unwrap();
        assert_eq!(Identity::of(&der).unwrap(), (mesh, agent));
    }

    #[test]
    fn a_person_has_a_certificate_with_their_role_and_a_name_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let mesh = MeshId::new("shop").unwrap();
        init(dir.path(), &mesh).unwrap();
        let name = |name: &str| OperatorName::new(name).unwrap();
        let out = dir.path().join("ada");
        let pair = operator(dir.path(), &name("ada"), Role::Force, 30, &out).unwrap();
        assert_eq!(pair.key, out.join("operator.key"));
        assert_eq!(std::fs::metadata(&pair.key).unwrap().permissions().mode() & 0o777, 0o600);
        let der = CertificateDer::from_pem_file(&pair.cert).unwrap();
        assert_eq!(Identity::of(&der).unwrap(), (mesh, Identity::Operator(name("ada"), Role::Force)));
        let end = crate::tls::ends::End::of(&pair.cert, &der).unwrap().at;
        let days = (end - crate::tls::ends::now()) / 86_400;
        assert!((28..=30).contains(&days), "{days}");
        for taken in NOT_A_PERSON {
            let refused = operator(dir.path(), &name(taken), Role::View, 30, &dir.path().join(taken));
            assert!(matches!(refused, Err(CaError::NotAPerson(_))), "{taken}");
        }
    }
}
