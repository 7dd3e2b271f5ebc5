//! `mesh audit live`: every place that holds an epoch beside what the log says.

use mesh_proto::live::{Holds, LiveGroup, LiveView, Place, Standing};

use super::table::Table;
use super::text::{self, Look, Tone};
use crate::cli::Exit;

/// The table of each group; what does not agree is said in words below it.
#[must_use]
pub fn live(view: &LiveView, look: &Look) -> String {
    if view.groups.is_empty() {
        return "no group has a primary yet, so nothing holds an epoch\n".to_owned();
    }
    let mut out = String::new();
    for group in &view.groups {
        out.push_str(&headline(group, look));
        let mut table = Table::with_heading(&["place", "which", "holds", "standing", "seen by"]);
        for place in &group.places {
            table.row(row(group, place));
        }
        out.push_str(&table.text(look, 2));
        for place in &group.places {
            if let Holds::Elsewhere(why) | Holds::NotSeen(why) = &place.holds {
                let label = format!("  ! {} {}: ", place.kind, place.name);
                out.push_str(&look.labelled(Tone::Warn, &label, why));
            }
        }
    }
    let asked = format!("as agent {} saw it at {}", view.agent, text::moment(view.at));
    out.push_str(&look.paint(Tone::Dim, &asked));
    out.push('\n');
    out
}

/// How the command ends: scripts decide by it.
#[must_use]
pub fn live_exit(view: &LiveView) -> Exit {
    match view.worst() {
        Standing::Agrees => Exit::Done,
        Standing::Lags | Standing::Contradicts => Exit::RunFailed,
        Standing::NotSeen => Exit::Unknown,
    }
}

fn headline(group: &LiveGroup, look: &Look) -> String {
    let count = |wanted: Standing| group.places.iter().filter(|p| group.standing(p) == wanted).count();
    let (lags, against, unseen) =
        (count(Standing::Lags), count(Standing::Contradicts), count(Standing::NotSeen));
    let (tone, word) = match (against, lags, unseen) {
        (0, 0, 0) => (Tone::Good, "AGREES  "),
        (0, 0, _) => (Tone::Warn, "NOT ALL SEEN  "),
        (0, _, _) => (Tone::Warn, "LAGS  "),
        (_, _, _) => (Tone::Bad, "CONTRADICTS  "),
    };
    let run = if group.running { "; a run goes on, so that places may lag" } else { "" };
    let says = format!(
        "{}: {} is the primary of epoch {} by the log; {}: {lags} lag, {against} contradict, {unseen} not seen{run}",
        group.group,
        group.primary,
        group.epoch,
        text::count(group.places.len(), "place", "places"),
    );
    look.labelled(tone, word, &says)
}

fn row(group: &LiveGroup, place: &Place) -> Vec<(Tone, String)> {
    let standing = group.standing(place);
    let tone = match standing {
        Standing::Agrees => Tone::Good,
        Standing::Lags | Standing::NotSeen => Tone::Warn,
        Standing::Contradicts => Tone::Bad,
    };
    let holds = match &place.holds {
        Holds::Epoch { epoch, of: Some(of) } => format!("epoch {epoch} of {of}"),
        Holds::Epoch { epoch, of: None } => format!("epoch {epoch}"),
        Holds::LeadsThere { stragglers: 0 } => format!("leads to {}", group.primary),
        Holds::LeadsThere { stragglers } => {
            format!("leads to {}, {stragglers} old sessions left", group.primary)
        }
        Holds::Elsewhere(_) => "something else".to_owned(),
        Holds::Nothing => "nothing yet".to_owned(),
        Holds::NotSeen(_) => "?".to_owned(),
    };
    vec![
        (Tone::Plain, place.kind.to_string()),
        (Tone::Plain, place.name.clone()),
        (Tone::Plain, holds),
        (tone, standing.to_string()),
        (Tone::Dim, place.by.to_string()),
    ]
}
