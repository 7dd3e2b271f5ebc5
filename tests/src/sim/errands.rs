//! Services and hooks: an agent's record of them on its disk, programs that take their time, fail or hang until they are
//! killed, and what must hold whatever breaks: the order, one execution of a hook for each attempt, nothing of an old epoch.

use std::collections::{BTreeMap, BTreeSet};

use mesh_failover::state::MeshState;
use mesh_proto::command::StepIntent;
use mesh_proto::effect::{Effect, Finding, Order, Outcome, Refusal, StepRef};
use mesh_proto::run::{Phase, Run};
use mesh_proto::spec::{HookSpec, Moves, OnFailure, Point, ServiceSpec, Work};
use mesh_proto::{AgentName, Epoch, ErrandName, Millis, RunId, SiteName};

use super::clock::ms;
use super::rng::Rng;
use super::setup::{Setup, name};
use super::world::{Event, Message, World};

/// Deadline of every errand, in seconds.
const DEADLINE: u64 = 3;

/// What an agent's disk says of a service or hook.
#[derive(Debug, Clone)]
pub(super) struct Line {
    epoch: Epoch,
    raft_term: u64,
    step: StepRef,
    outcome: Option<Outcome>,
    /// The life of the agent that runs it.
    life: u64,
}

/// What the programs did.
#[derive(Debug, Default)]
pub(super) struct Programs {
    /// Services that run.
    up: BTreeSet<ErrandName>,
    /// How often each hook was executed for each attempt.
    executed: BTreeMap<(ErrandName, usize, StepRef), u32>,
    /// The newest epoch in which each was touched.
    touched: BTreeMap<(ErrandName, usize), Epoch>,
}

impl Setup {
    /// The same with a stack of services at each site with a server, and hooks; what a failure means is up to chance.
    #[must_use]
    pub fn with_errands(mut self, rng: &mut Rng) -> Self {
        let policies = [OnFailure::Warn, OnFailure::Stop, OnFailure::Ask];
        let mut policy = || rng.pick(&policies).unwrap_or_default();
        let (stop, start, around) = (policy(), policy(), policy());
        let at = if rng.chance(300) { Point::BeforeRoutes } else { Point::BesideRoutes };
        let mut sites: Vec<(SiteName, AgentName)> = Vec::new();
        for (_, host) in &self.instances {
            let (agent, site) = &self.hosts[*host];
            if !sites.iter().any(|(known, _)| known == site) {
                sites.push((site.clone(), agent.clone()));
            }
        }
        for (site, agent) in &sites {
            let others = sites.iter().filter(|(other, _)| other != site);
            let mut after: Vec<String> = others.map(|(other, _)| format!("scheduler-{other}")).collect();
            after.push(format!("api-{site}"));
            let stack = [
                ("api", Vec::new(), Moves::Both, OnFailure::Warn),
                ("scheduler", after, Moves::Both, stop),
                ("worker", vec![format!("scheduler-{site}")], Moves::Both, start),
            ];
            for (what, after, moves, on_failure) in stack {
                self.spec.services.push(ServiceSpec {
                    name: name(&format!("{what}-{site}")),
                    site: site.clone(),
                    agent: agent.clone(),
                    moves,
                    at,
                    after: after.iter().map(|text| name(text)).collect(),
                    needs: Vec::new(),
                    check: None,
                    deadline_seconds: DEADLINE,
                    on_failure,
                });
            }
        }
        let agents: Vec<AgentName> = sites.iter().map(|(_, agent)| agent.clone()).collect();
        let hooks = [
            ("drain", Point::Prepare, OnFailure::Warn),
            ("fetch", Point::BeforeRoutes, around),
            ("page", Point::BesideRoutes, OnFailure::Warn),
            ("report", Point::AfterRoutes, around),
        ];
        for (what, at, on_failure) in hooks {
            self.spec.hooks.push(HookSpec {
                name: name(what),
                agents: agents.clone(),
                at,
                only_to: None,
                after: Vec::new(),
                needs: Vec::new(),
                deadline_seconds: DEADLINE,
                on_failure,
            });
        }
        self
    }
}

fn refused(code: Refusal, detail: &str) -> Outcome {
    Outcome::Refused { code, detail: detail.to_owned() }
}

impl World {
    /// An order for a service or hook is there. An answer, if it has one now.
    pub(super) fn errand_order(&mut self, host: usize, from: (usize, u64), order: &Order) -> Option<Outcome> {
        let Effect::Errand { errand, work, .. } = &order.effect else { return None };
        let life = self.agents[host].life;
        let line = self.agents[host].errands.get(errand).cloned();
        if let Some(line) = &line
            && ((line.epoch, line.raft_term) > (order.epoch, order.raft_term) || line.step > order.step)
        {
            return Some(refused(Refusal::StaleEpoch, "a newer order was here"));
        }
        let known = line.filter(|line| line.step == order.step);
        let so = self.programs.up.contains(errand) == (*work == Work::Start);
        match (known, *work) {
            (Some(Line { outcome: Some(outcome), .. }), _) => Some(outcome),
            (Some(line), _) if line.life == life => {
                order.verify_only.then(|| Outcome::Unknown { detail: "under way".to_owned() })
            }
            (Some(line), Work::Hook) => {
                let outcome = refused(Refusal::Failed, "interrupted by a restart");
                let ended = Line { outcome: Some(outcome.clone()), ..line };
                self.agents[host].errands.insert(errand.clone(), ended);
                Some(outcome)
            }
            (None, Work::Hook) if order.verify_only => Some(refused(Refusal::NotSo, "never begun")),
            (_, Work::Start | Work::Stop) if order.verify_only => Some(if so {
                Outcome::Done(Finding::Ran { took: Millis(1), said: None })
            } else {
                refused(Refusal::NotSo, "it is not so")
            }),
            (None | Some(_), Work::Start | Work::Stop) | (None, Work::Hook) => {
                self.begin_errand(host, from, order);
                None
            }
        }
    }

    fn begin_errand(&mut self, host: usize, from: (usize, u64), order: &Order) {
        let Effect::Errand { errand, work, .. } = &order.effect else { return };
        let life = self.agents[host].life;
        let line =
            Line { epoch: order.epoch, raft_term: order.raft_term, step: order.step, outcome: None, life };
        self.agents[host].errands.insert(errand.clone(), line);
        self.say(|| format!("agent {host} begins {} {}", order.step, order.effect));
        let touched = self.programs.touched.entry((errand.clone(), host)).or_default();
        if order.epoch < *touched {
            let newer = *touched;
            self.fail(format!(
                "promise 4: {} of epoch {} runs after one of {newer}",
                order.effect, order.epoch
            ));
            return;
        }
        *touched = order.epoch;
        if *work == Work::Hook {
            let times = self.programs.executed.entry((errand.clone(), host, order.step)).or_default();
            *times += 1;
            if *times > 1 {
                self.fail(format!(
                    "promise 4: {} ({}) is executed twice for one attempt",
                    order.step, order.effect
                ));
                return;
            }
        }
        let hangs = self.faulty && self.rng.chance(60);
        let fails = hangs || (self.faulty && self.rng.chance(100));
        let takes = if hangs { ms(DEADLINE * 1_000) } else { self.rng.range(ms(5), ms(900)) };
        let order = Box::new(order.clone());
        self.after(takes, Event::ErrandDone { host, life, from: from.0, from_life: from.1, order, fails });
    }

    /// A program ended, or was killed at its deadline.
    pub(super) fn errand_done(
        &mut self,
        host: usize,
        life: u64,
        from: (usize, u64),
        order: Order,
        fails: bool,
    ) {
        let Effect::Errand { errand, work, .. } = &order.effect else { return };
        let agent = &self.agents[host];
        let current =
            agent.errands.get(errand).is_some_and(|line| line.step == order.step && line.outcome.is_none());
        if !agent.up || agent.life != life || !current {
            return;
        }
        let outcome = if fails {
            refused(Refusal::Failed, "failed, or killed at its deadline")
        } else {
            match work {
                Work::Start => self.programs.up.insert(errand.clone()),
                Work::Stop => self.programs.up.remove(errand),
                Work::Hook => true,
            };
            Outcome::Done(Finding::Ran { took: Millis(1), said: None })
        };
        if let Some(line) = self.agents[host].errands.get_mut(errand) {
            line.outcome = Some(outcome.clone());
        }
        if self.inject_at_answer(&order, &outcome) {
            return;
        }
        self.send(host, from.0, Message::OrderAnswer { life: from.1, order: Box::new(order), outcome });
    }

    /// What is begun may be begun: the order that the operator stated is kept, by what the log says.
    pub(super) fn check_errands(&mut self, run: RunId, steps: &[StepIntent]) {
        let Some(now) = self.group().run.clone().filter(|now| now.id == run) else { return };
        for step in steps {
            let Effect::Errand { errand, at, work, instance, .. } = &step.effect else { continue };
            if *at == Point::Prepare {
                continue;
            }
            let promoted = now.promotion.as_ref().is_some_and(|promotion| promotion.instance == *instance);
            if !promoted {
                self.fail(format!("{errand} is begun before its primary is promoted"));
            }
            if *at == Point::AfterRoutes && now.phase != Phase::Finishing {
                self.fail(format!(
                    "{errand} is begun while the run is {}, before its routes are proved",
                    now.phase
                ));
            }
            let first: Vec<ErrandName> = match work {
                Work::Start => self.after_of(errand),
                // Backwards: whatever is started after it is stopped before it.
                Work::Stop => {
                    let all = self.setup.spec.services.iter();
                    all.filter(|other| other.after.contains(errand)).map(|other| other.name.clone()).collect()
                }
                Work::Hook => Vec::new(),
            };
            for other in first {
                let wanted = match work {
                    Work::Start => None,
                    Work::Stop | Work::Hook => Some(Work::Stop),
                };
                if !over(&now, &other, wanted) {
                    self.fail(format!("{} is begun although {other} is not over", step.effect));
                }
            }
        }
    }

    fn after_of(&self, errand: &ErrandName) -> Vec<ErrandName> {
        let service = self.setup.spec.services.iter().find(|service| service.name == *errand);
        service.map(|service| service.after.clone()).unwrap_or_default()
    }
}

/// Whether what a plan has under this name is over: done, or failed with a mere warning; so is what it does not have.
fn over(run: &Run, errand: &ErrandName, wanted: Option<Work>) -> bool {
    let site = |name: &ErrandName| name.as_str().rsplit('-').next().unwrap_or_default().to_owned();
    let goal = run.promotion.as_ref().map(|promotion| promotion.instance.clone());
    let planned =
        run.plan.errands.iter().filter(|e| e.name == *errand && wanted.is_none_or(|work| e.work == work));
    planned.clone().all(|e| {
        let steps = run.steps.values().filter(|step| match &step.effect {
            Effect::Errand { errand, work, instance, .. } => {
                *errand == e.name && *work == e.work && Some(instance) == goal.as_ref()
            }
            Effect::Checkpoint { .. }
            | Effect::HandOver { .. }
            | Effect::Fence { .. }
            | Effect::Freeze { .. }
            | Effect::Confirm { .. }
            | Effect::Promote { .. }
            | Effect::Follow { .. }
            | Effect::Scan { .. }
            | Effect::TurnOff { .. }
            | Effect::Route { .. }
            | Effect::Prove { .. } => false,
        });
        let mut any = false;
        let ended = steps.inspect(|_| any = true).all(|step| match &step.outcome {
            Some(Outcome::Done(_)) => true,
            Some(Outcome::Refused { .. } | Outcome::Unknown { .. }) => e.on_failure == OnFailure::Warn,
            None => false,
        });
        // One for a site that the run did not lead to is never begun.
        ended && (any || (e.work == Work::Start && !leads_to(run, &site(errand))))
    })
}

fn leads_to(run: &Run, site: &str) -> bool {
    run.plan.errands.iter().any(|errand| {
        errand.work == Work::Start
            && errand.name.as_str().ends_with(site)
            && run
                .steps
                .values()
                .any(|step| step.effect.target() == mesh_proto::effect::Target::Errand(&errand.name))
    })
}

/// The errands that an operator is asked about.
pub(super) fn failed(state: &MeshState, group: &mesh_proto::GroupName) -> Option<(RunId, ErrandName)> {
    let run = state.groups.get(group)?.active_run()?;
    let waiting = run.plan.errands.iter().filter(|errand| errand.on_failure != OnFailure::Warn);
    let found = waiting.filter(|errand| {
        run.steps.values().any(|step| {
            step.effect.target() == mesh_proto::effect::Target::Errand(&errand.name)
                && matches!(step.outcome, Some(Outcome::Refused { .. } | Outcome::Unknown { .. }))
        })
    });
    found.map(|errand| (run.id, errand.name.clone())).next()
}
