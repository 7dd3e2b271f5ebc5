//! The trace of a run, as a collector gets it over the wire.

use std::collections::BTreeSet;

use mesh_proto::run::Phase;
use mesh_proto::{AgentName, MeshId, Wall};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tonic::{Request, Response, Status};

use super::*;
use crate::cli::render::samples::finished_run;

fn about() -> About {
    About { mesh: MeshId::new("shop").unwrap(), agent: AgentName::new("east-1").unwrap() }
}

fn spans_of(request: &ExportTraceServiceRequest) -> &[Span] {
    &request.resource_spans[0].scope_spans[0].spans
}

#[test]
fn a_run_has_phases_and_steps_inside_each_other_and_ids_of_its_own() {
    let run = finished_run();
    let request = spans::request(&about(), &run).unwrap();
    let spans = spans_of(&request);
    assert_eq!(spans.len(), 1 + (run.entered.len() - 1) + run.steps.len());
    let ids: BTreeSet<_> = spans.iter().map(|span| span.span_id.clone()).collect();
    assert_eq!(ids.len(), spans.len(), "no two spans have one id");
    for span in spans {
        assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
        assert_eq!(span.trace_id, spans[0].trace_id);
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{}", span.name);
        let parent = spans.iter().find(|other| other.span_id == span.parent_span_id);
        assert_eq!(parent.is_none(), span.name == spans[0].name, "{}: only the run has no parent", span.name);
        let within = parent.is_none_or(|parent| span.start_time_unix_nano >= parent.start_time_unix_nano);
        assert!(within, "{} begins before what it is a part of", span.name);
    }
    assert_eq!(request, spans::request(&about(), &run).unwrap(), "who tells it again tells the same");
    let other = About { mesh: MeshId::new("shop-r1").unwrap(), ..about() };
    assert_ne!(spans_of(&spans::request(&other, &run).unwrap())[0].trace_id, spans[0].trace_id);
}

#[test]
fn a_run_that_is_not_over_has_no_trace_and_one_that_was_given_up_says_so() {
    let mut run = finished_run();
    run.entered.pop();
    assert!(spans::request(&about(), &run).is_none());
    run.entered.push((Phase::Aborted, Wall(u64::MAX)));
    let request = spans::request(&about(), &run).unwrap();
    assert!(spans_of(&request)[0].status.as_ref().unwrap().message.contains("without a change of primary"));
}

/// A collector that refuses so many times before it takes what it gets.
struct Collects {
    refuse: std::sync::atomic::AtomicUsize,
    got: UnboundedSender<ExportTraceServiceRequest>,
}

#[tonic::async_trait]
impl TraceService for Collects {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        use std::sync::atomic::Ordering::SeqCst;
        if self.refuse.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(Status::unavailable("not yet"));
        }
        self.got.send(request.into_inner()).unwrap();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn collector(refuse: usize) -> (Channel, UnboundedReceiver<ExportTraceServiceRequest>) {
    let (got, taken) = unbounded_channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = TraceServiceServer::new(Collects { refuse: refuse.into(), got });
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    (Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy(), taken)
}

#[tokio::test]
async fn a_collector_that_is_away_for_a_moment_gets_it_all_the_same() {
    let (channel, mut taken) = collector(1).await;
    let run = finished_run();
    let request = spans::request(&about(), &run).unwrap();
    send(channel, run.id, request.clone()).await;
    assert_eq!(taken.recv().await.unwrap(), request);
}

#[tokio::test]
async fn what_a_collector_does_not_take_is_an_error_with_its_word() {
    let (channel, _taken) = collector(usize::MAX).await;
    let request = spans::request(&about(), &finished_run()).unwrap();
    let error = export(channel, request).await.unwrap_err();
    assert!(error.to_string().contains("not yet"), "{error}");
}
