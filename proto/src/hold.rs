//! What guards of one group say to each other where a primary may go on without a majority of voters
//! (`majority_lost = "hold"`): its guard asks, every other one promises. The rules are in the pure core
//! (`mesh-failover::guard`); nothing here decides.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::lease::{LeaseKey, LeaseTerm};
use crate::{GuardIncarnation, InstanceName, Millis};

/// The guard of a primary asks the guard of another instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRequest {
    /// The asking guard's lease.
    pub key: LeaseKey,
    /// The acquisition that it holds.
    pub term: LeaseTerm,
    /// The asking guard's life.
    pub guard: GuardIncarnation,
    /// How long the promise shall last: the asking guard counts it from when it sent this.
    pub length: Millis,
}

/// What the other guard says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldAnswer {
    /// Its instance will not be opened while this lasts, and it promises nothing for an older lease any more.
    Promised {
        /// How long what it promised for older leases may still run, by its own clock.
        older: Millis,
    },
    /// It promises nothing for an older lease any more, and nothing for this one either.
    Stopped {
        /// As above.
        older: Millis,
        /// Why not.
        why: NoPromise,
    },
    /// Nothing was promised, and nothing ended.
    Refused(NoPromise),
}

/// Why a guard does not promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoPromise {
    /// It knows of a newer lease of the group.
    NewerLease,
    /// It is another group's guard, or is asked for its own instance.
    NotAsked,
    /// Its voters have not said that the group holds.
    PolicyOff,
    /// Its instance is frozen: a run may be about to promote it.
    Frozen,
    /// It holds or acquires a lease of its own, or is ending one.
    HoldsLease,
    /// It is going down.
    Stopping,
    /// It has lost what an earlier process knew, and says nothing before all of that is over.
    JustBorn,
}

/// A lease that nobody has proved to be over: its guard may go on with it while every one of its holders promises.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unended {
    /// The instance.
    pub instance: InstanceName,
    /// The life of its guard.
    pub guard: GuardIncarnation,
    /// The acquisition.
    pub term: LeaseTerm,
    /// Whose promises it needs: as soon as one of them has stopped, it ends with that one's last promise.
    pub holders: BTreeSet<InstanceName>,
}

/// What guards must know beside their own lease where a group holds, or held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldView {
    /// The spec says `hold` now.
    pub on: bool,
    /// The longest lease that any guard of the group may have asked for.
    pub longest: Millis,
    /// The largest fence budget that any guard of the group may still work with.
    pub fence: Millis,
    /// The lease in force.
    pub current: Option<LeaseTerm>,
    /// Where the guards of the group are.
    pub guards: Vec<GuardPeer>,
}

/// A guard, as another one needs it to ask it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GuardPeer {
    /// Its instance: what its certificate must say.
    pub instance: InstanceName,
    /// `IP:port` of its listener.
    pub address: std::net::SocketAddr,
}

/// What a guard says of it in its status. That a status has it shows that the build knows promises.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldStanding {
    /// It would promise for the lease in force, if it is asked.
    pub willing: bool,
    /// The lease that its server was opened under, while it runs as the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<LeaseTerm>,
    /// Whose promises it needs to go on without a majority; empty where it would not.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub holders: BTreeSet<InstanceName>,
    /// Of them, whose promise runs.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub promised: BTreeSet<InstanceName>,
    /// No majority of voters grants its lease: it goes on by promises alone.
    #[serde(default)]
    pub alone: bool,
    /// Its lease is there, and it does not open yet: an older lease of this instance may still be held by promises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<InstanceName>,
}
