//! Asks the agent on this host, over its unix socket, or one on another host with a certificate of the person's own. Every call has
//! a deadline, and every error says what to do. An answer that did not come is never taken for "not done".

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mesh_proto::AgentName;
use mesh_proto::codec::{self, CodecError, Kind};
use mesh_proto::operator::{Answer, Ask, Question};
use mesh_proto::rpc::{Envelope, agent_client::AgentClient};
use mesh_proto::run::Actor;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::exit::{Exit, Failure};
use crate::tls::connect::DialError;
use crate::tls::{Dialer, Identity};

/// How long connecting to a socket of the same host may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How long the agent may take to answer what it knows itself or asks its leader once.
const READ: Duration = Duration::from_secs(5);
/// How long the agent may take for what must be committed, perhaps after an election (a WAN election takes up to 10 s),
/// or asked of every agent.
const CHANGE: Duration = Duration::from_secs(20);
/// Largest answer: an audit page of 500 records with whole commands stays far below it.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// Where the agent is that is asked.
#[derive(Debug, Clone)]
pub enum Place {
    /// On this host.
    Socket(PathBuf),
    /// Anywhere.
    Remote(Arc<Remote>),
}

/// An agent on another host, and who asks it.
#[derive(Debug)]
pub struct Remote {
    /// Its name: whoever else answers at the address is no agent of that name.
    pub agent: AgentName,
    /// `HOST:PORT` of its listener.
    pub address: String,
    /// With the certificate of whoever asks.
    pub dialer: Dialer,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Remote(remote) => write!(f, "{} ({})", remote.address, remote.agent),
        }
    }
}

/// Why an agent gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nothing is at the socket's path.
    #[error("there is no agent at {at}: the socket does not exist")]
    Missing {
        /// Where.
        at: Place,
    },
    /// The socket may not be opened by this user.
    #[error("you may not talk to the agent at {at}: permission denied")]
    Permission {
        /// Where.
        at: Place,
    },
    /// The socket is there and nobody listens.
    #[error("the agent at {at} is not running: nobody listens on its socket")]
    NotRunning {
        /// Where.
        at: Place,
    },
    /// The agent on another host was not reached, or did not accept the certificate, or is another one.
    #[error("the agent at {at} was not reached, or refuses this certificate")]
    NotReached {
        /// Where.
        at: Place,
        /// What the transport said.
        #[source]
        source: Box<Status>,
    },
    /// The name or the address is none that can be dialled.
    #[error("{at} cannot be asked")]
    Dial {
        /// Where.
        at: Place,
        /// Why.
        #[source]
        source: DialError,
    },
    /// Connecting failed otherwise.
    #[error("cannot connect to the agent at {at}")]
    Connect {
        /// Where.
        at: Place,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Connecting, or the answer, took too long.
    #[error("the agent at {at} did not answer within {} s", limit.as_secs())]
    Late {
        /// Where.
        at: Place,
        /// The deadline.
        limit: Duration,
        /// Whether the question was on its way, so that it may take effect yet.
        sent: bool,
    },
    /// The connection broke while the answer was awaited.
    #[error("the agent at {at} went away before it answered")]
    Broken {
        /// Where.
        at: Place,
        /// What the transport said.
        #[source]
        source: Box<Status>,
    },
    /// The agent turned the call down.
    #[error("the agent at {at} turned the call down")]
    TurnedDown {
        /// Where.
        at: Place,
        /// What it said.
        #[source]
        source: Box<Status>,
    },
    /// The agent does not know the call, or its answer does not decode: the versions differ.
    #[error("the agent at {at} speaks another version of mesh than this command")]
    Version {
        /// Where.
        at: Place,
        /// What did not decode.
        #[source]
        source: Option<CodecError>,
    },
    /// The question has no encoding.
    #[error("the question cannot be encoded")]
    Encode(#[source] CodecError),
    /// The agent answered something else than was asked for.
    #[error("the agent at {at} answered another question than was asked")]
    OtherAnswer {
        /// Where.
        at: Place,
    },
}

impl AskError {
    /// The failure to show, for a question that `changes` something or not.
    #[must_use]
    pub fn failure(&self, changes: bool) -> Failure {
        let unsure = "it may have taken effect: look with `mesh status` and `mesh run` before repeating it";
        let quiet = "see what it is doing: journalctl -u mesh-agent -n 50";
        let (exit, next) = match self {
            Self::Missing { .. } | Self::NotRunning { .. } => (
                Exit::NotReachable,
                "start it with `systemctl start mesh-agent`, name its socket with --socket or MESH_SOCKET, or ask on another \
                 host: any agent answers".to_owned(),
            ),
            Self::Permission { at } => (
                Exit::NotReachable,
                format!("join the group that owns it (`ls -l {at}`), or use sudo"),
            ),
            Self::NotReached { .. } => (
                Exit::NotReachable,
                "check the name and the address (`mesh node list` on any host shows both), and that the certificate in \
                 --identity is of this mesh, valid and not revoked; or ask another agent: any of them answers"
                    .to_owned(),
            ),
            Self::Dial { .. } => (Exit::Invalid, "write --at NAME@HOST:PORT, such as east-1@10.1.0.10:7400".to_owned()),
            Self::Connect { .. } => (
                Exit::NotReachable,
                "check that --socket or MESH_SOCKET names the agent's socket, or ask on another host: any agent answers"
                    .to_owned(),
            ),
            Self::Late { sent: true, .. } | Self::Broken { .. } if changes => (Exit::Unknown, unsure.to_owned()),
            Self::Late { .. } | Self::Broken { .. } => {
                (Exit::NotReachable, format!("{quiet}\nor ask on another host: any agent answers"))
            }
            Self::TurnedDown { .. } => (Exit::Error, quiet.to_owned()),
            Self::Version { .. } | Self::OtherAnswer { .. } => {
                let looked = if changes { format!("{unsure}\n") } else { String::new() };
                (
                    if changes { Exit::Unknown } else { Exit::NotSupported },
                    format!("{looked}use the `mesh` binary that the agent runs: `mesh --version` on both"),
                )
            }
            Self::Encode(_) => (Exit::Error, "please report this as a bug".to_owned()),
        };
        Failure::new(exit, super::with_causes(self), next)
    }
}

/// Asks one agent, over one connection. After any error the next question opens another one, so that a restarted agent is
/// found again.
#[derive(Debug, Clone)]
pub struct Client {
    at: Place,
    actor: Actor,
    connection: Arc<Mutex<Option<AgentClient<Channel>>>>,
}

impl Client {
    /// A client of the agent on this host, that has not connected yet.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>, actor: Actor) -> Self {
        Self { at: Place::Socket(socket.into()), actor, connection: Arc::default() }
    }

    /// A client of an agent anywhere. Its audit names whom the certificate names.
    #[must_use]
    pub fn remote(remote: Remote) -> Self {
        Self { at: Place::Remote(Arc::new(remote)), actor: Actor::Mesh, connection: Arc::default() }
    }

    /// Where it asks.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.at
    }

    /// Asks, with the deadline that fits the question.
    ///
    /// # Errors
    /// [`AskError`]; a refusal by the mesh is an [`Answer::Refused`], not an error.
    pub async fn ask(&self, ask: Ask) -> Result<Answer, AskError> {
        let slow = changes(&ask) || matches!(ask, Ask::AuditVerify);
        let limit = if slow { CHANGE } else { READ };
        self.ask_within(ask, limit).await
    }

    /// Asks, with a deadline of `limit` for the answer.
    ///
    /// # Errors
    /// [`AskError`]; a refusal by the mesh is an [`Answer::Refused`], not an error.
    pub async fn ask_within(&self, ask: Ask, limit: Duration) -> Result<Answer, AskError> {
        let question = Question { actor: self.actor.clone(), ask };
        let body = codec::encode(Kind::Message, &question).map_err(AskError::Encode)?;
        let mut kept = self.connection.lock().await;
        let mut client = match kept.take() {
            Some(client) => client,
            None => self.open().await?,
        };
        let mut request = Request::new(Envelope { mesh: String::new(), body });
        // The agent is told the deadline too, so that it stops waiting for its leader when we do.
        request.set_timeout(limit);
        let late = |sent| AskError::Late { at: self.at.clone(), limit, sent };
        let reply = tokio::time::timeout(limit, client.ask(request))
            .await
            .map_err(|_| late(true))?
            .map_err(|status| self.status(status, limit))?;
        // Only a connection that answered is kept.
        *kept = Some(client);
        codec::decode(Kind::Message, &reply.into_inner().body)
            .map_err(|source| AskError::Version { at: self.at.clone(), source: Some(source) })
    }

    async fn open(&self) -> Result<AgentClient<Channel>, AskError> {
        match &self.at {
            Place::Socket(path) => self.handshake(self.connect(path).await?).await,
            Place::Remote(remote) => {
                let channel = remote.dialer.channel(&Identity::Agent(remote.agent.clone()), &remote.address);
                let channel = channel.map_err(|source| AskError::Dial { at: self.at.clone(), source })?;
                Ok(AgentClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES))
            }
        }
    }

    async fn connect(&self, path: &Path) -> Result<UnixStream, AskError> {
        let at = self.at.clone();
        match tokio::time::timeout(CONNECT, UnixStream::connect(path)).await {
            Err(_) => Err(AskError::Late { at, limit: CONNECT, sent: false }),
            Ok(Ok(stream)) => Ok(stream),
            // A closed list is impossible here: `ErrorKind` is open.
            Ok(Err(source)) => Err(if source.kind() == io::ErrorKind::NotFound {
                AskError::Missing { at }
            } else if source.kind() == io::ErrorKind::PermissionDenied {
                AskError::Permission { at }
            } else if source.kind() == io::ErrorKind::ConnectionRefused {
                AskError::NotRunning { at }
            } else {
                AskError::Connect { at, source }
            }),
        }
    }

    async fn handshake(&self, stream: UnixStream) -> Result<AgentClient<Channel>, AskError> {
        let broken = |source: tonic::transport::Error| AskError::Broken {
            at: self.at.clone(),
            source: Box::new(Status::from_error(Box::new(source))),
        };
        // The connector hands out this one stream; the authority is never resolved.
        let mut stream = Some(stream);
        let connector = tower::service_fn(move |_: http::Uri| {
            let stream = stream.take();
            async move { stream.map(TokioIo::new).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
        });
        let endpoint = Endpoint::from_static("http://agent.local");
        let channel = tokio::time::timeout(CONNECT, endpoint.connect_with_connector(connector))
            .await
            .map_err(|_| AskError::Late { at: self.at.clone(), limit: CONNECT, sent: false })?
            .map_err(broken)?;
        Ok(AgentClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES))
    }

    fn status(&self, status: Status, limit: Duration) -> AskError {
        let at = self.at.clone();
        if crate::rpc::client::connect_failed(&status) {
            return AskError::NotReached { at, source: Box::new(status) };
        }
        match status.code() {
            Code::DeadlineExceeded => AskError::Late { at, limit, sent: true },
            Code::Unimplemented => AskError::Version { at, source: None },
            Code::Cancelled
            | Code::Unavailable
            | Code::Unknown
            | Code::Aborted
            | Code::DataLoss
            | Code::Internal => AskError::Broken { at, source: Box::new(status) },
            Code::Ok
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::OutOfRange => AskError::TurnedDown { at, source: Box::new(status) },
        }
    }
}

/// Whether a question may change something: then a lost answer is an unknown outcome.
#[must_use]
pub const fn changes(ask: &Ask) -> bool {
    match ask {
        Ask::Status
        | Ask::Why { .. }
        | Ask::Run { .. }
        | Ask::Audit { .. }
        | Ask::AuditVerify
        | Ask::AuditHash { .. }
        | Ask::Live { .. }
        | Ask::LiveHere(_)
        | Ask::Nodes => false,
        Ask::Apply { dry_run, .. } => !*dry_run,
        Ask::Failover(ask) => !ask.dry_run,
        Ask::Approve { dry_run, .. } => !*dry_run,
        Ask::Form
        | Ask::Adopt { .. }
        | Ask::Abort { .. }
        | Ask::Retry { .. }
        | Ask::Skip { .. }
        | Ask::Rejoin { .. }
        | Ask::Pause { .. }
        | Ask::Resume { .. }
        | Ask::Ack { .. }
        | Ask::Degrade { .. }
        | Ask::NodeAdd { .. }
        | Ask::NodeVoters { .. }
        | Ask::NodeRemove { .. }
        | Ask::Withdraw { .. }
        | Ask::Denied(_)
        | Ask::TokenTried(_) => true,
    }
}
