//! `mesh quorum-recover`, on files: a stopped agent whose fellow voters are gone for good becomes the only voter of a new mesh
//! that knows what its log knew (PROTOCOL, Overrides).
//!
//! It never starts anything, never changes a store that is in use, and never removes one: the old store is kept aside. What is
//! new is complete before anything takes its place, so that a death in between is finished by the same command.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_consensus::{
    Beginning, EntryId, Machine as _, MachineError, SalvageError, Salvaged, StoreError, begin_store,
    read_identity, salvage,
};
use mesh_failover::state::{JUMP, MeshState, Recovery, RecoveryError, recovered};
use mesh_proto::command::Entry;
use mesh_proto::run::Actor;
use mesh_proto::{AgentName, MeshId, Millis, NodeId};

use super::machine::MeshMachine;
use super::start::{AgentError, STORE, number};
use super::voting::floors;
use crate::config::{NodeConfig, TooLong, after};
use crate::voter::VoterStore;

/// How far the log's numbers jump: it grows by some entries a minute when runs go on, and names runs and repairs.
const LOG_JUMP: u64 = 1_000_000;
/// How long an address that should be dead has to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Why a mesh was not recovered. Nothing was changed, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The file does not ask for it.
    #[error(
        "the agent's file says `recovery = {recovery}` under [mesh], and the store is that of {store}, which asks for no recovery"
    )]
    NotAsked {
        /// What the file says.
        recovery: u32,
        /// Whose the store is.
        store: MeshId,
    },
    /// The file asks for a later or another recovery than the next one.
    #[error("the store is that of mesh {found:?}, and the file's recovery follows that of mesh {expected}")]
    NotTheNext {
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: MeshId,
    },
    /// It was recovered already.
    #[error("this agent belongs to mesh {0} already; nothing is left to recover")]
    Already(MeshId),
    /// The store belongs to another number.
    #[error("the store belongs to number {found}, and the file says {expected}")]
    OtherNode {
        /// Whose it is.
        found: u64,
        /// Who was expected.
        expected: NodeId,
    },
    /// The name has no room for the recovery's number.
    #[error(transparent)]
    Name(#[from] TooLong),
    /// The agent's file gives it no number.
    #[error(transparent)]
    Number(#[from] Box<AgentError>),
    /// The store cannot be read; or its agent still runs.
    #[error("the store cannot be read")]
    Salvage(#[from] SalvageError),
    /// A new store cannot be read or made.
    #[error("the new store cannot be made")]
    Store(#[from] StoreError),
    /// The floors of the new voter.
    #[error("the new voter's floors cannot be made")]
    Floors(#[source] crate::voter::StoreError),
    /// The state forbids it.
    #[error(transparent)]
    State(#[from] RecoveryError),
    /// The state cannot be written.
    #[error("the state cannot be written")]
    Machine(#[from] MachineError),
    /// A log without an entry.
    #[error("the log of this agent is empty: there is nothing to recover from")]
    Empty,
    /// Somebody who should be gone answers.
    #[error("{}", answers.join("; "))]
    NotGone {
        /// Who, and where.
        answers: Vec<String>,
    },
    /// The system refused.
    #[error("cannot {doing} {}", path.display())]
    Files {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn files(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RecoverError {
    let path = path.to_owned();
    move |source| RecoverError::Files { doing, path, source }
}

/// The folder in which a new store is whole before it takes the old one's place.
fn prepared(dir: &Path) -> PathBuf {
    dir.join("recovered")
}

/// Ends a recovery that died while its new store was taking the old one's place; says whether there was one. One that died
/// before is begun again: the old store is whole, and may have gone on since.
///
/// # Errors
/// [`RecoverError`].
pub fn finish(config: &NodeConfig) -> Result<bool, RecoverError> {
    let dir = &config.agent.data_dir;
    let ready = prepared(dir);
    if !ready.exists() {
        return Ok(false);
    }
    if ready.join(STORE).exists() && dir.join(STORE).exists() {
        std::fs::remove_dir_all(&ready).map_err(files("remove", &ready))?;
        return Ok(false);
    }
    put_in_place(config, dir, &ready)?;
    Ok(true)
}

/// A stopped survivor's store, locked, and what it says.
#[derive(Debug)]
pub struct Survivor {
    config: NodeConfig,
    node: NodeId,
    mesh: MeshId,
    salvaged: Salvaged<MeshMachine>,
    last: EntryId,
}

impl Survivor {
    /// Reads the store of this host's agent, which must be stopped. The agent's file must ask for the recovery that follows.
    ///
    /// # Errors
    /// [`RecoverError`].
    pub fn open(config: NodeConfig) -> Result<Self, RecoverError> {
        let node = number(&config).map_err(Box::new)?;
        let mesh = config.mesh.acting.clone();
        let path = config.agent.data_dir.join(STORE);
        let salvaged = salvage(&path, MeshMachine::default())?;
        let found = &salvaged.identity;
        if found.mesh == mesh.as_str() {
            return Err(match config.mesh.recovery {
                0 => RecoverError::NotAsked { recovery: 0, store: mesh },
                _ => RecoverError::Already(mesh),
            });
        }
        let expected = after(&config.mesh.id, config.mesh.recovery.saturating_sub(1))?;
        if found.mesh != expected.as_str() || config.mesh.recovery == 0 {
            return Err(RecoverError::NotTheNext { found: found.mesh.clone(), expected });
        }
        if found.node != node.0 {
            return Err(RecoverError::OtherNode { found: found.node, expected: node });
        }
        let last = salvaged.last.ok_or(RecoverError::Empty)?;
        Ok(Self { config, node, mesh, salvaged, last })
    }

    /// The state that its log leads to.
    #[must_use]
    pub const fn state(&self) -> &MeshState {
        self.salvaged.machine.state()
    }

    /// The end of its log: of several survivors, the one with the furthest knows most.
    #[must_use]
    pub const fn last(&self) -> EntryId {
        self.last
    }

    /// This host's agent.
    #[must_use]
    pub const fn me(&self) -> &AgentName {
        &self.config.agent.name
    }

    /// The mesh that will be.
    #[must_use]
    pub const fn mesh(&self) -> &MeshId {
        &self.mesh
    }

    /// The voters beside this one.
    #[must_use]
    pub fn others(&self) -> BTreeSet<AgentName> {
        self.state().other_voters(self.me())
    }

    /// How long to wait before a new mesh may begin: this agent grants nothing any more since the store was opened.
    #[must_use]
    pub fn wait(&self) -> Millis {
        self.state().recovery_wait()
    }

    /// Whether the state may become that of the new mesh.
    ///
    /// # Errors
    /// [`RecoverError::State`].
    pub fn check(&self, lost: &BTreeSet<AgentName>, reason: &str) -> Result<(), RecoverError> {
        let mut trial = self.state().without_audit();
        trial.recover(
            self.begins().index,
            &self.entry(Actor::Mesh, lost, reason),
            &self.recovery(lost, reason),
        )?;
        Ok(())
    }

    /// Looks whether what should be gone answers: every other voter's agent, and every primary that is not on this host.
    ///
    /// # Errors
    /// [`RecoverError::NotGone`].
    pub fn check_gone(&self) -> Result<(), RecoverError> {
        let mut answers = Vec::new();
        for member in self.state().members.values().filter(|m| m.voter && m.agent != *self.me()) {
            if answers_at(&member.address) {
                answers.push(format!("the agent of {} answers at {}", member.agent, member.address));
            }
        }
        for group in self.state().groups.values() {
            let primary = group.primary.as_ref().and_then(|primary| group.instance(&primary.instance));
            let Some(primary) = primary.filter(|primary| primary.agent != *self.me()) else { continue };
            let address = primary.address.to_string();
            if answers_at(&address) {
                let what = format!("{}, the last known primary of {}", primary.name, group.spec.group);
                answers.push(format!("{what}, answers at {address}"));
            }
        }
        if answers.is_empty() { Ok(()) } else { Err(RecoverError::NotGone { answers }) }
    }

    fn begins(&self) -> EntryId {
        EntryId { term: self.salvaged.term + JUMP, index: self.last.index + LOG_JUMP }
    }

    fn recovery(&self, lost: &BTreeSet<AgentName>, reason: &str) -> Recovery {
        let (mesh, me) = (self.mesh.clone(), self.me().clone());
        Recovery { mesh, me, lost: lost.clone(), reason: reason.to_owned() }
    }

    fn entry(&self, actor: Actor, lost: &BTreeSet<AgentName>, reason: &str) -> Entry {
        let commands = vec![recovered(&self.recovery(lost, reason))];
        Entry { by: self.me().clone(), actor, at: crate::clock::wall(), commands }
    }

    /// Makes the new store, and puts it into the old one's place.
    ///
    /// # Errors
    /// [`RecoverError`]. Once the new store is whole, [`finish`] ends what was begun.
    pub fn recover(self, actor: Actor, lost: &BTreeSet<AgentName>, reason: &str) -> Result<(), RecoverError> {
        let at = self.begins();
        let mut state = self.state().clone();
        state.recover(at.index, &self.entry(actor, lost, reason), &self.recovery(lost, reason))?;
        let snapshot = MeshMachine::beginning(state, at.index).snapshot()?;

        let dir = self.config.agent.data_dir.clone();
        let unfinished = dir.join("recovered.new");
        // What a recovery that died left behind was not whole, and nobody has seen it.
        match std::fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(files("remove", &unfinished)(error));
            }
            Ok(()) | Err(_) => {}
        }
        std::fs::create_dir(&unfinished).map_err(files("create", &unfinished))?;
        let me = self.state().members.get(self.me());
        let beginning = Beginning {
            node: self.node.0,
            address: me.map(|me| me.address.clone()).unwrap_or_default(),
            name: self.me().to_string(),
            mesh: self.mesh.as_str(),
            at,
            state: snapshot,
        };
        begin_store(&unfinished.join(STORE), beginning)?;
        VoterStore::create(&floors(&unfinished)).map_err(RecoverError::Floors)?;
        for new in [unfinished.clone(), unfinished.join(STORE), floors(&unfinished)] {
            owned_as(&dir, &new)?;
        }
        let ready = prepared(&dir);
        std::fs::rename(&unfinished, &ready).map_err(files("rename", &unfinished))?;
        sync(&dir)?;
        put_in_place(&self.config, &dir, &ready)
    }
}

/// Moves the old store aside and the new one in; may be repeated after a death at any point. The floors come last: a store
/// without floors does not start, and a new store never meets old floors.
fn put_in_place(config: &NodeConfig, dir: &Path, ready: &Path) -> Result<(), RecoverError> {
    let aside = dir.join(format!("before-recovery-{}", config.mesh.recovery));
    std::fs::create_dir_all(&aside).map_err(files("create", &aside))?;
    owned_as(dir, &aside)?;
    let (store, new_store) = (dir.join(STORE), ready.join(STORE));
    if new_store.exists() {
        let found = read_identity(&new_store)?;
        if found.mesh != config.mesh.acting.as_str() {
            return Err(RecoverError::NotTheNext { found: found.mesh, expected: config.mesh.acting.clone() });
        }
        moved(&store, &aside.join(STORE))?;
        moved(&floors(dir), &floors(&aside))?;
        sync(&aside)?;
        moved(&new_store, &store)?;
        sync(dir)?;
    }
    moved(&floors(ready), &floors(dir))?;
    match std::fs::remove_dir(ready) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(files("remove", ready)(error)),
        Ok(()) | Err(_) => {}
    }
    sync(dir)
}

/// Moves a file, if it is there, and never over another one.
fn moved(from: &Path, to: &Path) -> Result<(), RecoverError> {
    if !from.exists() {
        return Ok(());
    }
    if to.exists() {
        return Err(files("move over what is there already,", to)(io::ErrorKind::AlreadyExists.into()));
    }
    std::fs::rename(from, to).map_err(files("move", from))
}

/// Gives what root made to the user whose folder it stands in: the agent does not run as root.
fn owned_as(dir: &Path, new: &Path) -> Result<(), RecoverError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = std::fs::metadata(dir).map_err(files("look at", dir))?;
    std::os::unix::fs::chown(new, Some(owner.uid()), Some(owner.gid())).map_err(files("give away", new))
}

fn sync(dir: &Path) -> Result<(), RecoverError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(files("sync", dir))
}

/// Whether anything accepts a connection there. An address that cannot be read answers nothing; specs are checked.
fn answers_at(address: &str) -> bool {
    address
        .parse::<SocketAddr>()
        .is_ok_and(|address| TcpStream::connect_timeout(&address, ANSWERS_WITHIN).is_ok())
}
