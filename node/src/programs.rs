//! The programs of the binary beside the command line that asks: agent, guard, leash. Each turns
//! an error into what a person at a terminal, or a reader of the journal, needs.

use std::process::ExitCode;

use crate::cli::args::{AgentArgs, AgentCommand, Common, DiskProbeArgs, GuardArgs, LeashArgs, PapersArgs};
use crate::cli::local;
use crate::cli::output::Output;
use crate::cli::{Exit, Failure, with_causes};
use crate::{agent, cli, guard, leash, telemetry};

fn failed(output: &Output, error: &dyn std::error::Error) -> ExitCode {
    let failure = Failure::new(Exit::Error, with_causes(error), "");
    output.failure(&failure);
    failure.exit.into()
}

fn said(output: &Output, text: &str) -> ExitCode {
    match output.text(&format!("{text}\n")) {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit.into()
        }
    }
}

/// `mesh agent`
#[must_use]
pub fn agent(common: &Common, args: &AgentArgs) -> ExitCode {
    let output = &Output::of_process(common.json);
    match &args.command {
        Some(AgentCommand::Template(template)) => local::agent_template(common, template),
        Some(AgentCommand::Init(init)) => match agent::init(&init.config) {
            Ok(text) => said(output, &text),
            Err(error) if error.store_exists() => {
                let next = "start the agent that it belongs to; a new agent takes an empty data_dir";
                let failure = Failure::new(Exit::Conflict, with_causes(&error), next);
                output.failure(&failure);
                failure.exit.into()
            }
            Err(error) => failed(output, &error),
        },
        None => serve(output, agent::run(&args.config)),
    }
}

/// `mesh papers`
#[must_use]
pub fn papers(output: &Output, args: &PapersArgs) -> ExitCode {
    match cli::papers::write(&args.dir) {
        Ok(text) => said(output, &text),
        Err(failure) => {
            output.failure(&failure);
            failure.exit.into()
        }
    }
}

/// `mesh guard`
#[must_use]
pub fn guard(output: &Output, args: &GuardArgs) -> ExitCode {
    if let Err(error) = telemetry::start(telemetry::Form::Text) {
        return failed(output, &error);
    }
    match guard::run(&args.config, &args.instance) {
        Ok(()) => Exit::Done.into(),
        Err(error) => failed(output, &error),
    }
}

/// `mesh leash`
#[must_use]
pub fn leash(args: &LeashArgs) -> ExitCode {
    leash::run(&args.words)
}

/// `mesh disk-probe`
#[must_use]
pub fn disk_probe(args: &DiskProbeArgs) -> ExitCode {
    let guard = rustix::process::Pid::from_raw(args.guard);
    match args.probe.run(guard, &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody is left who could be told why.
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve<E: std::error::Error>(output: &Output, program: impl Future<Output = Result<(), E>>) -> ExitCode {
    if let Err(error) = telemetry::start(telemetry::Form::Text) {
        return failed(output, &error);
    }
    // One worker: events are small and many, and waking a second one for each of them costs more than they do. Whatever
    // may wait for a disk runs elsewhere (the store's own thread, blocking tasks), so that renewals are never behind it.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    match runtime {
        Ok(runtime) => match runtime.block_on(program) {
            Ok(()) => Exit::Done.into(),
            Err(error) => failed(output, &error),
        },
        Err(error) => failed(output, &error),
    }
}
