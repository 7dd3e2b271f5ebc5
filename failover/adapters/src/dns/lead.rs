//! Leads the names of one zone, whichever system keeps it: read, decide, change if all is as read, read again.

use std::time::Instant;

use super::decide::{Decision, Seen, Wanted, decide};
use super::error::{DnsError, Lost};

/// How often a change that others overtook, or whose answer was lost, is tried.
const TRIES: u32 = 4;

/// A zone that can be read and changed by compare-and-set.
pub trait Zone: Sync {
    /// Reads what stands at the wanted names, from the server that takes changes and from no cache.
    fn read(
        &self,
        wanted: &Wanted,
        deadline: Instant,
    ) -> impl Future<Output = Result<Vec<Seen>, DnsError>> + Send;

    /// Changes all names and their markers at once, only if everything still is exactly as seen.
    fn change(
        &self,
        wanted: &Wanted,
        seen: &[Seen],
        deadline: Instant,
    ) -> impl Future<Output = Result<(), NotChanged>> + Send;
}

/// Why a change was not made, or may not have been.
#[derive(Debug)]
pub enum NotChanged {
    /// Something is not as seen any more; nothing was changed.
    Differs,
    /// Certainly not changed, for another reason.
    Because(DnsError),
    /// Nobody knows.
    Lost(Lost),
}

/// Names lead where they should.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Led {
    /// Whether anything had to be changed.
    pub changed: bool,
    /// Servers that were asked whether they show it.
    pub servers: u32,
    /// Those that did not show it in time, and why.
    pub lagging: Vec<String>,
}

/// Leads the names. Doing it again changes nothing.
///
/// A change whose answer was lost is repeated without waiting for its fate: until somebody else changes the names it does
/// the same as its repetition, and afterwards the server refuses it.
///
/// # Errors
/// [`DnsError`]; after [`DnsError::Unknown`] call [`verify`] before anything else.
pub async fn lead<Z: Zone>(zone: &Z, wanted: &Wanted, deadline: Instant) -> Result<Led, DnsError> {
    let at = || wanted.zone.clone();
    let (mut lost, mut accepted) = (None, false);
    for _ in 0..TRIES {
        let seen = match zone.read(wanted, deadline).await {
            Ok(seen) => seen,
            Err(error) => {
                return Err(match lost {
                    Some(source) => DnsError::Unknown { zone: at(), source },
                    None if accepted => DnsError::Unknown { zone: at(), source: Lost::Late },
                    None => error,
                });
            }
        };
        if decide(wanted, &seen)? == Decision::Nothing {
            return Ok(Led { changed: accepted || lost.is_some(), ..Led::default() });
        }
        match zone.change(wanted, &seen, deadline).await {
            Ok(()) => accepted = true,
            Err(NotChanged::Differs) => {}
            Err(NotChanged::Lost(how)) => lost = Some(how),
            Err(NotChanged::Because(error)) => {
                return Err(match lost {
                    Some(source) => DnsError::Unknown { zone: at(), source },
                    None => error,
                });
            }
        }
    }
    if let Some(source) = lost {
        return Err(DnsError::Unknown { zone: at(), source });
    }
    let what = if accepted {
        "the server accepted the change, and what it shows is still not what was asked; look at its log"
    } else {
        "the names change faster than they can be read; look who else changes them"
    };
    Err(DnsError::NotInForce { zone: at(), what: what.to_owned() })
}

/// Finds out whether the names lead there in this epoch, and changes nothing.
///
/// # Errors
/// [`DnsError::NotSo`] when they do not; what else stands in the way.
pub async fn verify<Z: Zone>(zone: &Z, wanted: &Wanted, deadline: Instant) -> Result<Led, DnsError> {
    let seen = zone.read(wanted, deadline).await?;
    let not_so = || DnsError::NotSo {
        zone: wanted.zone.clone(),
        names: wanted.names.iter().map(|name| name.name.to_string()).collect(),
    };
    match decide(wanted, &seen) {
        Ok(Decision::Nothing) => Ok(Led::default()),
        // That this epoch led it elsewhere is the business of who would change it.
        Ok(Decision::Change) | Err(DnsError::Conflict { .. }) => Err(not_so()),
        Err(error) => Err(error),
    }
}
