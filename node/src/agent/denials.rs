//! Refusals for want of a role, on their way into the replicated audit. Rarely enough that nobody on this host can fill the
//! log with them, or push older records out of it: what has no record of its own is counted in the next one.
//!
//! It never refuses anybody anything, and never delays the answer of whoever was refused. Where no leader is found the log of
//! this agent alone has it, and the next record counts it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_proto::access::{Denial, Role};
use mesh_proto::operator::{Answer, Ask, Question, RefusalCode};
use mesh_proto::run::Actor;
use mesh_proto::{AgentName, OperatorName};
use tokio::sync::Notify;

use super::ask::Asked;
use crate::rpc::LocalUser;

/// How long the same user asking for the same has no second record.
const SAME: Duration = Duration::from_secs(60);
/// How many records may follow each other at once, whoever asks for whatever.
const BURST: u32 = 12;
/// How long it takes until there may be one more. The audit keeps its newest 20 000 records: at this pace a host that is
/// hostile for a month writes a fifth of them.
const REFILL: Duration = Duration::from_secs(600);
/// How often a record is tried: a leader that was just elected has not heard yet which builds there are.
const TRIES: u32 = 3;
/// Pause before the next try.
const AGAIN: Duration = Duration::from_secs(2);
/// How many users and verbs are told apart. A user may have many user ids.
const TOLD_APART: usize = 64;

/// Who was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// A user of this host.
    User(LocalUser),
    /// A person with a certificate.
    Operator(OperatorName),
}

impl Who {
    /// By which they are told apart.
    fn key(&self) -> Result<u32, OperatorName> {
        match self {
            Self::User(user) => Ok(user.uid),
            Self::Operator(name) => Err(name.clone()),
        }
    }

    fn actor(&self) -> Actor {
        match self {
            Self::User(user) => user.actor(),
            Self::Operator(name) => Actor::Operator(name.as_str().to_owned()),
        }
    }
}

/// Who was refused what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// The user or person.
    pub who: Who,
    /// What was asked for.
    pub verb: &'static str,
    /// What it needs.
    pub needed: Role,
    /// What the user has.
    pub has: Option<Role>,
}

/// A record to be written: who, and how often without one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Due {
    denied: Denied,
    left_out: u64,
    others: u64,
}

/// What was refused lately.
#[derive(Debug)]
struct Limiter {
    known: BTreeMap<(Result<u32, OperatorName>, &'static str), Lately>,
    others: u64,
    left: u32,
    refilled: Instant,
}

#[derive(Debug)]
struct Lately {
    denied: Denied,
    since: Instant,
    left_out: u64,
}

impl Limiter {
    const fn new(now: Instant) -> Self {
        Self { known: BTreeMap::new(), others: 0, left: BURST, refilled: now }
    }

    fn refill(&mut self, now: Instant) {
        while self.left < BURST && now.duration_since(self.refilled) >= REFILL {
            self.left += 1;
            self.refilled += REFILL;
        }
        if self.left == BURST {
            self.refilled = now;
        }
    }

    /// Somebody was refused: the record to write now, if there may be one.
    fn note(&mut self, now: Instant, denied: Denied) -> Option<Due> {
        self.refill(now);
        self.known.retain(|_, lately| lately.left_out > 0 || now.duration_since(lately.since) < SAME);
        let key = (denied.who.key(), denied.verb);
        if let Some(lately) = self.known.get_mut(&key) {
            lately.left_out += 1;
            return None;
        }
        if self.left == 0 || self.known.len() >= TOLD_APART {
            self.others += 1;
            return None;
        }
        self.left -= 1;
        self.known.insert(key, Lately { denied: denied.clone(), since: now, left_out: 0 });
        Some(Due { denied, left_out: 0, others: std::mem::take(&mut self.others) })
    }

    /// The record of what was left out for long enough, if there may be one.
    fn due(&mut self, now: Instant) -> Option<Due> {
        self.refill(now);
        if self.left == 0 {
            return None;
        }
        let over = |lately: &&mut Lately| lately.left_out > 0 && now.duration_since(lately.since) >= SAME;
        let lately = self.known.values_mut().find(over)?;
        self.left -= 1;
        lately.since = now;
        let left_out = std::mem::take(&mut lately.left_out);
        // The one that it is about is no longer left out.
        Some(Due {
            denied: lately.denied.clone(),
            left_out: left_out - 1,
            others: std::mem::take(&mut self.others),
        })
    }

    /// When to look for what is due; `None` while nothing was left out.
    fn next(&mut self, now: Instant) -> Option<Instant> {
        let first =
            self.known.values().filter(|lately| lately.left_out > 0).map(|lately| lately.since + SAME);
        let first = first.min()?;
        self.refill(now);
        Some(if self.left == 0 { first.max(self.refilled + REFILL) } else { first })
    }

    /// A record did not come through.
    fn lost(&mut self, due: &Due) {
        self.others += 1 + due.left_out + due.others;
    }
}

/// The refusals of this agent.
#[derive(Debug)]
pub struct Denials {
    limiter: Mutex<(Limiter, Vec<Due>)>,
    news: Notify,
}

impl Denials {
    /// Nothing was refused yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let limiter = Mutex::new((Limiter::new(Instant::now()), Vec::new()));
        Arc::new(Self { limiter, news: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, (Limiter, Vec<Due>)> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A user was refused. Returns at once.
    pub fn note(&self, denied: Denied) {
        let (limiter, waiting) = &mut *self.lock();
        waiting.extend(limiter.note(Instant::now(), denied));
        self.news.notify_one();
    }

    /// The next record to write, and otherwise when to look again.
    fn take(&self, now: Instant) -> Result<Due, Option<Instant>> {
        let (limiter, waiting) = &mut *self.lock();
        if !waiting.is_empty() {
            return Ok(waiting.remove(0));
        }
        limiter.due(now).ok_or_else(|| limiter.next(now))
    }

    /// Has every record written, one after the other, until `stop` completes.
    pub async fn run(&self, asked: Arc<Asked>, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            let now = Instant::now();
            let due = match self.take(now) {
                Ok(due) => due,
                Err(again) => {
                    let later = again.unwrap_or(now + REFILL).max(now + Duration::from_secs(1));
                    tokio::select! {
                        () = &mut stop => return,
                        () = self.news.notified() => {}
                        () = tokio::time::sleep_until(later.into()) => {}
                    }
                    continue;
                }
            };
            tokio::select! {
                () = &mut stop => return,
                () = self.write_down(&asked, &due) => {}
            }
        }
    }

    async fn write_down(&self, asked: &Asked, due: &Due) {
        let Denied { who, verb, .. } = &due.denied;
        for tried in 1..=TRIES {
            let ask = Ask::Denied(due.denial(asked.driver.me.clone()));
            let Answer::Refused(why) = asked.answer(Question { actor: who.actor(), ask }).await else {
                return;
            };
            // Whether it came through is not known: twice would be worse than what the log of this agent has anyway.
            let unknown = why.code == RefusalCode::Unknown;
            if unknown || tried == TRIES {
                tracing::warn!(who = %who.actor(), verb, why = why.what, "a refusal is not in the audit");
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
        self.lock().0.lost(due);
    }
}

impl Due {
    fn denial(&self, agent: AgentName) -> Denial {
        let Self { denied: Denied { who, verb, needed, has }, left_out, others } = self;
        let (uid, operator) = match who {
            Who::User(user) => (user.uid, None),
            Who::Operator(name) => (0, Some(name.clone())),
        };
        Denial {
            agent,
            uid,
            operator,
            verb: (*verb).to_owned(),
            needed: *needed,
            has: *has,
            left_out: *left_out,
            others: *others,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(uid: u32, verb: &'static str) -> Denied {
        let user = LocalUser { uid, gid: uid, name: format!("uid {uid}"), pid: None };
        Denied { who: Who::User(user), verb, needed: Role::Force, has: None }
    }

    #[test]
    fn the_same_has_one_record_a_minute_and_the_next_one_counts_the_others() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut limiter = Limiter::new(start);
        let first = limiter.note(at(0), denied(1, "failover")).unwrap();
        let person = Denied { who: Who::Operator("ada".parse().unwrap()), ..denied(1, "failover") };
        assert_eq!(
            limiter.note(at(0), person).unwrap().denial("east".parse().unwrap()).operator.unwrap().as_str(),
            "ada"
        );
        assert_eq!((first.left_out, first.others), (0, 0));
        for second in 1..50 {
            assert_eq!(limiter.note(at(second), denied(1, "failover")), None);
        }
        assert!(limiter.note(at(50), denied(1, "apply")).is_some(), "another verb has a record of its own");
        assert_eq!(limiter.due(at(59)), None);
        assert_eq!(limiter.next(at(59)), Some(at(60)));
        // It stands for the last of the 49 itself.
        assert_eq!(limiter.due(at(60)).unwrap().left_out, 48);
        assert_eq!((limiter.due(at(60)), limiter.next(at(60))), (None, None));
        assert_eq!(limiter.note(at(70), denied(1, "failover")), None, "a minute counts from the last record");
        assert!(limiter.note(at(111), denied(1, "apply")).is_some());
    }

    #[test]
    fn many_users_together_write_no_more_than_one_host_may() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        let day: u64 = 24 * 3_600;
        let mut written = 0;
        let mut counted = 0;
        for second in 0..day {
            let now = start + Duration::from_secs(second);
            let uid = 100_000 + u32::try_from(second % 50_000).unwrap();
            for due in [limiter.note(now, denied(uid, "status")), limiter.due(now)].into_iter().flatten() {
                written += 1;
                counted += 1 + due.left_out + due.others;
            }
            assert!(limiter.known.len() <= TOLD_APART);
        }
        assert!(written <= u64::from(BURST) + day / REFILL.as_secs(), "{written} records in a day");
        assert!(written >= day / REFILL.as_secs(), "only {written} records in a day");
        assert_eq!(counted + limiter.others, day, "each is counted once");
    }

    #[test]
    fn what_did_not_come_through_is_counted_in_the_next_record() {
        let now = Instant::now();
        let mut limiter = Limiter::new(now);
        let due = limiter.note(now, denied(1, "failover")).unwrap();
        limiter.lost(&due);
        assert_eq!(limiter.note(now, denied(2, "failover")).unwrap().others, 1);
    }
}
