//! `mesh quorum-recover`: what the survivor knows, the person's word that the others are gone, the wait, and the new store.
//! Works on the files of this host; asks no agent, and decides nothing itself ([`crate::agent::recovery`] does).

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mesh_failover::state::{Group, RecoveryError};
use mesh_proto::Millis;

use super::args::{Common, RecoverArgs};
use super::caller;
use super::exit::{Exit, Failure};
use super::output::Output;
use crate::agent::recovery::{RecoverError, Survivor, finish};
use crate::config::{ConfigError, NodeConfig, Reader};

/// Runs it.
#[must_use]
pub fn run(common: &Common, args: &RecoverArgs) -> ExitCode {
    let output = Output::of_process(common.json);
    match recover(&output, args) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit.into()
        }
    }
}

fn recover(output: &Output, args: &RecoverArgs) -> Result<Exit, Failure> {
    let config = NodeConfig::load(&args.config, Reader::Agent).map_err(|error| unusable(&error))?;
    if args.lost.is_empty() {
        let survivor = Survivor::open(config).map_err(failure)?;
        shown(output, &survivor)?;
        return Ok(Exit::Done);
    }
    if finish(&config).map_err(failure)? {
        done(output, &config)?;
        return Ok(Exit::Done);
    }
    let lost: BTreeSet<_> = args.lost.iter().cloned().collect();
    let reason = args.reason.as_deref().unwrap_or_default();
    // From here on this agent grants nothing: it is stopped, and cannot start while its store is looked at.
    let stopped = Instant::now();
    let survivor = Survivor::open(config.clone()).map_err(failure)?;
    survivor.check(&lost, reason).map_err(failure)?;
    survivor.check_gone().map_err(failure)?;
    if !args.yes {
        output.progress(&described(&survivor))?;
        if !confirmed(&survivor)? {
            return Err(Failure::new(Exit::Invalid, "not confirmed", "nothing was changed"));
        }
        survivor.check_gone().map_err(failure)?;
    }
    if !args.unsafe_now {
        wait(output, stopped, survivor.wait())?;
    }
    let reason =
        if args.unsafe_now { format!("{reason} (not waited for old leases)") } else { reason.to_owned() };
    survivor.recover(caller::operator(), &lost, &reason).map_err(failure)?;
    done(output, &config)?;
    Ok(Exit::Done)
}

/// Until no guard can hold a lease of the old mesh any more.
fn wait(output: &Output, since: Instant, length: Millis) -> Result<(), Failure> {
    let until = since + Duration::from_millis(length.0);
    let mut said = None;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        let seconds = left.as_secs() + 1;
        if said.is_none_or(|last: u64| seconds + 10 <= last) {
            output.progress(&format!(
                "waiting {seconds} s more, until every lease of the old mesh is over and fenced; nothing was changed yet\n"
            ))?;
            said = Some(seconds);
        }
        std::thread::sleep(left.min(Duration::from_secs(1)));
    }
    Ok(())
}

fn described(survivor: &Survivor) -> String {
    let state = survivor.state();
    let (me, last) = (survivor.me(), survivor.last());
    let mut text = format!("survivor   {me}; its log ends with entry {} of term {}\n", last.index, last.term);
    for name in survivor.others() {
        let address = state.members.get(&name).map(|member| member.address.clone()).unwrap_or_default();
        text.push_str(&format!("gone?      {name} at {address}, a voter\n"));
    }
    for group in state.groups.values() {
        text.push_str(&format!("group      {}: {}\n", group.spec.group, standing(group)));
    }
    text.push_str(&format!(
        "begins     mesh {}, with {me} as its only voter, and no primary in any group\nwaits      {} first, for leases of \
         the old mesh\n",
        survivor.mesh(),
        survivor.wait()
    ));
    text
}

fn standing(group: &Group) -> String {
    match &group.primary {
        None => "has no primary".to_owned(),
        Some(primary) => {
            format!("the last known primary is {}, of epoch {}", primary.instance, group.epoch)
        }
    }
}

fn shown(output: &Output, survivor: &Survivor) -> Result<(), Failure> {
    let names: Vec<_> = survivor.others().into_iter().map(|name| format!(" --lost {name}")).collect();
    let last = survivor.last();
    let value = serde_json::json!({
        "agent": survivor.me(), "mesh": survivor.mesh(), "others": survivor.others(),
        "log": { "term": last.term, "index": last.index }, "wait_ms": survivor.wait().0,
    });
    output.show(&value, |_, _| {
        format!(
            "{}next: make sure that the others are off for good, and that no other survivor's log goes further (term first, then \
             entry); then\n      mesh quorum-recover{} --reason \"...\"\n",
            described(survivor),
            names.concat()
        )
    })
}

fn confirmed(survivor: &Survivor) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            Exit::Invalid,
            "this begins a new mesh, and there is no terminal to ask you on",
            "add --yes; nothing was changed",
        ));
    }
    let unreadable = |error: std::io::Error| {
        Failure::new(Exit::Invalid, format!("cannot ask you: {error}"), "add --yes; nothing was changed")
    };
    let mut prompt = std::io::stderr().lock();
    let question = format!(
        "If one of them still runs, or is ever started again as it was, there are two meshes, and two primaries.\nType the \
         new mesh's name to go on ({}): ",
        survivor.mesh()
    );
    prompt.write_all(question.as_bytes()).and_then(|()| prompt.flush()).map_err(unreadable)?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(unreadable)?;
    Ok(line.trim() == survivor.mesh().as_str())
}

fn done(output: &Output, config: &NodeConfig) -> Result<(), Failure> {
    let (mesh, recovery) = (&config.mesh.acting, config.mesh.recovery);
    let aside = config.agent.data_dir.join(format!("before-recovery-{recovery}"));
    let value = serde_json::json!({ "mesh": mesh, "voter": config.agent.name, "kept": aside });
    output.show(&value, |_, _| {
        format!(
            "mesh {mesh} has begun, with {} as its only voter; the old store is kept in {}\n\
             next: 1. start the agent: systemctl start mesh-agent\n      \
                   2. on every host that goes on: recovery = {recovery} under [mesh], then restart its guards\n      \
                   3. name each group's primary: mesh adopt INSTANCE --accept-loss --reason \"...\"\n      \
                   4. join voters again under new numbers: mesh node add, mesh node voters\n",
            config.agent.name,
            aside.display()
        )
    })
}

fn unusable(error: &ConfigError) -> Failure {
    Failure::new(Exit::Invalid, super::with_causes(error), "")
}

fn failure(error: RecoverError) -> Failure {
    let (exit, next) = match &error {
        RecoverError::NotAsked { .. } => (
            Exit::Invalid,
            "if its majority is gone for good, write `recovery = 1` (or one more than it says) under [mesh] first; nothing was \
             changed",
        ),
        RecoverError::NotTheNext { .. } => (
            Exit::Invalid,
            "recoveries are counted one by one: correct `recovery` under [mesh]; nothing was changed",
        ),
        RecoverError::Already(_) => (Exit::Conflict, "start the agent; nothing was changed"),
        RecoverError::OtherNode { .. } | RecoverError::Name(_) | RecoverError::Number(_) => {
            (Exit::Invalid, "correct the agent's file; nothing was changed")
        }
        RecoverError::Salvage(mesh_consensus::SalvageError::Store(mesh_consensus::StoreError::Locked {
            ..
        })) => (
            Exit::Conflict,
            "stop the agent of this host first: systemctl stop mesh-agent; nothing was changed",
        ),
        RecoverError::Salvage(_) | RecoverError::Empty => {
            (Exit::Error, "recover on another survivor; nothing was changed")
        }
        RecoverError::State(RecoveryError::NoReason) => {
            (Exit::Invalid, "add --reason \"...\"; nothing was changed")
        }
        RecoverError::State(_) => (Exit::Invalid, "nothing was changed"),
        RecoverError::NotGone { .. } => (
            Exit::Unsafe,
            "what answers is not gone: bring the majority back instead; or, if it must not come back, turn it off. Nothing was \
             changed",
        ),
        RecoverError::Store(_)
        | RecoverError::Floors(_)
        | RecoverError::Machine(_)
        | RecoverError::Files { .. } => {
            (Exit::Error, "mend that, and run the same command again: it ends what was begun")
        }
    };
    Failure::new(exit, super::with_causes(&error), next)
}
