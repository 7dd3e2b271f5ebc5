//! The phases of a run as a graph: golden files that show every change of it, and walks that no change may break.

// A test file: a failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;

use mesh_failover::run::{Facts, Next, first, forbidden, graph, matrix, next};
use mesh_proto::run::{Phase, RunKind, Signal, StuckCause};

/// Compares with the golden file; `MESH_BLESS=1 cargo test -p mesh-failover --test phases` writes it.
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("MESH_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap();
    assert!(wanted == text, "{name} differs: look at each change, then bless it\n{text}");
}

#[test]
fn the_matrix_is_as_it_was() {
    golden("phase_matrix.txt", &matrix());
}

#[test]
fn the_graph_is_as_it_was() {
    golden("phase.dot", &graph());
}

/// A run as far as its way depends on it: its phase, whether a promotion is committed, whether the new primary serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct At {
    phase: Phase,
    promoted: bool,
    /// Stuck with routes alone to do.
    routes: bool,
    /// Stuck with services or hooks alone to do.
    errands: bool,
}

impl At {
    fn serves(self) -> bool {
        match self.phase {
            Phase::Staging | Phase::Routing | Phase::Proving | Phase::Finishing | Phase::Done => true,
            Phase::Stuck => self.routes || self.errands,
            Phase::Preparing
            | Phase::Pledging
            | Phase::Fencing
            | Phase::Promoting
            | Phase::Reopening
            | Phase::Aborted => false,
        }
    }

    /// Where a signal leads, if it may come.
    fn after(self, signal: Signal) -> Option<Self> {
        let facts = Facts { promoted: self.promoted, serves: self.serves(), errands_only: self.errands };
        if forbidden(signal, facts).is_some() {
            return None;
        }
        match next(self.phase, signal) {
            Next::Enter(phase) => Some(Self {
                phase,
                promoted: self.promoted || signal == Signal::PromotionCommitted,
                routes: phase == Phase::Stuck && matches!(self.phase, Phase::Routing | Phase::Proving),
                errands: phase == Phase::Stuck && self.phase == Phase::Finishing,
            }),
            Next::Stay | Next::Impossible => None,
        }
    }

    fn exits(self) -> Vec<(Signal, Self)> {
        Signal::ALL.into_iter().filter_map(|signal| Some((signal, self.after(signal)?))).collect()
    }
}

fn reachable(from: At) -> BTreeSet<At> {
    let (mut seen, mut open) = (BTreeSet::from([from]), vec![from]);
    while let Some(at) = open.pop() {
        for (_, to) in at.exits() {
            if seen.insert(to) {
                open.push(to);
            }
        }
    }
    seen
}

/// Everything that a run can come to.
fn all() -> BTreeSet<At> {
    [RunKind::Failover, RunKind::Switchover]
        .into_iter()
        .flat_map(|kind| reachable(At { phase: first(kind), promoted: false, routes: false, errands: false }))
        .collect()
}

#[test]
fn every_phase_is_reachable() {
    let phases: BTreeSet<Phase> = all().into_iter().map(|at| at.phase).collect();
    assert_eq!(phases, Phase::ALL.into_iter().collect());
}

#[test]
fn every_phase_has_an_exit_and_reaches_an_end() {
    for at in all() {
        if at.phase.is_final() {
            assert_eq!(at.exits(), [], "{at:?} is an end");
        } else {
            assert!(!at.exits().is_empty(), "{at:?} has no exit");
            assert!(reachable(at).iter().any(|to| to.phase.is_final()), "{at:?} reaches no end");
        }
    }
}

#[test]
fn every_phase_but_an_end_can_come_to_stuck_or_leave_by_itself() {
    for at in all().into_iter().filter(|at| !at.phase.is_final() && at.phase != Phase::Stuck) {
        let stuck = reachable(at).iter().any(|to| to.phase == Phase::Stuck);
        assert!(stuck, "{at:?}: what cannot go on must be able to say so");
    }
}

#[test]
fn stuck_has_an_exit_for_each_cause() {
    for cause in StuckCause::ALL {
        let (retry, promoted): (Signal, &[bool]) = match cause {
            StuckCause::RouteFailed | StuckCause::ProofFailed => (Signal::RetryRoutes, &[true]),
            StuckCause::ErrandFailed => (Signal::RetryErrands, &[true]),
            StuckCause::PromotionFailed => (Signal::Retry, &[true]),
            StuckCause::NoCandidate | StuckCause::FencerFailed => (Signal::Retry, &[false, true]),
            StuckCause::ReopenFailed => (Signal::Retry, &[false]),
        };
        for promoted in promoted {
            let (routes, errands) = (retry == Signal::RetryRoutes, retry == Signal::RetryErrands);
            let at = At { phase: Phase::Stuck, promoted: *promoted, routes, errands };
            assert!(!at.exits().is_empty(), "{cause:?}, promoted {promoted}: no exit");
            assert!(reachable(at).iter().any(|to| to.phase.is_final()), "{cause:?}: no way out");
            // The operator's own way out: `mesh retry`, for every cause.
            assert!(at.after(retry).is_some(), "{cause:?}: `mesh retry` does nothing");
        }
    }
}

#[test]
fn promoting_is_entered_only_through_a_committed_promotion() {
    for at in all() {
        for (signal, to) in at.exits() {
            if to.phase == Phase::Promoting {
                assert!(to.promoted, "{at:?} enters promoting by {signal} without a promotion");
            }
            if to.serves() {
                assert!(to.promoted, "{at:?} serves by {signal} without a promotion");
            }
        }
    }
    // And only while the old primary is being fenced: after a majority has pledged.
    for phase in Phase::ALL {
        let enters = next(phase, Signal::PromotionCommitted) == Next::Enter(Phase::Promoting);
        assert_eq!(enters, phase == Phase::Fencing, "{phase}");
        assert!(enters || next(phase, Signal::PromotionCommitted) == Next::Impossible, "{phase}");
    }
    for phase in Phase::ALL {
        for signal in Signal::ALL {
            if next(phase, signal) == Next::Enter(Phase::Fencing) {
                assert_eq!((phase, signal), (Phase::Pledging, Signal::PledgedByMajority));
            }
        }
    }
}

#[test]
fn no_way_leads_back_after_a_promotion() {
    for at in all().into_iter().filter(|at| at.promoted) {
        assert!(!matches!(at.phase, Phase::Aborted | Phase::Reopening | Phase::Preparing), "{at:?}");
    }
}

#[test]
fn an_abort_after_a_pledge_goes_through_a_new_lease() {
    // Only a phase in which nothing is pledged yet may end a run at once.
    for phase in Phase::ALL {
        for signal in Signal::ALL {
            if next(phase, signal) == Next::Enter(Phase::Aborted) {
                assert!(matches!(phase, Phase::Preparing | Phase::Reopening), "{phase} aborts by {signal}");
            }
        }
    }
}

#[test]
fn no_service_or_hook_stands_between_a_promotion_and_its_routes_for_ever() {
    // Before the promotion there is no place for one; after it nothing that one does leads anywhere but on to the routes.
    for at in all().into_iter().filter(|at| at.phase == Phase::Staging) {
        for (signal, to) in at.exits() {
            assert_eq!(to.phase, Phase::Routing, "{signal}");
        }
    }
    for phase in Phase::ALL {
        if next(phase, Signal::ErrandsLeft) != Next::Impossible {
            assert!(matches!(phase, Phase::Promoting | Phase::Proving), "{phase}");
        }
    }
}
