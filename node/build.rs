//! Tells the binary which commit it is built from: by the variable `MESH_COMMIT`, for builds from an archive, or by git. It
//! never fails a build: without either the commit is unknown, and `mesh --version` says so.

use std::path::Path;
use std::process::Command;

/// What goes into the binary, from here: a change of anything else makes no other program.
const BUILT: [&str; 9] = [
    "src",
    "build.rs",
    "../proto/src",
    "../proto/proto",
    "../failover/src",
    "../failover/adapters/src",
    "../consensus/src",
    "../Cargo.toml",
    "../Cargo.lock",
];

fn main() {
    println!("cargo:rerun-if-env-changed=MESH_COMMIT");
    // Whether the commit is the whole truth changes with these files, which make the crate be built anew anyway.
    for path in BUILT {
        println!("cargo:rerun-if-changed={path}");
    }
    let given = std::env::var("MESH_COMMIT").ok().map(|text| text.trim().to_owned());
    let commit = given.filter(|text| !text.is_empty()).or_else(by_git).unwrap_or_default();
    println!("cargo:rustc-env=MESH_BUILT_FROM={commit}");
}

/// The short hash, with `-dirty` where what is built is not what was committed.
fn by_git() -> Option<String> {
    watch();
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let mut changed = vec!["status", "--porcelain", "--"];
    changed.extend(BUILT);
    let dirty = git(&changed).is_none_or(|lines| !lines.is_empty());
    Some(if dirty { format!("{commit}-dirty") } else { commit })
}

/// Has cargo look again when another commit is checked out. In a worktree these files lie in two places, and a branch may
/// be packed: git knows. One that does not exist is not named, because cargo would build anew every time.
fn watch() {
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "logs/HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        let path = git(&["rev-parse", "--git-path", name]);
        if let Some(path) = path.filter(|path| Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
}

/// What git says, if there is one, and this is a checkout of its.
fn git(words: &[&str]) -> Option<String> {
    // Looking must not write: git would refresh its index.
    let said = Command::new("git").arg("--no-optional-locks").args(words).output().ok()?;
    said.status.success().then(|| String::from_utf8_lossy(&said.stdout).trim().to_owned())
}
