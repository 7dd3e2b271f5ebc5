//! Rules removed on purpose, to show that the simulator notices. Those of the core are switched off inside it; those of
//! voter and guard are taken from them here, by what the runtime around them does.

use mesh_failover::mutants::Mutant;

/// One rule that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// A rule of the core.
    Rule(Mutant),
    /// A pledge is answered before its floor is on disk (PROTOCOL, Taking over 4).
    PledgeNotPersisted,
    /// A restarted voter answers a pledge as if it had granted nothing before (PROTOCOL, Granting: restarted voter).
    RestartForgetsGrants,
    /// A voter remembers a grant for less than the guard counts it: what "counted from the answer" comes to.
    GrantForgottenEarly,
    /// The guard does not fence at the end of its lease, nor does its leash.
    NoSelfFence,
    /// The guard gives its receipt before the server is dead.
    ReceiptBeforeFence,
    /// The new primary's commit quorum is set when its clients are in already.
    QuorumAfterPromotion,
    /// Clients are let into a primary that recovered before its commit quorum has that.
    ReadBeforeQuorum,
    /// A frozen standby's receiver is not cut.
    FreezeNotFinal,
    /// The guard says of every dead log that the candidate lacks nothing.
    ScanSeesNothing,
    /// A primary that serves has no `standby.signal`: whoever starts it after a crash of its host starts a primary.
    NoStandingSignal,
    /// A restarted agent knows nothing of the hooks that it began.
    ErrandsForgotten,
}

impl Mutation {
    /// Every one, with its name on the command line.
    pub const ALL: [(&'static str, Self); 28] = [
        ("promote-without-waiting", Self::Rule(Mutant::PromoteWithoutWaiting)),
        ("minority-pledges", Self::Rule(Mutant::MinorityPledges)),
        ("no-fence-budget", Self::Rule(Mutant::NoFenceBudget)),
        ("no-freeze", Self::Rule(Mutant::NoFreeze)),
        ("unknown-is-done", Self::Rule(Mutant::UnknownIsDone)),
        ("repeated-unasked", Self::Rule(Mutant::RepeatedUnasked)),
        ("votes-by-agent", Self::Rule(Mutant::VotesByAgent)),
        ("blind-is-witness", Self::Rule(Mutant::BlindIsWitness)),
        ("pledge-not-persisted", Self::PledgeNotPersisted),
        ("restart-forgets-grants", Self::RestartForgetsGrants),
        ("grant-forgotten-early", Self::GrantForgottenEarly),
        ("no-self-fence", Self::NoSelfFence),
        ("receipt-before-fence", Self::ReceiptBeforeFence),
        ("voters-at-once", Self::Rule(Mutant::VotersAtOnce)),
        ("errands-unordered", Self::Rule(Mutant::ErrandsUnordered)),
        ("errands-forgotten", Self::ErrandsForgotten),
        ("quorum-retired-before-marker", Self::Rule(Mutant::RetiredBeforeMarker)),
        ("quorum-no-intersection", Self::Rule(Mutant::NoIntersection)),
        ("quorum-identity-without-data", Self::Rule(Mutant::IdentityWithoutData)),
        ("quorum-after-promotion", Self::QuorumAfterPromotion),
        ("quorum-read-before-it", Self::ReadBeforeQuorum),
        ("quorum-freeze-not-final", Self::FreezeNotFinal),
        ("quorum-any-line", Self::Rule(Mutant::AnyLine)),
        ("scan-sees-nothing", Self::ScanSeesNothing),
        ("strangers-no-signal", Self::NoStandingSignal),
        ("hold-promise-not-noted", Self::Rule(Mutant::HoldPromiseNotNoted)),
        ("hold-restart-forgets-promises", Self::Rule(Mutant::HoldRestartForgetsPromises)),
        ("hold-one-promise-is-all", Self::Rule(Mutant::HoldOnePromiseIsAll)),
    ];

    /// The rule of the core, if it is one.
    #[must_use]
    pub const fn rule(self) -> Option<Mutant> {
        match self {
            Self::Rule(rule) => Some(rule),
            Self::PledgeNotPersisted
            | Self::RestartForgetsGrants
            | Self::GrantForgottenEarly
            | Self::NoSelfFence
            | Self::ReceiptBeforeFence
            | Self::QuorumAfterPromotion
            | Self::ReadBeforeQuorum
            | Self::FreezeNotFinal
            | Self::ScanSeesNothing
            | Self::NoStandingSignal
            | Self::ErrandsForgotten => None,
        }
    }
}
