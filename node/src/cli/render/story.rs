//! `mesh why` and `mesh audit`: what happened, from the record alone.

use std::path::PathBuf;

use mesh_proto::audit::AuditRecord;
use mesh_proto::operator::{Agreement, AuditReport, WhyView};
use serde::Serialize;

use super::table::Table;
use super::text::{self, Look, Tone};

/// `mesh why`
#[must_use]
pub fn why(view: &WhyView, look: &Look) -> String {
    let verdict = &view.verdict;
    let title = format!("{}: {}", view.group, verdict.summary);
    let mut out =
        look.labelled(Tone::Plain, &format!("{}  ", verdict.verdict.to_string().to_uppercase()), &title);
    out.push_str(&look.labelled(Tone::Dim, "  since    ", &text::moment(view.since)));
    for line in &verdict.evidence {
        out.push_str(&look.labelled(Tone::Dim, "  because  ", line));
    }
    if let Some(blocked) = &verdict.blocked {
        out.push_str(&look.labelled(Tone::Warn, "  blocked  ", blocked));
    }
    out.push_str(&look.labelled(Tone::Plain, "  next     ", &view.next));
    if view.records.is_empty() {
        out.push_str("\nno record of the audit bears on it\n");
    } else {
        out.push_str("\nit rests on these records (mesh audit show):\n");
        out.push_str(&records(&view.records, look));
    }
    out
}

/// `mesh audit show`
#[must_use]
pub fn audit(list: &[AuditRecord], look: &Look) -> String {
    if list.is_empty() {
        return "no records\n".to_owned();
    }
    records(list, look)
}

fn records(list: &[AuditRecord], look: &Look) -> String {
    let mut table = Table::with_heading(&["no", "when", "group", "run", "who", "what"]);
    let mut day = String::new();
    for record in list {
        let when = text::moment(record.at);
        // The day is said once; then times to the millisecond are worth more.
        let date: String = when.chars().take(10).collect();
        if date != day {
            let cells = ["", &date, "", "", "", ""];
            table.row(cells.iter().map(|cell| (Tone::Dim, (*cell).to_owned())).collect());
            day = date;
        }
        let (tone, what) = match &record.refused {
            None => (Tone::Plain, record.summary.clone()),
            Some(refused) => (Tone::Warn, format!("refused: {} ({refused})", record.summary)),
        };
        table.row(vec![
            (Tone::Dim, record.seq.to_string()),
            (Tone::Plain, text::clock(record.at)),
            (Tone::Plain, record.group.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)),
            (Tone::Plain, record.run.map_or_else(|| "-".to_owned(), |run| run.to_string())),
            (Tone::Plain, format!("{} at {}", record.actor, record.by)),
            (tone, what),
        ]);
    }
    table.text(look, 2)
}

/// Whether a verification found nothing wrong. An agent that was not reached says nothing against the chain.
#[must_use]
pub fn verified(report: &AuditReport) -> bool {
    let same = report.agents.iter().all(|(_, agreement)| match agreement {
        Agreement::Agrees(_) | Agreement::NotReached(_) => true,
        Agreement::Differs(_) => false,
    });
    report.broken.is_none() && same
}

/// What a check of an exported file found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportReport {
    /// The file.
    pub file: PathBuf,
    /// Number of its first record.
    pub first: u64,
    /// Its chain.
    #[serde(flatten)]
    pub report: AuditReport,
    /// Whether the asked agent has the same record at its end.
    pub mesh: Agreement,
    /// How many newer ones it has.
    pub newer: u64,
}

impl ExportReport {
    /// Whether nothing is wrong. An agent that was not reached says nothing against the file.
    #[must_use]
    pub fn intact(&self) -> bool {
        let same = match self.mesh {
            Agreement::Agrees(_) | Agreement::NotReached(_) => true,
            Agreement::Differs(_) => false,
        };
        self.report.broken.is_none() && same
    }
}

/// `mesh audit verify --file`
#[must_use]
pub fn export_report(export: &ExportReport, look: &Look) -> String {
    let (last, hash) = &export.report.head;
    let short: String = hash.chars().take(16).collect();
    let file = export.file.display();
    let chain = format!("{file}: records {} to {last} ({short}…)", export.first);
    if let Some((number, why)) = &export.report.broken {
        let says = format!("{file}: at number {number}: {why}; {} before it fit", export.report.records);
        let mut out = look.labelled(Tone::Bad, "BROKEN  ", &says);
        let next = "the file was changed or damaged after it was written: export again, and keep this one as evidence";
        out.push_str(&look.step("next: ", next));
        return out;
    }
    match &export.mesh {
        Agreement::Agrees(_) => {
            let newer = match export.newer {
                0 => String::new(),
                newer => format!(", which has {newer} newer"),
            };
            look.labelled(Tone::Good, "INTACT  ", &format!("{chain}, the same as in the mesh{newer}"))
        }
        Agreement::Differs(at) => {
            let says = format!("{chain}: the mesh has ANOTHER record at number {at}");
            let mut out = look.labelled(Tone::Bad, "DIFFERS  ", &says);
            let next = "it is another mesh's, or was made up as a whole: keep it, and compare a new `mesh audit export`";
            out.push_str(&look.step("next: ", next));
            out
        }
        Agreement::NotReached(why) => {
            let mut out = look.labelled(Tone::Good, "INTACT  ", &format!("{chain}, in itself"));
            let says = format!("not compared with the mesh: {why}");
            out.push_str(&look.labelled(Tone::Warn, "  ", &says));
            out
        }
    }
}

/// `mesh audit verify`
#[must_use]
pub fn audit_report(report: &AuditReport, look: &Look) -> String {
    let (number, hash) = &report.head;
    let short: String = hash.chars().take(16).collect();
    let chain = format!(
        "{} checked, up to number {number} ({short}…)",
        text::count(usize::try_from(report.records).unwrap_or(usize::MAX), "record", "records")
    );
    let mut out = match &report.broken {
        None if verified(report) => look.labelled(Tone::Good, "INTACT  ", &chain),
        None => look.labelled(Tone::Bad, "DIFFERS  ", &chain),
        Some((number, why)) => {
            look.labelled(Tone::Bad, "BROKEN  ", &format!("at number {number}: {why}; {chain}"))
        }
    };
    let mut table = Table::default();
    for (agent, agreement) in &report.agents {
        let (tone, says) = match agreement {
            Agreement::Agrees(at) => (Tone::Good, format!("has the same record at number {at}")),
            Agreement::Differs(at) => (Tone::Bad, format!("has ANOTHER record at number {at}")),
            Agreement::NotReached(why) => (Tone::Warn, format!("was not reached: {why}")),
        };
        table.row(vec![(Tone::Plain, agent.to_string()), (tone, says)]);
    }
    out.push_str(&table.text(look, 2));
    if !verified(report) {
        let next = "a record was changed, or a disk is damaged: keep the data directories of all agents, and compare \
                    `mesh audit export` of each";
        out.push_str(&look.step("next: ", next));
    }
    out
}
