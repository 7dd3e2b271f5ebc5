//! Rules that a test may switch off, to prove that the simulator or a model notices when they are missing.
//!
//! Never set outside tests: [`Mutants::none`] is what every agent uses, and nothing in a file, a flag or a message can
//! build another one.

/// One rule that can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// Promote as soon as the takeover is open, without any proof that the old lease is over.
    PromoteWithoutWaiting,
    /// Count a minority of pledges as enough.
    MinorityPledges,
    /// Count votes by agent instead of by site.
    VotesByAgent,
    /// Treat an unknown outcome as done.
    UnknownIsDone,
    /// Send an effect again whose outcome nobody knows, without asking first what became of it.
    RepeatedUnasked,
    /// Promote without having frozen the standbys.
    NoFreeze,
    /// Do not wait for the fence budget after the lease's end.
    NoFenceBudget,
    /// Treat silent observers as witnesses of a loss.
    BlindIsWitness,
    /// Take older commit quorums out of the log before a marker was acknowledged under the newest.
    RetiredBeforeMarker,
    /// Promote without regard to whether the frozen standbys must hold every acknowledged write.
    NoIntersection,
    /// Take a standby for the one listed under its name, whatever became of its data.
    IdentityWithoutData,
    /// Begin services and hooks without regard to what comes first.
    ErrandsUnordered,
    /// End a change of voters as soon as the leader sees that it began.
    VotersAtOnce,
    /// Take any standby for a part of the group's history, by its timeline alone.
    AnyLine,
    /// A guard promises, and does not remember that it did.
    HoldPromiseNotNoted,
    /// A restarted guard takes itself for one that promised nothing.
    HoldRestartForgetsPromises,
    /// A guard holds by the promise of one other, whatever the rest say.
    HoldOnePromiseIsAll,
}

/// The rules that are switched off.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Mutants(std::collections::BTreeSet<Mutant>);

impl Mutants {
    /// None: every rule holds.
    #[must_use]
    pub const fn none() -> Self {
        Self(std::collections::BTreeSet::new())
    }
    /// One rule switched off.
    #[must_use]
    pub fn one(mutant: Mutant) -> Self {
        Self(std::collections::BTreeSet::from([mutant]))
    }
    /// Whether a rule is switched off.
    #[must_use]
    pub fn has(&self, mutant: Mutant) -> bool {
        self.0.contains(&mutant)
    }
}
