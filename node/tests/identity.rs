//! Certificates and revocations that change under real processes: an agent and a guard take them without a restart, end the
//! connections of whoever is revoked, and go on with what they had when the new files are bad. And users of the host: who has no
//! role for a question is refused.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/lone.rs"]
mod lone;
mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use lone::{agent, run, until};
use mesh_node::ca;
use mesh_node::rpc::{AgentClient, CallError};
use mesh_node::tls::material::Files;
use mesh_node::tls::{Dialer, Identity, Material};
use mesh_proto::MeshId;
use mesh_proto::access::{Denial, Role};
use mesh_proto::evidence::{ProcessState, Report};
use mesh_proto::operator::{Ask, Question};
use mesh_proto::run::Actor;
use support::{MESH, SOON, World, as_database_user, port};

fn identity(name: &str) -> Identity {
    Identity::Agent(name.parse().unwrap())
}

fn denial(agent: &str) -> Denial {
    let agent = agent.parse().unwrap();
    let verb = "apply".to_owned();
    Denial { agent, uid: 7, operator: None, verb, needed: Role::Admin, has: None, left_out: 0, others: 0 }
}

#[tokio::test]
async fn an_agent_cuts_off_whoever_is_revoked_and_keeps_what_it_has_when_new_files_are_bad() {
    let (dir, port) = (tempfile::tempdir().unwrap(), port());
    let dir = dir.path();
    let agent = agent(dir, port, "").await;
    let log = || std::fs::read_to_string(dir.join("log")).unwrap();
    let pair = ca::issue(&dir.join("ca"), &identity("thief"), &[], &dir.join("thief")).unwrap();
    let (ca, mesh) = (dir.join("ca/ca.crt"), MeshId::new("lab").unwrap());
    let files = Files { ca: &ca, cert: &pair.cert, key: &pair.key, crl: None };
    let thief = Material::load(files, &mesh, &identity("thief")).unwrap();
    let channel = Dialer::new(thief).channel(&identity("east"), &format!("127.0.0.1:{port}")).unwrap();
    let client = AgentClient::new(mesh, channel);
    let report = Report {
        agent: "somebody-else".parse().unwrap(),
        boot: 1,
        generation: 1,
        sightings: Vec::new(),
        reaches: Vec::new(),
        starved: None,
        routes: Vec::new(),
        electorate: 0,
        edition: 0,
    };
    // It is heard, and told that it may not speak for others.
    let answer = client.report(&report, SOON).await;
    assert!(matches!(&answer, Err(CallError::Refused(_))), "{answer:?}");
    // Nor may it have anything written down, or ask in anybody's name: it is no member.
    for ask in [Ask::Denied(denial("east")), Ask::Denied(denial("thief")), Ask::Status] {
        let question = Question { actor: Actor::Operator("root".to_owned()), ask };
        let answer = client.ask(&question, SOON).await;
        assert!(matches!(&answer, Err(CallError::Refused(_))), "{answer:?}");
    }

    let said = run(dir, &["ca", "revoke", "--dir", "ca", "--agent", "thief"]);
    assert!(said.contains("number 2, certificates revoked: 1") && said.contains("[tls]"), "{said}");
    // Nobody tells the agent: it looks by itself.
    std::fs::copy(dir.join("ca/crl.pem"), dir.join("tls/crl.pem")).unwrap();
    // The log has a thread of its own, so a line may come a moment later than what it tells. On a busy host the connection may
    // have been lost, and be refused when it is made anew.
    until("it is cut off", async || {
        let served = matches!(client.report(&report, SOON).await, Err(CallError::Refused(_)));
        let log = log();
        let said = ["agent thief is not accepted any more", "refused a connection"];
        !served && log.contains("were read again") && said.iter().any(|one| log.contains(one))
    })
    .await;
    let answer = client.report(&report, SOON).await;
    assert!(!matches!(&answer, Ok(()) | Err(CallError::Refused(_))), "{answer:?}");

    std::fs::write(dir.join("tls/agent-east.crt"), "half a certif").unwrap();
    agent.signal("-HUP");
    until("status says it", async || {
        let status = run(dir, &["--socket", "mesh.sock", "status"]);
        status.contains("newer certificate files were refused") && status.contains("agent-east.crt")
    })
    .await;
    until("the log says it", async || log().contains("what was read before stays in use")).await;
    let start =
        Command::new(MESH).args(["agent", "--config", "mesh.toml"]).current_dir(dir).output().unwrap();
    let refused = String::from_utf8_lossy(&start.stderr).into_owned();
    assert!(!start.status.success() && refused.contains("agent-east.crt"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_takes_a_new_certificate_and_goes_on_guarding() {
    let world = World::new().await;
    let a = world.instance("pg-a", None);
    a.start_by_hand();
    a.start_guard();
    world.until(&a, "first sight", |s| s.process == ProcessState::Primary).await;
    let guard = Identity::Guard(a.name.clone());
    let (dir, home) = (world.dir.path(), world.dir.path().join(guard.dns_name()));
    let pair = ca::issue(&dir.join("ca"), &guard, &[], &dir.join("second")).unwrap();
    // Into the files that are there, so that they stay its user's.
    for (from, to) in [(&pair.key, "guard-pg-a.key"), (&pair.cert, "guard-pg-a.crt")] {
        std::fs::write(home.join(to), std::fs::read(from).unwrap()).unwrap();
    }
    a.signal_guard("-HUP");
    until("it takes them", async || a.log().contains("were read again")).await;
    std::fs::write(home.join("guard-pg-a.key"), "no key").unwrap();
    a.signal_guard("-HUP");
    until("it refuses that", async || a.log().contains("guard-pg-a.key") && a.log().contains("refused"))
        .await;
    let seq = world.status(&a).unwrap().seq;
    world.until(&a, "it still reports", |status| status.seq > seq).await;
    assert!(!a.processes().is_empty(), "{}", a.log());
}

#[tokio::test]
async fn a_user_without_the_role_is_refused_and_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let socket = dir.join("mesh.sock");
    let _agent = agent(dir, port(), "[access]\nview = [\"user:postgres\"]\nforce = [\"group:dba\"]\n").await;
    let others =
        |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    others(dir, 0o755);
    others(&socket, 0o666);
    let ask = |args: &[&str]| {
        let mut command = Command::new(MESH);
        let out = as_database_user(command.arg("--socket").arg(&socket).args(args)).output().unwrap();
        (out.status.code().unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    let (code, text) = ask(&["status"]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = ask(&["node", "remove", "nobody"]);
    let log = || std::fs::read_to_string(dir.join("log")).unwrap();
    if rustix::process::geteuid().is_root() {
        assert_eq!(code, 10, "{text}");
        assert!(text.contains("`mesh node remove` needs the role admin on this host"), "{text}");
        assert!(text.contains("postgres has only view") && text.contains("held by root"), "{text}");
        until("the log says it", async || {
            log().lines().any(|line| line.contains("refused a question") && line.contains("postgres"))
        })
        .await;
        // However often it is tried again, it is one record, which every agent has.
        for _ in 0..5 {
            assert_eq!(ask(&["node", "remove", "nobody"]).0, 10);
        }
        let audit = || run(dir, &["--socket", "mesh.sock", "audit", "show"]);
        until("the audit says it", async || audit().contains("denied on east")).await;
        let lines = audit();
        let told: Vec<_> = lines.lines().filter(|line| line.contains("denied on east")).collect();
        assert_eq!(told.len(), 1, "{lines}");
        let words = "`mesh node remove` needs the role admin, and uid";
        assert!(told[0].contains(words) && told[0].contains("postgres at east"), "{lines}");
        assert!(run(dir, &["--socket", "mesh.sock", "audit", "verify"]).contains("INTACT"), "{lines}");
    } else {
        // Nobody else can be played here: this is the agent's own user, who may, and there is no such member.
        assert_eq!(code, 7, "{text}");
        assert!(!log().contains("refused a question"), "{}", log());
    }
}

/// What an agent says to a person with a certificate of their own, over the network.
fn asked(dir: &Path, who: &str, port: u16, args: &[&str]) -> (i32, String) {
    let at = format!("east@127.0.0.1:{port}");
    let mut command = Command::new(MESH);
    command.args(["--socket", "nowhere", "--identity", who, "--at", &at]).args(args).current_dir(dir);
    let out = command.output().unwrap();
    let said = [out.stdout, out.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (out.status.code().unwrap(), said)
}

#[tokio::test]
async fn a_person_asks_from_elsewhere_with_the_role_of_their_certificate() {
    let (dir, port) = (tempfile::tempdir().unwrap(), port());
    let dir = dir.path();
    let _agent = agent(dir, port, "[access]\nview = []\n").await;
    for (name, role) in [("ada", "admin"), ("bob", "view")] {
        run(dir, &["ca", "operator", name, "--role", role, "--dir", "ca", "--out", name]);
    }
    let (code, said) = asked(dir, "bob", port, &["status"]);
    assert_eq!(code, 0, "{said}");
    for _ in 0..3 {
        let (code, said) = asked(dir, "bob", port, &["node", "remove", "nobody"]);
        assert_eq!(code, 10, "{said}");
        assert!(
            said.contains("`mesh node remove` needs the role admin")
                && said.contains("operator bob says view"),
            "{said}"
        );
        assert!(said.contains("mesh ca operator bob --role admin"), "{said}");
    }
    // Who may is heard, and the audit has their name and not one that they claim.
    let (code, said) = asked(dir, "ada", port, &["node", "remove", "nobody"]);
    assert_eq!(code, 7, "{said}");
    let spec = "group = \"orders\"\n[[instance]]\nname = \"pg-east\"\nsite = \"east\"\nagent = \"east\"\n\
                address = \"127.0.0.1:5432\"\nguard = \"127.0.0.1:7401\"\n";
    std::fs::write(dir.join("orders.toml"), spec).unwrap();
    let (code, said) = asked(dir, "ada", port, &["apply", "-f", "orders.toml"]);
    assert_eq!(code, 0, "{said}");
    let audit = || run(dir, &["--socket", "mesh.sock", "audit", "show"]);
    until("the audit says it", async || audit().contains("denied on east")).await;
    let lines = audit();
    let of = |word: &str| lines.lines().filter(|line| line.contains(word)).collect::<Vec<_>>();
    let denied = of("denied on east");
    assert_eq!(denied.len(), 1, "{lines}");
    assert!(
        denied[0].contains("the certificate of operator bob has only view")
            && denied[0].contains("bob at east"),
        "{lines}"
    );
    assert!(lines.contains("ada at east"), "{lines}");

    // What only agents and the authority have written down no person may, and another agent's name is not believed.
    let (code, said) = asked(dir, "nobody", port, &["status"]);
    assert!(code == 2 && said.contains("mesh ca operator"), "{said}");
    let at = format!("west@127.0.0.1:{port}");
    let out = Command::new(MESH)
        .args(["--identity", "ada", "--at", &at, "status"])
        .current_dir(dir)
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(5), "{}", String::from_utf8_lossy(&out.stderr));

    // Somebody whose certificate is revoked asks nothing any more.
    run(dir, &["ca", "revoke", "--dir", "ca", "--operator", "bob"]);
    std::fs::copy(dir.join("ca/crl.pem"), dir.join("tls/crl.pem")).unwrap();
    until("bob is refused", async || asked(dir, "bob", port, &["status"]).0 == 5).await;
    assert_eq!(asked(dir, "ada", port, &["status"]).0, 0);
}
