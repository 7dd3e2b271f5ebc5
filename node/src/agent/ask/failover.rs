//! Failover by hand: plan, check, start, join. Graceful when the primary answers, fenced when it does not.

use mesh_failover::coordinator::Request;
use mesh_failover::errands;
use mesh_failover::fencers;
use mesh_failover::plan::{self, Wish, holds};
use mesh_failover::quorum;
use mesh_failover::state::{Group, wants_a_primary};
use mesh_failover::verdict::{self, Judgement};
use mesh_proto::command::{Command, Verdict};
use mesh_proto::evidence::ProcessState;
use mesh_proto::operator::{FailoverAsk, Refusal, RefusalCode};
use mesh_proto::run::{Actor, Phase, Plan, Run, RunKind, Signal};
use mesh_proto::spec::Errand;
use mesh_proto::{ErrandName, GroupName, RunId};

use super::steps::{plan_view, steps};
use super::{Asked, LOOK, Reply, view};

/// How long a started run may take to appear in the log.
const APPEAR: std::time::Duration = std::time::Duration::from_secs(6);

/// What was found out about a wanted failover.
pub(super) struct Considered {
    pub(super) plan: Plan,
    pub(super) findings: Vec<String>,
    judgement: Judgement,
    pub(super) may_lose: Option<u64>,
    pub(super) wait: mesh_proto::Millis,
    pub(super) wish: Wish,
    pub(super) newest: Option<RunId>,
    paused: Option<String>,
    zero_loss: bool,
    /// Services and hooks towards the best candidate.
    pub(super) errands: Vec<Errand>,
}

impl Asked {
    pub(super) async fn failover(&self, actor: Actor, ask: FailoverAsk) -> Reply {
        let name = self.group(ask.group.as_ref())?;
        self.keeps_its_fencer(&name, &ask)?;
        if let Some(run) = self
            .going_on(&name)
            .filter(|run| (ask.force || ask.accept_loss) && !ask.dry_run && wants_a_primary(run))
        {
            return self.override_stuck(actor, &name, &run, &ask).await;
        }
        if let Some(run) = self.going_on(&name) {
            // Two at once end in one run.
            return Ok(view(&run, true));
        }
        let considered = self.consider(&name, actor, &ask)?;
        if ask.dry_run {
            return Ok(plan_view(considered));
        }
        if let Some(refusal) = refusal(&ask, &considered) {
            return Err(refusal);
        }
        if self.takes_two(&name, &considered.plan.from, &ask) {
            let errands: Vec<&Errand> = considered.errands.iter().collect();
            let would = steps(&considered.plan, &errands);
            let actor = considered.wish.actor.clone();
            return self.propose(actor, &name, &ask, None, would).await;
        }
        self.driver.request(&name, Request::Run(considered.wish));
        self.appears(&name, considered.newest).await
    }

    /// Waits until a run newer than this one is in the log.
    pub(super) async fn appears(&self, name: &GroupName, newest: Option<RunId>) -> Reply {
        let deadline = tokio::time::Instant::now() + APPEAR;
        loop {
            let run = self
                .driver
                .consensus
                .read(|machine| machine.state().groups.get(name).and_then(|group| group.run.clone()));
            match run {
                Some(run) if newest.is_none_or(|newest| run.id > newest) => {
                    let joined = run.plan.actor == Actor::Mesh;
                    return Ok(view(&run, joined));
                }
                Some(_) | None if tokio::time::Instant::now() >= deadline => {
                    return Err(Refusal::new(
                        RefusalCode::Conflict,
                        "the run did not start: something changed since it was planned",
                        "look at `mesh status` and `mesh plan`, and try again",
                    ));
                }
                Some(_) | None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Accepting a loss says nothing of the old primary's host: whoever would do without a required fencer too says both.
    fn keeps_its_fencer(&self, name: &GroupName, ask: &FailoverAsk) -> Result<(), Refusal> {
        if !ask.accept_loss || ask.force || ask.dry_run {
            return Ok(());
        }
        let required = self.driver.consensus.read(|machine| {
            let group = machine.state().groups.get(name)?;
            let ending = group.active_run().map(|run| &run.ending_instance);
            let old = ending.or(group.primary.as_ref().map(|primary| &primary.instance))?;
            fencers::of(&group.spec, old).find(|fencer| fencer.required).map(|fencer| fencer.name.clone())
        });
        let Some(fencer) = required else { return Ok(()) };
        Err(Refusal::new(
            RefusalCode::Conflict,
            format!("this would also do without fencer {fencer}, which the group requires"),
            "mend it, or turn the host off by hand; to do without it as well, say both: --accept-loss --force",
        ))
    }

    fn going_on(&self, name: &GroupName) -> Option<Run> {
        self.driver.consensus.read(|machine| {
            let group = machine.state().groups.get(name)?;
            if group.free_for_a_run() { None } else { group.active_run().cloned() }
        })
    }

    /// A run that found nobody to promote within its limits goes on without them.
    async fn override_stuck(&self, actor: Actor, name: &GroupName, run: &Run, ask: &FailoverAsk) -> Reply {
        if ask.reason.trim().is_empty() {
            return Err(no_reason());
        }
        if let Some(instance) = &ask.instance {
            return Err(Refusal::new(
                RefusalCode::Conflict,
                format!(
                    "run {} is going on, and takes no other instance than it compares: {instance}",
                    run.id
                ),
                "name a site instead, or leave it out: the furthest standby is promoted",
            ));
        }
        if self.takes_two(name, &run.plan.from, ask) {
            let would = vec![format!("run {} goes on without its limits", run.id)];
            return self.propose(actor, name, ask, Some(run), would).await;
        }
        let (group, reason) = (name.clone(), ask.reason.clone());
        let overridden = Command::RunOverridden {
            group,
            run: run.id,
            site: ask.site.clone(),
            accept_loss: ask.accept_loss,
            reason: reason.clone(),
        };
        let retry = Command::Signalled {
            group: name.clone(),
            run: run.id,
            signal: Signal::Retry,
            detail: reason,
            cause: None,
        };
        self.commit(actor, vec![overridden, retry]).await?;
        Ok(view(&self.going_on(name).unwrap_or_else(|| run.clone()), false))
    }

    pub(super) fn consider(
        &self,
        name: &GroupName,
        actor: Actor,
        ask: &FailoverAsk,
    ) -> Result<Considered, Refusal> {
        let now = self.driver.clock.now();
        self.driver.consensus.read(|machine| {
            let state = machine.state();
            let Some(group) = state.groups.get(name) else {
                return Err(Refusal::new(
                    RefusalCode::NotFound,
                    format!("there is no group {name}"),
                    "see `mesh status`",
                ));
            };
            let Some(primary) = &group.primary else {
                return Err(Refusal::new(
                    RefusalCode::Conflict,
                    format!("{name} has no primary yet"),
                    "name the first with `mesh adopt INSTANCE`",
                ));
            };
            self.driver.with_heard(|coordinator| {
                let heard = &coordinator.heard;
                let judgement = verdict::judge(now, state, group, heard, true);
                check_target(group, ask, &judgement)?;
                let lease = group.lease().map(|lease| lease.term).unwrap_or_default();
                let answers =
                    heard.fresh_guard(now, name, &primary.instance, group.timing.fresh).is_some_and(|s| {
                        s.process == ProcessState::Primary
                            && holds(s, lease)
                            && judgement.verdict != Verdict::Down
                    });
                let kind = if answers { RunKind::Switchover } else { RunKind::Failover };
                let wish = Wish {
                    kind,
                    site: ask.site.clone(),
                    instance: ask.instance.clone(),
                    actor: actor.clone(),
                    reason: if ask.reason.is_empty() {
                        "asked by hand".to_owned()
                    } else {
                        ask.reason.clone()
                    },
                    accept_lag: ask.force || ask.accept_loss,
                    accept_loss: ask.accept_loss,
                    lost_for: None,
                };
                let Some(plan) = plan::make(now, group, heard, &wish) else {
                    return Err(Refusal::new(
                        RefusalCode::Conflict,
                        "there is nothing to plan from",
                        "see `mesh status`",
                    ));
                };
                let findings = plan::check(now, group, heard, &plan);
                let standings = plan::assess(now, group, heard, wish.waived());
                let may_lose = match kind {
                    RunKind::Switchover => Some(0),
                    // Proved from the frozen standbys, or the run is stuck.
                    RunKind::Failover if quorum::asked(group) && !ask.accept_loss => Some(0),
                    RunKind::Failover => plan.candidates.first().and_then(|first| {
                        standings.iter().find(|s| s.instance == *first).and_then(|s| s.lag)
                    }),
                };
                let wait = match kind {
                    RunKind::Switchover => mesh_proto::Millis::ZERO,
                    RunKind::Failover => group.timing.lease.plus(group.largest_fence),
                };
                let newest = group.run.as_ref().map(|run| run.id);
                let paused = group.pause.as_ref().map(|pause| pause.reason.clone());
                let goal = plan.candidates.first();
                let errands = goal.map(|goal| errands::towards(&plan, &group.spec, goal)).unwrap_or_default();
                let errands = errands.into_iter().cloned().collect();
                let zero_loss = quorum::asked(group);
                Ok(Considered {
                    plan,
                    findings,
                    judgement,
                    may_lose,
                    wait,
                    wish,
                    newest,
                    paused,
                    zero_loss,
                    errands,
                })
            })
        })
    }

    pub(super) async fn abort(&self, run: RunId, reason: String) -> Reply {
        self.signal(run, Request::Abort(run, reason)).await
    }

    pub(super) async fn retry(&self, run: RunId, reason: String) -> Reply {
        self.signal(run, Request::Retry(run, reason)).await
    }

    /// Lets a run go on without a service or hook that failed; the audit keeps who said so, and why.
    pub(super) async fn skip(&self, actor: Actor, id: RunId, errand: ErrandName, reason: String) -> Reply {
        let group = self.driver.consensus.read(|machine| {
            let groups = machine.state().groups.values();
            groups
                .filter(|g| g.run.as_ref().is_some_and(|run| run.id == id))
                .map(|g| g.spec.group.clone())
                .next()
        });
        let Some(group) = group else {
            let what = format!("there is no run {id} that could go on");
            return Err(Refusal::new(RefusalCode::NotFound, what, "see `mesh run`"));
        };
        self.commit(actor, vec![Command::ErrandSkipped { group, run: id, errand, reason }]).await?;
        self.run(Some(id))
    }

    async fn signal(&self, id: RunId, request: Request) -> Reply {
        let find = || {
            self.driver.consensus.read(|machine| {
                let groups = machine.state().groups.values();
                groups
                    .filter_map(|g| g.run.clone().map(|run| (g.spec.group.clone(), run)))
                    .find(|(_, r)| r.id == id)
            })
        };
        let Some((group, before)) = find() else {
            return Err(Refusal::new(
                RefusalCode::NotFound,
                format!("there is no run {id}"),
                "see `mesh run`",
            ));
        };
        if before.phase.is_final() {
            let what = format!("run {id} is {} already", before.phase);
            return Err(Refusal::new(RefusalCode::Conflict, what, "nothing is left to do"));
        }
        if matches!(request, Request::Abort(..)) && before.promotion.is_some() {
            return Err(Refusal::new(
                RefusalCode::Unsafe,
                format!("run {id} has committed its promotion: it can only go forward"),
                "let it finish, then `mesh failover` back",
            ));
        }
        if matches!(request, Request::Retry(..)) && before.phase != Phase::Stuck {
            let what = format!("run {id} is not stuck, it is {}", before.phase);
            return Err(Refusal::new(RefusalCode::Conflict, what, "follow it with `mesh run --follow`"));
        }
        self.driver.request(&group, request);
        let deadline = tokio::time::Instant::now() + APPEAR;
        loop {
            match find() {
                Some((_, run)) if run.entered.len() != before.entered.len() => return Ok(view(&run, false)),
                Some((_, run)) if tokio::time::Instant::now() >= deadline => return Ok(view(&run, false)),
                Some(_) => tokio::time::sleep(LOOK).await,
                None => {
                    return Err(Refusal::new(
                        RefusalCode::NotFound,
                        format!("run {id} is over"),
                        "see `mesh run`",
                    ));
                }
            }
        }
    }
}

fn check_target(group: &Group, ask: &FailoverAsk, judgement: &Judgement) -> Result<(), Refusal> {
    let primary = group.primary.as_ref().and_then(|p| group.instance(&p.instance));
    if let Some(site) = &ask.site {
        if !group.spec.instances.iter().any(|i| i.site == *site) {
            let sites: Vec<_> = group.spec.instances.iter().map(|i| i.site.as_str()).collect();
            let next = format!("sites with an instance: {}", sites.join(", "));
            return Err(Refusal::new(
                RefusalCode::NotFound,
                format!("no instance stands at site {site}"),
                next,
            ));
        }
        if let Some(primary) = primary
            && primary.site == *site
            && !group.spec.instances.iter().any(|i| i.site == *site && i.name != primary.name)
        {
            let what = format!("the primary {} stands at {site} already", primary.name);
            return Err(already(group, what, judgement));
        }
    }
    if let Some(instance) = &ask.instance {
        if group.instance(instance).is_none() {
            let what = format!("there is no instance {instance}");
            return Err(Refusal::new(RefusalCode::NotFound, what, "see `mesh status` for the names"));
        }
        if primary.is_some_and(|primary| primary.name == *instance) {
            return Err(already(group, format!("{instance} is the primary already"), judgement));
        }
    }
    Ok(())
}

/// The primary is where it shall be. That is no comfort when it is lost: then another place has to be named.
fn already(group: &Group, what: String, judgement: &Judgement) -> Refusal {
    if judgement.verdict == Verdict::Healthy {
        return Refusal::new(RefusalCode::Conflict, what, "nothing needs to be done");
    }
    let primary = group.primary.as_ref().map(|primary| &primary.instance);
    let others: Vec<_> = group.spec.instances.iter().filter(|i| Some(&i.name) != primary).collect();
    let next = match others.first() {
        None => "the group has no other instance: bring this one back".to_owned(),
        Some(_) => {
            let ways = others.iter().map(|other| format!("`mesh failover --instance {}`", other.name));
            format!("to leave it: {}", ways.collect::<Vec<_>>().join(" or "))
        }
    };
    Refusal::new(
        RefusalCode::Conflict,
        format!("{what}, and {}: {}", judgement.verdict, judgement.summary),
        next,
    )
}

fn no_reason() -> Refusal {
    let what = "--force and --accept-loss need a reason, which the audit keeps";
    Refusal::new(RefusalCode::Invalid, what, "add --reason \"…\"")
}

/// Why the failover is not started, with what it would cost and which command overrides it.
pub(super) fn refusal(ask: &FailoverAsk, found: &Considered) -> Option<Refusal> {
    if (ask.force || ask.accept_loss) && ask.reason.trim().is_empty() {
        return Some(no_reason());
    }
    if let Some(reason) = &found.paused {
        let what = format!("the group is paused: {reason}");
        let next = "`mesh resume` ends the pause; nothing was changed";
        return Some(Refusal::new(RefusalCode::Conflict, what, next));
    }
    let graceful = found.plan.kind == RunKind::Switchover;
    if ask.graceful_only && !graceful {
        return Some(Refusal::new(
            RefusalCode::Unsafe,
            format!("a clean hand-over is not possible: {}", found.judgement.summary),
            "`mesh failover` fences it instead; `mesh plan` shows what that may lose",
        ));
    }
    if !found.findings.is_empty() {
        let rejected = found.plan.rejected.iter().map(|(name, why)| format!("{name} {why}"));
        let what: Vec<_> = found.findings.iter().cloned().chain(rejected).collect();
        let lag = found.plan.rejected.iter().any(|(_, why)| why.contains("max_lag_bytes"));
        let next = if found.zero_loss && !ask.accept_loss && found.plan.candidates.is_empty() {
            "bring the primary or those standbys back; or `mesh failover --accept-loss --reason \"…\"`, which promotes the \
             furthest all the same and may lose acknowledged writes; nothing was changed"
        } else if lag && !ask.force {
            "bring the primary or another standby back; or `mesh failover --force --reason \"…\"`, which promotes it all the \
             same and loses what it lacks; nothing was changed"
        } else {
            "mend that first; `mesh status` shows every instance; nothing was changed"
        };
        return Some(Refusal::new(RefusalCode::Unsafe, what.join("; "), next));
    }
    if !graceful && !ask.force && found.judgement.verdict != Verdict::Down {
        return Some(Refusal::new(
            RefusalCode::Unsafe,
            format!(
                "the primary does not answer, but it is not known to be lost: {}",
                found.judgement.summary
            ),
            format!(
                "wait for the verdict (`mesh why`), or `mesh failover --force --reason \"…\"`, which waits up to {} for \
                 the old lease to end",
                found.wait
            ),
        ));
    }
    None
}
