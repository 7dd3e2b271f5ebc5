//! `[access]`: which users and groups of this host may ask what of the agent, over its Unix socket. Grammar only: who a caller
//! is, and what a question needs, is `rpc::access`.

use serde::Deserialize;

/// Who has which role; a higher one includes the lower ones. Where the section stands, whoever is not named may ask nothing.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessSection {
    /// May look.
    #[serde(default)]
    pub view: Vec<Principal>,
    /// May also start, stop and pause what keeps every promise.
    #[serde(default)]
    pub operate: Vec<Principal>,
    /// May also waive verdict, hold-down and lag limit, and accept loss.
    #[serde(default)]
    pub force: Vec<Principal>,
    /// May also change groups and members. Root and the agent's own user always may.
    #[serde(default)]
    pub admin: Vec<Principal>,
}

/// A user or a group of this host: `user:ada`, `group:ops`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Principal {
    /// A user, by name.
    User(String),
    /// A group, by name.
    Group(String),
}

impl std::fmt::Display for Principal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(name) => write!(f, "user:{name}"),
            Self::Group(name) => write!(f, "group:{name}"),
        }
    }
}

/// The text names neither a user nor a group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names neither a user nor a group; write user:NAME or group:NAME")]
pub struct PrincipalError(String);

impl TryFrom<String> for Principal {
    type Error = PrincipalError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.split_once(':') {
            Some(("user", name)) if usable(name) => Ok(Self::User(name.to_owned())),
            Some(("group", name)) if usable(name) => Ok(Self::Group(name.to_owned())),
            Some(_) | None => Err(PrincipalError(text)),
        }
    }
}

fn usable(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c == ':' || c == ',' || c.is_whitespace() || c.is_control())
}
