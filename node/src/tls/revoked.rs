//! Lists of revoked certificates, checked as a whole before they are used: each is signed by an authority that we trust, is
//! not over, and no authority is without one. It decides nothing about connections, and never reads a file by itself.

use std::path::Path;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

use super::ends::End;

/// Why a file with lists was refused.
#[derive(Debug, thiserror::Error)]
pub enum RevokedError {
    /// Not PEM.
    #[error("it cannot be read as PEM; copy it again from the authority's directory (crl.pem)")]
    Pem(#[source] pem::Error),
    /// Not a list.
    #[error("it holds a list that cannot be parsed; copy it again from the authority's directory (crl.pem)")]
    Unreadable(#[source] x509_parser::nom::Err<x509_parser::error::X509Error>),
    /// No list of an authority whose certificates are accepted: nobody could say which of them are revoked.
    #[error(
        "it has no list of {authority}; make one with `mesh ca crl` in that authority's directory, and append it"
    )]
    Missing {
        /// The authority's name.
        authority: String,
    },
    /// Somebody else wrote it.
    #[error(
        "its list of {authority} was not signed by that authority; copy it again from the authority's directory (crl.pem)"
    )]
    Forged {
        /// The authority's name.
        authority: String,
        /// What is wrong with the signature.
        #[source]
        source: x509_parser::error::X509Error,
    },
    /// It does not say when it ends.
    #[error("its list of {authority} does not say until when it holds; make another with `mesh ca crl`")]
    Endless {
        /// The authority's name.
        authority: String,
    },
    /// It may lack what was revoked since.
    #[error(
        "its list of {authority} ended on {ended}; make another with `mesh ca crl` in that authority's directory, and put it there"
    )]
    Over {
        /// The authority's name.
        authority: String,
        /// When.
        ended: String,
    },
}

/// Lists that may be used.
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) ders: Vec<CertificateRevocationListDer<'static>>,
    pub(super) ends: Vec<End>,
}

impl Lists {
    /// Checks the lists of a file. `now` in seconds since 1970.
    pub(super) fn of(
        path: &Path,
        text: &[u8],
        authorities: &[CertificateDer<'_>],
        now: i64,
    ) -> Result<Self, RevokedError> {
        let ders: Vec<_> = CertificateRevocationListDer::pem_slice_iter(text)
            .collect::<Result<_, _>>()
            .map_err(RevokedError::Pem)?;
        let mut ends = Vec::new();
        {
            let lists = ders.iter().map(parsed).collect::<Result<Vec<_>, _>>()?;
            for authority in authorities {
                let (_, authority) =
                    X509Certificate::from_der(authority).map_err(RevokedError::Unreadable)?;
                ends.extend(checked(path, &authority, &lists, now)?);
            }
        }
        Ok(Self { ders, ends })
    }

    /// Whether a certificate stands in them.
    pub(super) fn name(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
        self.ders.iter().filter_map(|der| parsed(der).ok()).any(|list| {
            list.issuer() == certificate.issuer()
                && list.iter_revoked_certificates().any(|one| one.serial() == &certificate.serial)
        })
    }
}

fn parsed<'a>(
    der: &'a CertificateRevocationListDer<'static>,
) -> Result<CertificateRevocationList<'a>, RevokedError> {
    let (_, list) = CertificateRevocationList::from_der(der).map_err(RevokedError::Unreadable)?;
    Ok(list)
}

/// The ends of an authority's lists, each of which must hold: whichever is looked into, it must be of use.
fn checked(
    path: &Path,
    authority: &X509Certificate<'_>,
    lists: &[CertificateRevocationList<'_>],
    now: i64,
) -> Result<Vec<End>, RevokedError> {
    let name = authority.subject().to_string();
    let mut ends = Vec::new();
    for list in lists.iter().filter(|list| list.issuer() == authority.subject()) {
        list.verify_signature(authority.public_key())
            .map_err(|source| RevokedError::Forged { authority: name.clone(), source })?;
        let end = list.next_update().ok_or_else(|| RevokedError::Endless { authority: name.clone() })?;
        if end.timestamp() <= now {
            return Err(RevokedError::Over { authority: name, ended: end.to_string() });
        }
        ends.push(End { path: path.to_owned(), at: end.timestamp() });
    }
    if ends.is_empty() {
        return Err(RevokedError::Missing { authority: name });
    }
    Ok(ends)
}
