//! Questions that change something without a run: specs, founding, pauses, acknowledgements. Asked of the leader.

use mesh_failover::coordinator::Request;
use mesh_failover::{policy, quorum};
use mesh_proto::access::Denial;
use mesh_proto::command::{Applied, Command};
use mesh_proto::lease::StatusRef;
use mesh_proto::operator::{Answer, Refusal, RefusalCode};
use mesh_proto::quorum::DegradedBy;
use mesh_proto::run::Actor;
use mesh_proto::spec::{Durability, GroupSpec};
use mesh_proto::{GroupName, InstanceName, Millis};

use super::{Asked, LOOK, Reply, lost, refused};
use crate::agent::driver::CommandError;

/// How long a resumed guard may take to acquire its fresh lease.
const RESUME_DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);
/// Longest pause. Longer work is done in several, or with the group removed from mesh's care.
const PAUSE_MAX: Millis = Millis(24 * 3_600_000);

/// How long members may take to say which build they are of.
const HEARD_WITHIN: std::time::Duration = std::time::Duration::from_secs(3);
/// Longest name of a command that was refused.
const VERB_MAX: usize = 64;

impl Asked {
    /// Proposes commands; a refusal of the state becomes the answer. What every member must know waits a moment for them to
    /// be heard: a leader that was just elected has heard nobody yet.
    pub(super) async fn commit(&self, actor: Actor, commands: Vec<Command>) -> Result<u64, Refusal> {
        let deadline = tokio::time::Instant::now() + HEARD_WITHIN;
        loop {
            match self.driver.propose(actor.clone(), commands.clone()).await {
                Ok(Applied::Done { index }) => return Ok(index),
                Ok(Applied::Refused(why)) => return Err(refused(&why)),
                Err(CommandError::Older(_)) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(LOOK * 10).await;
                }
                Err(error) => return Err(lost(&error)),
            }
        }
    }

    pub(super) async fn apply(&self, actor: Actor, spec: GroupSpec, dry_run: bool) -> Reply {
        let (findings, version, same) = self.driver.consensus.read(|machine| {
            let state = machine.state();
            let known = state.groups.get(&spec.group);
            let version = known.map_or(0, |group| group.version);
            let mut findings = policy::check(&spec, &state.member_list());
            findings.extend(policy::check_beside(&spec, state.groups.values().map(|group| &group.spec)));
            (findings, version, known.is_some_and(|group| group.spec == spec))
        });
        if let Some(first) = findings.first() {
            // The command line has shown every mistake that it can see itself at its line; what only the mesh knows is
            // said together, at the line of the first.
            let all: Vec<_> = findings.iter().map(|finding| finding.what.as_str()).collect();
            let next = format!("{}; nothing was changed", first.next);
            return Err(Refusal::new(RefusalCode::Invalid, all.join("; "), next).about(first.key.clone()));
        }
        if same {
            return Ok(Answer::Done(format!("{} is like this already (version {version})", spec.group)));
        }
        if dry_run {
            let what = if version == 0 { "would be created" } else { "would be changed" };
            let losses = losses(&spec);
            return Ok(Answer::Done(format!("{} {what} (version {}){losses}", spec.group, version + 1)));
        }
        let (group, losses) = (spec.group.clone(), losses(&spec));
        self.commit(actor, vec![Command::SpecApplied { replaces: version, spec }]).await?;
        let next = if version == 0 { "; name its primary with `mesh adopt INSTANCE`" } else { "" };
        Ok(Answer::Done(format!("{group} applied, version {}{next}{losses}", version + 1)))
    }

    pub(super) async fn pause(
        &self,
        actor: Actor,
        group: &GroupName,
        length: Millis,
        reason: String,
    ) -> Reply {
        let name = self.group(Some(group))?;
        if length == Millis::ZERO || length > PAUSE_MAX {
            let what = format!("a pause of {length} is not possible");
            return Err(Refusal::new(
                RefusalCode::Invalid,
                what,
                "use a length up to 24 h; nothing was changed",
            ));
        }
        let (primary, paused) = self.driver.consensus.read(|machine| {
            let group = machine.state().groups.get(&name);
            let paused = group.and_then(|g| g.pause.as_ref()).map(|pause| pause.reason.clone());
            (group.and_then(|g| g.primary.clone()), paused)
        });
        if let Some(reason) = paused {
            let what = format!("{name} is paused already: {reason}");
            let next = "to pause it for another time or reason, `mesh resume` first; nothing was changed";
            return Err(Refusal::new(RefusalCode::Conflict, what, next));
        }
        let counted_from = primary.and_then(|primary| {
            self.driver.with_heard(|coordinator| {
                let heard = coordinator.heard.guard(&name, &primary.instance)?;
                Some(StatusRef { guard: heard.said.guard.clone(), seq: heard.said.seq })
            })
        });
        let command = Command::Paused { group: name.clone(), length, counted_from, reason };
        self.commit(actor, vec![command]).await?;
        Ok(Answer::Done(format!(
            "{name} is paused for at most {length}; `mesh resume --group {name}` ends it"
        )))
    }

    pub(super) async fn resume(&self, group: &GroupName) -> Reply {
        let name = self.group(Some(group))?;
        let paused = || {
            self.driver
                .consensus
                .read(|machine| machine.state().groups.get(&name).is_some_and(|group| group.pause.is_some()))
        };
        if !paused() {
            return Ok(Answer::Done(format!("{name} is not paused")));
        }
        let deadline = tokio::time::Instant::now() + RESUME_DEADLINE;
        self.driver.request(&name, Request::Resume);
        while paused() {
            if tokio::time::Instant::now() >= deadline {
                return Err(Refusal::new(
                    RefusalCode::Conflict,
                    "the primary's guard has not acquired a fresh lease, so the pause cannot end yet",
                    "look at `mesh status`; the pause ends by itself after its full length",
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(Answer::Done(format!("{name} is not paused any more")))
    }

    pub(super) async fn ack(&self, actor: Actor, group: &GroupName) -> Reply {
        let name = self.group(Some(group))?;
        let held = self
            .driver
            .consensus
            .read(|machine| machine.state().groups.get(&name).and_then(|group| group.hold_down));
        let Some(run) = held else {
            return Ok(Answer::Done(format!("{name} has no hold-down")));
        };
        self.commit(actor, vec![Command::Acknowledged { group: name.clone() }]).await?;
        Ok(Answer::Done(format!("hold-down after {run} ended; {name} fails over automatically again")))
    }

    /// Lets commits go on without standbys, until an operator ends it.
    pub(super) async fn degrade(&self, actor: Actor, group: &GroupName, reason: String) -> Reply {
        let name = self.group(Some(group))?;
        let (forbidden, known) = self.driver.consensus.read(|machine| {
            let group = machine.state().groups.get(&name);
            (
                group.and_then(|group| group.may_not_degrade(DegradedBy::Hand)),
                group.and_then(|group| group.degraded.clone()),
            )
        });
        if let Some(why) = forbidden {
            let next =
                format!("change that with `mesh apply` if it must be; `mesh why --group {name}` says more");
            return Err(Refusal::new(RefusalCode::Unsafe, why, next));
        }
        if let Some(known) = known.filter(|known| known.by == DegradedBy::Hand) {
            return Ok(Answer::Done(format!(
                "{name}'s commits wait for no standby already: {}",
                known.reason
            )));
        }
        let by = DegradedBy::Hand;
        self.commit(actor, vec![Command::DegradeBegun { group: name.clone(), by, reason }]).await?;
        Ok(Answer::Done(format!(
            "{name}'s commits wait for no standby: what is acknowledged from here on stands on the primary alone; \
             `mesh degrade --group {name} --end --reason TEXT` ends it"
        )))
    }

    /// Has commits wait for standbys again.
    pub(super) async fn end_degrade(&self, actor: Actor, group: &GroupName, reason: String) -> Reply {
        let name = self.group(Some(group))?;
        let known = self.driver.consensus.read(|machine| {
            let group = machine.state().groups.get(&name)?;
            Some((group.degraded.as_ref()?.by, group.spec.quorum_size))
        });
        let Some((by, size)) = known else {
            return Ok(Answer::Done(format!("nobody let {name}'s commits go on without standbys")));
        };
        self.commit(actor, vec![Command::DegradeEnded { group: name.clone(), by, reason }]).await?;
        let standbys = if size == 1 { "a standby".to_owned() } else { format!("{size} standbys") };
        Ok(Answer::Done(format!(
            "{name}'s commits wait for {standbys} again, as soon as they stream; `mesh status` says when nothing can be lost"
        )))
    }

    /// An agent refused a user of its host.
    pub(super) async fn write_down(&self, actor: Actor, denial: Denial) -> Reply {
        if denial.verb.len() > VERB_MAX {
            let what = "no command of mesh has a name of that length";
            return Err(Refusal::new(RefusalCode::Invalid, what, "nothing was changed"));
        }
        let line = denial.to_string();
        self.commit(actor, vec![Command::AccessDenied { denial }]).await?;
        Ok(Answer::Done(line))
    }

    pub(super) fn rejoin(&self, group: &GroupName, instance: &InstanceName) -> Reply {
        let name = self.group(Some(group))?;
        let standby = self.driver.consensus.read(|machine| {
            machine.state().groups.get(&name).map(|g| {
                (g.instance(instance).is_some(), g.primary.as_ref().is_some_and(|p| p.instance == *instance))
            })
        });
        match standby {
            Some((true, false)) => {
                self.driver.request(&name, Request::Rejoin(instance.clone()));
                Ok(Answer::Done(format!(
                    "{instance} is asked to follow now; `mesh status` shows how it goes"
                )))
            }
            Some((true, true)) => Err(Refusal::new(
                RefusalCode::Conflict,
                format!("{instance} is the primary of {name}"),
                "only a standby can rejoin",
            )),
            Some((false, _)) | None => Err(Refusal::new(
                RefusalCode::NotFound,
                format!("{name} has no instance {instance}"),
                "look at `mesh status` for the names",
            )),
        }
    }
}

/// What the loss of each site does to a zero-loss group, and what faults mean in one that goes on without a majority of voters:
/// a line each; nothing for others.
fn losses(spec: &GroupSpec) -> String {
    let of_sites: String = match spec.durability {
        Durability::Bounded => String::new(),
        Durability::ZeroLoss => quorum::site_losses(spec).iter().map(|loss| format!("\n  {loss}")).collect(),
    };
    let holds = policy::hold_cases(spec).into_iter().map(|case| format!("\n  {case}"));
    holds.fold(of_sites, |all, case| all + &case)
}
