//! `FAILOVER`, followed to its end: Redis holds writes, waits until the target has everything, and hands the role over. For
//! servers that no guard holds a lease for; see `handover` for the others.
//!
//! A time-out is an abort: the primary goes on and nothing is lost. It never forces.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::fault::AskError;
use super::info::{FailoverState, Role, replication};
use super::instance::Instance;

const POLL: Duration = Duration::from_millis(5);

/// How a `FAILOVER` ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Switched {
    /// The target is the primary, and this server its replica.
    Over {
        /// The end of the old history, which the target goes on from.
        end: u64,
        /// From the command on.
        took: Duration,
    },
    /// The target did not have everything in time, or refused: this server is the primary as before.
    Aborted,
}

/// Why it is not known how a `FAILOVER` ended.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// It was refused: nothing changed.
    #[error("the switch was refused")]
    Refused(#[source] AskError),
    /// It may have been begun, or be under way.
    #[error("how the switch ended is not known; look at both servers before repeating it")]
    Unknown(#[source] AskError),
    /// It is a replica of somebody else.
    #[error("the server follows {found:?} now, not {wanted}; somebody else gives orders here")]
    Elsewhere {
        /// Whom.
        found: Option<SocketAddr>,
        /// Whom it should.
        wanted: SocketAddr,
    },
    /// The deadline came, and it could not be aborted.
    #[error("the switch is still under way at the deadline and could not be aborted")]
    StillUnderWay,
}

/// Switches to a replica. `patience` is how long Redis may hold writes for it.
///
/// # Errors
/// Only `Refused` is certain to have changed nothing.
pub async fn failover(
    instance: &Instance,
    target: SocketAddr,
    patience: Duration,
    deadline: Instant,
) -> Result<Switched, SwitchError> {
    let began = Instant::now();
    let mut link = instance.link(deadline).await.map_err(SwitchError::Refused)?;
    let (ip, port) = (target.ip().to_string(), target.port().to_string());
    let patience = patience.as_millis().max(1).to_string();
    let words = ["FAILOVER", "TO", &ip, &port, "TIMEOUT", &patience];
    link.order("switch to the replica", &words, deadline).await.map_err(|error| {
        if error.fault.may_have_been_done() {
            SwitchError::Unknown(error)
        } else {
            SwitchError::Refused(error)
        }
    })?;
    let mut aborted = false;
    loop {
        // Its own connections stay open over the switch.
        let now = replication(&mut link, deadline.max(Instant::now()) + Duration::from_secs(1)).await;
        let now = now.map_err(SwitchError::Unknown)?;
        match (now.failover, now.role) {
            (FailoverState::None, Role::Primary) => return Ok(Switched::Aborted),
            (FailoverState::None, Role::Replica) => {
                let found = now.upstream.as_ref().and_then(|up| up.address);
                if found != Some(target) {
                    return Err(SwitchError::Elsewhere { found, wanted: target });
                }
                let end = now.second_offset.map_or(now.offset, |first_other| first_other.saturating_sub(1));
                return Ok(Switched::Over { end, took: began.elapsed() });
            }
            (FailoverState::WaitingForSync | FailoverState::InProgress, _) => {}
        }
        if Instant::now() >= deadline {
            if aborted {
                return Err(SwitchError::StillUnderWay);
            }
            aborted = true;
            let soon = Instant::now() + Duration::from_secs(1);
            // Refused when it just ended by itself: the next look tells.
            if let Err(error) = link.order("abort the switch", &["FAILOVER", "ABORT"], soon).await {
                tracing::warn!(%error, "the switch could not be aborted");
            }
        }
        tokio::time::sleep(POLL).await;
    }
}
