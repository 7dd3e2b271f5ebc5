//! `/metrics`: the status of the mesh as this agent knows it, in OpenMetrics text for Prometheus.
//!
//! Made anew from the status at each scrape, so nothing is counted twice and nothing grows. The names are stable: alert
//! rules and dashboards in `deploy/monitoring` rest on them. No name of a person, reason or address is in it.

use std::fmt;
use std::sync::atomic::AtomicU64;

use mesh_failover::verdict::disk::trouble;
use mesh_proto::Millis;
use mesh_proto::command::Verdict;
use mesh_proto::effect::{Effect, Outcome};
use mesh_proto::evidence::{DiskHolds, DiskStanding, DiskSync, ProcessState};
use mesh_proto::operator::{GroupStatus, InstanceStatus, RouteStatus, StatusView};
use mesh_proto::run::Phase;
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::cli::version;

/// What Prometheus is told that the body is.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const VERDICTS: [Verdict; 8] = [
    Verdict::Healthy,
    Verdict::Suspect,
    Verdict::UnreachableButStreaming,
    Verdict::Isolated,
    Verdict::Down,
    Verdict::DownNoCandidate,
    Verdict::Blind,
    Verdict::Unfounded,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Nothing {}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: String,
    commit: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MemberLabels {
    agent: String,
    site: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GroupLabels {
    group: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabels {
    group: String,
    verdict: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StuckLabels {
    group: String,
    cause: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InstanceLabels {
    group: String,
    /// Not `instance`: that is Prometheus's own name for the agent that was scraped.
    server: String,
    site: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DiskLabels {
    group: String,
    server: String,
    disk: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    group: String,
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrandLabels {
    group: String,
    errand: String,
    agent: String,
}

type Of<L> = Family<L, Gauge<f64, AtomicU64>>;

/// The registry of one scrape.
struct Scrape {
    registry: Registry,
}

impl Scrape {
    fn family<L>(&mut self, name: &'static str, help: &'static str) -> Of<L>
    where
        L: EncodeLabelSet + Clone + std::hash::Hash + Eq + fmt::Debug + Send + Sync + 'static,
    {
        let family = Of::<L>::default();
        self.registry.register(name, help, family.clone());
        family
    }
}

const fn flag(so: bool) -> f64 {
    if so { 1.0 } else { 0.0 }
}

/// Exact up to 2^53: positions of this size would be petabytes.
#[allow(clippy::cast_precision_loss)]
const fn number(value: u64) -> f64 {
    value as f64
}

fn seconds(time: mesh_proto::Millis) -> f64 {
    number(time.0) / 1000.0
}

/// The text of one scrape.
///
/// # Errors
/// When it cannot be encoded, which is a fault of the encoder.
pub(super) fn text(status: &StatusView) -> Result<String, fmt::Error> {
    let mut scrape = Scrape { registry: Registry::with_prefix("mesh") };
    agent(&mut scrape, status);
    groups(&mut scrape, &status.groups);
    instances(&mut scrape, &status.groups);
    routes(&mut scrape, &status.groups);
    errands(&mut scrape, &status.groups);
    let mut text = String::new();
    encode(&mut text, &scrape.registry)?;
    Ok(text)
}

fn agent(scrape: &mut Scrape, status: &StatusView) {
    let one = Nothing {};
    let build = version::build();
    let labels = BuildLabels {
        version: build.version.to_owned(),
        commit: build.commit.unwrap_or("unknown").to_owned(),
    };
    scrape.family("build", "Always 1; the labels say which build").get_or_create(&labels).set(1.0);
    let leads = status.leader.as_ref() == Some(&status.agent);
    scrape.family("agent_leads", "Whether this agent leads").get_or_create(&one).set(flag(leads));
    let known = flag(status.leader.is_some());
    scrape.family("leader_known", "Whether this agent knows a leader").get_or_create(&one).set(known);
    let term = number(status.term);
    scrape.family("raft_term", "Raft term; it rises with each election").get_or_create(&one).set(term);
    let applied = number(status.applied);
    scrape.family("raft_applied_index", "Last log entry applied here").get_or_create(&one).set(applied);
    let troubles = number(status.troubles.len() as u64);
    scrape.family("agent_troubles", "What is wrong with this agent itself").get_or_create(&one).set(troubles);
    let reachable = scrape.family("member_reachable", "Whether a member is heard by this agent");
    for node in &status.nodes {
        let labels =
            MemberLabels { agent: node.member.agent.to_string(), site: node.member.site.to_string() };
        if let Some(heard) = node.reachable {
            reachable.get_or_create(&labels).set(flag(heard));
        }
    }
}

fn groups(scrape: &mut Scrape, groups: &[GroupStatus]) {
    let epoch = scrape.family("group_epoch", "Epoch; it rises with each change of primary");
    let verdict = scrape.family("group_verdict", "1 for the verdict on the primary, 0 for all others");
    let blocked = scrape.family("group_blocked", "Whether mesh would do nothing by itself right now");
    let automatic =
        scrape.family("group_automatic", "Whether mesh fails over by itself, by the group's file");
    let paused = scrape.family("group_paused", "Whether an operator has paused the group");
    let degraded = scrape.family(
        "group_degraded",
        "Whether a zero-loss group's commits wait for no standby, by an operator or by policy",
    );
    let still = scrape
        .family("group_commits_wait", "Whether a zero-loss group's commits stand still for want of standbys");
    let running = scrape.family("group_run_active", "Whether a run is going on, stuck ones included");
    let stuck = scrape.family("group_run_stuck", "1 while a run cannot go on; the label names the cause");
    let took = scrape.family("group_last_run_seconds", "How long the newest run took, once it is over");
    let observers = scrape.family("group_observers", "Agents that are to observe the primary");
    let fresh = scrape.family("group_observers_fresh", "Observers that reported freshly");
    for status in groups {
        let labels = GroupLabels { group: status.group.to_string() };
        epoch.get_or_create(&labels).set(number(status.epoch.0));
        for one in VERDICTS {
            let of = VerdictLabels { group: labels.group.clone(), verdict: one.to_string() };
            verdict.get_or_create(&of).set(flag(one == status.verdict.verdict));
        }
        blocked.get_or_create(&labels).set(flag(status.blocked.is_some()));
        automatic.get_or_create(&labels).set(flag(status.automatic));
        paused.get_or_create(&labels).set(flag(status.pause.is_some()));
        if let Some(quorum) = &status.quorum {
            degraded.get_or_create(&labels).set(flag(quorum.degraded.is_some()));
            still.get_or_create(&labels).set(flag(quorum.stands_still.is_some()));
        }
        observers.get_or_create(&labels).set(f64::from(status.observers.1));
        fresh.get_or_create(&labels).set(f64::from(status.observers.0));
        let active = status.run.as_ref().filter(|run| !run.phase.is_final());
        running.get_or_create(&labels).set(flag(active.is_some()));
        if let Some((cause, _)) =
            active.filter(|run| run.phase == Phase::Stuck).and_then(|run| run.stuck.as_ref())
        {
            let of = StuckLabels { group: labels.group.clone(), cause: cause.slug().to_owned() };
            stuck.get_or_create(&of).set(1.0);
        }
        let over = status.run.as_ref().filter(|run| run.phase.is_final());
        if let Some(((_, first), (_, last))) =
            over.and_then(|run| run.entered.first().zip(run.entered.last()))
        {
            took.get_or_create(&labels).set(number(last.0.saturating_sub(first.0)) / 1000.0);
        }
    }
}

/// The gauges of instances.
struct Instances {
    primary: Of<InstanceLabels>,
    serves: Of<InstanceLabels>,
    streams: Of<InstanceLabels>,
    lag: Of<InstanceLabels>,
    age: Of<InstanceLabels>,
    lease: Of<InstanceLabels>,
    gated: Of<InstanceLabels>,
    downgraded: Of<InstanceLabels>,
    trouble: Of<InstanceLabels>,
    disk_trouble: Of<DiskLabels>,
    disk_sync: Of<DiskLabels>,
    disk_free: Of<DiskLabels>,
}

fn instances(scrape: &mut Scrape, groups: &[GroupStatus]) {
    let gauges = Instances {
        primary: scrape.family("instance_primary", "Whether it is the primary, by the log"),
        serves: scrape.family("instance_serves", "Whether its guard runs it as primary under a lease"),
        streams: scrape.family("instance_streams", "Whether it is a standby that streams"),
        lag: scrape.family("instance_lag_bytes", "Bytes of WAL behind the primary"),
        age: scrape.family("instance_guard_age_seconds", "Age of what its guard said last"),
        lease: scrape.family("instance_lease_remaining_seconds", "What is left of its lease"),
        gated: scrape.family("instance_commit_gated", "Whether its commits wait, because renewals are late"),
        downgraded: scrape
            .family("instance_downgraded", "Reasons for which promise 1 is downgraded on its host"),
        trouble: scrape.family("instance_trouble", "Whether its guard reports trouble, or is silent"),
        disk_trouble: scrape.family("disk_trouble", "Whether its disk hangs, is full, slow or fails"),
        disk_sync: scrape.family("disk_sync_seconds", "How long its newest fsync took, or has waited"),
        disk_free: scrape.family("disk_free_bytes", "Bytes that are left on its disk"),
    };
    for group in groups {
        for instance in &group.instances {
            one_instance(&gauges, group, instance);
        }
    }
}

fn one_instance(gauges: &Instances, group: &GroupStatus, instance: &InstanceStatus) {
    let labels = InstanceLabels {
        group: group.group.to_string(),
        server: instance.name.to_string(),
        site: instance.site.to_string(),
    };
    gauges.primary.get_or_create(&labels).set(flag(group.primary.as_ref() == Some(&instance.name)));
    if let Some(lag) = instance.lag_bytes {
        gauges.lag.get_or_create(&labels).set(number(lag));
    }
    let Some((guard, age)) = &instance.guard else {
        gauges.serves.get_or_create(&labels).set(0.0);
        gauges.trouble.get_or_create(&labels).set(1.0);
        return;
    };
    let serves = guard.process == ProcessState::Primary && guard.lease.is_some();
    gauges.serves.get_or_create(&labels).set(flag(serves));
    let streams = guard.process == ProcessState::Standby
        && guard.receiving.as_ref().is_some_and(|receiving| receiving.streaming);
    gauges.streams.get_or_create(&labels).set(flag(streams));
    gauges.age.get_or_create(&labels).set(seconds(*age));
    if let Some(lease) = &guard.lease {
        gauges.lease.get_or_create(&labels).set(seconds(lease.remaining));
    }
    gauges.gated.get_or_create(&labels).set(flag(guard.commit_gated));
    gauges.downgraded.get_or_create(&labels).set(number(guard.downgraded.len() as u64));
    gauges.trouble.get_or_create(&labels).set(flag(guard.trouble.is_some()));
    for disk in &guard.disks {
        let of = DiskLabels {
            server: labels.server.clone(),
            group: labels.group.clone(),
            disk: disk_word(disk.holds).to_owned(),
        };
        one_disk(gauges, &of, disk, group.timing.hang_after);
    }
}

fn one_disk(gauges: &Instances, labels: &DiskLabels, disk: &DiskStanding, hang_after: Millis) {
    gauges.disk_trouble.get_or_create(labels).set(flag(trouble(disk, hang_after).is_some()));
    match disk.sync {
        DiskSync::Ok { took: time, .. } | DiskSync::Waiting { waiting: time } => {
            gauges.disk_sync.get_or_create(labels).set(seconds(time));
        }
        DiskSync::NotYet | DiskSync::NoRoom { .. } | DiskSync::Failed { .. } => {}
    }
    if let Some(room) = disk.room {
        gauges.disk_free.get_or_create(labels).set(number(room.bytes));
    }
}

/// As the label has it: stable, and one word.
const fn disk_word(holds: DiskHolds) -> &'static str {
    match holds {
        DiskHolds::All => "all",
        DiskHolds::Log => "log",
        DiskHolds::Data => "data",
    }
}

fn routes(scrape: &mut Scrape, groups: &[GroupStatus]) {
    let leads = scrape.family("route_leads", "Whether it leads to the primary of this epoch");
    let astray = scrape.family("route_astray_seconds", "How long it has been seen to lead elsewhere");
    for group in groups {
        for route in &group.routes {
            let labels = RouteLabels { group: group.group.to_string(), route: route.name.to_string() };
            leads.get_or_create(&labels).set(flag(right(group, route)));
            let away = route.astray_for.map_or(0.0, seconds);
            astray.get_or_create(&labels).set(away);
        }
    }
}

/// Services and hooks of the newest run of each group.
fn errands(scrape: &mut Scrape, groups: &[GroupStatus]) {
    let failed = scrape.family(
        "errand_failed",
        "Whether the newest run's service or hook failed, and nobody had the run skip it",
    );
    for group in groups {
        for step in group.run.iter().flat_map(|run| run.steps.values()) {
            let Effect::Errand { errand, agent, .. } = &step.effect else { continue };
            let so = match &step.outcome {
                Some(Outcome::Refused { .. } | Outcome::Unknown { .. }) => true,
                Some(Outcome::Done(_)) | None => false,
            };
            let labels = ErrandLabels {
                group: group.group.to_string(),
                errand: errand.to_string(),
                agent: agent.to_string(),
            };
            failed.get_or_create(&labels).set(flag(so));
        }
    }
}

fn right(group: &GroupStatus, route: &RouteStatus) -> bool {
    group.primary.is_some()
        && route.leads_to == group.primary
        && route.epoch == Some(group.epoch)
        && route.astray_for.is_none()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use mesh_proto::evidence::DiskRoom;

    use super::*;

    /// Two groups: one healthy, one with a stuck run and a silent guard.
    fn scraped() -> String {
        let mut view = crate::cli::render::samples::busy_status();
        view.groups[0].quorum = Some(crate::cli::render::samples::quorum_that_waits());
        let guards = view.groups.iter_mut().flat_map(|group| &mut group.instances);
        let (guard, _) = guards.filter_map(|instance| instance.guard.as_mut()).next().unwrap();
        guard.disks = vec![DiskStanding {
            at: "/srv/pg".to_owned(),
            holds: DiskHolds::All,
            sync: DiskSync::Waiting { waiting: Millis(6_000) },
            room: Some(DiskRoom { bytes: 1 << 30, size: 1 << 31, files: None, age: Millis(10) }),
        }];
        text(&view).unwrap()
    }

    #[test]
    fn every_metric_has_help_and_ends_as_openmetrics_says() {
        let text = scraped();
        assert!(text.ends_with("# EOF\n"), "{text}");
        let named = |line: &str| line.split(['{', ' ']).next().unwrap().to_owned();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(text.contains(&format!("# HELP {} ", named(line))), "{line}");
        }
        assert!(text.contains("mesh_group_verdict{group=\"orders\",verdict=\"healthy\"}"), "{text}");
        let failed = "mesh_errand_failed{group=\"orders\",errand=\"page\",agent=\"dr-1\"} 1.0";
        assert!(text.contains(failed), "{text}");
        for (name, value) in
            [("disk_trouble", "1.0"), ("disk_sync_seconds", "6.0"), ("disk_free_bytes", "1073741824.0")]
        {
            let line = text.lines().find(|line| line.starts_with(&format!("mesh_{name}{{"))).unwrap();
            assert!(line.contains("disk=\"all\"") && line.ends_with(value), "{line}");
        }
    }

    /// What rules and dashboard ask for is what is exported, by these very names.
    #[test]
    fn rules_and_dashboard_use_only_names_that_exist() {
        let text = scraped();
        let known: BTreeSet<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next().map(str::to_owned))
            .collect();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring");
        for file in ["alerts.yml", "dashboard.json"] {
            let asked = std::fs::read_to_string(folder.join(file)).unwrap();
            let words = asked.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let names: BTreeSet<_> = words.filter(|word| word.starts_with("mesh_")).collect();
            assert!(names.len() > 5, "{file} asks for nothing");
            for name in names {
                assert!(known.contains(name), "{file} asks for {name}, which no agent exports");
            }
        }
    }
}
