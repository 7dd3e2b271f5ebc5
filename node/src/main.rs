//! The `mesh` binary: which of its programs runs, and nothing else.

use std::process::ExitCode;

use clap::Parser as _;
use mesh_node::cli::{Cli, Command, Exit, Failure, exit, operate, output::Output};

fn main() -> ExitCode {
    let Cli { common, command } = Cli::parse();
    let absent = |what: &str| {
        let failure = Failure::new(Exit::NotSupported, format!("this build has no {what}"), "");
        Output::of_process(common.json).failure(&failure);
        ExitCode::from(failure.exit)
    };
    match command {
        Command::Ask(operation) => operate::main(&common, operation),
        Command::Agent(_) => absent("agent"),
        Command::Guard(_) => absent("guard"),
        Command::Leash(_) => absent("leash"),
        Command::Ca(_) => absent("certificate authority"),
        Command::ExitCodes => exit::explain(),
    }
}
