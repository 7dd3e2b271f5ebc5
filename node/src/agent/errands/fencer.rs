//! A host turned off from outside, by a program of this agent's file.
//!
//! Off is off, so it is repeated whenever nobody knows. It is never begun when the log applied here does not show that this very
//! lease is being ended: a leader that was deposed turns nobody off.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use mesh_adapters::hooks::{self, Ended, Hook, HookError, Report};
use mesh_failover::state::Group;
use mesh_proto::effect::{Effect, Finding, Order, Outcome, Refusal};
use mesh_proto::lease::LeaseTerm;
use mesh_proto::spec::InstanceSpec;
use mesh_proto::{AgentName, Epoch, GroupName, InstanceName, LeaseNo, Millis, RunId, SiteName};
use serde::Serialize;
use tokio::time::sleep_until;

use super::work::end_of;
use super::{No, no, refused};

/// Pause before a program that asked to be tried again is run again.
const AGAIN: Duration = Duration::from_millis(500);

/// How the lease of an instance stands in the log applied here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Its takeover is open.
    Open,
    /// Not, as far as the log goes here.
    NotYet,
    /// The lease is another one by now.
    Over,
}

impl Ending {
    /// How a group of the applied state stands to the end of this lease.
    #[must_use]
    pub fn of(group: Option<&Group>, instance: &InstanceName, term: LeaseTerm) -> Self {
        let Some(group) = group else { return Self::NotYet };
        let lease = group.leases.get(instance).map(|lease| lease.term);
        match lease {
            Some(now) if now > term || group.epoch > term.epoch => Self::Over,
            Some(_) | None => {
                let open = group.takeover.as_ref();
                let this = open.is_some_and(|open| open.key.instance == *instance && open.term == term);
                if this { Self::Open } else { Self::NotYet }
            }
        }
    }
}

/// What a fencer is to do: the object on its stdin.
#[derive(Debug, Clone, Serialize)]
struct Call {
    action: Action,
    instance: InstanceName,
    site: SiteName,
    /// The agent of that host.
    agent: AgentName,
    /// Where the instance listened.
    address: IpAddr,
    group: GroupName,
    run: RunId,
    epoch: Epoch,
    lease_no: LeaseNo,
    attempt: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Action {
    /// Turn it off, see that it is off, and say so.
    Off,
    /// Only say whether it is off.
    Status,
}

/// A fencer with what it is to do.
#[derive(Debug)]
pub(super) struct Fencer {
    hook: Hook,
    call: Call,
}

impl Fencer {
    /// What the order asks of this program; refused where the log says otherwise.
    pub(super) fn new(
        hook: &Hook,
        order: &Order,
        instance: &InstanceSpec,
        ending: &Ending,
    ) -> Result<Self, No> {
        let Effect::TurnOff { term, .. } = &order.effect else {
            return Err(no(Refusal::NotConfigured, "no order to turn a host off"));
        };
        match ending {
            Ending::Open => {}
            Ending::NotYet => {
                let what = format!("the log here does not say yet that {} loses its lease", instance.name);
                return Err(no(Refusal::NotDelivered, what));
            }
            Ending::Over => {
                let what = format!("{} has another lease by now, and is left alone", instance.name);
                return Err(no(Refusal::StaleEpoch, what));
            }
        }
        let call = Call {
            action: Action::Off,
            instance: instance.name.clone(),
            site: instance.site.clone(),
            agent: instance.agent.clone(),
            address: instance.address.ip(),
            group: order.group.clone(),
            run: order.step.run,
            epoch: term.epoch,
            lease_no: term.lease_no,
            attempt: order.step.attempt,
        };
        Ok(Self { hook: hook.clone(), call })
    }

    /// Turns it off. At the deadline nobody knows.
    pub(super) async fn off(&self, deadline: Instant) -> Outcome {
        let began = Instant::now();
        loop {
            let ran = hooks::run(&self.hook, &self.call, deadline).await;
            let next = Instant::now() + AGAIN;
            let again = matches!(&ran, Ok(report) if report.ended == Ended::TryAgain);
            if again && next < deadline {
                sleep_until(next.into()).await;
                continue;
            }
            return self.outcome(began, ran);
        }
    }

    fn outcome(&self, began: Instant, ran: Result<Report, HookError>) -> Outcome {
        let name = &self.hook.name;
        let report = match ran {
            Ok(report) => report,
            Err(error @ HookError::Lost { .. }) => {
                return Outcome::Unknown { detail: crate::cli::with_causes(&error) };
            }
            Err(error) => return refused(Refusal::Failed, crate::cli::with_causes(&error)),
        };
        let said = end_of(&report.output.to_string());
        match report.ended {
            Ended::Done => Outcome::Done(Finding::Off { took: Millis::from(began.elapsed()), said }),
            Ended::TryAgain => refused(Refusal::Failed, format!("fencer {name} is not done in time: {said}")),
            Ended::Failed { code } => {
                refused(Refusal::Failed, format!("fencer {name} ended with {code}: {said}"))
            }
            Ended::Signalled { signal } => {
                Outcome::Unknown { detail: format!("fencer {name} ended by signal {signal}: {said}") }
            }
            Ended::TimedOut => {
                Outcome::Unknown { detail: format!("fencer {name} did not end in time: {said}") }
            }
        }
    }

    /// Asks whether it is off, and turns nothing off.
    pub(super) async fn look(&self, deadline: Instant) -> Outcome {
        let began = Instant::now();
        let call = Call { action: Action::Status, ..self.call.clone() };
        match hooks::run(&self.hook, &call, deadline).await {
            Ok(report) if report.ended == Ended::Done => self.outcome(began, Ok(report)),
            Ok(report) => {
                let said = end_of(&report.output.to_string());
                refused(
                    Refusal::NotSo,
                    format!("fencer {} does not say that it is off: {said}", self.hook.name),
                )
            }
            Err(error) => refused(Refusal::NotSo, crate::cli::with_causes(&error)),
        }
    }
}
