//! Names that an operator chose. A name is checked once, when it is made; afterwards it is known to be well formed.

use serde::{Deserialize, Serialize};

/// Longest accepted name, in bytes. PostgreSQL cuts `application_name` at 63 bytes and mesh puts an instance name,
/// a data incarnation and an epoch into it, so names stay short.
pub const NAME_MAX_BYTES: usize = 32;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no characters.
    #[error("a {kind} name must not be empty")]
    Empty {
        /// What the name was for.
        kind: &'static str,
    },
    /// The name is longer than [`NAME_MAX_BYTES`].
    #[error("{kind} name {name:?} has {len} bytes; at most {NAME_MAX_BYTES} are allowed")]
    TooLong {
        /// What the name was for.
        kind: &'static str,
        /// The name as given.
        name: String,
        /// Its length in bytes.
        len: usize,
    },
    /// A character outside the allowed set.
    #[error(
        "{kind} name {name:?} contains {bad:?}; use lower-case letters, digits and '-', starting with a letter"
    )]
    BadCharacter {
        /// What the name was for.
        kind: &'static str,
        /// The name as given.
        name: String,
        /// The first character that is not allowed.
        bad: char,
    },
}

fn check(kind: &'static str, name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { kind });
    }
    if name.len() > NAME_MAX_BYTES {
        return Err(NameError::TooLong { kind, name: name.to_owned(), len: name.len() });
    }
    let bad = name.chars().enumerate().find(|(at, c)| match at {
        0 => !c.is_ascii_lowercase(),
        _ => !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-'),
    });
    match bad {
        Some((_, bad)) => Err(NameError::BadCharacter { kind, name: name.to_owned(), bad }),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Checks and keeps a name.
            ///
            /// # Errors
            /// [`NameError`] when the name is empty, too long or has a character that is not allowed.
            pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
                let name = name.into();
                check($kind, &name)?;
                Ok(Self(name))
            }
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(name)
            }
        }
        impl std::str::FromStr for $type {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }
        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// One mesh: agents of different meshes never talk to each other.
    MeshId, "mesh");
name!(
    /// A place that fails as one, such as `east`, `dr` or `witness`.
    SiteName, "site");
name!(
    /// The mesh daemon on one host.
    AgentName, "agent");
name!(
    /// What fails over together.
    GroupName, "group");
name!(
    /// One PostgreSQL or Redis server; never reused for another one.
    InstanceName, "instance");
name!(
    /// What clients follow to the primary.
    RouteName, "route");
name!(
    /// A service or a hook of a group: what a run does for an operator beside moving the primary.
    ErrandName, "service or hook");
name!(
    /// A person with a certificate of their own. In the audit a user of a host with the same name is the same person.
    OperatorName, "operator");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_once() {
        assert_eq!(SiteName::new("east-1").unwrap().as_str(), "east-1");
        for bad in ["", "East", "1east", "a b", "a_b", "é", &"x".repeat(33)] {
            assert!(SiteName::new(bad).is_err(), "{bad:?} must be refused");
        }
        assert!(serde_json::from_str::<AgentName>("\"UPPER\"").is_err());
    }
}
