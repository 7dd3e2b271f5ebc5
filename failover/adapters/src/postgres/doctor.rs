//! Checks of a running instance's settings against what mesh relies on. Each finding says what to do; nothing is changed.

use std::collections::HashMap;
use std::time::Instant;

use super::instance::Instance;
use super::sql::{Durability, Session, SqlError, get};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Note,
    /// A promise is weaker, or a failover slower.
    Warning,
    /// Failover or rejoin would fail, or a promise would be broken.
    Blocking,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Short name, stable, for scripts.
    pub check: &'static str,
    /// How bad.
    pub severity: Severity,
    /// What was found.
    pub found: String,
    /// What to do.
    pub advice: &'static str,
}

/// One setting as the server has it.
struct Setting {
    value: String,
    source: String,
    from_auto_conf: bool,
}

struct Settings(HashMap<String, Setting>);

/// Examines a running primary or standby.
///
/// # Errors
/// When the server cannot be asked.
pub async fn doctor(instance: &Instance, deadline: Instant) -> Result<Vec<Finding>, SqlError> {
    let session = Session::local(instance, Durability::AsConfigured, deadline).await?;
    let settings = read_settings(&session, deadline).await?;
    let mut findings = Vec::new();
    values(&settings, &mut findings);
    numbers(&settings, &mut findings);
    sources(&settings, &mut findings);
    if settings.value("hba_file") != instance.gate_hba().to_string_lossy() {
        findings.push(Finding {
            check: "boot_gate",
            severity: Severity::Warning,
            found: format!("hba_file = {}", settings.value("hba_file")),
            advice: "the server was not started by mesh, so its boot gate is not in force; restart it through mesh in a maintenance window",
        });
    }
    roles(instance, &session, &mut findings, deadline).await?;
    overrides(&session, &mut findings, deadline).await?;
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(findings)
}

impl Settings {
    fn value(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |setting| &setting.value)
    }

    fn number(&self, name: &str) -> i64 {
        self.value(name).parse().unwrap_or(0)
    }
}

async fn read_settings(session: &Session, deadline: Instant) -> Result<Settings, SqlError> {
    let what = "read the settings";
    let sql = "SELECT name, setting, source, coalesce(sourcefile, '') LIKE '%postgresql.auto.conf' FROM pg_settings";
    let mut all = HashMap::new();
    for row in session.rows(what, sql, &[], deadline).await? {
        let setting = Setting {
            value: get(what, &row, 1)?,
            source: get(what, &row, 2)?,
            from_auto_conf: get(what, &row, 3)?,
        };
        all.insert(get(what, &row, 0)?, setting);
    }
    Ok(Settings(all))
}

/// (setting, values that will do, severity, advice)
type ValueCheck = (&'static str, &'static [&'static str], Severity, &'static str);

const VALUES: [ValueCheck; 9] = [
    (
        "wal_level",
        &["replica", "logical"],
        Severity::Blocking,
        "set wal_level = replica and restart; standbys cannot stream without",
    ),
    ("hot_standby", &["on"], Severity::Blocking, "set hot_standby = on; mesh asks standbys by SQL"),
    (
        "full_page_writes",
        &["on"],
        Severity::Blocking,
        "set full_page_writes = on; a rewind and a crash need it",
    ),
    (
        "fsync",
        &["on"],
        Severity::Blocking,
        "set fsync = on; without it a crash loses acknowledged rows and destroys the cluster",
    ),
    (
        "restart_after_crash",
        &["off"],
        Severity::Warning,
        "start the server through mesh, which sets it off; a restart inside PostgreSQL bypasses the boot gate",
    ),
    (
        "recovery_target_timeline",
        &["latest"],
        Severity::Blocking,
        "set recovery_target_timeline = latest; a standby could not follow a new primary",
    ),
    (
        "synchronous_commit",
        &["on", "remote_apply"],
        Severity::Warning,
        "set synchronous_commit = on; commits below it pass the commit gate and are not covered by zero loss",
    ),
    (
        "primary_slot_name",
        &[""],
        Severity::Warning,
        "mesh follows without slots now; clear primary_slot_name, or create the slot on every candidate",
    ),
    (
        "recovery_min_apply_delay",
        &["0"],
        Severity::Warning,
        "a delayed standby replays everything at once when promoted; leave it out of the candidates",
    ),
];

fn values(settings: &Settings, findings: &mut Vec<Finding>) {
    for (check, fine, severity, advice) in VALUES {
        let value = settings.value(check);
        if !fine.contains(&value) {
            findings.push(Finding { check, severity, found: format!("{check} = {value}"), advice });
        }
    }
    for check in [
        "recovery_target",
        "recovery_target_lsn",
        "recovery_target_name",
        "recovery_target_time",
        "recovery_target_xid",
    ] {
        if !settings.value(check).is_empty() {
            findings.push(Finding {
                check,
                severity: Severity::Blocking,
                found: format!("{check} = {}", settings.value(check)),
                advice: "clear it; a standby would stop there, and promote by itself",
            });
        }
    }
    if settings.value("wal_log_hints") != "on" && settings.value("data_checksums") != "on" {
        findings.push(Finding {
            check: "rewind",
            severity: Severity::Warning,
            found: "neither wal_log_hints nor data checksums".into(),
            advice: "set wal_log_hints = on and restart; until then a diverged primary is rebuilt instead of rewound",
        });
    }
}

/// (setting, least value, advice); the unit is the one of pg_settings.
const NUMBERS: [(&str, i64, &str); 4] = [
    (
        "max_wal_senders",
        5,
        "set max_wal_senders to the standbys plus 4 and restart; a base backup takes two, mesh one",
    ),
    (
        "superuser_reserved_connections",
        3,
        "leave superuser_reserved_connections at 3 or more, so that mesh gets in when the server is full",
    ),
    (
        "wal_keep_size",
        64,
        "set wal_keep_size (MB) to what is written in the longest outage; a follower or a rewind whose log is gone is rebuilt",
    ),
    ("wal_sender_timeout", 1, "set wal_sender_timeout; without it a dead standby is never noticed"),
];

fn numbers(settings: &Settings, findings: &mut Vec<Finding>) {
    for (check, least, advice) in NUMBERS {
        let value = settings.number(check);
        if value < least {
            let found = format!("{check} = {value}");
            findings.push(Finding { check, severity: Severity::Warning, found, advice });
        }
    }
}

/// mesh must be the only writer of these, by ALTER SYSTEM.
fn sources(settings: &Settings, findings: &mut Vec<Finding>) {
    for check in ["synchronous_standby_names", "primary_conninfo"] {
        let Some(setting) = settings.0.get(check) else { continue };
        if setting.from_auto_conf || setting.source == "default" {
            continue;
        }
        let on_command_line = setting.source == "command line";
        findings.push(Finding {
            check,
            severity: if on_command_line { Severity::Blocking } else { Severity::Warning },
            found: format!("{check} comes from the {}", setting.source),
            advice: "remove it there; mesh is its only writer, by ALTER SYSTEM",
        });
    }
}

async fn roles(
    instance: &Instance,
    session: &Session,
    findings: &mut Vec<Finding>,
    deadline: Instant,
) -> Result<(), SqlError> {
    let what = "look at the roles";
    let settings = instance.settings();
    let sql = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1 AND rolcanlogin), \
               EXISTS (SELECT FROM pg_roles WHERE rolname = $2 AND rolcanlogin AND rolreplication), \
               coalesce((SELECT rolsuper OR has_function_privilege(oid, \
                   'pg_read_binary_file(text, bigint, bigint, boolean)', 'EXECUTE') \
                   FROM pg_roles WHERE rolname = $2), false), \
               coalesce((SELECT rolsuper FROM pg_roles WHERE rolname = $1), false)";
    let row = session.row(what, sql, &[&settings.probe.user, &settings.replication.user], deadline).await?;
    let checks = [
        (
            "probe_role",
            !get::<bool>(what, &row, 0)?,
            Severity::Blocking,
            "the observers' role cannot log in; run `mesh adopt`, which prepares the roles",
        ),
        (
            "replication_role",
            !get::<bool>(what, &row, 1)?,
            Severity::Blocking,
            "the replication role cannot log in; run `mesh adopt`, which prepares the roles",
        ),
        (
            "rewind_grants",
            !get::<bool>(what, &row, 2)?,
            Severity::Warning,
            "the replication role may not read files for a rewind; run `mesh adopt`, which grants it",
        ),
        (
            "probe_superuser",
            get::<bool>(what, &row, 3)?,
            Severity::Warning,
            "the observers' role is a superuser; take that away, it needs nothing",
        ),
    ];
    for (check, bad, severity, advice) in checks {
        if bad {
            let probe = check.starts_with("probe");
            let user = if probe { &settings.probe.user } else { &settings.replication.user };
            findings.push(Finding { check, severity, found: format!("role {user}"), advice });
        }
    }
    Ok(())
}

/// Sessions that commit below `on` without the operator of the whole server saying so.
async fn overrides(
    session: &Session,
    findings: &mut Vec<Finding>,
    deadline: Instant,
) -> Result<(), SqlError> {
    let what = "look for overrides";
    let sql = "SELECT coalesce(d.datname, '*') || '/' || coalesce(r.rolname, '*') || ': ' || c \
               FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) c \
               LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole \
               WHERE c LIKE 'synchronous_commit=%' AND c NOT IN ('synchronous_commit=on', 'synchronous_commit=remote_apply')";
    for row in session.rows(what, sql, &[], deadline).await? {
        findings.push(Finding {
            check: "synchronous_commit_override",
            severity: Severity::Warning,
            found: get(what, &row, 0)?,
            advice: "such commits pass the commit gate and are not covered by zero loss; ALTER ROLE/DATABASE … RESET synchronous_commit",
        });
    }
    Ok(())
}
