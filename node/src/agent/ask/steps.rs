//! A plan in words: what each step does, in order. It decides nothing, and names only what the plan has.

use mesh_failover::errands;
use mesh_proto::operator::{Answer, PlanView};
use mesh_proto::run::{Plan, RunKind};
use mesh_proto::spec::{Errand, OnFailure, Point};

use super::failover::Considered;

/// A plan as it is shown.
pub(super) fn plan_view(considered: Considered) -> Answer {
    let errands: Vec<&Errand> = considered.errands.iter().collect();
    let (chain, time) = errands::longest(&errands);
    let chain: Vec<_> = chain.into_iter().map(ToString::to_string).collect();
    Answer::Plan(Box::new(PlanView {
        steps: steps(&considered.plan, &errands),
        longest: (!chain.is_empty()).then_some((chain, time)),
        plan: considered.plan,
        findings: considered.findings,
        may_lose_bytes: considered.may_lose,
        wait_at_most: considered.wait,
    }))
}

/// What a plan does, a line a step.
pub(super) fn steps(plan: &Plan, errands: &[&Errand]) -> Vec<String> {
    // Without anybody to promote there is nothing to do; the findings say why.
    let Some(first) = plan.candidates.first() else { return Vec::new() };
    let from = &plan.from;
    let at =
        |point: Point| errands.iter().filter(move |errand| errand.at == point).map(|errand| told(errand));
    let (mut steps, end) = match plan.kind {
        RunKind::Switchover => (
            vec![
                format!("checkpoint {from}, while it serves"),
                "a majority of voters pledges to renew its lease no more".to_owned(),
                format!("stop {from} cleanly and prove it"),
                format!("confirm that {first} has everything"),
                format!("commit the promotion of {first}; until here the run can be aborted"),
                format!("promote {first}, write the epoch"),
            ],
            format!("let {from} and the other standbys follow"),
        ),
        RunKind::Failover => (
            vec![
                "a majority of voters pledges to renew the lease no more".to_owned(),
                format!("fence {from} if its guard answers; else wait for its lease to end"),
                "freeze every standby within reach and compare where they stand".to_owned(),
                format!("commit the promotion of the best (now: {first}); until here the run can be aborted"),
                "promote it, write the epoch".to_owned(),
            ],
            format!("let {from} rejoin when it is back, its diverged WAL kept"),
        ),
    };
    steps.splice(0..0, at(Point::Prepare));
    steps.extend(at(Point::BeforeRoutes).map(|told| format!("{told}; routes wait for it")));
    steps.extend(at(Point::BesideRoutes).map(|told| format!("{told}; beside the routes")));
    steps.push("lead the routes to it and end old sessions".to_owned());
    steps.push("write through each route".to_owned());
    steps.extend(at(Point::AfterRoutes));
    steps.push(end);
    steps
}

/// A service or hook as a line of a plan.
fn told(errand: &Errand) -> String {
    let after: Vec<_> = errand.after.iter().map(ToString::to_string).collect();
    let after =
        if after.is_empty() { String::new() } else { format!(", in order with {}", after.join(", ")) };
    let needs: Vec<_> = errand.needs.iter().map(ToString::to_string).collect();
    let needs = if needs.is_empty() {
        String::new()
    } else {
        format!(", once the primary of {} accepts writes", needs.join(" and of "))
    };
    let failure = match errand.on_failure {
        OnFailure::Warn => "a failure is only noted",
        OnFailure::Stop => "a failure stops the services and hooks after it",
        OnFailure::Ask => "a failure waits for an operator",
    };
    format!("{errand}{after}{needs}, within {}; {failure}", errand.deadline)
}
