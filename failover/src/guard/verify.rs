//! Whether what an order asks for is so already, as a new leader asks before it repeats anything. Nothing here changes anything.

use mesh_proto::effect::{Effect, Finding, Order, Outcome, Refusal, Rejoined};
use mesh_proto::evidence::ProcessState;
use mesh_proto::quorum::QuorumMember;
use mesh_proto::{Generation, Lsn};

use super::Guard;
use super::orders::{Next, refuse};
use crate::Moment;

impl Guard {
    /// Whether it is so already; changes nothing.
    pub(super) fn verify(&self, now: Moment, order: &Order) -> Next {
        let found = match &order.effect {
            Effect::HandOver { term, .. } | Effect::Fence { term, .. } => {
                self.receipt_for(*term).map(|receipt| Outcome::Done(Finding::Fenced(receipt.clone())))
            }
            Effect::Promote { term, .. } => self.promoted(now, *term),
            Effect::Freeze { generation, .. } => self.verify_frozen(*generation),
            Effect::Confirm { at, .. } => self.position_past(*at),
            Effect::Follow { address, .. } => self.verify_follows(order, &address.to_string()),
            // A checkpoint leaves no trace, and a scan none; another is harmless.
            Effect::Checkpoint { .. }
            | Effect::Scan { .. }
            | Effect::TurnOff { .. }
            | Effect::Route { .. }
            | Effect::Prove { .. }
            | Effect::Errand { .. } => None,
        };
        match found {
            Some(outcome) => Next::Answer(outcome),
            None => refuse(Refusal::NotSo, "it is not so"),
        }
    }

    fn verify_frozen(&self, generation: Generation) -> Option<Outcome> {
        let (_, facts) = self.facts.as_ref()?;
        let cut = facts.receiving.as_ref().is_none_or(|r| !r.streaming && r.from.is_none());
        let frozen = self.state.frozen == Some(generation)
            && facts.process == ProcessState::Standby
            && cut
            && !self.busy();
        frozen.then_some(facts.position).flatten().map(|position| self.stands_at(position))
    }

    fn position_past(&self, at: Lsn) -> Option<Outcome> {
        let (_, facts) = self.facts.as_ref()?;
        let position = facts.position.filter(|position| position.have > at)?;
        (facts.process == ProcessState::Standby && self.state.rejoin.is_none())
            .then(|| self.stands_at(position))
    }

    /// Where a quorum counts standbys by name, one under another name does not follow as it should.
    fn streams_by_name(&self, epoch: mesh_proto::Epoch, name: Option<&str>) -> bool {
        let me = QuorumMember { instance: self.state.instance.clone(), data: self.state.data.clone() };
        let counted = self.view.as_ref().is_some_and(|view| view.quorum.is_some());
        !counted || name == Some(&me.application_name(epoch))
    }

    fn verify_follows(&self, order: &Order, address: &str) -> Option<Outcome> {
        let (_, facts) = self.facts.as_ref()?;
        let receiving = facts.receiving.as_ref()?;
        // Configured is not connected: a standby whose history differs never streams, and must be rewound.
        let follows = facts.process == ProcessState::Standby
            && receiving.streaming
            && receiving.from.as_deref() == Some(address)
            && self.streams_by_name(order.epoch, receiving.name.as_deref())
            && self.state.rejoin.is_none()
            && self.state.frozen.is_none();
        // How it got there is known only to the attempt that did it.
        let before = self
            .finished
            .iter()
            .rev()
            .find(|f| f.effect == order.effect && matches!(f.outcome, Outcome::Done(_)))
            .map(|f| f.outcome.clone());
        follows.then(|| before.unwrap_or(Outcome::Done(Finding::Follows { how: Rejoined::Followed })))
    }
}
