//! `--all`: every group whose primary stands elsewhere moves to the site, all at the same time, each by a run of its own.
//!
//! All plans are made and shown before the first run is started; if one may not be executed, none is. It never waits for
//! one group before it starts the next: what a site needs moves together.

use futures_util::future::join_all;
use mesh_proto::GroupName;
use mesh_proto::operator::{Answer, Ask, FailoverAsk, RunView, StatusView};

use super::args::StartArgs;
use super::exit::{Exit, Failure};
use super::operate::{Operator, Planned};
use super::{follow, render};

/// Plans, asks, starts and follows the runs of all groups.
///
/// # Errors
/// A [`Failure`] when the agent does not answer, or the mesh refuses a plan.
pub async fn run(operator: &Operator, ask: FailoverAsk, how: &StartArgs) -> Result<Exit, Failure> {
    let status = operator.status_view().await?;
    let groups = elsewhere(&status, &ask);
    if groups.is_empty() {
        operator.output.text("every group's primary stands there already\n")?;
        return Ok(Exit::Done);
    }
    let refused = !all_may(operator, &groups, &ask).await?;
    if refused || how.dry_run {
        return Ok(if refused { Exit::Unsafe } else { Exit::Done });
    }
    if !how.yes && !operator.confirmed()? {
        operator.output.progress("nothing was changed\n")?;
        return Ok(Exit::Done);
    }
    let starting = groups.iter().map(|group| operator.ask(Ask::Failover(of(group, &ask))));
    let started = join_all(starting).await;
    ends(operator, &groups, started, how).await
}

fn of(group: &GroupName, ask: &FailoverAsk) -> FailoverAsk {
    FailoverAsk { group: Some(group.clone()), ..ask.clone() }
}

/// The groups whose primary does not stand at the wanted site.
fn elsewhere(status: &StatusView, ask: &FailoverAsk) -> Vec<GroupName> {
    let there = |group: &&mesh_proto::operator::GroupStatus| {
        let primary = group.instances.iter().find(|instance| Some(&instance.name) == group.primary.as_ref());
        primary.is_some_and(|instance| Some(&instance.site) == ask.site.as_ref())
    };
    status.groups.iter().filter(|group| !there(group)).map(|group| group.group.clone()).collect()
}

/// Shows the plan of each group; whether all may be executed.
async fn all_may(operator: &Operator, groups: &[GroupName], ask: &FailoverAsk) -> Result<bool, Failure> {
    let mut refused = false;
    for group in groups {
        let wanted = FailoverAsk { dry_run: true, ..of(group, ask) };
        match operator.planned(wanted).await {
            Ok(Planned::Plan(view)) => {
                refused |= !view.findings.is_empty();
                operator.output.progress(&render::plan(&view, &operator.output.look))?;
            }
            // Two at once end in one run.
            Ok(Planned::Running(view)) => {
                operator.output.progress(&render::run_heading(&view, &operator.output.look))?;
            }
            Err(failure) => {
                refused = true;
                operator.output.failure(&failure);
            }
        }
    }
    if refused {
        let text = "nothing was changed: one group cannot move; mend it, or move the others with --group\n";
        operator.output.progress(text)?;
    }
    Ok(!refused)
}

/// Follows every run to its end, one after the other; meanwhile the others go on.
async fn ends(
    operator: &Operator,
    groups: &[GroupName],
    started: Vec<Result<Answer, Failure>>,
    how: &StartArgs,
) -> Result<Exit, Failure> {
    let mut worst = Exit::Done;
    let mut note = |exit: Exit| {
        if worst == Exit::Done {
            worst = exit;
        }
    };
    for (group, answer) in groups.iter().zip(started) {
        let ended = match answer {
            Ok(Answer::Run(view)) => one(operator, *view, how).await,
            Ok(other) => operator.answer(&other),
            Err(failure) => Err(failure),
        };
        match ended {
            Ok(exit) => note(exit),
            Err(failure) => {
                operator.output.progress(&format!("{group}: not moved\n"))?;
                operator.output.failure(&failure);
                note(failure.exit);
            }
        }
    }
    Ok(worst)
}

async fn one(operator: &Operator, view: RunView, how: &StartArgs) -> Result<Exit, Failure> {
    if how.detach { operator.detached(&view) } else { follow::to_the_end(operator, view).await }
}
