//! What `mesh status` says of a group that goes on without a majority of voters (`majority_lost = "hold"`).

use mesh_proto::hold::HoldStanding;
use mesh_proto::operator::{GroupStatus, InstanceStatus};
use mesh_proto::spec::MajorityLost;
use mesh_proto::{InstanceName, Millis};

use super::headline::{Headline, Level, headline};
use super::text::Tone;

/// Guards report several times a second: what an older report says of promises may be over.
const OLD: Millis = Millis(2_000);

fn fresh(instance: &InstanceStatus) -> Option<&HoldStanding> {
    let (guard, age) = instance.guard.as_ref()?;
    guard.hold.as_ref().filter(|_| *age < OLD)
}

/// What the primary's guard said of it, just now.
fn primary(group: &GroupStatus) -> Option<(&InstanceName, &HoldStanding)> {
    let name = group.primary.as_ref()?;
    let instance = group.instances.iter().find(|instance| instance.name == *name)?;
    Some((name, fresh(instance)?))
}

/// The sentence about a group whose primary goes on by promises alone.
pub(super) fn alone(group: &GroupStatus) -> Option<Headline> {
    let (name, standing) = primary(group).filter(|(_, standing)| standing.alone)?;
    let says = format!(
        "{}: {name} holds on (epoch {}): majority lost, {} of {} owners promise",
        group.group,
        group.epoch,
        standing.promised.len(),
        standing.holders.len()
    );
    let next = "bring voters back until a majority runs: nobody can be promoted meanwhile, and without one of the promises \
                the primary is fenced\nrunbook page: majority-lost";
    Some(headline(Level::Attention, "HOLDS", says, next))
}

/// The lines of the group's part of the status: what is promised, and what is not yet.
pub(super) fn lines(group: &GroupStatus) -> Vec<(Tone, String)> {
    let mut lines = Vec::new();
    let waits = group.instances.iter().filter_map(|i| Some((&i.name, fresh(i)?.waits.as_ref()?)));
    for (name, whose) in waits {
        let says = format!("{name} has its lease, and opens when what was promised to {whose} is over");
        lines.push((Tone::Warn, says));
    }
    match group.majority_lost {
        MajorityLost::Fence => return lines,
        MajorityLost::Hold => {}
    }
    let Some((name, standing)) = primary(group) else { return lines };
    if standing.alone {
        // The first line said it.
        return lines;
    }
    if standing.holders.is_empty() {
        let unwilling = group.instances.iter().filter(|instance| {
            instance.name != *name && fresh(instance).is_none_or(|standing| !standing.willing)
        });
        let unwilling: Vec<_> = unwilling.map(|instance| instance.name.to_string()).collect();
        let why = if unwilling.is_empty() {
            "the log does not say yet who promises".to_owned()
        } else {
            format!("not yet willing to promise: {}", unwilling.join(", "))
        };
        lines.push((Tone::Warn, format!("without a majority of voters {name} would be fenced: {why}")));
        return lines;
    }
    let missing: Vec<_> = standing.holders.difference(&standing.promised).map(ToString::to_string).collect();
    let all: Vec<_> = standing.holders.iter().map(ToString::to_string).collect();
    let goes_on = format!("without a majority of voters {name} goes on while {} promise", all.join(", "));
    if missing.is_empty() {
        lines.push((Tone::Plain, goes_on));
    } else {
        lines.push((Tone::Warn, format!("{goes_on}; {} does not", missing.join(", "))));
    }
    lines
}
