//! Faults at one exact place: the leader dies before the intent, after it, after the effect, after the result; an
//! executor does it twice; an answer is lost.

use mesh_proto::command::{Command, Entry};
use mesh_proto::effect::{Effect, EffectKind, Order, Outcome};

use super::clock::ms;
use super::faults::Undo;
use super::world::{Event, World};

/// Where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The leader dies as it proposes the intent.
    BeforeIntent,
    /// The leader dies when the intent is committed, before it sends the order.
    AfterIntent,
    /// The leader dies when the effect is done, before it hears of it.
    AfterEffect,
    /// The leader dies when the result is committed.
    AfterResult,
    /// The executor gets the order twice.
    Twice,
    /// The answer is lost on its way.
    AnswerLost,
}

impl Place {
    /// Every place.
    pub const ALL: [Self; 6] = [
        Self::BeforeIntent,
        Self::AfterIntent,
        Self::AfterEffect,
        Self::AfterResult,
        Self::Twice,
        Self::AnswerLost,
    ];
}

/// One fault to inject.
#[derive(Debug, Clone, Copy, Default)]
pub struct Injection {
    what: Option<(EffectKind, Place)>,
    /// It happened.
    pub fired: bool,
    /// How long the killed leader stays away, in milliseconds.
    pub away_ms: u64,
}

impl Injection {
    /// A fault at a place of a kind of effect.
    #[must_use]
    pub const fn new(kind: EffectKind, place: Place, away_ms: u64) -> Self {
        Self { what: Some((kind, place)), fired: false, away_ms }
    }
}

impl World {
    fn due(&self, effect: &Effect, place: Place) -> bool {
        !self.injection.fired && self.injection.what == Some((effect.kind(), place))
    }

    fn leader_dies(&mut self) {
        self.injection.fired = true;
        let Some(leader) = self.raft.leader else { return };
        let away = ms(self.injection.away_ms);
        self.kill_agent(leader);
        self.after(away, Event::Undo(Undo::StartAgent(leader)));
    }

    /// Whether the proposal never leaves the leader.
    pub(super) fn inject_at_proposal(&mut self, host: usize, entry: &Entry) -> bool {
        let hit = entry.commands.iter().any(|command| match command {
            Command::StepsStarted { steps, .. } => {
                steps.iter().any(|step| self.due(&step.effect, Place::BeforeIntent))
            }
            Command::RepairStarted { effect, .. } => self.due(effect, Place::BeforeIntent),
            Command::MeshFormed { .. }
            | Command::MeshRecovered { .. }
            | Command::MemberAdded { .. }
            | Command::MemberRemoved { .. }
            | Command::AccessDenied { .. }
            | Command::TokenTried { .. }
            | Command::RunProposed { .. }
            | Command::RunApproved { .. }
            | Command::ProposalEnded { .. }
            | Command::ElectorateChanging { .. }
            | Command::ElectorateChanged { .. }
            | Command::ElectorateKept { .. }
            | Command::SpecApplied { .. }
            | Command::Founded { .. }
            | Command::LeaseGranted { .. }
            | Command::VerdictChanged { .. }
            | Command::RunOpened { .. }
            | Command::StepEnded { .. }
            | Command::ErrandSkipped { .. }
            | Command::Signalled { .. }
            | Command::PromotionCommitted { .. }
            | Command::RepairEnded { .. }
            | Command::Paused { .. }
            | Command::Resumed { .. }
            | Command::QuorumChanged { .. }
            | Command::QuorumConfirmed { .. }
            | Command::DegradeBegun { .. }
            | Command::DegradeEnded { .. }
            | Command::HoldersKnown { .. }
            | Command::Acknowledged { .. }
            | Command::RunOverridden { .. } => false,
        });
        if hit && self.raft.leader == Some(host) {
            self.leader_dies();
        }
        hit
    }

    pub(super) fn inject_at_commit(&mut self, entry: &Entry) {
        let hit = entry.commands.iter().any(|command| match command {
            Command::StepsStarted { steps, .. } => {
                steps.iter().any(|step| self.due(&step.effect, Place::AfterIntent))
            }
            Command::RepairStarted { effect, .. } => self.due(effect, Place::AfterIntent),
            Command::StepEnded { run, step, .. } => self
                .group()
                .run
                .as_ref()
                .filter(|known| known.id == *run)
                .and_then(|run| run.steps.get(step))
                .is_some_and(|step| self.due(&step.effect, Place::AfterResult)),
            Command::RepairEnded { repair, .. } => self
                .group()
                .repairs
                .iter()
                .find(|known| known.id == *repair)
                .is_some_and(|known| self.due(&known.effect, Place::AfterResult)),
            Command::MeshFormed { .. }
            | Command::MeshRecovered { .. }
            | Command::MemberAdded { .. }
            | Command::MemberRemoved { .. }
            | Command::AccessDenied { .. }
            | Command::TokenTried { .. }
            | Command::RunProposed { .. }
            | Command::RunApproved { .. }
            | Command::ProposalEnded { .. }
            | Command::ElectorateChanging { .. }
            | Command::ElectorateChanged { .. }
            | Command::ElectorateKept { .. }
            | Command::SpecApplied { .. }
            | Command::Founded { .. }
            | Command::LeaseGranted { .. }
            | Command::VerdictChanged { .. }
            | Command::RunOpened { .. }
            | Command::ErrandSkipped { .. }
            | Command::Signalled { .. }
            | Command::PromotionCommitted { .. }
            | Command::Paused { .. }
            | Command::Resumed { .. }
            | Command::QuorumChanged { .. }
            | Command::QuorumConfirmed { .. }
            | Command::DegradeBegun { .. }
            | Command::DegradeEnded { .. }
            | Command::HoldersKnown { .. }
            | Command::Acknowledged { .. }
            | Command::RunOverridden { .. } => false,
        });
        if hit {
            self.leader_dies();
        }
    }

    /// How often an order arrives.
    pub(super) fn inject_copies(&mut self, order: &Order) -> usize {
        if !order.verify_only && self.due(&order.effect, Place::Twice) {
            self.injection.fired = true;
            return 2;
        }
        1
    }

    /// Whether an answer is lost.
    pub(super) fn inject_at_answer(&mut self, order: &Order, outcome: &Outcome) -> bool {
        if order.verify_only || !matches!(outcome, Outcome::Done(_)) {
            return false;
        }
        if self.due(&order.effect, Place::AnswerLost) {
            self.injection.fired = true;
            return true;
        }
        if self.due(&order.effect, Place::AfterEffect) {
            self.leader_dies();
        }
        false
    }
}
