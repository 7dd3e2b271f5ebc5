//! Creates an agent's store, and starts an agent: the one place where its parts are put together.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_consensus::{Consensus, OpenError, Options, PeerCheck, create_store};
use mesh_proto::lease::LeaseTerm;
use mesh_proto::rpc::agent_server::AgentServer;
use mesh_proto::spec::GroupSpec;
use mesh_proto::{AgentName, GroupName, InstanceName, NodeId};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::service::Routes;

use super::ask::Asked;
use super::denials::Denials;
use super::driver::Driver;
use super::errands::{Allowed, Ending, ErrandKeeper, Groups, Journal, JournalError, Standing};
use super::gates::{GateError, Gates};
use super::left_behind::{self, LeftBehind, LeftBehindError};
use super::machine::MeshMachine;
use super::peers::Peers;
use super::reporter;
use super::routes::{Holdings, RouteKeeper, RouteWatch, Specs};
use super::service::AgentService;
use super::sightings::{Logins, ProbeLogin, RedisLogin, Sightings};
use super::supervisor;
use super::traces;
use crate::clock::Clock;
use crate::config::{ConfigError, NodeConfig, Reader};
use crate::rpc::{Access, Caller, server};
use crate::tls::renewal::{RenewalError, Source};
use crate::tls::{self, Dialer, Identity, Incoming, LocalIncoming, Renewal};
use crate::voter::VoterStore;

/// How long parts get to end after the signal to stop.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// Name of the store in the data directory.
pub(super) const STORE: &str = "mesh.db";

/// Why an agent does not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// TLS towards Redis.
    #[error("the observers of Redis cannot speak TLS")]
    RedisTls(#[source] mesh_adapters::redis::TlsError),
    /// The file gives it no Raft number.
    #[error(
        "agent {0} has no Raft number: add it to [[mesh.voter]], or give it `id` in [agent] (a number never used before)"
    )]
    NoNumber(AgentName),
    /// Its data directory cannot be made.
    #[error("cannot create {}; check its parent directory's permissions", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Its store cannot be created.
    #[error("the store in {} was not created", path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: mesh_consensus::StoreError,
    },
    /// Its certificate or key.
    #[error("this agent's identity cannot be used")]
    Identity(#[source] RenewalError),
    /// Its store.
    #[error("the agreement does not start")]
    Open(#[source] OpenError),
    /// Its route gates.
    #[error(transparent)]
    Gates(#[from] GateError),
    /// Its record of services and hooks.
    #[error(transparent)]
    Errands(#[from] JournalError),
    /// A listener.
    #[error("cannot listen on {address}; another process has it, or the address is not this host's")]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The socket for the command line.
    #[error(transparent)]
    Socket(#[from] tls::local::SocketError),
    /// The voter's floors.
    #[error("the voter does not start")]
    Voter(#[source] crate::voter::StoreError),
    /// Its mesh went on without it.
    #[error(transparent)]
    LeftBehind(#[from] LeftBehindError),
    /// A server ended.
    #[error("a listener ended unexpectedly")]
    Served(#[source] tonic::transport::Error),
    /// Signals.
    #[error("cannot watch for signals")]
    Signals(#[source] std::io::Error),
}

impl AgentError {
    /// Whether a store was asked for where there is one already: nothing went wrong, and nothing was changed.
    #[must_use]
    pub const fn store_exists(&self) -> bool {
        matches!(self, Self::Create { source: mesh_consensus::StoreError::Exists { .. }, .. })
    }
}

pub(super) fn number(config: &NodeConfig) -> Result<NodeId, AgentError> {
    config.node_id().ok_or_else(|| AgentError::NoNumber(config.agent.name.clone()))
}

/// Creates the store of a new agent. A voter that lost its disk comes back under a new number.
///
/// # Errors
/// [`AgentError`]; a store that exists is never touched.
pub fn init(path: &Path) -> Result<String, AgentError> {
    let config = NodeConfig::load(path, Reader::Agent)?;
    let node = number(&config)?;
    let dir = &config.agent.data_dir;
    std::fs::create_dir_all(dir).map_err(|source| AgentError::DataDir { path: dir.clone(), source })?;
    create_store(&dir.join(STORE), node.0, config.mesh.acting.as_str())
        .map_err(|source| AgentError::Create { path: dir.clone(), source })?;
    // Second, so that a store without floors, left by a crash in between, refuses to start instead of voting.
    VoterStore::create(&super::voting::floors(dir)).map_err(AgentError::Voter)?;
    Ok(format!(
        "created the store of {}, number {node} of mesh {}, in {}",
        config.agent.name,
        config.mesh.acting,
        dir.display()
    ))
}

/// Specs out of the applied state.
struct AppliedSpecs(Consensus<MeshMachine>);

impl Specs for AppliedSpecs {
    fn spec(&self, group: &GroupName) -> Option<GroupSpec> {
        self.0.read(|machine| machine.state().groups.get(group).map(|group| group.spec.clone()))
    }
}

impl Groups for AppliedSpecs {
    fn standing(&self, group: &GroupName) -> Standing {
        self.0.read(|machine| Standing::of(machine.state().groups.get(group)))
    }

    fn ending(&self, group: &GroupName, instance: &InstanceName, term: LeaseTerm) -> Ending {
        self.0.read(|machine| Ending::of(machine.state().groups.get(group), instance, term))
    }
}

/// Who may speak as a Raft number: the agent that the mesh, or the founding file, knows under it.
fn peer_check(config: &NodeConfig, members: watch::Receiver<Vec<(u64, AgentName)>>) -> PeerCheck {
    let founders: Vec<_> = config.mesh.voters.iter().map(|voter| (voter.id.0, voter.agent.clone())).collect();
    Arc::new(move |extensions, node| {
        let caller = extensions.get::<Caller>().cloned();
        let Some(Caller::Peer(Identity::Agent(name))) = caller else {
            return Err(Status::permission_denied("only agents take part in the agreement"));
        };
        let known = members.borrow().iter().find(|(id, _)| *id == node).map(|(_, name)| name.clone());
        let known =
            known.or_else(|| founders.iter().find(|(id, _)| *id == node).map(|(_, name)| name.clone()));
        match known {
            Some(expected) if expected == name => Ok(()),
            Some(expected) => {
                Err(Status::permission_denied(format!("number {node} belongs to {expected}, not to {name}")))
            }
            // A new member is learnt from the leader that adds it, whose own number is known.
            None => Err(Status::permission_denied(format!("nobody here knows number {node}"))),
        }
    })
}

/// Runs an agent until it is told to stop.
///
/// # Errors
/// [`AgentError`]: why it did not start, or what ended.
pub async fn run(path: &Path) -> Result<(), AgentError> {
    let config = Arc::new(NodeConfig::load(path, Reader::Agent)?);
    let node = number(&config)?;
    // Before anything else, because until it is watched for this signal ends the process.
    let hangup = signal(SignalKind::hangup()).map_err(AgentError::Signals)?;
    left_behind::check(&config.agent.data_dir, &config.mesh)?;
    let (credentials, renewal) = Renewal::start(source(&config)).map_err(AgentError::Identity)?;
    let dialer = Dialer::new(credentials.clone());

    let (members, known) = watch::channel(Vec::new());
    let store = config.agent.data_dir.join(STORE);
    let options = Options {
        build: mesh_consensus::Build {
            messages: crate::cli::version::build().protocol.into(),
            edition: super::edition::stated(),
        },
        timings: config.mesh.network.timings(),
        ..Options::new(store, node.0, config.mesh.acting.as_str(), peer_check(&config, known))
    };
    let raft_dialer = raft_dialer(dialer.clone(), options.timings);
    let consensus =
        Consensus::open(options, MeshMachine::default(), raft_dialer).await.map_err(AgentError::Open)?;

    let logins = logins(&config)?;
    let gates = Gates::open(&config.agent.data_dir)?;
    let specs = Arc::new(AppliedSpecs(consensus.clone()));
    let journal = Journal::open(&config.agent.data_dir)?;
    let me = config.agent.name.clone();
    let (of_specs, of_groups) = (Arc::clone(&specs) as _, Arc::clone(&specs) as _);
    let errands = ErrandKeeper::new(me, Allowed::of(&config), logins.clone(), journal, of_specs, of_groups);
    let keeper = Arc::new(RouteKeeper::new(Holdings::of(&config), logins.clone(), gates, specs));
    let peers = Arc::new(Peers::new(config.mesh.acting.clone(), dialer));
    let clock = Arc::new(Clock::for_voter());
    let driver = Arc::new(Driver::new(
        config.agent.name.clone(),
        consensus.clone(),
        clock,
        Arc::clone(&peers),
        keeper,
        Arc::new(errands),
    ));
    let sightings = Arc::new(Sightings::new(config.agent.name.clone(), logins));
    let asked = Arc::new(Asked {
        driver: Arc::clone(&driver),
        config: Arc::clone(&config),
        credentials: credentials.clone(),
    });

    let voter = super::voting::service(&config, &driver).map_err(AgentError::Voter)?;
    let left = Arc::new(LeftBehind::new(config.mesh.clone()));
    let (denials, passed) = (Denials::new(), Arc::clone(&left));
    let agent = AgentService::new(passed, Arc::clone(&asked), access(&config), Arc::clone(&denials));
    let agent = AgentServer::new(agent);
    let routes = Routes::new(consensus.service()).add_service(voter.mount()).add_service(agent.clone());
    let listener = listen(&config.agent.listen.to_string()).await?;
    let incoming = Incoming::start(listener, &credentials);
    let local = LocalIncoming::bind(&config.agent.socket)?;
    let http = match config.agent.http {
        Some(address) => Some(listen(&address.to_string()).await?),
        None => None,
    };
    let build = crate::cli::version::line();
    tracing::info!(agent = %config.agent.name, mesh = %config.mesh.acting, listen = %config.agent.listen, build, "agent started");

    let (stop, stopping) = watch::channel(false);
    let mut parts: JoinSet<Result<(), AgentError>> = JoinSet::new();
    let served = |result: Result<(), tonic::transport::Error>| result.map_err(AgentError::Served);
    let until = stopped(&stopping);
    parts.spawn(async move { served(server::serve(routes, incoming, until).await) });
    let until = stopped(&stopping);
    parts.spawn(async move { served(server::serve(Routes::new(agent), local, until).await) });
    if let Some(listener) = http {
        let until = stopped(&stopping);
        let source = super::roles::LocalRoles::new(&config, Arc::clone(&peers), Arc::clone(&asked));
        parts.spawn(async move {
            crate::http::serve(listener, Arc::new(source), until).await;
            Ok(())
        });
    }
    let watch = Arc::new(RouteWatch::default());
    let (until, looking, watching) = (stopped(&stopping), Arc::clone(&driver), Arc::clone(&watch));
    parts.spawn(async move {
        watching.run(looking, until).await;
        Ok(())
    });
    let until = stopped(&stopping);
    let boot = std::process::id().into();
    let (reporting, driving) = (Arc::clone(&driver), Arc::clone(&driver));
    parts.spawn(async move {
        reporter::run(reporting, (sightings, watch, voter), boot, until).await;
        Ok(())
    });
    let until = stopped(&stopping);
    parts.spawn(async move {
        driving.run(until).await;
        Ok(())
    });
    let (until, writing) = (stopped(&stopping), Arc::clone(&asked));
    parts.spawn(async move {
        denials.run(writing, until).await;
        Ok(())
    });
    if let Some(section) = config.traces.clone() {
        let about = traces::About { mesh: config.mesh.acting.clone(), agent: config.agent.name.clone() };
        let (until, consensus) = (stopped(&stopping), consensus.clone());
        parts.spawn(async move {
            traces::run(consensus, about, section, until).await;
            Ok(())
        });
    }
    parts.spawn(publish_members(consensus.clone(), members, stopped(&stopping)));
    supervisor::ready();

    let ended = tokio::select! {
        signal = signalled(hangup, &renewal) => signal.map_err(AgentError::Signals),
        Some(part) = parts.join_next() => part.unwrap_or(Ok(())),
        left = left.ended(&config.agent.data_dir) => Err(left.into()),
    };
    supervisor::stopping();
    stop.send_replace(true);
    let all = async { while parts.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_GRACE, all).await.is_err() {
        tracing::warn!("some connections did not end in time");
        parts.abort_all();
    }
    consensus.shutdown().await;
    ended
}

/// How this agent logs in to the servers that it observes.
fn logins(config: &NodeConfig) -> Result<Logins, AgentError> {
    let postgres = config
        .probe
        .as_ref()
        .map(|probe| ProbeLogin { user: probe.user.clone(), passfile: probe.password_file.clone() });
    let redis = match &config.redis_probe {
        None => None,
        Some(probe) => {
            let tls = probe.tls.as_ref().map(|tls| mesh_adapters::redis::Tls::load(&tls.files()));
            let tls = tls.transpose().map_err(AgentError::RedisTls)?;
            Some(RedisLogin { credentials: probe.credentials(), tls })
        }
    };
    Ok(Logins { postgres, redis })
}

fn raft_dialer(dialer: Dialer, timings: mesh_consensus::Timings) -> impl mesh_consensus::Dialer {
    move |_node: u64, member: &mesh_consensus::Member| {
        let failed = |what: String| mesh_consensus::DialError(what);
        // A voter that is asked who it is has no name yet: the founding address is enough to reach it, and its
        // certificate says who answers.
        let name = AgentName::new(member.name.clone()).map_err(|error| failed(error.to_string()))?;
        dialer
            .channel_with(&Identity::Agent(name), &member.address, |endpoint| {
                mesh_consensus::tune(endpoint, &timings)
            })
            .map_err(|error| failed(crate::cli::with_causes(&error)))
    }
}

/// Keeps the peer check's list of members in step with the applied state.
async fn publish_members(
    consensus: Consensus<MeshMachine>,
    members: watch::Sender<Vec<(u64, AgentName)>>,
    stop: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let mut applied = consensus.applied();
    tokio::pin!(stop);
    loop {
        let now: Vec<_> = consensus
            .read(|machine| machine.state().members.values().map(|m| (m.id.0, m.agent.clone())).collect());
        members.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
        tokio::select! {
            () = &mut stop => return Ok(()),
            changed = applied.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

async fn listen(address: &str) -> Result<TcpListener, AgentError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| AgentError::Listen { address: address.to_owned(), source })
}

fn stopped(stopping: &watch::Receiver<bool>) -> impl Future<Output = ()> + Send + 'static {
    let mut stopping = stopping.clone();
    async move {
        // The sender lives until the agent ends; its loss means the same.
        let _ = stopping.wait_for(|stop| *stop).await;
    }
}

async fn signalled(mut hangup: Signal, renewal: &Renewal) -> std::io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = int.recv() => break,
            _ = hangup.recv() => renewal.now(),
        }
    }
    tracing::info!("told to stop");
    Ok(())
}

/// Who of this host may ask what.
fn access(config: &NodeConfig) -> Arc<Access> {
    Arc::new(Access::new(config.access.clone(), rustix::process::getuid().as_raw()))
}

/// Where this agent's identity comes from.
fn source(config: &NodeConfig) -> Source {
    Source {
        ca: config.tls.ca.clone(),
        cert: config.tls.cert.clone(),
        key: config.tls.key.clone(),
        crl: config.tls.crl.clone(),
        mesh: config.mesh.id.clone(),
        identity: Identity::Agent(config.agent.name.clone()),
    }
}
