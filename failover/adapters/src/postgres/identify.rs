//! `IDENTIFY_SYSTEM` over PostgreSQL's replication protocol: the only place where a standby says on which timeline it
//! really is. (Its control file lags by a restartpoint; SQL functions for the timeline fail in recovery.)
//!
//! tokio-postgres does not speak the replication protocol, and this needs four messages of it, on the local unix socket,
//! where the superuser gets in without a password. Nothing else is ever sent.

use std::io;
use std::time::Instant;

use mesh_proto::Lsn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::instance::Instance;

/// What a server says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub system_identifier: u64,
    /// The timeline it writes, or replays.
    pub timeline: u32,
    /// End of what is flushed on that timeline: on a standby the further of received and replayed.
    pub position: Lsn,
}

/// Why a server did not identify itself.
#[derive(Debug, thiserror::Error)]
pub enum IdentifyError {
    /// The deadline came first.
    #[error("the server did not identify itself within the deadline")]
    Deadline,
    /// The socket.
    #[error("cannot talk to the server over its unix socket")]
    Io(#[from] io::Error),
    /// The server refused.
    #[error(
        "the server refuses a replication session to the local superuser (SQLSTATE {sqlstate}); check max_wal_senders and that pg_hba has `local replication`"
    )]
    Refused {
        /// Its code.
        sqlstate: String,
    },
    /// It wants a password.
    #[error(
        "the server asks the local superuser for authentication method {method}; allow `peer` on the unix socket"
    )]
    Password {
        /// The protocol's number of the method.
        method: u32,
    },
    /// Not PostgreSQL, or a version that answers otherwise.
    #[error("the server's answer to IDENTIFY_SYSTEM has an unknown form")]
    Form,
}

/// Asks the local server who it is.
///
/// # Errors
/// When it does not answer in time or in the known form.
pub async fn identify(instance: &Instance, deadline: Instant) -> Result<Identity, IdentifyError> {
    let asked = tokio::time::timeout_at(deadline.into(), ask(instance)).await;
    asked.map_err(|_elapsed| IdentifyError::Deadline)?
}

async fn ask(instance: &Instance) -> Result<Identity, IdentifyError> {
    let mut stream = UnixStream::connect(instance.socket_path()).await?;
    stream.write_all(&startup(&instance.settings().superuser)).await?;
    until_ready(&mut stream).await?;
    stream.write_all(&query("IDENTIFY_SYSTEM")).await?;
    let row = until_ready(&mut stream).await?.ok_or(IdentifyError::Form)?;
    // Terminate politely; the answer is in hand whatever becomes of it.
    stream.write_all(&message(b'X', &[])).await?;
    columns(&row).as_deref().and_then(identity).ok_or(IdentifyError::Form)
}

/// Reads messages up to ReadyForQuery; returns the body of the data row among them.
async fn until_ready(stream: &mut UnixStream) -> Result<Option<Vec<u8>>, IdentifyError> {
    /// No message of this exchange comes near it.
    const LONGEST: u32 = 1 << 16;
    let mut row = None;
    loop {
        let tag = stream.read_u8().await?;
        let length = stream.read_u32().await?;
        if !(4..=LONGEST).contains(&length) {
            return Err(IdentifyError::Form);
        }
        let mut body = vec![0; length as usize - 4];
        stream.read_exact(&mut body).await?;
        match tag {
            b'Z' => return Ok(row),
            b'D' => row = Some(body),
            b'E' => return Err(IdentifyError::Refused { sqlstate: sqlstate(&body) }),
            b'R' => match body.first_chunk().map(|method| u32::from_be_bytes(*method)) {
                Some(0) => {}
                Some(method) => return Err(IdentifyError::Password { method }),
                None => return Err(IdentifyError::Form),
            },
            // Parameters, notices, the cancel key, the row's description, the end of the command.
            _ => {}
        }
    }
}

fn startup(user: &str) -> Vec<u8> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for text in ["user", user, "replication", "true", "application_name", "mesh_identify"] {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    framed(&body)
}

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), b"\0"].concat())
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &framed(body)].concat()
}

fn framed(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], body].concat()
}

fn sqlstate(body: &[u8]) -> String {
    let fields = body.split(|byte| *byte == 0);
    let code = fields.filter_map(|field| field.split_first()).find(|(kind, _)| **kind == b'C');
    code.map_or_else(String::new, |(_, code)| String::from_utf8_lossy(code).into_owned())
}

fn columns(row: &[u8]) -> Option<Vec<String>> {
    let (count, mut rest) = row.split_first_chunk()?;
    let mut columns = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk()?;
        // A length of -1 is NULL.
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        let (value, after) = after.split_at_checked(length)?;
        columns.push(String::from_utf8_lossy(value).into_owned());
        rest = after;
    }
    Some(columns)
}

fn identity(columns: &[String]) -> Option<Identity> {
    let [system, timeline, position, ..] = columns else { return None };
    Some(Identity {
        system_identifier: system.parse().ok()?,
        timeline: timeline.parse().ok()?,
        position: position.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_fuzz::fuzz;

    #[test]
    fn takes_a_row_apart() {
        let mut row = vec![0, 4];
        for value in ["7212", "3", "0/6000060"] {
            row.extend_from_slice(&(value.len() as u32).to_be_bytes());
            row.extend_from_slice(value.as_bytes());
        }
        row.extend_from_slice(&(-1_i32).to_be_bytes());
        let found = identity(&columns(&row).unwrap()).unwrap();
        assert_eq!(found, Identity { system_identifier: 7212, timeline: 3, position: Lsn(0x600_0060) });
        assert_eq!(columns(&row[..9]), None);
        assert_eq!(sqlstate(b"SFATAL\0C28000\0Mno\0\0"), "28000");
    }

    #[test]
    fn fuzz_identify() {
        fuzz!("identify", |bytes| {
            mesh_fuzz::bounded(bytes.len(), || {
                let _ = sqlstate(bytes);
                columns(bytes).as_deref().and_then(identity)
            });
            if let Some(columns) = columns(bytes) {
                let whole: usize = columns.iter().map(|column| 4 + column.chars().count()).sum();
                assert!(whole + 2 <= bytes.len(), "{columns:?} is more than was sent");
            }
        });
    }
}
