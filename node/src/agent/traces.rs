//! Traces of runs for whoever collects them with OpenTelemetry (`[traces]` in the configuration).
//!
//! A run's trace is made when the run is over, from the log, and sent by the agent that leads then; the ids are those of the
//! run, so the same trace may be sent twice and is one. It never delays a run or changes one, and is no record: a trace that no
//! collector took within a few tries is said in this agent's log and dropped. The audit is what happened.

mod spans;

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_consensus::{Consensus, Role};
use mesh_proto::run::Run;
use mesh_proto::{GroupName, RunId};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest,
};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

pub use spans::About;

use super::machine::MeshMachine;
use crate::config::TracesSection;

/// How long one try may take.
const TRY: Duration = Duration::from_secs(5);
/// The pauses between tries: a collector that restarts is back by then.
const AGAIN: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60)];

/// Why a trace was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// It answered with an error, or not at all.
    #[error("the collector did not take the trace: {} ({})", .0.message(), .0.code())]
    Refused(#[source] Box<tonic::Status>),
    /// It took a part of it.
    #[error("the collector rejected {} spans: {}", .0.rejected_spans, .0.error_message)]
    Partly(ExportTracePartialSuccess),
}

/// Sends the trace of each run that ends while this agent leads, until told to stop.
pub async fn run(
    consensus: Consensus<MeshMachine>,
    about: About,
    section: TracesSection,
    stop: impl Future<Output = ()>,
) {
    let endpoint = match Endpoint::from_shared(section.otlp.as_str().to_owned()) {
        Ok(endpoint) => endpoint.connect_timeout(TRY).timeout(TRY),
        Err(error) => {
            tracing::error!(%error, collector = section.otlp.as_str(), "no traces are sent: no such address");
            return stop.await;
        }
    };
    let channel = endpoint.connect_lazy();
    let mut applied = consensus.applied();
    // What ended before this agent started was somebody else's to tell.
    let mut told: BTreeMap<GroupName, RunId> =
        ended(&consensus).into_iter().map(|run| (run.plan.group.clone(), run.id)).collect();
    let mut sending = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return,
            changed = applied.changed() => if changed.is_err() { return },
            Some(_sent) = sending.join_next(), if !sending.is_empty() => continue,
        }
        for run in ended(&consensus) {
            if told.insert(run.plan.group.clone(), run.id) == Some(run.id) {
                continue;
            }
            if consensus.standing().role == Role::Leader
                && let Some(request) = spans::request(&about, &run)
            {
                sending.spawn(send(channel.clone(), run.id, request));
            }
        }
    }
}

/// The newest run of each group, where it is over.
fn ended(consensus: &Consensus<MeshMachine>) -> Vec<Run> {
    consensus.read(|machine| {
        let runs = machine.state().groups.values().filter_map(|group| group.run.as_ref());
        runs.filter(|run| run.phase.is_final()).cloned().collect()
    })
}

async fn send(channel: Channel, run: RunId, request: ExportTraceServiceRequest) {
    let mut pauses = AGAIN.into_iter();
    loop {
        match export(channel.clone(), request.clone()).await {
            Ok(()) => {
                tracing::debug!(%run, "the trace of a run was sent");
                return;
            }
            Err(error) => match pauses.next() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => {
                    tracing::warn!(%run, %error, "the trace of a run is dropped; `mesh audit show` has what happened");
                    return;
                }
            },
        }
    }
}

async fn export(channel: Channel, request: ExportTraceServiceRequest) -> Result<(), TraceError> {
    let answer = TraceServiceClient::new(channel).export(request).await;
    let answer = answer.map_err(|status| TraceError::Refused(Box::new(status)))?.into_inner();
    match answer.partial_success.filter(|partial| partial.rejected_spans > 0) {
        Some(partial) => Err(TraceError::Partly(partial)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
