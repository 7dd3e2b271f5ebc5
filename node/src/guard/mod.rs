//! `mesh guard`: the process beside one PostgreSQL or Redis server that holds its lease and fences it (PROTOCOL, The guard).
//!
//! The rules are [`mesh_failover::guard::Guard`]'s. Here are its clock, its threads, its files and its hands:
//! - `driver`: the one thread that owns the core. It never waits for a disk, a server or a network.
//! - `fencer`: a thread that does nothing but fence, so that nothing else can delay it.
//! - `hands`: starts, promotes, freezes, repoints; `eyes`: looks at the server several times a second.
//! - `disks`: writes to each disk under the server once a second, to know whether it hangs or is full.
//! - `kept`: prunes, at quiet times, what rejoins kept.
//! - `voters`: asks every voter, over connections that stay; `holders`: asks the guards of the group's other instances; `service`: orders and status, over mTLS.
//! - `files`: its state, its lock and the key that signs receipts, none of them on the data directory's disk.
//! - `watchdog`: writes to a watchdog device, where one is named: the host is reset if all of this fails.
//! - the [`crate::leash`], for when this process itself cannot act.
//!
//! It needs no agent and no leader. It never decides what it may do: the core does.

mod disks;
mod driver;
mod engine;
mod eyes;
mod fencer;
mod files;
mod hands;
mod holders;
mod keeper;
mod kept;
mod priority;
mod quorum;
mod server;
mod service;
pub mod settings;
mod voters;
mod watchdog;

pub use disks::Probe;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use mesh_failover::guard::{Fresh, GuardConfig, StartError};
use mesh_failover::policy;
use mesh_proto::lease::Electorate;
use mesh_proto::spec::Profile;
use mesh_proto::{DataIncarnation, GuardIncarnation, InstanceName};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::clock::{self, Clock};
use crate::config::{ConfigError, Guarded, NodeConfig, Reader};
use crate::tls::renewal::{RenewalError, Source};
use crate::tls::{Credentials, Dialer, Identity, Incoming, Renewal};
use driver::{Driver, Input, Parts};
use files::{FilesError, StateDir};
use server::Server;

/// Why a guard did not start, or ended. A guard that did not start has changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The identity.
    #[error("the guard's identity cannot be used")]
    Identity(#[from] RenewalError),
    /// Its own files.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The state is another instance's.
    #[error(transparent)]
    State(#[from] StartError),
    /// The instance.
    #[error("instance {instance} cannot be guarded")]
    Instance {
        /// Which.
        instance: InstanceName,
        /// Why.
        #[source]
        source: settings::OpenError,
    },
    /// The listener.
    #[error(
        "cannot listen on {address}; another process may use the port (`ss -ltnp`), or the address is not this host's"
    )]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The leash.
    #[error(transparent)]
    Leash(#[from] crate::leash::LeashError),
    /// The host refuses something that every guard needs.
    #[error("cannot {what}")]
    Host {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It was told to stop, and the fence is not proven.
    #[error("told to stop, but the instance is not proven to be quiet; the leash goes on killing it")]
    NotQuiet,
    /// The thread that owns the lease ended by a fault of its own.
    #[error("the guard's main thread ended unexpectedly; the leash ends the instance")]
    Broken,
}

fn host(what: &'static str) -> impl FnOnce(std::io::Error) -> GuardError {
    move |source| GuardError::Host { what, source }
}

/// Guards an instance until told to stop by SIGTERM or SIGINT; then fences it first.
///
/// # Errors
/// [`GuardError`].
pub fn run(config: &Path, instance: &InstanceName) -> Result<(), GuardError> {
    let config = NodeConfig::load(config, Reader::Guard(instance))?;
    // `load` has checked that it is there.
    let Some(section) = config.instance(instance) else { return Err(GuardError::Broken) };
    let identity = Identity::Guard(instance.clone());
    let source = Source {
        ca: config.tls.ca.clone(),
        cert: section.cert().to_owned(),
        key: section.key().to_owned(),
        crl: config.tls.crl.clone(),
        mesh: config.mesh.id.clone(),
        identity,
    };
    let identity = Renewal::start(source)?;
    // Its working directory must not be one that a scan for the instance's processes finds, or a disk that may hang.
    std::env::set_current_dir("/").map_err(host("change to the root directory"))?;
    mesh_adapters::process::become_subreaper().map_err(host("become the parent of orphans"))?;
    let opened = settings::open(&config, section)
        .map_err(|source| GuardError::Instance { instance: instance.clone(), source })?;
    let (dir, stored) = StateDir::open(section.state_dir(), opened.data_dir())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(host("start the network runtime"))?;
    runtime.block_on(guard(&config, section, identity, opened, dir, stored))
}

async fn guard(
    config: &NodeConfig,
    section: Guarded<'_>,
    (credentials, renewal): (Credentials, Renewal),
    engine: engine::Engine,
    dir: StateDir,
    stored: Option<mesh_failover::guard::GuardState>,
) -> Result<(), GuardError> {
    let address = section.guard_listen();
    let listener =
        TcpListener::bind(address).await.map_err(|source| GuardError::Listen { address, source })?;
    let mut terminate = signal(SignalKind::terminate()).map_err(host("handle SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(host("handle SIGINT"))?;
    let mut hangup = signal(SignalKind::hangup()).map_err(host("handle SIGHUP"))?;

    let (inputs, inbox) = channel();
    let (asks, asked) = tokio::sync::mpsc::channel(voters::QUEUE);
    let (holds, held) = tokio::sync::mpsc::channel(voters::QUEUE);
    let server = Server::new(engine, dir.shares_disk());
    server.disks.start().map_err(host("look at the disks"))?;
    kept::start(Arc::clone(&server), pruner(config, section, &server))
        .map_err(host("start the thread that prunes kept evidence"))?;
    let parts = Parts {
        config: core_config(config, section, &dir),
        stored,
        fresh: fresh().map_err(host("read the boot id"))?,
        clock: Clock::for_guard(),
        dir,
        server: Arc::clone(&server),
        inputs: inputs.clone(),
        asks,
        watchdog: section.watchdog().map(Path::to_owned),
        holds,
    };
    let driver = Driver::start(parts, inbox)?;
    let dialer = Dialer::new(credentials.clone());
    let asking = async {
        let voters = voters::ask_all(&config.mesh, &dialer, asked, inputs.clone());
        tokio::join!(voters, holders::ask_all(&config.mesh.acting, &dialer, held, inputs.clone()));
    };
    let service = service::mount(config.mesh.acting.clone(), inputs.clone());
    let incoming = Incoming::start(listener, &credentials);
    let serving =
        crate::rpc::server::serve(tonic::service::Routes::new(service), incoming, std::future::pending());
    tracing::info!(instance = %section.name(), %address, "guarding");
    tokio::pin!(asking, serving);
    let mut ended = driver.ended();
    loop {
        tokio::select! {
            biased;
            result = &mut ended => return result.unwrap_or(Err(GuardError::Broken)),
            _ = terminate.recv() => stop(&inputs, "SIGTERM"),
            _ = interrupt.recv() => stop(&inputs, "SIGINT"),
            _ = hangup.recv() => renewal.now(),
            // The driver is gone, or about to say why.
            () = &mut asking => return ended.await.unwrap_or(Err(GuardError::Broken)),
            result = &mut serving => {
                if let Err(error) = result {
                    tracing::error!(%error, "cannot serve orders any more");
                }
                return Err(GuardError::Broken);
            }
        }
    }
}

fn stop(inputs: &std::sync::mpsc::Sender<Input>, signal: &str) {
    tracing::info!(signal, "told to stop: fencing first");
    // A driver that is gone has ended the loop already.
    let _ = inputs.send(Input::Stop);
}

fn core_config(config: &NodeConfig, section: Guarded<'_>, dir: &StateDir) -> GuardConfig {
    GuardConfig {
        group: section.group().clone(),
        instance: section.name().clone(),
        engine: section.engine(),
        public_key: dir.public_key(),
        timing: policy::profile(Profile::default()),
        // Version 0: whatever the log says is newer.
        electorate: Electorate::of(0, config.mesh.voters.iter().map(|voter| voter.id)),
    }
}

fn pruner(config: &NodeConfig, section: Guarded<'_>, server: &Server) -> kept::Pruner {
    kept::Pruner {
        dir: server.engine.keep_dir().to_owned(),
        instance: section.name().to_string(),
        policy: config.keep.policy(),
        said: std::collections::BTreeSet::new(),
    }
}

fn fresh() -> std::io::Result<Fresh> {
    Ok(Fresh {
        boot: clock::boot_id()?,
        guard: GuardIncarnation(files::unique("g", files::GUARD_BYTES)?),
        data: DataIncarnation(files::unique("d", files::DATA_BYTES)?),
    })
}
