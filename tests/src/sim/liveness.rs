//! When faults stop, everything comes right by itself, in bounded time: promises 5, 7, 9 and 10.

use mesh_failover::coordinator::Request;
use mesh_failover::state::{verify, wants_a_primary};
use mesh_proto::Wall;
use mesh_proto::command::{Command, Entry};
use mesh_proto::run::{Actor, Phase, RunKind, StuckCause};

use super::clock::{Time, ms};
use super::world::World;

/// How long a mesh may take after the last fault: longer than every wait in it (hold-down, repair backoff, a pause).
const DEADLINE: Time = ms(150_000);
/// How long it must stay well.
const STEADY: Time = ms(2_000);

impl World {
    /// Goes on without faults until all is well.
    pub(super) fn settle(&mut self) {
        self.heal_everything();
        let (mut well_since, mut asked) = (None, 0);
        let end = self.now + DEADLINE;
        while self.failure.is_none() {
            let next = self.now + ms(250);
            self.run_until(next);
            match self.not_well() {
                None => {
                    let since = *well_since.get_or_insert(self.now);
                    if self.now - since >= STEADY {
                        break;
                    }
                }
                Some(why) => {
                    well_since = None;
                    if self.now > end {
                        self.fail(format!("promise 7: not well long after the last fault: {why}"));
                    }
                    // Nobody can be shown to have everything, and the one who has does not come back.
                    let lost = self.setup.zero_loss() && self.group().active_run().is_none();
                    if lost && self.now > asked + ms(40_000) && self.now > end - DEADLINE + ms(40_000) {
                        asked = self.now;
                        self.ask_at_any_cost(RunKind::Failover, None, true, true);
                    }
                    // What a person let go only a person ends.
                    if self.degraded_by_hand() && self.now > asked + ms(5_000) {
                        asked = self.now;
                        self.end_degrade();
                    }
                    // A run that waits for a person gets what its runbook says, and must then get out.
                    if self.now > asked + ms(20_000) && self.waits_for_a_person() {
                        asked = self.now;
                        self.person();
                    }
                }
            }
        }
        if self.failure.is_none() {
            self.check_audit();
            self.check_kept();
        }
    }

    /// Stuck with takeovers spent: only a person may go on.
    fn waits_for_a_person(&self) -> bool {
        self.group().active_run().is_some_and(|run| {
            let errand = matches!(run.stuck, Some((StuckCause::ErrandFailed, _)));
            wants_a_primary(run) || (run.phase == Phase::Stuck && errand)
        })
    }

    fn person(&mut self) {
        let Some(leader) = self.raft.leader else { return };
        let group = self.group_name().clone();
        let Some(run) = self.group().active_run().map(|run| run.id) else { return };
        // What fails again and again is gone on without, and what failed once may be tried again.
        if self.rng.chance(500)
            && let Some((run, errand)) = super::errands::failed(&self.truth, &group)
        {
            self.say(|| format!("ann skips {errand} of {run}"));
            let command =
                Command::ErrandSkipped { group: group.clone(), run, errand, reason: "by hand".to_owned() };
            let entry = Entry {
                by: self.setup.hosts[leader].0.clone(),
                actor: Actor::Operator("ann".to_owned()),
                at: Wall(self.now / 1_000),
                commands: vec![command],
            };
            let term = self.raft.term;
            self.propose(leader, term, Some(group), 0, entry);
            return;
        }
        if self.setup.zero_loss()
            && self.group().active_run().is_some_and(wants_a_primary)
            && self.rng.chance(500)
        {
            self.say(|| format!("ann accepts the loss of {run}"));
            self.override_run(leader, run);
            return;
        }
        self.say(|| format!("ann follows the runbook and retries {run}"));
        self.agents[leader].coordinator.request(&group, Request::Retry(run, "runbook".to_owned()));
    }

    /// What is not as it should be.
    pub(super) fn not_well(&self) -> Option<String> {
        let Some(leader) = self.raft.leader else { return Some("no leader".to_owned()) };
        if self.agents[leader].leading != Some(self.raft.term) {
            return Some("the leader does not lead yet".to_owned());
        }
        let group = self.group();
        if let Some(run) = group.active_run() {
            return Some(format!("{} is {}: {:?}", run.id, run.phase, run.stuck));
        }
        if self.truth.electorate.changes() {
            return Some("a change of voters is not over".to_owned());
        }
        if group.takeover.is_some() {
            return Some("a takeover is open".to_owned());
        }
        if group.pause.is_some() {
            return Some("the group is paused".to_owned());
        }
        let Some(primary) = group.primary.as_ref().and_then(|p| self.setup.instance(&p.instance)) else {
            return Some("no primary".to_owned());
        };
        if !self.able(primary) {
            return Some(format!(
                "the primary {primary} does not serve; {:?}, verdict {:?}",
                self.servers[primary].processes, group.verdict
            ));
        }
        let now = self.clock(self.host(primary));
        if self.guards[primary].guard.held(now).map(|held| held.term) != group.lease().map(|l| l.term) {
            return Some("the primary's guard does not hold the lease".to_owned());
        }
        for standby in (0..self.servers.len()).filter(|at| *at != primary) {
            let it = &self.servers[standby];
            if !it.streaming || it.upstream != Some(primary) {
                return Some(format!(
                    "standby {standby} does not follow: {:?} upstream {:?} timeline {} against {}",
                    it.processes, it.upstream, it.timeline, self.servers[primary].timeline
                ));
            }
        }
        if let Some(why) = self.not_yet_zero_loss(primary) {
            return Some(why);
        }
        if let Some(why) = self.holders_not_known() {
            return Some(why);
        }
        if self.proxy.leads_to != Some(primary) {
            return Some(format!("the route leads to {:?}", self.proxy.leads_to));
        }
        None
    }

    /// The same chain everywhere, and it verifies.
    fn check_audit(&mut self) {
        if let Err((seq, why)) = verify(&self.truth.audit) {
            self.fail(format!("promise 9: audit record {seq}: {why}"));
        }
        for host in 0..self.hosts.len() {
            let agent = &self.agents[host];
            let head = agent.state.audit.head();
            if self.truth.audit.hash_at(head.0) != Some(&head.1) {
                self.fail(format!("promise 9: agent {host} has another audit chain at record {}", head.0));
                return;
            }
            if agent.applied == self.raft.entries.len() as u64 && agent.state != self.truth {
                self.fail(format!("agent {host} has another state after the same entries"));
                return;
            }
        }
    }
}
