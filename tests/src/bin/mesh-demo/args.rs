//! The words of the command line.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

/// Shown on request and after a mistake.
pub const USAGE: &str = "\
mesh-demo: three sites on this host, real PostgreSQL and Redis primaries, and their loss

  mesh-demo                      kill the primary, watch mesh fail over, go back by hand
  mesh-demo --scenario NAME      crash (default), site-loss, switchover, leader-loss
  mesh-demo --keep               leave everything running afterwards, to play with
  mesh-demo --stop DIRECTORY     end what --keep left running

It takes half a minute. It ends with 0 if every promise was kept, 1 if not, 130 when interrupted.";

/// What to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// The postmaster dies by SIGKILL.
    ProcessCrash,
    /// Everything at the primary's site dies at once.
    SiteLoss,
    /// Nothing is wrong; the primary moves by plan.
    Switchover,
    /// The postmaster dies, and the leading agent with it in mid-run.
    LeaderLoss,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A demonstration.
    Show {
        /// Which.
        scenario: Scenario,
        /// Leave it running.
        keep: bool,
    },
    /// End what was left running.
    Stop(PathBuf),
    /// The usage.
    Help,
}

/// Reads the command line.
///
/// # Errors
/// When a word is not known.
pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Asked> {
    let (mut scenario, mut keep) = (Scenario::ProcessCrash, false);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--keep" => keep = true,
            "--scenario" => scenario = named(&words.next().context("--scenario needs a name")?)?,
            "--stop" => return Ok(Asked::Stop(words.next().context("--stop needs a directory")?.into())),
            "--help" | "-h" => return Ok(Asked::Help),
            other => bail!("{other:?} is not known; see mesh-demo --help"),
        }
    }
    Ok(Asked::Show { scenario, keep })
}

fn named(name: &str) -> Result<Scenario> {
    Ok(match name {
        "crash" | "process-crash" => Scenario::ProcessCrash,
        "site-loss" => Scenario::SiteLoss,
        "switchover" => Scenario::Switchover,
        "leader-loss" => Scenario::LeaderLoss,
        other => {
            bail!("there is no scenario {other:?}; take crash, site-loss, switchover or leader-loss")
        }
    })
}
