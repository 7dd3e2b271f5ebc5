//! The `mesh` binary: which of its programs runs, and nothing else.

use std::process::ExitCode;

use clap::Parser as _;
use mesh_node::cli::args::AgentCommand;
use mesh_node::cli::{Cli, Command, Exit, Failure, exit, local, operate, output::Output};
use mesh_node::leash;

fn main() -> ExitCode {
    let Cli { common, command } = Cli::parse();
    let absent = |what: &str| {
        let failure = Failure::new(Exit::NotSupported, format!("this build has no {what}"), "");
        Output::of_process(common.json).failure(&failure);
        ExitCode::from(failure.exit)
    };
    match command {
        Command::Ask(operation) => operate::main(&common, operation),
        Command::Agent(args) => match &args.command {
            Some(AgentCommand::Init(init)) => local::agent_init(&common, init),
            None => absent("agent"),
        },
        Command::Guard(_) => absent("guard"),
        Command::Leash(args) => leash::run(&args.words),
        Command::Ca(command) => local::authority(&common, &command),
        Command::ExitCodes => exit::explain(),
    }
}
