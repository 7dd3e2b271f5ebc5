//! Joining with a token, with real processes: the authority served by a command, a mesh of one voter that keeps the audit, and new
//! hosts that get their certificate once. Everything that is refused is refused without harm.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/lone.rs"]
mod lone;
mod support;

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use lone::{agent, run, until};
use mesh_proto::edition::TOKENS;
use support::{MESH, port};

/// The authority while it is served.
struct Desk(Child);

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What it prints lies in `served`.
async fn desk(dir: &Path, ca: &str, listen: &str, more: &[&str]) -> Desk {
    let out = std::fs::File::create(dir.join("served")).unwrap();
    let mut command = Command::new(MESH);
    command.args(["ca", "serve", "--dir", ca, "--listen", listen]).args(more).current_dir(dir);
    let desk =
        Desk(command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap());
    until("the authority is served", async || served(dir).contains("listening")).await;
    desk
}

fn served(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("served")).unwrap()
}

fn token(dir: &Path, ca: &str, name: &str) -> String {
    let said = run(dir, &["ca", "token", "--dir", ca, "--agent", name]);
    said.lines().next().unwrap().to_owned()
}

/// Joins, with the token on standard input.
fn join(dir: &Path, token: &str, out: &str, to: &str) -> (i32, String) {
    let mut command = Command::new(MESH);
    command.args(["join", "--config", "none.toml", "--token-file", "-", "--out", out, to]).current_dir(dir);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = [out.stdout, out.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    assert!(!said.contains("mesh-token."), "a token was shown: {said}");
    (out.status.code().unwrap(), said)
}

fn audit(dir: &Path) -> String {
    run(dir, &["--socket", "mesh.sock", "audit", "show"])
}

#[tokio::test]
async fn a_new_host_joins_once_with_its_token_and_every_other_try_is_refused() {
    let (temporary, agents, listen) = (tempfile::tempdir().unwrap(), port(), format!("127.0.0.1:{}", port()));
    let dir = temporary.path();
    let _agent = agent(dir, agents, "").await;
    let at = format!("east@127.0.0.1:{agents}");
    let good = token(dir, "ca", "north");
    let desk_ = desk(dir, "ca", &listen, &["--at", &at]).await;

    // Somebody else's name, another authority, nobody there, what is no token: nothing is used up.
    std::fs::write(dir.join("south.toml"), config("south")).unwrap();
    let mut command = Command::new(MESH);
    command.args(["join", "--config", "south.toml", &listen]).env("MESH_TOKEN", &good).current_dir(dir);
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.contains("the token is for agent north, and south.toml is of agent south"), "{said}");
    run(dir, &["ca", "init", "--dir", "other-ca", "--mesh", "lab"]);
    let foreign = token(dir, "other-ca", "north");
    let (code, said) = join(dir, &foreign, "foreign", &listen);
    assert!(code == 10 && said.contains("is not the authority that this token is of"), "{said}");
    let (code, said) = join(dir, &good, "nobody", "127.0.0.1:9");
    assert!(code == 5 && said.contains("mesh ca serve"), "{said}");
    let (code, said) = join(dir, &good[..good.len() - 1], "cut", &listen);
    assert!(code == 2 && said.contains("not copied whole"), "{said}");
    // An agent of the mesh is not the authority, though the authority signed its certificate.
    let (code, said) = join(dir, &good, "agent", &format!("127.0.0.1:{agents}"));
    assert!(code == 10 && said.contains("is not the authority"), "{said}");
    assert!(!audit(dir).contains("token"), "{}", audit(dir));

    let (code, said) = join(dir, &good, "north", &listen);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("joined      agent north of mesh lab")
            && said.contains("members     north/members.toml (east)"),
        "{said}"
    );
    assert!(said.contains("mesh node add north"), "{said}");
    let mode =
        |name: &str| std::fs::metadata(dir.join("north").join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("agent-north.key"), mode("agent-north.crt"), mode("ca.crt")), (0o600, 0o644, 0o644));
    let left: Vec<_> =
        std::fs::read_dir(dir.join("north")).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".part")), "{left:?}");
    let same = |a: &str, b: &str| std::fs::read(dir.join(a)).unwrap() == std::fs::read(dir.join(b)).unwrap();
    assert!(same("north/ca.crt", "ca/ca.crt") && same("north/crl.pem", "ca/crl.pem"));
    let members = std::fs::read_to_string(dir.join("north/members.toml")).unwrap();
    assert!(
        members.contains("agent = \"east\"") && members.contains(&format!("127.0.0.1:{agents}")),
        "{members}"
    );
    until("the audit has it", async || {
        audit(dir).contains("the token of agent north is used from 127.0.0.1")
    })
    .await;
    assert!(audit(dir).contains("authority at east"), "{}", audit(dir));

    // Once more: this host has it, another gets nothing, and the audit says that it was tried.
    let (code, said) = join(dir, &good, "north", &listen);
    assert!(code == 4 && said.contains("has its certificate already"), "{said}");
    let (code, said) = join(dir, &good, "thief", &listen);
    assert!(code == 4 && said.contains("it was used already, with another key"), "{said}");
    assert!(said.contains("mesh ca revoke"), "{said}");
    assert!(!dir.join("thief/agent-north.crt").exists());
    let refused = "the token of agent north was refused to 127.0.0.1: it was used already";
    until("the audit has that too", async || audit(dir).contains(refused)).await;
    for _ in 0..10 {
        join(dir, &good, "thief", &listen);
    }
    assert!(
        audit(dir).matches(refused).count() <= 5,
        "whoever has a token cannot fill the log: {}",
        audit(dir)
    );

    // A host that stopped before its certificate was written goes on with its key, and the same token.
    let before = std::fs::read(dir.join("north/agent-north.crt")).unwrap();
    std::fs::remove_file(dir.join("north/agent-north.crt")).unwrap();
    let (code, said) = join(dir, &good, "north", &listen);
    assert!(code == 0 && said.contains("going on with the key in"), "{said}");
    assert_eq!(std::fs::read(dir.join("north/agent-north.crt")).unwrap(), before, "the same certificate");
    // What was issued can be named when it is to be revoked.
    assert!(
        run(dir, &["ca", "revoke", "--dir", "ca", "--agent", "north"]).contains("certificates revoked: 1")
    );

    // A token that waited too long.
    let late = run(dir, &["ca", "token", "--dir", "ca", "--agent", "late", "--for", "1s"]);
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    let (code, said) = join(dir, late.lines().next().unwrap(), "late", &listen);
    assert!(code == 10 && said.contains("its time is over"), "{said}");
    // No secret is anywhere but where it was printed.
    for file in ["served", "log"] {
        let text = std::fs::read_to_string(dir.join(file)).unwrap();
        assert!(!text.contains(&good["mesh-token.".len()..]), "{text}");
    }
    let second = Command::new(MESH)
        .args(["ca", "serve", "--dir", "ca", "--listen", "127.0.0.1:0"])
        .current_dir(dir)
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(4), "one process decides about a token");
    drop(desk_);
}

fn config(name: &str) -> String {
    format!(
        "[mesh]\nid = \"lab\"\n[[mesh.voter]]\nid = 1\nagent = \"east\"\nsite = \"east\"\naddress = \"127.0.0.1:7400\"\n\
         [agent]\nname = \"{name}\"\nid = 2\nsite = \"{name}\"\ndata_dir = \"/nowhere\"\nlisten = \"127.0.0.1:7401\"\n\
         socket = \"/nowhere/mesh.sock\"\n[tls]\nca = \"/nowhere/ca.crt\"\ncert = \"/nowhere/a.crt\"\nkey = \"/nowhere/a.key\"\n"
    )
}

/// Before there is a mesh there is no audit, and tokens work all the same.
#[tokio::test]
async fn the_first_hosts_join_before_there_is_a_mesh() {
    let (temporary, listen) = (tempfile::tempdir().unwrap(), format!("127.0.0.1:{}", port()));
    let dir = temporary.path();
    run(dir, &["ca", "init", "--dir", "ca", "--mesh", "lab"]);
    let said = run(dir, &["ca", "token", "--dir", "ca", "--guard", "pg-east"]);
    assert!(said.contains("guard of pg-east of mesh lab") && said.contains("used once"), "{said}");
    let token = said.lines().next().unwrap().to_owned();
    let _desk = desk(dir, "ca", &listen, &[]).await;
    assert!(served(dir).contains("without --at"), "{}", served(dir));
    std::fs::write(dir.join("token"), &token).unwrap();
    let file =
        |mode| std::fs::set_permissions(dir.join("token"), std::fs::Permissions::from_mode(mode)).unwrap();
    let with_file = || {
        let words =
            ["join", "--config", "none.toml", "--token-file", "token", "--out", "pg", listen.as_str()];
        Command::new(MESH).args(words).current_dir(dir).output().unwrap()
    };
    file(0o644);
    let open = with_file();
    assert_eq!(open.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&open.stderr).contains("chmod o= token"));
    file(0o600);
    let joined = with_file();
    let said = String::from_utf8_lossy(&joined.stdout).into_owned();
    assert!(joined.status.success(), "{said}{}", String::from_utf8_lossy(&joined.stderr));
    assert!(said.contains("systemctl start mesh-guard@pg-east"), "{said}");
    assert!(dir.join("pg/guard-pg-east.crt").exists() && !dir.join("pg/members.toml").exists());
}

/// A host with an older build is told so at its token, which is as good as before. Only a build made for debugging can play an older
/// one.
#[tokio::test]
#[cfg(debug_assertions)]
async fn an_older_build_joins_no_mesh_whose_log_it_could_not_apply() {
    let (temporary, agents, listen) = (tempfile::tempdir().unwrap(), port(), format!("127.0.0.1:{}", port()));
    let dir = temporary.path();
    let _agent = agent(dir, agents, "").await;
    let at = format!("east@127.0.0.1:{agents}");
    let north = token(dir, "ca", "north");
    let _desk = desk(dir, "ca", &listen, &["--at", &at]).await;
    let join_as = |edition: u32| {
        let mut command = Command::new(MESH);
        command.args(["join", "--config", "none.toml", "--out", "north", &listen]).current_dir(dir);
        command.env("MESH_SAYS_EDITION", edition.to_string()).env("MESH_TOKEN", &north).output().unwrap()
    };
    for older in [0, TOKENS - 1] {
        let refused = join_as(older);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(9), "{said}");
        let words =
            format!("knows the commands of edition {older}, and those of edition {TOKENS} are in use");
        assert!(said.contains(&words) && said.contains("good as before"), "{said}");
        assert!(!dir.join("north/agent-north.crt").exists());
    }
    let joined = join_as(TOKENS);
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
}
