//! The thread that owns the core. It takes inputs, asks the core what to do, and hands that out. It waits for nothing but its
//! inputs and the next moment the core named.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use mesh_failover::Moment;
use mesh_failover::guard::{
    Action, Fresh, Guard, GuardConfig, GuardState, Leash as LeashDuty, LocalFacts, Task, TaskResult,
};
use mesh_proto::InstanceName;
use mesh_proto::effect::{Order, Outcome};
use mesh_proto::evidence::GuardStatus;
use mesh_proto::hold::{HoldAnswer, HoldRequest};
use mesh_proto::lease::{LeaseTerm, Receipt, ReceiptLevel, RenewReply};
use tokio::sync::{mpsc, oneshot};

use super::eyes::Eyes;
use super::fencer::{self, Fence};
use super::files::{StateDir, write_state};
use super::hands;
use super::holders::AskHolders;
use super::keeper::Keeper;
use super::server::Server;
use super::voters::Ask;
use super::{GuardError, host, priority, watchdog};
use crate::clock::{Clock, Reading};
use crate::leash::Duty;

/// The longest sleep, whatever the core says: the clock of a sleep stands still while the host is suspended.
const SLEEP_MAX: Duration = Duration::from_millis(250);
/// How long a result waits for the look that follows it: a look has a deadline of its own, a little shorter.
const SETTLE_WITHIN: Duration = Duration::from_millis(600);
/// How long a fence for a stop may take before the guard gives up and leaves the rest to the leash.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// What happens to a guard.
#[derive(Debug)]
pub(super) enum Input {
    /// The server was looked at; with how many results were known when the look began.
    Facts { results: u64, facts: Box<LocalFacts> },
    /// A task ended, or a fence reached its first level.
    Done { job: u64, result: TaskResult },
    /// A voter answered.
    Reply { round: u64, reply: Box<RenewReply> },
    /// An order of a leader.
    Order { order: Box<Order>, answer: oneshot::Sender<Outcome> },
    /// Somebody asks how the instance is.
    Status { answer: oneshot::Sender<Box<GuardStatus>> },
    /// A task asks whether this lease is held now.
    Holds { term: LeaseTerm, answer: oneshot::Sender<bool> },
    /// The guard of another instance asks for a promise.
    Hold { request: Box<HoldRequest>, answer: oneshot::Sender<HoldAnswer> },
    /// The guard of another instance answered.
    Promise { round: u64, giver: InstanceName, answer: HoldAnswer },
    /// The state of this version is on disk.
    Persisted(u64),
    /// It could not be written.
    PersistFailed,
    /// The leash with this number ended.
    LeashEnded(u64),
    /// Go down.
    Stop,
}

/// Stops the guard, which fences first, when a thread that it cannot do without ends: by a fault, since each of them
/// lives as long as the driver.
pub(super) struct Alarm {
    pub(super) thread: &'static str,
    pub(super) inputs: Sender<Input>,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // A driver that is gone was the reason.
        if self.inputs.send(Input::Stop).is_ok() {
            tracing::error!(thread = self.thread, "a thread of the guard ended; stopping");
        }
    }
}

/// What a driver is made of.
pub(super) struct Parts {
    pub(super) config: GuardConfig,
    pub(super) stored: Option<GuardState>,
    pub(super) fresh: Fresh,
    pub(super) clock: Clock,
    pub(super) dir: StateDir,
    pub(super) server: Arc<Server>,
    pub(super) inputs: Sender<Input>,
    pub(super) asks: mpsc::Sender<Ask>,
    pub(super) watchdog: Option<std::path::PathBuf>,
    pub(super) holds: mpsc::Sender<AskHolders>,
}

/// How a driver ends.
pub(super) type Ended = oneshot::Receiver<Result<(), GuardError>>;

/// A running driver.
pub(super) struct Driver {
    ended: Ended,
}

impl Driver {
    /// Starts the driver and the threads it hands work to.
    pub(super) fn start(parts: Parts, inbox: Receiver<Input>) -> Result<Self, GuardError> {
        let (fences, fenced) = channel();
        fencer::start(Arc::clone(&parts.server), fenced, parts.inputs.clone())
            .map_err(host("start the fence thread"))?;
        let (orders, ordered) = mpsc::unbounded_channel();
        start_work(&parts, ordered)?;
        let (states, written) = channel();
        start_writer(parts.dir.state_file(), written, parts.inputs.clone())?;
        let guard =
            Guard::start(parts.clock.now(), parts.config.clone(), parts.stored.clone(), parts.fresh.clone())?;
        let (tell, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("guard".to_owned())
            .spawn(move || {
                let result =
                    Loop::begin(parts, guard, fences, orders, states).and_then(|run| run.run(&inbox));
                // Only the end of the process does not hear it.
                let _ = tell.send(result);
            })
            .map_err(host("start the guard's main thread"))?;
        Ok(Self { ended })
    }

    /// Completes when the driver has ended.
    pub(super) fn ended(self) -> Ended {
        self.ended
    }
}

/// Eyes and hands share a thread: neither is on the way to a fence.
fn start_work(parts: &Parts, ordered: mpsc::UnboundedReceiver<hands::Order>) -> Result<(), GuardError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(host("start the runtime for the server"))?;
    let (server, inputs) = (Arc::clone(&parts.server), parts.inputs.clone());
    std::thread::Builder::new()
        .name("work".to_owned())
        .spawn(move || {
            let _alarm = Alarm { thread: "work", inputs: inputs.clone() };
            runtime.block_on(async {
                let eyes = Eyes::new(Arc::clone(&server), inputs.clone()).watch();
                tokio::join!(eyes, hands::serve(server, ordered, inputs));
            });
        })
        .map_err(host("start the thread for the server"))?;
    Ok(())
}

fn start_writer(
    path: std::path::PathBuf,
    states: Receiver<Box<GuardState>>,
    results: Sender<Input>,
) -> Result<(), GuardError> {
    std::thread::Builder::new()
        .name("state".to_owned())
        .spawn(move || {
            let _alarm = Alarm { thread: "state", inputs: results.clone() };
            while let Ok(state) = states.recv() {
                // A newer state holds all that an older one does.
                let state = states.try_iter().last().unwrap_or(state);
                let result = match write_state(&path, &state) {
                    Ok(()) => Input::Persisted(state.version),
                    Err(error) => {
                        tracing::error!(%error, path = %path.display(), "cannot write the guard's state");
                        Input::PersistFailed
                    }
                };
                if results.send(result).is_err() {
                    return;
                }
            }
        })
        .map_err(host("start the thread that writes the state"))?;
    Ok(())
}

struct Loop {
    guard: Guard,
    clock: Clock,
    dir: StateDir,
    server: Arc<Server>,
    asks: mpsc::Sender<Ask>,
    holds: mpsc::Sender<AskHolders>,
    fences: Sender<Fence>,
    orders: mpsc::UnboundedSender<hands::Order>,
    states: Sender<Box<GuardState>>,
    waiting: HashMap<u64, oneshot::Sender<Outcome>>,
    /// Guards that wait for a promise.
    askers: HashMap<u64, oneshot::Sender<HoldAnswer>>,
    next_order: u64,
    system: Option<u64>,
    leash: Keeper,
    watchdog: watchdog::Keeper,
    stopping: Option<Instant>,
    held: Option<LeaseTerm>,
    /// A result that waits for the look after it.
    unsettled: Option<(Instant, u64, TaskResult)>,
}

impl Loop {
    fn begin(
        parts: Parts,
        guard: Guard,
        fences: Sender<Fence>,
        orders: mpsc::UnboundedSender<hands::Order>,
        states: Sender<Box<GuardState>>,
    ) -> Result<Self, GuardError> {
        let Parts { clock, dir, server, inputs, asks, holds, watchdog, .. } = parts;
        for missing in [priority::real_time(), priority::lock_memory()] {
            if let Err(why) = missing {
                tracing::warn!("{why}");
                server.downgrade(why);
            }
        }
        let leash = Keeper::start(&server, &inputs)?;
        let watchdog = watchdog::Keeper::start(watchdog, &server, &inputs)?;
        Ok(Self {
            guard,
            clock,
            dir,
            server,
            asks,
            holds,
            fences,
            orders,
            states,
            waiting: HashMap::new(),
            askers: HashMap::new(),
            next_order: 1,
            system: None,
            leash,
            watchdog,
            stopping: None,
            held: None,
            unsettled: None,
        })
    }

    fn run(mut self, inbox: &Receiver<Input>) -> Result<(), GuardError> {
        loop {
            let now = self.clock.now();
            let actions = self.guard.poll(now);
            // Before anything is begun: a driver that hangs in the middle has then said how long the host may go on.
            self.watchdog.tend(now, &self.guard);
            for mut action in actions {
                action.sign(|bytes| self.dir.sign(bytes));
                self.act(now, action);
            }
            if self.unsettled.as_ref().is_some_and(|(since, ..)| since.elapsed() > SETTLE_WITHIN) {
                self.settle(now);
                continue;
            }
            self.say_lease(now);
            self.server.set_pace(self.guard.opened().is_some(), self.guard.timing().probe);
            self.server.set_quiet(self.guard.is_quiet());
            self.leash.watch();
            if self.guard.is_down() {
                self.leash.tell(Duty::Idle);
                self.watchdog.down();
                return Ok(());
            }
            if self.stopping.is_some_and(|since| since.elapsed() > STOP_WITHIN) {
                return Err(GuardError::NotQuiet);
            }
            let wait = self.guard.next_wakeup(now).since(self.clock.now()).duration();
            match inbox.recv_timeout(wait.clamp(Duration::from_millis(1), SLEEP_MAX)) {
                Ok(input) => self.take(input),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(GuardError::Broken),
            }
            // All that is there counts before the core is asked: a death, say, before an order.
            while let Ok(input) = inbox.try_recv() {
                self.take(input);
            }
        }
    }

    fn take(&mut self, input: Input) {
        let now = self.clock.now();
        match input {
            Input::Facts { results, facts } => {
                if results == self.server.results() {
                    self.settle(now);
                    self.system = facts.system_id;
                    self.guard.handle_facts(now, *facts);
                }
            }
            Input::Done { job, result } => {
                // A second result must not overtake the first.
                self.settle(now);
                self.server.count_result();
                // What proves that nothing is acknowledged waits for nothing.
                if matches!(result, TaskResult::Fenced { level: ReceiptLevel::NoAck, .. }) {
                    self.guard.handle_done(now, job, result);
                } else {
                    self.unsettled = Some((Instant::now(), job, result));
                }
            }
            Input::Reply { round, reply } => self.guard.handle_reply(now, round, &reply),
            Input::Order { order, answer } => {
                let id = self.next_order;
                self.next_order += 1;
                self.waiting.insert(id, answer);
                self.guard.handle_order(now, id, *order);
            }
            Input::Status { answer } => {
                let mut status = self.guard.status(now);
                if let Some(receipt) = status.receipt.as_mut() {
                    receipt.signature = self.dir.sign(&Receipt::signed_bytes(receipt));
                }
                // Whoever asked may have gone.
                let _ = answer.send(Box::new(status));
            }
            Input::Holds { term, answer } => {
                // A task that was ended does not listen any more.
                let _ = answer.send(self.guard.holds(now, term));
            }
            Input::Hold { request, answer } => {
                let id = self.next_order;
                self.next_order += 1;
                // Whoever did not wait so long has asked again.
                self.askers.retain(|_, asker| !asker.is_closed());
                self.askers.insert(id, answer);
                self.guard.handle_hold(now, id, &request);
            }
            Input::Promise { round, giver, answer } => {
                self.guard.handle_promise(now, round, &giver, answer);
            }
            Input::Persisted(version) => self.guard.handle_persisted(now, version),
            Input::PersistFailed => self.guard.handle_persist_failed(now),
            Input::LeashEnded(number) => self.leash.ended(number),
            Input::Stop => {
                self.stopping.get_or_insert_with(Instant::now);
                self.guard.handle_stop(now);
            }
        }
    }

    /// Gives the core a result. It is given together with what is seen after it: with what was seen before, the core would
    /// take a server that was just opened for a standby, and open it again.
    fn settle(&mut self, now: Moment) {
        if let Some((_, job, result)) = self.unsettled.take() {
            self.guard.handle_done(now, job, result);
        }
    }

    fn act(&mut self, now: Moment, action: Action) {
        match action {
            Action::Leash(duty) => self.leash.tell(match duty {
                LeashDuty::Off => Duty::Idle,
                LeashDuty::Bound => Duty::Bound,
                LeashDuty::Until(at) => Duty::Until(Reading::now().after(at.since(now))),
                LeashDuty::Now => Duty::Now,
            }),
            Action::Persist(state) => {
                if self.states.send(state).is_err() {
                    self.guard.handle_persist_failed(now);
                }
            }
            Action::Ask { round, voters, request } => {
                let ask = Ask { round, voters, request: Arc::new(*request) };
                if self.asks.try_send(ask).is_err() {
                    tracing::warn!("renewals pile up; this one is left out");
                }
            }
            Action::AskHolders { round, to, request } => {
                if self.holds.try_send(AskHolders { round, to, request: Arc::new(*request) }).is_err() {
                    tracing::warn!("requests for promises pile up; this one is left out");
                }
            }
            Action::Promise { id, answer } => {
                if let Some(asker) = self.askers.remove(&id) {
                    // Whoever asked may have gone; it asks again.
                    let _ = asker.send(answer);
                }
            }
            Action::GateCommits => self.order(hands::Order::Gate(true)),
            Action::SetQuorum(config) => self.order(hands::Order::Quorum(config)),
            Action::UngateCommits => self.order(hands::Order::Gate(false)),
            Action::Do { job, task, until } => self.begin_task(now, job, task, until),
            Action::Answer { id, outcome } => {
                if let Some(answer) = self.waiting.remove(&id) {
                    // Whoever gave the order may have gone; it asks again.
                    let _ = answer.send(outcome);
                }
            }
        }
    }

    fn begin_task(&mut self, now: Moment, job: u64, task: Task, until: Moment) {
        let left = until.since(now).duration();
        if let Task::Fence { hard, cause, term } = task {
            tracing::warn!(hard, ?cause, ?term, "fencing");
            // First the fence, then the end of what runs beside it: the fence waits for nothing.
            if self.fences.send(Fence { job, hard, budget: left }).is_err() {
                tracing::error!("the fence thread is gone; the leash takes over");
                self.leash.tell(Duty::Now);
            }
            self.order(hands::Order::End);
            return;
        }
        tracing::info!(task = task.words(), "begun");
        let leash = self.leash.current();
        let (data, system) = (self.guard.state().data.clone(), self.guard.state().system_id.or(self.system));
        self.order(hands::Order::Do { job, task, deadline: Instant::now() + left, data, system, leash });
    }

    fn order(&self, order: hands::Order) {
        if self.orders.send(order).is_err() {
            tracing::error!("the thread for the server is gone; renewals and fences go on");
        }
    }

    fn say_lease(&mut self, now: Moment) {
        let held = self.guard.held(now).map(|held| held.term);
        if held != self.held {
            match held {
                Some(term) => tracing::info!("holds the lease of {term}"),
                None => tracing::warn!("holds no lease any more"),
            }
            self.held = held;
        }
    }
}
