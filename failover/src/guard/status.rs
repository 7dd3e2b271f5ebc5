//! The status that travels with every renewal, and what of it is news.

use mesh_proto::evidence::{DiskHolds, DiskStanding, GuardStatus, ProcessState, Receiving, WriteProbe};
use mesh_proto::hold::HoldStanding;
use mesh_proto::lease::{LeaseTerm, Receipt};
use mesh_proto::quorum::QuorumStanding;
use mesh_proto::{DataIncarnation, Epoch, Generation, Millis, NodeId};

use super::Guard;
use super::state::CommitGate;
use crate::Moment;
use crate::verdict::disk::{self, DiskTrouble};

/// What of a status is sent at once when it changes. Ages, remainders and positions are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Essence {
    lease: Option<LeaseTerm>,
    gate: Epoch,
    process: ProcessState,
    commit_gated: bool,
    clients_wait: bool,
    write_probe: std::mem::Discriminant<WriteProbe>,
    disks: Vec<(DiskHolds, Option<std::mem::Discriminant<DiskTrouble>>)>,
    streaming: Option<(bool, Option<String>)>,
    quorum: Option<QuorumStanding>,
    frozen: Option<Generation>,
    receipt: Option<Receipt>,
    data: Option<DataIncarnation>,
    system_id: Option<u64>,
    floored: Option<LeaseTerm>,
    paused: Option<u64>,
    busy: Option<String>,
    trouble: Option<String>,
    rival: Option<String>,
    hold: Option<HoldStanding>,
}

impl Guard {
    pub(super) fn essence(&self, now: Moment) -> Essence {
        let status = self.status(now);
        Essence {
            lease: status.lease.map(|held| held.term),
            gate: status.gate,
            process: status.process,
            commit_gated: status.commit_gated,
            clients_wait: status.clients_wait,
            write_probe: std::mem::discriminant(&status.write_probe),
            disks: status.disks.iter().map(|disk| (disk.holds, self.disk_trouble(disk))).collect(),
            streaming: status.receiving.map(|receiving| (receiving.streaming, receiving.from)),
            quorum: status.quorum,
            frozen: status.frozen,
            receipt: status.receipt,
            data: status.data,
            system_id: status.system_id,
            floored: status.floored,
            paused: status.paused,
            busy: status.busy,
            trouble: status.trouble,
            rival: status.rival,
            hold: status.hold,
        }
    }

    /// What the guard sees first hand, now.
    #[must_use]
    pub fn status(&self, now: Moment) -> GuardStatus {
        let facts = self.facts.as_ref().map(|(_, facts)| facts);
        let age = self.facts.as_ref().map_or(Millis::ZERO, |(at, _)| now.since(*at));
        let system_id = facts.and_then(|facts| facts.system_id);
        GuardStatus {
            group: self.state.group.clone(),
            instance: self.state.instance.clone(),
            guard: self.state.guard.clone(),
            seq: self.seq,
            data: system_id.map(|_| self.state.data.clone()),
            system_id,
            public_key: self.config.public_key.clone(),
            lease: self.holder.held(now),
            granted: self.granted(now),
            floored: self.floored,
            paused: self.holder.pause().map(|(id, _)| id),
            gate: self.state.gate.epoch,
            process: self.process(),
            commit_gated: facts.is_some_and(|facts| facts.commit_gate != CommitGate::Open),
            clients_wait: facts.is_some_and(|facts| facts.clients_wait)
                && self.process() == ProcessState::Primary,
            write_probe: facts.map_or(WriteProbe::NotApplicable, |facts| aged(facts.write_probe, age)),
            disks: facts
                .map(|facts| facts.disks.iter().map(|disk| disk.clone().aged(age)).collect())
                .unwrap_or_default(),
            position: facts.and_then(|facts| facts.position),
            receiving: facts
                .and_then(|facts| facts.receiving.clone())
                .map(|receiving| Receiving { advanced: receiving.advanced.plus(age), ..receiving }),
            quorum: facts.and_then(|facts| facts.quorum).filter(|_| self.opened.is_some()),
            frozen: self.state.frozen,
            // Only once its lease is surely never asked for again.
            receipt: self.state.receipt.clone().filter(|_| self.durable >= self.asked_at),
            busy: self.job.as_ref().map(|job| job.task.words().to_owned()),
            trouble: self.trouble_words(facts.and_then(|facts| facts.trouble.clone())),
            downgraded: facts.map(|facts| facts.downgraded.clone()).unwrap_or_default(),
            engine: self.config.engine,
            rival: facts.and_then(|facts| facts.rival.clone()),
            line: self.state.line,
            hold: Some(self.hold_standing(now)),
        }
    }

    /// What kind of trouble a disk has: that it grows is no news.
    fn disk_trouble(&self, disk: &DiskStanding) -> Option<std::mem::Discriminant<DiskTrouble>> {
        disk::trouble(disk, self.timing.hang_after).as_ref().map(std::mem::discriminant)
    }

    /// Voters whose grant runs, while a lease is held.
    fn granted(&self, now: Moment) -> Vec<NodeId> {
        let grants = self.holder.held(now).map(|_| self.holder.grants(now)).unwrap_or_default();
        grants.into_iter().filter(|(_, left)| *left > Millis::ZERO).map(|(voter, _)| voter).collect()
    }

    fn trouble_words(&self, seen: Option<String>) -> Option<String> {
        let mut words = Vec::new();
        if let Some((founded, here)) = self.foreign_system() {
            words.push(format!(
                "the data directory belongs to another cluster (system identifier {here}, the group has {founded}): \
                 every order is refused; point the instance to its own data directory"
            ));
        }
        if self.write_again.is_some() {
            words.push(
                "the guard's state cannot be written, so it promises nothing new: make room on its disk, or replace it"
                    .to_owned(),
            );
        }
        if self.state.rejoin.is_some() && !self.busy() {
            words.push("a rejoin was begun and is not finished: `mesh rejoin` does it again".to_owned());
        }
        words.extend(self.trouble.clone());
        words.extend(seen);
        (!words.is_empty()).then(|| words.join("; "))
    }
}

/// What a probe found, as long after it as `age`.
fn aged(probe: WriteProbe, more: Millis) -> WriteProbe {
    match probe {
        WriteProbe::Ok { age } => WriteProbe::Ok { age: age.plus(more) },
        WriteProbe::Late { waiting } => WriteProbe::Late { waiting: waiting.plus(more) },
        WriteProbe::Failed { code, since } => WriteProbe::Failed { code, since: since.plus(more) },
        WriteProbe::NotApplicable | WriteProbe::WaitingForStandbys => probe,
    }
}
