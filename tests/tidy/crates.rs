//! Which crate may know which, and what the pure core is kept free of.

use std::collections::{BTreeMap, BTreeSet};

use super::{files, output, read, root, short};

/// Every member, and which of the others it may depend on, for building or for its tests.
const MAY_KNOW: [(&str, &[&str]); 7] = [
    ("mesh-fuzz", &[]),
    ("mesh-proto", &["mesh-fuzz"]),
    ("mesh-failover", &["mesh-proto"]),
    ("mesh-adapters", &["mesh-proto", "mesh-failover", "mesh-fuzz"]),
    ("mesh-consensus", &["mesh-proto", "mesh-failover", "mesh-fuzz"]),
    ("mesh-node", &["mesh-proto", "mesh-failover", "mesh-adapters", "mesh-consensus", "mesh-fuzz"]),
    ("mesh-tests", &["mesh-proto", "mesh-failover", "mesh-adapters", "mesh-consensus", "mesh-node"]),
];

/// What the pure core may not have below it: async, clocks, randomness, IO, agreement.
const IMPURE: [&str; 23] = [
    "tokio",
    "tokio-util",
    "tonic",
    "hyper",
    "h2",
    "tower",
    "axum",
    "futures-executor",
    "async-trait",
    "mio",
    "socket2",
    "openraft",
    "redb",
    "rand",
    "rand_core",
    "getrandom",
    "fastrand",
    "chrono",
    "time",
    "jiff",
    "rustix",
    "nix",
    "tempfile",
];

/// The `[section]` of a manifest, as `name` to the whole line.
fn section(manifest: &str, wanted: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut inside = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.trim() == format!("[{wanted}]");
        } else if inside && let Some((name, _)) = line.split_once(['=', '.']) {
            found.insert(name.trim().to_owned(), line.to_owned());
        }
    }
    found
}

fn members() -> BTreeMap<String, String> {
    let manifests = files(&["Cargo.toml"]).into_iter().filter(|path| *path != root().join("Cargo.toml"));
    manifests
        .map(|path| {
            let text = read(&path);
            let name = section(&text, "package")["name"].split('"').nth(1).unwrap_or_default().to_owned();
            (name, text)
        })
        .collect()
}

#[test]
fn dependencies_point_one_way() {
    let members = members();
    let known: BTreeMap<&str, &[&str]> = MAY_KNOW.into_iter().collect();
    assert_eq!(
        members.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        known.keys().copied().collect(),
        "a crate came or went: say here what it may know"
    );
    for (name, manifest) in &members {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for other in section(manifest, kind).into_keys().filter(|other| members.contains_key(other)) {
                assert!(known[name.as_str()].contains(&other.as_str()), "{name} must not know {other}");
            }
        }
    }
}

#[test]
fn only_consensus_names_openraft() {
    for (name, manifest) in members() {
        assert_eq!(manifest.contains("openraft"), name == "mesh-consensus", "{name}");
    }
    for path in files(&[".rs"]) {
        let place = short(&path);
        if place.starts_with("consensus/") || place.starts_with("tests/tidy/") {
            continue;
        }
        for (line, text) in read(&path).lines().enumerate() {
            let code = text.split("//").next().unwrap_or("");
            // A log filter may name it; a path into it may not.
            let named =
                ["openraft::", "use openraft", "extern crate openraft"].iter().any(|w| code.contains(w));
            assert!(!named, "{place}:{}: {text}", line + 1);
        }
    }
}

#[test]
fn the_core_is_pure() {
    for name in ["mesh-failover", "mesh-proto"] {
        let tree = output(
            env!("CARGO"),
            &[
                "tree",
                "--offline",
                "--locked",
                "-p",
                name,
                "-e",
                "normal",
                "--prefix",
                "none",
                "--format",
                "{p}",
            ],
        );
        for line in tree.lines() {
            let depends_on = line.split(' ').next().unwrap_or_default();
            assert!(!IMPURE.contains(&depends_on), "{name} has {depends_on} below it");
        }
        assert!(tree.lines().count() > 3, "cargo tree showed nothing: {tree}");
    }
}

#[test]
fn every_crate_has_the_workspaces_lints_and_numbers() {
    for (name, manifest) in members() {
        assert_eq!(
            section(&manifest, "lints").get("workspace").map(String::as_str),
            Some("workspace = true"),
            "{name}"
        );
        let package = section(&manifest, "package");
        for key in ["version", "edition", "rust-version", "license", "publish"] {
            assert!(package[key].contains("workspace = true"), "{name}: {key} is not the workspace's");
        }
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (other, line) in section(&manifest, kind) {
                assert!(line.contains("workspace = true"), "{name}: {other} has a version of its own");
            }
        }
    }
}
