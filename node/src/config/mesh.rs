//! `[mesh]`: which mesh this host belongs to, and who formed it.

use mesh_proto::MeshId;
use serde::Deserialize;

use super::{Network, VoterSection};

/// The mesh and its founding voters; the same in every agent's file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "File")]
pub struct MeshSection {
    /// Name of the mesh: that of its certificates.
    pub id: MeshId,
    /// How often it was begun anew after a majority of its voters was lost for good (`mesh quorum-recover`).
    pub recovery: u32,
    /// Which mesh messages and stores say they are of: the name and, after recoveries, their number, so that who was left
    /// behind and who went on refuse each other.
    pub acting: MeshId,
    /// How far apart the voters are; the same in every agent's file, or they refuse each other.
    pub network: Network,
    /// The voters that form the mesh.
    pub voters: Vec<VoterSection>,
}

/// As it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    id: MeshId,
    #[serde(default)]
    recovery: u32,
    #[serde(default)]
    network: Network,
    #[serde(rename = "voter")]
    voters: Vec<VoterSection>,
}

/// The name has no room for the number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("mesh {id} cannot be recovered under this name: {id}-r{recovery} is longer than 32 characters")]
pub struct TooLong {
    id: MeshId,
    recovery: u32,
}

/// What a mesh is called after so many recoveries.
///
/// # Errors
/// [`TooLong`].
pub fn after(id: &MeshId, recovery: u32) -> Result<MeshId, TooLong> {
    match recovery {
        0 => Ok(id.clone()),
        times => MeshId::new(format!("{id}-r{times}")).map_err(|_| TooLong { id: id.clone(), recovery }),
    }
}

/// Which recovery of the mesh of this name another mesh is: 0 is the mesh as it was formed, `None` no mesh of this name.
#[must_use]
pub fn recoveries(id: &MeshId, other: &str) -> Option<u32> {
    match other.strip_prefix(id.as_str())? {
        "" => Some(0),
        rest => rest.strip_prefix("-r")?.parse().ok().filter(|number| *number > 0),
    }
}

impl TryFrom<File> for MeshSection {
    type Error = TooLong;
    fn try_from(file: File) -> Result<Self, TooLong> {
        let File { id, recovery, network, voters } = file;
        let acting = after(&id, recovery)?;
        Ok(Self { id, recovery, acting, network, voters })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovered_mesh_has_a_name_of_its_own() {
        let id = MeshId::new("shop").unwrap();
        assert_eq!(after(&id, 0).unwrap().as_str(), "shop");
        assert_eq!(after(&id, 2).unwrap().as_str(), "shop-r2");
        assert_eq!(recoveries(&id, "shop"), Some(0));
        assert_eq!(recoveries(&id, "shop-r12"), Some(12));
        for other in ["shop-r0", "shop-r", "shop-rx", "shopr1", "sho", "shop-east", ""] {
            assert_eq!(recoveries(&id, other), None, "{other}");
        }
        let long = MeshId::new("x".repeat(31)).unwrap();
        assert!(after(&long, 1).unwrap_err().to_string().contains("longer than 32 characters"));
    }
}
