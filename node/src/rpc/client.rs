//! Typed calls. Each has a deadline, and an error says by its class whether the call may have arrived.

use std::time::Duration;

use mesh_proto::effect::{Order, Outcome};
use mesh_proto::evidence::{GuardStatus, Report};
use mesh_proto::hold::{HoldAnswer, HoldRequest};
use mesh_proto::lease::{PledgeReply, PledgeRequest, RenewReply, RenewRequest};
use mesh_proto::operator::{Answer, Question};
use mesh_proto::rpc::Envelope;
use mesh_proto::rpc::agent_client::AgentClient as AgentStub;
use mesh_proto::rpc::guard_client::GuardClient as GuardStub;
use mesh_proto::rpc::voter_client::VoterClient as VoterStub;
use mesh_proto::{MeshId, Millis};
use serde::{Serialize, de::DeserializeOwned};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::envelope::{self, EnvelopeError};

/// Why a call has no answer. The class decides, never the text.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection: the call was certainly not delivered.
    #[error("not reached: {0}")]
    NotReached(String),
    /// No answer in time, or the connection broke: the call may have been delivered.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// Refused by the other side before it did anything.
    #[error("refused: {0}")]
    Refused(String),
    /// The message or its answer does not decode.
    #[error("the message or its answer cannot be used")]
    Envelope(#[source] EnvelopeError),
}

impl CallError {
    /// Whether the other side certainly did nothing.
    #[must_use]
    pub const fn not_done(&self) -> bool {
        match self {
            Self::NotReached(_) | Self::Refused(_) => true,
            Self::NoAnswer(_) | Self::Envelope(_) => false,
        }
    }
}

/// tonic reports a failed connect as `UNAVAILABLE` with the transport's error as its source; a connection that broke
/// under a running call is `UNAVAILABLE` too, but by way of an HTTP/2 error.
fn classify(status: &Status) -> CallError {
    let text = describe(status);
    match status.code() {
        Code::Unavailable if connect_failed(status) => CallError::NotReached(text),
        Code::PermissionDenied
        | Code::Unauthenticated
        | Code::InvalidArgument
        | Code::Unimplemented
        | Code::NotFound
        | Code::FailedPrecondition
        | Code::ResourceExhausted => CallError::Refused(text),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::AlreadyExists
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => CallError::NoAnswer(text),
    }
}

/// Whether a call did not leave, as nobody was reached.
pub(crate) fn connect_failed(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

async fn call<T, R, F>(
    mesh: &MeshId,
    body: &T,
    deadline: Duration,
    send: impl FnOnce(Request<Envelope>) -> F,
) -> Result<R, CallError>
where
    T: Serialize,
    R: DeserializeOwned,
    F: Future<Output = Result<Response<Envelope>, Status>>,
{
    let mut request = Request::new(envelope::seal(mesh, body).map_err(CallError::Envelope)?);
    request.set_timeout(deadline);
    let answer = tokio::time::timeout(deadline, send(request))
        .await
        .map_err(|_| CallError::NoAnswer(format!("within {}", Millis::from(deadline))))?
        .map_err(|status| classify(&status))?;
    envelope::open(mesh, answer.get_ref()).map_err(CallError::Envelope)
}

macro_rules! client {
    ($(#[$doc:meta])* $type:ident, $stub:ident {
        $($(#[$call_doc:meta])* $call:ident($body:ident: &$request:ty) -> $reply:ty;)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $type {
            mesh: MeshId,
            stub: $stub<Channel>,
        }

        impl $type {
            /// Calls over this channel.
            #[must_use]
            pub fn new(mesh: MeshId, channel: Channel) -> Self {
                Self { mesh, stub: $stub::new(channel) }
            }
            $(
                $(#[$call_doc])*
                ///
                /// # Errors
                /// [`CallError`], whose class says whether the call may have been delivered.
                pub async fn $call(&self, $body: &$request, deadline: Duration) -> Result<$reply, CallError> {
                    let mut stub = self.stub.clone();
                    call(&self.mesh, $body, deadline, async move |request| stub.$call(request).await).await
                }
            )*
        }
    };
}

client!(
    /// Calls to a voter.
    VoterClient, VoterStub {
        /// Asks for a grant, or only tells how the instance is.
        renew(request: &RenewRequest) -> RenewReply;
        /// Asks to grant a lease no more.
        pledge(request: &PledgeRequest) -> PledgeReply;
    }
);
client!(
    /// Calls to a guard.
    GuardClient, GuardStub {
        /// Orders an effect.
        execute(order: &Order) -> Outcome;
        /// Asks how the instance is.
        status(nothing: &()) -> GuardStatus;
        /// Asks for a promise, as the guard of the primary.
        hold(request: &HoldRequest) -> HoldAnswer;
    }
);
client!(
    /// Calls to an agent.
    AgentClient, AgentStub {
        /// Reports what an observer saw.
        report(report: &Report) -> ();
        /// Orders an effect on a route.
        execute(order: &Order) -> Outcome;
        /// Asks in the name of an operator.
        ask(question: &Question) -> Answer;
    }
);
