//! What is judged without a server.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::certificates::near;
use super::host::{clock, state_dir, units};
use super::{Diagnosis, Examined, Finding, Level};
use crate::tls::ends::End;

fn levels(found: &[Finding]) -> Vec<(Level, &'static str)> {
    found.iter().map(|finding| (finding.level, finding.check)).collect()
}

#[test]
fn a_clock_that_nobody_keeps_is_said_and_one_that_was_not_looked_at_as_well() {
    assert_eq!(clock(Some("yes\n")), None);
    assert_eq!(clock(Some("no\n")).unwrap().level, Level::Warning);
    assert_eq!(clock(None).unwrap().level, Level::Note);
}

#[test]
fn units_that_decide_block_and_units_that_start_servers_are_named() {
    assert_eq!(levels(&units(None)), [(Level::Note, "units")]);
    assert_eq!(units(Some(("", ""))), []);
    let enabled = "postgresql@15-main.service enabled enabled\npatroni.service enabled enabled\n";
    let active = "postgresql@15-main.service loaded active running PostgreSQL Cluster 15-main\n";
    let found = units(Some((enabled, active)));
    assert_eq!(levels(&found), [(Level::Warning, "units"), (Level::Blocking, "rival")]);
    assert!(found[0].found.contains("postgresql@15-main.service is started at boot"), "{found:?}");
    assert!(found[1].next.contains("systemctl disable --now patroni.service"), "{found:?}");
    let running = units(Some(("", "redis-sentinel.service loaded active running x\n")));
    assert_eq!(levels(&running), [(Level::Blocking, "rival")]);
}

#[test]
fn certificates_are_said_a_month_before_they_end() {
    let end = End { path: "/etc/mesh/tls/agent.crt".into(), at: 400 * 86_400 };
    assert_eq!(near(&end, 0), None);
    assert_eq!(near(&end, 371 * 86_400).unwrap().level, Level::Warning);
    assert_eq!(near(&end, 401 * 86_400).unwrap().level, Level::Blocking);
}

#[test]
fn a_state_dir_beside_the_data_is_said_even_before_it_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let (state, data) = (dir.path().join("run/mesh/pg"), dir.path().join("data"));
    assert_eq!(state_dir(&state, &data).unwrap().check, "state_dir");
    assert_eq!(state_dir(Path::new("/proc/mesh"), &data), None);
}

#[test]
fn the_worst_is_counted_over_all_parts() {
    let finding = |level| Finding::new(level, "check", "found", "next");
    let part = |levels: &[Level]| Examined {
        what: "x".to_owned(),
        findings: levels.iter().map(|level| finding(*level)).collect(),
    };
    let diagnosis = Diagnosis {
        parts: vec![part(&[Level::Note, Level::Warning]), part(&[Level::Blocking, Level::Warning])],
    };
    let counts = [Level::Blocking, Level::Warning, Level::Note].map(|level| diagnosis.count(level));
    assert_eq!(counts, [1, 2, 1]);
}
