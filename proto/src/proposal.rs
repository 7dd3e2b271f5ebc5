//! A forced run that one person asked for, and that waits for another one. Nothing here decides who may approve it.

use serde::{Deserialize, Serialize};

use crate::run::Plan;
use crate::{Epoch, InstanceName, Millis, ProposalId, RunId, SiteName, Wall};

/// How long a proposal waits for its second person.
pub const PROPOSAL_LASTS: Millis = Millis(15 * 60_000);

/// What two persons are needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TwoPerson {
    /// A run with `--force` or `--accept-loss` that may leave the primary's site.
    ForcedCrossSite,
}

/// What was asked for, as the operator said it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forced {
    /// The wanted site.
    pub site: Option<SiteName>,
    /// The wanted instance.
    pub instance: Option<InstanceName>,
    /// `--force`
    pub force: bool,
    /// `--accept-loss`
    pub accept_loss: bool,
    /// Why.
    pub reason: String,
}

impl std::fmt::Display for Forced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.instance, &self.site) {
            (Some(instance), _) => write!(f, "failover to {instance}")?,
            (None, Some(site)) => write!(f, "failover to {site}")?,
            (None, None) => f.write_str("failover to any site")?,
        }
        f.write_str(match (self.force, self.accept_loss) {
            (true, true) => ", forced, the loss of acknowledged writes accepted",
            (false, true) => ", the loss of acknowledged writes accepted",
            (true, false) | (false, false) => ", forced",
        })
    }
}

/// A proposal on its way into the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposed {
    /// What is asked for.
    pub forced: Forced,
    /// The primary that it would replace.
    pub from: InstanceName,
    /// The epoch that it would end.
    pub epoch: Epoch,
    /// The stuck run that it would send on, if that is what it is.
    pub run: Option<RunId>,
    /// What it would do, as far as was known when it was asked for; a line each, for people.
    pub would: Vec<String>,
}

/// A proposal that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Its name.
    pub id: ProposalId,
    /// Who asked.
    pub by: String,
    /// When, by the wall clock; for people.
    pub at: Wall,
    /// What.
    pub what: Proposed,
}

/// What an approval begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Approved {
    /// A run, planned anew from what is known at the approval.
    Run(Box<Plan>),
    /// The stuck run goes on without its limits.
    Stuck(RunId),
}

/// Why a proposal is over that was not approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProposalEnd {
    /// Somebody took it back, with the reason.
    Withdrawn(String),
    /// Nobody approved it in time.
    Expired,
}
