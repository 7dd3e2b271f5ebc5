//! The commit quorum of a modelled server: commits wait until enough listed standbys have flushed them, walsenders take a
//! while to work by a new list, and a marker tells when the old one is over. And the client oracle of a zero-loss group:
//! what was acknowledged is in whatever is promoted, unless a person accepted its loss.

use mesh_proto::quorum::{DurabilityProof, QuorumConfig, QuorumMember, QuorumStage, QuorumStanding};
use mesh_proto::spec::{Degrade, Durability, Open};
use mesh_proto::{DataIncarnation, Epoch};

use super::clock::ms;
use super::faults::Undo;
use super::mutant::Mutation;
use super::oracle::Acknowledged;
use super::postgres::Processes;
use super::rng::Rng;
use super::setup::Setup;
use super::world::{Event, World};

/// What a server's commits wait for.
#[derive(Debug, Clone, Default)]
pub struct Sync {
    /// In force everywhere; `None`: nobody is waited for.
    pub config: Option<QuorumConfig>,
    /// Written; some walsenders work by it already.
    pub coming: Option<QuorumConfig>,
    /// Where the marker of the newest stands.
    pub marker: Option<usize>,
    /// The marker was acknowledged.
    pub marked: bool,
    /// Written by clients and not acknowledged yet.
    pub(super) waiting: Vec<Acknowledged>,
}

impl Sync {
    /// What the guard is told.
    #[must_use]
    pub fn standing(&self) -> Option<QuorumStanding> {
        if let Some(coming) = &self.coming {
            return Some(QuorumStanding { version: coming.version, stage: QuorumStage::Set });
        }
        let version = self.config.as_ref()?.version;
        let stage = if self.marked { QuorumStage::Marked } else { QuorumStage::InForce };
        Some(QuorumStanding { version, stage })
    }
}

impl Setup {
    /// The same as a zero-loss group.
    #[must_use]
    pub fn with_zero_loss(mut self, rng: &mut Rng) -> Self {
        self.spec.durability = Durability::ZeroLoss;
        self.spec.quorum_drop_after_seconds = rng.range(1, 4);
        if self.spec.instances.len() > 2 && rng.chance(400) {
            self.spec.quorum_size = 2;
        }
        self
    }

    /// The same, whose commits go on without standbys after they have waited for some seconds.
    #[must_use]
    pub fn with_degrade(mut self, rng: &mut Rng) -> Self {
        self.spec.degrade = Degrade::After;
        self.spec.degrade_after_seconds = rng.range(1, 4);
        self
    }

    /// Whether commits may go on without standbys.
    #[must_use]
    pub fn degrades(&self) -> bool {
        self.spec.degrade != Degrade::ByHand
    }

    /// Whether what is promoted opens on durability alone, before the old primary's lease is over.
    #[must_use]
    pub fn opens_early(&self) -> bool {
        self.spec.open == Open::DurabilityOnly
    }

    /// Whether the group is one.
    #[must_use]
    pub fn zero_loss(&self) -> bool {
        self.spec.durability == Durability::ZeroLoss
    }
}

impl World {
    /// Who an instance is, in the life of its data that its guard knows.
    pub(super) fn member(&self, instance: usize) -> QuorumMember {
        QuorumMember {
            instance: self.setup.instances[instance].0.clone(),
            data: self.guards[instance].guard.state().data.clone(),
        }
    }

    /// The guard has a quorum set. Each walsender reloads in its own time.
    pub(super) fn set_quorum(&mut self, instance: usize, config: QuorumConfig) {
        self.say(|| format!("server {instance} shall wait for {config}, version {}", config.version));
        let delay = if self.rng.chance(800) {
            self.rng.range(ms(2), ms(60))
        } else {
            self.rng.range(ms(60), ms(900))
        };
        let (life, version) = (self.servers[instance].life, config.version);
        let sync = &mut self.servers[instance].sync;
        if sync.coming.is_none() && sync.config.as_ref().is_some_and(|known| known.version == version) {
            // The server was opened with it: only the marker is missing.
            self.begin_marker(instance);
            return;
        }
        sync.coming = Some(config);
        sync.marker = None;
        sync.marked = false;
        self.after(delay, Event::Quorum { instance, server: life, version });
    }

    pub(super) fn quorum_in_force(&mut self, instance: usize, server: u64, version: u64) {
        let it = &mut self.servers[instance];
        if it.life != server || it.frozen || it.hung || it.processes != Processes::Primary {
            return;
        }
        if it.sync.coming.as_ref().is_none_or(|coming| coming.version != version) {
            return;
        }
        it.sync.config = it.sync.coming.take();
        self.begin_marker(instance);
        self.tell_facts(instance);
    }

    pub(super) fn begin_marker(&mut self, instance: usize) {
        let (content, now) = (self.fresh(), self.now);
        let it = &mut self.servers[instance];
        it.sync.marked = false;
        it.sync.marker = Some(it.wal.len());
        it.write(now, content);
    }

    /// A client's commit: acknowledged when its quorum has it.
    pub(super) fn wait_for_quorum(&mut self, instance: usize, write: Acknowledged) {
        self.servers[instance].sync.waiting.push(write);
    }

    /// A client reads what a primary recovered, acknowledged or not, and counts on it from then on.
    pub(super) fn read_recovered(&mut self, instance: usize, records: usize) {
        let (wal, epoch) = (&self.servers[instance].wal, self.group().epoch);
        if let (true, Some(hash)) = (self.setup.zero_loss(), wal[..records].last().copied()) {
            let at = records - 1;
            self.oracle.writes.push(Acknowledged { instance, epoch, at, hash, written_off: false });
        }
    }

    /// Whether `config` lets a commit at this place go now.
    fn met(&self, primary: usize, config: Option<&QuorumConfig>, at: usize) -> bool {
        let Some(config) = config.filter(|config| config.k > 0) else { return true };
        let flushed = (0..self.servers.len()).filter(|standby| {
            let it = &self.servers[*standby];
            let listed = it.name.as_ref().is_some_and(|(member, epoch)| {
                let by_name = self.mutation
                    == Some(Mutation::Rule(mesh_failover::mutants::Mutant::IdentityWithoutData));
                let there = config.standbys.contains(member)
                    || (by_name && config.standbys.iter().any(|known| known.instance == member.instance));
                there && *epoch == config.epoch
            });
            listed && it.streaming && it.upstream == Some(primary) && it.wal.len() > at
        });
        flushed.count() >= config.k as usize
    }

    /// Lets go what is flushed where it must be.
    pub(super) fn release(&mut self) {
        for primary in 0..self.servers.len() {
            let host = &self.hosts[self.host(primary)];
            let it = &self.servers[primary];
            let works = host.up && !host.frozen && !it.frozen && !it.hung && !it.gated;
            if !works || it.processes != Processes::Primary {
                continue;
            }
            let sync = it.sync.clone();
            let newest = sync.coming.as_ref().or(sync.config.as_ref());
            if let (Some(at), false) = (sync.marker, sync.marked)
                && self.met(primary, newest, at)
            {
                self.servers[primary].sync.marked = true;
                if let Some(records) = self.servers[primary].recovered.take() {
                    self.say(|| {
                        format!("clients are let into server {primary}: its quorum has what it recovered")
                    });
                    self.servers[primary].clients = true;
                    self.read_recovered(primary, records);
                }
                self.tell_facts(primary);
            }
            // Some walsenders work by the old list, some by the new one: either lets go.
            let free = |world: &Self, at: usize| {
                world.met(primary, sync.config.as_ref(), at)
                    || sync.coming.as_ref().is_some_and(|coming| world.met(primary, Some(coming), at))
            };
            let (gone, stay): (Vec<_>, Vec<_>) =
                sync.waiting.iter().copied().partition(|write| free(self, write.at));
            if self.servers[primary].clients {
                let epoch = self.group().epoch;
                let leads = self.group().primary.as_ref().map(|p| p.instance.clone());
                if !gone.is_empty() && leads != Some(self.setup.instances[primary].0.clone()) {
                    self.fail(format!(
                        "promise 1: server {primary} acknowledges writes, but the primary of epoch {epoch} is {leads:?}"
                    ));
                }
                self.oracle.writes.extend(gone);
            }
            self.servers[primary].sync.waiting = stay;
        }
    }

    /// Promise 3 in a zero-loss group, at the decision itself.
    pub(super) fn check_zero_loss(&mut self, new: usize, durability: Option<&DurabilityProof>) {
        let wal = &self.servers[new].wal;
        let lost: Vec<usize> = (0..self.oracle.writes.len())
            .filter(|at| {
                let write = &self.oracle.writes[*at];
                !write.written_off && wal.get(write.at) != Some(&write.hash)
            })
            .collect();
        match durability {
            Some(DurabilityProof::LossAccepted { .. }) => {
                for at in lost {
                    self.oracle.writes[at].written_off = true;
                }
            }
            Some(
                proof @ (DurabilityProof::CoveringFreeze(_) | DurabilityProof::ShutdownConfirmed { .. }),
            ) => {
                if let Some(first) = lost.first() {
                    let write = self.oracle.writes[*first];
                    self.fail(format!(
                        "promise 3: {} acknowledged writes are missing from server {new}, the first one of server {} in \
                         epoch {} at record {}, although {proof:?}",
                        lost.len(),
                        write.instance,
                        write.epoch,
                        write.at
                    ));
                }
            }
            None => {
                self.fail("promise 3: a zero-loss group is promoted without a proof of durability".to_owned())
            }
        }
    }

    /// At the end the primary has everything that was acknowledged and not written off.
    pub(super) fn check_kept(&mut self) {
        if !self.setup.zero_loss() {
            return;
        }
        let Some(primary) = self.group().primary.as_ref().and_then(|p| self.setup.instance(&p.instance))
        else {
            return;
        };
        let proof = DurabilityProof::CoveringFreeze(Vec::new());
        self.check_zero_loss(primary, Some(&proof));
    }

    /// What a zero-loss group must come to when all is well.
    pub(super) fn not_yet_zero_loss(&self, primary: usize) -> Option<String> {
        if !self.setup.zero_loss() {
            return None;
        }
        if let Some(why) = self.group().not_yet_zero_loss() {
            return Some(why);
        }
        let newest = self.group().quorum()?;
        for standby in (0..self.servers.len()).filter(|at| *at != primary) {
            if !newest.standbys.contains(&self.member(standby)) {
                return Some(format!("standby {standby} is not in the quorum {newest}"));
            }
        }
        let waiting = self.servers[primary].sync.waiting.len();
        (waiting > 40).then(|| format!("{waiting} commits wait"))
    }

    /// A standby is set back to what it was some time ago (a restored snapshot, say); its guard knows that it is another
    /// life of the data.
    pub(super) fn restore_standby(&mut self, lasts: u64) {
        // What was frozen to be compared stays as it is: losing that as well is a second fault, and a person's matter.
        if self.group().takeover.is_some() {
            return;
        }
        let primary = self.group().primary.as_ref().and_then(|p| self.setup.instance(&p.instance));
        let others: Vec<usize> = (0..self.servers.len())
            .filter(|at| Some(*at) != primary && self.servers[*at].processes == Processes::Standby)
            .collect();
        let Some(standby) = self.rng.pick(&others) else { return };
        if !self.hosts[self.host(standby)].up || !self.guards[standby].up {
            return;
        }
        let number = self.fresh();
        self.kill_guard(standby);
        self.servers[standby].kill();
        self.servers[standby].died = false;
        let most = self.servers[standby].wal.len();
        let back = self.rng.range(1, 200).min(most as u64) as usize;
        self.say(|| format!("server {standby} is restored to {back} records before"));
        self.servers[standby].wal.truncate(most - back);
        if let Some(disk) = self.guards[standby].disk.as_mut() {
            disk.data = DataIncarnation(format!("d{standby}.{number}"));
        }
        let away = self.rng.range(ms(5), lasts.max(ms(10)));
        self.after(away, Event::Undo(Undo::StartGuard(standby)));
    }

    /// A standby's receiver stalls: it stays connected and gets nothing.
    pub(super) fn stall(&mut self, lasts: u64) {
        let standby = self.rng.below(self.servers.len());
        self.say(|| format!("the stream to server {standby} stalls"));
        self.servers[standby].stalled = true;
        self.after(lasts, Event::Undo(Undo::Unstall(standby)));
    }

    /// The name that a standby streams under from now on.
    pub(super) fn name_standby(&mut self, instance: usize, epoch: Epoch) {
        let member = self.member(instance);
        self.servers[instance].name = Some((member, epoch));
    }
}
