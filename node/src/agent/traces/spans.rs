//! A run as spans: the run itself, in it its phases, in them their steps. Made from the log alone, so every agent makes the
//! same ones, ids included. Pure; the times are those of the leaders' wall clocks, for people.

use mesh_proto::effect::Outcome;
use mesh_proto::run::{Phase, Run, Step};
use mesh_proto::{AgentName, GroupName, MeshId, Wall};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use ring::digest::{SHA256, digest};

/// OpenTelemetry's lengths of ids, in bytes.
const TRACE_ID: usize = 16;
const SPAN_ID: usize = 8;

/// Whose run it is.
#[derive(Debug, Clone)]
pub struct About {
    /// The mesh.
    pub mesh: MeshId,
    /// The agent that tells of it.
    pub agent: AgentName,
}

/// What a collector is told of a run that is over; nothing while it is not.
#[must_use]
pub fn request(about: &About, run: &Run) -> Option<ExportTraceServiceRequest> {
    let spans = spans(about, run)?;
    let resource = Resource {
        attributes: vec![
            text("service.name", "mesh"),
            text("service.namespace", about.mesh.as_str()),
            text("service.instance.id", about.agent.as_str()),
            text("service.version", env!("CARGO_PKG_VERSION")),
        ],
        ..Resource::default()
    };
    let scope = InstrumentationScope { name: "mesh.run".to_owned(), ..InstrumentationScope::default() };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
    let resource = ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() };
    Some(ExportTraceServiceRequest { resource_spans: vec![resource] })
}

fn spans(about: &About, run: &Run) -> Option<Vec<Span>> {
    let (last, end) = *run.entered.last().filter(|(phase, _)| phase.is_final())?;
    let (_, began) = *run.entered.first()?;
    let ids = Ids { of: format!("{}/{}/{}", about.mesh, run.plan.group, run.id) };
    let root = Span {
        kind: SpanKind::Internal.into(),
        attributes: of_run(&run.plan.group, run),
        status: Some(status(
            (last == Phase::Aborted).then(|| "ended without a change of primary".to_owned()),
        )),
        ..ids.span("run", None, &format!("{} of {}", run.plan.kind, run.plan.group), (began, end))
    };
    let mut all = vec![root];
    for (at, pair) in run.entered.windows(2).enumerate() {
        let ((phase, from), (_, to)) = (pair[0], pair[1]);
        let name = format!("phase {at}");
        all.push(ids.span(&name, Some("run"), &phase.to_string(), (from, to)));
    }
    for (number, step) in &run.steps {
        // The phase that it was begun in, of those that a second takeover enters again.
        let inside =
            |(_, pair): &(usize, &[(Phase, Wall)])| pair[0].0 == step.phase && pair[0].1 <= step.began;
        let parent = run.entered.windows(2).enumerate().rfind(inside);
        let parent = parent.map_or_else(|| "run".to_owned(), |(at, _)| format!("phase {at}"));
        let times = (step.began, step.ended.unwrap_or(end));
        all.push(Span {
            attributes: of_step(*number, step),
            status: Some(status(trouble(step))),
            ..ids.span(&format!("step {number}"), Some(&parent), &step.effect.to_string(), times)
        });
    }
    Some(all)
}

fn of_run(group: &GroupName, run: &Run) -> Vec<KeyValue> {
    let mut attributes = vec![
        text("mesh.group", group.as_str()),
        text("mesh.run", &run.id.to_string()),
        text("mesh.run.kind", &run.plan.kind.to_string()),
        text("mesh.run.actor", &run.plan.actor.to_string()),
        text("mesh.run.reason", &run.plan.reason),
        text("mesh.primary.old", run.plan.from.as_str()),
        number("mesh.run.takeovers", run.takeovers.into()),
    ];
    if let Some(promotion) = &run.promotion {
        attributes.push(text("mesh.primary.new", promotion.instance.as_str()));
        attributes.push(number("mesh.epoch", promotion.term.epoch.0));
        attributes.push(number("mesh.lease_no", promotion.term.lease_no.0));
    }
    if let Some(lost_for) = run.plan.lost_for {
        attributes.push(number("mesh.run.lost_for_ms", lost_for.0));
    }
    attributes
}

fn of_step(at: u32, step: &Step) -> Vec<KeyValue> {
    vec![
        number("mesh.step", at.into()),
        number("mesh.step.attempts", step.attempts.into()),
        number("mesh.epoch", step.epoch.0),
    ]
}

fn trouble(step: &Step) -> Option<String> {
    match &step.outcome {
        Some(Outcome::Done(_)) => None,
        Some(Outcome::Refused { detail, .. }) => Some(detail.clone()),
        Some(Outcome::Unknown { detail }) => Some(format!("nobody knows whether it was done: {detail}")),
        None => Some("the run ended before it did".to_owned()),
    }
}

fn status(trouble: Option<String>) -> Status {
    match trouble {
        None => Status { message: String::new(), code: StatusCode::Ok.into() },
        Some(message) => Status { message, code: StatusCode::Error.into() },
    }
}

/// The ids of one run's spans.
struct Ids {
    of: String,
}

impl Ids {
    fn id(&self, what: &str, length: usize) -> Vec<u8> {
        let hash = digest(&SHA256, format!("{}/{what}", self.of).as_bytes());
        hash.as_ref()[..length].to_vec()
    }

    fn span(&self, what: &str, parent: Option<&str>, name: &str, (from, to): (Wall, Wall)) -> Span {
        Span {
            trace_id: self.id("trace", TRACE_ID),
            span_id: self.id(what, SPAN_ID),
            parent_span_id: parent.map(|parent| self.id(parent, SPAN_ID)).unwrap_or_default(),
            name: name.to_owned(),
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: nanos(from),
            // Another leader's clock may be behind.
            end_time_unix_nano: nanos(to.max(from)),
            ..Span::default()
        }
    }
}

const fn nanos(at: Wall) -> u64 {
    at.0.saturating_mul(1_000_000)
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: u64) -> KeyValue {
    pair(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
