use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use mesh_proto::join::{Issued, TokenRefusal};

use super::files::Places;
use super::*;
use crate::ca;

fn world(dir: &Path) -> Token {
    ca::init(&dir.join("ca"), &"shop".parse().unwrap()).unwrap();
    let identity = Identity::Agent("north".parse().unwrap());
    ca::make_token(&dir.join("ca"), &identity, u64::MAX).unwrap().token
}

fn places(token: &Token, out: &Path) -> Places {
    Places::of(&token.identity, None, Path::new("/nowhere/mesh.toml"), Some(out)).unwrap()
}

#[test]
fn what_an_earlier_try_left_is_gone_on_with_and_nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let token = world(dir.path());
    let out = dir.path().join("north");
    let places = places(&token, &out);
    places.check_authority(token.fingerprint).unwrap();
    let (key, resumed) = places.key().unwrap();
    assert!(!resumed);
    assert_eq!(std::fs::metadata(&places.key).unwrap().permissions().mode() & 0o777, 0o600);
    let (again, resumed) = places.key().unwrap();
    assert!(resumed && again.serialize_pem() == key.serialize_pem());
    // Half a key, whatever wrote it, is said to be one.
    std::fs::write(&places.key, "-----BEGIN PRIVATE KEY-----\nMIGH").unwrap();
    let half = places.key().unwrap_err();
    assert!(half.exit == Exit::Invalid && half.next.contains("move it away"), "{half:?}");
    std::fs::write(&places.key, key.serialize_pem()).unwrap();
    std::fs::set_permissions(&places.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(places.key().unwrap_err().next.starts_with("chmod o="));
    // A part that was left behind is in nobody's way.
    std::fs::remove_file(&places.key).unwrap();
    std::fs::write(out.join("agent-north.key.part"), "half").unwrap();
    assert!(!places.key().unwrap().1);
    std::fs::write(&places.cert, "a certificate").unwrap();
    assert_eq!(places.key().unwrap_err().exit, Exit::Conflict);
    std::fs::remove_file(&places.key).unwrap();
    let alone = places.key().unwrap_err();
    assert!(alone.what.contains("its key") && alone.next.contains("move the certificate away"), "{alone:?}");
    assert_eq!(std::fs::read_to_string(&places.cert).unwrap(), "a certificate");
}

#[test]
fn another_authority_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let token = world(dir.path());
    let out = dir.path().join("north");
    let places = places(&token, &out);
    let other = ca::init(&dir.path().join("other"), &"pub".parse().unwrap()).unwrap().cert;
    std::fs::copy(&other, &places.ca).unwrap();
    let refused = places.check_authority(token.fingerprint).unwrap_err();
    assert!(refused.exit == Exit::Conflict && refused.what.contains("another authority"), "{refused:?}");
    // Of two that are trusted while one takes the place of the other, one is enough.
    let both =
        [&other, &dir.path().join("ca/ca.crt")].map(|path| std::fs::read_to_string(path).unwrap()).concat();
    std::fs::write(&places.ca, both).unwrap();
    places.check_authority(token.fingerprint).unwrap();
}

#[test]
fn what_the_authority_sends_is_checked_before_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let token = world(dir.path());
    let places = places(&token, &dir.path().join("north"));
    let (key, _) = places.key().unwrap();
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let ca = dir.path().join("ca");
    // The certificate of another key, and of another host.
    let strange = ca::issue(&ca, &token.identity, &[], &dir.path().join("strange")).unwrap();
    let issued = Issued {
        mesh: "shop".parse().unwrap(),
        cert: read(&strange.cert),
        authority: read(&ca.join("ca.crt")),
        list: None,
        members: Vec::new(),
    };
    let refused = places.write(&issued, &key, &token).unwrap_err();
    assert!(refused.what.contains("do not belong together"), "{refused:?}");
    let other = ca::init(&dir.path().join("other"), &"shop".parse().unwrap()).unwrap().cert;
    let refused = places.write(&Issued { authority: read(&other), ..issued }, &key, &token).unwrap_err();
    assert!(refused.what.contains("another authority's"), "{refused:?}");
    assert!(!places.cert.exists() && !places.ca.exists());
}

#[test]
fn every_refusal_says_what_to_do_and_ends_as_scripts_expect() {
    let all = [
        (TokenRefusal::Unknown, Exit::Denied),
        (TokenRefusal::Used, Exit::Conflict),
        (TokenRefusal::Expired, Exit::Denied),
        (TokenRefusal::OtherName { of: "agent a".to_owned(), asked: "agent b".to_owned() }, Exit::Denied),
        (TokenRefusal::Protocol { ours: (1, 1), theirs: (2, 1) }, Exit::NotSupported),
        (TokenRefusal::Edition { needed: 3, theirs: 2 }, Exit::NotSupported),
        (TokenRefusal::Request, Exit::Error),
        (TokenRefusal::NotRecorded { why: "no leader".to_owned() }, Exit::NotReachable),
        (TokenRefusal::Failed, Exit::Error),
    ];
    for (why, exit) in all {
        let failure = refused(&why);
        assert_eq!(failure.exit, exit, "{why}");
        assert!(
            !failure.next.is_empty() && failure.what.starts_with("the token was refused: "),
            "{failure:?}"
        );
    }
}
