//! The host: its clock, its watchdog, who else starts servers here.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Finding, Level, certificates};
use crate::config::NodeConfig;

/// Units that decide who is primary, or start one by themselves.
const RIVALS: [&str; 5] = [
    "patroni.service",
    "repmgrd.service",
    "pgautofailover.service",
    "redis-sentinel.service",
    "stolon-keeper.service",
];
/// Units of the distribution that start servers at boot.
const STARTERS: [&str; 4] =
    ["postgresql.service", "postgresql@*.service", "redis-server.service", "redis-server@*.service"];

pub(super) fn look(config: &NodeConfig) -> Vec<Finding> {
    let mut found = certificates::agent(config);
    found.extend(clock(said("timedatectl", &["show", "--property=NTPSynchronized", "--value"]).as_deref()));
    let named = config.guarded().find_map(crate::config::Guarded::watchdog);
    found.extend(watchdog(named, named.map_or_else(|| Path::new("/dev/watchdog").exists(), Path::exists)));
    if said("chrt", &["--version"]).is_none() {
        found.push(Finding::new(
            Level::Warning,
            "real_time",
            "`chrt` is not installed",
            "install util-linux: without it the guard has no real-time priority, and a fence may be late on an overloaded host",
        ));
    }
    let patterns: Vec<&str> = RIVALS.iter().chain(&STARTERS).copied().collect();
    let enabled = [&["list-unit-files", "--state=enabled", "--no-legend", "--plain"][..], &patterns].concat();
    let active = [&["list-units", "--state=active", "--no-legend", "--plain"][..], &patterns].concat();
    let listed = said("systemctl", &enabled).zip(said("systemctl", &active));
    found.extend(units(listed.as_ref().map(|(enabled, active)| (enabled.as_str(), active.as_str()))));
    found
}

/// Whether a host whose guard cannot fence is reset.
pub(super) fn watchdog(named: Option<&Path>, there: bool) -> Option<Finding> {
    let (level, found, next) = match (named, there) {
        (Some(_), true) => return None,
        (Some(path), false) => (
            Level::Warning,
            format!("there is no {}, which the file names as watchdog", path.display()),
            "load its driver (the hypervisor's or the board's; `softdog` where there is none), or take the key out",
        ),
        (None, true) => (
            Level::Note,
            "there is a watchdog device, and no instance uses it".to_owned(),
            "watchdog = \"/dev/watchdog\" in an instance's section has it reset this host when its guard cannot fence; the \
             guard's user must be able to write to it (a udev rule)",
        ),
        (None, false) => (
            Level::Note,
            "there is no watchdog device".to_owned(),
            "nothing to do: a host that was frozen as a whole may answer for some milliseconds before its guard fences, and \
             `mesh status` says so",
        ),
    };
    Some(Finding::new(level, "watchdog", found, next))
}

/// What a clock that nobody keeps means here.
pub(super) fn clock(synchronised: Option<&str>) -> Option<Finding> {
    let found = match synchronised.map(str::trim) {
        Some("yes") => return None,
        Some(_) => (Level::Warning, "the clock is not synchronised"),
        None => {
            (Level::Note, "whether the clock is synchronised was not looked at: there is no timedatectl here")
        }
    };
    let next = "run chrony or systemd-timesyncd: leases go by other clocks, but certificates, logs and the audit's times \
                by this one";
    Some(Finding::new(found.0, "clock", found.1, next))
}

/// Who else starts servers here. `listed` are systemd's lines of enabled and of active units.
pub(super) fn units(listed: Option<(&str, &str)>) -> Vec<Finding> {
    let Some((enabled, active)) = listed else {
        let next = "look yourself that nothing but mesh starts the servers of this host's file";
        let found = "which units start servers was not looked at: systemd does not answer";
        return vec![Finding::new(Level::Note, "units", found, next)];
    };
    let first = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
    let mut all: Vec<(String, &str)> = active.lines().map(|line| (first(line), "runs")).collect();
    all.extend(enabled.lines().map(|line| (first(line), "is started at boot")));
    let mut found = Vec::new();
    for (unit, how) in all.into_iter().filter(|(unit, _)| !unit.is_empty()) {
        if RIVALS.contains(&unit.as_str()) {
            let next = format!(
                "it decides who is primary as well: stop and disable it before `mesh adopt`: systemctl disable --now {unit}"
            );
            found.push(Finding::new(Level::Blocking, "rival", format!("{unit} {how}"), next));
        } else if how == "is started at boot" {
            // One that runs is what is adopted; started again at boot it comes up as a standby, and waits.
            let next = format!(
                "mesh's guard starts its server; if {unit} starts the same one, disable it: systemctl disable {unit}"
            );
            found.push(Finding::new(Level::Warning, "units", format!("{unit} {how}"), next));
        }
    }
    found
}

/// A guard must not wait for the disk of its data.
pub(super) fn state_dir(state: &Path, data: &Path) -> Option<Finding> {
    let device = |path: &Path| path.ancestors().find_map(|place| place.metadata().ok()).map(|it| it.dev());
    (device(state).is_some() && device(state) == device(data)).then(|| {
        Finding::new(
            Level::Warning,
            "state_dir",
            format!("the guard's state_dir {} is on the disk of the data", state.display()),
            "put it on another one, such as /run: while the disk of the data hangs, the guard fences, but promises nothing new",
        )
    })
}

/// What a program says when it ends well; `None` where it does not, or is not there.
fn said(program: &str, words: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(words).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
