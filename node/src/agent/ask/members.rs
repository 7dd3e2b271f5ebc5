//! Members that join and leave while the mesh runs, and who of them votes on leases.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mesh_consensus::{Build, Member};
use mesh_proto::AgentName;
use mesh_proto::command::{Command, MemberRecord};
use mesh_proto::join::{TokenRefusal, TokenTried};
use mesh_proto::operator::{Answer, Refusal, RefusalCode};
use mesh_proto::run::Actor;

use super::{Asked, Reply};

/// How long a new agent may take to say who it is.
const IDENTIFY_DEADLINE: Duration = Duration::from_secs(2);
/// How long a change of membership may take, catching up included.
const CHANGE_DEADLINE: Duration = Duration::from_secs(12);

/// Longest word in what the audit keeps of a token: a name with what it is of, an address, the number of a certificate.
const NAMED_MAX: usize = 80;

impl Asked {
    pub(super) async fn add_node(&self, actor: Actor, member: MemberRecord) -> Reply {
        let known = self.driver.consensus.read(|machine| machine.state().members.get(&member.agent).cloned());
        // A voter's record stays a voter's: it votes, whatever is asked for here.
        if let Some(known) = known.filter(|known| known.voter) {
            if (MemberRecord { voter: true, ..member.clone() }) == known {
                return Ok(Answer::Done(format!("{} is a member already, and votes", known.agent)));
            }
            let what = format!(
                "there is an agent {} already: number {} at {}, {}",
                known.agent, known.id, known.site, known.address
            );
            let next = "give the new member a name, a number and an address of its own; nothing was changed";
            return Err(Refusal::new(RefusalCode::Conflict, what, next));
        }
        let found = self
            .driver
            .consensus
            .identify(member.id.0, &member.address, member.agent.as_str(), Instant::now() + IDENTIFY_DEADLINE)
            .await
            .map_err(|error| {
                Refusal::new(
                    RefusalCode::Conflict,
                    format!(
                        "the agent at {} does not answer as number {}: {error}; nothing was changed",
                        member.address, member.id
                    ),
                    "run `mesh agent init` and `mesh agent` there first, with the same mesh id and this number",
                )
            })?;
        self.admissible(&member, found.build)?;
        let raft = Member {
            address: member.address.clone(),
            name: member.agent.as_str().to_owned(),
            incarnation: found.incarnation,
        };
        // The state first: what it refuses must not become a member of the agreement.
        let learner = MemberRecord { voter: false, ..member.clone() };
        self.commit(actor.clone(), vec![Command::MemberAdded { member: learner }]).await?;
        let deadline = Instant::now() + CHANGE_DEADLINE;
        let failed = |error: mesh_consensus::MembersError| {
            Refusal::new(
                RefusalCode::Conflict,
                format!("the membership was not changed: {}", crate::cli::with_causes(&error)),
                "repeat the command: it goes on where it stopped",
            )
        };
        self.driver.consensus.add_learner(member.id.0, raft, deadline).await.map_err(failed)?;
        if !member.voter {
            return Ok(Answer::Done(format!("{} joined without a vote", member.agent)));
        }
        self.driver.consensus.promote_to_voter(member.id.0, deadline).await.map_err(failed)?;
        let agent = member.agent.clone();
        self.commit(actor, vec![Command::MemberAdded { member }]).await?;
        Ok(Answer::Done(format!(
            "{agent} votes in the log now, not on leases yet: name all that shall with `mesh node voters`"
        )))
    }

    /// Whether the build of a new agent can take part: it applies the log from its beginning, or from a snapshot of it, and one that
    /// met a command it does not know would have to stop.
    fn admissible(&self, member: &MemberRecord, build: Build) -> Result<(), Refusal> {
        let next = "install the release of this mesh there (`mesh --version` on both), restart its agent, and repeat this";
        let refused = |what: String| {
            let what = format!("the agent at {} {what}; nothing was changed", member.address);
            Err(Refusal::new(RefusalCode::NotSupported, what, next))
        };
        let ours = u32::from(crate::cli::version::build().protocol);
        // Builds that did not say it spoke the first.
        if build.messages.max(1) != ours {
            return refused(format!("speaks protocol {}, and this mesh {ours}", build.messages.max(1)));
        }
        let needed = self.driver.consensus.read(|machine| machine.state().edition);
        if build.edition < needed {
            return refused(format!(
                "runs an older mesh: it knows the commands of edition {}, those of edition {needed} stand in the log, and it \
                 would stop at them",
                build.edition
            ));
        }
        Ok(())
    }

    /// Whoever serves the authority tells what came of a token.
    pub(super) async fn token_tried(&self, actor: Actor, tried: TokenTried) -> Reply {
        let other = match &tried.refused {
            Some(TokenRefusal::OtherName { of, asked }) => of.len().max(asked.len()),
            Some(TokenRefusal::NotRecorded { why }) => why.len(),
            Some(_) | None => 0,
        };
        let number = tried.number.as_ref().map_or(0, String::len);
        if [tried.identity.len(), tried.from.len(), number, other]
            .into_iter()
            .any(|length| length > NAMED_MAX)
        {
            let what = "nobody joins under a name of that length";
            return Err(Refusal::new(RefusalCode::Invalid, what, "nothing was changed"));
        }
        let line = tried.to_string();
        self.commit(actor, vec![Command::TokenTried { tried }]).await?;
        Ok(Answer::Done(line))
    }

    /// Begins a change of the voters on leases, or gives one up; its end is the leader's own work.
    pub(super) async fn change_voters(&self, actor: Actor, agents: &[AgentName]) -> Reply {
        let state = self.driver.consensus.read(|machine| machine.state().without_audit());
        let mut members = BTreeSet::new();
        for agent in agents {
            let member = state.members.get(agent).ok_or_else(|| {
                let next = "see `mesh node list`; a new one joins with `mesh node add --voter`";
                Refusal::new(RefusalCode::NotFound, format!("there is no agent {agent}"), next)
            })?;
            members.insert(member.id);
        }
        let electorate = &state.electorate;
        let names = state.names(&members);
        if members == electorate.members {
            let way =
                if electorate.changes() { "the change to them is under way" } else { "they vote already" };
            return Ok(Answer::Done(format!("{names}: {way}")));
        }
        let replaces = electorate.version;
        if members == electorate.leaving {
            self.commit(actor, vec![Command::ElectorateKept { replaces }]).await?;
            return Ok(Answer::Done(format!("given up: {names} go on voting on leases")));
        }
        let now = self.driver.clock.now();
        if !electorate.changes()
            && let Err(why) =
                self.driver.with_heard(|coordinator| coordinator.ready_for_voters(now, &state, &members))
        {
            let next =
                "look at `mesh status`: these agents must run, and the guards reach them; then repeat it";
            return Err(Refusal::new(RefusalCode::Conflict, format!("{why}; nothing was changed"), next));
        }
        self.commit(actor, vec![Command::ElectorateChanging { replaces, members }]).await?;
        Ok(Answer::Done(format!(
            "{names} shall vote on leases: in force about {} after they and the old voters know it; `mesh status` shows \
             when. Then put their [[mesh.voter]] into the file of every host",
            state.electorate_wait()
        )))
    }

    pub(super) async fn remove_node(&self, actor: Actor, agent: &AgentName) -> Reply {
        let member = self.driver.consensus.read(|machine| machine.state().members.get(agent).cloned());
        let Some(member) = member else {
            let what = format!("there is no agent {agent}");
            return Err(Refusal::new(RefusalCode::NotFound, what, "see `mesh node list`"));
        };
        self.commit(actor, vec![Command::MemberRemoved { agent: agent.clone() }]).await?;
        let deadline = Instant::now() + CHANGE_DEADLINE;
        self.driver.consensus.remove(member.id.0, deadline).await.map_err(|error| {
            Refusal::new(
                RefusalCode::Conflict,
                format!(
                    "{agent} left the mesh, but not the agreement yet: {}",
                    crate::cli::with_causes(&error)
                ),
                "stop its agent; the mesh does not count on it any more",
            )
        })?;
        Ok(Answer::Done(format!("{agent} left; its number {} is never used again", member.id)))
    }
}
