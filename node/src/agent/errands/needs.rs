//! What another group has to have done before a service is started or a hook is run: its primary accepts writes.
//!
//! Groups have runs of their own that go on at the same time. Only services and hooks wait for another group, never a
//! promotion or a route, so two groups that need each other do not wait for ever.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_failover::state::Group;
use mesh_proto::evidence::Seen;
use mesh_proto::lease::LeaseTerm;
use mesh_proto::run::Phase;
use mesh_proto::{Epoch, GroupName, InstanceName, RunId};
use tokio::time::sleep_until;

use super::super::sightings::{Glance, Logins};
use super::fencer::Ending;

/// Pause between two looks at a primary that does not serve yet.
const AGAIN: Duration = Duration::from_millis(100);
/// How long one look may take.
const LOOK: Duration = Duration::from_secs(1);

/// How other groups stand: the applied state.
pub trait Groups: Send + Sync {
    /// How this one stands here.
    fn standing(&self, group: &GroupName) -> Standing;
    /// Whether this lease of an instance of the group is being ended.
    fn ending(&self, group: &GroupName, instance: &InstanceName, term: LeaseTerm) -> Ending;
}

/// How a group stands, as this agent knows it.
#[derive(Debug)]
pub enum Standing {
    /// It is not in the applied state here.
    Unknown,
    /// A run is taking its primary from one instance to another.
    Moving {
        /// Which.
        run: RunId,
        /// How far it is.
        phase: Phase,
    },
    /// It was not adopted yet.
    NoPrimary,
    /// It has a primary; that it serves is to be seen.
    Primary(Primary),
}

/// A primary by the log, and how to look at it.
#[derive(Debug)]
pub struct Primary {
    instance: InstanceName,
    epoch: Epoch,
    glance: Glance,
}

impl Standing {
    /// How a group of the applied state stands.
    #[must_use]
    pub fn of(group: Option<&Group>) -> Self {
        let Some(group) = group else { return Self::Unknown };
        if let Some(run) = group.active_run().filter(|run| moves(run.phase)) {
            return Self::Moving { run: run.id, phase: run.phase };
        }
        let Some(primary) = &group.primary else { return Self::NoPrimary };
        match group.spec.instances.iter().find(|known| known.name == primary.instance) {
            Some(spec) => Self::Primary(Primary {
                instance: spec.name.clone(),
                epoch: group.epoch,
                glance: Glance::of(group, spec),
            }),
            None => Self::NoPrimary,
        }
    }
}

/// Whether in this phase the new primary does not accept writes yet.
const fn moves(phase: Phase) -> bool {
    match phase {
        Phase::Preparing | Phase::Pledging | Phase::Fencing | Phase::Promoting | Phase::Reopening => true,
        // Stuck before or after the promotion: the primary itself says which.
        Phase::Staging
        | Phase::Routing
        | Phase::Proving
        | Phase::Finishing
        | Phase::Done
        | Phase::Aborted
        | Phase::Stuck => false,
    }
}

/// The groups that one errand needs.
pub(super) struct Needs {
    pub(super) groups: Vec<GroupName>,
    pub(super) state: Arc<dyn Groups>,
    pub(super) logins: Logins,
}

impl std::fmt::Debug for Needs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Needs").field(&self.groups).finish()
    }
}

impl Needs {
    /// Waits until all of them serve; at the deadline it says which one does not, and why.
    pub(super) async fn met(&self, deadline: Instant) -> Result<(), String> {
        for group in &self.groups {
            loop {
                let began = Instant::now();
                let Err(why) = self.serves(group, deadline.min(began + LOOK)).await else { break };
                let next = began + AGAIN;
                if next >= deadline {
                    return Err(format!("group {group} comes first: {why}"));
                }
                sleep_until(next.into()).await;
            }
        }
        Ok(())
    }

    async fn serves(&self, group: &GroupName, until: Instant) -> Result<(), String> {
        let Primary { instance, epoch, glance } = match self.state.standing(group) {
            Standing::Unknown => return Err("it is not known here".to_owned()),
            Standing::Moving { run, phase } => return Err(format!("its {run} is {phase}")),
            Standing::NoPrimary => return Err("it has no primary; adopt one".to_owned()),
            Standing::Primary(primary) => primary,
        };
        let left = until.saturating_duration_since(Instant::now());
        accepts(&instance, epoch, glance.look(&self.logins, left).await)
    }
}

/// Whether what was seen of the primary by the log is one that accepts writes, in that epoch: one of another epoch is about to
/// be fenced, or was not told yet.
fn accepts(instance: &InstanceName, epoch: Epoch, seen: Option<Seen>) -> Result<(), String> {
    match seen {
        Some(Seen::Writable { epoch: Some(of) }) if of == epoch => Ok(()),
        Some(seen) => Err(format!("{instance} should be its primary of epoch {epoch}, and is: {seen}")),
        None => Err(format!("this agent's file has no login to look at {instance}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Stands(fn() -> Standing);

    impl Groups for Stands {
        fn standing(&self, _: &GroupName) -> Standing {
            (self.0)()
        }

        fn ending(&self, _: &GroupName, _: &InstanceName, _: LeaseTerm) -> Ending {
            Ending::NotYet
        }
    }

    async fn met(groups: &[&str], standing: fn() -> Standing) -> Result<(), String> {
        let groups = groups.iter().map(|name| name.parse().unwrap()).collect();
        let needs = Needs { groups, state: Arc::new(Stands(standing)), logins: Logins::default() };
        needs.met(Instant::now() + Duration::from_millis(150)).await
    }

    #[tokio::test]
    async fn what_is_missing_is_said_at_the_deadline() {
        assert_eq!(met(&[], || Standing::Unknown).await, Ok(()));
        let moving = || Standing::Moving { run: RunId(7), phase: Phase::Fencing };
        let said = met(&["cache"], moving).await.unwrap_err();
        assert!(said.contains("group cache comes first") && said.contains("its r7 is fencing"), "{said}");
        for standing in [|| Standing::Unknown, || Standing::NoPrimary] {
            assert!(met(&["cache"], standing).await.is_err());
        }
    }

    #[test]
    fn only_a_writable_primary_of_the_very_epoch_is_one() {
        let primary: InstanceName = "redis-dr".parse().unwrap();
        let accepts = |seen| accepts(&primary, Epoch(4), seen);
        assert_eq!(accepts(Some(Seen::Writable { epoch: Some(Epoch(4)) })), Ok(()));
        for seen in [
            Seen::Writable { epoch: Some(Epoch(3)) },
            Seen::Writable { epoch: Some(Epoch(5)) },
            Seen::Writable { epoch: None },
            Seen::ReadOnly,
            Seen::TimedOut,
        ] {
            let said = accepts(Some(seen)).unwrap_err();
            assert!(said.contains("redis-dr should be its primary of epoch 4"), "{said}");
        }
        assert!(accepts(None).unwrap_err().contains("no login"));
    }

    #[test]
    fn only_a_primary_on_its_way_is_waited_for() {
        let waits: Vec<Phase> = Phase::ALL.into_iter().filter(|phase| moves(*phase)).collect();
        let before = [Phase::Preparing, Phase::Pledging, Phase::Fencing, Phase::Promoting, Phase::Reopening];
        assert_eq!(waits, before);
    }
}
