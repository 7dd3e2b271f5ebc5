//! What the guard's runtime does to the server, with the time it takes. A task that was ended by another one does not
//! report any more, but what it had begun may still happen.

use mesh_failover::Moment;
use mesh_failover::guard::{Rejoin, Task, TaskResult};
use mesh_proto::DataIncarnation;
use mesh_proto::effect::Rejoined;
use mesh_proto::lease::{FenceCause, LeaseTerm, ReceiptLevel};
use mesh_proto::quorum::QuorumConfig;

use super::clock::{Time, ms, us};
use super::mutant::Mutation;
use super::postgres::{Processes, RECORD_BYTES, lsn};
use super::world::{Event, World};

/// The next thing of a task.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    /// SIGKILL reaches every process.
    Killed {
        cause: FenceCause,
    },
    /// No process is left and `standby.signal` is written.
    Quiet,
    /// The server is stopped cleanly.
    Stopped {
        server: u64,
    },
    /// The server has started; `primary`: without `standby.signal`.
    StandbyUp {
        server: u64,
        frozen: bool,
    },
    /// It may become a primary now.
    Promote {
        server: u64,
        term: LeaseTerm,
        quorum: Option<Box<QuorumConfig>>,
        until: Time,
    },
    /// The epoch is written; clients may come in.
    Open {
        server: u64,
        term: LeaseTerm,
    },
    Frozen {
        server: u64,
    },
    Followed {
        server: u64,
        rejoin: Rejoin,
        until: Time,
    },
    Checkpointed {
        server: u64,
    },
    Confirmed {
        at: mesh_proto::Lsn,
        until: Time,
    },
    Scanned {
        server: u64,
        held: mesh_proto::Lsn,
    },
}

impl World {
    pub(super) fn begin_task(&mut self, instance: usize, job: u64, task: Task, until: Moment) {
        self.say(|| format!("guard {instance} begins {task:?}"));
        let host = self.host(instance);
        let until = self.hosts[host].clock.when(until);
        let life = self.guards[instance].life;
        self.guards[instance].running = Some((job, task.clone()));
        let server = self.servers[instance].life;
        let fence = us(self.setup.timing.fence);
        let (delay, stage) = match task {
            Task::Fence { hard, cause, .. } => {
                // All of a fence fits into its budget: that is an assumption of promise 1.
                if self.mutation == Some(Mutation::NoSelfFence) && cause == FenceCause::LeaseOver {
                    return;
                }
                let most = if hard { fence * 8 / 10 } else { fence * 9 / 10 };
                let delay = if self.rng.chance(800) {
                    self.rng.range(ms(2), ms(60))
                } else {
                    self.rng.range(ms(2), most)
                };
                (delay.min(most), Stage::Killed { cause })
            }
            Task::HandOver { .. } => (self.rng.range(ms(20), ms(250)), Stage::Stopped { server }),
            Task::StartStandby { frozen } => {
                self.servers[instance].processes = Processes::Starting;
                self.servers[instance].life += 1;
                let server = self.servers[instance].life;
                (self.rng.range(ms(40), ms(400)), Stage::StandbyUp { server, frozen })
            }
            Task::OpenPrimary { term, quorum } => {
                let delay = match self.servers[instance].processes {
                    Processes::Primary => ms(2),
                    Processes::Standby => self.rng.range(ms(30), ms(250)),
                    Processes::None | Processes::Starting | Processes::Orphans => {
                        self.rng.range(ms(60), ms(500))
                    }
                };
                (delay, Stage::Promote { server, term, quorum, until })
            }
            Task::Freeze { .. } => (self.rng.range(ms(5), ms(40)), Stage::Frozen { server }),
            Task::Follow(rejoin) => {
                (self.rng.range(ms(20), ms(900)), Stage::Followed { server, rejoin, until })
            }
            Task::Checkpoint => (self.rng.range(ms(10), ms(200)), Stage::Checkpointed { server }),
            Task::Confirm { at } => (self.rng.range(ms(1), ms(10)), Stage::Confirmed { at, until }),
            Task::Scan { held, .. } => (self.rng.range(ms(1), ms(60)), Stage::Scanned { server, held }),
        };
        self.after(delay, Event::Task { instance, life, job, stage });
    }

    pub(super) fn task_stage(&mut self, instance: usize, life: u64, job: u64, stage: Stage) {
        // A server that is being started comes up, whoever still waits for it.
        if let Stage::StandbyUp { server, frozen } = stage
            && self.servers[instance].life == server
            && self.servers[instance].processes == Processes::Starting
        {
            if self.servers[instance].hung {
                self.after(ms(100), Event::Task { instance, life, job, stage });
                return;
            }
            self.standby_up(instance, !frozen);
            self.tell_facts(instance);
        }
        let guard = &self.guards[instance];
        // A dead guard's children died with it; the leash sees to the server.
        if !guard.up || guard.life != life {
            return;
        }
        let current = guard.running.as_ref().is_some_and(|(running, _)| *running == job);
        if !current {
            return;
        }
        let failed = |detail: &str| TaskResult::Failed { detail: detail.to_owned() };
        let same = |server: u64| self.servers[instance].life == server;
        match stage {
            Stage::Killed { cause } => {
                if self.mutation == Some(Mutation::ReceiptBeforeFence)
                    && self.servers[instance].processes != Processes::None
                {
                    let result = TaskResult::Fenced { level: ReceiptLevel::NoAck, shutdown_at: None };
                    self.task_over(instance, job, result);
                    self.after(ms(300), Event::Task { instance, life, job, stage: Stage::Quiet });
                    return;
                }
                let hung = self.servers[instance].hung;
                self.servers[instance].kill();
                self.servers[instance].died = cause == FenceCause::Died;
                self.say(|| format!("server {instance} is killed"));
                if hung || self.rng.chance(300) {
                    self.task_over(
                        instance,
                        job,
                        TaskResult::Fenced { level: ReceiptLevel::NoAck, shutdown_at: None },
                    );
                }
                let delay = self.rng.range(0, ms(20));
                self.after(delay, Event::Task { instance, life, job, stage: Stage::Quiet });
            }
            Stage::Quiet if self.servers[instance].hung => {
                self.after(ms(100), Event::Task { instance, life, job, stage: Stage::Quiet });
            }
            Stage::Quiet => {
                if self.servers[instance].processes != Processes::None {
                    self.servers[instance].kill();
                }
                self.servers[instance].signal = true;
                self.guards[instance].running = None;
                let result = TaskResult::Fenced { level: ReceiptLevel::Quiet, shutdown_at: None };
                self.task_over(instance, job, result);
            }
            Stage::Stopped { server } if !same(server) || !self.servers[instance].answers() => {
                self.guards[instance].running = None;
                self.task_over(instance, job, failed("the server was not there to be stopped"));
            }
            Stage::Stopped { .. } => self.stop_cleanly(instance, job),
            Stage::StandbyUp { server, .. } => {
                self.guards[instance].running = None;
                if !same(server) || self.servers[instance].processes != Processes::Standby {
                    self.task_over(instance, job, failed("the server did not start"));
                    return;
                }
                self.task_over(instance, job, TaskResult::Done);
            }
            Stage::Promote { server, term, quorum, until } => {
                self.promote(instance, job, server, (term, quorum), until);
            }
            Stage::Open { server, term } => self.open(instance, job, server, term),
            Stage::Frozen { server } => {
                self.guards[instance].running = None;
                if !same(server) || !self.servers[instance].answers() {
                    self.task_over(instance, job, failed("the server does not answer"));
                    return;
                }
                if self.mutation != Some(Mutation::FreezeNotFinal) {
                    self.servers[instance].upstream = None;
                    self.servers[instance].streaming = false;
                }
                let at = self.servers[instance].position();
                self.task_over(instance, job, TaskResult::At(at));
            }
            Stage::Followed { server, rejoin, until } => self.follow(instance, job, server, rejoin, until),
            Stage::Checkpointed { server } => {
                self.guards[instance].running = None;
                let result = if same(server) && self.servers[instance].answers() {
                    TaskResult::Done
                } else {
                    TaskResult::Unknown { detail: "the connection broke".to_owned() }
                };
                self.task_over(instance, job, result);
            }
            Stage::Scanned { server, held } => {
                self.guards[instance].running = None;
                let it = &self.servers[instance];
                let result = if !same(server) || it.processes != Processes::None || it.end() < held {
                    failed("the log cannot be read")
                } else {
                    // A record knows no kinds here: each may be a commit.
                    let bytes = it.end().bytes_since(held);
                    let blind = self.mutation == Some(Mutation::ScanSeesNothing);
                    let commits = if blind { 0 } else { bytes / RECORD_BYTES };
                    TaskResult::Scanned { end: it.end(), commits, bytes }
                };
                self.task_over(instance, job, result);
            }
            Stage::Confirmed { at, until } => {
                if self.servers[instance].end() > at && self.servers[instance].answers() {
                    self.guards[instance].running = None;
                    let position = self.servers[instance].position();
                    self.task_over(instance, job, TaskResult::At(position));
                } else if self.now > until {
                    self.guards[instance].running = None;
                    self.task_over(instance, job, failed("it does not have that WAL"));
                } else {
                    self.after(
                        ms(20),
                        Event::Task { instance, life, job, stage: Stage::Confirmed { at, until } },
                    );
                }
            }
        }
    }

    fn standby_up(&mut self, instance: usize, receives: bool) {
        let server = &mut self.servers[instance];
        server.processes = Processes::Standby;
        server.signal = true;
        server.died = false;
        server.clients = true;
        server.streaming = false;
        if !receives {
            server.upstream = None;
        }
    }

    /// A fast stop: sessions end, the shutdown checkpoint is written, standbys that stream get it before the end.
    fn stop_cleanly(&mut self, instance: usize, job: u64) {
        let content = self.fresh();
        let now = self.now;
        self.servers[instance].clients = false;
        let at = self.servers[instance].wal.len();
        self.servers[instance].write(now, content);
        for other in 0..self.servers.len() {
            if other != instance && self.servers[other].streaming && self.rng.chance(900) {
                self.copy(instance, other, usize::MAX);
            }
        }
        self.servers[instance].kill();
        self.servers[instance].died = false;
        self.servers[instance].signal = true;
        self.guards[instance].running = None;
        let result = TaskResult::Fenced { level: ReceiptLevel::Quiet, shutdown_at: Some(lsn(at)) };
        self.task_over(instance, job, result);
    }

    fn follow(&mut self, instance: usize, job: u64, server: u64, rejoin: Rejoin, until: Time) {
        self.guards[instance].running = None;
        let life = self.guards[instance].life;
        let Some(primary) = self.setup.at_address(rejoin.address) else { return };
        let there = self.host(primary);
        let here = self.host(instance);
        let reachable = self.hosts[there].up
            && !self.hosts[there].frozen
            && self.net.talks(here, there)
            && self.servers[primary].answers()
            && self.servers[primary].processes == Processes::Primary;
        if self.servers[instance].life != server
            || self.servers[instance].hung
            || self.servers[instance].frozen
        {
            let result = TaskResult::Unknown { detail: "the server changed meanwhile".to_owned() };
            self.task_over(instance, job, result);
            return;
        }
        if !reachable {
            if self.now + ms(500) < until && self.rng.chance(500) {
                // Still trying.
                self.guards[instance].running = Some((job, Task::Follow(rejoin.clone())));
                let stage = Stage::Followed { server, rejoin, until };
                self.after(ms(500), Event::Task { instance, life, job, stage });
                return;
            }
            self.task_over(
                instance,
                job,
                TaskResult::NotFollowed { detail: "the primary cannot be reached".to_owned(), whole: true },
            );
            return;
        }
        let common = self.servers[instance].common(&self.servers[primary]);
        let diverged = self.servers[instance].wal.len() - common;
        let how = if diverged == 0 && self.servers[instance].processes != Processes::Primary {
            Rejoined::Followed
        } else {
            let number = self.fresh();
            let data = DataIncarnation(format!("d{instance}.{number}"));
            let lost = diverged as u64 * 64;
            self.servers[instance].wal.truncate(common);
            if self.rng.chance(800) {
                Rejoined::Rewound { diverged_bytes: lost, transactions: None, data }
            } else {
                self.servers[instance].wal.clear();
                Rejoined::Rebuilt { diverged_bytes: Some(lost), transactions: None, data }
            }
        };
        let timeline = self.servers[primary].timeline;
        // Under the life of the data that it had when it was told to.
        self.name_standby(instance, rejoin.epoch);
        let it = &mut self.servers[instance];
        it.life += 1;
        it.upstream = Some(primary);
        it.timeline = timeline;
        self.standby_up(instance, true);
        self.copy(primary, instance, usize::MAX);
        self.task_over(instance, job, TaskResult::Follows(how));
    }

    /// Streams up to so many records.
    pub(super) fn copy(&mut self, from: usize, to: usize, most: usize) {
        let have = self.servers[to].wal.len();
        let there = self.servers[from].wal.len();
        if there > have {
            let upto = there.min(have.saturating_add(most));
            let more = self.servers[from].wal[have..upto].to_vec();
            let timeline = self.servers[from].timeline;
            let epoch = self.servers[from].epoch;
            let now = self.now;
            let it = &mut self.servers[to];
            it.wal.extend(more);
            it.advanced = now;
            it.timeline = timeline;
            if upto == there {
                it.epoch = epoch;
            }
        }
    }

    /// Standbys stream.
    pub(super) fn stream(&mut self) {
        self.after(ms(20), Event::Stream);
        for standby in 0..self.servers.len() {
            let it = &self.servers[standby];
            let Some(primary) = it.upstream.filter(|_| it.processes == Processes::Standby && it.answers())
            else {
                self.servers[standby].streaming = false;
                continue;
            };
            let (here, there) = (self.host(standby), self.host(primary));
            let up = self.hosts[here].up && !self.hosts[here].frozen;
            let source = &self.servers[primary];
            let connected = up
                && self.hosts[there].up
                && !self.hosts[there].frozen
                && self.net.talks(here, there)
                && source.processes == Processes::Primary
                && it.timeline <= source.timeline
                && it.common(source) == it.wal.len();
            // A hung or stopped primary's connections stay; nothing comes through them.
            let stalls = source.frozen || source.hung;
            self.servers[standby].streaming = connected;
            if connected && !stalls && !self.servers[standby].stalled {
                let most = if self.rng.chance(900) { usize::MAX } else { self.rng.below(4) };
                self.copy(primary, standby, most);
            }
        }
        self.release();
    }
}
