//! A command in one line for people, told from the state after it: what a step did, and what a run does now. The words
//! are part of the audit's records, so of its hashes: agents of one mesh must say the same.

use mesh_proto::command::{Command, ResumeProof};
use mesh_proto::effect::Outcome;
use mesh_proto::lease::Proof;
use mesh_proto::proposal::{Approved, PROPOSAL_LASTS, ProposalEnd};
use mesh_proto::quorum::DegradedBy;
use mesh_proto::run::{Run, Signal};
use mesh_proto::{AgentName, Epoch, GroupName, InstanceName, RunId};

use super::MeshState;

impl MeshState {
    pub(super) fn summary(&self, command: &Command) -> String {
        match command {
            Command::MeshFormed { mesh, members } => {
                format!("mesh {mesh} formed with {} members", members.len())
            }
            Command::MeshRecovered { mesh, lost, reason } => {
                let lost: Vec<_> = lost.iter().map(AgentName::as_str).collect();
                format!("begun anew as mesh {mesh}, without {}: {reason}", lost.join(", "))
            }
            Command::MemberAdded { member } => {
                let vote = if member.voter { "with a vote" } else { "without a vote" };
                format!("{} joins at {}, {vote}", member.agent, member.site)
            }
            Command::MemberRemoved { agent } => format!("{agent} leaves"),
            Command::ElectorateChanging { members, .. } => {
                format!(
                    "the voters on leases shall be {}; until then both majorities count",
                    self.names(members)
                )
            }
            Command::ElectorateChanged { .. } => {
                format!("the voters on leases are {}", self.names(&self.electorate.members))
            }
            Command::ElectorateKept { .. } => {
                format!("the voters on leases remain {}", self.names(&self.electorate.members))
            }
            Command::SpecApplied { replaces, spec } => {
                format!("spec of {} applied, version {}", spec.group, replaces + 1)
            }
            Command::Founded { instance, reason: None, .. } => {
                format!("{instance} is the primary of epoch 1")
            }
            Command::Founded { group, instance, reason: Some(reason), .. } => {
                let epoch = self.groups.get(group).map_or(Epoch(0), |group| group.epoch);
                format!("{instance} is the primary of epoch {epoch}: {reason}")
            }
            Command::LeaseGranted { instance, replaces, reason, .. } => {
                let (next, epoch) = (replaces.lease_no.next(), replaces.epoch);
                format!("{instance} gets lease {next} in epoch {epoch}: {reason}")
            }
            Command::VerdictChanged { verdict, .. } => format!("{}: {}", verdict.verdict, verdict.summary),
            Command::RunOpened { plan } => {
                format!("{} from {} planned: {}", plan.kind, plan.from, plan.reason)
            }
            Command::StepsStarted { steps, .. } => {
                let all: Vec<_> = steps.iter().map(|s| s.effect.to_string()).collect();
                format!("begin: {}", all.join("; "))
            }
            Command::StepEnded { group, run, step, outcome, .. } => {
                let step_of = |run: &Run| run.steps.get(step).map(|step| step.effect.to_string());
                let what = self.run_now(group, *run).and_then(step_of);
                ended(&what.unwrap_or_else(|| format!("step {step}")), outcome)
            }
            Command::ErrandSkipped { errand, reason, .. } => format!("skipped: {errand}: {reason}"),
            Command::Signalled { group, run, signal, detail, .. } => {
                let now = self.run_now(group, *run);
                let now = now.map(|run| format!("; now {}", run.phase)).unwrap_or_default();
                format!("{}{detail}{now}", label(*signal))
            }
            Command::PromotionCommitted { instance, ends, proof, durability, .. } => {
                let why = match proof {
                    Proof::Receipt(receipt) => format!("a {} receipt", receipt.level),
                    Proof::Expired(expiry) => format!("the lease ran out, {} waited", expiry.waited),
                    Proof::External(off) => {
                        format!("its host, which {} by {} turned off", off.fencer, off.agent)
                    }
                    Proof::Frozen(_) => "a frozen commit quorum, for durable writes only".to_owned(),
                };
                let loss = durability.as_ref().map(|proof| format!("; {proof}")).unwrap_or_default();
                format!(
                    "{instance} becomes primary of epoch {}; {ends} ended by {why}{loss}",
                    ends.epoch.next()
                )
            }
            Command::RepairStarted { effect, .. } => format!("repair begins: {effect}"),
            Command::RepairEnded { group, repair, outcome } => {
                let repairs = self.groups.get(group).into_iter().flat_map(|group| &group.repairs);
                let what = repairs.clone().find(|known| known.id == *repair);
                let what = what.map_or_else(|| format!("repair {repair}"), |known| known.effect.to_string());
                ended(&what, outcome)
            }
            Command::Paused { length, reason, .. } => format!("paused for at most {length}: {reason}"),
            Command::Resumed { how: ResumeProof::Fenced(_), .. } => {
                "pause ended: its primary was fenced meanwhile, which a receipt proves".to_owned()
            }
            Command::Resumed { .. } => "pause ended".to_owned(),
            Command::Acknowledged { .. } => "hold-down ended".to_owned(),
            Command::RunOverridden { site, accept_loss, reason, .. } => {
                let site = site.as_ref().map_or("any site".to_owned(), ToString::to_string);
                let loss = if *accept_loss { "the loss of acknowledged writes is accepted, " } else { "" };
                format!("{loss}the lag limit is waived, the new primary may stand at {site}: {reason}")
            }
            Command::QuorumChanged { group, reason, .. } => {
                let now = self.groups.get(group).and_then(|group| group.quorum());
                let now =
                    now.map(|config| format!("{config}, version {}", config.version)).unwrap_or_default();
                format!("commits shall wait for {now}: {reason}")
            }
            Command::DegradeBegun { by: DegradedBy::Hand, reason, .. } => {
                format!("commits wait for no standby until that is ended, promise 3 is suspended: {reason}")
            }
            Command::DegradeBegun { by: DegradedBy::Policy, reason, .. } => {
                format!("commits wait for no standby until enough are back, promise 3 is suspended: {reason}")
            }
            Command::DegradeEnded { reason, .. } => format!("commits wait for standbys again: {reason}"),
            Command::AccessDenied { denial } => denial.to_string(),
            Command::TokenTried { tried } => tried.to_string(),
            Command::RunProposed { proposed, .. } => {
                let on = proposed.run.map(|run| format!(", to send run {run} on")).unwrap_or_default();
                format!(
                    "{} is proposed{on}, and waits for a second person: {}",
                    proposed.forced, proposed.forced.reason
                )
            }
            Command::RunApproved { proposal, opens: Approved::Run(plan), .. } => {
                format!(
                    "{proposal} of {} approved: {} from {} planned: {}",
                    plan.actor, plan.kind, plan.from, plan.reason
                )
            }
            Command::RunApproved { proposal, opens: Approved::Stuck(run), .. } => {
                format!("{proposal} approved: run {run} goes on without its limits")
            }
            Command::ProposalEnded { proposal, how: ProposalEnd::Withdrawn(reason), .. } => {
                format!("{proposal} withdrawn: {reason}")
            }
            Command::ProposalEnded { proposal, how: ProposalEnd::Expired, .. } => {
                format!("{proposal} is over: nobody approved it in {PROPOSAL_LASTS}")
            }
            Command::HoldersKnown { term, holders, .. } if holders.is_empty() => {
                format!("the primary serves under {term}: every older lease is over")
            }
            Command::HoldersKnown { term, holders, .. } => {
                let all: Vec<_> = holders.iter().map(InstanceName::as_str).collect();
                format!(
                    "the primary serves under {term}, and goes on without a majority of voters while the guards of {} \
                     promise",
                    all.join(", ")
                )
            }
            Command::QuorumConfirmed { version, .. } => {
                format!(
                    "a marker commit was acknowledged under version {version} of the commit quorum: older ones are over"
                )
            }
        }
    }

    fn run_now(&self, group: &GroupName, run: RunId) -> Option<&Run> {
        self.groups.get(group)?.run.as_ref().filter(|now| now.id == run)
    }
}

/// A signal that a person gave is said to be one; the others are told by their detail.
const fn label(signal: Signal) -> &'static str {
    match signal {
        Signal::OperatorAbort => "told to stop: ",
        Signal::Retry | Signal::RetryRoutes | Signal::RetryErrands => "tried again: ",
        Signal::StepFailed => "failed: ",
        Signal::StepsDone
        | Signal::PledgedByMajority
        | Signal::PromotionCommitted
        | Signal::NoCandidate
        | Signal::PrimaryReturned
        | Signal::CandidateReturned
        | Signal::ErrandsLeft
        | Signal::ErrandSkipped => "",
    }
}

fn ended(what: &str, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done(_) => format!("done: {what}"),
        Outcome::Refused { detail, .. } => format!("refused: {what}: {detail}"),
        Outcome::Unknown { detail } => format!("outcome unknown: {what}: {detail}"),
    }
}
