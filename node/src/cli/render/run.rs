//! A plan, a run as it goes on, and the summary at its end.

use std::collections::BTreeMap;

use mesh_failover::errands;
use mesh_proto::effect::{Finding, Outcome, Rejoined};
use mesh_proto::lease::{FenceCause, Proof, ReceiptLevel};
use mesh_proto::operator::{PlanView, RunView};
use mesh_proto::run::{Actor, Phase, Run, RunKind, Step};
use mesh_proto::{Millis, Wall};

use super::headline::way_out;
use super::table::Table;
use super::text::{self, Look, Tone};

/// `mesh plan`
#[must_use]
pub fn plan(view: &PlanView, look: &Look) -> String {
    let plan = &view.plan;
    let how = match plan.kind {
        RunKind::Failover => "fences the old primary",
        RunKind::Switchover => "stops the old primary cleanly",
    };
    let best = plan.candidates.first().map_or("nobody", |name| name.as_str());
    let title = format!("{} of {}: {} -> {best}; {how}", plan.kind, plan.group, plan.from);
    let mut out = look.labelled(Tone::Plain, "PLAN  ", &title);
    out.push_str(&look.labelled(Tone::Dim, "  why       ", &plan.reason));
    let loss = match view.may_lose_bytes {
        Some(0) => "nothing".to_owned(),
        Some(bytes) => format!("at most {} of writes, as far as is known now", text::bytes(bytes)),
        None => "not known".to_owned(),
    };
    out.push_str(&look.labelled(Tone::Dim, "  may lose  ", &loss));
    if view.wait_at_most > Millis::ZERO {
        let wait = format!(
            "at most {} for the old lease, when no receipt comes sooner",
            text::length(view.wait_at_most)
        );
        out.push_str(&look.labelled(Tone::Dim, "  waits     ", &wait));
    }
    if plan.candidates.len() > 1 {
        let names: Vec<_> = plan.candidates.iter().map(ToString::to_string).collect();
        let text = format!("{} (which one, is decided when they are frozen)", names.join(", "));
        out.push_str(&look.labelled(Tone::Dim, "  best      ", &text));
    }
    for (name, why) in &plan.rejected {
        out.push_str(&look.labelled(Tone::Dim, "  not       ", &format!("{name}: {why}")));
    }
    for (number, step) in view.steps.iter().enumerate() {
        out.push_str(&look.labelled(Tone::Dim, &format!("  {:>4}  ", number + 1), step));
    }
    if let Some((chain, time)) = &view.longest {
        let text = format!("{}: at most {} beside the database", chain.join(" > "), text::length(*time));
        out.push_str(&look.labelled(Tone::Dim, "  longest   ", &text));
    }
    if view.findings.is_empty() {
        out.push_str("it may be executed; nothing was changed\n");
    } else {
        for finding in &view.findings {
            out.push_str(&look.labelled(Tone::Bad, "  NOT SAFE  ", finding));
        }
        out.push_str("it may not be executed as it is; nothing was changed\n");
        // --force waives verdict, hold-down and lag; it makes nobody fit who is not.
        let lags = plan.rejected.iter().any(|(_, why)| why.contains("max_lag_bytes"));
        let next = match plan.kind {
            RunKind::Failover if lags || !plan.candidates.is_empty() => {
                "mend what is not safe, or waive verdict, hold-down and lag limit: mesh failover … --force --reason \"…\""
            }
            RunKind::Failover | RunKind::Switchover => "mend what is not safe, and plan again",
        };
        out.push_str(&look.step("next: ", next));
    }
    out
}

/// The first line about a run.
#[must_use]
pub fn run_heading(view: &RunView, look: &Look) -> String {
    let plan = &view.run.plan;
    let to = match &view.run.promotion {
        Some(promotion) => promotion.instance.to_string(),
        None => plan.candidates.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "),
    };
    let asked = match &plan.actor {
        Actor::Mesh => "by mesh itself".to_owned(),
        Actor::Operator(name) => format!("asked for by {name}"),
    };
    let title = format!("{} of {}: {} -> {to}, {asked}: {}", plan.kind, plan.group, plan.from, plan.reason);
    let mut out = look.labelled(Tone::Plain, &format!("RUN {}  ", view.run.id), &title);
    if view.joined {
        out.push_str("it was going on already; you follow that one\n");
    }
    out
}

/// `mesh run`, not followed: everything so far.
#[must_use]
pub fn run(view: &RunView, look: &Look) -> String {
    let mut progress = Progress::new(*look);
    let mut out = progress.news(view);
    if view.run.phase.is_final() || view.run.phase == Phase::Stuck {
        out.push_str(&run_summary(view, look));
    } else {
        out.push_str(&look.step("next: ", &format!("mesh run {} --follow", view.run.id)));
    }
    out
}

/// Shows a run as it goes on: each call gives what is new since the last one.
#[derive(Debug)]
pub struct Progress {
    look: Look,
    begun: bool,
    phases: usize,
    /// By step: attempts announced, and the attempts whose outcome was shown.
    steps: BTreeMap<u32, (u32, u32)>,
}

impl Progress {
    /// Nothing shown yet.
    #[must_use]
    pub const fn new(look: Look) -> Self {
        Self { look, begun: false, phases: 0, steps: BTreeMap::new() }
    }

    /// The new lines.
    pub fn news(&mut self, view: &RunView) -> String {
        let mut out = String::new();
        if !self.begun {
            self.begun = true;
            out.push_str(&run_heading(view, &self.look));
        }
        let run = &view.run;
        let mut lines: Vec<(Wall, u8, String)> = Vec::new();
        for (phase, at) in run.entered.iter().skip(self.phases) {
            lines.push((*at, 1, self.phase_line(run, *phase, *at)));
        }
        self.phases = run.entered.len();
        for (number, step) in &run.steps {
            let shown = self.steps.entry(*number).or_default();
            let ended = step.outcome.as_ref().zip(step.ended);
            if let Some((outcome, at)) = ended {
                if shown.1 < step.attempts {
                    *shown = (step.attempts, step.attempts);
                    lines.push((at, 0, step_ended(&self.look, run, step, outcome, at)));
                }
            } else if shown.0 < step.attempts {
                *shown = (step.attempts, shown.1);
                lines.push((step.began, 2, step_begun(&self.look, run, step)));
            }
        }
        // By time; at one instant what ended stands before the phase that it led to.
        lines.sort_by_key(|(at, rank, _)| (*at, *rank));
        out.extend(lines.into_iter().map(|(_, _, line)| line));
        out
    }

    fn phase_line(&self, run: &Run, phase: Phase, at: Wall) -> String {
        let (tone, says) = match phase {
            Phase::Preparing => (Tone::Plain, "a checkpoint first, while everything still runs".to_owned()),
            Phase::Pledging => (
                Tone::Plain,
                format!("a majority of voters pledges to renew {}'s lease no more", run.ending_instance),
            ),
            Phase::Fencing => {
                (Tone::Plain, "standbys are frozen; the old primary must be proved silent".to_owned())
            }
            Phase::Promoting => (Tone::Plain, promoting(run)),
            Phase::Routing => (Tone::Plain, "routes are led to the new primary".to_owned()),
            Phase::Staging => {
                (Tone::Plain, "services and hooks come first that the routes wait for".to_owned())
            }
            Phase::Proving => (Tone::Plain, "a write and a read go through each route".to_owned()),
            Phase::Finishing => (Tone::Plain, "the services and hooks that are left".to_owned()),
            Phase::Reopening => (Tone::Warn, format!("{} gets a new lease and opens again", run.plan.from)),
            Phase::Done => (Tone::Good, "the new primary serves".to_owned()),
            Phase::Aborted => (Tone::Warn, "ended without a change of primary".to_owned()),
            Phase::Stuck => (Tone::Bad, "cannot go on by itself".to_owned()),
        };
        let label = format!("{:>9}  {:<9}  ", text::exact(since_start(run, at)), phase.to_string());
        self.look.labelled(tone, &label, &says)
    }
}

fn promoting(run: &Run) -> String {
    match &run.promotion {
        Some(promotion) => {
            let term = promotion.term.epoch;
            format!("{} is the primary of epoch {term}: {}", promotion.instance, proof(&promotion.proof))
        }
        None => "the promotion is committed".to_owned(),
    }
}

/// Why the old primary cannot acknowledge writes any more.
fn proof(proof: &Proof) -> String {
    match proof {
        Proof::Receipt(receipt) => {
            let level = match (receipt.cause, receipt.level) {
                (FenceCause::HandOver, _) => "handed over, and can acknowledge nothing any more",
                (_, ReceiptLevel::NoAck) => "can acknowledge nothing any more",
                (_, ReceiptLevel::Quiet) => "has no process left",
            };
            format!("{}'s guard gave a receipt that it {level}", receipt.key.instance)
        }
        Proof::Frozen(frozen) => format!(
            "its commit quorum is frozen ({} pledged): it can acknowledge no durable write; until its lease is over it may \
             answer readers, as `open = \"durability-only\"` allows",
            text::count(frozen.pledges.len(), "voter", "voters")
        ),
        Proof::External(off) => {
            let said = if off.said.is_empty() { String::new() } else { format!(": {}", off.said) };
            format!("its host was turned off by {} ({}){said}", off.agent, off.fencer)
        }
        Proof::Expired(expiry) => format!(
            "the old lease ran out ({} pledged, {} waited)",
            text::count(expiry.pledges.len(), "voter", "voters"),
            text::length(expiry.waited)
        ),
    }
}

fn since_start(run: &Run, at: Wall) -> Millis {
    let start = run.entered.first().map_or(at, |(_, at)| *at);
    Millis(at.0.saturating_sub(start.0))
}

fn step_begun(look: &Look, run: &Run, step: &Step) -> String {
    let at = text::exact(since_start(run, step.began));
    let again = if step.attempts > 1 { format!(" (attempt {})", step.attempts) } else { String::new() };
    look.labelled(Tone::Dim, &format!("{at:>9}             "), &format!("{} …{again}", step.effect))
}

fn step_ended(look: &Look, run: &Run, step: &Step, outcome: &Outcome, at: Wall) -> String {
    let took = text::exact(Millis(at.0.saturating_sub(step.began.0)));
    let (tone, result) = match outcome {
        Outcome::Done(Finding::Skipped { reason }) => {
            (Tone::Warn, format!("skipped by an operator after {took}: {reason}"))
        }
        Outcome::Done(found) => (Tone::Plain, format!("ok in {took}{}", finding(found))),
        Outcome::Refused { code: _, detail } => (Tone::Warn, format!("refused after {took}: {detail}")),
        Outcome::Unknown { detail } => (Tone::Warn, format!("outcome unknown after {took}: {detail}")),
    };
    let again = if step.attempts > 1 { format!(" (attempt {})", step.attempts) } else { String::new() };
    let label = format!("{:>9}             ", text::exact(since_start(run, at)));
    look.labelled(tone, &label, &format!("{}{again}: {result}", step.effect))
}

/// What only an old primary had.
fn kept_aside(bytes: u64, transactions: Option<u64>) -> String {
    let count =
        |count: u64| text::count(usize::try_from(count).unwrap_or(usize::MAX), "transaction", "transactions");
    let holds = transactions.map(|all| format!(" ({})", count(all))).unwrap_or_default();
    format!("{}{holds} only it had were kept aside", text::bytes(bytes))
}

fn finding(found: &Finding) -> String {
    match found {
        Finding::Nothing => String::new(),
        Finding::Fenced(receipt) => match (receipt.level, receipt.shutdown_at) {
            (_, Some(at)) => format!(", stopped cleanly at {at}"),
            (ReceiptLevel::Quiet, None) => ", no process left".to_owned(),
            (ReceiptLevel::NoAck, None) => ", acknowledges nothing any more".to_owned(),
        },
        Finding::Frozen { position, .. } => {
            format!(", at {} of timeline {}", position.have, position.timeline)
        }
        Finding::Promoted { timeline, at } => format!(", timeline {timeline}, epoch written at {at}"),
        Finding::Follows { how } => match how {
            Rejoined::Followed => ", as it was".to_owned(),
            Rejoined::Rewound { diverged_bytes, transactions, .. } => {
                format!(", rewound; {}", kept_aside(*diverged_bytes, *transactions))
            }
            Rejoined::Rebuilt { diverged_bytes: Some(bytes @ 1..), transactions, .. } => {
                format!(", rebuilt; {}", kept_aside(*bytes, *transactions))
            }
            Rejoined::Rebuilt { .. } => ", rebuilt".to_owned(),
        },
        Finding::Off { said, .. } if said.is_empty() => ", off".to_owned(),
        Finding::Off { said, .. } => format!(", off: {said}"),
        Finding::Scanned { commits: 0, .. } => ", the candidate lacks no commit".to_owned(),
        Finding::Scanned { commits, bytes, .. } => {
            let commits = text::count(usize::try_from(*commits).unwrap_or(usize::MAX), "commit", "commits");
            format!(", the candidate lacks {commits} ({})", text::bytes(*bytes))
        }
        Finding::Routed { ended, stragglers: 0 } => {
            format!(", {} ended", text::count(*ended as usize, "old session", "old sessions"))
        }
        Finding::Routed { ended, stragglers } => format!(
            ", {} ended, {stragglers} remain",
            text::count(*ended as usize, "old session", "old sessions")
        ),
        Finding::Named { servers: 0, lagging } if lagging.is_empty() => String::new(),
        Finding::Named { servers, lagging } if lagging.is_empty() => {
            format!(", shown by {}", text::count(*servers as usize, "name server", "name servers"))
        }
        Finding::Named { lagging, .. } => format!(", not shown yet by {}", lagging.join("; ")),
        Finding::Ran { took: _, said: Some(said) } => format!(", it said: {said}"),
        Finding::Ran { took: _, said: None } => String::new(),
        Finding::Skipped { reason } => format!(", skipped by an operator: {reason}"),
        Finding::Proved { took, read, stragglers } => {
            let read = read.map(|read| format!(", the read {}", text::exact(read))).unwrap_or_default();
            let left = match stragglers {
                None => String::new(),
                Some(0) => ", no old session left".to_owned(),
                Some(left) => {
                    format!(", {} left", text::count(*left as usize, "old session", "old sessions"))
                }
            };
            format!(", the write took {}{read}{left}", text::exact(*took))
        }
    }
}

/// The stages that people compare, in order, and the phase that makes each.
const STAGES: [(&str, Phase); 9] = [
    ("prepare", Phase::Preparing),
    ("agree", Phase::Pledging),
    ("fence", Phase::Fencing),
    ("reopen", Phase::Reopening),
    ("promote", Phase::Promoting),
    ("stage", Phase::Staging),
    ("route", Phase::Routing),
    ("verify", Phase::Proving),
    ("finish", Phase::Finishing),
];

/// The end of a run: what became of it, the milliseconds of each stage, and what to do next.
#[must_use]
pub fn run_summary(view: &RunView, look: &Look) -> String {
    let run = &view.run;
    let end = run.entered.last().map_or(Wall(0), |(_, at)| *at);
    let total = text::exact(since_start(run, end));
    let (id, group) = (run.id, &run.plan.group);
    let (tone, label, says, next) = match (run.phase, &run.promotion) {
        (Phase::Done, Some(promotion)) => (
            Tone::Good,
            "DONE  ",
            format!(
                "{} is the primary of {group} (epoch {}); {id} took {total}",
                promotion.instance, promotion.term.epoch
            ),
            "mesh status".to_owned(),
        ),
        (Phase::Done, None) => (Tone::Good, "DONE  ", format!("{id} took {total}"), "mesh status".to_owned()),
        (Phase::Aborted, _) => (
            Tone::Warn,
            "ABORTED  ",
            format!("{} is still the primary of {group}; {id} ended after {total}", run.plan.from),
            format!("mesh why --group {group}"),
        ),
        (Phase::Stuck, _) => {
            let (says, next) = match &run.stuck {
                Some((cause, detail)) => (detail.clone(), way_out(run, *cause)),
                None => ("it cannot go on by itself".to_owned(), format!("mesh why --group {group}")),
            };
            (Tone::Bad, "STUCK  ", format!("{id}: {says}"), next)
        }
        (phase, _) => {
            (Tone::Warn, "GOES ON  ", format!("{id} is {phase}"), format!("mesh run {id} --follow"))
        }
    };
    let mut out = String::from("\n");
    out.push_str(&look.labelled(tone, label, &says));
    out.push_str(&timeline(view, look));
    out.push_str(&critical_path(run, look));
    out.push_str(&look.step("next: ", &next));
    out
}

/// What the length of the run depended on: each of these began when the one before it had ended.
fn critical_path(run: &Run, look: &Look) -> String {
    let told = |number: u32| {
        let step = run.steps.get(&number)?;
        let took = step.ended.map(|end| Millis(end.0.saturating_sub(step.began.0)))?;
        Some(format!("{} {}", step.effect, text::exact(took)))
    };
    let path: Vec<_> = errands::critical_path(run).into_iter().filter_map(told).collect();
    if path.is_empty() {
        return String::new();
    }
    look.labelled(Tone::Dim, "  critical path  ", &path.join(" > "))
}

fn timeline(view: &RunView, look: &Look) -> String {
    let run = &view.run;
    let mut table = Table::default();
    let detect = match (run.plan.lost_for, &run.plan.actor) {
        (Some(time), _) => (text::exact(time), "lost until the mesh was sure"),
        (None, Actor::Operator(_)) => ("-".to_owned(), "asked for by a person"),
        (None, Actor::Mesh) => ("?".to_owned(), "not known any more"),
    };
    let row = |name: &str, time: String, note: String| {
        vec![(Tone::Dim, name.to_owned()), (Tone::Plain, format!("{time:>9}")), (Tone::Dim, note)]
    };
    table.row(row("detect", detect.0, detect.1.to_owned()));
    for (name, phase) in STAGES {
        if let Some(time) = spent(run, phase) {
            table.row(row(name, text::exact(time), note(run, phase)));
        }
    }
    table.text(look, 2)
}

/// Time spent in a phase, or `None` when the run was never there.
fn spent(run: &Run, wanted: Phase) -> Option<Millis> {
    let ends = run.entered.iter().skip(1).map(|(_, at)| *at);
    let spans = run.entered.iter().zip(ends).filter(|((phase, _), _)| *phase == wanted);
    spans.map(|((_, from), to)| Millis(to.0.saturating_sub(from.0))).reduce(Millis::plus)
}

/// What came of a stage: its findings, where they say more than that it is done.
fn note(run: &Run, phase: Phase) -> String {
    let mut notes = Vec::new();
    if let Some(promotion) = run.promotion.as_ref().filter(|_| phase == Phase::Fencing) {
        notes.push(proof(&promotion.proof));
    }
    for step in run.steps.values().filter(|step| step.phase == phase) {
        let Some(Outcome::Done(found)) = &step.outcome else { continue };
        if matches!(
            found,
            Finding::Promoted { .. }
                | Finding::Routed { .. }
                | Finding::Named { .. }
                | Finding::Proved { .. }
        ) {
            notes.push(format!("{}{}", target(step), finding(found).replacen(", ", ": ", 1)));
        }
    }
    notes.join("; ")
}

fn target(step: &Step) -> &str {
    match step.effect.target() {
        mesh_proto::effect::Target::Instance(name) => name.as_str(),
        mesh_proto::effect::Target::Route(name) => name.as_str(),
        mesh_proto::effect::Target::Errand(name) | mesh_proto::effect::Target::Fencer(name) => name.as_str(),
    }
}
