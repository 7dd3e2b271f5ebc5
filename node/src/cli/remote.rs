//! Whom a command asks: the agent of this host over its socket, or, with `--at`, one anywhere with a certificate of the person's own
//! (`mesh ca operator`). It only reads the person's files; what they may ask is decided by the agent.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use mesh_proto::AgentName;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::args::Common;
use super::caller;
use super::client::{Client, Remote};
use super::exit::{Exit, Failure};
use crate::tls::material::Files;
use crate::tls::{Dialer, Identity, Material};

/// `NAME@HOST:PORT`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At {
    /// The agent.
    pub agent: AgentName,
    /// Its listener.
    pub address: String,
}

impl std::str::FromStr for At {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = "must be NAME@HOST:PORT, such as east-1@10.1.0.10:7400: `mesh node list` shows both";
        let (name, address) = text.split_once('@').ok_or(wrong)?;
        let agent = AgentName::new(name).map_err(|error| format!("{error}; it {wrong}"))?;
        Ok(Self { agent, address: super::args::host_port(address)? })
    }
}

/// The client of whom the command line means.
///
/// # Errors
/// A [`Failure`] where the person's files cannot be used.
pub fn client(common: &Common) -> Result<Client, Failure> {
    let Some(at) = &common.at else {
        return Ok(Client::new(&common.socket, caller::operator()));
    };
    let Some(dir) = &common.identity else {
        return Err(Failure::new(
            Exit::Invalid,
            "an agent on another host is asked with a certificate of your own, and none is named",
            "add --identity DIR (or MESH_IDENTITY): what `mesh ca operator` wrote for you",
        ));
    };
    let material = material(dir)?;
    Ok(Client::remote(Remote {
        agent: at.agent.clone(),
        address: at.address.clone(),
        dialer: Dialer::new(material),
    }))
}

fn material(dir: &Path) -> Result<Material, Failure> {
    let next =
        "name the directory that `mesh ca operator` wrote, with operator.crt, operator.key and ca.crt in it";
    let file = |name: &str| dir.join(name);
    let (ca, cert, key, crl) = (file("ca.crt"), file("operator.crt"), file("operator.key"), file("crl.pem"));
    let der = CertificateDer::from_pem_file(&cert).map_err(|error| {
        Failure::new(Exit::Invalid, format!("there is no certificate in {}: {error}", cert.display()), next)
    })?;
    let (mesh, identity) =
        Identity::of(&der).map_err(|error| Failure::new(Exit::Invalid, super::with_causes(&error), next))?;
    if !matches!(identity, Identity::Operator(..)) {
        let what = format!("{} is the certificate of {identity}, and no person's", cert.display());
        return Err(Failure::new(Exit::Invalid, what, next));
    }
    exposed(&key)?;
    let crl: Option<PathBuf> = crl.exists().then_some(crl);
    let files = Files { ca: &ca, cert: &cert, key: &key, crl: crl.as_deref() };
    Material::load(files, &mesh, &identity).map_err(|error| {
        let next = "ask whoever has the authority for another: mesh ca operator NAME --role ROLE --dir DIR --out NEW";
        Failure::new(Exit::Invalid, super::with_causes(&error), next)
    })
}

/// Refuses a file with a secret that others on this host may read.
///
/// # Errors
/// A [`Failure`] that says how to close it.
pub fn exposed(path: &Path) -> Result<(), Failure> {
    let Ok(found) = std::fs::metadata(path) else { return Ok(()) };
    if found.is_file() && found.permissions().mode() & 0o004 != 0 {
        let what = format!("{} holds a secret and everybody on this host may read it", path.display());
        return Err(Failure::new(Exit::Invalid, what, format!("chmod o= {}", path.display())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca;

    #[test]
    fn an_agent_elsewhere_is_named_with_its_address() {
        let at: At = "east-1@10.1.0.10:7400".parse().unwrap();
        assert_eq!((at.agent.as_str(), at.address.as_str()), ("east-1", "10.1.0.10:7400"));
        for bad in ["10.1.0.10:7400", "@10.1.0.10:7400", "east-1@", "east-1@host", "East@h:1", "east-1@h:0"] {
            assert!(bad.parse::<At>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_a_persons_own_files_are_used() {
        let dir = tempfile::tempdir().unwrap();
        let (authority, out) = (dir.path().join("ca"), dir.path().join("ada"));
        ca::init(&authority, &"shop".parse().unwrap()).unwrap();
        let none = material(&out).unwrap_err();
        assert!(none.next.contains("mesh ca operator"), "{none:?}");
        let role = mesh_proto::access::Role::View;
        let pair = ca::operator(&authority, &"ada".parse().unwrap(), role, 30, &out).unwrap();
        material(&out).unwrap();
        std::fs::set_permissions(&pair.key, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(material(&out).unwrap_err().next.starts_with("chmod o="));
        let agent = Identity::Agent("east".parse().unwrap());
        let pair = ca::issue(&authority, &agent, &[], &dir.path().join("east")).unwrap();
        std::fs::copy(&pair.cert, out.join("operator.crt")).unwrap();
        let other = material(&out).unwrap_err();
        assert!(other.what.contains("is the certificate of agent east"), "{other:?}");
    }
}
