//! Starts and stops services, runs hooks and turns hosts off, each behind its epoch gate, each one at a time, and only what this agent's file
//! allows: an order names a service or hook, never a program.
//!
//! A job belongs to the agent and not to the call that asked for it: a leader that dies does not take a half-started service
//! along, and the next one asks how it stands. Nothing outlives its deadline, and an order of a newer epoch ends an older job.

mod fencer;
mod journal;
mod needs;
mod work;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_proto::effect::{Effect, Order, Outcome, Refusal, StepRef};
use mesh_proto::spec::{GroupSpec, InstanceSpec, Work as Kind};
use mesh_proto::{AgentName, ErrandName, GroupName, InstanceName};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout_at;

use super::routes::Specs;
use super::sightings::Logins;
use journal::Begin;
use needs::Needs;
use work::Work;

pub use fencer::Ending;
pub use journal::{Journal, JournalError};
pub use needs::{Groups, Standing};
pub use work::Allowed;

/// How much longer than its job an answer may take: a killed program has to be collected.
const ANSWER: Duration = Duration::from_millis(200);

/// A job under way, or one that ended and was not followed by another.
struct Job {
    step: StepRef,
    done: watch::Receiver<Option<Outcome>>,
    task: JoinHandle<()>,
}

/// Held by the one order that a service or hook is busy with being let in.
type Turn = Arc<tokio::sync::Mutex<()>>;

/// The services and hooks of this agent.
pub struct ErrandKeeper {
    me: AgentName,
    allowed: Arc<Allowed>,
    logins: Logins,
    specs: Arc<dyn Specs>,
    groups: Arc<dyn Groups>,
    journal: Arc<Mutex<Journal>>,
    jobs: Mutex<BTreeMap<String, Job>>,
    turns: Mutex<BTreeMap<String, Turn>>,
}

impl ErrandKeeper {
    /// Keeps what the file allows.
    #[must_use]
    pub fn new(
        me: AgentName,
        allowed: Allowed,
        logins: Logins,
        journal: Journal,
        specs: Arc<dyn Specs>,
        groups: Arc<dyn Groups>,
    ) -> Self {
        Self {
            me,
            allowed: Arc::new(allowed),
            logins,
            specs,
            groups,
            journal: Arc::new(Mutex::new(journal)),
            jobs: Mutex::default(),
            turns: Mutex::default(),
        }
    }

    /// Executes an order within its budget, or finds out how it stands.
    pub async fn execute(&self, order: &Order) -> Outcome {
        let (Effect::Errand { errand, agent, .. } | Effect::TurnOff { fencer: errand, agent, .. }) =
            &order.effect
        else {
            return refused(Refusal::NotConfigured, "no service, no hook and no fencer");
        };
        if *agent != self.me {
            return refused(Refusal::NotConfigured, format!("this is agent {}", self.me));
        }
        let Some(group) = self.specs.spec(&order.group) else {
            return refused(Refusal::NotDelivered, format!("group {} is not known here yet", order.group));
        };
        let deadline = Instant::now() + order.budget.duration();
        let key = format!("{}/{errand}", order.group);
        if order.verify_only {
            return self.verify(&key, order, &group, deadline).await;
        }
        let turn = Arc::clone(locked(&self.turns).entry(key.clone()).or_default());
        let Ok(_turn) = timeout_at(deadline.into(), turn.lock()).await else {
            return refused(Refusal::NotDelivered, format!("an earlier order for {errand} is being let in"));
        };
        self.admit(&key, order, &group, deadline).await
    }

    async fn admit(&self, key: &str, order: &Order, group: &GroupSpec, deadline: Instant) -> Outcome {
        let work = match self.work(order, group) {
            Ok(work) => work,
            Err(no) => return no.into(),
        };
        let begun = self.on_disk(key, order, deadline, |journal, key, order| journal.begin(key, order)).await;
        match begun {
            Err(outcome) => return outcome,
            Ok(Begin::Stale { seen }) => return stale(order, seen),
            Ok(Begin::Again(Some(outcome))) => return outcome,
            Ok(Begin::Again(None)) => {
                if let Some(done) = self.job(key, order.step) {
                    return awaited(done, order, deadline).await;
                }
                if !work.shows() {
                    return self.interrupted(key, order, deadline).await;
                }
            }
            Ok(Begin::New) => {}
        }
        let before = locked(&self.jobs).remove(key);
        if let Some(job) = before {
            // Of an older epoch or attempt: its programs are killed as it is dropped.
            job.task.abort();
            let ended = job.task.await;
            tracing::debug!(?ended, %key, "an older job is over");
        }
        let done = self.begin(key, order.step, work, deadline);
        awaited(done, order, deadline).await
    }

    /// What the order asks for, as far as file and spec allow it.
    fn work(&self, order: &Order, group: &GroupSpec) -> Result<Work, No> {
        if let Effect::TurnOff { fencer, instance, .. } = &order.effect {
            return self.turn_off(order, group, fencer, instance);
        }
        let Effect::Errand { errand, instance, work, .. } = &order.effect else {
            return Err(no(Refusal::NotConfigured, "no service, no hook and no fencer"));
        };
        if !knows(group, errand) {
            let what = format!("{errand} is not in the applied spec here yet");
            return Err(no(Refusal::NotDelivered, what));
        }
        let Some(instance) = group.instances.iter().find(|known| known.name == *instance) else {
            return Err(no(Refusal::NotApplicable, format!("there is no instance {instance}")));
        };
        let needs = Needs {
            groups: needed(group, errand, *work),
            state: Arc::clone(&self.groups),
            logins: self.logins.clone(),
        };
        self.allowed.work(order, group, instance, needs)
    }

    /// The program that turns the host of an instance off.
    fn turn_off(
        &self,
        order: &Order,
        group: &GroupSpec,
        fencer: &ErrandName,
        instance: &InstanceName,
    ) -> Result<Work, No> {
        let Effect::TurnOff { term, .. } = &order.effect else {
            return Err(no(Refusal::NotConfigured, "no order to turn a host off"));
        };
        let named = group.fencers.iter().any(|f| f.name == *fencer && f.fences.contains(instance));
        let host = group.instances.iter().find(|known| known.name == *instance);
        let (true, Some(host)) = (named, host) else {
            let what = format!("{fencer} of {instance} is not in the applied spec here yet");
            return Err(no(Refusal::NotDelivered, what));
        };
        let ending = self.groups.ending(&order.group, instance, *term);
        self.allowed.fencer(fencer, order, host, &ending)
    }

    /// Begins a job that ends by the deadline whoever asked, and whatever becomes of them.
    fn begin(
        &self,
        key: &str,
        step: StepRef,
        work: Work,
        deadline: Instant,
    ) -> watch::Receiver<Option<Outcome>> {
        let (tell, done) = watch::channel(None);
        let (journal, name) = (Arc::clone(&self.journal), key.to_owned());
        let task = tokio::spawn(async move {
            let outcome = work.run(deadline).await;
            let (noted, said) = (outcome.clone(), name.clone());
            let write = tokio::task::spawn_blocking(move || locked(&journal).end(&name, step, &noted));
            match write.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(error = crate::cli::with_causes(&error), key = said, "not noted")
                }
                Err(error) => tracing::error!(%error, key = said, "not noted"),
            }
            tell.send_replace(Some(outcome));
        });
        locked(&self.jobs).insert(key.to_owned(), Job { step, done: done.clone(), task });
        done
    }

    fn job(&self, key: &str, step: StepRef) -> Option<watch::Receiver<Option<Outcome>>> {
        locked(&self.jobs).get(key).filter(|job| job.step == step).map(|job| job.done.clone())
    }

    /// How an order stands, without doing anything. A job under way is waited for.
    async fn verify(&self, key: &str, order: &Order, group: &GroupSpec, deadline: Instant) -> Outcome {
        if let Some(done) = self.job(key, order.step) {
            return awaited(done, order, deadline).await;
        }
        let known =
            self.on_disk(key, order, deadline, |journal, key, order| Ok(journal.look(key, order))).await;
        let begun = match known {
            Err(outcome) => return outcome,
            Ok(Begin::Stale { seen }) => return stale(order, seen),
            Ok(Begin::Again(Some(outcome))) => return outcome,
            Ok(Begin::Again(None)) => true,
            Ok(Begin::New) => false,
        };
        match self.work(order, group) {
            Err(no) => no.into(),
            Ok(work) if work.shows() => work.look(deadline).await,
            Ok(_) if begun => self.interrupted(key, order, deadline).await,
            Ok(_) => refused(Refusal::NotSo, "the hook was never begun here"),
        }
    }

    /// A hook that was begun and whose end nobody saw: it may have done its work or not, and is not repeated unasked.
    async fn interrupted(&self, key: &str, order: &Order, deadline: Instant) -> Outcome {
        let what = "the agent was restarted while the hook ran; it may have done its work or not";
        let outcome = refused(Refusal::Failed, what);
        let noted = outcome.clone();
        let note = move |journal: &mut Journal, key: &str, order: &Order| {
            journal.end(key, order.step, &noted).map(|()| Begin::Again(Some(noted)))
        };
        match self.on_disk(key, order, deadline, note).await {
            Ok(_) => outcome,
            Err(no) => no,
        }
    }

    /// The journal's disk may hang: nothing else of the agent waits for it.
    async fn on_disk(
        &self,
        key: &str,
        order: &Order,
        deadline: Instant,
        act: impl FnOnce(&mut Journal, &str, &Order) -> Result<Begin, JournalError> + Send + 'static,
    ) -> Result<Begin, Outcome> {
        let (journal, name, asked) = (Arc::clone(&self.journal), key.to_owned(), order.clone());
        let acting = tokio::task::spawn_blocking(move || act(&mut locked(&journal), &name, &asked));
        match timeout_at(deadline.into(), acting).await {
            Ok(Ok(Ok(begun))) => Ok(begun),
            Ok(Ok(Err(error))) => Err(refused(Refusal::Failed, crate::cli::with_causes(&error))),
            Ok(Err(error)) => Err(refused(Refusal::Failed, format!("the record of {key} failed: {error}"))),
            Err(_) => {
                let what = format!("the disk with the record of {key} does not answer");
                Err(Outcome::Unknown { detail: what })
            }
        }
    }
}

/// Waits for a job; past the deadline nobody knows yet.
async fn awaited(mut done: watch::Receiver<Option<Outcome>>, order: &Order, deadline: Instant) -> Outcome {
    let ended = timeout_at((deadline + ANSWER).into(), done.wait_for(Option::is_some)).await;
    match ended {
        Ok(Ok(outcome)) => outcome.clone().unwrap_or(Outcome::Unknown { detail: String::new() }),
        // Dropped without a word: a newer order ended it.
        Ok(Err(_)) => refused(Refusal::StaleEpoch, "a newer order ended it"),
        Err(_) => Outcome::Unknown { detail: format!("{} is under way", order.effect) },
    }
}

fn knows(group: &GroupSpec, errand: &ErrandName) -> bool {
    group.services.iter().any(|service| service.name == *errand)
        || group.hooks.iter().any(|hook| hook.name == *errand)
}

/// The groups that come first.
fn needed(group: &GroupSpec, errand: &ErrandName, work: Kind) -> Vec<GroupName> {
    let needs = match work {
        Kind::Stop => None,
        Kind::Start => group.services.iter().find(|known| known.name == *errand).map(|known| &known.needs),
        Kind::Hook => group.hooks.iter().find(|known| known.name == *errand).map(|known| &known.needs),
    };
    needs.cloned().unwrap_or_default()
}

fn stale(order: &Order, seen: mesh_proto::Epoch) -> Outcome {
    let what = format!("{} came too late: an order of epoch {seen} was here already", order.effect);
    refused(Refusal::StaleEpoch, what)
}

/// A refusal: nothing was done.
#[derive(Debug)]
struct No {
    code: Refusal,
    detail: String,
}

impl From<No> for Outcome {
    fn from(No { code, detail }: No) -> Self {
        Self::Refused { code, detail }
    }
}

fn no(code: Refusal, detail: impl Into<String>) -> No {
    No { code, detail: detail.into() }
}

fn refused(code: Refusal, detail: impl Into<String>) -> Outcome {
    Outcome::Refused { code, detail: detail.into() }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the new primary is, for programs and checks.
#[derive(Debug, Clone)]
struct Goal {
    instance: InstanceSpec,
    database: String,
}

#[cfg(test)]
mod tests;
