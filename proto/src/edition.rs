//! Which commands a build can apply. An agent that meets an entry it cannot decode stops, as it must: its state would no
//! longer be the others'. So what only newer builds know is proposed only when every member has said that it knows it.
//!
//! To add a command: raise [`EDITION`], and give the command that number in [`Command::edition`]. Nothing else asks for it:
//! whoever proposes is held back in one place.

use crate::command::Command;
use crate::spec::{GroupSpec, MajorityLost};

/// The newest edition that this build can apply. Builds that do not say theirs have edition 0.
pub const EDITION: u32 = 5;
/// The edition since which the audit keeps what came of tokens: where it does, a new host knows at least this one.
pub const TOKENS: u32 = 4;

impl Command {
    /// The first edition whose builds can apply this.
    #[must_use]
    pub const fn edition(&self) -> u32 {
        match self {
            Self::MeshFormed { .. }
            | Self::MemberAdded { .. }
            | Self::MemberRemoved { .. }
            | Self::ElectorateChanging { .. }
            | Self::ElectorateChanged { .. }
            | Self::ElectorateKept { .. }
            | Self::Founded { .. }
            | Self::LeaseGranted { .. }
            | Self::VerdictChanged { .. }
            | Self::RunOpened { .. }
            | Self::StepsStarted { .. }
            | Self::StepEnded { .. }
            | Self::ErrandSkipped { .. }
            | Self::Signalled { .. }
            | Self::PromotionCommitted { .. }
            | Self::RepairStarted { .. }
            | Self::RepairEnded { .. }
            | Self::Paused { .. }
            | Self::Resumed { .. }
            | Self::Acknowledged { .. }
            | Self::RunOverridden { .. }
            | Self::QuorumChanged { .. }
            | Self::QuorumConfirmed { .. } => 0,
            // Its key `operator` is none that older builds know: their audit would differ.
            Self::AccessDenied { denial } if denial.operator.is_some() => 4,
            // A recovery is a record that a mesh begins with, and never proposed.
            Self::MeshRecovered { .. } | Self::AccessDenied { .. } => 1,
            Self::SpecApplied { spec, .. } => of_spec(spec),
            Self::RunProposed { .. } | Self::RunApproved { .. } | Self::ProposalEnded { .. } => 2,
            Self::DegradeBegun { .. } | Self::DegradeEnded { .. } => 3,
            Self::TokenTried { .. } => TOKENS,
            Self::HoldersKnown { .. } => 5,
        }
    }
}

/// The first edition whose builds know every key that a spec has. One that says what older builds do anyway is not written
/// down, and asks for nothing.
const fn of_spec(spec: &GroupSpec) -> u32 {
    if matches!(spec.majority_lost, MajorityLost::Hold) {
        5
    } else if !spec.degrade.is_by_hand() {
        3
    } else if !spec.two_person.is_empty() {
        2
    } else {
        0
    }
}
