//! Who may say what. A refusal is a `PERMISSION_DENIED` that names both sides.

use mesh_proto::run::Actor;
use mesh_proto::{AgentName, InstanceName};
use tonic::{Request, Status};

use crate::tls::Identity;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// An agent or guard, by its certificate.
    Peer(Identity),
    /// A user of this host, by the kernel's word.
    Local(LocalUser),
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Peer(identity) => identity.fmt(f),
            Self::Local(user) => write!(f, "user {}", user.name),
        }
    }
}

/// A user of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalUser {
    /// User id.
    pub uid: u32,
    /// Id of the group that the calling process runs as.
    pub gid: u32,
    /// Login name; `uid N` where `/etc/passwd` does not know it.
    pub name: String,
    /// The calling process, if the kernel says.
    pub pid: Option<i32>,
}

impl LocalUser {
    /// Looks up the name of a user id.
    #[must_use]
    pub fn new(uid: u32, gid: u32, pid: Option<i32>) -> Self {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let name = passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
        });
        Self { uid, gid, name: name.unwrap_or_else(|| format!("uid {uid}")), pid }
    }

    /// How the audit names this user.
    #[must_use]
    pub fn actor(&self) -> Actor {
        Actor::Operator(self.name.clone())
    }
}

/// Who sent a request.
///
/// # Errors
/// `UNAUTHENTICATED` if the connection carries no identity, which only a listener outside this crate could cause.
pub fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>();
    caller.cloned().ok_or_else(|| Status::unauthenticated("the connection carries no identity"))
}

/// Refuses everybody but the guard of this instance: nobody else may renew its lease or speak of its state.
///
/// # Errors
/// `PERMISSION_DENIED`.
pub fn guard_of(caller: &Caller, instance: &InstanceName) -> Result<(), Status> {
    match caller {
        Caller::Peer(Identity::Guard(guard)) if guard == instance => Ok(()),
        Caller::Peer(_) | Caller::Local(_) => {
            Err(denied(caller, &format!("speak for the guard of {instance}")))
        }
    }
}

/// Refuses everybody but agents.
///
/// # Errors
/// `PERMISSION_DENIED`.
pub fn agent(caller: &Caller) -> Result<&AgentName, Status> {
    match caller {
        Caller::Peer(Identity::Agent(name)) => Ok(name),
        Caller::Peer(Identity::Guard(_) | Identity::Operator(..) | Identity::Authority)
        | Caller::Local(_) => Err(denied(caller, "speak as an agent")),
    }
}

/// Refuses everybody but this agent (a report, or a Raft message, must come from the agent that it names).
///
/// # Errors
/// `PERMISSION_DENIED`.
pub fn is_agent(caller: &Caller, expected: &AgentName) -> Result<(), Status> {
    if agent(caller)? == expected {
        return Ok(());
    }
    Err(denied(caller, &format!("speak as agent {expected}")))
}

/// Refuses everybody but agents that belong to the mesh: a certificate alone orders nothing once its member was removed.
///
/// # Errors
/// `PERMISSION_DENIED`.
pub fn member(caller: &Caller, is_member: impl FnOnce(&AgentName) -> bool) -> Result<&AgentName, Status> {
    let name = agent(caller)?;
    if is_member(name) {
        return Ok(name);
    }
    Err(denied(caller, "give orders here: it is no member of the mesh"))
}

/// Who asks, for the audit: a local user and a person with a certificate by name; another agent forwards in the name that it
/// vouches for.
///
/// # Errors
/// `PERMISSION_DENIED` for guards, which ask nothing.
pub fn actor(caller: &Caller, claimed: &Actor) -> Result<Actor, Status> {
    match caller {
        Caller::Local(user) => Ok(user.actor()),
        Caller::Peer(Identity::Agent(_)) => Ok(claimed.clone()),
        Caller::Peer(Identity::Operator(name, _)) => Ok(Actor::Operator(name.as_str().to_owned())),
        Caller::Peer(Identity::Authority) => Ok(Actor::Operator("authority".to_owned())),
        Caller::Peer(Identity::Guard(_)) => Err(denied(caller, "ask as an operator")),
    }
}

fn denied(caller: &Caller, what: &str) -> Status {
    Status::permission_denied(format!("{caller} may not {what}"))
}
