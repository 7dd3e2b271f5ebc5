//! What the leader does next. Driven by the real agent and by the simulator alike: inputs by `heard_*`, `*_reply`,
//! `proposed`, `executed`; outputs by [`Coordinator::poll`].
//!
//! Everything that must survive a leader is in the replicated state; what is kept here may be lost at any moment, and
//! the next leader goes on from the log: a step whose intent is committed and whose result is not is *unknown*, and is
//! verified before it is repeated. The coordinator never calls anything itself, and never decides by what it believes
//! to have committed: it looks at the applied state each time.
//!
//! Call order: feed everything that arrived, then `poll` once with the applied state; carry out what it returns; feed
//! the answers. `poll` may be called at any time and as often as one likes.

mod crash;
mod decide;
pub mod degrade;
mod dispatch;
mod durability;
mod electorate;
mod errands;
mod fencing;
mod holders;
mod idle;
mod phases;
mod quorum;
mod repair;
mod steps;
mod stuck;

use std::collections::{BTreeMap, BTreeSet};

use mesh_proto::command::{Applied, Command, Verdict};
use mesh_proto::effect::{Order, Outcome, StepRef};
use mesh_proto::evidence::{GuardStatus, Report};
use mesh_proto::lease::{LeaseTerm, PledgeReply, PledgeRequest};
use mesh_proto::run::{Actor, Phase};
use mesh_proto::{AgentName, Epoch, GroupName, InstanceName, Millis, NodeId, ProposalId, RunId};

use crate::Moment;
use crate::lease::takeover::Collector;
use crate::plan::Wish;
use crate::state::MeshState;
use crate::verdict::observations::Observations;

/// Something the coordinator wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Todo {
    /// Propose these commands as one entry; answer with [`Coordinator::proposed`].
    Propose {
        /// The group they are about, or none: the mesh itself. Names the answer.
        group: Option<GroupName>,
        /// Names the answer.
        ticket: u64,
        /// Who asked.
        actor: Actor,
        /// The commands.
        commands: Vec<Command>,
    },
    /// Ask a voter to pledge; answer with [`Coordinator::pledge_reply`].
    Pledge {
        /// The voter.
        to: NodeId,
        /// The request.
        request: PledgeRequest,
    },
    /// Have an effect executed; answer with [`Coordinator::executed`].
    Execute {
        /// Who executes.
        to: Executor,
        /// The order.
        order: Box<Order>,
    },
}

/// Who executes an effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Executor {
    /// The guard of an instance.
    Guard {
        /// The instance.
        instance: InstanceName,
        /// Where its guard listens.
        address: std::net::SocketAddr,
    },
    /// The agent that holds a route's credentials, or does an errand.
    Agent(AgentName),
}

/// What came of a proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProposalResult {
    /// Committed and applied (or refused by apply).
    Applied(Applied),
    /// Not leader any more, or no answer: it may or may not be committed. The applied state will tell.
    Lost,
}

/// Something an operator asked of the leader that a poll carries out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Fail over or switch over.
    Run(Wish),
    /// Begin the run that was proposed, for this person who approves it.
    Approved(ProposalId, Actor, Wish),
    /// End a pause.
    Resume,
    /// Stop a run.
    Abort(RunId, String),
    /// Try a stuck run again.
    Retry(RunId, String),
    /// Let an instance follow now, whatever the backoff says.
    Rejoin(InstanceName),
}

/// The leader's driver of all groups.
#[derive(Debug)]
pub struct Coordinator {
    me: AgentName,
    /// Raft term and the moment this agent began to lead in it.
    leading: Option<(u64, Moment)>,
    /// What was heard; kept by followers too, so that a new leader does not begin blind.
    pub heard: Observations,
    drivers: BTreeMap<GroupName, Driver>,
    electing: electorate::Electing,
    next_ticket: u64,
    /// Rules switched off by tests that prove that the simulator notices.
    pub(crate) mutants: crate::mutants::Mutants,
}

/// What the leader keeps in mind about one group. All of it may be lost.
#[derive(Debug, Default)]
struct Driver {
    /// The proposal whose fate is not known yet.
    proposing: Option<u64>,
    /// What operators asked for.
    requests: Vec<Request>,
    /// The verdict seen last, and since when: a change is recorded once it has lasted.
    verdict: Option<(Verdict, Moment)>,
    /// When the primary was last judged healthy by this leader.
    healthy: Option<Moment>,
    /// The non-durable round before a takeover.
    willing: Option<(LeaseTerm, Collector, Moment)>,
    /// The pledges of the open takeover.
    pledges: Option<(LeaseTerm, Collector)>,
    /// Pledge requests on their way, to be repeated when no answer comes.
    asked: BTreeMap<(NodeId, bool), Moment>,
    /// The entry of the run's phase, and when this leader saw it first.
    phase: Option<(RunId, Phase, usize, Moment)>,
    /// Attempts whose intent this leader proposed: not unknown to it.
    mine: BTreeSet<StepRef>,
    /// Orders on their way.
    in_flight: BTreeMap<StepRef, InFlight>,
    /// Results that are not in the log yet.
    results: BTreeMap<StepRef, Outcome>,
    /// Steps not to be sent again before this moment.
    not_before: BTreeMap<StepRef, Moment>,
    /// Repairs not to be tried again before this moment, with how often they failed.
    backoff: BTreeMap<String, Backoff>,
    /// The epoch in which they failed.
    backoff_in: Epoch,
    /// Services and hooks under way.
    errands: BTreeMap<StepRef, errands::Begun>,
    /// The newest commit quorum, and since when this leader waits for its marker.
    quorum_open: Option<(u64, Moment)>,
    /// Standbys of the quorum that do not stream, and since when.
    absent: BTreeMap<mesh_proto::quorum::QuorumMember, Moment>,
    /// Since when commits wait for standbys that are not there.
    short_since: Option<Moment>,
    /// Since when enough standbys keep up while commits wait for none.
    kept_up_since: Option<Moment>,
    /// When this leader saw the hold-down first.
    hold_down: Option<(RunId, Moment)>,
    /// When this leader saw the proposal first.
    proposal: Option<(ProposalId, Moment)>,
    /// When this leader applied the pause.
    pause: Option<(u64, Moment)>,
    /// The lease this leader saw granted last, and when: a guard gets time to acquire it.
    lease_seen: Option<(LeaseTerm, Moment)>,
}

/// A repair that ended, as far as the next one of the same target depends on it.
#[derive(Debug, Clone, Copy)]
struct Backoff {
    /// The repair that was noted last.
    repair: u64,
    /// Not again before this.
    until: Moment,
    /// How many ended in a row without making it well.
    ended: u32,
}

#[derive(Debug, Clone, Copy)]
struct InFlight {
    until: Moment,
    verify: bool,
}

impl Coordinator {
    /// A coordinator that does not lead yet.
    #[must_use]
    pub fn new(me: AgentName) -> Self {
        Self {
            me,
            leading: None,
            heard: Observations::default(),
            drivers: BTreeMap::new(),
            electing: electorate::Electing::default(),
            next_ticket: 1,
            mutants: crate::mutants::Mutants::none(),
        }
    }

    /// The same with rules switched off: only for tests that prove that the rules are needed.
    #[must_use]
    pub fn with_mutants(me: AgentName, mutants: crate::mutants::Mutants) -> Self {
        Self { mutants, ..Self::new(me) }
    }

    /// This agent leads in a Raft term, and has applied an entry of it (PROTOCOL, Taking over 10). Whatever an earlier
    /// term left in mind is forgotten: clocks of waits begin anew.
    pub fn lead(&mut self, now: Moment, raft_term: u64) {
        if self.leading.is_some_and(|(term, _)| term == raft_term) {
            return;
        }
        self.leading = Some((raft_term, now));
        self.electing = electorate::Electing::default();
        for driver in self.drivers.values_mut() {
            let requests = std::mem::take(&mut driver.requests);
            *driver = Driver { requests, ..Driver::default() };
        }
    }

    /// This agent does not lead any more: forgets everything but what it heard.
    pub fn follow(&mut self) {
        self.leading = None;
        self.drivers.clear();
    }

    /// Whether it leads.
    #[must_use]
    pub const fn leads(&self) -> bool {
        self.leading.is_some()
    }

    /// A guard said how its instance is.
    pub fn heard_guard(&mut self, now: Moment, status: GuardStatus) {
        self.heard.heard_guard(now, status);
    }

    /// An observer reported.
    pub fn heard_report(&mut self, now: Moment, report: Report) {
        self.heard.heard_report(now, report);
    }

    /// An operator asked for something that the next poll carries out.
    pub fn request(&mut self, group: &GroupName, request: Request) {
        let requests = &mut self.drivers.entry(group.clone()).or_default().requests;
        if !requests.contains(&request) {
            requests.push(request);
        }
    }

    /// A voter answered a pledge request.
    pub fn pledge_reply(&mut self, now: Moment, request: &PledgeRequest, reply: &PledgeReply) {
        if self.leading.is_none_or(|(term, _)| term != request.raft_term) {
            return;
        }
        let Some(driver) = self.drivers.get_mut(&request.key.group) else { return };
        driver.asked.remove(&(reply.voter, request.durable));
        let collector = if request.durable {
            driver.pledges.as_mut().filter(|(term, _)| *term == request.term).map(|(_, c)| c)
        } else {
            driver.willing.as_mut().filter(|(term, ..)| *term == request.term).map(|(_, c, _)| c)
        };
        if let Some(collector) = collector {
            collector.answered(now, request.durable, reply);
        }
    }

    /// A pledge request brought no answer.
    pub fn pledge_lost(&mut self, to: NodeId, request: &PledgeRequest) {
        if let Some(driver) = self.drivers.get_mut(&request.key.group) {
            driver.asked.remove(&(to, request.durable));
        }
    }

    /// What came of a proposal.
    pub fn proposed(&mut self, group: Option<&GroupName>, ticket: u64, _result: &ProposalResult) {
        // Whatever it was, the applied state tells what is so now; the next poll looks at it.
        let proposing = match group {
            Some(group) => self.drivers.get_mut(group).map(|driver| &mut driver.proposing),
            None => Some(&mut self.electing.proposing),
        };
        if let Some(proposing) = proposing.filter(|proposing| **proposing == Some(ticket)) {
            *proposing = None;
        }
    }

    /// What came of an order.
    pub fn executed(&mut self, now: Moment, group: &GroupName, step: StepRef, outcome: Outcome) {
        let Some(driver) = self.drivers.get_mut(group) else { return };
        let Some(flight) = driver.in_flight.remove(&step) else { return };
        driver.heard_of_errand(step, &outcome);
        driver.took(now, step, flight, outcome, &self.mutants);
    }

    /// Whether these voters may take the place of those that are: [`electorate::ready_for`].
    ///
    /// # Errors
    /// Which group is not ready, in words.
    pub fn ready_for_voters(
        &self,
        now: Moment,
        state: &MeshState,
        members: &BTreeSet<NodeId>,
    ) -> Result<(), String> {
        electorate::ready_for(now, &self.heard, state, members)
    }

    /// Whether nothing is due by time alone that would be worth a look before the next message: every primary was judged
    /// healthy, no run and no takeover goes on, and nothing is under way.
    #[must_use]
    pub fn calm(&self, state: &MeshState) -> bool {
        let quiet = |group: &crate::state::Group| group.active_run().is_none() && group.takeover.is_none();
        let idle = |driver: &Driver| {
            driver.proposing.is_none()
                && driver.requests.is_empty()
                && driver.in_flight.is_empty()
                && driver.results.is_empty()
                && driver.verdict.is_none_or(|(verdict, _)| verdict == Verdict::Healthy)
        };
        !state.electorate.changes() && state.groups.values().all(quiet) && self.drivers.values().all(idle)
    }

    /// What to do next. Nothing while not leading.
    pub fn poll(&mut self, now: Moment, applied: u64, state: &MeshState) -> Vec<Todo> {
        let Some((raft_term, since)) = self.leading else { return Vec::new() };
        let mut todo = Vec::new();
        let context = Context {
            now,
            raft_term,
            since,
            applied,
            me: &self.me,
            heard: &self.heard,
            mutants: &self.mutants,
        };
        let mut ticket = || {
            self.next_ticket += 1;
            self.next_ticket
        };
        if let Some((actor, command)) = self.electing.decide(&context, state) {
            let ticket = ticket();
            self.electing.proposing = Some(ticket);
            todo.push(Todo::Propose { group: None, ticket, actor, commands: vec![command] });
        }
        for name in state.groups.keys() {
            let driver = self.drivers.entry(name.clone()).or_default();
            if driver.proposing.is_none() {
                driver.observe(&context, state, name);
                let (actor, commands) = driver.decide(&context, state, name);
                if !commands.is_empty() {
                    let ticket = ticket();
                    driver.proposing = Some(ticket);
                    todo.push(Todo::Propose { group: Some(name.clone()), ticket, actor, commands });
                }
            }
            driver.dispatch(&context, state, name, &mut todo);
        }
        self.drivers.retain(|name, _| state.groups.contains_key(name));
        todo
    }
}

/// What a decision may look at besides the state.
struct Context<'a> {
    now: Moment,
    raft_term: u64,
    since: Moment,
    applied: u64,
    me: &'a AgentName,
    heard: &'a Observations,
    mutants: &'a crate::mutants::Mutants,
}

/// How long to wait before an order that was not delivered is sent again.
const RESEND: Millis = Millis(100);
/// How long routes and the proving write may take before the run is stuck.
const ROUTES_DEADLINE: Millis = Millis(10_000);
/// How long a stuck run waits before it looks again whether its cause is gone.
const STUCK_RETRY: Millis = Millis(3_000);
/// How many takeovers one run opens before it gives up and waits for an operator.
const TAKEOVERS_MAX: u32 = 5;
/// How often a failed step is tried within its phase.
const ATTEMPTS_MAX: u32 = 3;
