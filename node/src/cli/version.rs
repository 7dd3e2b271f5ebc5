//! `mesh --version`: which build this is, and what it speaks. It looks at nothing but itself.

use std::process::ExitCode;
use std::sync::LazyLock;

use mesh_proto::codec::Kind;
use mesh_proto::edition::EDITION;
use serde::Serialize;

use super::exit::Exit;
use super::output::Output;

/// Which build, and what it speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Build {
    /// The release.
    pub version: &'static str,
    /// What it was built from; `None` where nobody told the build.
    pub commit: Option<&'static str>,
    /// Of the messages between agents, guards and the command line.
    pub protocol: u8,
    /// Of the messages by which the voters agree.
    pub agreement: u32,
    /// Of the entries in the log.
    pub log: u8,
    /// Which commands it can apply: of builds of two editions the older one must be upgraded before the newer's are used.
    pub edition: u32,
}

/// This build.
#[must_use]
pub fn build() -> Build {
    let commit = env!("MESH_BUILT_FROM");
    Build {
        version: env!("CARGO_PKG_VERSION"),
        commit: (!commit.is_empty()).then_some(commit),
        protocol: Kind::Message.version(),
        agreement: mesh_consensus::PROTOCOL,
        log: Kind::Entry.version(),
        edition: EDITION,
    }
}

/// What `mesh --version` says after the name: one line.
#[must_use]
pub fn line() -> &'static str {
    static LINE: LazyLock<String> = LazyLock::new(|| told(&build()));
    &LINE
}

/// Runs `mesh --version --json`.
#[must_use]
pub fn show(output: &Output) -> ExitCode {
    match output.show(&build(), |build, _| format!("mesh {}\n", told(build))) {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit.into()
        }
    }
}

fn told(build: &Build) -> String {
    let commit =
        build.commit.map_or_else(|| "unknown commit".to_owned(), |commit| format!("commit {commit}"));
    format!("{} ({commit}, protocol {})", build.version, build.protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_says_what_it_is_or_that_nobody_knows() {
        let known = Build { version: "1.2.3", commit: Some("abc-dirty"), ..build() };
        assert_eq!(told(&known), "1.2.3 (commit abc-dirty, protocol 1)");
        assert_eq!(told(&Build { commit: None, ..known }), "1.2.3 (unknown commit, protocol 1)");
        let json = serde_json::to_value(build()).unwrap();
        assert_eq!((&json["protocol"], &json["log"]), (&1.into(), &1.into()));
    }
}
