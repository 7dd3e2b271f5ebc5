//! The name in a certificate: which agent, guard or person, of which mesh. A person's certificate names their role too, so that
//! every agent knows it without asking anybody.

use mesh_proto::access::Role;
use mesh_proto::{AgentName, InstanceName, MeshId, OperatorName};
use rustls::pki_types::{CertificateDer, ServerName};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The part of a DNS name that makes clear that it is ours. It is never looked up.
const SUFFIX: &str = "mesh";
/// What the authority itself is called. No name of an agent, guard or person can be made into it: those have two labels.
const AUTHORITY: &str = "authority";

/// Whom a certificate stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// An agent.
    Agent(AgentName),
    /// The guard of an instance.
    Guard(InstanceName),
    /// A person, who asks agents from elsewhere, and what they may ask.
    Operator(OperatorName, Role),
    /// Whoever holds the authority's key, for the time of serving it.
    Authority,
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Agent(name) => write!(f, "agent {name}"),
            Self::Guard(instance) => write!(f, "guard of {instance}"),
            Self::Operator(name, role) => write!(f, "operator {name} ({role})"),
            Self::Authority => f.write_str("the authority"),
        }
    }
}

/// Why a certificate or a name was refused.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Not an X.509 certificate.
    #[error("the certificate cannot be parsed")]
    Unreadable(#[source] x509_parser::nom::Err<x509_parser::error::X509Error>),
    /// It names no agent or guard, or several.
    #[error(
        "the certificate names {found} mesh identities, expected exactly one (such as agent.NAME.mesh); issue it with `mesh ca issue` or `mesh ca operator`"
    )]
    NotOne {
        /// How many were found.
        found: usize,
    },
    /// It names no mesh.
    #[error("the certificate does not name its mesh (subject O); issue it with `mesh ca issue`")]
    NoMesh,
    /// The name cannot be part of a DNS name.
    #[error("{0} cannot be put into a certificate: a name there must not end with '-'")]
    NotADnsLabel(Identity),
}

impl Identity {
    /// The DNS name in the certificate.
    #[must_use]
    pub fn dns_name(&self) -> String {
        match self {
            Self::Agent(name) => format!("agent.{name}.{SUFFIX}"),
            Self::Guard(instance) => format!("guard.{instance}.{SUFFIX}"),
            Self::Operator(name, role) => format!("operator-{role}.{name}.{SUFFIX}"),
            Self::Authority => format!("{AUTHORITY}.{SUFFIX}"),
        }
    }

    /// The same, as a client expects it of a server.
    ///
    /// # Errors
    /// [`IdentityError::NotADnsLabel`].
    pub fn server_name(&self) -> Result<ServerName<'static>, IdentityError> {
        ServerName::try_from(self.dns_name()).map_err(|_| IdentityError::NotADnsLabel(self.clone()))
    }

    /// The identity of that DNS name.
    #[must_use]
    pub fn from_dns_name(name: &str) -> Option<Self> {
        let name = name.strip_suffix(SUFFIX)?.strip_suffix('.')?;
        if name == AUTHORITY {
            return Some(Self::Authority);
        }
        let (kind, label) = name.split_once('.')?;
        match kind.split_once('-') {
            None if kind == "agent" => AgentName::new(label).ok().map(Self::Agent),
            None if kind == "guard" => InstanceName::new(label).ok().map(Self::Guard),
            Some(("operator", role)) => {
                Some(Self::Operator(OperatorName::new(label).ok()?, role.parse().ok()?))
            }
            Some(_) | None => None,
        }
    }

    /// Reads mesh and identity from a certificate. Only call it on one whose chain was verified.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn of(certificate: &CertificateDer<'_>) -> Result<(MeshId, Self), IdentityError> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(IdentityError::Unreadable)?;
        let mesh = parsed
            .subject()
            .iter_organization()
            .filter_map(|attribute| attribute.as_str().ok())
            .find_map(|text| MeshId::new(text).ok())
            .ok_or(IdentityError::NoMesh)?;
        let names = parsed.subject_alternative_name().ok().flatten();
        let mut found: Vec<Self> = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| if let GeneralName::DNSName(name) = name { Some(*name) } else { None })
            .filter_map(Self::from_dns_name)
            .collect();
        match (found.pop(), found.len()) {
            (Some(identity), 0) => Ok((mesh, identity)),
            (last, rest) => Err(IdentityError::NotOne { found: rest + usize::from(last.is_some()) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_agents_and_guards_do_not_mix() {
        let agent = Identity::Agent(AgentName::new("east-1").unwrap());
        assert_eq!(Identity::from_dns_name(&agent.dns_name()), Some(agent));
        let guard = Identity::Guard(InstanceName::new("pg-east").unwrap());
        assert_eq!(Identity::from_dns_name("guard.pg-east.mesh"), Some(guard));
        let ada = Identity::Operator(OperatorName::new("ada").unwrap(), Role::Force);
        assert_eq!(Identity::from_dns_name("operator-force.ada.mesh"), Some(ada));
        assert_eq!(Identity::from_dns_name(&Identity::Authority.dns_name()), Some(Identity::Authority));
        for other in [
            "agent.east-1",
            "agent..mesh",
            "mesh",
            "agent.a.b.mesh",
            "x.a.mesh",
            "agent.A.mesh",
            "operator.ada.mesh",
            "operator-root.ada.mesh",
            "operator-.ada.mesh",
            "agent-force.ada.mesh",
            "agent.authority.mesh.mesh",
        ] {
            assert_eq!(Identity::from_dns_name(other), None, "{other}");
        }
        let bad = Identity::Agent(AgentName::new("east-").unwrap());
        assert!(matches!(bad.server_name(), Err(IdentityError::NotADnsLabel(_))));
    }

    #[test]
    fn fuzz_identity() {
        mesh_fuzz::fuzz!("identity", |bytes| {
            let certificate = CertificateDer::from(bytes);
            let Ok((mesh, identity)) = mesh_fuzz::bounded(bytes.len(), || Identity::of(&certificate)) else {
                return;
            };
            let name = identity.dns_name();
            assert_eq!(Identity::from_dns_name(&name), Some(identity));
            for word in [name.as_str(), mesh.as_str()] {
                let there = bytes.windows(word.len()).any(|window| window == word.as_bytes());
                assert!(there, "{word} does not stand in the certificate");
            }
        });
    }
}
