//! Fencers: programs at the other hosts' agents that turn a host off from outside, which fail, or whose answer is lost. What
//! must hold is what holds of every proof: who is promoted by it stands against nobody.

use mesh_proto::Millis;
use mesh_proto::effect::{Effect, Finding, Order, Outcome, Refusal};
use mesh_proto::spec::FencerSpec;

use super::clock::{Time, ms};
use super::setup::{Setup, name};
use super::world::World;

/// How long a host that was turned off stays off, at least: until somebody turns it on.
const OFF: Time = ms(4_000);

impl Setup {
    /// The same with a fencer for the host of each server, run by the agents of all other hosts.
    #[must_use]
    pub fn with_fencers(mut self, required: bool) -> Self {
        for (instance, host) in &self.instances {
            let others = self.hosts.iter().enumerate().filter(|(at, _)| at != host);
            self.spec.fencers.push(FencerSpec {
                name: name(&format!("off-{instance}")),
                fences: vec![instance.clone()],
                agents: others.map(|(_, (agent, _))| agent.clone()).collect(),
                deadline_seconds: 2,
                required,
            });
        }
        self
    }
}

impl World {
    /// An order to turn a host off is there: done only while the log of this agent says that the lease is being ended.
    pub(super) fn turn_off(&mut self, host: usize, order: &Order) -> Outcome {
        let refused = |code, detail: &str| Outcome::Refused { code, detail: detail.to_owned() };
        let Effect::TurnOff { instance, term, .. } = &order.effect else {
            return refused(Refusal::NotConfigured, "no order to turn a host off");
        };
        let Some(at) = self.setup.instance(instance) else {
            return refused(Refusal::NotConfigured, "no such server");
        };
        let open = self.agents[host].state.groups.get(&order.group).and_then(|group| group.takeover.as_ref());
        if !open.is_some_and(|open| open.key.instance == *instance && open.term == *term) {
            return refused(Refusal::NotDelivered, "the log here does not say that its lease ends");
        }
        let target = self.host(at);
        let off = Outcome::Done(Finding::Off { took: Millis(1), said: "off".to_owned() });
        if order.verify_only {
            let is_off = !self.hosts[target].up;
            return if is_off { off } else { refused(Refusal::NotSo, "it is on") };
        }
        if self.faulty && self.rng.chance(200) {
            return refused(Refusal::Failed, "the controller does not answer");
        }
        let lasts = OFF + ms(self.rng.range(0, 6_000));
        self.say(|| format!("agent {host} turns host {target} off"));
        self.crash_host(target, lasts);
        off
    }
}
