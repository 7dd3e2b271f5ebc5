//! How long a host may go on without its guard: what a watchdog device is put off by.

use mesh_proto::Millis;
use mesh_proto::evidence::ProcessState;
use mesh_proto::lease::ReceiptLevel;

use super::super::{Safe, TaskResult};
use super::Rig;

fn left(rig: &Rig) -> Option<Millis> {
    match rig.guard.safe(rig.now) {
        Safe::ForEver => None,
        Safe::Until(at) => Some(at.since(rig.now)),
    }
}

#[test]
fn a_host_that_holds_no_lease_may_go_on_for_ever() {
    let mut rig = Rig::new(ProcessState::Primary);
    rig.run(Millis(2_000));
    assert!(!rig.guard.armed());
    assert_eq!(left(&rig), None);
}

#[test]
fn a_lease_ends_it_and_a_fence_that_is_proven_lifts_it() {
    let mut rig = Rig::serving();
    let timing = rig.guard.timing().clone();
    rig.run(Millis(1_000));
    let whole = timing.lease.plus(timing.fence);
    let now = left(&rig).unwrap();
    assert!(
        now <= whole && now >= rig.guard.watchdog_fits(),
        "renewed all the time, {now} of {whole} are left"
    );
    rig.reachable = 1;
    rig.run(timing.lease);
    let began = left(&rig).unwrap();
    assert!(began <= timing.fence, "the lease is over, and the fence has its budget: {began}");
    rig.run(timing.fence);
    assert_eq!(left(&rig), Some(Millis(0)), "a fence that is not proven in its budget lifts nothing");
    let (job, _) = rig.job.clone().unwrap();
    rig.guard.handle_done(rig.now, job, TaskResult::Fenced { level: ReceiptLevel::NoAck, shutdown_at: None });
    assert_eq!(left(&rig), None);
}
