//! Making an instance follow a primary. Before anything is changed it is known whether the primary can go on from where the
//! instance stands, or would send a whole copy; and what such a copy would destroy is kept first.
//!
//! It never follows a server that does not say that it is the primary of the epoch in question.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mesh_proto::DataIncarnation;
use mesh_proto::effect::{Finding, Outcome, Refusal, Rejoined};

use super::fault::{AskError, Fault};
use super::gate;
use super::info::{Role, replication};
use super::instance::Instance;
use super::keep::{KeepError, Kept, keep};
use super::link::{Link, password};
use super::look::{Look, look};
use super::standby::{Position, hold};

const POLL: Duration = Duration::from_millis(5);

/// How an instance came to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// It did.
    Already,
    /// It went on from where it stood.
    Continued,
    /// It took a whole copy.
    Copied {
        /// Bytes that only it had; `None` when its history has nothing to do with the primary's.
        diverged: Option<u64>,
        /// Where they are kept.
        kept_at: Option<PathBuf>,
    },
}

/// An instance that follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// How.
    pub how: How,
    /// Where it stands.
    pub position: Position,
}

/// Why an instance is not known to follow.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The instance was not reached: nothing changed.
    #[error("the instance was not reached, nothing was changed")]
    NotReached(#[source] AskError),
    /// Its own data is of a later epoch.
    #[error("the instance's data is of epoch {seen}, the order of epoch {ours}; a newer order was here")]
    Stale {
        /// In its data.
        seen: u64,
        /// The order's.
        ours: u64,
    },
    /// It acknowledges writes.
    #[error("the instance is an open primary; fence it first")]
    Primary,
    /// The primary was not reached: nothing changed.
    #[error("the primary at {address} was not asked, nothing was changed")]
    Source {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: AskError,
    },
    /// What answers there is not that primary.
    #[error("{address} is not the primary of epoch {epoch}: {found}; nothing was changed")]
    NotPrimary {
        /// Where.
        address: SocketAddr,
        /// The order's.
        epoch: u64,
        /// What it is.
        found: String,
    },
    /// Other data.
    #[error(
        "the primary holds the data of {theirs:016x}, this instance of {own:016x}; they are of two groups, so nothing was changed"
    )]
    OtherSystem {
        /// Here.
        own: u64,
        /// There.
        theirs: u64,
    },
    /// What only the instance has could not be kept: nothing was destroyed.
    #[error(
        "what only this instance has could not be kept, so nothing was destroyed; make room in `keep_dir`"
    )]
    Keep(#[from] KeepError),
    /// Told, and the answer is lost.
    #[error("whether the instance was told to follow is not known; verify before repeating it")]
    Unknown(#[source] AskError),
    /// Refused by the server.
    #[error("the instance refuses to follow; nothing was changed")]
    Refused(#[source] AskError),
    /// Told, and it is not linked yet.
    #[error("the instance is not linked to {address} at the deadline (it goes on trying); its log says why")]
    NotLinked {
        /// The primary.
        address: SocketAddr,
    },
    /// Only verified, and it is not so.
    #[error("the instance does not follow {address}")]
    NotSo {
        /// The primary.
        address: SocketAddr,
    },
}

/// Lets the instance follow the primary of an epoch and waits until it streams. Safe to repeat after any interruption.
///
/// # Errors
/// Each reason separately; only `Unknown` and `NotLinked` may have changed something.
pub async fn follow(
    instance: &Instance,
    primary: SocketAddr,
    epoch: u64,
    system: Option<u64>,
    deadline: Instant,
) -> Result<Followed, FollowError> {
    let mut link = instance.link(deadline).await.map_err(FollowError::NotReached)?;
    let own = look(&mut link, deadline).await.map_err(FollowError::NotReached)?;
    may_follow(&own, epoch)?;
    let source = ask_source(instance, primary, epoch, deadline).await?;
    if let (Some(own), Some(theirs)) = (system.or(own.system), source.system)
        && own != theirs
    {
        return Err(FollowError::OtherSystem { own, theirs });
    }
    if own.upstream() == Some(primary) && own.streaming() {
        return Ok(Followed { how: How::Already, position: own.position() });
    }
    let here = own.info.replication.clone();
    if own.upstream() == Some(primary) && here.upstream.as_ref().is_some_and(|upstream| upstream.copying) {
        // Begun by an attempt before this one, which kept what there was to keep.
        let position = wait_linked(&mut link, primary, deadline).await?;
        return Ok(Followed { how: How::Copied { diverged: None, kept_at: None }, position });
    }
    let how = if source.info.replication.can_continue(&here.replid, here.offset) {
        How::Continued
    } else {
        let diverged = source.info.replication.lacks(&here.replid, here.offset);
        let kept = keep_diverged(instance, &mut link, &own, diverged, deadline).await?;
        How::Copied { diverged, kept_at: kept.map(|kept| kept.at) }
    };
    tell(instance, &mut link, primary, deadline).await?;
    let position = wait_linked(&mut link, primary, deadline).await?;
    Ok(Followed { how, position })
}

/// Whether it follows already. Changes nothing.
///
/// # Errors
/// `NotSo`, or when the instance is not reached.
pub async fn verify_follows(
    instance: &Instance,
    primary: SocketAddr,
    deadline: Instant,
) -> Result<Followed, FollowError> {
    let mut link = instance.link(deadline).await.map_err(FollowError::NotReached)?;
    let own = look(&mut link, deadline).await.map_err(FollowError::NotReached)?;
    if own.upstream() == Some(primary) && own.streaming() {
        Ok(Followed { how: How::Already, position: own.position() })
    } else {
        Err(FollowError::NotSo { address: primary })
    }
}

fn may_follow(own: &Look, epoch: u64) -> Result<(), FollowError> {
    match &own.stamp {
        Some(stamp) if stamp.epoch > epoch => {
            return Err(FollowError::Stale { seen: stamp.epoch, ours: epoch });
        }
        Some(_) | None => {}
    }
    // A server with nothing in it has acknowledged nothing that could be lost.
    if own.acknowledges() && own.info.keys > 0 { Err(FollowError::Primary) } else { Ok(()) }
}

async fn ask_source(
    instance: &Instance,
    address: SocketAddr,
    epoch: u64,
    deadline: Instant,
) -> Result<Look, FollowError> {
    let failed = |source| FollowError::Source { address, source };
    let mut link = Link::open(&instance.peer(address), deadline).await.map_err(failed)?;
    let source = look(&mut link, deadline).await.map_err(failed)?;
    let not_primary = |found| FollowError::NotPrimary { address, epoch, found };
    if source.info.replication.role == Role::Replica {
        return Err(not_primary("a replica".to_owned()));
    }
    match &source.stamp {
        Some(stamp) if stamp.epoch == epoch => Ok(source),
        Some(stamp) => Err(not_primary(format!("its data is of epoch {}", stamp.epoch))),
        None => Err(not_primary("its data names no epoch".to_owned())),
    }
}

async fn keep_diverged(
    instance: &Instance,
    link: &mut Link,
    own: &Look,
    diverged: Option<u64>,
    deadline: Instant,
) -> Result<Option<Kept>, FollowError> {
    if diverged == Some(0) || own.info.keys == 0 {
        return Ok(None);
    }
    // What is kept must not move, and a snapshot must not be one of a link that comes back.
    gate::set_closed(link, deadline).await.map_err(FollowError::Refused)?;
    hold(link, deadline).await.map_err(unsure)?;
    Ok(Some(keep(instance, diverged, deadline).await?))
}

/// Of an order to the instance itself.
fn unsure(error: AskError) -> FollowError {
    if error.fault.may_have_been_done() { FollowError::Unknown(error) } else { FollowError::Refused(error) }
}

async fn tell(
    instance: &Instance,
    link: &mut Link,
    primary: SocketAddr,
    deadline: Instant,
) -> Result<(), FollowError> {
    gate::set_closed(link, deadline).await.map_err(FollowError::Refused)?;
    let what = "tell the instance how to log in at its primary";
    if let Some(credentials) = &instance.settings().replication {
        let secret = password(credentials, deadline).await.map_err(FollowError::Refused)?;
        let set = ["CONFIG", "SET", "masteruser", &credentials.user];
        link.order(what, &set, deadline).await.map_err(FollowError::Refused)?;
        if let Some(secret) = secret {
            let set = ["CONFIG", "SET", "masterauth", &secret];
            link.order(what, &set, deadline).await.map_err(FollowError::Refused)?;
        }
    }
    let here = instance.address();
    for (setting, value) in
        [("replica-announce-ip", here.ip().to_string()), ("replica-announce-port", here.port().to_string())]
    {
        let what = "tell the instance what to be called at its primary";
        link.order(what, &["CONFIG", "SET", setting, &value], deadline)
            .await
            .map_err(FollowError::Refused)?;
    }
    let (ip, port) = (primary.ip().to_string(), primary.port().to_string());
    link.order("tell the instance to follow", &["REPLICAOF", &ip, &port], deadline).await.map_err(unsure)
}

async fn wait_linked(
    link: &mut Link,
    primary: SocketAddr,
    deadline: Instant,
) -> Result<Position, FollowError> {
    loop {
        match replication(link, deadline).await {
            Ok(now) => {
                let linked = now
                    .upstream
                    .as_ref()
                    .is_some_and(|up| up.address == Some(primary) && up.up && !up.copying);
                if linked {
                    match super::stamp::read(link, deadline).await {
                        Ok(stamp) => return Ok(Position::of(&now, stamp.as_ref())),
                        Err(AskError { fault: Fault::Loading | Fault::MasterDown, .. }) => {}
                        Err(error) => return Err(FollowError::Unknown(error)),
                    }
                }
            }
            // It loads the copy.
            Err(AskError { fault: Fault::Loading, .. }) => {}
            Err(error) => return Err(FollowError::Unknown(error)),
        }
        if Instant::now() >= deadline {
            return Err(FollowError::NotLinked { address: primary });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What a call means for the step that asked; `fresh` is the new life of the data, if it was replaced.
#[must_use]
pub fn outcome(result: Result<Followed, FollowError>, fresh: DataIncarnation) -> Outcome {
    let error = match result {
        Ok(followed) => {
            let how = match followed.how {
                How::Already | How::Continued => Rejoined::Followed,
                How::Copied { diverged, .. } => {
                    Rejoined::Rebuilt { diverged_bytes: diverged, transactions: None, data: fresh }
                }
            };
            return Outcome::Done(Finding::Follows { how });
        }
        Err(error) => error,
    };
    let detail = crate::words(&error);
    let code = match error {
        FollowError::Unknown(_) | FollowError::NotLinked { .. } => return Outcome::Unknown { detail },
        FollowError::Stale { .. } => Refusal::StaleEpoch,
        FollowError::NotSo { .. } => Refusal::NotSo,
        FollowError::Primary | FollowError::NotPrimary { .. } | FollowError::OtherSystem { .. } => {
            Refusal::NotApplicable
        }
        FollowError::NotReached(_)
        | FollowError::Source { .. }
        | FollowError::Keep(_)
        | FollowError::Refused(_) => Refusal::Failed,
    };
    Outcome::Refused { code, detail }
}
