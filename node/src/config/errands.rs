//! What this host lets a run execute: the units and commands behind the names of services, and the programs behind the names
//! of hooks and fencers. A group's spec only names them, so whoever applies specs can order nothing that does not stand here.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mesh_adapters::systemd::UnitName;
use mesh_proto::ErrandName;
use serde::Deserialize;

use super::NodeConfig;
use super::check::{At, Finding, at, finding};

/// One service: a systemd unit, or commands.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSection {
    /// Its name, as in the group's spec.
    pub name: ErrandName,
    /// The systemd unit.
    #[serde(default)]
    pub unit: Option<String>,
    /// Program and arguments that start it. It must return; what it leaves running must not write into its output.
    #[serde(default)]
    pub start: Option<Vec<String>>,
    /// Program and arguments that stop it.
    #[serde(default)]
    pub stop: Option<Vec<String>>,
    /// Program and arguments that end with 0 when it runs, and with another code when it does not.
    #[serde(default)]
    pub check: Option<Vec<String>>,
}

/// One hook.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookSection {
    /// Its name, as in the group's spec.
    pub name: ErrandName,
    /// The program, an absolute path.
    pub program: PathBuf,
    /// Its arguments, the same in every run; never a secret.
    #[serde(default)]
    pub args: Vec<String>,
}

/// One fencer: a program that turns other hosts off.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FencerSection {
    /// Its name, as in the group's spec.
    pub name: ErrandName,
    /// The program, an absolute path.
    pub program: PathBuf,
    /// Its arguments, the same in every run; never a secret: it reads its own credentials.
    #[serde(default)]
    pub args: Vec<String>,
}

/// Relations between values.
pub(super) fn values(config: &NodeConfig, found: &mut Vec<Finding>) {
    let names: Vec<(&ErrandName, Vec<At>)> = config
        .services
        .iter()
        .enumerate()
        .map(|(index, service)| (&service.name, at!["service", index, "name"]))
        .chain(config.hooks.iter().enumerate().map(|(index, hook)| (&hook.name, at!["hook", index, "name"])))
        .chain(config.fencers.iter().enumerate().map(|(index, f)| (&f.name, at!["fencer", index, "name"])))
        .collect();
    for (index, (name, at)) in names.iter().enumerate() {
        if names[..index].iter().any(|(other, _)| other == name) {
            let what = format!("{name} stands twice");
            found.push(finding(
                at.clone(),
                what,
                "give each service, hook and fencer of this host a name of its own",
            ));
        }
    }
    for (index, service) in config.services.iter().enumerate() {
        service_values(index, service, found);
    }
    for (index, hook) in config.hooks.iter().enumerate() {
        absolute(&hook.program, at!["hook", index, "program"], found);
    }
    for (index, fencer) in config.fencers.iter().enumerate() {
        absolute(&fencer.program, at!["fencer", index, "program"], found);
    }
}

fn service_values(index: usize, service: &ServiceSection, found: &mut Vec<Finding>) {
    let commands = [("start", &service.start), ("stop", &service.stop), ("check", &service.check)];
    match &service.unit {
        Some(unit) => {
            if let Err(error) = UnitName::new(unit) {
                found.push(finding(at!["service", index, "unit"], error.to_string(), "correct the name"));
            }
            for (field, _) in commands.iter().filter(|(_, command)| command.is_some()) {
                found.push(finding(
                    at!["service", index, *field],
                    "a service is a unit or commands, not both",
                    "leave one of them out",
                ));
            }
        }
        None if service.start.is_none() && service.stop.is_none() => found.push(finding(
            at!["service", index],
            format!("service {} has neither a unit nor commands", service.name),
            "add `unit = \"NAME.service\"`, or `start` and `stop`",
        )),
        None => {}
    }
    for (field, command) in commands {
        match command.as_deref() {
            Some([]) => {
                found.push(finding(
                    at!["service", index, field],
                    "no program",
                    "name it, with its whole path",
                ));
            }
            Some([program, ..]) => absolute(Path::new(program), at!["service", index, field], found),
            None => {}
        }
    }
}

fn absolute(path: &Path, at: Vec<At>, found: &mut Vec<Finding>) {
    if !path.is_absolute() {
        let what = format!("{} is not an absolute path", path.display());
        found.push(finding(at, what, "write the whole path, beginning with /"));
    }
}

/// The programs themselves: there, executable, and nobody else's to change.
pub(super) fn files(config: &NodeConfig, found: &mut Vec<Finding>) {
    for (index, service) in config.services.iter().enumerate() {
        for (field, command) in
            [("start", &service.start), ("stop", &service.stop), ("check", &service.check)]
        {
            if let Some(program) = command.as_deref().and_then(<[String]>::first) {
                executable(Path::new(program), at!["service", index, field], found);
            }
        }
    }
    for (index, hook) in config.hooks.iter().enumerate() {
        executable(&hook.program, at!["hook", index, "program"], found);
    }
    for (index, fencer) in config.fencers.iter().enumerate() {
        executable(&fencer.program, at!["fencer", index, "program"], found);
    }
}

fn executable(path: &Path, at: Vec<At>, found: &mut Vec<Finding>) {
    let (what, next) = match std::fs::metadata(path) {
        Err(error) => {
            (format!("cannot look at {}: {error}", path.display()), "install it, or correct the path")
        }
        Ok(metadata) if !metadata.is_file() => {
            (format!("{} is no file", path.display()), "name the program itself")
        }
        Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => {
            (format!("{} cannot be executed", path.display()), "run: chmod +x on it")
        }
        Ok(metadata) if metadata.permissions().mode() & 0o022 != 0 => (
            format!("{} may be changed by others, who would then act as the agent", path.display()),
            "run: chmod go-w on it",
        ),
        Ok(_) => return,
    };
    found.push(finding(at, what, next));
}
