//! The `mesh` binary: which of its programs runs, and nothing else.

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use mesh_node::cli::{
    Cli, Command, doctor, exit, gate, join, local, operate, output::Output, recover, version,
};
use mesh_node::programs;

fn main() -> ExitCode {
    let Cli { common, command } = match Cli::try_parse() {
        Ok(cli) => cli,
        // Nothing was asked for: everything that could be is a better answer than a list of names.
        Err(error) if error.kind() == ErrorKind::MissingSubcommand && std::env::args_os().len() == 1 => {
            eprint!("{}", Cli::command().render_help());
            return exit::Exit::Invalid.into();
        }
        // The words are not read to their end when the version is asked for, so `--json` is looked for by name.
        Err(error)
            if error.kind() == ErrorKind::DisplayVersion
                && std::env::args_os().any(|word| word == "--json") =>
        {
            return version::show(&Output::of_process(true));
        }
        Err(error) => error.exit(),
    };
    match command {
        Command::Ask(operation) => operate::main(&common, operation),
        Command::Agent(args) => programs::agent(&common, &args),
        Command::Guard(args) => programs::guard(&Output::of_process(common.json), &args),
        Command::Leash(args) => programs::leash(&args),
        Command::DiskProbe(args) => programs::disk_probe(&args),
        Command::Doctor(args) => doctor::run(&common, &args),
        Command::Gate(args) => gate::run(&common, &args),
        Command::QuorumRecover(args) => recover::run(&common, &args),
        Command::Ca(command) => local::authority(&common, &command),
        Command::Join(args) => join::run(&common, &args),
        Command::Papers(args) => programs::papers(&Output::of_process(common.json), &args),
        Command::ExitCodes => exit::explain(),
    }
}
