//! Users with the least permissions, wrong passwords, and TLS with certificates on both sides.

use std::path::Path;
use std::time::Duration;

use mesh_adapters::redis::{
    Credentials, Fault, Glance, How, Instance, OBSERVER_RULES, ProbeOutcome, Prober, REPLICA_RULES, RULES,
    Target, TlsFiles, WellError, WriteOutcome, WriteProbe, close, confirm, freeze, hand_over, open, position,
    sentinels, well,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};

use crate::lab::{Node, Ways, settings, soon};

fn secret(dir: &Path, name: &str, text: &str) -> Credentials {
    let file = dir.join(format!("{name}.secret"));
    std::fs::write(&file, format!("{text}\n")).unwrap();
    Credentials { user: name.to_owned(), password_file: Some(file) }
}

fn user(name: &str, password: &str, rules: &[&str]) -> (String, String) {
    ("user".to_owned(), format!("{name} on >{password} {}", rules.join(" ")))
}

fn guarded(dir: &Path) -> Ways {
    Ways {
        credentials: Some(secret(dir, "mesh", "m1")),
        replication: Some(secret(dir, "mesh-replica", "r\"1")),
        tls: None,
        options: vec![
            user("default", "nobody-knows", &["off"]),
            user("mesh", "m1", RULES),
            user("mesh-observer", "o1", OBSERVER_RULES),
            ("user".to_owned(), format!("mesh-replica on \">r\\\"1\" {}", REPLICA_RULES.join(" "))),
        ],
    }
}

/// Everything that a guard does.
async fn everything(dir: &Path, ways: &Ways) -> (Node, Node) {
    let (mut east, dr) = tokio::join!(Node::start(dir, "east", ways), Node::start(dir, "dr", ways));
    east.lead(1).await;
    assert!(matches!(WriteProbe::new(&east.instance).run(soon()).await, WriteOutcome::Ok { .. }));
    dr.follow(&east, 1).await;
    assert_eq!(sentinels(&east.instance, soon()).await.unwrap().watching, 0);
    close(&east.instance, soon()).await.unwrap();
    open(&east.instance, soon()).await.unwrap();
    let done = hand_over(&east.instance, Duration::from_secs(3), soon()).await.unwrap();
    confirm(&dr.instance, done.end, soon()).await.unwrap();
    dr.lead(2).await;
    east.follow(&dr, 2).await;
    let done = hand_over(&dr.instance, Duration::from_secs(3), soon()).await.unwrap();
    confirm(&east.instance, done.end, soon()).await.unwrap();
    east.lead(3).await;
    assert_eq!(dr.follow(&east, 3).await.how, How::Continued);
    // Diverged, kept, copied.
    freeze(&dr.instance, soon()).await.unwrap();
    assert!(matches!(WriteProbe::new(&east.instance).run(soon()).await, WriteOutcome::Ok { .. }));
    dr.lead(4).await;
    close(&east.instance, soon()).await.unwrap();
    let followed = east.follow(&dr, 4).await;
    assert!(matches!(followed.how, How::Copied { kept_at: Some(_), .. }), "{followed:?}");
    assert!(Glance::default().look(&east.instance, soon()).await.unwrap().streaming());
    east.kill().await;
    east.again().await;
    (east, dr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_least_permissions_are_enough_for_everything_and_secrets_stay_in_files() {
    let dir = tempfile::tempdir().unwrap();
    let ways = guarded(dir.path());
    let (east, dr) = everything(dir.path(), &ways).await;
    for node in [&east, &dr] {
        let pid = node.main.as_ref().unwrap().process().pid();
        let argv = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        let log = std::fs::read_to_string(&node.instance.settings().log_file).unwrap();
        for text in [String::from_utf8_lossy(&argv).into_owned(), log] {
            assert!(!text.contains("r\"1") && !text.contains("m1"), "{text}");
        }
        use std::os::unix::fs::MetadataExt;
        assert_eq!(std::fs::metadata(node.instance.boot_file()).unwrap().mode() & 0o077, 0);
    }
    // The observers' user sees the primary, and may not do what a guard does.
    let observer =
        Target { credentials: Some(secret(dir.path(), "mesh-observer", "o1")), ..dr.instance.target() };
    let outcome = Prober::new(observer.clone(), None).probe(Duration::from_secs(1)).await.outcome;
    assert!(matches!(outcome, ProbeOutcome::Primary { stamp: Some(_) }), "{outcome:?}");
    let mut link = mesh_adapters::redis::Link::open(&observer, soon()).await.unwrap();
    let mut order = redis::cmd("REPLICAOF");
    order.arg("NO").arg("ONE");
    let error = link.ask("promote", &order, soon()).await.unwrap_err();
    assert_eq!(error.fault, Fault::NoPermission);
    // It may check a service by a key that it was given to see.
    well(&observer, None, soon()).await.unwrap();
    well(&observer, Some("mesh:epoch"), soon()).await.unwrap();
    let error = well(&observer, Some("mesh:none"), soon()).await.unwrap_err();
    assert!(matches!(&error, WellError::NoKey { key } if key == "mesh:none"), "{error:?}");
    let error = well(&observer, Some("worker:beat"), soon()).await.unwrap_err();
    assert!(
        matches!(&error, WellError::Ask(refused) if refused.fault == Fault::NoPermission),
        "a key of others: {error:?}"
    );
    // A wrong password, none at all, and a file that is not there.
    let wrong = Target { credentials: Some(secret(dir.path(), "mesh", "wrong")), ..dr.instance.target() };
    let nobody = Target { credentials: None, ..dr.instance.target() };
    let gone = Credentials { user: "mesh".into(), password_file: Some(dir.path().join("none")) };
    let unreadable = Target { credentials: Some(gone), ..dr.instance.target() };
    for target in [wrong, nobody, unreadable] {
        let outcome = Prober::new(target, None).probe(Duration::from_secs(1)).await.outcome;
        assert_eq!(outcome, ProbeOutcome::Fault(Fault::Authentication));
    }
}

fn certificates(dir: &Path) -> TlsFiles {
    let mut authority = CertificateParams::new(Vec::<String>::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "authority");
    let ca = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    for (name, san) in [("server", "redis.mesh.test"), ("client", "mesh")] {
        let mut params = CertificateParams::new(vec![san.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &ca).unwrap();
        std::fs::write(dir.join(format!("{name}.pem")), cert.pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
    TlsFiles {
        ca: dir.join("ca.pem"),
        cert: Some(dir.join("client.pem")),
        key: Some(dir.join("client.key")),
        server_name: Some("redis.mesh.test".to_owned()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_it_over_tls_with_certificates_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let files = certificates(dir.path());
    let mut ways = guarded(dir.path());
    for (setting, file) in
        [("tls-ca-cert-file", "ca.pem"), ("tls-cert-file", "server.pem"), ("tls-key-file", "server.key")]
    {
        ways.options.push((setting.to_owned(), dir.path().join(file).display().to_string()));
    }
    ways.options.push(("tls-auth-clients".to_owned(), "yes".to_owned()));
    ways.tls = Some(files.clone());
    let (_east, dr) = everything(dir.path(), &ways).await;
    assert!(position(&dr.instance, soon()).await.unwrap().history > 0);
    // Another name, another authority, no certificate of our own, no TLS at all.
    let bad = [
        TlsFiles { server_name: Some("other.mesh.test".to_owned()), ..files.clone() },
        TlsFiles { ca: dir.path().join("other/ca.pem"), ..files.clone() },
        TlsFiles { cert: None, key: None, ..files.clone() },
    ];
    std::fs::create_dir(dir.path().join("other")).unwrap();
    certificates(&dir.path().join("other"));
    let mut faults = Vec::new();
    for tls in bad.into_iter().map(Some).chain([None]) {
        let mut settings = dr.instance.settings().clone();
        settings.tls = tls;
        let target = Instance::open(settings).unwrap().target();
        let outcome = Prober::new(target, None).probe(Duration::from_secs(1)).await.outcome;
        let ProbeOutcome::Fault(fault) = outcome else { panic!("{outcome:?}") };
        faults.push(fault);
    }
    assert_eq!(faults[..2], [Fault::Tls, Fault::Tls]);
    // With TLS 1.3 a server refuses our certificate only after the handshake.
    assert!(matches!(faults[2], Fault::Tls | Fault::Broken), "{faults:?}");
    assert_eq!(faults[3], Fault::Broken);
    let half = TlsFiles { key: None, ..files };
    let mut wrong = settings(dir.path(), "half", &ways);
    wrong.tls = Some(half);
    assert!(Instance::open(wrong).is_err());
}
