//! The admin console: commands of the simple protocol over a session of their own, each under a deadline.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::postgres::PassfileError;
use crate::postgres::passfile::add_password;

/// The database that is the console.
const CONSOLE: &str = "pgbouncer";

/// Where the console is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsoleAt {
    /// `listen_addr` and `listen_port`.
    Tcp(SocketAddr),
    /// `unix_socket_dir` and `listen_port`.
    Unix {
        /// The directory.
        dir: PathBuf,
        /// The port, which names the socket.
        port: u16,
    },
}

impl std::fmt::Display for ConsoleAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix { dir, port } => write!(f, "{}/.s.PGSQL.{port}", dir.display()),
        }
    }
}

/// Why a command of the console has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The password file.
    #[error("the console's password could not be read")]
    Password(#[source] PassfileError),
    /// No session.
    #[error("no session with {at}")]
    Connect {
        /// Where.
        at: ConsoleAt,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The deadline came first.
    #[error("no answer from {at} in time")]
    Late {
        /// Where.
        at: ConsoleAt,
    },
    /// PgBouncer answered with an error: the command was not done.
    #[error("PgBouncer refused {command:?}")]
    Refused {
        /// The command.
        command: String,
        /// What it said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The session broke before an answer.
    #[error("the session with {at} broke")]
    Broken {
        /// Where.
        at: ConsoleAt,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
}

impl ConsoleError {
    /// Whether the login or the command was refused, or never tried for want of a password.
    pub(super) fn is_a_no(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Password(_) => true,
            Self::Connect { source, .. } => source.code().is_some() || is_config(source),
            Self::Late { .. } | Self::Broken { .. } => false,
        }
    }
}

/// Whether the login itself failed (a password was asked for and there is none, say), and not the network.
fn is_config(source: &tokio_postgres::Error) -> bool {
    let mut cause = std::error::Error::source(source);
    while let Some(error) = cause {
        if error.is::<std::io::Error>() {
            return false;
        }
        cause = error.source();
    }
    !source.is_closed()
}

/// One row of a SHOW, by the names of its columns.
pub(super) type Row = BTreeMap<String, String>;

/// A session with the console. It ends with its value.
pub(super) struct Console {
    at: ConsoleAt,
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Console {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Console {
    pub(super) async fn open(
        at: &ConsoleAt,
        user: &str,
        passfile: Option<&Path>,
        deadline: Instant,
    ) -> Result<Self, ConsoleError> {
        let mut config = Config::new();
        config.user(user).dbname(CONSOLE);
        let (host, port) = match at {
            ConsoleAt::Tcp(address) => (address.ip().to_string(), address.port()),
            ConsoleAt::Unix { dir, port } => (dir.display().to_string(), *port),
        };
        match at {
            ConsoleAt::Tcp(_) => config.host(&host),
            ConsoleAt::Unix { dir, .. } => config.host_path(dir),
        };
        config.port(port);
        if let Some(passfile) = passfile {
            let added = add_password(&mut config, passfile, (&host, port), (user, CONSOLE), deadline).await;
            added.map_err(ConsoleError::Password)?;
        }
        let connecting = tokio::time::timeout_at(deadline.into(), config.connect(NoTls)).await;
        let connected = connecting.map_err(|_elapsed| ConsoleError::Late { at: at.clone() })?;
        let (client, connection) =
            connected.map_err(|source| ConsoleError::Connect { at: at.clone(), source })?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                // The command in flight gets the same error.
                tracing::debug!(%error, "a console session ended");
            }
        });
        Ok(Self { at: at.clone(), client, driver })
    }

    /// Sends a command and waits for its answer, without rows for a command that is not SHOW.
    pub(super) async fn run(&self, command: &str, deadline: Instant) -> Result<Vec<Row>, ConsoleError> {
        let asking = tokio::time::timeout_at(deadline.into(), self.client.simple_query(command)).await;
        let messages = match asking {
            Err(_elapsed) => return Err(ConsoleError::Late { at: self.at.clone() }),
            Ok(Err(source)) if source.as_db_error().is_some() && !self.client.is_closed() => {
                return Err(ConsoleError::Refused { command: command.to_owned(), source });
            }
            Ok(Err(source)) => return Err(ConsoleError::Broken { at: self.at.clone(), source }),
            Ok(Ok(messages)) => messages,
        };
        Ok(messages.iter().filter_map(row).collect())
    }
}

fn row(message: &SimpleQueryMessage) -> Option<Row> {
    let SimpleQueryMessage::Row(row) = message else { return None };
    let value = |at: usize| row.get(at).unwrap_or_default().to_owned();
    Some(row.columns().iter().enumerate().map(|(at, column)| (column.name().to_owned(), value(at))).collect())
}
