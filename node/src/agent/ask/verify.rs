//! The audit: shown, and verified here and against every other agent.

use std::time::Duration;

use mesh_failover::state;
use mesh_proto::operator::{Agreement, Answer, Ask, AuditReport, Question};
use mesh_proto::run::Actor;

use super::Asked;

/// How long another agent may take to say its hash.
const HASH_DEADLINE: Duration = Duration::from_secs(2);
/// Most records in one answer.
const PAGE_MAX: usize = 500;

impl Asked {
    pub(super) fn audit(&self, from: u64, limit: u32) -> Answer {
        let limit = usize::try_from(limit).unwrap_or(PAGE_MAX).min(PAGE_MAX);
        self.driver.consensus.read(|machine| {
            let records = &machine.state().audit.records;
            Answer::Audit(records.iter().filter(|record| record.seq >= from).take(limit).cloned().collect())
        })
    }

    pub(super) fn hash(&self, seq: u64) -> Answer {
        self.driver.consensus.read(|machine| {
            let audit = &machine.state().audit;
            Answer::AuditHash { head: audit.head().0, hash: audit.hash_at(seq).map(str::to_owned) }
        })
    }

    pub(super) async fn verify(&self) -> Answer {
        let (head, records, broken, members) = self.driver.consensus.read(|machine| {
            let audit = &machine.state().audit;
            let broken = state::verify(audit).err().map(|(seq, why)| (seq, why.to_string()));
            let records = u64::try_from(audit.records.len()).unwrap_or(u64::MAX);
            (audit.head(), records, broken, machine.state().member_list())
        });
        let mut agents = Vec::new();
        for member in members.into_iter().filter(|member| member.agent != self.driver.me) {
            let agreement = match self.driver.peers.agent(&member.agent, &member.address) {
                Err(error) => Agreement::NotReached(crate::cli::with_causes(&error)),
                Ok(client) => {
                    let question = Question { actor: Actor::Mesh, ask: Ask::AuditHash { seq: head.0 } };
                    match client.ask(&question, HASH_DEADLINE).await {
                        Ok(Answer::AuditHash { hash: Some(hash), .. }) if hash == head.1 => {
                            Agreement::Agrees(head.0)
                        }
                        Ok(Answer::AuditHash { hash: Some(_), .. }) => Agreement::Differs(head.0),
                        // It is behind, or has pruned: compare where both have a record.
                        Ok(Answer::AuditHash { head: theirs, hash: None }) => {
                            self.compare_at(&client, theirs.min(head.0)).await
                        }
                        Ok(_) => Agreement::NotReached("it answered something else".to_owned()),
                        Err(error) => Agreement::NotReached(error.to_string()),
                    }
                }
            };
            agents.push((member.agent, agreement));
        }
        Answer::AuditVerified(AuditReport { records, head, broken, agents })
    }

    async fn compare_at(&self, client: &crate::rpc::AgentClient, seq: u64) -> Agreement {
        let ours =
            self.driver.consensus.read(|machine| machine.state().audit.hash_at(seq).map(str::to_owned));
        let question = Question { actor: Actor::Mesh, ask: Ask::AuditHash { seq } };
        match (ours, client.ask(&question, HASH_DEADLINE).await) {
            (Some(ours), Ok(Answer::AuditHash { hash: Some(theirs), .. })) if ours == theirs => {
                Agreement::Agrees(seq)
            }
            (Some(_), Ok(Answer::AuditHash { hash: Some(_), .. })) => Agreement::Differs(seq),
            (_, Ok(_)) => Agreement::NotReached("no record in common is kept".to_owned()),
            (_, Err(error)) => Agreement::NotReached(error.to_string()),
        }
    }
}
