//! The commit quorum: told to the server once, again only where it did not come into force, and never an older one.

use std::collections::BTreeSet;

use mesh_proto::Epoch;
use mesh_proto::evidence::ProcessState;
use mesh_proto::quorum::{QuorumConfig, QuorumMember, QuorumStage, QuorumStanding};

use super::*;

fn config(version: u64) -> QuorumConfig {
    let led_by = QuorumMember { instance: "pg-1".parse().unwrap(), data: DataIncarnation("d".to_owned()) };
    let standby = QuorumMember { instance: "pg-2".parse().unwrap(), data: DataIncarnation("e".to_owned()) };
    QuorumConfig { version, epoch: Epoch(1), led_by, k: 1, standbys: BTreeSet::from([standby]) }
}

impl Rig {
    /// The log names this quorum.
    fn asks_for(&mut self, version: u64) {
        self.view.applied += 1;
        self.view.quorum = Some(config(version));
        self.run(Millis(600));
    }

    fn works_by(&mut self, version: u64, stage: QuorumStage) {
        self.facts.quorum = Some(QuorumStanding { version, stage });
        self.seen();
    }
}

#[test]
fn a_quorum_is_told_once_and_again_only_where_it_did_not_come_into_force() {
    let mut rig = Rig::serving();
    assert_eq!(rig.quorums, Vec::<u64>::new());
    rig.asks_for(2);
    assert_eq!(rig.quorums, [2]);
    rig.works_by(2, QuorumStage::Set);
    rig.run(Millis(2_000));
    assert_eq!(rig.quorums, [2], "it takes its time");
    rig.run(Millis(2_000));
    assert_eq!(rig.quorums, [2, 2]);
    rig.works_by(2, QuorumStage::InForce);
    rig.run(Millis(8_000));
    assert_eq!(rig.quorums, [2, 2], "the marker waits for the standby, for as long as that takes");
    rig.asks_for(3);
    rig.works_by(3, QuorumStage::Marked);
    assert_eq!(rig.quorums, [2, 2, 3]);
    assert_eq!(rig.guard.status(rig.now).quorum, rig.facts.quorum);
}

#[test]
fn an_older_quorum_is_never_told() {
    let mut rig = Rig::serving();
    rig.asks_for(5);
    rig.works_by(5, QuorumStage::Marked);
    rig.asks_for(4);
    assert_eq!(rig.quorums, [5]);
}

#[test]
fn the_server_is_opened_with_the_quorum_of_the_log_that_granted_the_lease() {
    let mut rig = Rig::new(ProcessState::Primary);
    rig.view.quorum = Some(config(2));
    rig.grant(1, 1);
    rig.run(Millis(300));
    assert_eq!(rig.task(), Some(&Task::OpenPrimary { term: term(1, 1), quorum: Some(Box::new(config(2))) }));
    rig.opened();
    rig.works_by(2, QuorumStage::InForce);
    rig.run(Millis(600));
    assert_eq!(rig.quorums, [2], "for its marker");
}

#[test]
fn a_standby_sets_no_quorum() {
    let mut rig = Rig::standby();
    rig.asks_for(2);
    assert_eq!(rig.quorums, Vec::<u64>::new());
    assert_eq!(rig.guard.status(rig.now).quorum, None);
}
