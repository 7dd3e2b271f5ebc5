//! Why a target group does not lead where it should, and what that means for the step that asked.

use mesh_proto::effect::{Finding, Outcome, Refusal};
use mesh_proto::spec::TargetGroupArn;
use mesh_proto::{Epoch, GroupName, InstanceName};

use super::decide::Target;
use super::lead::Led;
use super::marker::{MARKER_KEY, MarkerError};
use crate::aws::CallError;
use crate::dns::Cause;

/// Why a target group does not lead where it should. Except in [`ElbError::Unknown`], [`ElbError::NotHealthy`] and
/// [`ElbError::Foreign`] it is certain that it does not lead there by this call; the old primary may be out already.
#[derive(Debug, thiserror::Error)]
pub enum ElbError {
    /// The API was not reached, or did not answer before anything was changed.
    #[error(
        "the load balancer's API was not reached; check the way to it, and the `endpoint` if the [[elbv2]] section has one"
    )]
    NotReached(#[source] CallError),
    /// There are no credentials to ask with.
    #[error(
        "the load balancer's API cannot be asked without AWS credentials; check `credentials_file` of the [[elbv2]] section, or, \
         without one, the environment and role of this agent"
    )]
    Credentials(#[source] Cause),
    /// The API puts us off, and did nothing.
    #[error(
        "the load balancer's API is busy ({code}); it is asked again: look who else asks as this account"
    )]
    PutOff {
        /// What it said.
        code: String,
    },
    /// The API refused by code.
    #[error("the load balancer's API answered {code} when asked to {doing}; {hint}")]
    Refused {
        /// What was asked.
        doing: &'static str,
        /// Its code.
        code: String,
        /// What that means.
        hint: &'static str,
        /// Whether repeating it is useless.
        for_good: bool,
    },
    /// A newer epoch was here.
    #[error("target group {target_group} was led in epoch {seen} already")]
    Stale {
        /// The target group.
        target_group: TargetGroupArn,
        /// That epoch.
        seen: Epoch,
    },
    /// The same epoch led it elsewhere: an epoch names one instance, so something is wrong.
    #[error(
        "target group {target_group} was led to {instance} in this very epoch; two meshes seem to use it: find the other"
    )]
    Conflict {
        /// The target group.
        target_group: TargetGroupArn,
        /// Where.
        instance: InstanceName,
    },
    /// The tag belongs to another group.
    #[error(
        "target group {target_group} belongs to group {group}; take it out of one of the specs, and remove its tag {MARKER_KEY} by \
         hand if it is to change hands"
    )]
    OtherGroup {
        /// The target group.
        target_group: TargetGroupArn,
        /// Its group.
        group: GroupName,
    },
    /// The tag is no marker.
    #[error(
        "the tag {MARKER_KEY} of target group {target_group} was changed by hand; look who did, and remove it, or allow \
         `drift = \"overwrite\"` for the route"
    )]
    Marker {
        /// The target group.
        target_group: TargetGroupArn,
        /// What it says.
        #[source]
        source: MarkerError,
    },
    /// Somebody registered targets that belong to no instance of the group. The group's own were led.
    #[error(
        "target group {target_group} also has {}, which no instance of the group is; deregister it, name it in the spec, or \
         allow `drift = \"overwrite\"` for the route",
        listed(targets)
    )]
    Foreign {
        /// The target group.
        target_group: TargetGroupArn,
        /// Which.
        targets: Vec<Target>,
    },
    /// It is registered, and the load balancer sends nothing to it.
    #[error(
        "{target} is registered, and the load balancer sends nothing to it: {why}; look at its health check and listener"
    )]
    NotHealthy {
        /// The target.
        target: Target,
        /// What the load balancer says.
        why: String,
    },
    /// What was changed does not stay, because others change the target group all the time.
    #[error("target group {target_group} changes faster than it can be read; look who else changes it")]
    Unsettled {
        /// The target group.
        target_group: TargetGroupArn,
    },
    /// Only verified, and it is not so.
    #[error("the target group does not lead to {target} in this epoch: {}", findings.join(", "))]
    NotSo {
        /// Where it should lead.
        target: Target,
        /// What differs.
        findings: Vec<String>,
    },
    /// Something was sent, and nobody knows what came of it: verify before repeating.
    #[error("whether the target group leads there now is not known; verify before repeating it")]
    Unknown(#[source] Lost),
}

/// How the certainty was lost.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// A call failed after something was sent.
    #[error("a call failed after something was sent")]
    Call(#[source] CallError),
    /// It is registered, and the load balancer has not checked its health yet.
    #[error("{target} is registered, and its health is not known yet ({why})")]
    Waiting {
        /// The target.
        target: Target,
        /// What the load balancer says.
        why: String,
    },
}

fn listed(targets: &[Target]) -> String {
    targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What a call means for the step that asked: done, certainly not done, or unknown.
#[must_use]
pub fn outcome(result: Result<Led, ElbError>) -> Outcome {
    let error = match result {
        Ok(Led { draining, .. }) => return Outcome::Done(Finding::Routed { ended: 0, stragglers: draining }),
        Err(error) => error,
    };
    let detail = crate::words(&error);
    let code = match &error {
        ElbError::Unknown(_) => return Outcome::Unknown { detail },
        ElbError::NotSo { .. } => Refusal::NotSo,
        ElbError::Stale { .. } => Refusal::StaleEpoch,
        ElbError::NotReached(_) | ElbError::PutOff { .. } => Refusal::NotDelivered,
        ElbError::OtherGroup { .. } | ElbError::Marker { .. } | ElbError::Foreign { .. } => Refusal::Drift,
        ElbError::Credentials(_) | ElbError::Refused { for_good: true, .. } => Refusal::NotConfigured,
        ElbError::Refused { for_good: false, .. }
        | ElbError::Conflict { .. }
        | ElbError::NotHealthy { .. }
        | ElbError::Unsettled { .. } => Refusal::Failed,
    };
    Outcome::Refused { code, detail }
}
