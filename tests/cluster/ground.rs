//! The lab itself: it must leave nothing behind, however its owner ends.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

fn raise() -> (Child, PathBuf) {
    let mut owner =
        Command::new(env!("CARGO_BIN_EXE_mesh-lab")).arg("up").stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(owner.stdout.take().unwrap()).read_line(&mut said).unwrap();
    let dir = PathBuf::from(said.trim().strip_prefix("up ").expect("the lab comes up"));
    assert!(dir.join("pg-east/data/postmaster.pid").exists());
    (owner, dir)
}

/// Processes whose environment, arguments or working directory name the lab.
fn members(lab: &Path) -> Vec<String> {
    let name = lab.to_str().unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let process = entry.path();
        let named = |file: &str| {
            let bytes = std::fs::read(process.join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(name)
        };
        let inside = std::fs::read_link(process.join("cwd")).is_ok_and(|dir| dir.starts_with(lab));
        if named("environ") || named("cmdline") || inside {
            found.push(std::fs::read_to_string(process.join("comm")).unwrap_or_default());
        }
    }
    found
}

fn nothing_remains(lab: &Path) {
    let end = Instant::now() + Duration::from_secs(10);
    while lab.exists() || !members(lab).is_empty() {
        assert!(
            Instant::now() < end,
            "{} is there: {}; left: {:?}",
            lab.display(),
            lab.exists(),
            members(lab)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_owner_killed_with_sigkill_leaves_nothing() {
    let (mut owner, lab) = raise();
    assert!(members(&lab).len() > 10, "two databases and a route have many processes");
    owner.kill().unwrap();
    owner.wait().unwrap();
    nothing_remains(&lab);
}

#[test]
fn an_interrupted_owner_leaves_nothing() {
    let (mut owner, lab) = raise();
    let pid = Pid::from_raw(i32::try_from(owner.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert!(owner.wait().unwrap().success());
    nothing_remains(&lab);
}
