//! Forced runs that take two persons: proposed by one, approved by another. Who may is decided by the replicated state; here
//! the answers are friendlier. Whatever is approved is planned and checked anew, as if it had been asked for just now.

use mesh_failover::coordinator::Request;
use mesh_failover::state::person;
use mesh_proto::command::Command;
use mesh_proto::operator::{Answer, FailoverAsk, Refusal, RefusalCode};
use mesh_proto::proposal::{Approved, Forced, PROPOSAL_LASTS, Proposal, ProposalEnd, Proposed};
use mesh_proto::run::{Actor, Run};
use mesh_proto::{GroupName, InstanceName, ProposalId};

use super::failover::refusal;
use super::steps::plan_view;
use super::{Asked, Reply, refused};
use crate::clock;

impl Asked {
    /// Whether this takes two persons in this group.
    pub(super) fn takes_two(&self, name: &GroupName, from: &InstanceName, ask: &FailoverAsk) -> bool {
        let forced = ask.force || ask.accept_loss;
        forced
            && self.driver.consensus.read(|machine| {
                let group = machine.state().groups.get(name);
                group.is_some_and(|group| group.takes_two(from, ask.site.as_ref()))
            })
    }

    /// Writes down what one person asks for; nothing is begun.
    pub(super) async fn propose(
        &self,
        actor: Actor,
        name: &GroupName,
        ask: &FailoverAsk,
        run: Option<&Run>,
        would: Vec<String>,
    ) -> Reply {
        person(&actor).map_err(nobody)?;
        let (site, instance) = (ask.site.clone(), ask.instance.clone());
        let (force, accept_loss, reason) = (ask.force, ask.accept_loss, ask.reason.clone());
        let forced = Forced { site, instance, force, accept_loss, reason };
        let now = self.driver.consensus.read(|machine| {
            let group = machine.state().groups.get(name)?;
            Some((group.primary.clone()?.instance, group.epoch))
        });
        let Some((from, epoch)) = now else {
            return Err(Refusal::new(RefusalCode::Conflict, "the group has no primary", "see `mesh status`"));
        };
        let proposed = Proposed { forced, from, epoch, run: run.map(|run| run.id), would };
        let command = Command::RunProposed { group: name.clone(), proposed };
        let index = self.commit(actor, vec![command]).await.map_err(|refusal| Refusal {
            code: if refusal.code == RefusalCode::Unsafe { RefusalCode::Conflict } else { refusal.code },
            next: "`mesh approve --list` shows what waits; nothing was changed".to_owned(),
            ..refusal
        })?;
        let (group, open) = self.open_proposal(ProposalId(index))?;
        Ok(Answer::Proposed(group, Box::new(open)))
    }

    /// Another person approves: the run begins.
    pub(super) async fn approve(&self, actor: Actor, id: ProposalId, dry_run: bool) -> Reply {
        let (name, open) = self.open_proposal(id)?;
        if !dry_run {
            let by = person(&actor).map_err(nobody)?;
            if by == open.by {
                let what = format!("you asked for {id} yourself: another person approves it");
                let next = "they run `mesh approve` on any host of the mesh, and need the role force there";
                return Err(Refusal::new(RefusalCode::Denied, what, next));
            }
        }
        // Every leader counts from when it saw it first; this one may not have seen it for long.
        if clock::wall().0.saturating_sub(open.at.0) >= PROPOSAL_LASTS.0 {
            let what = format!("{id} is older than {PROPOSAL_LASTS}");
            return Err(Refusal::new(RefusalCode::Conflict, what, "propose it anew; nothing was changed"));
        }
        let stands = self.driver.consensus.read(|machine| {
            machine.state().groups.get(&name).map_or(Ok(()), mesh_failover::state::Group::proposal_stands)
        });
        stands.map_err(|why| Refusal {
            next: format!("propose it anew if it is still wanted; `mesh withdraw {id}` takes this one back"),
            ..refused(&why)
        })?;
        match open.what.run {
            Some(run) if dry_run => self.run(Some(run)),
            Some(run) => {
                let opens = Approved::Stuck(run);
                self.commit(actor, vec![Command::RunApproved { group: name, proposal: id, opens }]).await?;
                self.run(Some(run))
            }
            None => self.begin(actor, &name, &open, dry_run).await,
        }
    }

    /// Plans and checks what was proposed from what is known now, and begins it.
    async fn begin(&self, actor: Actor, name: &GroupName, open: &Proposal, dry_run: bool) -> Reply {
        let Forced { site, instance, force, accept_loss, reason } = open.what.forced.clone();
        let group = Some(name.clone());
        let graceful_only = false;
        let ask = FailoverAsk { group, site, instance, graceful_only, force, accept_loss, dry_run, reason };
        let considered = self.consider(name, Actor::Operator(open.by.clone()), &ask)?;
        if dry_run {
            return Ok(plan_view(considered));
        }
        if let Some(refusal) = refusal(&ask, &considered) {
            return Err(refusal);
        }
        self.driver.request(name, Request::Approved(open.id, actor, considered.wish));
        self.appears(name, considered.newest).await
    }

    /// Takes a proposal back.
    pub(super) async fn withdraw(&self, actor: Actor, id: ProposalId, reason: String) -> Reply {
        let (group, open) = self.open_proposal(id)?;
        let how = ProposalEnd::Withdrawn(reason);
        self.commit(actor, vec![Command::ProposalEnded { group, proposal: id, how }]).await?;
        Ok(Answer::Done(format!("{id} of {} is withdrawn; nothing was changed", open.by)))
    }

    fn open_proposal(&self, id: ProposalId) -> Result<(GroupName, Proposal), Refusal> {
        let found = self.driver.consensus.read(|machine| {
            let groups = machine.state().groups.values();
            let open = |group: &mesh_failover::state::Group| {
                group.proposal.clone().map(|open| (group.spec.group.clone(), open))
            };
            groups.filter_map(open).find(|(_, open)| open.id == id)
        });
        found.ok_or_else(|| {
            let what = format!("no proposal {id} waits: it was approved or withdrawn, or its time is over");
            let next = "`mesh approve --list` shows those that wait, `mesh audit show` what became of it";
            Refusal::new(RefusalCode::NotFound, what, next)
        })
    }
}

fn nobody(why: String) -> Refusal {
    Refusal::new(RefusalCode::Denied, why, "nothing was changed")
}
