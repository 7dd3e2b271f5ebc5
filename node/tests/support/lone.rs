//! A mesh of one voter, as its own process.
#![allow(dead_code)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{MESH, SOON};

/// Runs the command line; what it prints.
pub fn run(dir: &Path, args: &[&str]) -> String {
    let out = Command::new(MESH).args(args).current_dir(dir).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

pub async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !so().await {
        assert!(began.elapsed() < SOON, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A running agent; it ends with the value.
pub struct Agent(Child);

impl Agent {
    pub fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The only voter of a mesh, with a list of revoked certificates.
pub async fn agent(dir: &Path, port: u16, more: &str) -> Agent {
    run(dir, &["ca", "init", "--dir", "ca", "--mesh", "lab"]);
    run(dir, &["ca", "issue", "--dir", "ca", "--agent", "east", "--out", "tls"]);
    run(dir, &["ca", "crl", "--dir", "ca"]);
    std::fs::copy(dir.join("ca/crl.pem"), dir.join("tls/crl.pem")).unwrap();
    let (base, listen) = (dir.display(), format!("127.0.0.1:{port}"));
    let text = format!(
        "[mesh]\nid = \"lab\"\n[[mesh.voter]]\nid = 1\nagent = \"east\"\nsite = \"east\"\naddress = \"{listen}\"\n\
         [agent]\nname = \"east\"\nsite = \"east\"\ndata_dir = \"{base}/data\"\nlisten = \"{listen}\"\n\
         socket = \"{base}/mesh.sock\"\n[tls]\nca = \"{base}/tls/ca.crt\"\ncert = \"{base}/tls/agent-east.crt\"\n\
         key = \"{base}/tls/agent-east.key\"\ncrl = \"{base}/tls/crl.pem\"\n{more}"
    );
    std::fs::write(dir.join("mesh.toml"), text).unwrap();
    run(dir, &["agent", "init", "--config", "mesh.toml"]);
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let mut command = Command::new(MESH);
    command.args(["agent", "--config", "mesh.toml"]).current_dir(dir).stdout(Stdio::null()).stderr(log);
    let agent = Agent(command.spawn().unwrap());
    until("the agent starts", async || dir.join("mesh.sock").exists()).await;
    run(dir, &["--socket", "mesh.sock", "form"]);
    agent
}
