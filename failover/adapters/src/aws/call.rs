//! One call: bounded in time, its failure named by what it says about the effect, and repeated only where AWS says that
//! it did nothing.

use std::time::{Duration, Instant};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_route53::error::{ProvideErrorMetadata, SdkError};
use tokio::time::timeout_at;

use crate::dns::Cause;

/// How long a connection may take to open.
pub(super) const CONNECT: Duration = Duration::from_secs(2);
/// How long one request may take: so that within an order's time there is another try, or a look at what came of it.
const ATTEMPT: Duration = Duration::from_secs(3);
/// The first pause before a repetition; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_millis(1_600);
/// The most of a service's message that is shown.
const MESSAGE_MAX: usize = 300;

/// Why a call has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There are no credentials to sign with; nothing was sent.
    #[error("there are no credentials to sign with")]
    Credentials(#[source] Cause),
    /// The request could not be made; nothing was sent.
    #[error("the request could not be made")]
    NotSent(#[source] Cause),
    /// The service refused: it certainly did nothing.
    #[error("{code}{}", in_brackets(message))]
    Refused {
        /// Its code.
        code: String,
        /// Its message; empty where that could repeat what was signed.
        message: String,
    },
    /// The service puts us off: it certainly did nothing.
    #[error("{code}{}", in_brackets(message))]
    PutOff {
        /// Its code.
        code: String,
        /// Its message.
        message: String,
    },
    /// The service failed: nobody can say what it did.
    #[error("the service failed ({status}{}{code})", if code.is_empty() { "" } else { " " })]
    Failed {
        /// HTTP status.
        status: u16,
        /// Its code.
        code: String,
    },
    /// No answer came, or none that can be read.
    #[error("no answer came")]
    Lost(#[source] Cause),
}

/// A time limit passed.
#[derive(Debug, thiserror::Error)]
#[error("nothing was heard in time")]
pub struct Silent;

fn in_brackets(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

/// Codes by which AWS services put a caller off.
const PUT_OFF: [&str; 9] = [
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "SlowDown",
    "PriorRequestNotComplete",
];

/// Which rights a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rights {
    /// AWS does not take the signature.
    Signature,
    /// The signature is good, and the action is not allowed.
    Action,
}

/// What a code says about the caller's rights; `None` when it is about something else.
pub(crate) fn rights(code: &str) -> Option<Rights> {
    match code {
        "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "AuthFailure"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "RequestTimeTooSkewed" => Some(Rights::Signature),
        "AccessDenied"
        | "AccessDeniedException"
        | "UnauthorizedOperation"
        | "NotAuthorized"
        | "OptInRequired" => Some(Rights::Action),
        _ => None,
    }
}

impl<E> From<SdkError<E>> for CallError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    fn from(error: SdkError<E>) -> Self {
        match &error {
            SdkError::ServiceError(answer) => {
                let status = answer.raw().status();
                let body = answer.raw().body().bytes().map(String::from_utf8_lossy).unwrap_or_default();
                let code = answer.err().code().map_or_else(|| bare_code(&body).to_owned(), str::to_owned);
                let message = || {
                    let message = answer.err().message().unwrap_or_else(|| bare_message(&body));
                    message.chars().take(MESSAGE_MAX).collect()
                };
                if PUT_OFF.contains(&code.as_str()) {
                    return Self::PutOff { code, message: message() };
                }
                if status.is_server_error() {
                    return Self::Failed { status: status.as_u16(), code };
                }
                // What AWS says about a bad signature repeats the request that was signed, with its session token.
                let message =
                    if rights(&code) == Some(Rights::Signature) { String::new() } else { message() };
                let code = if code.is_empty() { status.as_u16().to_string() } else { code };
                Self::Refused { code, message }
            }
            SdkError::ConstructionFailure(_) => Self::NotSent(error.into()),
            SdkError::DispatchFailure(failure) => {
                if without_credentials(&error) {
                    Self::Credentials(error.into())
                } else if failure.is_user() {
                    Self::NotSent(error.into())
                } else {
                    Self::Lost(error.into())
                }
            }
            SdkError::TimeoutError(_) | SdkError::ResponseError(_) => Self::Lost(error.into()),
            // The SDK may come to know further failures: what is not known may have happened.
            _ => Self::Lost(error.into()),
        }
    }
}

/// Route 53 refuses some batches by a document that is named after the error, and not by one about errors, which is all
/// that the SDK reads.
fn bare_code(body: &str) -> &str {
    let elements = body.split('<').skip(1);
    let root = elements.map(|element| element.split([' ', '>', '/']).next().unwrap_or_default());
    root.into_iter().find(|name| !name.starts_with(['?', '!'])).unwrap_or_default()
}

fn bare_message(body: &str) -> &str {
    let inside = body.split("<Message>").nth(1);
    inside.and_then(|rest| rest.split("</Message>").next()).unwrap_or_default()
}

fn without_credentials(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<CredentialsError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What may simply be asked once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// Only what the service certainly did not do: the call changes something.
    NotDone,
    /// Also what it failed at: the call only asks.
    Failed,
}

/// Calls until there is an answer or the deadline is near. A pause between two calls doubles each time.
///
/// # Errors
/// The last [`CallError`].
pub(crate) async fn patiently<T, E, F>(
    again: Again,
    deadline: Instant,
    mut call: impl FnMut() -> F,
) -> Result<T, CallError>
where
    F: Future<Output = Result<T, SdkError<E>>>,
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let mut pause = PAUSE;
    loop {
        let until = deadline.min(Instant::now() + ATTEMPT);
        let error = match timeout_at(until.into(), call()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => CallError::from(error),
            Err(_) => CallError::Lost(Silent.into()),
        };
        let repeat = match &error {
            CallError::PutOff { .. } => true,
            CallError::Failed { .. } => again == Again::Failed,
            CallError::Credentials(_)
            | CallError::NotSent(_)
            | CallError::Refused { .. }
            | CallError::Lost(_) => false,
        };
        let next = Instant::now() + pause;
        if !repeat || next >= deadline {
            return Err(error);
        }
        tokio::time::sleep_until(next.into()).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_is_a_document_of_its_own_has_a_code() {
        let body = "<?xml version=\"1.0\"?>\n<InvalidChangeBatch xmlns=\"https://x\"><Messages><Message>not \
                    found</Message></Messages></InvalidChangeBatch>";
        assert_eq!((bare_code(body), bare_message(body)), ("InvalidChangeBatch", "not found"));
        assert_eq!((bare_code("Bad Gateway"), bare_message("Bad Gateway")), ("", ""));
    }
}
