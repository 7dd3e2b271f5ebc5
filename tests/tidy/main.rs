//! Rules of the repository that no compiler checks: which crate may know which, what the pure core may depend on, how long
//! a file may be, and that what the documents name exists.

// A test file: a failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

mod crates;
mod documents;
mod fencers;
mod sources;

use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// What a program prints; it must succeed.
fn output(program: &str, words: &[&str]) -> String {
    let out = Command::new(program).args(words).current_dir(root()).output();
    let out = out.unwrap_or_else(|why| panic!("{program}: {why}"));
    assert!(out.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Every file below the repository with one of these endings; what is built or fetched is no source.
fn files(endings: &[&str]) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![root()]);
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && (!name.starts_with('.') || name == ".ci" || name == ".config") {
                    open.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A path as the documents write it.
fn short(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}
