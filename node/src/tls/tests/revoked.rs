//! Revocation, between two sides that talk.

use super::super::renewal::Source;
use super::super::revoked::{Lists, RevokedError};
use super::super::{Credentials, Renewal, ends};
use super::*;
use crate::ca::revoke::{Whose, renew, revoke};

/// One side with a list, and everything to change it.
struct Side {
    source: Source,
    credentials: Credentials,
    renewal: Renewal,
}

impl Side {
    fn start(dir: &Path, identity: &Identity) -> Self {
        let source = Source { crl: Some(dir.join(format!("{identity}.crl"))), ..source(dir, "ca", identity) };
        std::fs::copy(dir.join("ca/crl.pem"), source.crl.as_ref().unwrap()).unwrap();
        let (credentials, renewal) = Renewal::start(source.clone()).unwrap();
        Self { source, credentials, renewal }
    }

    /// Puts the authority's newest list there.
    async fn learn(&self, dir: &Path) {
        std::fs::copy(dir.join("ca/crl.pem"), self.source.crl.as_ref().unwrap()).unwrap();
        renewed(&self.credentials, &self.renewal).await;
    }
}

fn authority(dir: &Path) -> std::path::PathBuf {
    let ca = dir.join("ca");
    crate::ca::init(&ca, &mesh("shop")).unwrap();
    renew(&ca, 10).unwrap();
    ca
}

/// Calls until the connection is gone and no other comes about.
async fn is_cut_off(client: &AgentClient) {
    let began = std::time::Instant::now();
    while client.report(&report(), SOON).await.is_ok() {
        assert!(began.elapsed() < SOON, "it still talks");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // A client of TLS 1.3 may have sent its first request before it hears that it is refused: then nobody answers it.
    let after = client.report(&report(), SOON).await;
    assert!(matches!(&after, Err(CallError::NotReached(_) | CallError::NoAnswer(_))), "{after:?}");
}

#[tokio::test]
async fn whoever_is_revoked_is_cut_off_at_once_and_refused_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let ca = authority(dir.path());
    let (east, dr) = (agent("east-1"), agent("dr-1"));
    let server = Side::start(dir.path(), &dr);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let incoming = Incoming::start(listener, &server.credentials);
    let routes = tonic::service::Routes::new(AgentServer::new(Mirror));
    let serving = tokio::spawn(crate::rpc::server::serve(routes, incoming, std::future::pending()));
    let client = Side::start(dir.path(), &east);
    let dial = |side: &Side| {
        let channel = Dialer::new(side.credentials.clone()).channel(&dr, &address).unwrap();
        AgentClient::new(mesh("shop"), channel)
    };
    let kept = dial(&client);
    kept.report(&report(), SOON).await.unwrap();

    // The server learns that the client is revoked. The client, who is a thief, is not told.
    let list = revoke(&ca, &Whose::Identity(east.clone()), 10).unwrap();
    assert_eq!((list.number, list.revoked, list.added.len()), (2, 1, 1));
    server.learn(dir.path()).await;
    is_cut_off(&kept).await;

    // The host gets another certificate, and is itself again.
    let pair = crate::ca::issue(&ca, &east, &[], &dir.path().join("again")).unwrap();
    std::fs::copy(pair.key, &client.source.key).unwrap();
    std::fs::copy(pair.cert, &client.source.cert).unwrap();
    client.learn(dir.path()).await;
    kept.report(&report(), SOON).await.unwrap();

    // The other way round: the client learns that the server is revoked.
    revoke(&ca, &Whose::Identity(dr.clone()), 10).unwrap();
    client.learn(dir.path()).await;
    is_cut_off(&kept).await;
    is_cut_off(&dial(&client)).await;
    serving.abort();
}

#[tokio::test]
async fn a_list_that_cannot_be_used_stops_a_start_and_changes_nothing_later() {
    let dir = tempfile::tempdir().unwrap();
    let ca = authority(dir.path());
    let east = agent("east-1");
    let side = Side::start(dir.path(), &east);
    let file = side.source.crl.clone().unwrap();
    let good = std::fs::read(&file).unwrap();
    let before = side.credentials.current().server();
    let refused = async |bytes: Option<&[u8]>, said: &str| {
        match bytes {
            Some(bytes) => std::fs::write(&file, bytes).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let start = crate::cli::with_causes(&Renewal::start(side.source.clone()).unwrap_err());
        assert!(start.contains(said) && start.contains(file.to_str().unwrap()), "{start}");
        side.renewal.now();
        let began = std::time::Instant::now();
        while !side.credentials.troubles(ends::now()).join(" ").contains(said) {
            assert!(began.elapsed() < SOON, "{:?}", side.credentials.troubles(ends::now()));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(std::sync::Arc::ptr_eq(&before, &side.credentials.current().server()), "{said}");
    };
    refused(None, "`mesh ca crl`").await;
    refused(Some(b""), "it has no list of").await;
    refused(Some(&good[..good.len() / 2]), "cannot be read as PEM").await;
    let other = tempfile::tempdir().unwrap();
    let foreign = std::fs::read(authority(other.path()).join("crl.pem")).unwrap();
    refused(Some(&foreign), "it has no list of").await;
    // Our own certificate is revoked: nobody would accept it.
    revoke(&ca, &Whose::File(side.source.cert.clone()), 10).unwrap();
    refused(Some(&std::fs::read(ca.join("crl.pem")).unwrap()), "is revoked by").await;
    std::fs::write(&file, good).unwrap();
    renewed(&side.credentials, &side.renewal).await;
    assert_eq!(side.credentials.troubles(0), Vec::<String>::new());
}

#[test]
fn a_list_that_is_over_or_forged_is_refused_and_its_end_is_known() {
    use rustls::pki_types::pem::PemObject as _;
    let dir = tempfile::tempdir().unwrap();
    let ca = authority(dir.path());
    let text = std::fs::read_to_string(ca.join("crl.pem")).unwrap();
    let authorities = [rustls::pki_types::CertificateDer::from_pem_file(ca.join("ca.crt")).unwrap()];
    let path = Path::new("/etc/mesh/crl.pem");
    let (now, day) = (ends::now(), 86_400);
    let lists = Lists::of(path, text.as_bytes(), &authorities, now).unwrap();
    assert!(matches!(lists.ends[0].nearness(now), ends::Nearness::Soon(_)), "{:?}", lists.ends);
    let over = Lists::of(path, text.as_bytes(), &authorities, now + 11 * day).unwrap_err();
    assert!(
        matches!(&over, RevokedError::Over { .. }) && over.to_string().contains("`mesh ca crl`"),
        "{over}"
    );
    // A few bits of the signature, which is what a list ends with.
    let mut lines: Vec<&str> = text.lines().collect();
    let last = lines.len() - 2;
    let other = format!("{}{}", if lines[last].starts_with('A') { 'B' } else { 'A' }, &lines[last][1..]);
    lines[last] = &other;
    let forged = Lists::of(path, lines.join("\n").as_bytes(), &authorities, now).unwrap_err();
    assert!(matches!(forged, RevokedError::Forged { .. }), "{forged}");
}
