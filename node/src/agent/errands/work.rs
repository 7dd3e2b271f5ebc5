//! One errand: a service brought up and seen to be well, or brought down and seen to be gone, or a hook run to its end.
//! Programs come from this agent's file alone.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mesh_adapters::health::{Check, Unhealthy};
use mesh_adapters::hooks::{self, Call, Ended, Hook};
use mesh_adapters::postgres::{ProbeTarget, healthy};
use mesh_adapters::redis;
use mesh_adapters::systemd::{self, Active, Systemd, UnitName};
use mesh_proto::effect::{Effect, Finding, Order, Outcome, Refusal};
use mesh_proto::spec::{CheckSpec, GroupSpec, InstanceSpec, Work as Kind};
use mesh_proto::{ErrandName, Millis};
use tokio::time::sleep_until;

use super::fencer::{Ending, Fencer};
use super::needs::Needs;
use super::{Goal, Logins, No, no, refused};
use crate::config::NodeConfig;

/// Pause between two looks at a service that comes up or goes down.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long one look may take.
const LOOK: Duration = Duration::from_secs(2);
/// Pause before a program that asked to be tried again is run again.
const AGAIN: Duration = Duration::from_secs(1);
/// How much of what a program said is kept with a good end.
const SAID_CHARS: usize = 200;

/// What this agent's file allows.
#[derive(Debug, Default)]
pub struct Allowed {
    services: Vec<(ErrandName, Managed)>,
    hooks: Vec<Hook>,
    fencers: Vec<Hook>,
}

/// How a service is started and stopped.
#[derive(Debug, Clone)]
enum Managed {
    Unit(UnitName),
    Commands(Box<Commands>),
}

/// The commands of a service.
#[derive(Debug, Clone)]
struct Commands {
    start: Option<Hook>,
    stop: Option<Hook>,
    check: Option<Hook>,
}

impl Allowed {
    /// The sections of a node-local file, which was checked.
    #[must_use]
    pub fn of(config: &NodeConfig) -> Self {
        let command = |name: &ErrandName, verb: &str, words: &Option<Vec<String>>| {
            let (program, args) = words.as_deref()?.split_first()?;
            Some(Hook {
                name: format!("{verb} of {name}"),
                program: PathBuf::from(program),
                args: args.to_vec(),
                leaves: verb == "start",
            })
        };
        let services = config.services.iter().map(|service| {
            let name = &service.name;
            let managed = match service.unit.as_deref().map(UnitName::new) {
                Some(Ok(unit)) => Managed::Unit(unit),
                Some(Err(_)) | None => Managed::Commands(Box::new(Commands {
                    start: command(name, "start", &service.start),
                    stop: command(name, "stop", &service.stop),
                    check: command(name, "check", &service.check),
                })),
            };
            (name.clone(), managed)
        });
        let program = |name: &ErrandName, program: &Path, args: &[String]| Hook {
            name: name.to_string(),
            program: program.to_owned(),
            args: args.to_vec(),
            leaves: false,
        };
        let hooks = config.hooks.iter().map(|hook| program(&hook.name, &hook.program, &hook.args));
        let fencers = config.fencers.iter().map(|f| program(&f.name, &f.program, &f.args));
        Self { services: services.collect(), hooks: hooks.collect(), fencers: fencers.collect() }
    }

    /// What an order comes to here.
    pub(super) fn work(
        &self,
        order: &Order,
        group: &GroupSpec,
        instance: &InstanceSpec,
        needs: Needs,
    ) -> Result<Work, No> {
        let Effect::Errand { errand, work, at, .. } = &order.effect else {
            return Err(no(Refusal::NotConfigured, "no service and no hook"));
        };
        let missing = |section: &str| {
            let what =
                format!("this agent's file has no [[{section}]] named {errand}, so it may not be touched");
            no(Refusal::NotConfigured, what)
        };
        let call = Call {
            run: order.step.run,
            group: order.group.clone(),
            epoch: order.epoch,
            phase: at.to_string(),
            instance: instance.name.clone(),
            site: instance.site.clone(),
            attempt: order.step.attempt,
        };
        Ok(match work {
            Kind::Hook => {
                let hook = self.hooks.iter().find(|hook| hook.name == errand.as_str());
                Work::Hook { hook: hook.ok_or_else(|| missing("hook"))?.clone(), call, needs }
            }
            Kind::Start | Kind::Stop => {
                let found = self.services.iter().find(|(name, _)| name == errand);
                let (_, managed) = found.ok_or_else(|| missing("service"))?;
                let spec = group.services.iter().find(|service| service.name == *errand);
                let check = spec.and_then(|service| service.check.clone());
                let goal = Goal { instance: instance.clone(), database: group.database.clone() };
                let service = Box::new(Service {
                    name: errand.clone(),
                    up: *work == Kind::Start,
                    managed: managed.clone(),
                    check: check.map(|check| prepared(check, &goal, &needs.logins)).transpose()?,
                });
                Work::Service { service, call, needs }
            }
        })
    }

    /// What an order to turn a host off comes to here.
    pub(super) fn fencer(
        &self,
        name: &ErrandName,
        order: &Order,
        host: &InstanceSpec,
        ending: &Ending,
    ) -> Result<Work, No> {
        let Some(hook) = self.fencers.iter().find(|hook| hook.name == name.as_str()) else {
            let what = format!("this agent's file has no [[fencer]] named {name}, so it turns nobody off");
            return Err(no(Refusal::NotConfigured, what));
        };
        Fencer::new(hook, order, host, ending).map(|fencer| Work::Fencer(Box::new(fencer)))
    }
}

/// An errand, ready to be done.
#[derive(Debug)]
pub(super) enum Work {
    Hook { hook: Hook, call: Call, needs: Needs },
    Service { service: Box<Service>, call: Call, needs: Needs },
    Fencer(Box<Fencer>),
}

#[derive(Debug)]
pub(super) struct Service {
    name: ErrandName,
    /// Start it, or stop it.
    up: bool,
    managed: Managed,
    check: Option<Probe>,
}

/// A check with everything that it needs.
#[derive(Debug)]
enum Probe {
    Net(Check),
    Sql { target: ProbeTarget, query: String },
    Redis { target: redis::Target, key: Option<String> },
}

/// How a service was found.
#[derive(Debug)]
enum Found {
    /// As it should be.
    So,
    /// Otherwise, and how.
    NotSo(String),
    /// Nothing tells.
    Untold,
}

impl Work {
    /// Whether how it stands can be looked at: a hook leaves nothing that shows it.
    pub(super) const fn shows(&self) -> bool {
        match self {
            Self::Service { .. } | Self::Fencer(_) => true,
            Self::Hook { .. } => false,
        }
    }

    /// Does it. When this returns, or is dropped, no program of it runs any more.
    pub(super) async fn run(&self, deadline: Instant) -> Outcome {
        match self {
            Self::Hook { hook, call, needs } => match needs.met(deadline).await {
                Ok(()) => command(hook, call, deadline).await,
                Err(why) => refused(Refusal::Failed, format!("hook {} was not begun: {why}", hook.name)),
            },
            Self::Service { service, call, needs } => service.run(call, needs, deadline).await,
            Self::Fencer(fencer) => fencer.off(deadline).await,
        }
    }

    /// Finds out whether it is so, and changes nothing.
    pub(super) async fn look(&self, deadline: Instant) -> Outcome {
        let began = Instant::now();
        let (service, call) = match self {
            Self::Service { service, call, .. } => (service, call),
            Self::Fencer(fencer) => return fencer.look(deadline).await,
            Self::Hook { .. } => return refused(Refusal::NotSo, "a hook leaves nothing that shows it"),
        };
        match service.look(call, deadline).await {
            Found::So => ran(began, None),
            Found::NotSo(how) => refused(Refusal::NotSo, how),
            Found::Untold => refused(Refusal::NotSo, "nothing tells whether it is so; it is done again"),
        }
    }
}

impl Service {
    async fn run(&self, call: &Call, needs: &Needs, deadline: Instant) -> Outcome {
        let began = Instant::now();
        // One that is as it should be is left alone: a restart would interrupt its clients.
        if let Found::So = self.look(call, deadline).await {
            return ran(began, Some("it was so already".to_owned()));
        }
        if let Err(why) = needs.met(deadline).await {
            return refused(Refusal::Failed, format!("service {} was not started: {why}", self.name));
        }
        let acted = match (&self.managed, self.up) {
            (Managed::Unit(unit), true) => systemd::outcome(Systemd::default().start(unit, deadline).await),
            (Managed::Unit(unit), false) => systemd::outcome(Systemd::default().stop(unit, deadline).await),
            (Managed::Commands(commands), up) => {
                let (verb, hook) = if up { ("start", &commands.start) } else { ("stop", &commands.stop) };
                let Some(hook) = hook else {
                    let what = format!("this agent's file has no `{verb}` for service {}", self.name);
                    return refused(Refusal::NotConfigured, what);
                };
                command(hook, call, deadline).await
            }
        };
        match acted {
            Outcome::Done(_) => self.settled(call, began, deadline).await,
            // What a systemctl that was not waited for comes to, the look decides.
            Outcome::Unknown { detail } => match self.look(call, deadline + LOOK).await {
                Found::So => ran(began, None),
                Found::NotSo(_) | Found::Untold => refused(Refusal::Failed, detail),
            },
            refused @ Outcome::Refused { .. } => refused,
        }
    }

    /// Looks until it is so, or until there is no time left.
    async fn settled(&self, call: &Call, began: Instant, deadline: Instant) -> Outcome {
        loop {
            let how = match self.look(call, deadline).await {
                Found::So | Found::Untold => return ran(began, None),
                Found::NotSo(how) => how,
            };
            let next = Instant::now() + LOOK_EVERY;
            if next >= deadline {
                let verb =
                    if self.up { "was started, and is not well" } else { "was stopped, and is not gone" };
                return refused(Refusal::Failed, format!("service {} {verb}: {how}", self.name));
            }
            sleep_until(next.into()).await;
        }
    }

    async fn look(&self, call: &Call, deadline: Instant) -> Found {
        let until = deadline.min(Instant::now() + LOOK);
        let state = match &self.managed {
            Managed::Unit(unit) => self.unit_state(unit, until).await,
            Managed::Commands(commands) => match &commands.check {
                Some(check) => self.check_command(check, call, until).await,
                None => Found::Untold,
            },
        };
        match (state, &self.check, self.up) {
            (Found::NotSo(how), ..) => Found::NotSo(how),
            (Found::So | Found::Untold, Some(probe), true) => match probe.ask(until).await {
                Ok(()) => Found::So,
                Err(why) => Found::NotSo(why),
            },
            // Whoever manages it does not tell, so its address has to.
            (Found::Untold, Some(Probe::Net(check)), false) => gone(check, until).await,
            // A database says nothing about a service that is gone.
            (
                found @ (Found::So | Found::Untold),
                None | Some(Probe::Net(_) | Probe::Sql { .. } | Probe::Redis { .. }),
                _,
            ) => found,
        }
    }

    async fn unit_state(&self, unit: &UnitName, until: Instant) -> Found {
        let state = match Systemd::default().state(unit, until).await {
            Ok(state) => state,
            Err(error) => return Found::NotSo(crate::cli::with_causes(&error)),
        };
        let (runs, gone) = match state.active {
            Active::Active | Active::Reloading => (true, false),
            Active::Inactive | Active::Failed => (false, state.main_pid.is_none()),
            Active::Activating | Active::Deactivating | Active::Maintenance => (false, false),
        };
        if (self.up && runs) || (!self.up && gone) {
            return Found::So;
        }
        Found::NotSo(format!("unit {unit} is {:?}", state.active).to_lowercase())
    }

    async fn check_command(&self, check: &Hook, call: &Call, until: Instant) -> Found {
        match hooks::run(check, call, until).await {
            Ok(report) => match (report.ended, self.up) {
                (Ended::Done, true) | (Ended::Failed { .. } | Ended::TryAgain, false) => Found::So,
                (Ended::Done, false) => Found::NotSo("its check says that it runs".to_owned()),
                (Ended::Failed { code }, true) => Found::NotSo(format!("its check ended with {code}")),
                (Ended::TryAgain, true) => Found::NotSo("its check says not yet".to_owned()),
                (Ended::Signalled { signal }, _) => {
                    Found::NotSo(format!("its check ended by signal {signal}"))
                }
                (Ended::TimedOut, _) => Found::NotSo("its check did not end in time".to_owned()),
            },
            Err(error) => Found::NotSo(crate::cli::with_causes(&error)),
        }
    }
}

impl Probe {
    async fn ask(&self, until: Instant) -> Result<(), String> {
        match self {
            Self::Net(check) => {
                check.ask(until).await.map(drop).map_err(|error| crate::cli::with_causes(&error))
            }
            Self::Sql { target, query } => {
                healthy(target, query, until).await.map(drop).map_err(|error| crate::cli::with_causes(&error))
            }
            Self::Redis { target, key } => redis::well(target, key.as_deref(), until)
                .await
                .map_err(|error| crate::cli::with_causes(&error)),
        }
    }
}

/// Gone is what nobody listens for any more: an error page, or silence, comes from something that is still there.
async fn gone(check: &Check, until: Instant) -> Found {
    let (Check::Tcp { address } | Check::Http { address, .. }) = check;
    match (Check::Tcp { address: *address }).ask(until).await {
        Ok(_) => Found::NotSo(format!("somebody still listens at {address}")),
        Err(Unhealthy::Io { source, .. }) if source.kind() == std::io::ErrorKind::ConnectionRefused => {
            Found::So
        }
        Err(error) => Found::NotSo(crate::cli::with_causes(&error)),
    }
}

/// Runs a program under the contract of hooks; one that asks for it is run again while there is time.
async fn command(hook: &Hook, call: &Call, deadline: Instant) -> Outcome {
    let began = Instant::now();
    let mut call = call.clone();
    loop {
        let result = hooks::run(hook, &call, deadline).await;
        let again = matches!(&result, Ok(report) if report.ended == Ended::TryAgain);
        let said = result.as_ref().ok().map(|report| end_of(&report.output.to_string()));
        let next = Instant::now() + AGAIN;
        if again && next < deadline {
            sleep_until(next.into()).await;
            call.attempt += 1;
            continue;
        }
        return match hooks::outcome(hook, result) {
            Outcome::Done(_) => ran(began, said.filter(|said| !said.is_empty())),
            // It was killed and is gone, so there is nothing that could still be found out.
            Outcome::Unknown { detail } => refused(Refusal::Failed, detail),
            Outcome::Refused { code: Refusal::NotDelivered, detail } => refused(Refusal::Failed, detail),
            refused @ Outcome::Refused { .. } => refused,
        };
    }
}

pub(super) fn end_of(text: &str) -> String {
    let skip = text.chars().count().saturating_sub(SAID_CHARS);
    text.chars()
        .skip(skip)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .trim()
        .to_owned()
}

fn ran(began: Instant, said: Option<String>) -> Outcome {
    Outcome::Done(Finding::Ran { took: Millis::from(began.elapsed()), said })
}

fn prepared(check: CheckSpec, goal: &Goal, logins: &Logins) -> Result<Probe, No> {
    let missing = |section: &str| {
        no(Refusal::NotConfigured, format!("this agent's file has no [{section}] section to log in with"))
    };
    Ok(match check {
        CheckSpec::Tcp { address } => Probe::Net(Check::Tcp { address }),
        CheckSpec::Http { address, path, host, status: [first, last] } => {
            let host = host.unwrap_or_else(|| address.to_string());
            Probe::Net(Check::Http { address, host, path, good: first..=last })
        }
        CheckSpec::Sql { query, database } => {
            let login = logins.postgres.as_ref().ok_or_else(|| missing("probe"))?;
            let target = ProbeTarget {
                address: goal.instance.address,
                database: database.unwrap_or_else(|| goal.database.clone()),
                user: login.user.clone(),
                passfile: login.passfile.clone(),
                system_identifier: None,
            };
            Probe::Sql { target, query }
        }
        CheckSpec::Redis { address, key } => {
            let login = logins.redis.as_ref().ok_or_else(|| missing("redis_probe"))?;
            Probe::Redis { target: login.target(address.unwrap_or(goal.instance.address)), key }
        }
    })
}
