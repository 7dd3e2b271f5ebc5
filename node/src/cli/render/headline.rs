//! The first lines of `mesh status`: one sentence that says how it is, and what to type next.

use mesh_proto::InstanceName;
use mesh_proto::command::Verdict;
use mesh_proto::operator::{GroupStatus, InstanceStatus, RouteStatus, StatusView};
use mesh_proto::quorum::{DegradedBy, QuorumView};
use mesh_proto::run::{Phase, Run, RunKind, StuckCause};

use super::text::{Tone, count};

/// How bad it is: worse is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything is as it should be.
    Ok,
    /// It serves; something is worth looking at.
    Attention,
    /// Mesh is at work.
    Working,
    /// Nobody can say how it is.
    Unknown,
    /// A person is needed.
    Bad,
}

impl Level {
    /// As color.
    pub const fn tone(self) -> Tone {
        match self {
            Self::Ok => Tone::Good,
            Self::Attention | Self::Working | Self::Unknown => Tone::Warn,
            Self::Bad => Tone::Bad,
        }
    }
}

/// One sentence and the next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headline {
    /// How bad.
    pub level: Level,
    /// A word or two in capitals.
    pub word: &'static str,
    /// The sentence.
    pub says: String,
    /// What to type, or what to wait for; empty when there is nothing to do.
    pub next: String,
}

pub(super) fn headline(
    level: Level,
    word: &'static str,
    says: impl Into<String>,
    next: impl Into<String>,
) -> Headline {
    Headline { level, word, says: says.into(), next: next.into() }
}

/// The sentence about the mesh itself, when there is one to say before any group's.
pub fn of_mesh(view: &StatusView) -> Option<Headline> {
    if view.mesh.is_none() {
        return Some(headline(
            Level::Bad,
            "NOT FORMED",
            format!("agent {} runs, but its mesh has not been formed yet", view.agent),
            format!(
                "when every voter's agent runs, once, on one of them: mesh form\n\
                 to join a mesh that is formed already, on one of its agents: mesh node add {} --id … --site … --address …",
                view.agent
            ),
        ));
    }
    if !view.nodes.iter().any(|node| node.member.agent == view.agent) {
        return Some(headline(
            Level::Bad,
            "NO MEMBER",
            format!("agent {} does not belong to the mesh: it left, and what follows is old", view.agent),
            "ask another agent; to let this host join again: a new store, a new number, mesh node add",
        ));
    }
    if view.leader.is_none() {
        return Some(headline(
            Level::Bad,
            "NO LEADER",
            format!(
                "agent {} knows of no leader: nothing is decided, and what follows may be old",
                view.agent
            ),
            "elections end within seconds; if this stays, a majority of the voters is down or cut off:\n\
             look at `systemctl status mesh-agent` there (a primary keeps serving while its guard reaches a majority)",
        ));
    }
    if view.groups.is_empty() {
        return Some(headline(
            Level::Attention,
            "EMPTY",
            "the mesh is formed, and has no groups yet".to_owned(),
            "mesh apply -f orders.toml",
        ));
    }
    None
}

/// The sentence about a group.
pub fn of_group(group: &GroupStatus) -> Headline {
    let name = &group.group;
    if let Some(run) = group.run.as_ref().filter(|run| !run.phase.is_final()) {
        return of_run(group, run);
    }
    if let Some(alone) = super::hold::alone(group) {
        return alone;
    }
    let primary = group.primary.as_ref().map_or("no primary", |primary| primary.as_str());
    let says = |text: &str| format!("{name}: {text}");
    let summary = says(&group.verdict.summary);
    let plan = format!("mesh why --group {name}");
    let manual = if group.automatic {
        plan.clone()
    } else {
        format!("this group is not automatic: mesh plan --group {name} --site SITE, then mesh failover")
    };
    match group.verdict.verdict {
        Verdict::Unfounded => headline(
            Level::Attention,
            "NO PRIMARY YET",
            summary,
            match group.instances.first() {
                Some(first) => format!("name the first primary: mesh adopt {} --group {name}", first.name),
                None => format!("name its instances: mesh apply -f {name}.toml"),
            },
        ),
        Verdict::Blind => headline(
            Level::Unknown,
            "BLIND",
            summary,
            format!("this says nothing about {primary}: bring the agents back that do not answer (below)"),
        ),
        Verdict::Down => headline(Level::Bad, "DOWN", summary, blocked_next(group, &manual)),
        Verdict::DownNoCandidate => headline(
            Level::Bad,
            "DOWN",
            summary,
            format!("bring {primary} or a standby back; {plan} says why none may be promoted"),
        ),
        Verdict::Isolated => headline(Level::Bad, "ISOLATED", summary, blocked_next(group, &manual)),
        Verdict::UnreachableButStreaming => headline(Level::Attention, "WATCHING", summary, plan),
        Verdict::Suspect => headline(Level::Attention, "SUSPECT", summary, plan),
        Verdict::Healthy => healthy(group, primary),
    }
}

fn healthy(group: &GroupStatus, primary: &str) -> Headline {
    let name = &group.group;
    let serving = format!("{name}: {primary} is the primary (epoch {})", group.epoch);
    if group.pause.is_some() {
        return headline(
            Level::Attention,
            "OK, PAUSED",
            format!("{serving}, and will not be failed over"),
            format!("mesh resume --group {name}"),
        );
    }
    if let Some(route) = group.routes.iter().find(|route| astray(group, route)) {
        let says = format!(
            "{name}: {primary} serves (epoch {}), but route {} does not lead to it",
            group.epoch, route.name
        );
        return headline(Level::Bad, "WRONG ROUTE", says, format!("mesh why --group {name}"));
    }
    if let Some(headline) = group.quorum.as_ref().and_then(|quorum| of_quorum(group, quorum, &serving)) {
        return headline;
    }
    let following = group.instances.iter().filter(|instance| follows(instance)).count();
    let wanted = group.instances.len().saturating_sub(1);
    if let Some(why) = group.blocked.as_ref().filter(|_| group.automatic) {
        // A standby that is missing is no less worth knowing.
        let few = if following < wanted {
            format!("; {following} of {} follow", count(wanted, "standby", "standbys"))
        } else {
            String::new()
        };
        let says = format!("{serving}{few}; no automatic failover now: {why}");
        let next = blocked_next(group, &format!("mesh why --group {name}"));
        return headline(Level::Attention, "OK, BLOCKED", says, next);
    }
    if following < wanted {
        let says = format!("{serving}; {following} of {} follow", count(wanted, "standby", "standbys"));
        return headline(Level::Attention, "DEGRADED", says, format!("mesh why --group {name}"));
    }
    if !group.automatic {
        let says =
            format!("{serving}; {} follow; failover by hand only", count(wanted, "standby", "standbys"));
        return headline(Level::Ok, "OK", says, "");
    }
    let verb = if wanted == 1 { "follows" } else { "follow" };
    headline(Level::Ok, "OK", format!("{serving}; {} {verb}", count(wanted, "standby", "standbys")), "")
}

/// What keeps a zero-loss group's commits from being acknowledged, or from being safe.
fn of_quorum(group: &GroupStatus, quorum: &QuorumView, serving: &str) -> Option<Headline> {
    let name = &group.group;
    let listed = |names: &[InstanceName]| {
        let names: Vec<_> = names.iter().map(InstanceName::as_str).collect();
        names.join(" and ")
    };
    if let Some(degraded) = &quorum.degraded {
        let says = format!("{serving}, and commits wait for no standby: {}", degraded.reason);
        let enough = quorum.keep_up.len() >= quorum.size as usize;
        let next = match (degraded.by, enough) {
            (DegradedBy::Hand, true) => format!(
                "back: {}; mesh degrade --group {name} --end --reason TEXT",
                listed(&quorum.keep_up)
            ),
            (DegradedBy::Policy, true) => {
                format!("back: {}; commits wait for standbys again in a moment", listed(&quorum.keep_up))
            }
            (DegradedBy::Hand | DegradedBy::Policy, false) => {
                "bring a standby back; until then a failover would be stuck, or lose what stands on the primary alone"
                    .to_owned()
            }
        };
        return Some(headline(Level::Attention, "NOT ZERO-LOSS", says, next));
    }
    let why = quorum.stands_still.as_ref()?;
    Some(headline(
        Level::Bad,
        "COMMITS WAIT",
        format!("{serving}, but acknowledges nothing: {why}"),
        format!(
            "bring a standby back; to go on without, and risk what is written meanwhile:\nmesh degrade --group {name} --reason TEXT"
        ),
    ))
}

/// Whether a route leads to another instance than the primary, or was led there in an older epoch.
pub fn astray(group: &GroupStatus, route: &RouteStatus) -> bool {
    let elsewhere = route.leads_to.is_some() && route.leads_to != group.primary;
    elsewhere || route.astray_for.is_some() || route.epoch.is_some_and(|epoch| epoch != group.epoch)
}

/// Whether a standby streams, as its own guard says.
fn follows(instance: &InstanceStatus) -> bool {
    instance
        .guard
        .as_ref()
        .and_then(|(guard, _)| guard.receiving.as_ref())
        .is_some_and(|receiving| receiving.streaming)
}

/// What gets a blocked group moving; `otherwise` when it is not blocked.
fn blocked_next(group: &GroupStatus, otherwise: &str) -> String {
    let name = &group.group;
    if group.pause.is_some() {
        return format!("mesh resume --group {name}");
    }
    if group.blocked.is_none() {
        return otherwise.to_owned();
    }
    let ended = group.run.as_ref().is_some_and(|run| run.phase == Phase::Done);
    if ended {
        // After a failover of its own the mesh waits for a person: the hold-down.
        return format!("look at what happened (mesh why --group {name}), then: mesh ack --group {name}");
    }
    otherwise.to_owned()
}

fn of_run(group: &GroupStatus, run: &Run) -> Headline {
    let (name, id) = (&group.group, run.id);
    let what = match run.plan.kind {
        RunKind::Failover => "failover",
        RunKind::Switchover => "switchover",
    };
    match (&run.phase, &run.stuck) {
        (Phase::Stuck, Some((cause, detail))) => {
            headline(Level::Bad, "STUCK", format!("{name}: {what} {id}: {detail}"), way_out(run, *cause))
        }
        (Phase::Stuck, None) => headline(
            Level::Bad,
            "STUCK",
            format!("{name}: {what} {id} cannot go on"),
            format!("mesh why --group {name}"),
        ),
        _ => {
            let to = run.promotion.as_ref().map(|promotion| promotion.instance.to_string());
            let to = to.unwrap_or_else(|| {
                let names: Vec<_> = run.plan.candidates.iter().map(ToString::to_string).collect();
                names.join(" or ")
            });
            headline(
                Level::Working,
                "RUNNING",
                format!("{name}: {what} {id} from {} to {to} is {}", run.plan.from, run.phase),
                format!("mesh run {id} --follow"),
            )
        }
    }
}

/// The commands that lead out of being stuck, by cause.
pub fn way_out(run: &Run, cause: StuckCause) -> String {
    let id = run.id;
    let retry = format!("mesh retry {id} --reason \"…\"");
    let way = match cause {
        StuckCause::NoCandidate => format!(
            "bring a standby back, then: {retry}\n\
             or let {} open again: mesh abort {id} --reason \"…\"\n\
             or take one that lags, and lose what it lacks: mesh failover --force --reason \"…\"",
            run.plan.from
        ),
        StuckCause::FencerFailed => format!(
            "turn the host of {} off by hand or mend its fencer, then: {retry}\n\
             or let it open again: mesh abort {id} --reason \"…\"\n\
             or rely on the end of its lease alone: mesh failover --force --reason \"…\"",
            run.ending_instance
        ),
        StuckCause::PromotionFailed => {
            let instance = run.promotion.as_ref().map_or("the candidate", |p| p.instance.as_str());
            format!("mend {instance} (its server log says why it does not open), then: {retry}")
        }
        StuckCause::RouteFailed => {
            format!(
                "the new primary serves, but clients do not reach it: mend the load balancer, then: {retry}"
            )
        }
        StuckCause::ProofFailed => {
            format!("the new primary serves; find out why a write through the route fails, then: {retry}")
        }
        StuckCause::ErrandFailed => format!(
            "the new primary serves and is reached; mend what failed (its agent's log says more), then: {retry}\n\
             or go on without it: mesh skip {id} NAME --reason \"…\""
        ),
        StuckCause::ReopenFailed => {
            format!("mend {} (its guard's log says why it does not open), then: {retry}", run.ending_instance)
        }
    };
    format!("{way}\nrunbook page: {}", cause.slug())
}
