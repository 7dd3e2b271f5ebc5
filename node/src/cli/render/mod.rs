//! Values to text, and nothing else: no clock, no terminal, no agent. What a person sees is tested by golden files.

mod disk;
mod headline;
mod hold;
mod live;
mod proposal;
mod run;
mod status;
mod story;
mod table;
mod text;

pub use live::{live, live_exit};
pub use proposal::proposal;
pub use run::{Progress, plan, run, run_heading, run_summary};
pub use status::{Detail, nodes, status};
pub use story::{ExportReport, audit, audit_report, export_report, verified, why};
pub use text::{Look, Tone};

#[cfg(test)]
pub mod samples;
