//! Between openraft's types and the messages of `raft.proto`, which are also the encodings on disk.
//!
//! Nothing here fills in a default for something missing: a message without its parts is refused.

use std::collections::{BTreeMap, BTreeSet};

use mesh_proto::raft as pb;
use openraft::{CommittedLeaderId, EntryPayload, LeaderId};

use crate::types::{Ballot, Command, Entry, LogId, Member, Membership, SnapshotMeta, StoredMembership};

/// A message that lacks a part it cannot be understood without.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("{0} is missing")]
pub(crate) struct Lacking(pub &'static str);

pub(crate) fn log_id(id: &LogId) -> pb::LogId {
    pb::LogId { term: id.leader_id.term, index: id.index }
}

pub(crate) fn log_id_back(id: &pb::LogId) -> LogId {
    LogId::new(CommittedLeaderId::new(id.term, 0), id.index)
}

pub(crate) fn ballot(vote: &Ballot) -> pb::Ballot {
    pb::Ballot { term: vote.leader_id.term, voted_for: vote.leader_id.voted_for, committed: vote.committed }
}

pub(crate) fn ballot_back(ballot: Option<&pb::Ballot>) -> Result<Ballot, Lacking> {
    let ballot = ballot.ok_or(Lacking("the ballot"))?;
    let leader_id = LeaderId { term: ballot.term, voted_for: ballot.voted_for };
    Ok(Ballot { leader_id, committed: ballot.committed })
}

pub(crate) fn membership(membership: &Membership) -> pb::Membership {
    let voters = membership
        .get_joint_config()
        .iter()
        .map(|set| pb::VoterSet { ids: set.iter().copied().collect() })
        .collect();
    let members = membership
        .nodes()
        .map(|(id, member)| pb::Member {
            id: *id,
            address: member.address.clone(),
            name: member.name.clone(),
            incarnation: member.incarnation,
        })
        .collect();
    pb::Membership { voters, members }
}

pub(crate) fn membership_back(membership: &pb::Membership) -> Membership {
    let voters: Vec<BTreeSet<u64>> =
        membership.voters.iter().map(|set| set.ids.iter().copied().collect()).collect();
    let members: BTreeMap<u64, Member> = membership
        .members
        .iter()
        .map(|member| {
            let kept = Member {
                address: member.address.clone(),
                name: member.name.clone(),
                incarnation: member.incarnation,
            };
            (member.id, kept)
        })
        .collect();
    Membership::new(voters, members)
}

pub(crate) fn stored_membership(stored: &StoredMembership) -> pb::StoredMembership {
    pb::StoredMembership {
        at: stored.log_id().as_ref().map(log_id),
        membership: Some(membership(stored.membership())),
    }
}

pub(crate) fn stored_membership_back(
    stored: Option<&pb::StoredMembership>,
) -> Result<StoredMembership, Lacking> {
    let stored = stored.ok_or(Lacking("the membership"))?;
    let inner = stored.membership.as_ref().ok_or(Lacking("the membership"))?;
    Ok(StoredMembership::new(stored.at.as_ref().map(log_id_back), membership_back(inner)))
}

pub(crate) fn snapshot_meta(meta: &SnapshotMeta) -> pb::SnapshotMeta {
    pb::SnapshotMeta {
        id: meta.snapshot_id.clone(),
        last: meta.last_log_id.as_ref().map(log_id),
        membership: Some(stored_membership(&meta.last_membership)),
    }
}

pub(crate) fn snapshot_meta_back(meta: Option<&pb::SnapshotMeta>) -> Result<SnapshotMeta, Lacking> {
    let meta = meta.ok_or(Lacking("the snapshot's description"))?;
    Ok(SnapshotMeta {
        last_log_id: meta.last.as_ref().map(log_id_back),
        last_membership: stored_membership_back(meta.membership.as_ref())?,
        snapshot_id: meta.id.clone(),
    })
}

pub(crate) fn entry(entry: &Entry) -> pb::Entry {
    let payload = match &entry.payload {
        EntryPayload::Blank => pb::entry::Payload::Blank(true),
        EntryPayload::Normal(command) => pb::entry::Payload::Command(command.0.clone()),
        EntryPayload::Membership(inner) => pb::entry::Payload::Membership(membership(inner)),
    };
    pb::Entry { id: Some(log_id(&entry.log_id)), payload: Some(payload) }
}

pub(crate) fn entry_back(entry: pb::Entry) -> Result<Entry, Lacking> {
    let id = entry.id.ok_or(Lacking("an entry's position"))?;
    let payload = match entry.payload.ok_or(Lacking("an entry's payload"))? {
        pb::entry::Payload::Blank(_) => EntryPayload::Blank,
        pb::entry::Payload::Command(bytes) => EntryPayload::Normal(Command(bytes)),
        pb::entry::Payload::Membership(inner) => EntryPayload::Membership(membership_back(&inner)),
    };
    Ok(Entry { log_id: log_id_back(&id), payload })
}
