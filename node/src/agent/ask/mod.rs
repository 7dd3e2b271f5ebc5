//! Answers the command line. What only looks is answered by any agent from its own applied state; what changes
//! something is forwarded to the leader, with the name of who asked.

mod adopt;
mod change;
mod failover;
mod form;
mod live;
mod members;
mod proposals;
mod status;
mod steps;
mod verify;

use std::sync::Arc;
use std::time::Duration;

use mesh_proto::operator::{Answer, Ask, Question, Refusal, RefusalCode, RunView};
use mesh_proto::run::{Actor, Run};
use mesh_proto::{GroupName, RunId};

use super::driver::{CommandError, Driver};
use crate::config::NodeConfig;
use crate::rpc::CallError;
use crate::tls::Credentials;

/// How long the leader may take to answer a forwarded question.
const FORWARD_DEADLINE: Duration = Duration::from_secs(18);
/// Pause before a question that did not reach a leader is forwarded again.
const FORWARD_AGAIN: Duration = Duration::from_millis(100);
/// How long a question waits for a leader to be elected.
const LEADER_DEADLINE: Duration = Duration::from_secs(4);
/// Pause between two looks at something that is about to change.
const LOOK: Duration = Duration::from_millis(10);

/// Answers questions.
pub struct Asked {
    /// The driver.
    pub driver: Arc<Driver>,
    /// The node-local file: whom to form the mesh with.
    pub config: Arc<NodeConfig>,
    /// This agent's identity: status says what is wrong with it.
    pub credentials: Credentials,
}

type Reply = Result<Answer, Refusal>;

impl Asked {
    /// Answers a question, here or by the leader.
    pub async fn answer(&self, question: Question) -> Answer {
        let Question { actor, ask } = question;
        self.route(actor, ask).await.unwrap_or_else(Answer::Refused)
    }

    async fn route(&self, actor: Actor, ask: Ask) -> Reply {
        match ask {
            Ask::Status => Ok(Answer::Status(Box::new(self.status()))),
            Ask::Why { group } => self.why(group.as_ref()),
            Ask::Run { run } => self.run(run),
            Ask::Audit { from, limit } => Ok(self.audit(from, limit)),
            Ask::AuditVerify => Ok(self.verify().await),
            Ask::AuditHash { seq } => Ok(self.hash(seq)),
            Ask::Nodes => Ok(Answer::Nodes(self.nodes())),
            Ask::Live { group } => self.live(group.as_ref()).await,
            Ask::LiveHere(ask) => Ok(Answer::LiveHere(self.live_here(&ask).await)),
            Ask::Form => self.form(actor).await,
            Ask::Apply { .. }
            | Ask::Adopt { .. }
            | Ask::Failover(_)
            | Ask::Abort { .. }
            | Ask::Retry { .. }
            | Ask::Skip { .. }
            | Ask::Rejoin { .. }
            | Ask::Pause { .. }
            | Ask::Resume { .. }
            | Ask::Ack { .. }
            | Ask::Degrade { .. }
            | Ask::NodeAdd { .. }
            | Ask::NodeVoters { .. }
            | Ask::NodeRemove { .. }
            | Ask::Approve { .. }
            | Ask::Withdraw { .. }
            | Ask::Denied(_)
            | Ask::TokenTried(_) => self.by_leader(actor, ask).await,
        }
    }

    /// Answers as the leader, or has the leader answer.
    async fn by_leader(&self, actor: Actor, ask: Ask) -> Reply {
        if self.driver.consensus.read(|machine| machine.state().mesh.is_none()) && self.lead_now().is_none() {
            return Err(Refusal::new(
                RefusalCode::NoQuorum,
                "this agent does not know a formed mesh",
                "run `mesh form` once, on one agent, when all voters are up",
            ));
        }
        let deadline = tokio::time::Instant::now() + LEADER_DEADLINE;
        loop {
            match self.lead_now() {
                Some(leader) if leader == self.driver.consensus.identity().node => {
                    return self.lead(actor, ask).await;
                }
                Some(leader) => match self.forward(leader, actor.clone(), ask.clone()).await {
                    // Nothing was changed: the leader is gone, and another one is about to be elected.
                    Err(refusal)
                        if refusal.code == RefusalCode::NoQuorum
                            && tokio::time::Instant::now() < deadline =>
                    {
                        tokio::time::sleep(FORWARD_AGAIN).await;
                    }
                    answered => return answered,
                },
                None if tokio::time::Instant::now() >= deadline => {
                    return Err(Refusal::new(
                        RefusalCode::NoQuorum,
                        "no leader: a majority of voters is not reachable from here",
                        "look at `mesh status` on the other agents; nothing was changed",
                    ));
                }
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    fn lead_now(&self) -> Option<u64> {
        self.driver.consensus.standing().leader
    }

    async fn forward(&self, leader: u64, actor: Actor, ask: Ask) -> Reply {
        let member = self
            .driver
            .consensus
            .read(|machine| machine.state().members.values().find(|m| m.id.0 == leader).cloned());
        let voter = self.config.mesh.voters.iter().find(|voter| voter.id.0 == leader);
        let (name, address) = match (member, voter) {
            (Some(member), _) => (member.agent, member.address),
            (None, Some(voter)) => (voter.agent.clone(), voter.address.to_string()),
            (None, None) => {
                return Err(no_quorum(format!("voter {leader} leads, and is no member known here")));
            }
        };
        let client =
            self.driver.peers.agent(&name, &address).map_err(|e| no_quorum(crate::cli::with_causes(&e)))?;
        let question = Question { actor, ask };
        match client.ask(&question, FORWARD_DEADLINE).await {
            Ok(Answer::Refused(refusal)) => Err(refusal),
            Ok(answer) => Ok(answer),
            Err(error @ (CallError::NotReached(_) | CallError::Refused(_))) => {
                Err(no_quorum(format!("the leader {name} could not be asked: {error}")))
            }
            Err(error) => Err(Refusal::new(
                RefusalCode::Unknown,
                format!("the leader {name} did not answer: {error}"),
                "look at `mesh status` and `mesh audit show` before repeating it",
            )),
        }
    }

    async fn lead(&self, actor: Actor, ask: Ask) -> Reply {
        match ask {
            Ask::Apply { spec, dry_run } => self.apply(actor, *spec, dry_run).await,
            Ask::Adopt { group, instance, accept_loss } => {
                self.adopt(actor, &group, &instance, accept_loss).await
            }
            Ask::Failover(wanted) => self.failover(actor, wanted).await,
            Ask::Abort { run, reason } => self.abort(run, reason).await,
            Ask::Retry { run, reason } => self.retry(run, reason).await,
            Ask::Skip { run, errand, reason } => self.skip(actor, run, errand, reason).await,
            Ask::Rejoin { group, instance } => self.rejoin(&group, &instance),
            Ask::Pause { group, length, reason } => self.pause(actor, &group, length, reason).await,
            Ask::Resume { group } => self.resume(&group).await,
            Ask::Ack { group } => self.ack(actor, &group).await,
            Ask::Degrade { group, end: false, reason } => self.degrade(actor, &group, reason).await,
            Ask::Degrade { group, end: true, reason } => self.end_degrade(actor, &group, reason).await,
            Ask::NodeAdd { member } => self.add_node(actor, member).await,
            Ask::NodeVoters { agents } => self.change_voters(actor, &agents).await,
            Ask::NodeRemove { agent } => self.remove_node(actor, &agent).await,
            Ask::Approve { proposal, dry_run } => self.approve(actor, proposal, dry_run).await,
            Ask::Withdraw { proposal, reason } => self.withdraw(actor, proposal, reason).await,
            Ask::Denied(denial) => self.write_down(actor, denial).await,
            Ask::TokenTried(tried) => self.token_tried(actor, tried).await,
            Ask::Form
            | Ask::Status
            | Ask::Why { .. }
            | Ask::Run { .. }
            | Ask::Audit { .. }
            | Ask::AuditVerify
            | Ask::AuditHash { .. }
            | Ask::Live { .. }
            | Ask::LiveHere(_)
            | Ask::Nodes => Err(Refusal::new(
                RefusalCode::Invalid,
                "this question is answered by any agent, and was forwarded by mistake",
                "upgrade the asking agent",
            )),
        }
    }

    /// A run, the one going on or the newest.
    fn run(&self, wanted: Option<RunId>) -> Reply {
        self.driver.consensus.read(|machine| {
            let runs =
                machine.state().groups.values().flat_map(|group| group.run.iter().chain(&group.history));
            let found = match wanted {
                Some(id) => runs.clone().find(|run| run.id == id),
                None => runs.clone().max_by_key(|run| run.id),
            };
            found.map(|run| view(run, false)).ok_or_else(|| {
                let what = wanted
                    .map_or("there was no run yet".to_owned(), |id| format!("there is no run {id} here"));
                Refusal::new(RefusalCode::NotFound, what, "older runs are in `mesh audit show`")
            })
        })
    }

    /// Finds the group that is meant: by name, or the only one.
    fn group(&self, wanted: Option<&GroupName>) -> Result<GroupName, Refusal> {
        self.driver.consensus.read(|machine| {
            let groups = &machine.state().groups;
            let known = || groups.keys().map(GroupName::as_str).collect::<Vec<_>>().join(", ");
            match wanted {
                Some(name) if groups.contains_key(name) => Ok(name.clone()),
                Some(name) => Err(Refusal::new(
                    RefusalCode::NotFound,
                    format!("there is no group {name}"),
                    if groups.is_empty() {
                        "create it with `mesh apply -f FILE`".to_owned()
                    } else {
                        format!("groups: {}", known())
                    },
                )),
                None => match (groups.keys().next(), groups.len()) {
                    (Some(only), 1) => Ok(only.clone()),
                    (None, _) => Err(Refusal::new(
                        RefusalCode::NotFound,
                        "there is no group yet",
                        "create one with `mesh apply -f FILE`",
                    )),
                    (Some(_), _) => Err(Refusal::new(
                        RefusalCode::Invalid,
                        "there are several groups",
                        format!("name one with --group: {}", known()),
                    )),
                },
            }
        })
    }
}

fn view(run: &Run, joined: bool) -> Answer {
    Answer::Run(Box::new(RunView { run: run.clone(), joined }))
}

fn no_quorum(what: String) -> Refusal {
    Refusal::new(
        RefusalCode::NoQuorum,
        what,
        "nothing was changed; look at `mesh status` on the other agents",
    )
}

/// What a proposal that did not come through means for whoever asked.
fn lost(error: &CommandError) -> Refusal {
    use mesh_consensus::ProposeError;
    match error {
        CommandError::Propose(ProposeError::Lost) => Refusal::new(
            RefusalCode::Unknown,
            "nobody knows yet whether it was agreed on",
            "look at `mesh audit show` before repeating it",
        ),
        CommandError::Propose(
            ProposeError::NotLeader { .. }
            | ProposeError::Overloaded
            | ProposeError::Stopped
            | ProposeError::TooLarge { .. },
        )
        | CommandError::Codec(_) => no_quorum(crate::cli::with_causes(error)),
        CommandError::Older(_) => Refusal::new(
            RefusalCode::Conflict,
            error.to_string(),
            "upgrade them (`mesh --version` on each host), start those that are down, and repeat it; nothing was changed",
        ),
    }
}

/// What a refusal of the replicated state means for whoever asked.
fn refused(why: &mesh_proto::command::Refused) -> Refusal {
    use mesh_proto::command::Refused;
    let (code, next) = match why {
        Refused::Conflict { .. } => (RefusalCode::Conflict, "look at `mesh status` and try again"),
        Refused::Unknown { .. } => (RefusalCode::NotFound, "look at `mesh status` for the names"),
        Refused::Forbidden(_) => (RefusalCode::Unsafe, "nothing was changed"),
    };
    Refusal::new(code, why.to_string(), next)
}
