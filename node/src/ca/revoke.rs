//! The authority's list of revoked certificates: `mesh ca crl` makes it and renews it, `mesh ca revoke` adds to it.
//!
//! `crl.pem` in the authority's directory is the only record of what was revoked. So a list that is damaged, or gone where
//! something is to be added to it, is an error and never an empty list; and nothing is ever taken out of it.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use mesh_proto::OperatorName;
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

use super::{CaError, make, open, ymd};
use crate::tls::Identity;

pub(super) const LIST: &str = "crl.pem";
/// Where [`super::issue`] keeps a copy of each certificate, by its number: without it nobody could name one that is lost.
pub(super) const ISSUED: &str = "issued";

/// Which certificates.
#[derive(Debug, Clone)]
pub enum Whose {
    /// All that this authority has issued to one agent or guard.
    Identity(Identity),
    /// All that it has issued to one person, whatever their role.
    Operator(OperatorName),
    /// The one in this file.
    File(PathBuf),
    /// The one with this number.
    Number(Vec<u8>),
}

/// The list, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// The file.
    pub path: PathBuf,
    /// Its own number, one higher each time.
    pub number: u64,
    /// How many certificates stand in it.
    pub revoked: usize,
    /// Those that were added now.
    pub added: Vec<String>,
}

/// One entry.
struct Entry {
    number: Vec<u8>,
    params: RevokedCertParams,
}

/// Makes the list where there is none, or writes it anew to hold for longer.
///
/// # Errors
/// [`CaError`]; the list was left as it was.
pub fn renew(dir: &Path, days: u32) -> Result<List, CaError> {
    let (number, entries) = read(dir)?.unwrap_or_default();
    write(dir, number, entries, Vec::new(), days)
}

/// Adds certificates to the list.
///
/// # Errors
/// [`CaError`]; the list was left as it was.
pub fn revoke(dir: &Path, whose: &Whose, days: u32) -> Result<List, CaError> {
    let (number, mut entries) = read(dir)?.ok_or_else(|| CaError::NoList { path: dir.join(LIST) })?;
    let now = x509_parser::time::ASN1Time::now().to_datetime();
    let mut added = Vec::new();
    for number in numbers(dir, whose)? {
        if entries.iter().any(|entry| entry.number == number) {
            continue;
        }
        added.push(hex(&number));
        let params = RevokedCertParams {
            serial_number: SerialNumber::from_slice(&number),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        entries.push(Entry { number, params });
    }
    write(dir, number, entries, added, days)
}

/// The numbers of the certificates that are meant.
fn numbers(dir: &Path, whose: &Whose) -> Result<Vec<Vec<u8>>, CaError> {
    match whose {
        Whose::Number(number) => Ok(vec![plain(number)]),
        Whose::File(path) => {
            let (_, authority) =
                certificate(&dir.join("ca.crt"), |authority| authority.subject().to_string())?;
            let (number, issuer) = certificate(path, |one| one.issuer().to_string())?;
            if issuer != authority {
                return Err(CaError::Foreign { path: path.clone(), issuer, authority });
            }
            Ok(vec![number])
        }
        Whose::Identity(identity) => issued_to(dir, &identity.to_string(), |known| known == identity),
        Whose::Operator(name) => {
            let is = |known: &Identity| matches!(known, Identity::Operator(known, _) if known == name);
            issued_to(dir, &format!("operator {name}"), is)
        }
    }
}

fn issued_to(dir: &Path, whom: &str, is: impl Fn(&Identity) -> bool) -> Result<Vec<Vec<u8>>, CaError> {
    let issued = dir.join(ISSUED);
    let unread = |source| CaError::Issued { dir: issued.clone(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&issued).map_err(unread)? {
        let path = entry.map_err(unread)?.path();
        let der = CertificateDer::from_pem_file(&path)
            .map_err(|source| CaError::NoCertificate { path: path.clone(), source: source.into() })?;
        if Identity::of(&der).is_ok_and(|(_, known)| is(&known)) {
            found.push(number_of(&path, &der)?);
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(CaError::NotIssued { dir: issued, whom: whom.to_owned() });
    }
    Ok(found)
}

fn certificate(
    path: &Path,
    name: impl Fn(&X509Certificate<'_>) -> String,
) -> Result<(Vec<u8>, String), CaError> {
    let bad = |source| CaError::NoCertificate { path: path.to_owned(), source };
    let der = CertificateDer::from_pem_file(path).map_err(|source| bad(source.into()))?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|source| bad(source.into()))?;
    Ok((plain(parsed.raw_serial()), name(&parsed)))
}

/// The number of a certificate, as the list and the names in `issued` have it.
pub(super) fn number_of(path: &Path, der: &CertificateDer<'_>) -> Result<Vec<u8>, CaError> {
    let (_, parsed) = X509Certificate::from_der(der)
        .map_err(|source| CaError::NoCertificate { path: path.to_owned(), source: source.into() })?;
    Ok(plain(parsed.raw_serial()))
}

/// Without the zeros that DER puts before a number.
fn plain(number: &[u8]) -> Vec<u8> {
    number.iter().copied().skip_while(|byte| *byte == 0).collect()
}

pub(super) fn hex(number: &[u8]) -> String {
    number.iter().map(|byte| format!("{byte:02x}")).collect()
}

type Known = (u64, Vec<Entry>);

/// The list that is there: its number and what stands in it.
fn read(dir: &Path) -> Result<Option<Known>, CaError> {
    let path = dir.join(LIST);
    let bad = |source| CaError::BadList { path: path.clone(), source };
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(bad(error.into())),
    };
    let der = CertificateRevocationListDer::from_pem_slice(&text).map_err(|error| bad(error.into()))?;
    let (_, list) = CertificateRevocationList::from_der(&der).map_err(|error| bad(error.into()))?;
    let authority = CertificateDer::from_pem_file(dir.join("ca.crt")).map_err(|error| bad(error.into()))?;
    let (_, authority) = X509Certificate::from_der(&authority).map_err(|error| bad(error.into()))?;
    list.verify_signature(authority.public_key()).map_err(|error| bad(error.into()))?;
    let number = list.crl_number().and_then(|number| u64::try_from(number.clone()).ok());
    let number = number.ok_or_else(|| bad("it has no number of its own".into()))?;
    let entries = list.iter_revoked_certificates().map(|one| {
        let number = plain(one.raw_serial());
        let params = RevokedCertParams {
            serial_number: SerialNumber::from_slice(&number),
            revocation_time: one.revocation_date.to_datetime(),
            reason_code: None,
            invalidity_date: None,
        };
        Entry { number, params }
    });
    Ok(Some((number, entries.collect())))
}

fn write(
    dir: &Path,
    number: u64,
    entries: Vec<Entry>,
    added: Vec<String>,
    days: u32,
) -> Result<List, CaError> {
    let (_, issuer) = open(dir)?;
    let number = number.checked_add(1).ok_or_else(|| make("its number is at its end"))?;
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let end = today.checked_add(jiff::Span::new().days(i64::from(days))).map_err(make)?;
    let ((y, m, d), (end_y, end_m, end_d)) = (ymd(today.yesterday().map_err(make)?)?, ymd(end)?);
    let revoked = entries.len();
    let params = CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(y, m, d),
        next_update: rcgen::date_time_ymd(end_y, end_m, end_d),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: entries.into_iter().map(|entry| entry.params).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let text = params.signed_by(&issuer).and_then(|list| list.pem()).map_err(make)?;
    let path = dir.join(LIST);
    replace(dir, &path, &text).map_err(|source| CaError::Write { path: path.clone(), source })?;
    Ok(List { path, number, revoked, added })
}

/// As a whole or not at all: it is the only record.
fn replace(dir: &Path, path: &Path, text: &str) -> io::Result<()> {
    let part = dir.join("crl.pem.part");
    let mut file = std::fs::File::create(&part)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&part, path)?;
    std::fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::{init, issue};

    fn agent(name: &str) -> Identity {
        Identity::Agent(name.parse().unwrap())
    }

    #[test]
    fn the_list_grows_and_forgets_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca");
        init(&ca, &"shop".parse().unwrap()).unwrap();
        let pair = issue(&ca, &agent("east-1"), &[], &dir.path().join("a")).unwrap();
        issue(&ca, &agent("east-1"), &[], &dir.path().join("b")).unwrap();
        issue(&ca, &agent("dr-1"), &[], &dir.path().join("b")).unwrap();
        let whose = Whose::Identity(agent("east-1"));
        // Never had a list, or lost it: only a person knows.
        assert!(matches!(revoke(&ca, &whose, 10), Err(CaError::NoList { .. })));
        assert_eq!(renew(&ca, 10).unwrap().number, 1);
        let list = revoke(&ca, &Whose::File(pair.cert), 10).unwrap();
        assert_eq!((list.number, list.revoked, list.added.len()), (2, 1, 1));
        let list = revoke(&ca, &whose, 10).unwrap();
        assert_eq!((list.number, list.revoked, list.added.len()), (3, 2, 1), "the second one of that agent");
        let list = revoke(&ca, &whose, 10).unwrap();
        assert_eq!((list.revoked, list.added.len()), (2, 0), "nothing is added twice");
        let list = revoke(&ca, &Whose::Number(vec![0, 0xab, 1]), 10).unwrap();
        assert_eq!((list.revoked, list.added), (3, vec!["ab01".to_owned()]));
        assert_eq!(renew(&ca, 20).unwrap().revoked, 3);
        let unknown = revoke(&ca, &Whose::Identity(agent("witness-1")), 10).unwrap_err();
        assert!(unknown.to_string().contains("--cert FILE"), "{unknown}");
    }

    #[test]
    fn a_damaged_list_is_an_error_and_another_authoritys_certificate_too() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, other) = (dir.path().join("ca"), dir.path().join("other"));
        for authority in [&ca, &other] {
            init(authority, &"shop".parse().unwrap()).unwrap();
            renew(authority, 10).unwrap();
        }
        let pair = issue(&other, &agent("east-1"), &[], &dir.path().join("a")).unwrap();
        let foreign = revoke(&ca, &Whose::File(pair.cert), 10).unwrap_err();
        assert!(matches!(foreign, CaError::Foreign { .. }), "{foreign}");
        std::fs::copy(other.join(LIST), ca.join(LIST)).unwrap();
        assert!(matches!(renew(&ca, 10), Err(CaError::BadList { .. })), "another authority's");
        std::fs::write(ca.join(LIST), "-----BEGIN X509 CRL-----\n").unwrap();
        assert!(matches!(renew(&ca, 10), Err(CaError::BadList { .. })));
        assert!(matches!(revoke(&ca, &Whose::Number(vec![1]), 10), Err(CaError::BadList { .. })));
    }
}
