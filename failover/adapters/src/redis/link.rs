//! A connection to one server at a literal address: user and password, TLS with a certificate of our own, and a deadline
//! around every command.
//!
//! It never follows a redirection, never reconnects by itself and never repeats a command: what a lost answer means is for
//! whoever asked.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, Value};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::fault::{AskError, Fault};
use crate::postgres::durable;

/// A user and the file with its password. The password itself is never in a struct that is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The ACL user.
    pub user: String,
    /// A file with the password in its first line, readable only by whoever needs it; `None` where none is asked for.
    pub password_file: Option<PathBuf>,
}

/// How to speak TLS with a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who signs the servers' certificates.
    pub ca: PathBuf,
    /// Our own certificate, where the server asks for one.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// The name in the servers' certificates; `None`: the address that is dialled.
    pub server_name: Option<String>,
}

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("cannot read {what} from {}; check the path, and that this user may read it", path.display())]
    Read {
        /// What should be there.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The files do not fit together.
    #[error("authority, certificate and key for Redis cannot be used together")]
    Files(#[source] rustls::Error),
    /// A certificate without a key, or the reverse.
    #[error("a client certificate for Redis needs both `cert` and `key`")]
    Half,
    /// The name.
    #[error("{name:?} is no server name")]
    Name {
        /// As configured.
        name: String,
    },
}

/// TLS, ready to dial with.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates("the authority's certificate", &files.ca)? {
            roots.add(authority).map_err(TlsError::Files)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Files)?
            .with_root_certificates(roots);
        let config = match (&files.cert, &files.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let chain = certificates("a certificate", cert)?;
                let key = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::Read {
                    what: "a private key",
                    path: key.clone(),
                    source,
                })?;
                builder.with_client_auth_cert(chain, key).map_err(TlsError::Files)?
            }
            (Some(_), None) | (None, Some(_)) => return Err(TlsError::Half),
        };
        let name = match &files.server_name {
            None => None,
            Some(name) => {
                Some(ServerName::try_from(name.clone()).map_err(|_| TlsError::Name { name: name.clone() })?)
            }
        };
        Ok(Self { config: Arc::new(config), name })
    }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = |source| TlsError::Read { what, path: path.to_owned(), source };
    CertificateDer::pem_file_iter(path).map_err(read)?.collect::<Result<_, _>>().map_err(read)
}

/// Whom to reach, and as whom.
#[derive(Clone, Debug)]
pub struct Target {
    /// A literal address, never a route.
    pub address: SocketAddr,
    /// The user; `None`: the default user without a password.
    pub credentials: Option<Credentials>,
    /// TLS, if the server speaks it.
    pub tls: Option<Tls>,
}

/// An open connection. Clones share it. It ends with its last clone, and with the runtime that opened it.
#[derive(Clone)]
pub struct Link {
    connection: MultiplexedConnection,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}

impl Link {
    /// Connects and authenticates.
    ///
    /// # Errors
    /// What the network or the server said.
    pub async fn open(target: &Target, deadline: Instant) -> Result<Self, AskError> {
        let what = "connect to Redis";
        let failed = |fault| AskError::new(what, fault);
        let opening = tokio::time::timeout_at(deadline.into(), dial(target));
        let mut link = opening.await.map_err(|_late| failed(Fault::TimedOut))?.map_err(failed)?;
        if let Some(credentials) = &target.credentials {
            let password = password(credentials, deadline).await?;
            if let Some(password) = password {
                let mut command = redis::cmd("AUTH");
                command.arg(&credentials.user).arg(password);
                link.ask("authenticate to Redis", &command, deadline).await.map_err(refused_login)?;
            }
        }
        Ok(link)
    }

    /// One command and its answer.
    ///
    /// # Errors
    /// The server's code, or what the network said.
    pub async fn ask(
        &mut self,
        what: &'static str,
        command: &Cmd,
        deadline: Instant,
    ) -> Result<Value, AskError> {
        let asked = self.connection.send_packed_command(command);
        let answer = tokio::time::timeout_at(deadline.into(), asked).await;
        let answer = answer.map_err(|_late| AskError::new(what, Fault::TimedOut))?;
        sound(what, answer.map_err(|error| AskError::new(what, Fault::of(&error)))?)
    }

    /// Several commands in one packet: the server does them one after the other, and nothing of other clients between
    /// them as long as they fit in one read. Each answer is a value, or the server's refusal of that command.
    ///
    /// # Errors
    /// Only when no whole set of answers came.
    pub async fn ask_all(
        &mut self,
        what: &'static str,
        commands: &Pipeline,
        deadline: Instant,
    ) -> Result<Vec<Result<Value, AskError>>, AskError> {
        let count = commands.len();
        let asked = self.connection.send_packed_commands(commands, 0, count);
        let answer = tokio::time::timeout_at(deadline.into(), asked).await;
        let answer = answer.map_err(|_late| AskError::new(what, Fault::TimedOut))?;
        let values = answer.map_err(|error| AskError::new(what, Fault::of(&error)))?;
        if values.len() != count {
            return Err(AskError::new(what, Fault::Form));
        }
        Ok(values.into_iter().map(|value| sound(what, value)).collect())
    }

    /// A command that must be answered with `OK`.
    pub(super) async fn order(
        &mut self,
        what: &'static str,
        words: &[&str],
        deadline: Instant,
    ) -> Result<(), AskError> {
        let answer = self.ask(what, &command(words), deadline).await?;
        // Some are answered with another status; none of those is a refusal.
        if matches!(answer, Value::Okay | Value::SimpleString(_)) {
            Ok(())
        } else {
            Err(AskError::new(what, Fault::Form))
        }
    }

    /// A command that is answered with a text.
    pub(super) async fn text(
        &mut self,
        what: &'static str,
        words: &[&str],
        deadline: Instant,
    ) -> Result<String, AskError> {
        let value = self.ask(what, &command(words), deadline).await?;
        as_text(&value).ok_or_else(|| AskError::new(what, Fault::Form))
    }
}

/// A command of words.
pub(super) fn command(words: &[&str]) -> Cmd {
    let mut command = Cmd::new();
    for word in words {
        command.arg(*word);
    }
    command
}

/// A value that is a text, as it is.
pub(super) fn as_text(value: &Value) -> Option<String> {
    if let Value::BulkString(bytes) = value {
        String::from_utf8(bytes.clone()).ok()
    } else if let Value::SimpleString(text) | Value::VerbatimString { text, .. } = value {
        Some(text.clone())
    } else if let Value::Int(number) = value {
        Some(number.to_string())
    } else {
        matches!(value, Value::Okay).then(|| "OK".to_owned())
    }
}

fn sound(what: &'static str, value: Value) -> Result<Value, AskError> {
    if let Value::ServerError(error) = value {
        return Err(AskError::new(what, Fault::of_code(error.code())));
    }
    Ok(value)
}

/// Whatever the server says to a login that it does not take: some versions say `ERR`.
fn refused_login(error: AskError) -> AskError {
    if matches!(error.fault, Fault::Other { .. }) {
        AskError { fault: Fault::Authentication, ..error }
    } else {
        error
    }
}

async fn dial(target: &Target) -> Result<Link, Fault> {
    let stream = TcpStream::connect(target.address).await.map_err(|error| Fault::of_connect(&error))?;
    stream.set_nodelay(true).map_err(|error| Fault::of_connect(&error))?;
    // The deadline is the caller's; no login and no name of the library: both are commands that an ACL may forbid.
    let info = RedisConnectionInfo::default().set_skip_set_lib_name();
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let connection = match &target.tls {
        None => adopt(&info, stream, config).await,
        Some(tls) => {
            let name = tls.name.clone().unwrap_or_else(|| by_address(target.address.ip()));
            let connector = TlsConnector::from(Arc::clone(&tls.config));
            let secured = connector.connect(name, stream).await.map_err(|error| Fault::of_connect(&error))?;
            adopt(&info, secured, config).await
        }
    };
    Ok(Link { connection: connection.map_err(|error| Fault::of(&error))? })
}

async fn adopt<S>(
    info: &RedisConnectionInfo,
    stream: S,
    config: AsyncConnectionConfig,
) -> Result<MultiplexedConnection, redis::RedisError>
where
    S: Unpin + tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static,
{
    let (connection, driver) = MultiplexedConnection::new_with_config(info, stream, config).await?;
    // Ends when the last handle of the connection is dropped.
    tokio::spawn(driver);
    Ok(connection)
}

fn by_address(ip: IpAddr) -> ServerName<'static> {
    ServerName::IpAddress(ip.into())
}

/// The first line of the password file.
pub(super) async fn password(
    credentials: &Credentials,
    deadline: Instant,
) -> Result<Option<String>, AskError> {
    let what = "read the password of Redis";
    let Some(file) = &credentials.password_file else { return Ok(None) };
    let path = file.clone();
    let reading = durable::off_thread(file, "read", deadline, move || std::fs::read_to_string(path));
    match reading.await {
        Ok(text) => Ok(Some(text.lines().next().unwrap_or_default().to_owned())),
        Err(error) => {
            tracing::warn!(file = %file.display(), error = crate::words(&error), "the password of Redis cannot be read");
            Err(AskError::new(what, Fault::Authentication))
        }
    }
}
