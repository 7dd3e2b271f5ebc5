//! Whether a group is as it should be, by what `mesh status` says of it.

use mesh_proto::command::Verdict;
use mesh_proto::operator::GroupStatus;

/// Why the group is not as it should be; `None` when it is.
pub(super) fn unhealthy(group: &GroupStatus, primary: &str) -> Option<String> {
    let found = group.primary.as_ref().map_or("nobody", |name| name.as_str());
    if found != primary {
        return Some(format!("the primary is {found}"));
    }
    if group.verdict.verdict != Verdict::Healthy {
        return Some(format!("the verdict is {}: {}", group.verdict.verdict, group.verdict.summary));
    }
    if let Some(run) = group.run.as_ref().filter(|run| !run.phase.is_final()) {
        return Some(format!("run {} is {}", run.id, run.phase));
    }
    group.instances.iter().find_map(|instance| {
        let Some((guard, _)) = &instance.guard else {
            return Some(format!("the guard of {} is silent", instance.name));
        };
        let well = match instance.name.as_str() == primary {
            true => guard.lease.is_some(),
            false => guard.receiving.as_ref().is_some_and(|receiving| receiving.streaming),
        };
        if well {
            None
        } else {
            Some(format!("{} is {:?}, busy: {:?}", instance.name, guard.process, guard.busy))
        }
    })
}
