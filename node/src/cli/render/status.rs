//! `mesh status` and `mesh node list`.

use std::collections::BTreeSet;

use mesh_proto::command::Verdict;
use mesh_proto::effect::{Finding, Outcome, Target};
use mesh_proto::evidence::{GuardStatus, ProcessState, Seen, Sighting, WriteProbe};
use mesh_proto::lease::majority;
use mesh_proto::operator::{GroupStatus, InstanceStatus, NodeView, RouteStatus, StatusView};
use mesh_proto::spec::Open;
use mesh_proto::{InstanceName, Millis, NodeId, Wall};

use super::disk;
use super::headline::{self, Level};
use super::proposal;
use super::table::Table;
use super::text::{self, Look, Tone};

/// Guards report several times a second: an older report is news in itself.
const OLD: Millis = Millis(2_000);

/// How much is said of what is no news: why a promise is downgraded on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// That there is something, and how to read it.
    Brief,
    /// All of it.
    Notes,
}

/// Everything that an operator needs first: the verdict, what to do, then what it rests on.
#[must_use]
pub fn status(view: &StatusView, detail: Detail, look: &Look) -> String {
    let mut lines: Vec<_> = headline::of_mesh(view).into_iter().collect();
    let no_leader = view.leader.is_none();
    let mut of_groups: Vec<_> = view.groups.iter().map(headline::of_group).collect();
    // What is worst stands first; groups of one level keep the order of their names.
    of_groups.sort_by_key(|line| std::cmp::Reverse(line.level));
    lines.extend(of_groups);
    let mut out = String::new();
    for line in &lines {
        // Without a leader what is known of groups is old: said, but not in green.
        let stale = no_leader && line.level == Level::Ok;
        let (tone, word) = if stale { (Tone::Dim, "LAST KNOWN") } else { (line.level.tone(), line.word) };
        out.push_str(&look.labelled(tone, &format!("{word}  "), &line.says));
        if !line.next.is_empty() {
            out.push_str(&look.step("  next: ", &line.next));
        }
    }
    for trouble in &view.troubles {
        out.push_str(&look.labelled(Tone::Bad, &format!("AGENT {}  ", view.agent), trouble));
    }
    for group in &view.groups {
        out.push('\n');
        out.push_str(&of_group(group, view.at, detail, look));
    }
    if !view.nodes.is_empty() {
        out.push('\n');
        out.push_str(&agents(view, look));
    }
    out.push('\n');
    let mesh = view.mesh.as_ref().map_or_else(|| "no mesh".to_owned(), |mesh| format!("mesh {mesh}"));
    let asked = format!("{mesh}, as agent {} saw it at {}", view.agent, text::moment(view.at));
    out.push_str(&look.paint(Tone::Dim, &asked));
    out.push('\n');
    out
}

fn of_group(group: &GroupStatus, now: Wall, detail: Detail, look: &Look) -> String {
    let mode = if group.automatic { "automatic" } else { "by hand" };
    let (fresh, expected) = group.observers;
    let engine = if group.engine.is_postgres() { String::new() } else { format!("   {}", group.engine) };
    let heading = format!(
        "group {}{engine}   epoch {}   {}   {mode}   observers {fresh} of {expected}   lease {}   spec {}",
        group.group,
        group.epoch,
        group.verdict.verdict,
        text::length(group.timing.lease),
        group.version
    );
    let mut out = format!("{heading}\n");
    if let Some((reason, length)) = &group.pause {
        let paused = format!("for at most {}: {reason}", text::length(*length));
        out.push_str(&look.labelled(Tone::Warn, "  paused   ", &paused));
    }
    if let Some(open) = &group.proposal {
        let says = proposal::line(open, now);
        out.push_str(&look.labelled(Tone::Warn, "  proposed ", &says));
        out.push_str(&look.step("    next: ", &format!("another person: mesh approve {}", open.id)));
    }
    // A healthy or paused group's first line said it already.
    let said = group.pause.is_some() || group.verdict.verdict == Verdict::Healthy;
    if let Some(quorum) = &group.quorum {
        let waits = format!("zero loss: a commit waits for {}", quorum.waits_for);
        out.push_str(&look.labelled(Tone::Plain, "  quorum   ", &waits));
        if let Some(why) = &quorum.not_yet {
            out.push_str(&look.labelled(Tone::Warn, "  quorum   ", &format!("not yet zero-loss: {why}")));
        }
        if quorum.open == Open::DurabilityOnly {
            let named = "\"one writer\" holds for durable writes only (open = \"durability-only\"): after a failover the old \
                         primary may answer readers until its lease is over";
            out.push_str(&look.labelled(Tone::Dim, "  opens    ", named));
        }
    }
    if let Some(why) = group.blocked.as_ref().or(group.verdict.blocked.as_ref()).filter(|_| !said) {
        out.push_str(&look.labelled(Tone::Warn, "  blocked  ", why));
    }
    for (tone, says) in super::hold::lines(group) {
        out.push_str(&look.labelled(tone, "  holds    ", &says));
    }
    let mut table =
        Table::with_heading(&["instance", "site", "role", "state", "epoch", "lease", "lag", "seen by"]);
    for instance in &group.instances {
        table.row(instance_row(group, instance));
    }
    out.push_str(&table.text(look, 2));
    let mut said: Vec<_> =
        group.instances.iter().flat_map(|instance| notes(instance, group.timing.hang_after)).collect();
    // What is wrong stands before what goes on.
    said.sort_by_key(|(tone, ..)| *tone != Tone::Bad);
    for (tone, instance, note) in said {
        out.push_str(&look.labelled(tone, &format!("  ! {instance}: "), &note));
    }
    for route in &group.routes {
        out.push_str(&route_line(group, route, look));
    }
    out.push_str(&errands(group, look));
    out.push_str(&downgrades(group, detail, look));
    out
}

/// Services and hooks of the newest run that are under way, or that failed.
fn errands(group: &GroupStatus, look: &Look) -> String {
    let mut out = String::new();
    for step in group.run.iter().flat_map(|run| run.steps.values()) {
        let Target::Errand(name) = step.effect.target() else { continue };
        let (tone, label, says) = match &step.outcome {
            None => (
                Tone::Dim,
                format!("  … {name}: "),
                format!("{}, begun {}", step.effect, text::clock(step.began)),
            ),
            Some(Outcome::Refused { detail, .. } | Outcome::Unknown { detail }) => {
                (Tone::Warn, format!("  ! {name}: "), format!("{}: {detail}", step.effect))
            }
            Some(Outcome::Done(Finding::Skipped { reason })) => {
                (Tone::Warn, format!("  ! {name}: "), format!("{} was skipped: {reason}", step.effect))
            }
            Some(Outcome::Done(_)) => continue,
        };
        out.push_str(&look.labelled(tone, &label, &says));
    }
    out
}

/// Where "one writer" is downgraded, and why: one calm line, since it is so every day, or each reason once.
fn downgrades(group: &GroupStatus, detail: Detail, look: &Look) -> String {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut places: Vec<&str> = Vec::new();
    for instance in &group.instances {
        let name = instance.name.as_str();
        for why in instance.guard.iter().flat_map(|(guard, _)| &guard.downgraded) {
            match reasons.iter_mut().find(|(known, _)| known == why) {
                Some((_, names)) => names.push(name),
                None => reasons.push((why, vec![name])),
            }
            if !places.contains(&name) {
                places.push(name);
            }
        }
    }
    if reasons.is_empty() {
        return String::new();
    }
    let heading = format!("\"one writer\" is downgraded at {}", places.join(", "));
    match detail {
        Detail::Brief => {
            let count = text::count(reasons.len(), "reason", "reasons");
            look.labelled(Tone::Dim, "  note  ", &format!("{heading}, for {count}: `mesh status --notes`"))
        }
        Detail::Notes => {
            let mut out = look.labelled(Tone::Dim, "  note  ", &heading);
            for (why, names) in reasons {
                let at = if names == places { String::new() } else { format!("{}: ", names.join(", ")) };
                out.push_str(&look.labelled(Tone::Dim, "        - ", &format!("{at}{why}")));
            }
            out
        }
    }
}

fn instance_row(group: &GroupStatus, instance: &InstanceStatus) -> Vec<(Tone, String)> {
    let primary = group.primary.as_ref() == Some(&instance.name);
    let guard = instance.guard.as_ref();
    let role = match &group.primary {
        None => "-",
        Some(_) if primary => "primary",
        Some(_) => "standby",
    };
    let held = guard.and_then(|(guard, age)| guard.lease.map(|lease| (lease, *age)));
    let epoch = match (held, guard, &instance.lease) {
        (Some((lease, _)), _, _) => lease.term.epoch.to_string(),
        (None, Some((guard, _)), _) => guard.gate.to_string(),
        (None, None, Some(lease)) => lease.term.epoch.to_string(),
        (None, None, None) => "-".to_owned(),
    };
    let lease = match held.map(|(lease, age)| lease.remaining.minus(age)) {
        Some(Millis(0)) => (Tone::Bad, "over".to_owned()),
        Some(left) => (Tone::Plain, text::length(left)),
        None if primary => (Tone::Bad, "none".to_owned()),
        None => (Tone::Dim, "-".to_owned()),
    };
    let lag = match instance.lag_bytes {
        _ if primary => (Tone::Dim, "-".to_owned()),
        Some(lag) => (Tone::Plain, text::bytes(lag)),
        None => (Tone::Dim, "?".to_owned()),
    };
    vec![
        (Tone::Plain, instance.name.to_string()),
        (Tone::Plain, instance.site.to_string()),
        (Tone::Plain, role.to_owned()),
        match guard {
            // What a silent guard said last need not be so any more.
            Some((_, age)) if *age >= OLD => (Tone::Bad, "not heard".to_owned()),
            Some((guard, _)) => state(guard, primary),
            None => (Tone::Bad, "guard silent".to_owned()),
        },
        (Tone::Plain, epoch),
        lease,
        lag,
        seen_by(&instance.seen),
    ]
}

/// What an instance does, in a word or two, and how that fits its role.
fn state(guard: &GuardStatus, primary: bool) -> (Tone, String) {
    let frozen = guard.frozen.is_some();
    let streaming = guard.receiving.as_ref().is_some_and(|receiving| receiving.streaming);
    let (tone, word) = match guard.process {
        ProcessState::Primary if !primary => (Tone::Bad, "still runs as primary"),
        ProcessState::Primary if guard.commit_gated => (Tone::Warn, "commits held"),
        ProcessState::Primary if guard.clients_wait => (Tone::Warn, "clients shut out"),
        ProcessState::Primary => match guard.write_probe {
            WriteProbe::Ok { .. } => (Tone::Good, "writable"),
            WriteProbe::NotApplicable => (Tone::Warn, "not probed yet"),
            WriteProbe::Late { .. } => (Tone::Bad, "writes hang"),
            WriteProbe::WaitingForStandbys => (Tone::Warn, "waits for standbys"),
            WriteProbe::Failed { .. } => (Tone::Bad, "writes fail"),
        },
        ProcessState::Standby if primary => (Tone::Warn, "not open yet"),
        ProcessState::Standby if frozen => (Tone::Warn, "frozen"),
        ProcessState::Standby if streaming => (Tone::Good, "streaming"),
        ProcessState::Standby => (Tone::Warn, "not streaming"),
        ProcessState::Starting => (Tone::Warn, "starting"),
        ProcessState::Stopped if guard.receipt.is_some() => (Tone::Warn, "fenced"),
        ProcessState::Stopped => (Tone::Bad, "stopped"),
        ProcessState::Died => (Tone::Bad, "died"),
        ProcessState::Unresponsive => (Tone::Bad, "does not answer"),
        ProcessState::Unknown => (Tone::Warn, "not known yet"),
    };
    (tone, word.to_owned())
}

/// Who sees a working server there, and what the others see instead.
fn seen_by(sightings: &[(mesh_proto::AgentName, Sighting)]) -> (Tone, String) {
    let lost = |sighting: &Sighting| sighting.seen.is_lost();
    let (bad, good): (Vec<_>, Vec<_>) = sightings.iter().partition(|(_, sighting)| lost(sighting));
    if sightings.is_empty() {
        return (Tone::Warn, "nobody".to_owned());
    }
    if bad.is_empty() {
        let odd: Vec<_> = good
            .iter()
            .filter_map(|(agent, sighting)| odd(sighting).map(|word| format!("{agent}: {word}")))
            .collect();
        let all = if good.len() == 1 { "1 agent".to_owned() } else { format!("all {} agents", good.len()) };
        return if odd.is_empty() { (Tone::Good, all) } else { (Tone::Warn, odd.join(", ")) };
    }
    if good.is_empty() {
        return (Tone::Bad, format!("none of {}: {}", bad.len(), misses(&bad)));
    }
    let names: Vec<_> = bad.iter().map(|(agent, _)| agent.to_string()).collect();
    let says = format!("{} of {}; not {} ({})", good.len(), sightings.len(), names.join(", "), misses(&bad));
    (Tone::Warn, says)
}

/// What those see who do not see it: `refused for 3.2 s, timed out`.
fn misses(bad: &[&(mesh_proto::AgentName, Sighting)]) -> String {
    let mut words: Vec<&str> = bad.iter().map(|(_, sighting)| text::seen(sighting.seen)).collect();
    words.sort_unstable();
    words.dedup();
    let longest = bad.iter().filter_map(|(_, sighting)| sighting.lost_for).max();
    let since = longest.map(|time| format!(" for {}", text::length(time))).unwrap_or_default();
    format!("{}{since}", words.join(" or "))
}

/// An answer that is neither a loss nor what a working server says.
fn odd(sighting: &Sighting) -> Option<&'static str> {
    match sighting.seen {
        Seen::Writable { .. } | Seen::ReadOnly | Seen::Refused | Seen::TimedOut | Seen::Unreachable => None,
        Seen::Starting | Seen::Busy | Seen::AuthFailed | Seen::WrongSystem | Seen::Error | Seen::NotYet => {
            Some(text::seen(sighting.seen))
        }
    }
}

/// What is worth saying of an instance besides its row.
fn notes(instance: &InstanceStatus, hang_after: Millis) -> Vec<(Tone, &InstanceName, String)> {
    let name = &instance.name;
    let mut notes = Vec::new();
    if let Some((guard, age)) = &instance.guard {
        notes.extend(guard.trouble.iter().map(|trouble| (Tone::Bad, name, trouble.clone())));
        notes.extend(disk::notes(guard, hang_after).into_iter().map(|(tone, says)| (tone, name, says)));
        notes.extend(guard.busy.iter().map(|busy| (Tone::Dim, name, busy.clone())));
        if *age >= OLD {
            notes.push((Tone::Warn, name, format!("its guard was last heard {} ago", text::length(*age))));
        }
    } else {
        let text =
            format!("nothing was heard from its guard; on its host: `systemctl status mesh-guard@{name}`");
        notes.push((Tone::Bad, name, text));
    }
    let found = |wanted: Seen| {
        let agents = instance.seen.iter().filter(|(_, sighting)| sighting.seen == wanted);
        let names: Vec<_> = agents.map(|(agent, _)| agent.to_string()).collect();
        Some(names.join(", ")).filter(|names| !names.is_empty())
    };
    if let Some(agents) = found(Seen::AuthFailed) {
        let text = format!(
            "refuses the login of the observers {agents}, who are blind without it: check [probe] in their files, and the \
             role's password and pg_hba"
        );
        notes.push((Tone::Bad, name, text));
    }
    if let Some(agents) = found(Seen::WrongSystem) {
        let text = format!("a server of another cluster answers at {}, say {agents}", instance.address);
        notes.push((Tone::Bad, name, text));
    }
    notes.extend(instance.repair.iter().map(|repair| (Tone::Warn, name, repair.clone())));
    notes
}

fn route_line(group: &GroupStatus, route: &RouteStatus, look: &Look) -> String {
    let (tone, leads) = match (&route.leads_to, route.epoch) {
        (Some(instance), Some(_)) if !headline::astray(group, route) => {
            (Tone::Plain, format!("leads to {instance}"))
        }
        (Some(instance), Some(epoch)) if epoch == group.epoch && group.primary.as_ref() == Some(instance) => {
            (Tone::Bad, format!("was led to {instance}, but does not lead there now; mesh leads it anew"))
        }
        (Some(instance), Some(epoch)) => (Tone::Bad, format!("still leads to {instance}, of epoch {epoch}")),
        (Some(instance), None) => (Tone::Warn, format!("leads to {instance}, in an unknown epoch")),
        (None, _) => (Tone::Warn, "leads nowhere yet".to_owned()),
    };
    let mut out = format!("  route {} at {} {}\n", route.name, route.listen, look.paint(tone, &leads));
    if let Some(note) = &route.note {
        out.push_str(&look.labelled(Tone::Warn, &format!("  ! {}: ", route.name), note));
    }
    out
}

fn agents(view: &StatusView, look: &Look) -> String {
    let voters = &view.electorate.members;
    let leader =
        view.leader.as_ref().map_or_else(|| "no leader".to_owned(), |leader| format!("{leader} leads"));
    let heading = format!(
        "agents {}   {leader}   term {}   log {}   a majority is {} of {}",
        view.nodes.len(),
        view.term,
        view.applied,
        majority(voters),
        text::count(voters.len(), "voter", "voters")
    );
    let mut out = format!("{heading}\n");
    if view.electorate.changes() {
        let names = |set: &BTreeSet<NodeId>| {
            let of = view.nodes.iter().filter(|node| set.contains(&node.member.id));
            of.map(|node| node.member.agent.to_string()).collect::<Vec<_>>().join(", ")
        };
        let why = format!(
            "the voters on leases change from {} to {}: until then majorities of both are needed (`mesh node voters` with \
             the old ones gives it up)",
            names(&view.electorate.leaving),
            names(voters)
        );
        out.push_str(&look.labelled(Tone::Warn, "  ! ", &why));
    }
    out.push_str(&node_table(&view.nodes, look));
    out
}

/// `mesh node list`
#[must_use]
pub fn nodes(nodes: &[NodeView], look: &Look) -> String {
    if nodes.is_empty() {
        return "the mesh has no members yet\nnext: mesh form\n".to_owned();
    }
    node_table(nodes, look)
}

fn node_table(nodes: &[NodeView], look: &Look) -> String {
    let mut table = Table::with_heading(&["agent", "site", "number", "votes", "address", "state"]);
    for node in nodes {
        let state = match (node.leader, node.reachable, node.report_age) {
            (true, _, _) => (Tone::Good, "leads".to_owned()),
            (false, Some(true), Some(age)) => {
                (Tone::Good, format!("answers, reported {} ago", text::length(age)))
            }
            (false, Some(true), None) => (Tone::Warn, "answers, no report yet".to_owned()),
            (false, Some(false), Some(age)) => {
                (Tone::Bad, format!("silent, last report {} ago", text::length(age)))
            }
            (false, Some(false), None) => (Tone::Bad, "silent".to_owned()),
            (false, None, _) => (Tone::Dim, "only the leader can tell".to_owned()),
        };
        let member = &node.member;
        let votes = match (member.voter, node.elector) {
            (true, true) => "yes",
            (true, false) => "in the log",
            (false, _) => "no",
        };
        table.row(vec![
            (Tone::Plain, member.agent.to_string()),
            (Tone::Plain, member.site.to_string()),
            (Tone::Plain, member.id.to_string()),
            (Tone::Plain, votes.to_owned()),
            (Tone::Plain, member.address.clone()),
            state,
        ]);
    }
    table.text(look, 2)
}
