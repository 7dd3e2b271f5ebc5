//! Follows a run to its end: asks for it again and again, and shows what is new. The run goes on without us, so losing
//! the agent loses only the view.

use std::time::Duration;

use mesh_proto::operator::{Answer, Ask, RefusalCode, RunView};
use mesh_proto::run::Phase;
use tokio::time::{Instant, MissedTickBehavior};

use super::exit::{Exit, Failure};
use super::operate::Operator;
use super::render::{self, Progress};

/// How often the run is asked for: a switchover takes about 200 ms, and its phases should be seen as they happen.
const PACE: Duration = Duration::from_millis(60);
/// How long one look may take.
const LOOK: Duration = Duration::from_secs(2);
/// How long the agent may be away before we stop looking: longer than a restart of it, or an election.
const AWAY: Duration = Duration::from_secs(30);
/// How long a run may show nothing new before we stop looking. Rebuilds are no part of a run, so minutes are plenty.
const STILL: Duration = Duration::from_secs(600);

/// How a run that stands in this phase ends the command that follows it; `None` while it goes on.
#[must_use]
pub const fn exit(phase: Phase) -> Option<Exit> {
    match phase {
        Phase::Done => Some(Exit::Done),
        Phase::Aborted | Phase::Stuck => Some(Exit::RunFailed),
        Phase::Preparing
        | Phase::Pledging
        | Phase::Fencing
        | Phase::Promoting
        | Phase::Staging
        | Phase::Routing
        | Phase::Proving
        | Phase::Finishing
        | Phase::Reopening => None,
    }
}

/// Shows a run from where it is to its end.
///
/// # Errors
/// A [`Failure`] when the run cannot be seen to its end; it goes on all the same.
pub async fn to_the_end(operator: &Operator, first: RunView) -> Result<Exit, Failure> {
    let id = first.run.id;
    let joined = first.joined;
    let mut progress = Progress::new(operator.output.look);
    let mut view = first;
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Instant::now();
    let mut news = Instant::now();
    let mut away = false;
    loop {
        let text = progress.news(&view);
        if !text.is_empty() {
            news = Instant::now();
            operator.output.progress(&text)?;
        }
        if let Some(exit) = exit(view.run.phase) {
            view.joined = joined;
            operator.output.show(&view, render::run_summary)?;
            return Ok(exit);
        }
        if news.elapsed() > STILL {
            return Err(lost(&view, "the run has shown nothing new for 10 minutes", Exit::Unknown));
        }
        tokio::select! {
            _ = pace.tick() => {}
            stop = tokio::signal::ctrl_c() => {
                let what = match stop {
                    Ok(()) => "stopped following".to_owned(),
                    Err(error) => format!("cannot wait for an interrupt: {error}"),
                };
                return Err(lost(&view, &what, Exit::Unknown));
            }
        }
        match operator.client.ask_within(Ask::Run { run: Some(id) }, LOOK).await {
            // The leader answered the command itself; this host's agent may be some entries behind it.
            Ok(Answer::Run(other)) if other.run.entered.len() < view.run.entered.len() => {
                seen = Instant::now()
            }
            Ok(Answer::Run(newer)) => {
                view = *newer;
                seen = Instant::now();
                if away {
                    away = false;
                    operator.output.progress("          the agent answers again\n")?;
                }
            }
            // The leader began it; the agent of this host may be some entries behind.
            Ok(Answer::Refused(refusal))
                if refusal.code == RefusalCode::NotFound && seen.elapsed() <= AWAY => {}
            Ok(Answer::Refused(refusal)) => return Err(refusal.into()),
            Ok(_) => return Err(operator.other_answer(false)),
            Err(error) if seen.elapsed() > AWAY => {
                return Err(lost(&view, &super::with_causes(&error), Exit::Unknown));
            }
            Err(_) if away => {}
            Err(error) => {
                away = true;
                let line = format!("          {error}; the run goes on, still looking\n");
                operator.output.progress(&line)?;
            }
        }
    }
}

fn lost(view: &RunView, what: &str, exit: Exit) -> Failure {
    let (id, phase) = (view.run.id, view.run.phase);
    Failure::new(
        exit,
        format!("{what}; run {id} was last seen {phase}, and goes on without you"),
        format!("mesh run {id} --follow, on this host or any other one"),
    )
}
