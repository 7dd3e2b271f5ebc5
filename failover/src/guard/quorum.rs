//! The commit quorum at the primary: the newest that the log names is what the server is told, and no older one ever again.
//! The guard never chooses a quorum, and never says that one is in force: the runtime looks.

use mesh_proto::Millis;
use mesh_proto::evidence::ProcessState;
use mesh_proto::quorum::QuorumStage;

use super::Guard;
use super::action::Action;
use crate::Moment;

/// How long setting a quorum may take before it is set anew.
const SET_AGAIN: Millis = Millis(3_000);

impl Guard {
    /// Tells the runtime the newest quorum of the log, and again where setting it did not succeed. One that is in force and
    /// waits for its marker is left alone.
    pub(super) fn watch_quorum(&mut self, now: Moment) {
        let serves = self.opened.is_some() && self.process() == ProcessState::Primary;
        if !serves || self.fencing.is_some() || self.busy() || !self.view_names_me() {
            return;
        }
        let Some(wanted) = self.view.as_ref().and_then(|view| view.quorum.clone()) else { return };
        let seen = self.facts.as_ref().and_then(|(_, facts)| facts.quorum);
        let same = seen.filter(|seen| seen.version == wanted.version);
        let well = seen.is_some_and(|seen| seen.version > wanted.version)
            || same.is_some_and(|seen| seen.stage == QuorumStage::Marked);
        let in_force = same.is_some_and(|seen| seen.stage >= QuorumStage::InForce);
        // What the server was opened with is in force already, and needs its marker all the same.
        let told = self.quorum_told.is_some_and(|(version, at)| {
            version > wanted.version || (version == wanted.version && (in_force || now < at.after(SET_AGAIN)))
        });
        if !well && !told {
            self.quorum_told = Some((wanted.version, now));
            self.actions.push(Action::SetQuorum(Box::new(wanted)));
        }
    }
}
