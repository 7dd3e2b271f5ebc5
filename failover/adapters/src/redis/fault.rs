//! What Redis answers when it does not do what it was asked: a closed list, made from the reply's code and from what the
//! network said. The text behind the code is for people and decides nothing.

use std::io;

use redis::RedisError;

/// Why a command has no good answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody listens: the host is there, the server is not.
    Refused,
    /// The network said that there is no way.
    Unreachable,
    /// Nothing came within the deadline. Whether the command was done is not known.
    TimedOut,
    /// The connection broke, or was closed by the server. Whether the command was done is not known.
    Broken,
    /// It is loading its data (`LOADING`).
    Loading,
    /// It is a replica and takes no writes (`READONLY`).
    ReadOnly,
    /// It is a replica without a link to its primary and serves nothing stale (`MASTERDOWN`).
    MasterDown,
    /// It takes no writes.
    WriteStopped(WriteStop),
    /// A script runs for too long (`BUSY`).
    Busy,
    /// It does not let the user in (`NOAUTH`, `WRONGPASS`, `DENIED`), or the password cannot be read.
    Authentication,
    /// The user may not do that (`NOPERM`).
    NoPermission,
    /// The certificate of the server, or ours, was not accepted.
    Tls,
    /// It answered with another code.
    Other {
        /// The first word of the reply.
        code: String,
    },
    /// What it answered is not what Redis answers to this.
    Form,
}

/// Why a primary takes no writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteStop {
    /// It cannot save its data to disk (`MISCONF`).
    Disk,
    /// Too few replicas, or the gate of mesh (`NOREPLICAS`).
    Replicas,
    /// Its memory is full (`OOM`).
    Memory,
}

impl Fault {
    /// Whether the command may have been done all the same.
    #[must_use]
    pub const fn may_have_been_done(&self) -> bool {
        match self {
            Self::TimedOut | Self::Broken | Self::Form => true,
            Self::Refused
            | Self::Unreachable
            | Self::Loading
            | Self::ReadOnly
            | Self::MasterDown
            | Self::WriteStopped(_)
            | Self::Busy
            | Self::Authentication
            | Self::NoPermission
            | Self::Tls
            | Self::Other { .. } => false,
        }
    }

    /// Five letters, for evidence that has room for no more.
    #[must_use]
    pub fn short(&self) -> [u8; 5] {
        match self {
            Self::Refused => *b"REFUS",
            Self::Unreachable => *b"NOWAY",
            Self::TimedOut => *b"LATE ",
            Self::Broken => *b"io   ",
            Self::Loading => *b"LOADI",
            Self::ReadOnly => *b"RDONL",
            Self::MasterDown => *b"MDOWN",
            Self::WriteStopped(WriteStop::Disk) => *b"MISCO",
            Self::WriteStopped(WriteStop::Replicas) => *b"NOREP",
            Self::WriteStopped(WriteStop::Memory) => *b"OOM  ",
            Self::Busy => *b"BUSY ",
            Self::Authentication => *b"NOAUT",
            Self::NoPermission => *b"NOPER",
            Self::Tls => *b"TLS  ",
            Self::Other { .. } => *b"ERR  ",
            Self::Form => *b"FORM ",
        }
    }

    /// From the first word of an error reply.
    pub(super) fn of_code(code: &str) -> Self {
        match code {
            "LOADING" => Self::Loading,
            "READONLY" => Self::ReadOnly,
            "MASTERDOWN" => Self::MasterDown,
            "MISCONF" => Self::WriteStopped(WriteStop::Disk),
            "NOREPLICAS" => Self::WriteStopped(WriteStop::Replicas),
            "OOM" => Self::WriteStopped(WriteStop::Memory),
            "BUSY" => Self::Busy,
            "NOAUTH" | "WRONGPASS" | "DENIED" => Self::Authentication,
            "NOPERM" => Self::NoPermission,
            other => Self::Other { code: other.to_owned() },
        }
    }

    pub(super) fn of(error: &RedisError) -> Self {
        if let Some(code) = error.code() {
            return Self::of_code(code);
        }
        if error.is_timeout() {
            return Self::TimedOut;
        }
        if error.is_io_error() { Self::Broken } else { Self::Form }
    }

    /// While connecting: nothing was sent.
    pub(super) fn of_connect(error: &io::Error) -> Self {
        let kind = error.kind();
        if matches!(kind, io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) {
            Self::Refused
        } else if kind == io::ErrorKind::TimedOut {
            Self::TimedOut
        } else if matches!(kind, io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) {
            Self::Unreachable
        } else if kind == io::ErrorKind::InvalidData {
            // rustls reports a refused certificate as such.
            Self::Tls
        } else {
            Self::Broken
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused => f.write_str("nobody listens there; is the server started?"),
            Self::Unreachable => f.write_str("the network does not lead there; check routes and firewalls"),
            Self::TimedOut => f.write_str("no answer came in time; it hangs, or the network loses packets"),
            Self::Broken => f.write_str("the connection broke; it may have died, or have no connection free"),
            Self::Loading => f.write_str("it is loading its data; wait until that is done"),
            Self::ReadOnly => f.write_str("it is a replica; write to the primary"),
            Self::MasterDown => f.write_str(
                "it is cut off from its primary and serves nothing; set replica-serve-stale-data yes",
            ),
            Self::WriteStopped(WriteStop::Disk) => {
                f.write_str("it takes no writes since it cannot save; check its disk")
            }
            Self::WriteStopped(WriteStop::Replicas) => {
                f.write_str("it takes no writes; too few replicas, or mesh gates it")
            }
            Self::WriteStopped(WriteStop::Memory) => {
                f.write_str("it takes no writes; its memory is full, so raise maxmemory")
            }
            Self::Busy => f.write_str("a script keeps it busy; end it with SCRIPT KILL"),
            Self::Authentication => f.write_str("it does not let mesh in; check user and password file"),
            Self::NoPermission => f.write_str("the user lacks a permission; give it the ACL that mesh needs"),
            Self::Tls => f.write_str("the certificates do not fit; check authority, names and key"),
            Self::Other { code } => write!(f, "it answered {code}; its log says more"),
            Self::Form => f.write_str("what it answered is not what Redis answers; check the address"),
        }
    }
}

/// One command that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {fault}")]
pub struct AskError {
    /// What was wanted.
    pub what: &'static str,
    /// What came instead.
    pub fault: Fault,
}

impl AskError {
    pub(super) const fn new(what: &'static str, fault: Fault) -> Self {
        Self { what, fault }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_decide_and_say_what_to_do() {
        for (code, fault) in [
            ("LOADING", Fault::Loading),
            ("READONLY", Fault::ReadOnly),
            ("MASTERDOWN", Fault::MasterDown),
            ("MISCONF", Fault::WriteStopped(WriteStop::Disk)),
            ("NOREPLICAS", Fault::WriteStopped(WriteStop::Replicas)),
            ("OOM", Fault::WriteStopped(WriteStop::Memory)),
            ("WRONGPASS", Fault::Authentication),
            ("NOPERM", Fault::NoPermission),
            ("ERR", Fault::Other { code: "ERR".to_owned() }),
        ] {
            assert_eq!(Fault::of_code(code), fault);
            assert!(!fault.may_have_been_done());
            assert!(fault.to_string().contains(';'), "{fault}");
        }
        assert!(Fault::TimedOut.may_have_been_done() && Fault::Broken.may_have_been_done());
    }
}
