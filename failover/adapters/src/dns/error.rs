//! Why names do not lead where they should, and what that means for the step that asked.

use mesh_proto::effect::{Finding, Outcome, Refusal};
use mesh_proto::spec::{DnsName, RecordKind};
use mesh_proto::{Epoch, GroupName, InstanceName};

use super::lead::Led;
use super::marker::MarkerError;
use super::rfc2136::KeyError;
use crate::words;

/// What a system, or the way to it, said: for people.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why names do not lead where they should. Except in [`DnsError::Unknown`] it is certain that this call changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The server was not reached; nothing was sent.
    #[error("the server of zone {zone} was not reached; check that it runs and that its `server` is right")]
    NotReached {
        /// The zone.
        zone: DnsName,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The secret cannot be used.
    #[error("the key of zone {zone} cannot be used")]
    Key {
        /// The zone.
        zone: DnsName,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// The server does not take the key.
    #[error(
        "the server of zone {zone} does not take the key ({code}); {}",
        if code == "BADTIME" { "the clocks of both hosts differ by more than five minutes: set them" }
        else { "key_name, algorithm and secret must be the same on both sides" }
    )]
    KeyRefused {
        /// The zone.
        zone: DnsName,
        /// What it said.
        code: String,
    },
    /// The server refused by code.
    #[error("the server of zone {zone} answered {code} when asked to {doing}; {hint}")]
    Refused {
        /// The zone.
        zone: DnsName,
        /// What was asked.
        doing: &'static str,
        /// Its code.
        code: String,
        /// What that means.
        hint: &'static str,
        /// Whether it lies in how server and agent are set up, so that repeating it is useless.
        for_good: bool,
    },
    /// There are no credentials to ask with.
    #[error(
        "zone {zone} cannot be reached without AWS credentials; check `credentials_file` of its [[route53]] section, or, without \
         one, the environment and role of this agent"
    )]
    Credentials {
        /// The zone.
        zone: DnsName,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The system puts us off, and did nothing.
    #[error(
        "zone {zone} is busy ({code}); it is asked again, and an account has five requests a second: look who else asks"
    )]
    PutOff {
        /// The zone.
        zone: DnsName,
        /// What it said.
        code: String,
    },
    /// What stands there could not be read, before anything was changed.
    #[error("what stands in zone {zone} cannot be read")]
    Unreadable {
        /// The zone.
        zone: DnsName,
        /// Why.
        #[source]
        source: Cause,
    },
    /// A newer epoch was here.
    #[error("{name} was led in epoch {seen} already")]
    Stale {
        /// The name.
        name: DnsName,
        /// That epoch.
        seen: Epoch,
    },
    /// The same epoch led it elsewhere: an epoch names one instance, so something is wrong.
    #[error(
        "{name} was led to {instance} in this very epoch; two meshes seem to use one zone: find the other"
    )]
    Conflict {
        /// The name.
        name: DnsName,
        /// Where.
        instance: InstanceName,
    },
    /// The marker belongs to another group.
    #[error(
        "{name} belongs to group {group}; take it out of one of the specs, and remove its marker TXT by hand if it is to change hands"
    )]
    OtherGroup {
        /// The name.
        name: DnsName,
        /// Its group.
        group: GroupName,
    },
    /// The marker is no marker.
    #[error(
        "the marker of {name} was changed by hand; look who did, and remove the TXT record _mesh-epoch.{name}"
    )]
    Marker {
        /// The name.
        name: DnsName,
        /// What it says.
        #[source]
        source: MarkerError,
    },
    /// Several markers.
    #[error(
        "{name} has {count} markers; look who added one, and remove what is not mesh's from _mesh-epoch.{name} TXT"
    )]
    Markers {
        /// The name.
        name: DnsName,
        /// How many.
        count: usize,
    },
    /// Somebody else changed the record.
    #[error(
        "{name} {kind} was changed by hand: it is {}, and mesh left it at {}; set it back (or remove it together with its marker), or allow `drift = \"overwrite\"` for the route",
        listed(found), expected.join(" or ")
    )]
    Drift {
        /// The name.
        name: DnsName,
        /// Type of its record.
        kind: RecordKind,
        /// What stands there.
        found: Vec<String>,
        /// What was expected.
        expected: Vec<String>,
    },
    /// A record of another type shuts out the wanted one.
    #[error(
        "{name} has a {found} record, beside which there can be no {wanted}; remove it, or correct the route's `type`"
    )]
    OtherType {
        /// The name.
        name: DnsName,
        /// What stands there.
        found: String,
        /// What is wanted.
        wanted: RecordKind,
    },
    /// The server accepted the change, and yet it is not in force; or others change the names all the time.
    #[error("zone {zone}: {what}")]
    NotInForce {
        /// The zone.
        zone: DnsName,
        /// How it is instead.
        what: String,
    },
    /// Only verified, and it is not so.
    #[error("{} of zone {zone} do not lead there in this epoch", names.join(", "))]
    NotSo {
        /// The zone.
        zone: DnsName,
        /// The names.
        names: Vec<String>,
    },
    /// A change was sent, and nobody knows what came of it: verify before repeating.
    #[error("whether the change of zone {zone} took effect is not known; verify before repeating it")]
    Unknown {
        /// The zone.
        zone: DnsName,
        /// Why.
        #[source]
        source: Lost,
    },
}

fn listed(values: &[String]) -> String {
    if values.is_empty() { "absent".to_owned() } else { values.join(", ") }
}

/// How the certainty was lost.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// No usable answer came.
    #[error("no usable answer came")]
    Exchange(#[source] Cause),
    /// The deadline passed before it could be read back.
    #[error("the deadline passed before it could be read back")]
    Late,
}

/// What a call means for the step that asked: done, certainly not done, or unknown.
#[must_use]
pub fn outcome(result: Result<Led, DnsError>) -> Outcome {
    let error = match result {
        Ok(Led { servers, lagging, .. }) => return Outcome::Done(Finding::Named { servers, lagging }),
        Err(error) => error,
    };
    let detail = words(&error);
    let code = match &error {
        DnsError::Unknown { .. } => return Outcome::Unknown { detail },
        DnsError::NotSo { .. } => Refusal::NotSo,
        DnsError::Stale { .. } => Refusal::StaleEpoch,
        DnsError::NotReached { .. } | DnsError::Unreadable { .. } | DnsError::PutOff { .. } => {
            Refusal::NotDelivered
        }
        DnsError::Drift { .. }
        | DnsError::OtherType { .. }
        | DnsError::OtherGroup { .. }
        | DnsError::Marker { .. }
        | DnsError::Markers { .. } => Refusal::Drift,
        DnsError::Key { .. }
        | DnsError::KeyRefused { .. }
        | DnsError::Credentials { .. }
        | DnsError::Refused { for_good: true, .. } => Refusal::NotConfigured,
        DnsError::Refused { for_good: false, .. }
        | DnsError::Conflict { .. }
        | DnsError::NotInForce { .. } => Refusal::Failed,
    };
    Outcome::Refused { code, detail }
}
