//! The proxy and the agent that changes it; orders for services and hooks come the same way. The proxy stands outside: it keeps its setting when the agent dies.

use mesh_failover::Moment;
use mesh_proto::Millis;
use mesh_proto::effect::{Effect, Finding, Order, Outcome, Refusal};
use mesh_proto::evidence::RouteSight;

use super::clock::ms;
use super::world::{Message, World};

impl World {
    pub(super) fn route_done(&mut self, host: usize, life: u64, from: (usize, u64), order: Order) {
        if !self.agents[host].up || self.agents[host].life != life || !self.accept_order(&order) {
            return;
        }
        if let Effect::Errand { .. } = order.effect {
            for _ in 0..self.inject_copies(&order) {
                if let Some(outcome) = self.errand_order(host, from, &order) {
                    let order = Box::new(order.clone());
                    self.send(host, from.0, Message::OrderAnswer { life: from.1, order, outcome });
                }
            }
            return;
        }
        let mut outcome = Outcome::Unknown { detail: String::new() };
        for _ in 0..self.inject_copies(&order) {
            outcome = self.execute_route(host, &order);
        }
        if self.inject_at_answer(&order, &outcome) {
            return;
        }
        if self.faulty && self.rng.chance(50) {
            outcome = Outcome::Unknown { detail: "the socket broke".to_owned() };
        }
        let message = Message::OrderAnswer { life: from.1, order: Box::new(order), outcome };
        self.send(host, from.0, message);
    }

    fn execute_route(&mut self, host: usize, order: &Order) -> Outcome {
        let refused = |code, detail: &str| Outcome::Refused { code, detail: detail.to_owned() };
        if let Effect::TurnOff { .. } = order.effect {
            return self.turn_off(host, order);
        }
        let (Effect::Route { instance, .. } | Effect::Prove { instance, .. }) = &order.effect else {
            return refused(Refusal::NotConfigured, "not for an agent");
        };
        let Some(at) = self.setup.instance(instance) else {
            return refused(Refusal::NotConfigured, "no such server");
        };
        if order.epoch < self.proxy.epoch {
            return refused(Refusal::StaleEpoch, "the route was led elsewhere in a newer epoch");
        }
        let proving = matches!(order.effect, Effect::Prove { .. });
        if !proving {
            if order.verify_only {
                let so = self.proxy.leads_to == Some(at) && self.proxy.epoch == order.epoch;
                return if so {
                    Outcome::Done(Finding::Routed { ended: 0, stragglers: 0 })
                } else {
                    refused(Refusal::NotSo, "it leads elsewhere")
                };
            }
            if self.faulty && self.rng.chance(30) {
                return refused(Refusal::Failed, "the proxy does not answer");
            }
            self.proxy.leads_to = Some(at);
            self.proxy.epoch = order.epoch;
            self.say(|| format!("the route leads to server {at} in epoch {}", order.epoch));
            return Outcome::Done(Finding::Routed { ended: 1, stragglers: 0 });
        }
        if order.verify_only {
            return refused(Refusal::NotSo, "a proving write leaves nothing to verify");
        }
        let arrives = self.proxy.leads_to == Some(at)
            && self.able(at)
            && self.net.talks(host, self.host(at))
            && self.servers[at].epoch == order.epoch;
        if arrives {
            self.write(at);
            Outcome::Done(Finding::Proved { took: Millis(ms(1) / 1_000), read: None, stragglers: None })
        } else {
            refused(Refusal::Failed, "the write did not arrive")
        }
    }

    /// What the agent that holds the proxy finds when it looks at it.
    pub(super) fn look_at_proxy(&mut self, host: usize, now: Moment) -> Vec<RouteSight> {
        let leads_to = self.proxy.leads_to.map(|at| self.setup.instances[at].0.clone());
        let (me, name) = (self.setup.hosts[host].0.clone(), self.group_name().clone());
        let agent = &mut self.agents[host];
        let Some(group) = agent.state.groups.get(&name) else { return Vec::new() };
        let (Some(primary), Some(route)) = (&group.primary, group.spec.routes.iter().find(|r| r.agent == me))
        else {
            return Vec::new();
        };
        let asked = (primary.instance.clone(), group.epoch);
        let before = agent.astray.take().filter(|(of, _)| *of == asked).map(|(_, since)| since);
        let since = (leads_to.as_ref() != Some(&asked.0)).then(|| before.unwrap_or(now));
        let sight = RouteSight {
            group: name,
            route: route.name.clone(),
            instance: asked.0.clone(),
            epoch: asked.1,
            astray_for: since.map(|since| now.since(since)),
            age: Millis(0),
        };
        agent.astray = since.map(|since| (asked, since));
        vec![sight]
    }
}

#[cfg(test)]
mod tests {
    use mesh_proto::spec::Profile;

    use super::super::clock::ms;
    use super::super::setup::{Setup, Shape};
    use super::super::world::World;

    #[test]
    fn a_proxy_that_was_restarted_is_led_anew_without_a_run() {
        let mut world = World::new(Setup::new(Shape::Three, Profile::Lan, 0), 7, None, false);
        world.run_until(ms(3_000));
        let run = world.group().run.as_ref().map(|run| run.id);
        world.proxy.leads_to = Some(1);
        world.run_until(ms(8_000));
        assert_eq!(world.failure, None);
        assert_eq!(world.proxy.leads_to, Some(0));
        assert_eq!(world.group().run.as_ref().map(|run| run.id), run);
    }
}
