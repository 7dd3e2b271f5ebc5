//! What each command does: build the question, ask it, show the answer.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use mesh_proto::command::MemberRecord;
use mesh_proto::operator::{Answer, Ask, FailoverAsk, PlanView, RunView, StatusView};
use mesh_proto::run::Phase;
use mesh_proto::{GroupName, InstanceName};

use super::args::{
    Common, FailoverArgs, InstanceArgs, NodeCommand, Operation, RunArgs, StartArgs, StatusArgs,
    SwitchoverArgs, TargetArgs,
};
use super::client::{AskError, Client, changes};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::render::Detail;
use super::{apply, audit, everything, follow, proposals, remote, render};

/// Runs one operator command to its end, on a runtime of its own.
#[must_use]
pub fn main(common: &Common, operation: Operation) -> ExitCode {
    let output = Output::of_process(common.json);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output.failure(&Failure::new(Exit::Error, format!("cannot start: {error}"), ""));
            return Exit::Error.into();
        }
    };
    let ended = runtime.block_on(async {
        let client = remote::client(common)?;
        Operator { client, output }.run(operation).await
    });
    ended
        .unwrap_or_else(|failure| {
            output.failure(&failure);
            failure.exit
        })
        .into()
}

/// One operator at one agent.
#[derive(Debug, Clone)]
pub struct Operator {
    /// How to ask.
    pub client: Client,
    /// Where to show.
    pub output: Output,
}

impl Operator {
    async fn run(&self, operation: Operation) -> Result<Exit, Failure> {
        match operation {
            Operation::Status(args) => self.status(args).await,
            Operation::Why(args) => self.show(Ask::Why { group: args.group }).await,
            Operation::Plan(target) if target.all => {
                let how = StartArgs { dry_run: true, yes: true, detach: false, reason: None };
                everything::run(self, failover_ask(target, None), &how).await
            }
            Operation::Plan(target) => self.plan(failover_ask(target, None)).await,
            Operation::Failover(args) => self.failover(args).await,
            Operation::Switchover(args) => self.switchover(args).await,
            Operation::Approve(args) => proposals::approve(self, args).await,
            Operation::Withdraw(args) => proposals::withdraw(self, args).await,
            Operation::Run(args) => self.show_run(args).await,
            Operation::Abort(args) => {
                self.change_run(Ask::Abort { run: args.run, reason: reason(args.reason)? }).await
            }
            Operation::Retry(args) => {
                self.change_run(Ask::Retry { run: args.run, reason: reason(args.reason)? }).await
            }
            Operation::Skip(args) => {
                let (run, errand) = (args.run, args.name);
                self.change_run(Ask::Skip { run, errand, reason: reason(args.reason)? }).await
            }
            Operation::Rejoin(args) => {
                let (group, instance) = self.locate(args).await?;
                self.show(Ask::Rejoin { group, instance }).await
            }
            Operation::Adopt(args) => {
                let (group, instance) = self.locate(args.instance).await?;
                let loss = args.reason.filter(|_| args.accept_loss);
                let loss = loss.map(reason).transpose()?;
                self.show(Ask::Adopt { group, instance, accept_loss: loss }).await
            }
            Operation::Pause(args) => {
                let group = self.one_group(args.group).await?;
                self.show(Ask::Pause { group, length: args.length, reason: reason(args.reason)? }).await
            }
            Operation::Resume(args) => {
                let group = self.one_group(args.group).await?;
                self.show(Ask::Resume { group }).await
            }
            Operation::Ack(args) => {
                let group = self.one_group(args.group).await?;
                self.show(Ask::Ack { group }).await
            }
            Operation::Degrade(args) => {
                let group = self.one_group(args.group).await?;
                self.show(Ask::Degrade { group, end: args.end, reason: reason(args.reason)? }).await
            }
            Operation::Apply(args) => apply::run(self, &args).await,
            Operation::Form => self.show(Ask::Form).await,
            Operation::Node(command) => self.node(command).await,
            Operation::Audit(command) => audit::run(self, command).await,
        }
    }

    /// Asks, and turns every way not to get a usable answer into a failure.
    ///
    /// # Errors
    /// A [`Failure`] when the agent does not answer, or the mesh refuses.
    pub async fn ask(&self, ask: Ask) -> Result<Answer, Failure> {
        let changes = changes(&ask);
        match self.client.ask(ask).await {
            Ok(Answer::Refused(refusal)) => Err(refusal.into()),
            Ok(answer) => Ok(answer),
            Err(error) => Err(error.failure(changes)),
        }
    }

    /// An answer of another kind than was asked for.
    #[must_use]
    pub fn other_answer(&self, changes: bool) -> Failure {
        AskError::OtherAnswer { at: self.client.place().clone() }.failure(changes)
    }

    async fn show(&self, ask: Ask) -> Result<Exit, Failure> {
        let answer = self.ask(ask).await?;
        self.answer(&answer)
    }

    /// Shows an answer.
    ///
    /// # Errors
    /// A [`Failure`] when the mesh refused, or the output cannot be written.
    pub fn answer(&self, answer: &Answer) -> Result<Exit, Failure> {
        let output = &self.output;
        match answer {
            Answer::Done(line) => {
                if output.json {
                    output.value(&serde_json::json!({ "done": line }))?;
                } else {
                    output.text(&format!("{line}\n"))?;
                }
            }
            Answer::Status(view) => {
                output.show(view, |view, look| render::status(view, Detail::Brief, look))?;
            }
            Answer::Why(view) => output.show(view, |view, look| render::why(view, look))?,
            Answer::Plan(view) => return self.show_plan(view),
            Answer::Run(view) => output.show(view, |view, look| render::run(view, look))?,
            Answer::Proposed(group, open) => {
                output.show(open, |open, look| render::proposal(group, open, None, look))?;
                return Ok(Exit::Proposed);
            }
            Answer::Audit(records) => output.show(records, |records, look| render::audit(records, look))?,
            Answer::AuditVerified(report) => {
                output.show(report, render::audit_report)?;
                if !render::verified(report) {
                    return Ok(Exit::RunFailed);
                }
            }
            Answer::AuditHash { head, hash } => {
                output.value(&serde_json::json!({ "head": head, "hash": hash }))?;
            }
            Answer::Live(view) => {
                output.show(view, |view, look| render::live(view, look))?;
                return Ok(render::live_exit(view));
            }
            Answer::LiveHere(places) => output.value(places)?,
            Answer::Nodes(nodes) => output.show(nodes, |nodes, look| render::nodes(nodes, look))?,
            Answer::Refused(refusal) => return Err(refusal.clone().into()),
        }
        Ok(Exit::Done)
    }

    async fn status(&self, args: StatusArgs) -> Result<Exit, Failure> {
        let detail = if args.notes { Detail::Notes } else { Detail::Brief };
        let shown =
            |view: &StatusView| self.output.show(view, |view, look| render::status(view, detail, look));
        if !args.watch {
            let view = self.status_view().await?;
            shown(&view)?;
            return Ok(Exit::Done);
        }
        // A line each for programs, a fresh screen each for people.
        let clear = if self.output.terminal && !self.output.json { "\x1b[H\x1b[2J" } else { "" };
        let mut pace = tokio::time::interval(args.every.duration());
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let answer = tokio::select! {
                answer = async { pace.tick().await; self.status_view().await } => answer,
                stop = tokio::signal::ctrl_c() => return ended(stop),
            };
            self.output.text(clear)?;
            match answer {
                Ok(view) => shown(&view)?,
                // A watcher outlives a restart of the agent.
                Err(failure) if failure.exit == Exit::NotReachable => self.output.failure(&failure),
                Err(failure) => return Err(failure),
            }
            if clear.is_empty() && !self.output.json {
                self.output.text("\n")?;
            }
        }
    }

    /// The status.
    ///
    /// # Errors
    /// A [`Failure`] when the agent does not answer.
    pub async fn status_view(&self) -> Result<Box<StatusView>, Failure> {
        let answer = self.ask(Ask::Status).await?;
        let Answer::Status(view) = answer else { return Err(self.other_answer(false)) };
        Ok(view)
    }

    async fn plan(&self, mut ask: FailoverAsk) -> Result<Exit, Failure> {
        ask.dry_run = true;
        match self.planned(ask).await? {
            Planned::Plan(view) => self.show_plan(&view),
            Planned::Running(view) => {
                let (id, phase) = (view.run.id, view.run.phase);
                Err(Failure::new(
                    Exit::Conflict,
                    format!("run {id} is going on ({phase}): a plan made now would not hold"),
                    format!("mesh run {id} --follow"),
                ))
            }
        }
    }

    /// The plan, or the run that is going on instead.
    ///
    /// # Errors
    /// A [`Failure`] when the agent does not answer, or the mesh refuses.
    pub async fn planned(&self, ask: FailoverAsk) -> Result<Planned, Failure> {
        let answer = self.ask(Ask::Failover(ask)).await?;
        if let Answer::Run(view) = answer {
            return Ok(Planned::Running(view));
        }
        let Answer::Plan(view) = answer else { return Err(self.other_answer(false)) };
        Ok(Planned::Plan(view))
    }

    fn show_plan(&self, view: &PlanView) -> Result<Exit, Failure> {
        self.output.show(view, render::plan)?;
        // A plan that may not be executed was shown; scripts see it by the code.
        Ok(if view.findings.is_empty() { Exit::Done } else { Exit::Unsafe })
    }

    async fn failover(&self, args: FailoverArgs) -> Result<Exit, Failure> {
        let all = args.target.all;
        let mut ask = failover_ask(args.target, args.start.reason.clone());
        ask.force = args.force;
        ask.accept_loss = args.accept_loss;
        if args.force || args.accept_loss {
            ask.reason = reason(ask.reason)?;
        }
        if all { everything::run(self, ask, &args.start).await } else { self.start(ask, &args.start).await }
    }

    async fn switchover(&self, args: SwitchoverArgs) -> Result<Exit, Failure> {
        let all = args.target.all;
        let mut ask = failover_ask(args.target, args.start.reason.clone());
        ask.graceful_only = true;
        if all { everything::run(self, ask, &args.start).await } else { self.start(ask, &args.start).await }
    }

    async fn start(&self, ask: FailoverAsk, how: &StartArgs) -> Result<Exit, Failure> {
        if how.dry_run {
            return self.plan(ask).await;
        }
        if !how.yes {
            let view = match self.planned(FailoverAsk { dry_run: true, ..ask.clone() }).await? {
                Planned::Plan(view) if !view.findings.is_empty() => return self.show_plan(&view),
                Planned::Plan(view) => render::plan(&view, &self.output.look),
                // It found nobody within its limits, and is to go on without them.
                Planned::Running(view) if ask.force && view.run.phase == Phase::Stuck => {
                    render::run(&view, &self.output.look)
                }
                // Nothing to decide: two at once end in one run.
                Planned::Running(view) => return follow::to_the_end(self, *view).await,
            };
            self.output.progress(&view)?;
            if !self.confirmed()? {
                self.output.progress("nothing was changed\n")?;
                return Ok(Exit::Done);
            }
        }
        let answer = self.ask(Ask::Failover(ask)).await?;
        // `Done`: what was asked for is so already, and there is nothing to run.
        let Answer::Run(view) = answer else { return self.answer(&answer) };
        if how.detach { self.detached(&view) } else { follow::to_the_end(self, *view).await }
    }

    /// Shows how to come back to a run.
    ///
    /// # Errors
    /// A [`Failure`] when the output cannot be written.
    pub fn detached(&self, view: &RunView) -> Result<Exit, Failure> {
        let id = view.run.id;
        self.output.show(view, |view, look| {
            format!("{}next: mesh run {id} --follow\n", render::run_heading(view, look))
        })?;
        Ok(Exit::Done)
    }

    /// Asks the person at the terminal.
    ///
    /// # Errors
    /// A [`Failure`] when there is none.
    pub fn confirmed(&self) -> Result<bool, Failure> {
        let unreadable = |error: std::io::Error| {
            Failure::new(
                Exit::Invalid,
                format!("cannot ask you: {error}"),
                "add --yes to start without being asked",
            )
        };
        if !std::io::stdin().is_terminal() {
            return Err(Failure::new(
                Exit::Invalid,
                "this changes the primary, and there is no terminal to ask you on",
                "add --yes to start it, or --dry-run to see the plan only; nothing was changed",
            ));
        }
        let mut prompt = std::io::stderr().lock();
        prompt.write_all(b"Start it? Type yes: ").and_then(|()| prompt.flush()).map_err(unreadable)?;
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map_err(unreadable)?;
        Ok(matches!(line.trim(), "yes" | "y"))
    }

    async fn show_run(&self, args: RunArgs) -> Result<Exit, Failure> {
        let answer = self.ask(Ask::Run { run: args.run }).await?;
        let Answer::Run(view) = answer else { return Err(self.other_answer(false)) };
        if args.follow {
            return follow::to_the_end(self, *view).await;
        }
        self.output.show(&*view, render::run)?;
        Ok(follow::exit(view.run.phase).unwrap_or(Exit::Done))
    }

    /// A change to a run: shown, and followed while the run goes on after it.
    async fn change_run(&self, ask: Ask) -> Result<Exit, Failure> {
        let aborting = matches!(ask, Ask::Abort { .. });
        let answer = self.ask(ask).await?;
        let Answer::Run(view) = answer else { return self.answer(&answer) };
        if view.run.phase == Phase::Aborted {
            self.output.show(&*view, render::run)?;
            return Ok(if aborting { Exit::Done } else { Exit::RunFailed });
        }
        let ended = follow::to_the_end(self, *view).await?;
        // An abort that ended aborted is what was asked for.
        Ok(if aborting && ended == Exit::RunFailed { Exit::Done } else { ended })
    }

    async fn node(&self, command: NodeCommand) -> Result<Exit, Failure> {
        let ask = match command {
            NodeCommand::List => Ask::Nodes,
            NodeCommand::Add(args) => Ask::NodeAdd {
                member: MemberRecord {
                    id: args.id,
                    agent: args.agent,
                    site: args.site,
                    address: args.address,
                    voter: args.voter,
                },
            },
            NodeCommand::Voters { agents } => Ask::NodeVoters { agents },
            NodeCommand::Remove { agent } => Ask::NodeRemove { agent },
        };
        self.show(ask).await
    }

    /// The group a question is about, when it was left out.
    async fn one_group(&self, given: Option<GroupName>) -> Result<GroupName, Failure> {
        if let Some(group) = given {
            return Ok(group);
        }
        let mut groups: Vec<_> = self.groups().await?.into_iter().map(|(group, _)| group).collect();
        match (groups.pop(), groups.len()) {
            (Some(group), 0) => Ok(group),
            (None, _) => Err(no_groups()),
            (Some(last), _) => {
                let names: Vec<_> = groups.iter().chain([&last]).map(ToString::to_string).collect();
                Err(Failure::new(
                    Exit::Invalid,
                    "there are several groups",
                    format!("say which with --group: {}", names.join(", ")),
                ))
            }
        }
    }

    /// The group of an instance, when it was left out.
    async fn locate(&self, args: InstanceArgs) -> Result<(GroupName, InstanceName), Failure> {
        if let Some(group) = args.group {
            return Ok((group, args.instance));
        }
        let groups = self.groups().await?;
        if groups.is_empty() {
            return Err(no_groups());
        }
        let known: Vec<_> =
            groups.iter().flat_map(|(_, names)| names.iter().map(ToString::to_string)).collect();
        let mut owners = groups.into_iter().filter(|(_, names)| names.contains(&args.instance));
        match (owners.next(), owners.next()) {
            (Some((group, _)), None) => Ok((group, args.instance)),
            (Some(_), Some(_)) => Err(Failure::new(
                Exit::Invalid,
                format!("several groups have an instance {}", args.instance),
                "say which with --group",
            )),
            (None, _) => Err(Failure::new(
                Exit::NotFound,
                format!("no group has an instance {}", args.instance),
                format!("there are: {}", known.join(", ")),
            )),
        }
    }

    async fn groups(&self) -> Result<Vec<(GroupName, Vec<InstanceName>)>, Failure> {
        Ok(self
            .status_view()
            .await?
            .groups
            .into_iter()
            .map(|group| (group.group, group.instances.into_iter().map(|i| i.name).collect()))
            .collect())
    }
}

/// What came of asking for a plan.
#[derive(Debug)]
pub enum Planned {
    /// The plan, which may have findings.
    Plan(Box<PlanView>),
    /// A run is going on already.
    Running(Box<RunView>),
}

fn no_groups() -> Failure {
    Failure::new(Exit::NotFound, "there are no groups yet", "create one: mesh apply -f orders.toml")
}

fn failover_ask(target: TargetArgs, reason: Option<String>) -> FailoverAsk {
    FailoverAsk {
        group: target.group,
        site: target.site,
        instance: target.instance,
        graceful_only: false,
        force: false,
        accept_loss: false,
        dry_run: false,
        reason: reason.unwrap_or_else(|| "asked for by hand".to_owned()),
    }
}

/// A reason that says something.
///
/// # Errors
/// A [`Failure`] when it is empty.
pub fn reason(text: String) -> Result<String, Failure> {
    if text.trim().is_empty() {
        return Err(Failure::new(
            Exit::Invalid,
            "the reason is empty",
            "write --reason \"why\": it stands in the audit for whoever asks later",
        ));
    }
    Ok(text)
}

fn ended(stop: std::io::Result<()>) -> Result<Exit, Failure> {
    stop.map(|()| Exit::Done)
        .map_err(|error| Failure::new(Exit::Error, format!("cannot wait for an interrupt: {error}"), ""))
}
