//! A modelled server becomes a primary: started or promoted, the epoch written, clients let in.

use mesh_failover::guard::TaskResult;
use mesh_proto::lease::LeaseTerm;
use mesh_proto::quorum::QuorumConfig;

use super::clock::{Time, ms};
use super::mutant::Mutation;
use super::postgres::Processes;
use super::task::Stage;
use super::world::{Event, World};

impl World {
    pub(super) fn promote(
        &mut self,
        instance: usize,
        job: u64,
        server: u64,
        (term, quorum): (LeaseTerm, Option<Box<QuorumConfig>>),
        until: Time,
    ) {
        let life = self.guards[instance].life;
        let now = self.clock(self.host(instance));
        let holds = self.guards[instance].guard.holds(now, term);
        let it = &mut self.servers[instance];
        let problem = if it.life != server {
            Some("the server was stopped or started meanwhile")
        } else if !holds {
            Some("the lease is not held")
        } else if it.hung || it.frozen {
            None
        } else {
            match it.processes {
                // Orphans are ended before the start.
                Processes::None | Processes::Orphans => {
                    it.life += 1;
                    it.processes = Processes::Primary;
                    it.clients = false;
                    // The primary of an epoch that stands in its log is opened again.
                    it.recovered = (it.epoch == term.epoch).then_some(it.wal.len());
                    None
                }
                Processes::Standby => {
                    it.processes = Processes::Primary;
                    it.timeline += 1;
                    it.upstream = None;
                    it.streaming = false;
                    it.clients = false;
                    None
                }
                Processes::Primary => None,
                Processes::Starting => Some("the server does not run as it should"),
            }
        };
        if let Some(detail) = problem {
            self.guards[instance].running = None;
            self.task_over(instance, job, TaskResult::Failed { detail: detail.to_owned() });
            return;
        }
        if self.servers[instance].hung || self.servers[instance].frozen {
            if self.now > until {
                self.guards[instance].running = None;
                self.task_over(instance, job, TaskResult::Unknown { detail: "no answer".to_owned() });
            } else {
                self.after(
                    ms(50),
                    Event::Task {
                        instance,
                        life,
                        job,
                        stage: Stage::Promote { server, term, quorum, until },
                    },
                );
            }
            return;
        }
        self.servers[instance].died = false;
        // The moments from the start under the lease, or the end of recovery, until the file is there again are not modelled:
        // ARCHITECTURE states them as an assumption.
        self.servers[instance].signal = self.mutation != Some(Mutation::NoStandingSignal);
        let server = self.servers[instance].life;
        // Set before the promotion, so that there is no commit that did not wait.
        if self.mutation != Some(Mutation::QuorumAfterPromotion) {
            self.servers[instance].sync.config = quorum.as_deref().cloned();
            self.servers[instance].sync.coming = None;
        }
        let delay = self.rng.range(ms(1), ms(30));
        self.after(delay, Event::Task { instance, life, job, stage: Stage::Open { server, term } });
    }

    /// The first transaction writes the epoch; then clients are let in.
    pub(super) fn open(&mut self, instance: usize, job: u64, server: u64, term: LeaseTerm) {
        self.guards[instance].running = None;
        let now = self.clock(self.host(instance));
        let holds = self.guards[instance].guard.holds(now, term);
        let content = self.fresh();
        let time = self.now;
        let it = &mut self.servers[instance];
        if it.life != server || it.processes != Processes::Primary || !it.answers() || !holds {
            self.task_over(
                instance,
                job,
                TaskResult::Unknown { detail: "lost sight of the server".to_owned() },
            );
            return;
        }
        it.write(time, content);
        it.epoch = term.epoch;
        it.gated = false;
        // Who reads what was recovered may count on it from then on.
        let counts = it.recovered.filter(|_| it.sync.config.as_ref().is_some_and(|config| config.k > 0));
        let waits = counts.filter(|_| self.mutation != Some(Mutation::ReadBeforeQuorum));
        it.clients = waits.is_none();
        it.recovered = waits;
        if let (Some(records), None) = (counts, waits) {
            self.read_recovered(instance, records);
        }
        let it = &self.servers[instance];
        let (timeline, at) = (it.timeline, it.end());
        self.say(|| format!("server {instance} is open as the primary of {term}, timeline {timeline}"));
        self.task_over(instance, job, TaskResult::Opened { timeline, at });
    }
}
