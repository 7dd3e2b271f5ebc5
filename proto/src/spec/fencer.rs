//! External fencers: programs of the operator's that turn a host off and say so, through a management controller, a
//! hypervisor or a cloud's API. A spec names them and whose hosts they turn off.
//!
//! It never says which program is executed, or with which credentials: the file of the agent that runs it does.

use serde::{Deserialize, Serialize};

use crate::{AgentName, ErrandName, InstanceName};

/// A program that turns the hosts of instances off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FencerSpec {
    /// Its name, as in the `[[fencer]]` section of the agents' files.
    pub name: ErrandName,
    /// The instances whose hosts it turns off; everything else on such a host goes with it.
    pub fences: Vec<InstanceName>,
    /// The agents that run it, all of them at the same time: turning off twice is turning off. None that stands at such a
    /// host: it would go with it.
    pub agents: Vec<AgentName>,
    /// How long it may take; then its whole process group is killed.
    #[serde(default = "ten_seconds")]
    pub deadline_seconds: u64,
    /// Whether nothing else but the guard's own receipt will do: then the end of the lease alone promotes nobody. For hosts whose
    /// clock may stand still unseen, such as virtual machines that are suspended and resumed.
    #[serde(default)]
    pub required: bool,
}

const fn ten_seconds() -> u64 {
    10
}
