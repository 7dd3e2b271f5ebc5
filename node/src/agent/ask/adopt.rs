//! `mesh adopt`: who is the primary of a group that has none yet, or none any more since the mesh was recovered. It never
//! chooses one by itself.

use mesh_failover::Moment;
use mesh_failover::state::Group;
use mesh_failover::verdict::observations::Observations;
use mesh_proto::command::Command;
use mesh_proto::evidence::{GuardStatus, Position, ProcessState};
use mesh_proto::operator::{Answer, Refusal, RefusalCode};
use mesh_proto::run::Actor;
use mesh_proto::spec::Engine;
use mesh_proto::{GroupName, InstanceName};

use super::{Asked, Reply};

fn unsafe_now(what: String, next: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::Unsafe, what, next)
}

/// What is known of a group that is to be founded.
struct Founding<'a> {
    group: &'a Group,
    heard: &'a Observations,
    now: Moment,
}

impl Asked {
    /// PROTOCOL, Birth: the instance runs as primary, every other one is a standby of the same cluster.
    pub(super) async fn adopt(
        &self,
        actor: Actor,
        group: &GroupName,
        instance: &InstanceName,
        accept_loss: Option<String>,
    ) -> Reply {
        let name = self.group(Some(group))?;
        let now = self.driver.clock.now();
        let (founded, epoch, runs) = self.driver.consensus.read(|machine| {
            let Some(state) = machine.state().groups.get(&name) else {
                return Err(Refusal::new(
                    RefusalCode::NotFound,
                    format!("there is no group {name}"),
                    "apply it first",
                ));
            };
            self.driver.with_heard(|coordinator| {
                let founding = Founding { group: state, heard: &coordinator.heard, now };
                let status = founding.check(instance)?;
                let reason = match state.recovered {
                    None => {
                        founding.check_born(instance, status)?;
                        None
                    }
                    Some(_) => Some(founding.check_reborn(instance, status, accept_loss)?),
                };
                let runs = status.process == ProcessState::Primary;
                Ok((founding.founded(instance, status, reason)?, state.epoch.next(), runs))
            })
        })?;
        self.commit(actor, vec![founded]).await?;
        let how = if runs { "it was not restarted" } else { "it opens now: `mesh status`" };
        Ok(Answer::Done(format!("{instance} is the primary of {name}, epoch {epoch}; {how}")))
    }
}

impl<'a> Founding<'a> {
    fn heard(&self, who: &InstanceName) -> Option<&'a GuardStatus> {
        self.heard.fresh_guard(self.now, &self.group.spec.group, who, self.group.timing.fresh)
    }

    fn others(&self, instance: &InstanceName) -> impl Iterator<Item = &'a InstanceName> {
        self.group.spec.instances.iter().map(|other| &other.name).filter(move |other| *other != instance)
    }

    /// What must be so of the instance in any case.
    fn check(&self, instance: &InstanceName) -> Result<&'a GuardStatus, Refusal> {
        let spec = &self.group.spec;
        let name = &spec.group;
        if let Some(primary) = &self.group.primary {
            let what = format!("{name} has a primary already: {}", primary.instance);
            return Err(Refusal::new(RefusalCode::Conflict, what, "`mesh failover` changes the primary"));
        }
        if self.group.instance(instance).is_none() {
            let known: Vec<_> = spec.instances.iter().map(|i| i.name.as_str()).collect();
            let next = format!("instances of {name}: {}", known.join(", "));
            let what = format!("{name} has no instance {instance}");
            return Err(Refusal::new(RefusalCode::NotFound, what, next));
        }
        let Some(status) = self.heard(instance) else {
            let what = format!("the guard of {instance} is not heard");
            return Err(unsafe_now(what, "start it: `mesh guard --instance`, or its unit"));
        };
        if let Some(trouble) = &status.trouble {
            return Err(unsafe_now(format!("{instance}: {trouble}"), "mend that first"));
        }
        if status.engine != spec.engine {
            let what = format!("{instance} is {}, and {name} is a group of {}", status.engine, spec.engine);
            return Err(unsafe_now(what, "correct `engine` in the group, or the host's file"));
        }
        if let Some(rival) = status.rival.as_ref().filter(|_| spec.automatic) {
            let what = format!("{instance}: {rival}");
            return Err(unsafe_now(what, "end the other one, or apply the group with automatic = false"));
        }
        Ok(status)
    }

    /// The first primary of a group runs, and every other instance follows it or could.
    fn check_born(&self, instance: &InstanceName, status: &GuardStatus) -> Result<(), Refusal> {
        if status.process != ProcessState::Primary {
            let what = format!("{instance} is no running primary: it {}", status.process);
            return Err(unsafe_now(what, "adopt the instance that does, or start it as a primary first"));
        }
        for other in self.others(instance) {
            let Some(found) = self.heard(other) else {
                let what = format!("the guard of {other} is not heard");
                return Err(unsafe_now(what, "start it: every instance must be a standby of the primary"));
            };
            self.check_same(instance, status, other, found)?;
            if found.process != ProcessState::Standby {
                let what = format!("{other} is no running standby: it {}", found.process);
                return Err(unsafe_now(what, "start it as a standby of the primary first"));
            }
        }
        Ok(())
    }

    fn check_same(
        &self,
        instance: &InstanceName,
        status: &GuardStatus,
        other: &InstanceName,
        found: &GuardStatus,
    ) -> Result<(), Refusal> {
        if status.system_id.is_none() || found.system_id == status.system_id {
            return Ok(());
        }
        let what =
            format!("{other} is a server of another cluster than {instance}: its system identifier differs");
        let next = match self.group.spec.engine {
            Engine::Postgres => "build it from the primary with pg_basebackup, or remove it",
            Engine::Redis => "let it replicate from the primary (REPLICAOF), or remove it",
        };
        Err(unsafe_now(what, next))
    }

    /// After a recovery nobody can say who was primary last, nor what was acknowledged: a person takes it upon themselves,
    /// and never for an instance that has less than another one that is there.
    fn check_reborn(
        &self,
        instance: &InstanceName,
        status: &GuardStatus,
        accept_loss: Option<String>,
    ) -> Result<String, Refusal> {
        match status.process {
            ProcessState::Primary | ProcessState::Standby => {}
            ProcessState::Starting
            | ProcessState::Stopped
            | ProcessState::Died
            | ProcessState::Unresponsive
            | ProcessState::Unknown => {
                let what = format!("{instance} does not run: it {}", status.process);
                return Err(unsafe_now(what, "let it come up as a standby first"));
            }
        }
        let place = |position: Option<Position>| position.map(|p| (p.timeline, p.have));
        for other in self.others(instance) {
            let Some(found) = self.heard(other) else { continue };
            self.check_same(instance, status, other, found)?;
            if found.process == ProcessState::Primary {
                let what = format!("{other} runs as primary");
                return Err(unsafe_now(what, format!("adopt {other}, or stop it and its guard first")));
            }
            if place(found.position) > place(status.position) {
                let what = format!("{other} has more than {instance}: {}", self.positions());
                let next = format!("adopt {other}; if it cannot serve, stop its guard first");
                return Err(unsafe_now(what, next));
            }
        }
        accept_loss.ok_or_else(|| {
            let what = format!(
                "the mesh was recovered without the voters that knew who was primary and what it had acknowledged: {}",
                self.positions()
            );
            let next = format!(
                "if {instance} is the one to go on with: mesh adopt {instance} --accept-loss --reason \"...\""
            );
            unsafe_now(what, next)
        })
    }

    /// Where every instance stands that is heard, for people.
    fn positions(&self) -> String {
        let one = |name: &InstanceName| match self.heard(name).and_then(|status| status.position) {
            None => format!("{name} is not heard"),
            Some(position) => format!("{name} is at {} of timeline {}", position.have, position.timeline),
        };
        self.group.spec.instances.iter().map(|spec| one(&spec.name)).collect::<Vec<_>>().join(", ")
    }

    fn founded(
        &self,
        instance: &InstanceName,
        status: &GuardStatus,
        reason: Option<String>,
    ) -> Result<Command, Refusal> {
        let (Some(system_id), Some(data)) = (status.system_id, status.data.clone()) else {
            let what = format!("the guard of {instance} does not know its data yet");
            let next = match self.group.spec.engine {
                Engine::Postgres => "wait a moment and try again",
                Engine::Redis => {
                    "wait a moment and try again; one that is empty needs a replica, or a first key"
                }
            };
            return Err(unsafe_now(what, next));
        };
        let (group, instance, guard) =
            (self.group.spec.group.clone(), instance.clone(), status.guard.clone());
        Ok(Command::Founded { group, instance, data, guard, system_id, reason })
    }
}
