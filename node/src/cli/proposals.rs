//! `mesh approve` and `mesh withdraw`: the second person of a forced run. It approves nothing unseen: the plan is made anew and
//! shown first.

use mesh_proto::GroupName;
use mesh_proto::operator::{Answer, Ask};
use mesh_proto::proposal::Proposal;

use super::args::{ApproveArgs, WithdrawArgs};
use super::exit::{Exit, Failure};
use super::operate::{Operator, reason};
use super::{follow, render};

/// Runs `mesh approve`.
///
/// # Errors
/// A [`Failure`] when the agent does not answer, or the mesh refuses.
pub async fn approve(operator: &Operator, args: ApproveArgs) -> Result<Exit, Failure> {
    let Some(proposal) = args.proposal.filter(|_| !args.list) else { return list(operator).await };
    let output = &operator.output;
    if !args.yes {
        let answer = operator.ask(Ask::Approve { proposal, dry_run: true }).await?;
        if let Answer::Plan(view) = &answer
            && view.findings.is_empty()
        {
            output.progress(&render::plan(view, &output.look))?;
        } else if let Answer::Run(view) = &answer {
            // It goes on with a run that is stuck.
            output.progress(&render::run(view, &output.look))?;
        } else {
            return operator.answer(&answer);
        }
        if !operator.confirmed()? {
            output.progress("nothing was changed\n")?;
            return Ok(Exit::Done);
        }
    }
    let answer = operator.ask(Ask::Approve { proposal, dry_run: false }).await?;
    let Answer::Run(view) = answer else { return operator.answer(&answer) };
    if args.detach { operator.detached(&view) } else { follow::to_the_end(operator, *view).await }
}

async fn list(operator: &Operator) -> Result<Exit, Failure> {
    let view = operator.status_view().await?;
    let groups = view.groups.iter();
    let waiting: Vec<(&GroupName, &Proposal)> =
        groups.filter_map(|group| Some((&group.group, group.proposal.as_ref()?))).collect();
    operator.output.show(&waiting, |waiting, look| {
        if waiting.is_empty() {
            return "no forced run waits for a second person\n".to_owned();
        }
        let told =
            |(group, open): &(&GroupName, &Proposal)| render::proposal(group, open, Some(view.at), look);
        waiting.iter().map(told).collect::<Vec<_>>().join("\n")
    })?;
    Ok(Exit::Done)
}

/// Runs `mesh withdraw`.
///
/// # Errors
/// A [`Failure`] when the agent does not answer, or the mesh refuses.
pub async fn withdraw(operator: &Operator, args: WithdrawArgs) -> Result<Exit, Failure> {
    let ask = Ask::Withdraw { proposal: args.proposal, reason: reason(args.reason)? };
    let answer = operator.ask(ask).await?;
    operator.answer(&answer)
}
