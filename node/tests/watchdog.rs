//! The guard beside a watchdog device: when the host would be reset, and when never. The device is a pretence that speaks the
//! kernel's protocol; the guard and PostgreSQL are real.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;
#[path = "support/watchdog.rs"]
mod watchdog;

use std::time::{Duration, Instant};

use mesh_adapters::watchdog::{Watchdog, WatchdogError};
use mesh_proto::evidence::{ProcessState, WriteProbe};
use support::{Instance, World};
use watchdog::Pretence;

const TWO: Duration = Duration::from_secs(2);

/// A file system in user space hears of a close a moment after it; a driver hears of it in the call.
fn disarmed(pretence: &Pretence) {
    let began = Instant::now();
    loop {
        let state = pretence.state.lock().unwrap();
        if state.armed.is_none() && !state.open {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(1), "{state:?}");
        drop(state);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_device_gets_the_longest_timeout_that_fits_and_is_disarmed_when_closed() {
    let pretence = Pretence::new(1);
    let mut device = Watchdog::open(&pretence.path, Duration::from_millis(2_700)).unwrap();
    assert_eq!((device.timeout(), device.identity()), (TWO, "pretence"));
    let second = Watchdog::open(&pretence.path, TWO).unwrap_err();
    assert!(matches!(second, WatchdogError::Open { .. }), "one holder: {second}");
    device.kick().unwrap();
    assert!(pretence.state.lock().unwrap().armed.is_some());
    device.close().unwrap();
    disarmed(&pretence);
}

#[test]
fn a_device_that_would_be_late_is_let_go_and_not_armed() {
    let pretence = Pretence::new(10);
    let refused = Watchdog::open(&pretence.path, Duration::from_millis(2_700)).unwrap_err();
    let WatchdogError::TooLong { timeout, .. } = &refused else { panic!("{refused}") };
    assert_eq!(*timeout, Duration::from_secs(60));
    assert!(
        refused.to_string().contains("60 s is longer than what is left after a lease, 2.7 s"),
        "{refused}"
    );
    disarmed(&pretence);
}

#[test]
fn a_holder_that_is_gone_leaves_it_armed() {
    let pretence = Pretence::new(1);
    drop(Watchdog::open(&pretence.path, TWO).unwrap());
    let began = Instant::now();
    while pretence.state.lock().unwrap().reset().is_none() {
        assert!(began.elapsed() < Duration::from_secs(4));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A running primary whose guard is to use the device, and observes so far.
async fn beside(world: &World, pretence: &Pretence) -> Instance {
    let a = world.instance("pg-a", None);
    let config = a.home.join("mesh.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text + &format!("watchdog = {:?}\n", pretence.path)).unwrap();
    a.start_by_hand();
    a.start_guard();
    world.until(&a, "first sight of a running primary", |s| s.process == ProcessState::Primary).await;
    a
}

/// A running primary that holds its lease, whose guard has the device.
async fn covered(world: &World, pretence: &Pretence) -> Instance {
    let a = beside(world, pretence).await;
    assert!(pretence.state.lock().unwrap().armed.is_none(), "a guard that only observes arms nothing");
    world.grant(&a, 1, 1);
    let open = |s: &mesh_proto::evidence::GuardStatus| {
        matches!(s.write_probe, WriteProbe::Ok { .. })
            && s.downgraded[0].contains("the watchdog (pretence) resets")
    };
    world.until(&a, "lease held -> open, and covered", open).await;
    a
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_fences_in_time_never_has_its_host_reset() {
    let mut world = World::new().await;
    let pretence = Pretence::new(1);
    let a = covered(&world, &pretence).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(pretence.state.lock().unwrap().reset(), None, "while the lease is renewed");
    world.cut().await;
    a.dead_within(Duration::from_secs(5));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(pretence.state.lock().unwrap().reset(), None, "fenced: nothing is acknowledged any more");
    assert!(pretence.state.lock().unwrap().armed.is_some());
    a.signal_guard("-TERM");
    assert_eq!(a.wait_guard(), Some(0), "{}", a.log());
    disarmed(&pretence);
}

/// Everything that could fence is stopped: guard, leash and server. The device resets the host inside lease and fence budget.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_guard_and_leash_are_stopped_is_reset_before_its_lease_and_fence_budget_are_over() {
    let world = World::new().await;
    let pretence = Pretence::new(1);
    let a = covered(&world, &pretence).await;
    let stopped = Instant::now();
    a.signal_guard("-STOP");
    let at = loop {
        if let Some(at) = pretence.state.lock().unwrap().reset() {
            break at;
        }
        assert!(stopped.elapsed() < Duration::from_secs(6), "{}", a.log());
        std::thread::sleep(Duration::from_millis(10));
    };
    println!("FIGURE guard stopped -> reset: {:?}", at.duration_since(stopped));
    assert!(at.duration_since(stopped) < Duration::from_millis(3_500), "L + F is 3.5 s");
    a.signal_guard("-KILL");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_too_slow_is_not_used_and_said_so() {
    let world = World::new().await;
    let pretence = Pretence::new(10);
    let a = beside(&world, &pretence).await;
    world.grant(&a, 1, 1);
    let said = |s: &mesh_proto::evidence::GuardStatus| {
        s.downgraded[0].contains("longer than what is left after a lease")
    };
    let status = world.until(&a, "not covered", said).await;
    assert!(status.downgraded[0].starts_with("not covered by its watchdog"), "{:?}", status.downgraded);
    disarmed(&pretence);
}
