//! What the authority does about one token: the decisions of `mesh ca serve`, without a network.
//!
//! A token is bound to the first key that it is used with, on disk, before the certificate leaves. So a second use with another key
//! is refused, and a host whose answer was lost asks again with the key that it has and gets the same certificate. It never issues
//! anything that stands in no record, and never what the request asks for: name and uses are those of the token.

use std::path::{Path, PathBuf};

use mesh_proto::edition::TOKENS;
use mesh_proto::join::{Issued, JoinAnswer, JoinAsk, TokenRefusal, TokenTried};
use mesh_proto::operator::StatusView;
use rcgen::CertificateSigningRequestParams;
use rustls::pki_types::CertificateSigningRequestDer;

use super::revoke::{self, ISSUED};
use super::token::SECRET;
use super::tokens::{self, Record, TokenError, Used};
use super::{digest, open, record, sign, ten_years};
use crate::cli::version::Build;
use crate::tls::Identity;

/// How many refusals of one token the audit of the mesh has; the token's own file has more.
pub(super) const AUDITED: usize = 5;

/// The authority, and what it knows of the mesh.
#[derive(Debug)]
pub struct Desk {
    dir: PathBuf,
    build: Build,
}

/// What is to be done about a token that is good.
#[derive(Debug)]
pub(super) struct Good {
    record: Record,
    /// The certificate that is about to be issued; `None` where it was issued before.
    fresh: Option<(rcgen::Certificate, Used)>,
}

/// What came of looking at what a host sent.
#[derive(Debug)]
pub(super) enum Looked {
    /// It may have a certificate.
    Good(Box<Good>),
    /// No.
    Refused {
        /// Why.
        why: TokenRefusal,
        /// The token, where there is one: then it is somebody who has its secret, and the audit says so.
        record: Option<Box<Record>>,
    },
}

impl Good {
    /// Whom the token is for.
    pub fn identity(&self) -> &str {
        &self.record.identity
    }

    /// The number of the certificate, where it is not issued yet.
    pub fn number(&self) -> Option<&str> {
        self.fresh.as_ref().map(|(_, used)| used.number.as_str())
    }
}

impl Desk {
    /// A desk in the authority's directory.
    #[must_use]
    pub fn new(dir: &Path, build: Build) -> Self {
        Self { dir: dir.to_owned(), build }
    }

    /// Whether a token could still be used, or its answer be asked for again; `now` in seconds since 1970.
    ///
    /// # Errors
    /// [`TokenError`] where one cannot be read.
    pub fn waits_for_anybody(&self, now: u64) -> Result<usize, TokenError> {
        let open = |record: &Record| record.used.is_none() && record.expires > now;
        Ok(tokens::all(&self.dir)?.iter().filter(|record| open(record)).count())
    }

    /// Looks, and changes nothing.
    ///
    /// # Errors
    /// [`TokenError`] where a file cannot be read, or the certificate cannot be made.
    pub(super) fn look(
        &self,
        ask: &JoinAsk,
        status: Option<&StatusView>,
        now: u64,
    ) -> Result<Looked, TokenError> {
        let refused = |why, record: Option<Record>| Ok(Looked::Refused { why, record: record.map(Box::new) });
        let ours = (u32::from(self.build.protocol), self.build.agreement);
        let theirs = (ask.protocol, ask.agreement);
        if ours != theirs {
            return refused(TokenRefusal::Protocol { ours, theirs }, None);
        }
        if ask.secret.len() != SECRET * 2 {
            return refused(TokenRefusal::Unknown, None);
        }
        let Some(record) = tokens::find(&self.dir, &ask.secret)? else {
            return refused(TokenRefusal::Unknown, None);
        };
        let identity = Identity::from_dns_name(&record.identity);
        let Some(identity @ (Identity::Agent(_) | Identity::Guard(_))) = identity else {
            return refused(TokenRefusal::Failed, Some(record));
        };
        if record.identity != ask.identity {
            let asked = named(&ask.identity);
            return refused(TokenRefusal::OtherName { of: identity.to_string(), asked }, Some(record));
        }
        let request = bytes(&ask.request).map(CertificateSigningRequestDer::from);
        let request = request.and_then(|der| CertificateSigningRequestParams::from_der(&der).ok());
        let Some(request) = request else { return refused(TokenRefusal::Request, Some(record)) };
        let key = digest(rcgen::PublicKeyData::der_bytes(&request.public_key));
        if record.used.as_ref().is_some_and(|used| used.key != key) {
            return refused(TokenRefusal::Used, Some(record));
        }
        if record.expires <= now {
            return refused(TokenRefusal::Expired, Some(record));
        }
        // The record of this very token will stand in the log too.
        let needed = status.map_or(0, |status| status.edition.max(TOKENS));
        if ask.edition < needed {
            let theirs = ask.edition;
            return refused(TokenRefusal::Edition { needed, theirs }, Some(record));
        }
        if record.used.is_some() {
            return Ok(Looked::Good(Box::new(Good { record, fresh: None })));
        }
        let certificate = sign(&open(&self.dir)?, &identity, &[], ten_years(), &request.public_key)?;
        let number = revoke::hex(&revoke::number_of(&self.dir, certificate.der())?);
        let fresh = Some((certificate, Used { key, number }));
        Ok(Looked::Good(Box::new(Good { record, fresh })))
    }

    /// Issues: the certificate is in the record of all that were issued, and the token used, before this returns.
    ///
    /// # Errors
    /// [`TokenError`]: nothing may leave.
    pub(super) fn issue(
        &self,
        good: Good,
        status: Option<StatusView>,
        line: String,
    ) -> Result<JoinAnswer, TokenError> {
        let Good { record: mut token, fresh } = good;
        token.note(line);
        if let Some((certificate, used)) = fresh {
            record(&self.dir, certificate.der(), &certificate.pem())?;
            token.used = Some(used);
        }
        tokens::write(&self.dir, &token)?;
        let number = token.used.map(|used| used.number).unwrap_or_default();
        let read = |name: &Path| {
            std::fs::read_to_string(self.dir.join(name))
                .map_err(|source| TokenError::File { path: self.dir.join(name), source })
        };
        let (mesh, _) = open(&self.dir)?;
        let list = Path::new(revoke::LIST);
        Ok(JoinAnswer::Issued(Box::new(Issued {
            mesh,
            cert: read(&Path::new(ISSUED).join(format!("{number}.crt")))?,
            authority: read(Path::new("ca.crt"))?,
            list: if self.dir.join(list).exists() { Some(read(list)?) } else { None },
            members: status
                .map(|status| status.nodes.into_iter().map(|node| node.member).collect())
                .unwrap_or_default(),
        })))
    }

    /// Writes a refusal down beside its token. Whether the audit shall have it too.
    ///
    /// # Errors
    /// [`TokenError`] where it cannot be written.
    pub(super) fn refuse(&self, mut token: Record, line: String) -> Result<bool, TokenError> {
        let before = token.tried.len();
        token.note(line);
        tokens::write(&self.dir, &token)?;
        Ok(before < AUDITED)
    }
}

/// How it is called in the audit.
pub(super) fn tried(
    token: &str,
    from: &str,
    number: Option<&str>,
    refused: Option<&TokenRefusal>,
) -> TokenTried {
    TokenTried {
        identity: named(token),
        from: from.to_owned(),
        number: number.map(ToOwned::to_owned),
        refused: refused.cloned(),
    }
}

/// An identity as people call it; what is none has no name.
fn named(dns_name: &str) -> String {
    Identity::from_dns_name(dns_name).map_or_else(|| "somebody".to_owned(), |identity| identity.to_string())
}

/// Bytes out of hexadecimal.
fn bytes(text: &str) -> Option<Vec<u8>> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).ok()
}

/// Bytes as hexadecimal.
#[must_use]
pub fn hexadecimal(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;
    use crate::ca::token::Token;
    use crate::ca::{init, make_token};
    use crate::cli::version;

    const NOW: u64 = 1_000;

    struct World {
        dir: tempfile::TempDir,
        desk: Desk,
        token: Token,
    }

    fn world() -> World {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), &"shop".parse().unwrap()).unwrap();
        let north = Identity::Agent("north".parse().unwrap());
        let token = make_token(dir.path(), &north, NOW + 60).unwrap().token;
        World { desk: Desk::new(dir.path(), version::build()), dir, token }
    }

    fn key() -> rcgen::KeyPair {
        rcgen::KeyPair::generate().unwrap()
    }

    fn ask(token: &Token, key: &rcgen::KeyPair) -> JoinAsk {
        let build = version::build();
        JoinAsk {
            protocol: build.protocol.into(),
            agreement: build.agreement,
            edition: build.edition,
            build: "a build".to_owned(),
            identity: token.identity.dns_name(),
            secret: token.secret_text(),
            request: hexadecimal(rcgen::CertificateParams::default().serialize_request(key).unwrap().der()),
        }
    }

    impl World {
        fn refused(&self, ask: &JoinAsk, now: u64) -> TokenRefusal {
            match self.desk.look(ask, None, now).unwrap() {
                Looked::Refused { why, .. } => why,
                Looked::Good(good) => panic!("{good:?}"),
            }
        }

        fn issued(&self, ask: &JoinAsk) -> Issued {
            let Looked::Good(good) = self.desk.look(ask, None, NOW).unwrap() else { panic!("refused") };
            let JoinAnswer::Issued(issued) = self.desk.issue(*good, None, "used".to_owned()).unwrap() else {
                panic!("refused")
            };
            *issued
        }
    }

    #[test]
    fn a_token_is_used_once_and_its_answer_can_be_asked_for_again() {
        let world = world();
        assert_eq!(world.desk.waits_for_anybody(NOW).unwrap(), 1);
        let mine = key();
        let first = world.issued(&ask(&world.token, &mine));
        assert_eq!(world.issued(&ask(&world.token, &mine)), first, "the same key gets the same certificate");
        assert_eq!(world.refused(&ask(&world.token, &key()), NOW), TokenRefusal::Used);
        assert_eq!(world.desk.waits_for_anybody(NOW).unwrap(), 0);
        let issued = std::fs::read_dir(world.dir.path().join(ISSUED)).unwrap().count();
        assert_eq!(issued, 1, "what was refused issued nothing");
        // Looking alone used nothing up, and no file has the secret.
        let kept = std::fs::read_dir(world.dir.path().join("tokens")).unwrap().flatten();
        for entry in kept {
            assert!(!std::fs::read_to_string(entry.path()).unwrap().contains(&world.token.secret_text()));
        }
    }

    #[test]
    fn the_certificate_says_what_the_token_says_whatever_was_asked_for() {
        let world = world();
        let (mine, mut asked) = (key(), rcgen::CertificateParams::default());
        asked.subject_alt_names.push(rcgen::SanType::DnsName("authority.mesh".try_into().unwrap()));
        asked.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let request = hexadecimal(asked.serialize_request(&mine).unwrap().der());
        let issued = world.issued(&JoinAsk { request, ..ask(&world.token, &mine) });
        let der = CertificateDer::from_pem_slice(issued.cert.as_bytes()).unwrap();
        assert_eq!(Identity::of(&der).unwrap().1, world.token.identity);
        use x509_parser::prelude::FromDer as _;
        let (_, parsed) = x509_parser::prelude::X509Certificate::from_der(&der).unwrap();
        assert!(!parsed.is_ca());
    }

    #[test]
    fn what_does_not_fit_the_token_is_refused_and_uses_nothing_up() {
        let world = world();
        let (mine, now) = (key(), NOW);
        let good = || ask(&world.token, &mine);
        let south = JoinAsk { identity: "agent.south.mesh".to_owned(), ..good() };
        let of = TokenRefusal::OtherName { of: "agent north".to_owned(), asked: "agent south".to_owned() };
        assert_eq!(world.refused(&south, now), of);
        for secret in ["00".repeat(16), "zz".to_owned(), "../../ca.key".to_owned(), String::new()] {
            assert_eq!(world.refused(&JoinAsk { secret, ..good() }, now), TokenRefusal::Unknown);
        }
        for request in ["", "00", "zz"] {
            assert_eq!(
                world.refused(&JoinAsk { request: request.to_owned(), ..good() }, now),
                TokenRefusal::Request
            );
        }
        // A request whose signature does not fit: somebody else's public key.
        let mut forged = bytes(&good().request).unwrap();
        *forged.last_mut().unwrap() ^= 1;
        let forged = JoinAsk { request: hexadecimal(&forged), ..good() };
        assert_eq!(world.refused(&forged, now), TokenRefusal::Request);
        assert_eq!(world.refused(&good(), NOW + 60), TokenRefusal::Expired);
        let newer = JoinAsk { protocol: 9, ..good() };
        assert!(matches!(world.refused(&newer, now), TokenRefusal::Protocol { theirs: (9, _), .. }));
        let older = JoinAsk { agreement: 0, ..good() };
        assert!(matches!(world.refused(&older, now), TokenRefusal::Protocol { theirs: (_, 0), .. }));
        world.issued(&good());
    }

    #[test]
    fn a_build_that_could_not_apply_the_log_gets_no_certificate() {
        let world = world();
        let mut status: StatusView = crate::cli::render::samples::healthy_status();
        for (log, theirs, needed) in [(0, TOKENS - 1, TOKENS), (TOKENS + 1, TOKENS, TOKENS + 1)] {
            status.edition = log;
            let older = JoinAsk { edition: theirs, ..ask(&world.token, &key()) };
            let looked = world.desk.look(&older, Some(&status), NOW).unwrap();
            let Looked::Refused { why, .. } = looked else { panic!("{theirs} of {needed}") };
            assert_eq!(why, TokenRefusal::Edition { needed, theirs });
            let enough = JoinAsk { edition: needed, ..older };
            assert!(matches!(world.desk.look(&enough, Some(&status), NOW).unwrap(), Looked::Good(_)));
        }
    }

    #[test]
    fn a_flood_of_refusals_fills_neither_the_disk_nor_the_audit() {
        let world = world();
        let other = JoinAsk { identity: "agent.south.mesh".to_owned(), ..ask(&world.token, &key()) };
        let mut audited = 0;
        for _ in 0..200 {
            let Looked::Refused { record: Some(record), .. } = world.desk.look(&other, None, NOW).unwrap()
            else {
                panic!()
            };
            audited += usize::from(world.desk.refuse(*record, "tried".to_owned()).unwrap());
        }
        assert_eq!(audited, AUDITED);
        let kept = tokens::find(world.dir.path(), &world.token.secret_text()).unwrap().unwrap();
        assert!(kept.tried.len() <= 32, "{}", kept.tried.len());
        // Damaged, it is an error and never an unused token.
        let file =
            std::fs::read_dir(world.dir.path().join("tokens")).unwrap().flatten().next().unwrap().path();
        std::fs::write(&file, "{").unwrap();
        let damaged = world.desk.look(&other, None, NOW).unwrap_err();
        assert!(matches!(damaged, TokenError::Damaged { .. }), "{damaged}");
    }
}
