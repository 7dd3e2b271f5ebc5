//! A forced run that waits for a second person.

use mesh_proto::proposal::{PROPOSAL_LASTS, Proposal};
use mesh_proto::{GroupName, Millis, Wall};

use super::text::{self, Look, Tone};

/// In one line: who wants what, and why.
#[must_use]
pub fn line(open: &Proposal, now: Wall) -> String {
    let age = Millis(now.0.saturating_sub(open.at.0));
    let on = open.what.run.map(|run| format!(", which sends run {run} on")).unwrap_or_default();
    let left = text::length(PROPOSAL_LASTS.minus(age));
    format!(
        "{} by {}: {}{on}; waits for a second person for {left}: {}",
        open.id, open.by, open.what.forced, open.what.forced.reason
    )
}

/// With what it would do and how to go on; without `now`, as it was just made.
#[must_use]
pub fn proposal(group: &GroupName, open: &Proposal, now: Option<Wall>, look: &Look) -> String {
    let Proposal { id, by, at, what } = open;
    let says = format!("{group}: {}, asked for by {by}; nothing is begun", what.forced);
    let mut out = look.labelled(Tone::Warn, &format!("PROPOSED {id}  "), &says);
    out.push_str(&look.labelled(Tone::Plain, "  because  ", &what.forced.reason));
    out.push_str(&look.labelled(
        Tone::Plain,
        "  replaces ",
        &format!("{} of epoch {}", what.from, what.epoch),
    ));
    if let Some(run) = what.run {
        out.push_str(&look.labelled(Tone::Plain, "  sends on ", &format!("run {run}, which is stuck")));
    }
    for step in &what.would {
        out.push_str(&look.labelled(Tone::Dim, "  would    ", step));
    }
    let age = Millis(now.unwrap_or(*at).0.saturating_sub(at.0));
    let left = text::length(PROPOSAL_LASTS.minus(age));
    let next = format!(
        "another person, within {left}, on any host: mesh approve {id}\nor take it back: mesh withdraw {id} --reason \"…\""
    );
    out.push_str(&look.step("  next: ", &next));
    out
}
