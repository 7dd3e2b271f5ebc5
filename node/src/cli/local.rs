//! Commands that work on files of this host and ask no agent: `mesh agent template`, `mesh ca`, `mesh exit-codes`.

use std::process::ExitCode;

use super::args::{AgentTemplateArgs, CaCommand, CaRevokeArgs, Common};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::{init, issuing};
use crate::ca::revoke::{self, List, Whose};
use crate::ca::{self, CaError, Pair};
use crate::tls::Identity;

/// Runs `mesh agent template`.
#[must_use]
pub fn agent_template(common: &Common, args: &AgentTemplateArgs) -> ExitCode {
    let output = Output::of_process(common.json);
    let done = init::run(args);
    end(output, done.map(|text| (serde_json::json!({ "config": args.config }), text)))
}

/// Runs `mesh ca …`.
#[must_use]
pub fn authority(common: &Common, command: &CaCommand) -> ExitCode {
    let output = Output::of_process(common.json);
    let made = match command {
        CaCommand::Operator(args) => {
            return end(output, issuing::operator(args).map_err(|error| refused(&error)));
        }
        CaCommand::Token(args) => return end(output, issuing::token(args)),
        CaCommand::Serve(args) => return issuing::run(common, args),
        CaCommand::Crl(args) => return end(output, listed(revoke::renew(&args.dir, args.days))),
        CaCommand::Revoke(args) => {
            let list = &args.list;
            return end(
                output,
                whose(args).and_then(|whose| listed(revoke::revoke(&list.dir, &whose, list.days))),
            );
        }
        CaCommand::Init { dir, mesh } => ca::init(dir, mesh),
        CaCommand::Issue(args) => {
            let identity = match (&args.agent, &args.guard) {
                (Some(agent), _) => Ok(Identity::Agent(agent.clone())),
                (None, Some(instance)) => Ok(Identity::Guard(instance.clone())),
                (None, None) => {
                    Err(Failure::new(Exit::Invalid, "for whom?", "add --agent NAME or --guard INSTANCE"))
                }
            };
            match identity {
                Ok(identity) => {
                    let out = args.out.as_ref().unwrap_or(&args.dir);
                    ca::issue(&args.dir, &identity, &args.addresses, out)
                }
                Err(failure) => return end(output, Err(failure)),
            }
        }
    };
    end(output, made.map(|pair| shown(command, &pair)).map_err(|error| refused(&error)))
}

fn whose(args: &CaRevokeArgs) -> Result<Whose, Failure> {
    let CaRevokeArgs { list: _, agent, guard, operator, cert, number } = args;
    match (agent, guard, operator, cert, number) {
        (Some(agent), ..) => Ok(Whose::Identity(Identity::Agent(agent.clone()))),
        (None, Some(instance), ..) => Ok(Whose::Identity(Identity::Guard(instance.clone()))),
        (None, None, Some(name), ..) => Ok(Whose::Operator(name.clone())),
        (None, None, None, Some(file), _) => Ok(Whose::File(file.clone())),
        (None, None, None, None, Some(number)) => Ok(Whose::Number(number.0.clone())),
        (None, None, None, None, None) => Err(Failure::new(
            Exit::Invalid,
            "whose?",
            "add --agent NAME, --guard INSTANCE, --operator NAME, --cert FILE or --number HEX",
        )),
    }
}

fn listed(made: Result<List, CaError>) -> Result<(serde_json::Value, String), Failure> {
    let List { path, number, revoked, added } = made.map_err(|error| refused(&error))?;
    let mut text: String = added.iter().map(|one| format!("revoked     {one}\n")).collect();
    text.push_str(&format!(
        "list        {} (number {number}, certificates revoked: {revoked})\n\
         next: on every host, copy it over the file that `crl` in [tls] names; agents and guards take it within 4 s, and end \
         the connections of whoever stands in it\n",
        path.display()
    ));
    Ok((serde_json::json!({ "list": path, "number": number, "revoked": revoked, "added": added }), text))
}

fn shown(command: &CaCommand, pair: &Pair) -> (serde_json::Value, String) {
    let Pair { cert, key } = pair;
    let next = match command {
        CaCommand::Init { dir, .. } => format!(
            "keep {} away from the hosts of the mesh; then, for each: mesh ca issue --dir {} --agent NAME --out DIR",
            key.display(),
            dir.display()
        ),
        CaCommand::Issue(args) => {
            format!(
                "copy both, and {}, to that host",
                args.out.as_ref().unwrap_or(&args.dir).join("ca.crt").display()
            )
        }
        // They make no pair, and have their own words.
        CaCommand::Crl(_)
        | CaCommand::Revoke(_)
        | CaCommand::Operator(_)
        | CaCommand::Token(_)
        | CaCommand::Serve(_) => String::new(),
    };
    let text = format!("certificate {}\nkey         {}\nnext: {next}\n", cert.display(), key.display());
    (serde_json::json!({ "cert": cert, "key": key }), text)
}

fn refused(error: &CaError) -> Failure {
    let exit = match error {
        CaError::Exists { .. } => Exit::Conflict,
        CaError::NoAuthority { .. } | CaError::NoList { .. } | CaError::NotIssued { .. } => Exit::NotFound,
        CaError::Name(_)
        | CaError::NotAPerson(_)
        | CaError::Foreign { .. }
        | CaError::NoCertificate { .. } => Exit::Invalid,
        CaError::BadAuthority { .. }
        | CaError::BadList { .. }
        | CaError::Issued { .. }
        | CaError::Write { .. }
        | CaError::Make(_) => Exit::Error,
    };
    // The texts say what to do.
    Failure::new(exit, super::with_causes(error), "")
}

fn end(output: Output, done: Result<(serde_json::Value, String), Failure>) -> ExitCode {
    let shown = done.and_then(|(value, text)| output.show(&value, |_, _| text));
    match shown {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit.into()
        }
    }
}
