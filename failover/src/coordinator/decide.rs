//! One entry at a time: decide on a copy of the state, apply what was decided to the copy, and go on until nothing more
//! follows. The whole becomes one entry, which costs one round of agreement instead of several, and takes effect whole
//! or not at all.

use mesh_proto::command::{Applied, Command, Entry};
use mesh_proto::run::Actor;
use mesh_proto::{GroupName, Wall};

use super::{Context, Driver};
use crate::state::{Group, MeshState};

/// More commands than this never follow from each other: a larger number would be a loop.
const COMMANDS_MAX: usize = 24;

/// What follows next.
pub(super) enum Step {
    /// These commands; then look again.
    Go(Vec<Command>),
    /// These commands, and the rest must wait until they are applied (their log index names something).
    GoAndWait(Vec<Command>),
    /// Nothing.
    Rest,
}

impl Driver {
    /// Decides what to propose now, and on whose behalf.
    pub(super) fn decide(
        &mut self,
        context: &Context<'_>,
        state: &MeshState,
        name: &GroupName,
    ) -> (Actor, Vec<Command>) {
        // A copy only once there is something to try on it: most looks end in nothing.
        let mut ahead: Option<MeshState> = None;
        let mut commands = Vec::new();
        let mut actor = Actor::Mesh;
        while commands.len() < COMMANDS_MAX {
            let now = ahead.as_ref().unwrap_or(state);
            let Some(group) = now.groups.get(name) else { break };
            let (step, by) = self.next_step(context, now, group);
            let (next, wait) = match step {
                Step::Go(next) => (next, false),
                Step::GoAndWait(next) => (next, true),
                Step::Rest => break,
            };
            let entry =
                Entry { by: context.me.clone(), actor: by.clone(), at: Wall(0), commands: next.clone() };
            let ahead = ahead.get_or_insert_with(|| state.without_audit());
            match ahead.apply(context.applied + 1, &entry) {
                Ok(Applied::Done { .. }) => {
                    if by != Actor::Mesh {
                        actor = by;
                    }
                    commands.extend(next);
                }
                // What apply refuses on the copy it would refuse in the log.
                Ok(Applied::Refused(_)) | Err(_) => break,
            }
            if wait {
                break;
            }
        }
        (actor, commands)
    }

    fn next_step(&mut self, context: &Context<'_>, state: &MeshState, group: &Group) -> (Step, Actor) {
        if let Some(ended) = self.result_for_the_log(group) {
            return (Step::Go(vec![ended]), Actor::Mesh);
        }
        if let Some(step) = self.take_requests(context, state, group) {
            return step;
        }
        if let Some(ended) = self.proposal_over(context, group) {
            return (Step::Go(vec![ended]), Actor::Mesh);
        }
        if group.active_run().is_some() {
            let step = self.drive(context, state, group);
            if !matches!(step, Step::Rest) {
                return (step, Actor::Mesh);
            }
            if !group.free_for_a_run() {
                return (Step::Rest, Actor::Mesh);
            }
        }
        (self.idle(context, state, group), Actor::Mesh)
    }
}
