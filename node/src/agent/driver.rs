//! Drives the pure coordinator: wakes it when something arrived, carries out what it wants, and feeds it the answers.
//!
//! Permission to act is asked of a quorum right before an order leaves, never taken from "I am leader". A proposal needs
//! none: it is agreed on or it is not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_consensus::{Acting, Consensus, ProposeError, Role};
use mesh_failover::coordinator::{Coordinator, Executor, ProposalResult, Request, Todo};
use mesh_proto::codec::{self, Kind};
use mesh_proto::command::{Applied, Command, Entry};
use mesh_proto::effect::{Order, Outcome, Refusal, Target};
use mesh_proto::evidence::{GuardStatus, Report};
use mesh_proto::lease::PledgeRequest;
use mesh_proto::run::Actor;
use mesh_proto::{AgentName, GroupName, NodeId};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::errands::ErrandKeeper;
use super::machine::MeshMachine;
use super::news;
use super::peers::Peers;
use super::receipts::Receipts;
use super::routes::RouteKeeper;
use super::supervisor::Pulse;
use crate::clock::{self, Clock};
use crate::rpc::CallError;

/// Pause between two looks while a run goes on or something is wrong: what is due by time alone (the end of a lease, say)
/// is noticed this late at most.
const BUSY_TICK: Duration = Duration::from_millis(10);
/// Longest pause between two looks while all is well: what happens then arrives as news, which wakes the leader.
const CALM_TICK: Duration = Duration::from_millis(500);
/// Longest pause of an agent that does not lead: a change of leadership wakes it.
const FOLLOWER_TICK: Duration = Duration::from_millis(1_000);
/// How long a proposal may take before its fate counts as unknown.
const PROPOSE_DEADLINE: Duration = Duration::from_secs(5);
/// How long a voter may take to answer a pledge: one round trip and one fsync.
const PLEDGE_DEADLINE: Duration = Duration::from_millis(1_000);
/// What must remain of the permission when an order leaves.
const ACTING_MARGIN: Duration = Duration::from_millis(20);

/// The coordinator, shared by those who feed it.
pub struct Driver {
    /// This agent.
    pub me: AgentName,
    /// The agreement.
    pub consensus: Consensus<MeshMachine>,
    /// The clock of voters and leaders.
    pub clock: Arc<Clock>,
    /// Connections.
    pub peers: Arc<Peers>,
    /// Executes effects on routes whose credentials this agent holds.
    pub routes: Arc<RouteKeeper>,
    /// Starts and stops services, and runs hooks, that this agent's file allows.
    pub errands: Arc<ErrandKeeper>,
    receipts: Receipts,
    coordinator: Mutex<Coordinator>,
    wake: Notify,
    /// Everything was well when this leader looked last.
    at_ease: AtomicBool,
}

/// Why a command was not agreed on.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The agreement did not take it.
    #[error("not agreed on")]
    Propose(#[source] ProposeError),
    /// It has no encoding, or the answer does not decode.
    #[error("the entry or its answer has no encoding")]
    Codec(#[source] codec::CodecError),
    /// An agent of an older build could not apply it, and would stop.
    #[error("not every agent is known to run a mesh that knows it: {}", names(.0))]
    Older(Vec<AgentName>),
}

fn names(agents: &[AgentName]) -> String {
    agents.iter().map(AgentName::as_str).collect::<Vec<_>>().join(", ")
}

impl Driver {
    /// A driver that has heard nothing yet.
    #[must_use]
    pub fn new(
        me: AgentName,
        consensus: Consensus<MeshMachine>,
        clock: Arc<Clock>,
        peers: Arc<Peers>,
        routes: Arc<RouteKeeper>,
        errands: Arc<ErrandKeeper>,
    ) -> Self {
        let coordinator = Mutex::new(Coordinator::new(me.clone()));
        Self {
            me,
            consensus,
            clock,
            peers,
            routes,
            errands,
            receipts: Receipts::default(),
            coordinator,
            wake: Notify::new(),
            at_ease: AtomicBool::new(false),
        }
    }

    fn coordinator(&self) -> MutexGuard<'_, Coordinator> {
        self.coordinator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what the coordinator has heard.
    pub fn with_heard<R>(&self, look: impl FnOnce(&Coordinator) -> R) -> R {
        look(&self.coordinator())
    }

    /// A guard said how its instance is.
    pub fn heard_guard(&self, mut status: GuardStatus) {
        self.receipts.admit(&mut status);
        let mut coordinator = self.coordinator();
        let before = coordinator.heard.guard(&status.group, &status.instance);
        let news = before.is_none_or(|before| news::of_guard(&before.said, &status));
        coordinator.heard_guard(self.clock.now(), status);
        drop(coordinator);
        self.wake_for(news);
    }

    /// An observer reported.
    pub fn heard_report(&self, report: Report) {
        let mut coordinator = self.coordinator();
        let before = coordinator.heard.report(&report.agent);
        let news = before.is_none_or(|before| news::of_observer(&before.said, &report));
        coordinator.heard_report(self.clock.now(), report);
        drop(coordinator);
        self.wake_for(news);
    }

    /// While all is well, what says the same as before can wait for the next look.
    fn wake_for(&self, news: bool) {
        if news || !self.at_ease.load(Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }

    /// An operator asked the leader for something.
    pub fn request(&self, group: &GroupName, request: Request) {
        self.coordinator().request(group, request);
        self.wake.notify_one();
    }

    /// Proposes commands as one entry and waits for what comes of it.
    ///
    /// # Errors
    /// [`CommandError`]; with `ProposeError::Lost` inside, nobody knows whether it was agreed on.
    pub async fn propose(&self, actor: Actor, commands: Vec<Command>) -> Result<Applied, CommandError> {
        self.known_everywhere(&commands)?;
        let entry = Entry { by: self.me.clone(), actor, at: clock::wall(), commands };
        let bytes = codec::encode(Kind::Entry, &entry).map_err(CommandError::Codec)?;
        let deadline = Instant::now() + PROPOSE_DEADLINE;
        let proposed = self.consensus.propose(bytes, deadline).await.map_err(CommandError::Propose)?;
        codec::decode(Kind::Applied, &proposed.answer).map_err(CommandError::Codec)
    }

    /// Holds back what a member could not apply: its agent would have to stop.
    fn known_everywhere(&self, commands: &[Command]) -> Result<(), CommandError> {
        let edition = commands.iter().map(Command::edition).max().unwrap_or(0);
        let older = self.consensus.read(|machine| self.coordinator().heard.older(machine.state(), edition));
        if older.is_empty() { Ok(()) } else { Err(CommandError::Older(older)) }
    }

    /// Runs until `stop` completes.
    pub async fn run(self: Arc<Self>, stop: impl Future<Output = ()>) {
        let mut applied = self.consensus.applied();
        let mut standing = self.consensus.subscribe();
        let mut tasks: JoinSet<()> = JoinSet::new();
        let mut acting: Option<Acting> = None;
        let mut settling: Option<Instant> = None;
        let mut pulse = Pulse::of_unit();
        let (mut leading, mut tick) = (false, CALM_TICK);
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                () = self.wake.notified(), if leading => {}
                _ = applied.changed(), if leading => {}
                _ = standing.changed() => {}
                () = tokio::time::sleep(tick) => {}
            }
            pulse.beat(Instant::now());
            while tasks.try_join_next().is_some() {}
            leading = self.leads();
            if !leading {
                self.coordinator().follow();
                acting = None;
                tick = FOLLOWER_TICK;
                self.at_ease.store(false, Ordering::Relaxed);
                continue;
            }
            self.settle_members(&mut settling, &mut tasks);
            let todo = self.poll();
            let calm = self.calm();
            self.at_ease.store(calm, Ordering::Relaxed);
            tick = if calm { CALM_TICK } else { BUSY_TICK };
            if todo.is_empty() {
                continue;
            }
            for item in todo {
                self.carry_out(item, &mut acting, &mut tasks).await;
            }
        }
        tasks.shutdown().await;
    }

    /// Whether this agent leads and has applied an entry of its own term (PROTOCOL, Taking over 10). No permission to
    /// act follows from it.
    fn leads(&self) -> bool {
        let standing = self.consensus.standing();
        let leads = standing.role == Role::Leader
            && standing.applied.is_some_and(|applied| applied.term == standing.term);
        if leads {
            let now = self.clock.now();
            self.coordinator().lead(now, standing.term);
        }
        leads
    }

    /// A change of voters that lost its leader half way is ended by the next one.
    fn settle_members(self: &Arc<Self>, tried: &mut Option<Instant>, tasks: &mut JoinSet<()>) {
        let soon = tried.is_some_and(|at| at.elapsed() < PROPOSE_DEADLINE);
        if !self.consensus.standing().changing || soon {
            return;
        }
        *tried = Some(Instant::now());
        let driver = Arc::clone(self);
        tasks.spawn(async move {
            if let Err(error) = driver.consensus.settle(Instant::now() + PROPOSE_DEADLINE).await {
                tracing::warn!(
                    error = crate::cli::with_causes(&error),
                    "a change of voters is not settled yet"
                );
            }
        });
    }

    fn calm(&self) -> bool {
        self.consensus.read(|machine| self.coordinator().calm(machine.state()))
    }

    fn poll(&self) -> Vec<Todo> {
        let now = self.clock.now();
        self.consensus.read(|machine| self.coordinator().poll(now, machine.applied(), machine.state()))
    }

    async fn carry_out(self: &Arc<Self>, item: Todo, acting: &mut Option<Acting>, tasks: &mut JoinSet<()>) {
        match item {
            Todo::Propose { group, ticket, actor, commands } => {
                let driver = Arc::clone(self);
                let about = group.as_ref().map_or_else(|| "the mesh".to_owned(), ToString::to_string);
                tasks.spawn(async move {
                    let result = match driver.propose(actor, commands).await {
                        Ok(applied) => ProposalResult::Applied(applied),
                        Err(error) => {
                            tracing::warn!(%about, error = crate::cli::with_causes(&error), "a proposal was lost");
                            ProposalResult::Lost
                        }
                    };
                    if let ProposalResult::Applied(Applied::Refused(why)) = &result {
                        tracing::info!(%about, %why, "a proposal was refused");
                    }
                    driver.coordinator().proposed(group.as_ref(), ticket, &result);
                    driver.wake.notify_one();
                });
            }
            Todo::Pledge { to, request } => {
                if self.may_act(acting).await {
                    let driver = Arc::clone(self);
                    tasks.spawn(async move { driver.pledge(to, request).await });
                } else {
                    self.coordinator().pledge_lost(to, &request);
                }
            }
            Todo::Execute { to, order } => {
                if self.may_act(acting).await {
                    let driver = Arc::clone(self);
                    tasks.spawn(async move { driver.execute(to, *order).await });
                } else {
                    let detail = "no quorum confirmed the leadership".to_owned();
                    let outcome = Outcome::Refused { code: Refusal::NotDelivered, detail };
                    self.coordinator().executed(self.clock.now(), &order.group, order.step, outcome);
                }
            }
        }
    }

    /// Whether a quorum confirms, for long enough, that nobody else leads.
    async fn may_act(&self, acting: &mut Option<Acting>) -> bool {
        if acting.as_ref().and_then(Acting::left).is_some_and(|left| left > ACTING_MARGIN) {
            return true;
        }
        match self.consensus.acting(ACTING_MARGIN).await {
            Ok(granted) => {
                let holds = granted.holds();
                *acting = Some(granted);
                holds
            }
            Err(error) => {
                tracing::info!(%error, "may not act now");
                *acting = None;
                false
            }
        }
    }

    async fn pledge(&self, to: NodeId, request: PledgeRequest) {
        let voter = self
            .consensus
            .read(|machine| machine.state().members.values().find(|member| member.id == to).cloned());
        let answer = match voter {
            None => Err(CallError::NotReached(format!("voter {to} is no member"))),
            Some(voter) => match self.peers.voter(&voter.agent, &voter.address) {
                Ok(client) => client.pledge(&request, PLEDGE_DEADLINE).await,
                Err(error) => Err(CallError::NotReached(crate::cli::with_causes(&error))),
            },
        };
        match answer {
            Ok(reply) => self.coordinator().pledge_reply(self.clock.now(), &request, &reply),
            Err(error) => {
                tracing::debug!(%to, %error, "a voter did not answer a pledge");
                self.coordinator().pledge_lost(to, &request);
            }
        }
        self.wake.notify_one();
    }

    async fn execute(&self, to: Executor, order: Order) {
        let deadline = order.budget.duration() + Duration::from_millis(300);
        tracing::info!(step = %order.step, effect = %order.effect, verify = order.verify_only, "ordered");
        let outcome = match to {
            Executor::Guard { instance, address } => match self.peers.guard(&instance, address) {
                Ok(client) => self.receipts.checked(outcome_of(client.execute(&order, deadline).await)),
                Err(error) => not_delivered(&crate::cli::with_causes(&error)),
            },
            Executor::Agent(agent) if agent == self.me => self.execute_here(&order).await,
            Executor::Agent(agent) => self.by_agent(&agent, &order, deadline).await,
        };
        tracing::info!(step = %order.step, effect = %order.effect, ?outcome, "answered");
        self.coordinator().executed(self.clock.now(), &order.group, order.step, outcome);
        self.wake.notify_one();
    }

    /// Executes an order for this agent.
    pub async fn execute_here(&self, order: &Order) -> Outcome {
        match order.effect.target() {
            Target::Errand(_) | Target::Fencer(_) => self.errands.execute(order).await,
            Target::Route(_) | Target::Instance(_) => self.routes.execute(order).await,
        }
    }

    async fn by_agent(&self, agent: &AgentName, order: &Order, deadline: Duration) -> Outcome {
        let member = self.consensus.read(|machine| machine.state().members.get(agent).cloned());
        let Some(member) = member else { return not_delivered(&format!("{agent} is no member")) };
        match self.peers.agent(agent, &member.address) {
            Ok(client) => outcome_of(client.execute(order, deadline).await),
            Err(error) => not_delivered(&crate::cli::with_causes(&error)),
        }
    }
}

fn not_delivered(detail: &str) -> Outcome {
    Outcome::Refused { code: Refusal::NotDelivered, detail: detail.to_owned() }
}

/// A call that certainly did not arrive did nothing; any other failure leaves the outcome unknown.
fn outcome_of(answer: Result<Outcome, CallError>) -> Outcome {
    match answer {
        Ok(outcome) => outcome,
        Err(error) if error.not_done() => not_delivered(&error.to_string()),
        Err(error) => Outcome::Unknown { detail: error.to_string() },
    }
}
