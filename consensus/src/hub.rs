//! What the parts of one voter share: its identity, its options, and the core that runs at the moment, if any.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Instant;

use tokio::sync::watch;

use crate::contact::Contact;
use crate::options::Options;
use crate::standing::{Role, Standing};
use crate::store::Store;
use crate::types::{Identity, Member, NodeId, Raft};

/// One run of openraft on one opened store.
#[derive(Clone)]
pub(crate) struct Core {
    pub(crate) raft: Raft,
    pub(crate) store: Store,
}

impl Core {
    /// The member of that id, as the newest membership in the log says.
    pub(crate) fn member(&self, node: NodeId) -> Option<Member> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.membership().get_node(&node).cloned()
    }
}

/// Shared by the handle, the service and the supervisor.
pub(crate) struct Hub {
    pub(crate) options: Options,
    pub(crate) identity: Identity,
    pub(crate) contact: Contact,
    pub(crate) standing: watch::Sender<Standing>,
    core: RwLock<Option<Core>>,
    /// Raised whenever this voter stops leading: a permission of an earlier reign is void.
    reign: AtomicU64,
}

impl Hub {
    pub(crate) fn new(options: Options, identity: Identity) -> Self {
        let standing = watch::Sender::new(Standing::stopped(None));
        Self {
            options,
            identity,
            contact: Contact::default(),
            standing,
            core: RwLock::new(None),
            reign: AtomicU64::new(0),
        }
    }

    /// The running core; none while this voter has stopped.
    pub(crate) fn core(&self) -> Option<Core> {
        self.core.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_core(&self, core: Option<Core>) {
        *self.core.write().unwrap_or_else(PoisonError::into_inner) = core;
    }

    pub(crate) fn reign(&self) -> u64 {
        self.reign.load(Ordering::SeqCst)
    }

    /// Publishes a newer standing.
    pub(crate) fn report(&self, newer: Standing) {
        let before = self.standing.borrow().clone();
        if before.role == Role::Leader && (newer.role != Role::Leader || newer.term != before.term) {
            self.reign.fetch_add(1, Ordering::SeqCst);
        }
        self.standing.send_if_modified(|standing| standing.replace(newer));
    }

    /// Time since a leader's message was accepted.
    pub(crate) fn silence(&self, now: Instant) -> Option<std::time::Duration> {
        self.contact.silence(now)
    }
}
