//! Files of a length that can be read, and nothing left to be done later.

use super::{files, read, short};

/// Lines of a source file.
const LINES_MAX: usize = 500;

/// Files that may be longer, and why.
const LONGER: [(&str, &str); 4] = [
    ("failover/adapters/tests/haproxy.rs", "one real HAProxy: its laboratory and what is tried on it"),
    ("failover/tests/electorate_model.rs", "one model: its rules and its tests are read together"),
    ("node/src/cli/args.rs", "one table: every word of the command line"),
    ("node/src/cli/render/samples.rs", "one table: what people see, beside its golden files"),
];

#[test]
fn files_are_short() {
    for path in files(&[".rs"]) {
        let place = short(&path);
        let lines = read(&path).lines().count();
        let listed = LONGER.iter().any(|(known, _)| *known == place);
        assert!(lines <= LINES_MAX || listed, "{place} has {lines} lines, at most {LINES_MAX}: split it");
    }
    for (known, _) in LONGER {
        let lines = read(&super::root().join(known)).lines().count();
        assert!(lines > LINES_MAX, "{known} is short now: take it from the list");
    }
}

#[test]
fn nothing_is_left_to_be_done() {
    // Written so that this file does not find itself.
    let marks = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
    ];
    for path in files(&[".rs", ".toml", ".md", ".sh", ".service", ".proto"]) {
        for (line, text) in read(&path).lines().enumerate() {
            for mark in marks {
                assert!(!text.contains(mark), "{}:{}: {text}", short(&path), line + 1);
            }
        }
    }
}

#[test]
fn no_file_names_the_machine_it_was_written_on() {
    let marks = [concat!("/work", "/"), concat!("/root/.", "cargo"), concat!("/tmp/", "bash")];
    for path in files(&[".rs", ".toml", ".md", ".sh", ".service", ".proto", ".txt"]) {
        for (line, text) in read(&path).lines().enumerate() {
            for mark in marks {
                assert!(!text.contains(mark), "{}:{}: {text}", short(&path), line + 1);
            }
        }
    }
}

#[test]
fn every_source_file_says_what_it_is() {
    for path in files(&[".rs"]) {
        let text = read(&path);
        let unit_tests = path.ends_with("tests.rs");
        assert!(unit_tests || text.starts_with("//!"), "{} begins without a word about itself", short(&path));
    }
}
