use std::path::Path;

use mesh_proto::AgentName;

use super::*;
use crate::ca;

const SECOND: Duration = Duration::from_secs(1);

fn digest(byte: u8) -> Seen {
    Seen::Texts(vec![byte])
}

#[test]
fn a_change_counts_when_two_looks_show_the_same_and_at_once_when_asked() {
    let start = Instant::now();
    let mut looks = Looks::new(digest(1), digest(1));
    assert!(!looks.shall_try(&digest(1), false, start), "nothing changed");
    assert!(!looks.shall_try(&digest(2), false, start), "it may still be written");
    assert!(!looks.shall_try(&digest(3), false, start), "it is");
    assert!(looks.shall_try(&digest(3), false, start));
    looks.tried(digest(3), None);
    assert!(!looks.shall_try(&digest(3), false, start + 3600 * SECOND), "it is in use");
    assert!(looks.shall_try(&digest(4), true, start), "somebody says that it is as it shall be");
}

#[test]
fn what_was_refused_is_tried_and_said_again_but_not_at_every_look() {
    let start = Instant::now();
    let gone = Seen::Unreadable("gone".into());
    let mut looks = Looks::new(digest(1), gone.clone());
    assert!(looks.shall_try(&gone, false, start));
    looks.tried(gone.clone(), Some(start));
    let tries = (0..600_u32).filter(|n| {
        let now = start + *n * SECOND;
        let again = looks.shall_try(&gone, false, now);
        if again {
            looks.tried(gone.clone(), Some(now));
        }
        again
    });
    assert_eq!(tries.count(), 1, "every five minutes");
    assert!(looks.shall_say(start) && !looks.shall_say(start + 3600 * SECOND));
    assert!(looks.shall_say(start + 90_000 * SECOND));
}

/// A host's files, made by two authorities.
struct Host {
    dir: tempfile::TempDir,
    watched: Watched,
    credentials: Credentials,
}

fn mesh() -> MeshId {
    MeshId::new("shop").unwrap()
}

fn east() -> Identity {
    Identity::Agent(AgentName::new("east-1").unwrap())
}

/// Certificate and key by an authority, in a directory of their own.
fn pair(dir: &Path, authority: &str, place: &str) -> ca::Pair {
    ca::issue(&dir.join(authority), &east(), &[], &dir.join(place)).unwrap()
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for authority in ["old", "new"] {
            ca::init(&dir.path().join(authority), &mesh()).unwrap();
        }
        let first = pair(dir.path(), "old", "host");
        let ca = dir.path().join("host/ca.crt");
        let source =
            Source { ca, cert: first.cert, key: first.key, crl: None, mesh: mesh(), identity: east() };
        let (watched, credentials) = Watched::open(source).unwrap();
        Self { dir, watched, credentials }
    }

    fn authorities(&self, names: &[&str]) {
        let text =
            names.iter().map(|name| std::fs::read_to_string(self.dir.path().join(name).join("ca.crt")));
        std::fs::write(&self.watched.source.ca, text.collect::<Result<String, _>>().unwrap()).unwrap();
    }

    fn put(&self, pair: &ca::Pair) {
        std::fs::copy(&pair.cert, &self.watched.source.cert).unwrap();
        std::fs::copy(&pair.key, &self.watched.source.key).unwrap();
    }

    /// Looks, and says whether something else is in use since.
    fn takes(&mut self) -> bool {
        let before = self.credentials.current();
        self.watched.look(true, Instant::now());
        !Arc::ptr_eq(&before.server(), &self.credentials.current().server())
    }

    fn troubles(&self) -> String {
        self.credentials.troubles(ends::now()).join("; ")
    }
}

#[test]
fn an_authority_is_replaced_in_three_steps() {
    let mut host = Host::new();
    host.authorities(&["old", "new"]);
    assert!(host.takes());
    assert_eq!(host.credentials.current().ends().len(), 3, "two authorities and a certificate");
    // The old one may not go before the certificate is another one's.
    host.authorities(&["new"]);
    assert!(!host.takes());
    assert!(host.troubles().contains("do not belong together"), "{}", host.troubles());
    host.authorities(&["old", "new"]);
    assert!(host.takes());
    assert_eq!(host.troubles(), "");
    host.put(&pair(host.dir.path(), "new", "second"));
    assert!(host.takes());
    host.authorities(&["new"]);
    assert!(host.takes());
    assert_eq!(host.troubles(), "");
    assert_eq!(host.credentials.current().identity(), &east());
}

#[test]
fn bad_files_are_refused_with_name_and_reason_and_the_old_ones_stay() {
    let mut host = Host::new();
    let (cert, key) = (host.watched.source.cert.clone(), host.watched.source.key.clone());
    let (good_cert, good_key) = (std::fs::read(&cert).unwrap(), std::fs::read(&key).unwrap());
    let half = std::fs::read(&cert).unwrap();
    std::fs::write(&cert, &half[..half.len() / 2]).unwrap();
    assert!(!host.takes());
    let said = host.troubles();
    assert!(said.contains(cert.to_str().unwrap()), "{said}");
    // A key of another certificate.
    std::fs::write(&cert, &good_cert).unwrap();
    let second = pair(host.dir.path(), "old", "second");
    std::fs::copy(&second.key, &key).unwrap();
    assert!(!host.takes());
    assert!(host.troubles().contains(key.to_str().unwrap()), "{}", host.troubles());
    // A key that is gone, and one that everybody may read.
    std::fs::remove_file(&key).unwrap();
    assert!(!host.takes());
    assert!(host.troubles().contains("cannot read a private key"), "{}", host.troubles());
    std::fs::write(&key, &good_key).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(!host.takes());
    assert!(host.troubles().contains("chmod o="), "{}", host.troubles());
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    // Somebody else's.
    let other = Identity::Agent(AgentName::new("dr-1").unwrap());
    let other = ca::issue(&host.dir.path().join("old"), &other, &[], &host.dir.path().join("third")).unwrap();
    host.put(&other);
    assert!(!host.takes());
    assert!(host.troubles().contains("is the certificate of agent dr-1"), "{}", host.troubles());
    host.put(&second);
    assert!(host.takes());
    assert_eq!(host.troubles(), "");
}

#[test]
fn an_end_that_is_near_is_a_trouble_of_the_agent() {
    let host = Host::new();
    let year = 365 * 86_400;
    assert_eq!(host.credentials.troubles(ends::now() + 9 * year), Vec::<String>::new());
    let said = host.credentials.troubles(ends::now() + 11 * year).join("; ");
    assert!(said.contains("agent-east-1.crt ended") && said.contains("ca.crt ended"), "{said}");
}
