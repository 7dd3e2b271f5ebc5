//! `mesh gate`: asked before somebody else than its guard starts a server of this host, by a drop-in of the distribution's unit.
//! It sees to it that a guarded PostgreSQL comes up as a standby, whatever its guard was in the middle of when the host died.
//!
//! It always exits with 0 (PROTOCOL, Boot gate): what it cannot do it says, and a server is never kept from starting by a file
//! of mesh that is wrong. It needs no agent and no guard, and starts and stops nothing.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use mesh_adapters::postgres::{ComesUp, MARK, boot_gate};
use mesh_proto::InstanceName;
use serde::Serialize;

use super::args::{Common, DEFAULT_CONFIG};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::render::{Look, Tone};
use crate::config::{NodeConfig, Reader, RedisSection};

/// A disk that takes longer would not let the server start either.
const WITHIN: Duration = Duration::from_secs(20);

/// `mesh gate`
#[derive(Debug, Clone, Args)]
pub struct GateArgs {
    /// The agent's own file, which names the servers of this host
    #[arg(long, short, env = "MESH_CONFIG", value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Only say how each server would come up, and why; changes nothing
    #[arg(long)]
    pub why: bool,
}

/// How one server comes up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gated {
    /// The instance.
    pub instance: InstanceName,
    /// Whether it surely takes no write before its guard opens it.
    pub held: bool,
    /// Whether something was written for that, or would be.
    pub written: bool,
    /// In words.
    pub why: String,
}

/// Runs it. Always 0.
#[must_use]
pub fn run(common: &Common, args: &GateArgs) -> ExitCode {
    let output = Output::of_process(common.json);
    if let Err(failure) = gate(&output, args) {
        output.failure(&failure);
    }
    Exit::Done.into()
}

fn gate(output: &Output, args: &GateArgs) -> Result<(), Failure> {
    let config = NodeConfig::load(&args.config, Reader::CommandLine).map_err(|error| {
        let next = "no server of this host was looked at; each comes up as its own files say";
        Failure::new(Exit::Invalid, super::with_causes(&error), next)
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Failure::new(Exit::Error, format!("the system gives no event queue: {error}"), "")
    })?;
    let gated = runtime.block_on(look(&config, args.why));
    // A thread that still waits for a disk must not keep the unit from starting.
    runtime.shutdown_background();
    let worth = |one: &Gated| args.why || one.written || !one.held;
    let told: Vec<Gated> = gated.into_iter().filter(worth).collect();
    if output.json || !told.is_empty() { output.show(&told, |told, look| render(told, look)) } else { Ok(()) }
}

async fn look(config: &NodeConfig, only_look: bool) -> Vec<Gated> {
    let mut all = Vec::new();
    for instance in &config.instances {
        let (held, written, why) = match boot_gate(&instance.data_dir, only_look, Instant::now() + WITHIN)
            .await
        {
            Ok(ComesUp::AsItIs) => {
                (false, false, format!("as its own files say: no guard ever had it, there is no {MARK}"))
            }
            Ok(ComesUp::Standby) => {
                let why =
                    "as a standby that takes no writes, until its guard opens it: standby.signal lies there";
                (true, false, why.to_owned())
            }
            Ok(ComesUp::Held) => {
                let done = if only_look { "would be written" } else { "was written" };
                (
                    true,
                    true,
                    format!("as a standby: standby.signal was missing in a guarded directory, and {done}"),
                )
            }
            Err(error) => {
                (false, false, format!("nobody knows: {}; do not let it start", super::with_causes(&error)))
            }
        };
        all.push(Gated { instance: instance.name.clone(), held, written, why });
    }
    all.extend(config.redis.iter().map(redis));
    all
}

/// A Redis is held by its own configuration, which includes what its guard wrote last.
fn redis(section: &RedisSection) -> Gated {
    let held = section.state_dir.join("held.conf");
    let (is_held, why) = match &section.config_file {
        None => {
            (false, "as whoever starts it says: the file of this host names no config_file of it".to_owned())
        }
        Some(file) => match std::fs::read_to_string(file).map(|text| included(&text, &held)) {
            Ok(true) if held.exists() => {
                (true, "as a replica of nobody that takes no writes, until its guard opens it".to_owned())
            }
            Ok(true) => (true, format!("not at all before its guard runs: {} is not there", held.display())),
            Ok(false) => {
                let include = format!("let its last line be `include {}`", held.display());
                (false, format!("as {} says: {include}", file.display()))
            }
            Err(error) => (false, format!("nobody knows: {} cannot be read: {error}", file.display())),
        },
    };
    Gated { instance: section.name.clone(), held: is_held, written: false, why }
}

fn included(config: &str, held: &Path) -> bool {
    let held = held.to_string_lossy();
    config
        .lines()
        .filter_map(|line| line.trim().strip_prefix("include"))
        .any(|file| file.starts_with(char::is_whitespace) && file.trim().trim_matches(['"', '\'']) == held)
}

/// One line for each.
#[must_use]
pub fn render(all: &[Gated], look: &Look) -> String {
    let width = all.iter().map(|one| one.instance.as_str().len()).max().unwrap_or_default();
    let line = |one: &Gated| {
        let tone = if one.held { Tone::Good } else { Tone::Warn };
        look.labelled(tone, &format!("{:<width$}  comes up  ", one.instance.as_str()), &one.why)
    };
    if all.is_empty() { "this host has no servers\n".to_owned() } else { all.iter().map(line).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_include_of_the_held_file_is_found_and_nothing_else_is_taken_for_it() {
        let held = Path::new("/run/mesh/redis-east/held.conf");
        for good in [
            "include /run/mesh/redis-east/held.conf",
            "port 1\n  include \"/run/mesh/redis-east/held.conf\"\n",
        ] {
            assert!(included(good, held), "{good}");
        }
        for bad in [
            "",
            "# include /run/mesh/redis-east/held.conf",
            "include /run/other",
            "included/run/mesh/redis-east/held.conf",
        ] {
            assert!(!included(bad, held), "{bad}");
        }
    }

    #[test]
    fn each_server_has_its_line() {
        let one = |name: &str, held| Gated {
            instance: name.parse().unwrap(),
            held,
            written: false,
            why: "as it is".to_owned(),
        };
        let look = Look { width: 80, color: false };
        assert_eq!(
            render(&[one("pg-east", true), one("redis-1", false)], &look),
            "pg-east  comes up  as it is\nredis-1  comes up  as it is\n"
        );
        assert_eq!(render(&[], &look), "this host has no servers\n");
    }
}
