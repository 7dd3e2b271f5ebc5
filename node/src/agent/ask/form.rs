//! Forming the mesh: once, from the voters that the node-local files name.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mesh_consensus::{Member, MembersError};
use mesh_proto::command::{Command, MemberRecord};
use mesh_proto::operator::{Answer, Refusal, RefusalCode};
use mesh_proto::run::Actor;

use super::{Asked, LOOK, Reply};

/// How long a voter may take to say who it is.
const IDENTIFY_DEADLINE: Duration = Duration::from_secs(2);
/// How long the formed voters may take to elect a leader.
const ELECT_DEADLINE: Duration = Duration::from_secs(8);

impl Asked {
    /// Forms the mesh. Safe to repeat: what is formed already is only completed.
    pub(super) async fn form(&self, actor: Actor) -> Reply {
        if let Some(mesh) = self.driver.consensus.read(|machine| machine.state().mesh.clone()) {
            let what = format!("mesh {mesh} is formed already");
            return Err(Refusal::new(RefusalCode::Conflict, what, "add further agents with `mesh node add`"));
        }
        if self.lead_now().is_none() {
            self.form_voters().await?;
        }
        let deadline = Instant::now() + ELECT_DEADLINE;
        loop {
            match self.lead_now() {
                Some(leader) if leader == self.driver.consensus.identity().node => break,
                Some(leader) => return self.forward(leader, actor, mesh_proto::operator::Ask::Form).await,
                None if Instant::now() >= deadline => {
                    return Err(Refusal::new(
                        RefusalCode::NoQuorum,
                        "the voters know each other now, but have not elected a leader",
                        "look at the agents' logs, then run `mesh form` again",
                    ));
                }
                None => tokio::time::sleep(LOOK).await,
            }
        }
        let members: Vec<MemberRecord> = self
            .config
            .mesh
            .voters
            .iter()
            .map(|voter| MemberRecord {
                id: voter.id,
                agent: voter.agent.clone(),
                site: voter.site.clone(),
                address: voter.address.to_string(),
                voter: true,
            })
            .collect();
        let (mesh, count) = (self.config.mesh.acting.clone(), members.len());
        self.commit(actor, vec![Command::MeshFormed { mesh: mesh.clone(), members }]).await?;
        Ok(Answer::Done(format!("mesh {mesh} formed with {count} voters; next: `mesh apply -f FILE`")))
    }

    async fn form_voters(&self) -> Result<(), Refusal> {
        let mut members = BTreeMap::new();
        for voter in &self.config.mesh.voters {
            let address = voter.address.to_string();
            let deadline = Instant::now() + IDENTIFY_DEADLINE;
            let own = self.driver.consensus.identity();
            let incarnation = if own.node == voter.id.0 {
                own.incarnation
            } else {
                let found = self
                    .driver
                    .consensus
                    .identify(voter.id.0, &address, voter.agent.as_str(), deadline)
                    .await;
                found
                    .map_err(|error| {
                        Refusal::new(
                            RefusalCode::NoQuorum,
                            format!("voter {} at {address} does not answer: {error}", voter.agent),
                            "start its agent, check that the files name the same voters, and try again",
                        )
                    })?
                    .incarnation
            };
            let member = Member { address, name: voter.agent.as_str().to_owned(), incarnation };
            members.insert(voter.id.0, member);
        }
        match self.driver.consensus.form(members).await {
            // Formed by somebody else at this moment: go on with it.
            Ok(()) | Err(MembersError::Formed) => Ok(()),
            Err(error) => Err(Refusal::new(
                RefusalCode::Conflict,
                format!("the voters cannot be formed: {}", crate::cli::with_causes(&error)),
                "check [[mesh.voter]] in this agent's file",
            )),
        }
    }
}
