//! The `mesh` binary: which of its programs runs, and nothing else.

use std::process::ExitCode;

use clap::Parser as _;
use mesh_node::cli::{Cli, Command, exit, local, operate, output::Output};
use mesh_node::programs;

fn main() -> ExitCode {
    let Cli { common, command } = Cli::parse();
    match command {
        Command::Ask(operation) => operate::main(&common, operation),
        Command::Agent(args) => programs::agent(&common, &args),
        Command::Guard(args) => programs::guard(&Output::of_process(common.json), &args),
        Command::Leash(args) => programs::leash(&args),
        Command::Ca(command) => local::authority(&common, &command),
        Command::ExitCodes => exit::explain(),
    }
}
