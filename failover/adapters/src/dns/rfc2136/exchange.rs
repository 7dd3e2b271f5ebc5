//! Messages and their answers over one TCP connection. TCP because a repeated datagram can report a failure for a success
//! (RFC 2136 §7.8); signed both ways where a key is given, so that an answer is the server's and belongs to its question.

use std::io;
use std::net::SocketAddr;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hickory_proto::op::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout_at;

use super::key::Key;
use super::message;

/// Why a message has no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Connecting failed.
    #[error("cannot connect to {server}")]
    Connect {
        /// Where.
        server: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The deadline passed while connecting.
    #[error("{server} did not take the connection in time")]
    NotTaken {
        /// Where.
        server: SocketAddr,
    },
    /// The deadline passed.
    #[error("no answer from {server} in time")]
    Late {
        /// Where.
        server: SocketAddr,
    },
    /// The connection broke.
    #[error("the connection to {server} broke")]
    Broken {
        /// Where.
        server: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The message has no wire form, so nothing was sent.
    #[error("the message has no wire form: {what}")]
    NotSent {
        /// Why.
        what: String,
    },
    /// The answer is no DNS message, or belongs to another question.
    #[error("what {server} answers is no answer to what was asked")]
    NotDns {
        /// Where.
        server: SocketAddr,
    },
    /// The server says that something is wrong with the key.
    #[error("{server} does not take the key: {code}")]
    Key {
        /// Where.
        server: SocketAddr,
        /// Its code.
        code: String,
    },
    /// The answer is not signed with the key.
    #[error("the answer of {server} is not signed with the key, so it may be anybody's")]
    NotSigned {
        /// Where.
        server: SocketAddr,
    },
    /// The answer was not what the code or the sections should hold.
    #[error("{server} answered {what}")]
    Unusable {
        /// Where.
        server: SocketAddr,
        /// What.
        what: String,
    },
}

/// A connection to a name server.
pub(super) struct Connection {
    server: SocketAddr,
    stream: TcpStream,
    key: Option<Key>,
}

impl Connection {
    pub(super) async fn open(
        server: SocketAddr,
        key: Option<Key>,
        deadline: Instant,
    ) -> Result<Self, ExchangeError> {
        let connected = timeout_at(deadline.into(), TcpStream::connect(server)).await;
        let stream = connected.map_err(|_| ExchangeError::NotTaken { server })?;
        let stream = stream.map_err(|source| ExchangeError::Connect { server, source })?;
        Ok(Self { server, stream, key })
    }

    /// Sends one message and reads its answer. After an error the connection is of no more use.
    pub(super) async fn exchange(
        &mut self,
        mut message: Message,
        deadline: Instant,
    ) -> Result<Message, ExchangeError> {
        let server = self.server;
        let not_sent = |error: hickory_proto::ProtoError| ExchangeError::NotSent { what: error.to_string() };
        let mut verifier = None;
        if let Some(Key(signer)) = &self.key {
            // TSIG compares wall clocks; that is what they are for here.
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
            verifier = message.finalize(signer, now).map_err(not_sent)?;
        }
        let bytes = message.to_vec().map_err(not_sent)?;
        let answered = timeout_at(deadline.into(), converse(&mut self.stream, &bytes)).await;
        let bytes = answered.map_err(|_| ExchangeError::Late { server })?;
        let bytes = bytes.map_err(|source| ExchangeError::Broken { server, source })?;
        let answer = message::parse(&bytes).ok_or(ExchangeError::NotDns { server })?;
        if answer.id != message.id || answer.op_code != message.op_code {
            return Err(ExchangeError::NotDns { server });
        }
        if let Some(mut verifier) = verifier {
            // A server that does not know the key, or whose clock differs, cannot sign what it answers.
            if let Some(error) = answer.signature().and_then(|tsig| tsig.data.error.as_ref()) {
                return Err(ExchangeError::Key { server, code: code_of(error) });
            }
            verifier.verify(&bytes).map_err(|_| ExchangeError::NotSigned { server })?;
        }
        Ok(answer)
    }
}

/// The names that RFC 8945 gives the codes.
fn code_of(error: &hickory_proto::rr::rdata::tsig::TsigError) -> String {
    use hickory_proto::rr::rdata::tsig::TsigError;
    match error {
        TsigError::BadSig => "BADSIG".to_owned(),
        TsigError::BadKey => "BADKEY".to_owned(),
        TsigError::BadTime => "BADTIME".to_owned(),
        TsigError::BadTrunc => "BADTRUNC".to_owned(),
        TsigError::Unknown(code) => format!("TSIG error {code}"),
    }
}

/// Messages over TCP carry their length in front (RFC 1035 §4.2.2).
async fn converse(stream: &mut TcpStream, message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
