//! What to do about a target group, from what stands there. Pure.

use mesh_proto::spec::{Drift, TargetGroupArn};
use mesh_proto::{Epoch, GroupName, InstanceName};

use super::error::ElbError;
use super::marker::Marker;

/// A target, as the load balancer tells targets apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Id of an EC2 instance, or an address.
    pub id: String,
    /// Port.
    pub port: u16,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.id, self.port)
    }
}

/// Where a target group shall lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The mesh's group.
    pub group: GroupName,
    /// The epoch of the order.
    pub epoch: Epoch,
    /// The step that wants it.
    pub step: String,
    /// The instance it shall lead to.
    pub instance: InstanceName,
    /// The target group.
    pub target_group: TargetGroupArn,
    /// The instance's target.
    pub target: Target,
    /// Whether it lies outside the target group's VPC.
    pub outside: bool,
    /// The targets of all instances of the group.
    pub known: Vec<Target>,
    /// What is done about a target that is none of these.
    pub drift: Drift,
}

impl Wanted {
    /// The marker that goes with it.
    pub(super) fn marker(&self) -> Marker {
        Marker {
            group: self.group.clone(),
            epoch: self.epoch,
            step: self.step.clone(),
            instance: self.instance.clone(),
        }
    }
}

/// How a target stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It gets connections.
    Healthy,
    /// It is registered, and the load balancer does not know yet.
    Initial,
    /// Its health check fails, or it cannot be told.
    Unhealthy,
    /// It was deregistered; its connections go on for a while.
    Draining,
    /// No listener sends anything to it.
    Unused,
}

/// A target that the load balancer knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) target: Target,
    pub(super) state: State,
    /// What the load balancer says about it, for people.
    pub(super) why: String,
}

/// What stands at the API.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Seen {
    pub(super) marker: Option<String>,
    pub(super) targets: Vec<Standing>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The tag is to be written.
    pub(super) mark: bool,
    /// Targets that are to go.
    pub(super) deregister: Vec<Target>,
    /// The wanted target is to be registered.
    pub(super) register: bool,
    /// Registered targets of nobody, which stay.
    pub(super) foreign: Vec<Target>,
    /// How the wanted target stands, if it is registered.
    pub(super) standing: Option<Standing>,
    /// Other targets whose connections go on.
    pub(super) draining: u32,
}

impl Plan {
    /// Whether anything is to be changed.
    pub(super) const fn changes(&self) -> bool {
        self.mark || self.register || !self.deregister.is_empty()
    }
}

/// Refuses what belongs to another epoch or group; else says what is to be done.
pub(super) fn decide(wanted: &Wanted, seen: &Seen) -> Result<Plan, ElbError> {
    let mark = compare(wanted, seen.marker.as_deref())?;
    let registered = |standing: &&Standing| standing.state != State::Draining;
    let standing = seen.targets.iter().filter(registered).find(|s| s.target == wanted.target).cloned();
    let (mut deregister, mut foreign) = (Vec::new(), Vec::new());
    for other in seen.targets.iter().filter(registered).filter(|s| s.target != wanted.target) {
        if wanted.known.contains(&other.target) || wanted.drift == Drift::Overwrite {
            deregister.push(other.target.clone());
        } else {
            foreign.push(other.target.clone());
        }
    }
    let draining =
        seen.targets.iter().filter(|s| s.state == State::Draining && s.target != wanted.target).count();
    let draining = u32::try_from(draining).unwrap_or(u32::MAX);
    Ok(Plan { mark, deregister, register: standing.is_none(), foreign, standing, draining })
}

/// Compares the tag; whether it is to be written.
pub(super) fn compare(wanted: &Wanted, marker: Option<&str>) -> Result<bool, ElbError> {
    let Some(text) = marker else { return Ok(true) };
    let at = || wanted.target_group.clone();
    let marker = match text.parse::<Marker>() {
        Ok(marker) => marker,
        Err(_) if wanted.drift == Drift::Overwrite => return Ok(true),
        Err(source) => return Err(ElbError::Marker { target_group: at(), source }),
    };
    if marker.group != wanted.group {
        return Err(ElbError::OtherGroup { target_group: at(), group: marker.group });
    }
    if marker.epoch > wanted.epoch {
        return Err(ElbError::Stale { target_group: at(), seen: marker.epoch });
    }
    if marker.epoch == wanted.epoch && marker.instance != wanted.instance {
        return Err(ElbError::Conflict { target_group: at(), instance: marker.instance });
    }
    Ok(marker.epoch != wanted.epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(id: &str) -> Target {
        Target { id: id.to_owned(), port: 5432 }
    }

    fn wanted(epoch: u64) -> Wanted {
        let arn = "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/orders/01";
        Wanted {
            group: "orders".parse().unwrap(),
            epoch: Epoch(epoch),
            step: "7.3.1".to_owned(),
            instance: "pg-dr".parse().unwrap(),
            target_group: arn.to_owned().try_into().unwrap(),
            target: target("10.1.0.1"),
            outside: false,
            known: vec![target("10.0.0.1"), target("10.1.0.1")],
            drift: Drift::Report,
        }
    }

    fn seen(marker: Option<String>, targets: &[(&str, State)]) -> Seen {
        let standing =
            |(id, state): &(&str, State)| Standing { target: target(id), state: *state, why: String::new() };
        Seen { marker, targets: targets.iter().map(standing).collect() }
    }

    #[test]
    fn the_old_goes_the_new_comes_and_what_drains_is_counted() {
        let plan = decide(&wanted(5), &seen(None, &[("10.0.0.1", State::Healthy)])).unwrap();
        assert!(plan.mark && plan.register && plan.changes());
        assert_eq!(plan.deregister, [target("10.0.0.1")]);
        let after = [("10.0.0.1", State::Draining), ("10.1.0.1", State::Initial)];
        let marker = Some(wanted(5).marker().to_string());
        let plan = decide(&wanted(5), &seen(marker.clone(), &after)).unwrap();
        assert!(!plan.changes());
        assert_eq!((plan.draining, plan.standing.unwrap().state), (1, State::Initial));
        // One that drains is registered anew, and counts among nobody's stragglers.
        let plan = decide(&wanted(5), &seen(marker, &[("10.1.0.1", State::Draining)])).unwrap();
        assert!(plan.register && plan.draining == 0);
    }

    #[test]
    fn epochs_only_rise_and_each_names_one_instance() {
        let marker = |epoch| Some(wanted(epoch).marker().to_string());
        assert!(decide(&wanted(5), &seen(marker(4), &[])).unwrap().mark);
        assert!(matches!(
            decide(&wanted(4), &seen(marker(5), &[])),
            Err(ElbError::Stale { seen: Epoch(5), .. })
        ));
        let mut other = wanted(5);
        other.instance = "pg-east".parse().unwrap();
        assert!(matches!(decide(&other, &seen(marker(5), &[])), Err(ElbError::Conflict { .. })));
        other.group = "billing".parse().unwrap();
        other.drift = Drift::Overwrite;
        assert!(matches!(decide(&other, &seen(marker(5), &[])), Err(ElbError::OtherGroup { .. })));
    }

    #[test]
    fn what_people_registered_stays_unless_the_policy_says_otherwise() {
        let stands = seen(Some("by hand".to_owned()), &[("192.0.2.9", State::Healthy)]);
        assert!(matches!(decide(&wanted(5), &stands), Err(ElbError::Marker { .. })));
        let force = Wanted { drift: Drift::Overwrite, ..wanted(5) };
        let plan = decide(&force, &stands).unwrap();
        assert!(plan.mark && plan.foreign.is_empty());
        assert_eq!(plan.deregister, [target("192.0.2.9")]);
        let plan = decide(&wanted(5), &Seen { marker: None, ..stands }).unwrap();
        assert_eq!((plan.foreign, plan.deregister), (vec![target("192.0.2.9")], Vec::new()));
    }
}
