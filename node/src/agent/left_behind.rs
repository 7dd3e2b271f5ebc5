//! A voter that a recovery of its mesh left behind, and that comes back as it was: from the first word of an agent of the mesh
//! that went on, it stops, and does not start again. So two meshes of one name end as soon as one can reach the other.
//!
//! It believes only agents of the same authority, which are heard over mutual TLS, and never removes what the agent had.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use mesh_proto::MeshId;
use tokio::sync::watch;

use crate::config::{MeshSection, recoveries};
use crate::rpc::Caller;
use crate::rpc::envelope::EnvelopeError;
use crate::tls::Identity;

/// Why a left-behind agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum LeftBehindError {
    /// Its mesh was recovered without it.
    #[error(
        "mesh {ours} was begun anew as {theirs}, without this agent: what it knew is over. Keep its data_dir aside, write \
         `recovery` of the mesh that went on and a new `id` into its file, and join: `mesh agent init`, `mesh node add`"
    )]
    Known {
        /// Its mesh.
        ours: MeshId,
        /// The mesh that went on.
        theirs: String,
    },
    /// The note of it.
    #[error("cannot {doing} {}", path.display())]
    Note {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The note says something else.
    #[error("{} does not name a recovery of mesh {mesh}; if this agent was not left behind, remove it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The mesh.
        mesh: MeshId,
    },
}

fn note(data_dir: &Path) -> PathBuf {
    data_dir.join("left-behind")
}

/// Refuses to start an agent that was told so before, under the recovery that its file still says.
///
/// # Errors
/// [`LeftBehindError`].
pub fn check(data_dir: &Path, mesh: &MeshSection) -> Result<(), LeftBehindError> {
    let path = note(data_dir);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(LeftBehindError::Note { doing: "read", path, source }),
    };
    let theirs = text.trim();
    match recoveries(&mesh.id, theirs) {
        None => Err(LeftBehindError::Damaged { path, mesh: mesh.id.clone() }),
        Some(number) if number > mesh.recovery => {
            Err(LeftBehindError::Known { ours: mesh.acting.clone(), theirs: theirs.to_owned() })
        }
        Some(_) => Ok(()),
    }
}

/// What an agent hears about it.
#[derive(Debug)]
pub struct LeftBehind {
    mesh: MeshSection,
    heard: watch::Sender<Option<String>>,
}

impl LeftBehind {
    /// Nothing heard yet.
    #[must_use]
    pub fn new(mesh: MeshSection) -> Self {
        Self { mesh, heard: watch::Sender::new(None) }
    }

    /// Which mesh it belongs to.
    #[must_use]
    pub const fn mesh(&self) -> &MeshSection {
        &self.mesh
    }

    /// Looks at a message that was refused: another agent of this mesh's authority, of a later recovery of the same mesh, has
    /// gone on without this one.
    pub fn look(&self, who: &Caller, refused: &EnvelopeError) {
        let (Caller::Peer(Identity::Agent(_)), EnvelopeError::OtherMesh { theirs, .. }) = (who, refused)
        else {
            return;
        };
        if recoveries(&self.mesh.id, theirs).is_some_and(|number| number > self.mesh.recovery) {
            self.heard.send_replace(Some(theirs.clone()));
        }
    }

    /// Waits until it is so, and notes it; then the agent must stop.
    pub async fn ended(&self, data_dir: &Path) -> LeftBehindError {
        let mut heard = self.heard.subscribe();
        let theirs = match heard.wait_for(Option::is_some).await {
            Ok(theirs) => theirs.clone().unwrap_or_default(),
            // The sender is this very value.
            Err(_closed) => std::future::pending().await,
        };
        let path = note(data_dir);
        let written = std::fs::File::create(&path).and_then(|mut file| {
            file.write_all(format!("{theirs}\n").as_bytes())?;
            file.sync_all()
        });
        match written {
            Ok(()) => LeftBehindError::Known { ours: self.mesh.acting.clone(), theirs },
            Err(source) => {
                LeftBehindError::Note { doing: "note that this agent was left behind, in", path, source }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(recovery: u32) -> MeshSection {
        let voter = r#"{"id":1,"agent":"a","site":"s","address":"127.0.0.1:7400"}"#;
        serde_json::from_str(&format!(r#"{{"id":"shop","recovery":{recovery},"voter":[{voter}]}}"#)).unwrap()
    }

    fn refused(theirs: &str) -> EnvelopeError {
        EnvelopeError::OtherMesh { theirs: theirs.to_owned(), ours: MeshId::new("shop").unwrap() }
    }

    #[tokio::test]
    async fn an_agent_that_was_left_behind_stops_and_does_not_start_again() {
        let dir = tempfile::tempdir().unwrap();
        let agent = Caller::Peer(Identity::Agent("b".parse().unwrap()));
        let guard = Caller::Peer(Identity::Guard("pg".parse().unwrap()));
        let left = LeftBehind::new(section(0));
        for (who, theirs) in
            [(&guard, "shop-r1"), (&agent, "shop"), (&agent, "shopping-r1"), (&agent, "other-r1")]
        {
            left.look(who, &refused(theirs));
            assert!(left.heard.borrow().is_none(), "{theirs} said it");
        }
        check(dir.path(), &section(0)).unwrap();
        left.look(&agent, &refused("shop-r2"));
        assert!(left.ended(dir.path()).await.to_string().contains("begun anew as shop-r2"));
        check(dir.path(), &section(0)).unwrap_err();
        check(dir.path(), &section(1)).unwrap_err();
        check(dir.path(), &section(2)).unwrap();
        std::fs::write(note(dir.path()), "").unwrap();
        assert!(matches!(check(dir.path(), &section(2)), Err(LeftBehindError::Damaged { .. })));
    }

    #[test]
    fn the_one_that_went_on_does_not_listen_to_the_old_one() {
        let left = LeftBehind::new(section(1));
        left.look(&Caller::Peer(Identity::Agent("b".parse().unwrap())), &refused("shop"));
        assert!(left.heard.borrow().is_none());
    }
}
