//! The set of commit quorum configurations that may be in force, as the log has it. A change adds to the set before the
//! primary hears of it; only a marker commit acknowledged under the newest takes the older ones out. It never guesses what
//! the primary works by.

use std::collections::BTreeSet;

use mesh_proto::Epoch;
use mesh_proto::command::Refused;
use mesh_proto::lease::Proof;
use mesh_proto::quorum::{DurabilityProof, QuorumConfig, QuorumMember};

use super::Group;
use super::apply::compare;
use crate::quorum::{asked, loses_nothing};

/// More configurations than this are never open at once: whoever changes so often waits for a marker first.
const OPEN_MAX: usize = 16;

impl Group {
    /// The configuration that the primary shall work by.
    #[must_use]
    pub fn quorum(&self) -> Option<&QuorumConfig> {
        self.quorums.last()
    }

    /// Whether nothing acknowledged can be lost by a promotion with a covering freeze; else why not, in words.
    #[must_use]
    pub fn not_yet_zero_loss(&self) -> Option<String> {
        if !asked(self) {
            return None;
        }
        if let Some(degraded) = &self.degraded {
            return Some(format!("commits wait for no standby: {}", degraded.reason));
        }
        match self.quorums.as_slice() {
            [] => Some("no commit quorum is set yet".to_owned()),
            [only] if only.k == 0 => Some("commits wait for no standby yet".to_owned()),
            [only] if !only.satisfiable() => {
                Some(format!("commits wait: {} standbys are needed, {only} counts", only.k))
            }
            [_] => None,
            [.., newest] => Some(format!("the change to {newest} is not confirmed by a marker commit yet")),
        }
    }

    fn this_primary(&self) -> Option<QuorumMember> {
        let primary = self.primary.as_ref()?;
        Some(QuorumMember { instance: primary.instance.clone(), data: primary.data.clone() })
    }

    /// A primary that was never told waits for nobody: that is the first configuration, and its own marker.
    pub(super) fn begin_quorums(&mut self) {
        if asked(self)
            && self.quorums.is_empty()
            && let Some(led_by) = self.this_primary()
        {
            let standbys = BTreeSet::new();
            self.quorums.push(QuorumConfig { version: 1, epoch: self.epoch, led_by, k: 0, standbys });
        }
    }

    fn push_quorum(&mut self, k: u32, standbys: BTreeSet<QuorumMember>) {
        let Some(led_by) = self.this_primary() else { return };
        let version = self.quorum().map_or(0, |newest| newest.version) + 1;
        let next = QuorumConfig { version, epoch: self.epoch, led_by, k, standbys };
        // The same said again is one thing that may be in force, not two.
        self.quorums.retain(|known| !known.says_the_same(&next));
        self.quorums.push(next);
    }

    pub(super) fn change_quorum(
        &mut self,
        replaces: u64,
        epoch: Epoch,
        k: u32,
        standbys: &BTreeSet<QuorumMember>,
    ) -> Result<(), Refused> {
        compare("the epoch", &epoch, &self.epoch)?;
        compare("the version of the quorum", &replaces, &self.quorum().map_or(0, |newest| newest.version))?;
        if !self.free_for_a_run() || self.takeover.is_some() {
            return Err(Refused::Forbidden("a run is going on; the commit quorum stays as it is".to_owned()));
        }
        if k > 0 && k as usize > standbys.len() {
            return Err(Refused::Forbidden(format!("{k} of {} standbys can never be met", standbys.len())));
        }
        if self.quorums.len() >= OPEN_MAX {
            return Err(Refused::Forbidden(format!(
                "{OPEN_MAX} configurations may be in force already; the newest must be confirmed first"
            )));
        }
        self.push_quorum(k, standbys.clone());
        Ok(())
    }

    pub(super) fn confirm_quorum(&mut self, version: u64) -> Result<(), Refused> {
        let newest = self.quorum().map_or(0, |newest| newest.version);
        compare("the version of the quorum", &version, &newest)?;
        self.quorums.retain(|config| config.version == newest);
        Ok(())
    }

    /// PROTOCOL, Taking over 7: a promotion in a zero-loss group names why nothing acknowledged is lost, or who accepted it.
    pub(super) fn check_durability(
        &self,
        chosen: &QuorumMember,
        proof: &Proof,
        durability: Option<&DurabilityProof>,
        accept_loss: bool,
    ) -> Result<(), Refused> {
        if !asked(self) {
            return Ok(());
        }
        let forbidden = |why: String| Err(Refused::Forbidden(why));
        match durability {
            None => {
                forbidden("a zero-loss group is promoted only with a proof that nothing is lost".to_owned())
            }
            Some(DurabilityProof::CoveringFreeze(frozen)) => {
                match loses_nothing(&self.quorums, frozen, chosen) {
                    Ok(_) => Ok(()),
                    Err(missing) => forbidden(missing.to_string()),
                }
            }
            Some(DurabilityProof::ShutdownConfirmed { at }) => match proof {
                Proof::Receipt(receipt) if receipt.shutdown_at == Some(*at) => Ok(()),
                Proof::Receipt(_) | Proof::Expired(_) | Proof::Frozen(_) | Proof::External(_) => {
                    forbidden("the old primary's receipt names no such shutdown checkpoint".to_owned())
                }
            },
            Some(DurabilityProof::LossAccepted { .. }) if matches!(proof, Proof::Frozen(_)) => forbidden(
                "with a loss accepted nothing says that the old primary's commit quorum is cut: that needs the end of its lease"
                    .to_owned(),
            ),
            Some(DurabilityProof::LossAccepted { .. }) if accept_loss => Ok(()),
            Some(DurabilityProof::LossAccepted { .. }) => {
                forbidden("nobody accepted the loss of acknowledged writes".to_owned())
            }
        }
    }

    /// The new epoch's configuration joins the set: the older ones leave when its first marker is acknowledged.
    pub(super) fn promote_quorum(&mut self, standbys: &BTreeSet<QuorumMember>) {
        if asked(self) && self.degraded.is_none() {
            self.push_quorum(self.spec.quorum_size, standbys.clone());
        } else if !self.quorums.is_empty() {
            self.push_quorum(0, BTreeSet::new());
        }
    }
}
