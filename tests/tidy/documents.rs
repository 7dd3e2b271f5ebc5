//! What the documents name exists: tests, files, commands, and a runbook page for each way to be stuck.

use std::collections::BTreeSet;

use mesh_proto::run::StuckCause;

use super::{files, read, root, short};

/// States beside being stuck that an operator meets at night, and works of the day; each has a page.
const STATES: [&str; 17] = [
    "blind",
    "commits-wait",
    "down-and-no-candidate",
    "isolated",
    "hold-down",
    "paused",
    "lease-floor",
    "voter-store",
    "majority-lost",
    "wrong-route",
    "upgrade",
    "certificates",
    "disk",
    "voters",
    "mesh-state",
    "leave",
    "second-person",
];

/// What stands between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

fn functions() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in files(&[".rs"]) {
        for text in read(&path).split("fn ").skip(1) {
            let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
            found.insert(text[..end].to_owned());
        }
    }
    found
}

/// The sub-commands of `mesh`, from the table of its command line: a variant a line.
fn commands() -> BTreeSet<String> {
    let text = read(&root().join("node/src/cli/args.rs"));
    let mut found = BTreeSet::from(["exit-codes", "help", "--version"].map(str::to_owned));
    for kind in ["pub enum Operation {", "pub enum Command {"] {
        let body = text.split(kind).nth(1).unwrap_or_else(|| panic!("{kind} is gone"));
        for line in body.split("\n}").next().unwrap().lines() {
            let word = line.trim().split(['(', ',', ' ']).next().unwrap_or("");
            if word.chars().next().is_some_and(char::is_uppercase) {
                // As clap names it: a hyphen before every capital but the first.
                let mut name = String::new();
                for letter in word.chars() {
                    if letter.is_uppercase() && !name.is_empty() {
                        name.push('-');
                    }
                    name.extend(letter.to_lowercase());
                }
                found.insert(name);
            }
        }
    }
    found
}

#[test]
fn every_test_that_the_documents_name_exists() {
    let functions = functions();
    let mut named = 0;
    for document in ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"] {
        let text = read(&root().join(document));
        for word in quoted(&text) {
            let name = word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if name && word.matches('_').count() >= 3 {
                named += 1;
                assert!(functions.contains(word), "{document} names {word}, which is gone");
            }
        }
    }
    assert!(named > 60, "only {named} tests are named");
}

#[test]
fn every_file_that_the_documents_name_exists() {
    for path in files(&[".md"]) {
        let text = read(&path);
        for word in quoted(&text) {
            let file = [".rs", ".md", ".txt", ".dot"].iter().any(|ending| word.ends_with(ending));
            if file && word.contains('/') && !word.contains(' ') && !word.starts_with('/') {
                assert!(root().join(word).exists(), "{} names {word}, which is gone", short(&path));
            }
        }
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap_or("")) {
            if !link.starts_with("http") && !link.starts_with('#') {
                assert!(path.parent().unwrap().join(link).exists(), "{} links to {link}", short(&path));
            }
        }
    }
}

#[test]
fn every_cause_has_its_runbook_page() {
    let pages: BTreeSet<String> = files(&[".md"])
        .iter()
        .map(|path| short(path))
        .filter_map(|place| Some(place.strip_prefix("deploy/runbooks/")?.strip_suffix(".md")?.to_owned()))
        .collect();
    let causes = StuckCause::ALL.into_iter().map(StuckCause::slug);
    let wanted: BTreeSet<String> = causes.chain(STATES).map(str::to_owned).collect();
    assert_eq!(pages, wanted, "a page for each, and no other");
    for page in pages {
        let text = read(&root().join(format!("deploy/runbooks/{page}.md")));
        for part in [
            "**What it means.**",
            "**What mesh has made sure of.**",
            "**Look at**",
            "**Get out**",
            "**What it costs.**",
        ] {
            assert!(text.contains(part), "{page}.md does not say {part}");
        }
    }
}

#[test]
fn every_command_that_the_documents_name_exists() {
    let commands = commands();
    assert!(commands.contains("failover") && commands.contains("audit"), "{commands:?}");
    for path in files(&[".md"]) {
        let text = read(&path);
        for word in quoted(&text).into_iter().filter_map(|quoted| quoted.strip_prefix("mesh ")) {
            let command = word.split([' ', '\n']).next().unwrap_or("");
            assert!(commands.contains(command), "{} names `mesh {word}`", short(&path));
        }
    }
}
