//! The suite that every adapter of a route passes, on the real system: execute twice, execute stale, verify after an
//! unknown outcome, server down, server slow, wrong credentials.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

pub mod way;

use std::time::{Duration, Instant};

use mesh_proto::effect::{Outcome, Refusal};

/// Two places to lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    East,
    Dr,
}

/// What the order meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Day {
    Good,
    /// The change is made, and its answer is lost.
    AnswerLost,
    /// Nobody listens.
    Down,
    /// It takes the connection and says nothing.
    Slow,
    WrongCredentials,
}

/// An adapter with the system that it drives.
#[allow(async_fn_in_trait)]
pub trait Bench {
    /// Leads to `to`, within half a second longer than the deadline at most.
    async fn lead(&self, to: Side, epoch: u64, day: Day, deadline: Instant) -> Outcome;
    async fn verify(&self, to: Side, epoch: u64, deadline: Instant) -> Outcome;
    /// Where clients really get to, found out without the adapter.
    async fn really(&self) -> Option<Side>;
}

/// Runs the suite. The bench leads to [`Side::East`] when it begins.
pub async fn passes(bench: &impl Bench) {
    let lead = async |to: Side, epoch: u64, day: Day| {
        let budget = if day == Day::Good { Duration::from_secs(20) } else { Duration::from_secs(2) };
        let deadline = Instant::now() + budget;
        let outcome = bench.lead(to, epoch, day, deadline).await;
        let over = Instant::now().saturating_duration_since(deadline);
        assert!(over < Duration::from_millis(500), "{day:?} held us up by {over:?}");
        outcome
    };
    let verify =
        async |to: Side, epoch: u64| bench.verify(to, epoch, Instant::now() + Duration::from_secs(20)).await;

    for attempt in ["once", "twice"] {
        let outcome = lead(Side::Dr, 2, Day::Good).await;
        assert!(matches!(outcome, Outcome::Done(_)), "{attempt}: {outcome:?}");
        assert_eq!(bench.really().await, Some(Side::Dr), "{attempt}");
    }
    let outcome = verify(Side::Dr, 2).await;
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    let outcome = verify(Side::East, 2).await;
    assert!(matches!(&outcome, Outcome::Refused { code: Refusal::NotSo, .. }), "{outcome:?}");

    let outcome = lead(Side::East, 1, Day::Good).await;
    assert!(matches!(&outcome, Outcome::Refused { code: Refusal::StaleEpoch, .. }), "{outcome:?}");
    assert_eq!(bench.really().await, Some(Side::Dr), "a stale order changed something");

    for day in [Day::Down, Day::Slow, Day::WrongCredentials] {
        let outcome = lead(Side::East, 3, day).await;
        let Outcome::Refused { code, detail } = &outcome else { panic!("{day:?}: {outcome:?}") };
        let again = matches!(code, Refusal::NotDelivered | Refusal::Failed);
        assert!(again || day == Day::WrongCredentials, "{day:?} passes, so it may be tried again: {code:?}");
        assert!(detail.contains("; "), "{day:?} says what to do: {detail}");
        assert_eq!(bench.really().await, Some(Side::Dr), "{day:?} changed something");
    }

    let outcome = lead(Side::East, 3, Day::AnswerLost).await;
    assert!(matches!(&outcome, Outcome::Unknown { .. }), "{outcome:?}");
    let found = verify(Side::East, 3).await;
    match (&found, bench.really().await) {
        (Outcome::Done(_), Some(Side::East)) => {}
        (Outcome::Refused { code: Refusal::NotSo, .. }, other) => assert_ne!(other, Some(Side::East)),
        other => panic!("after an unknown outcome: {other:?}"),
    }
    let outcome = lead(Side::East, 3, Day::Good).await;
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    assert_eq!(bench.really().await, Some(Side::East));
    let outcome = verify(Side::East, 3).await;
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
}
