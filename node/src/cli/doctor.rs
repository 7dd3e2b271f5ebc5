//! `mesh doctor`: what of this host would make a failover fail, or a promise weaker.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::args::{Common, DEFAULT_CONFIG};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::render::{Look, Tone};
use crate::config::{NodeConfig, Reader};
use crate::doctor::{self, Diagnosis, Examined, Level};

/// `mesh doctor`
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// The agent's own file, which names the servers of this host
    #[arg(long, short, env = "MESH_CONFIG", value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}

/// Runs it: 0 when nothing is in the way of a failover, 6 when something is.
#[must_use]
pub fn run(common: &Common, args: &DoctorArgs) -> ExitCode {
    let output = Output::of_process(common.json);
    match examine(&output, args) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit.into()
        }
    }
}

fn examine(output: &Output, args: &DoctorArgs) -> Result<Exit, Failure> {
    let config = NodeConfig::load(&args.config, Reader::CommandLine).map_err(|error| {
        let next = "write one with `mesh agent template`, or name it with --config";
        Failure::new(Exit::Invalid, super::with_causes(&error), next)
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Failure::new(Exit::Error, format!("the system gives no event queue: {error}"), "")
    })?;
    let diagnosis = runtime.block_on(doctor::examine(&config));
    output.show(&diagnosis, render)?;
    Ok(if diagnosis.count(Level::Blocking) > 0 { Exit::RunFailed } else { Exit::Done })
}

/// Part by part, the worst first, and at the end what to do next.
#[must_use]
pub fn render(diagnosis: &Diagnosis, look: &Look) -> String {
    let mut out = String::new();
    for part in &diagnosis.parts {
        out.push_str(&examined(part, look));
        out.push('\n');
    }
    let [blocking, warnings] = [Level::Blocking, Level::Warning].map(|level| diagnosis.count(level));
    let end = match (blocking, warnings) {
        (0, 0) => {
            "nothing is in the way\nnext: `mesh adopt`, or `mesh status` where it is adopted\n".to_owned()
        }
        (0, _) => {
            format!("nothing is in the way of a failover, {warnings} to look at\nnext: the lines marked !\n")
        }
        (_, _) => {
            format!(
                "{blocking} in the way of a failover, {warnings} more to look at\nnext: the lines marked ✗\n"
            )
        }
    };
    out.push_str(&end);
    out
}

fn examined(part: &Examined, look: &Look) -> String {
    if part.findings.is_empty() {
        return format!("{}   {}\n", part.what, look.paint(Tone::Good, "well"));
    }
    let mut out = format!("{}\n", part.what);
    for finding in &part.findings {
        let (tone, mark) = match finding.level {
            Level::Blocking => (Tone::Bad, "✗"),
            Level::Warning => (Tone::Warn, "!"),
            Level::Note => (Tone::Dim, "·"),
        };
        out.push_str(&look.labelled(tone, &format!("  {mark} {:<24}  ", finding.check), &finding.found));
        out.push_str(&look.labelled(Tone::Dim, &" ".repeat(30), &format!("→ {}", finding.next)));
    }
    out
}
