//! Timing profiles, and the relations between timing values without which a promise would break. A spec that breaks
//! one is refused with the reason and the value that would do.

mod hold;
mod records;
mod targets;

pub use hold::cases as hold_cases;
use mesh_proto::Millis;
use mesh_proto::command::MemberRecord;
use mesh_proto::spec::{
    CrashPolicy, Durability, Engine, GroupSpec, HaproxyTarget, Open, PgbouncerTarget, Profile, RecordSpec,
    RouteSpec, RouteTarget, Timing,
};

/// One thing that is wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The key it is about, as an operator wrote it.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub next: String,
}

impl Finding {
    pub(crate) fn new(key: impl Into<String>, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { key: key.into(), what: what.into(), next: next.into() }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.key, self.what, self.next)
    }
}

/// The values of a profile (DESIGN §5).
#[must_use]
pub const fn profile(profile: Profile) -> Timing {
    match profile {
        Profile::Fast => Timing {
            lease: Millis(1_500),
            fence: Millis(500),
            probe: Millis(150),
            gate_after: Millis(750),
            down_after: Millis(500),
            leave_site_after: Millis(750),
            hang_after: Millis(1_000),
            fresh: Millis(600),
        },
        Profile::Lan => Timing {
            lease: Millis(2_500),
            fence: Millis(1_000),
            probe: Millis(250),
            gate_after: Millis(1_250),
            down_after: Millis(750),
            leave_site_after: Millis(1_000),
            hang_after: Millis(1_250),
            fresh: Millis(1_000),
        },
        Profile::Wan => Timing {
            lease: Millis(6_000),
            fence: Millis(2_000),
            probe: Millis(1_000),
            gate_after: Millis(3_500),
            down_after: Millis(3_000),
            leave_site_after: Millis(4_000),
            hang_after: Millis(4_000),
            fresh: Millis(4_000),
        },
    }
}

/// The timing in force for a spec: its profile with the single values it sets.
#[must_use]
pub fn timing(spec: &GroupSpec) -> Timing {
    let mut timing = profile(spec.profile);
    let Some(over) = &spec.timing else { return timing };
    if let Some(lease) = over.lease_ms {
        // What the operator does not set follows the lease in the profile's proportion.
        timing.gate_after = Millis(lease * timing.gate_after.0 / timing.lease.0);
        timing.lease = Millis(lease);
    }
    let set = |slot: &mut Millis, value: Option<u64>| {
        if let Some(value) = value {
            *slot = Millis(value);
        }
    };
    set(&mut timing.fence, over.fence_ms);
    if let Some(probe) = over.probe_ms {
        timing.fresh = Millis(probe * 4);
        timing.probe = Millis(probe);
    }
    set(&mut timing.down_after, over.down_after_ms);
    set(&mut timing.leave_site_after, over.leave_site_after_ms);
    set(&mut timing.hang_after, over.hang_after_ms);
    timing
}

/// Checks a spec as a whole against itself and the members of the mesh. Empty means that it may be applied.
#[must_use]
pub fn check(spec: &GroupSpec, members: &[MemberRecord]) -> Vec<Finding> {
    let mut findings = check_timing(&timing(spec));
    findings.extend(check_instances(spec, members));
    findings.extend(check_routes(spec, members));
    findings.extend(crate::errands::check(spec, members));
    findings.extend(crate::fencers::check(spec, members));
    findings.extend(check_engine(spec));
    findings.extend(check_crash(spec));
    findings.extend(crate::quorum::check(spec));
    findings.extend(hold::check(spec));
    for observer in &spec.observers {
        if !members.iter().any(|m| m.agent == *observer) {
            findings.push(unknown_agent("observers", observer.as_str(), members));
        }
    }
    for site in &spec.site_preference {
        if !members.iter().any(|m| m.site == *site) {
            findings.push(unknown_site("site_preference", site.as_str(), members));
        }
    }
    findings
}

/// One group has one primary, one lease and one epoch, so one engine; and a pooler of one engine leads to no other.
fn check_crash(spec: &GroupSpec) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !(1..=3_600).contains(&spec.crash_restart_seconds) {
        findings.push(Finding::new(
            "crash_restart_seconds",
            format!("{} s are no time for a restart", spec.crash_restart_seconds),
            "use 1 to 3600: longer than crash recovery takes, shorter than you can be without a primary",
        ));
    }
    if spec.engine == Engine::Redis && spec.crash_policy == CrashPolicy::RestartFirst {
        findings.push(Finding::new(
            "crash_policy",
            "a Redis that was killed has forgotten what it had not saved, and its replicas have not",
            "leave it out: a replica is promoted",
        ));
    }
    findings
}

fn check_engine(spec: &GroupSpec) -> Vec<Finding> {
    let mut findings = Vec::new();
    for instance in &spec.instances {
        if let Some(engine) = instance.engine.filter(|engine| *engine != spec.engine) {
            findings.push(Finding::new(
                format!("instance[{}].engine", instance.name),
                format!(
                    "{engine} in a group of {}: a group has one primary, and two engines have two",
                    spec.engine
                ),
                "make a group of its own for each engine",
            ));
        }
    }
    if spec.engine == Engine::Redis && spec.durability == Durability::ZeroLoss {
        findings.push(Finding::new(
            "durability",
            "Redis acknowledges a write before any replica has it: \"zero-loss\" cannot be kept",
            "use \"bounded\", and set max_lag_bytes to the loss you can accept",
        ));
    }
    if spec.open == Open::DurabilityOnly && spec.durability != Durability::ZeroLoss {
        findings.push(Finding::new(
            "open",
            "\"durability-only\" rests on a frozen commit quorum, which a group without zero loss does not have",
            "use durability = \"zero-loss\", or leave out `open`",
        ));
    }
    for route in &spec.routes {
        if spec.engine == Engine::Redis && matches!(route.target, RouteTarget::Pgbouncer(_)) {
            findings.push(Finding::new(
                format!("route[{}].kind", route.name),
                "PgBouncer speaks with PostgreSQL only",
                "lead Redis by HAProxy or DNS",
            ));
        }
    }
    findings
}

/// Checks a spec against the other groups: a server has one guard, and a guard one group; two groups that led the same
/// backend would undo each other's routes.
#[must_use]
pub fn check_beside<'a>(spec: &GroupSpec, groups: impl Iterator<Item = &'a GroupSpec>) -> Vec<Finding> {
    let others: Vec<_> = groups.filter(|other| other.group != spec.group).collect();
    let mut findings = crate::errands::needed(spec, others.iter().copied());
    for other in others {
        findings.extend(crate::errands::beside(spec, other));
        for instance in &spec.instances {
            let (field, what) = if other.instances.iter().any(|i| i.name == instance.name) {
                ("name", format!("instance {}", instance.name))
            } else if other.instances.iter().any(|i| i.address == instance.address) {
                ("address", format!("the server at {}", instance.address))
            } else if other.instances.iter().any(|i| i.guard == instance.guard) {
                ("guard", format!("the guard at {}", instance.guard))
            } else {
                continue;
            };
            findings.push(Finding::new(
                format!("instance[{}].{field}", instance.name),
                format!("{what} belongs to group {} already", other.group),
                "an instance is in one group: name another one, or leave it out",
            ));
        }
        for route in &spec.routes {
            let Some((field, what)) = other.routes.iter().find_map(|theirs| same_target(route, theirs))
            else {
                continue;
            };
            findings.push(Finding::new(
                format!("route[{}].{field}", route.name),
                format!("{what} belongs to group {} already", other.group),
                "a route follows one group: lead another one, or leave it out",
            ));
        }
    }
    findings
}

/// What two routes would both change, and the key that names it.
fn same_target(ours: &RouteSpec, theirs: &RouteSpec) -> Option<(&'static str, String)> {
    match (&ours.target, &theirs.target) {
        (RouteTarget::Haproxy(one), RouteTarget::Haproxy(other)) => {
            let same = ours.agent == theirs.agent && one.backend == other.backend;
            same.then(|| ("backend", format!("backend {} at {}", one.backend, ours.agent)))
        }
        (RouteTarget::Dns(one), RouteTarget::Dns(other)) => {
            let theirs = |record: &&RecordSpec| other.records.iter().any(|known| known.name == record.name);
            one.records.iter().find(theirs).map(|record| ("record", record.name.to_string()))
        }
        (RouteTarget::Pgbouncer(one), RouteTarget::Pgbouncer(other)) => {
            let same = ours.agent == theirs.agent && one.database == other.database;
            same.then(|| ("database", format!("PgBouncer database {} at {}", one.database, ours.agent)))
        }
        (RouteTarget::Elbv2(one), RouteTarget::Elbv2(other)) => {
            let same = one.target_group == other.target_group;
            same.then(|| ("target_group", one.target_group.to_string()))
        }
        (
            RouteTarget::Haproxy(_),
            RouteTarget::Dns(_) | RouteTarget::Pgbouncer(_) | RouteTarget::Elbv2(_),
        )
        | (
            RouteTarget::Dns(_),
            RouteTarget::Haproxy(_) | RouteTarget::Pgbouncer(_) | RouteTarget::Elbv2(_),
        )
        | (
            RouteTarget::Pgbouncer(_),
            RouteTarget::Haproxy(_) | RouteTarget::Dns(_) | RouteTarget::Elbv2(_),
        )
        | (
            RouteTarget::Elbv2(_),
            RouteTarget::Haproxy(_) | RouteTarget::Dns(_) | RouteTarget::Pgbouncer(_),
        ) => None,
    }
}

fn check_timing(t: &Timing) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut need = |ok: bool, key: &str, what: String, next: String| {
        if !ok {
            findings.push(Finding::new(key, what, next));
        }
    };
    need(
        t.probe.0 >= 50,
        "timing.probe_ms",
        format!("a probe every {} would load hosts and network without deciding sooner", t.probe),
        "use at least 50".into(),
    );
    need(
        t.lease.0 >= t.probe.0.saturating_mul(5),
        "timing.lease_ms",
        format!(
            "a lease of {} leaves fewer than five renewals at one each {}: one lost packet could fence a healthy primary",
            t.lease, t.probe
        ),
        format!("use at least {}", t.probe.0.saturating_mul(5)),
    );
    need(
        t.fence.0 >= 300,
        "timing.fence_ms",
        format!("killing and verifying a process tree within {} cannot be relied on", t.fence),
        "use at least 300".into(),
    );
    need(
        t.gate_after < t.lease,
        "timing.lease_ms",
        "commits would be gated only after the lease is over".into(),
        "use a longer lease".into(),
    );
    need(
        t.down_after.0 >= t.probe.0.saturating_mul(2),
        "timing.down_after_ms",
        format!("a primary would count as lost after fewer than two missed probes ({} each)", t.probe),
        format!("use at least {}", t.probe.0.saturating_mul(2)),
    );
    need(
        t.leave_site_after >= t.down_after,
        "timing.leave_site_after_ms",
        "leaving the site would be quicker than staying in it".into(),
        format!("use at least {}", t.down_after.0),
    );
    need(
        t.hang_after.0 >= t.probe.0.saturating_mul(4),
        "timing.hang_after_ms",
        format!("a write waiting for {} is a busy database, not a hung one", t.hang_after),
        format!("use at least {}", t.probe.0.saturating_mul(4)),
    );
    need(
        t.lease.0 <= 60_000 && t.fence.0 <= 30_000,
        "timing.lease_ms",
        "a takeover would wait for more than a minute and a half".into(),
        "use a lease of at most 60000 and a fence budget of at most 30000".into(),
    );
    findings
}

fn check_instances(spec: &GroupSpec, members: &[MemberRecord]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if spec.instances.is_empty() {
        findings.push(Finding::new(
            "instance",
            "the group has no instance",
            "add an [[instance]] for each server",
        ));
    }
    for (at, instance) in spec.instances.iter().enumerate() {
        let key = |field: &str| format!("instance[{}].{field}", instance.name);
        if spec.instances[..at].iter().any(|other| other.name == instance.name) {
            findings.push(Finding::new(
                key("name"),
                "the name stands twice",
                "give each instance a name of its own",
            ));
        }
        if spec.instances[..at].iter().any(|other| other.address == instance.address) {
            findings.push(Finding::new(
                key("address"),
                "two instances have the same address",
                "correct one of them",
            ));
        }
        if spec.instances[..at].iter().any(|other| other.guard == instance.guard) {
            findings.push(Finding::new(
                key("guard"),
                "two guards have the same address",
                "correct one of them",
            ));
        }
        match members.iter().find(|m| m.agent == instance.agent) {
            None => findings.push(unknown_agent(&key("agent"), instance.agent.as_str(), members)),
            Some(member) if member.site != instance.site => findings.push(Finding::new(
                key("site"),
                format!("agent {} stands at site {}, not {}", member.agent, member.site, instance.site),
                "correct the site or the agent",
            )),
            Some(_) => {}
        }
    }
    if !spec.instances.is_empty() && spec.instances.iter().all(|i| i.priority == 0) {
        findings.push(Finding::new(
            "instance",
            "every instance has priority 0, so nobody could ever be promoted",
            "raise one",
        ));
    }
    findings
}

fn check_routes(spec: &GroupSpec, members: &[MemberRecord]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, route) in spec.routes.iter().enumerate() {
        if spec.routes[..at].iter().any(|other| other.name == route.name) {
            let key = format!("route[{}].name", route.name);
            findings.push(Finding::new(key, "the name stands twice", "give each route a name of its own"));
        }
        if !members.iter().any(|m| m.agent == route.agent) {
            findings.push(unknown_agent(
                &format!("route[{}].agent", route.name),
                route.agent.as_str(),
                members,
            ));
        }
        match &route.target {
            RouteTarget::Haproxy(target) => findings.extend(check_haproxy(route, target)),
            RouteTarget::Dns(target) => findings.extend(records::check(spec, at, target)),
            RouteTarget::Pgbouncer(target) => findings.extend(check_pgbouncer(route, target)),
            RouteTarget::Elbv2(target) => findings.extend(targets::check(spec, at, target)),
        }
    }
    findings
}

fn check_haproxy(route: &RouteSpec, target: &HaproxyTarget) -> Option<Finding> {
    let bad = target.backend.is_empty()
        || target.backend.contains(|c: char| c.is_whitespace() || c == '/' || c == ';');
    let key = format!("route[{}].backend", route.name);
    bad.then(|| Finding::new(key, "not the name of an HAProxy backend", "use the name from haproxy.cfg"))
}

fn check_pgbouncer(route: &RouteSpec, target: &PgbouncerTarget) -> Option<Finding> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name = &target.database;
    let bad = name.is_empty() || name == "pgbouncer" || !name.chars().all(good);
    let key = format!("route[{}].database", route.name);
    let next = "use the name from pgbouncer.ini; letters, digits, '-', '_' and '.'";
    bad.then(|| Finding::new(key, "not the name of a PgBouncer database", next))
}

fn unknown_agent(key: &str, name: &str, members: &[MemberRecord]) -> Finding {
    let known = members.iter().map(|m| m.agent.as_str()).collect::<Vec<_>>().join(", ");
    Finding::new(
        key,
        format!("there is no agent {name}"),
        format!("use one of {known}, or add it with `mesh node add`"),
    )
}

fn unknown_site(key: &str, name: &str, members: &[MemberRecord]) -> Finding {
    let mut sites: Vec<_> = members.iter().map(|m| m.site.as_str()).collect();
    sites.sort_unstable();
    sites.dedup();
    Finding::new(key, format!("no agent stands at site {name}"), format!("use one of {}", sites.join(", ")))
}

#[cfg(test)]
mod tests;
