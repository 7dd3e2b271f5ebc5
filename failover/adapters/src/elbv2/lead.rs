//! Leads a target group: look, compare, mark, deregister, register, look until it is so.

use std::time::{Duration, Instant};

use mesh_proto::spec::TargetGroupArn;

use super::client::{self, Client};
use super::decide::{Plan, Seen, State, Wanted, compare, decide};
use super::error::{ElbError, Lost};
use crate::aws::{Access, CallError};

/// Pause between two looks at target health.
const AGAIN: Duration = Duration::from_millis(400);
/// How often a target group that others changed meanwhile is changed again.
const TRIES: u32 = 4;

/// A target group leads where it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Led {
    /// Whether anything had to be changed.
    pub changed: bool,
    /// Other targets whose connections go on until their deregistration delay is over.
    pub draining: u32,
}

/// A target group, at the API of its region.
#[derive(Debug)]
pub struct TargetGroup {
    client: Client,
}

/// Something was sent, and what failed after it.
enum Broken {
    /// A call.
    Call(CallError),
    /// Another epoch came between.
    Overtaken(ElbError),
}

impl TargetGroup {
    /// The target group with this ARN; nothing is sent yet.
    #[must_use]
    pub fn new(arn: TargetGroupArn, access: Access) -> Self {
        Self { client: Client::new(arn, access) }
    }

    /// Its ARN.
    #[must_use]
    pub const fn arn(&self) -> &TargetGroupArn {
        self.client.arn()
    }

    /// Leads it to the wanted target, and waits until that one is healthy. Doing it again changes nothing.
    ///
    /// # Errors
    /// [`ElbError`]; after [`ElbError::Unknown`] call [`Self::verify`] before anything else.
    pub async fn lead(&self, wanted: &Wanted, deadline: Instant) -> Result<Led, ElbError> {
        let (mut sent, mut tries, mut fresh) = (false, 0, false);
        loop {
            let seen = match self.client.see(deadline).await {
                Ok(seen) => seen,
                Err(error) if sent => return Err(ElbError::Unknown(Lost::Call(error))),
                Err(error) => return Err(not_done("show the target group", error)),
            };
            let plan = decide(wanted, &seen)?;
            if !plan.changes() {
                if let Some(ended) = ended(wanted, &plan, sent, deadline) {
                    return ended;
                }
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            if std::mem::take(&mut fresh) {
                // What was just changed may not be shown at once.
                tokio::time::sleep_until(deadline.min(Instant::now() + AGAIN).into()).await;
                continue;
            }
            tries += 1;
            if tries > TRIES {
                return Err(ElbError::Unsettled { target_group: self.arn().clone() });
            }
            match self.change(wanted, &plan, &mut sent, deadline).await {
                Ok(()) => fresh = true,
                Err(Broken::Overtaken(error)) => return Err(error),
                // The API may have done it.
                Err(Broken::Call(error @ (CallError::Lost(_) | CallError::Failed { .. }))) => {
                    return Err(ElbError::Unknown(Lost::Call(error)));
                }
                Err(Broken::Call(
                    error @ (CallError::Credentials(_)
                    | CallError::NotSent(_)
                    | CallError::Refused { .. }
                    | CallError::PutOff { .. }),
                )) => return Err(not_done("change the target group", error)),
            }
        }
    }

    /// One change. `sent` is set as soon as anything may have been changed.
    async fn change(
        &self,
        wanted: &Wanted,
        plan: &Plan,
        sent: &mut bool,
        deadline: Instant,
    ) -> Result<(), Broken> {
        if plan.mark {
            // Before the first effect, so that a stale agent that looks from here on is refused.
            done(self.client.mark(&wanted.marker().to_string(), deadline).await, sent)?;
            let marker = self.client.marker(deadline).await.map_err(Broken::Call)?;
            compare(wanted, marker.as_deref()).map_err(Broken::Overtaken)?;
        }
        if !plan.deregister.is_empty() {
            done(self.client.deregister(&plan.deregister, deadline).await, sent)?;
        }
        if plan.register {
            done(self.client.register(&wanted.target, wanted.outside, deadline).await, sent)?;
        }
        Ok(())
    }

    /// Finds out whether it leads there in this epoch, and changes nothing.
    ///
    /// # Errors
    /// [`ElbError::NotSo`] when it does not; what else stands in the way.
    pub async fn verify(&self, wanted: &Wanted, deadline: Instant) -> Result<Led, ElbError> {
        let seen =
            self.client.see(deadline).await.map_err(|error| not_done("show the target group", error))?;
        let plan = match decide(wanted, &seen) {
            Ok(plan) => plan,
            // That this epoch led it elsewhere is the business of who would change it.
            Err(error @ ElbError::Conflict { .. }) => {
                let findings = vec![error.to_string()];
                return Err(ElbError::NotSo { target: wanted.target.clone(), findings });
            }
            Err(error) => return Err(error),
        };
        let findings = findings(&plan, &seen);
        if findings.is_empty() {
            return Ok(Led { changed: false, draining: plan.draining });
        }
        Err(ElbError::NotSo { target: wanted.target.clone(), findings })
    }
}

/// Notes whether a call may have changed something.
fn done(result: Result<(), CallError>, sent: &mut bool) -> Result<(), Broken> {
    match &result {
        Ok(()) | Err(CallError::Lost(_) | CallError::Failed { .. }) => *sent = true,
        Err(
            CallError::Credentials(_)
            | CallError::NotSent(_)
            | CallError::Refused { .. }
            | CallError::PutOff { .. },
        ) => {}
    }
    result.map_err(Broken::Call)
}

/// Nothing is left to be changed: what came of it, or `None` to look again.
fn ended(wanted: &Wanted, plan: &Plan, sent: bool, deadline: Instant) -> Option<Result<Led, ElbError>> {
    let standing = plan.standing.as_ref()?;
    let (target, why) = (standing.target.clone(), standing.why.clone());
    let late = Instant::now() + AGAIN >= deadline;
    match standing.state {
        State::Healthy if plan.foreign.is_empty() => Some(Ok(Led { changed: sent, draining: plan.draining })),
        State::Healthy => Some(Err(ElbError::Foreign {
            target_group: wanted.target_group.clone(),
            targets: plan.foreign.clone(),
        })),
        State::Initial | State::Draining if late => {
            Some(Err(ElbError::Unknown(Lost::Waiting { target, why })))
        }
        State::Unhealthy if late => Some(Err(ElbError::NotHealthy { target, why })),
        // It stays so until somebody attaches a listener.
        State::Unused => Some(Err(ElbError::NotHealthy { target, why })),
        State::Initial | State::Draining | State::Unhealthy => None,
    }
}

/// What keeps the target group from leading there, for people.
fn findings(plan: &Plan, seen: &Seen) -> Vec<String> {
    let mut found = Vec::new();
    if plan.mark {
        found.push(match &seen.marker {
            Some(marker) => format!("its tag says {marker}"),
            None => "it has no tag of mesh".to_owned(),
        });
    }
    match &plan.standing {
        None => found.push("the target is not registered".to_owned()),
        Some(standing) if standing.state != State::Healthy => {
            found.push(format!("the target is {}", standing.why));
        }
        Some(_) => {}
    }
    found.extend(
        plan.deregister.iter().chain(&plan.foreign).map(|other| format!("{other} is registered, too")),
    );
    found
}

/// What it means that a call certainly did nothing, or only asked.
fn not_done(doing: &'static str, error: CallError) -> ElbError {
    match error {
        CallError::Credentials(source) => ElbError::Credentials(source),
        CallError::PutOff { code, .. } => ElbError::PutOff { code },
        CallError::Refused { code, message } => {
            let (hint, for_good) = client::hint(&code);
            let code = if message.is_empty() { code } else { format!("{code} ({message})") };
            ElbError::Refused { doing, code, hint, for_good }
        }
        error @ (CallError::NotSent(_) | CallError::Failed { .. } | CallError::Lost(_)) => {
            ElbError::NotReached(error)
        }
    }
}
