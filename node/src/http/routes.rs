//! The paths, and how an answer becomes a status and a body.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use axum::{Json, Router};
use mesh_proto::Millis;
use serde::Deserialize;
use serde_json::{Value, json};

use super::metrics;
use super::role::{self, Answer, LocalInstance, RoleSource, size};
use super::traefik::{self, Doubt};

/// How long a guard may take to answer. Load balancers check about once a second and give up after two.
pub const ANSWER_WITHIN: Millis = Millis(200);
/// After this the answer is a 503 even if the source itself hangs.
const GIVE_UP: Duration = Duration::from_millis(300);

/// The endpoints.
pub fn router<S: RoleSource>(source: Arc<S>) -> Router {
    let doubt = Arc::new(Doubt::default());
    let traefik = move |State(source): Source<S>| {
        let doubt = Arc::clone(&doubt);
        async move { for_traefik(&*source, &doubt) }
    };
    Router::new()
        .route("/traefik", get(traefik))
        .route("/metrics", get(for_prometheus::<S>))
        .route("/primary", every(of_host_primary::<S>))
        .route("/replica", every(of_host_replica::<S>))
        .route("/health", every(host_health::<S>))
        .route("/instances/{name}/primary", every(named_primary::<S>))
        .route("/instances/{name}/replica", every(named_replica::<S>))
        .route("/instances/{name}/health", every(named_health::<S>))
        .route("/liveness", every(liveness::<S>))
        .route("/readiness", every(readiness::<S>))
        .with_state(source)
}

/// GET, HEAD (which axum derives from GET) and OPTIONS, which is what HAProxy's `option httpchk` sends by default.
fn every<H, T, S>(handler: H) -> MethodRouter<S>
where
    H: axum::handler::Handler<T, S> + Clone,
    T: 'static,
    S: Clone + Send + Sync + 'static,
{
    get(handler.clone()).options(handler)
}

/// `?lag=…`
#[derive(Debug, Deserialize)]
struct LagQuery {
    lag: Option<String>,
}

type Source<S> = State<Arc<S>>;

async fn of_host_primary<S: RoleSource>(State(source): Source<S>) -> Response {
    one(&*source, None, "primary", role::primary).await
}
async fn named_primary<S: RoleSource>(State(source): Source<S>, Path(name): Path<String>) -> Response {
    one(&*source, Some(&name), "primary", role::primary).await
}
async fn of_host_replica<S: RoleSource>(State(source): Source<S>, Query(query): Query<LagQuery>) -> Response {
    replica(&*source, None, query).await
}
async fn named_replica<S: RoleSource>(
    State(source): Source<S>,
    Path(name): Path<String>,
    Query(query): Query<LagQuery>,
) -> Response {
    replica(&*source, Some(&name), query).await
}
async fn named_health<S: RoleSource>(State(source): Source<S>, Path(name): Path<String>) -> Response {
    one(&*source, Some(&name), "health", role::health).await
}

async fn replica<S: RoleSource>(source: &S, name: Option<&str>, query: LagQuery) -> Response {
    let limit = match query.lag.as_deref().map(|text| size(text).ok_or(text)) {
        None => None,
        Some(Ok(limit)) => Some(limit),
        Some(Err(text)) => {
            let why = format!("lag={text} is no size; write bytes, or 512kB, 10MB, 1GB");
            return reply(StatusCode::BAD_REQUEST, json!({ "ok": false, "why": why }));
        }
    };
    one(source, name, "replica", |instance| role::replica(instance, limit)).await
}

/// The answer about one instance: the named one, or the only one of this host.
async fn one<S: RoleSource>(
    source: &S,
    name: Option<&str>,
    asked: &str,
    judge: impl FnOnce(&LocalInstance) -> Answer,
) -> Response {
    let Some(instances) = ask(source).await else { return hangs() };
    let found = match name {
        Some(name) => match instances.iter().find(|instance| instance.name.as_str() == name) {
            Some(instance) => instance,
            None => {
                let why = format!("this host has no instance {name}");
                return reply(StatusCode::NOT_FOUND, json!({ "ok": false, "why": why }));
            }
        },
        None => match instances.as_slice() {
            [instance] => instance,
            [] => return refuse("this host has no instance"),
            [_, ..] => {
                return refuse(&format!("this host has several instances; ask for /instances/NAME/{asked}"));
            }
        },
    };
    let answer = judge(found);
    reply(status(answer.verdict.is_ok()), about(found, &answer))
}

async fn host_health<S: RoleSource>(State(source): Source<S>) -> Response {
    let Some(instances) = ask(&*source).await else { return hangs() };
    let answers: Vec<_> = instances.iter().map(|instance| (instance, role::health(instance))).collect();
    let agent = source.live().and_then(|()| source.ready());
    let ok = agent.is_ok() && answers.iter().all(|(_, answer)| answer.verdict.is_ok());
    let list: Vec<_> = answers.iter().map(|(instance, answer)| about(instance, answer)).collect();
    let body =
        json!({ "ok": ok, "agent": agent.err().unwrap_or_else(|| "ready".to_owned()), "instances": list });
    reply(status(ok), body)
}

async fn liveness<S: RoleSource>(State(source): Source<S>) -> Response {
    of_agent(source.live())
}
async fn readiness<S: RoleSource>(State(source): Source<S>) -> Response {
    of_agent(source.live().and_then(|()| source.ready()))
}

fn for_traefik<S: RoleSource>(source: &S, doubt: &Doubt) -> Response {
    let ready = source.live().and_then(|()| source.ready());
    let known = match (doubt.weigh(ready.is_ok(), Instant::now()), ready) {
        (traefik::Answer::Known, _) => true,
        (traefik::Answer::Nobody, _) => false,
        (traefik::Answer::Wait, ready) => return refuse(&ready.err().unwrap_or_default()),
    };
    reply(StatusCode::OK, traefik::configuration(&source.leads(), known))
}

async fn for_prometheus<S: RoleSource>(State(source): Source<S>) -> Response {
    match metrics::text(&source.status()) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics have no text");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn of_agent(state: Result<(), String>) -> Response {
    match state {
        Ok(()) => reply(StatusCode::OK, json!({ "ok": true })),
        Err(why) => refuse(&why),
    }
}

async fn ask<S: RoleSource>(source: &S) -> Option<Vec<LocalInstance>> {
    tokio::time::timeout(GIVE_UP, source.instances(ANSWER_WITHIN)).await.ok()
}

fn hangs() -> Response {
    refuse("the agent did not hear of its guards in time")
}

fn refuse(why: &str) -> Response {
    reply(StatusCode::SERVICE_UNAVAILABLE, json!({ "ok": false, "why": why }))
}

const fn status(ok: bool) -> StatusCode {
    if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn about(instance: &LocalInstance, answer: &Answer) -> Value {
    let process = instance.reading.as_ref().ok().map(|reading| reading.status.process);
    json!({
        "instance": instance.name,
        "ok": answer.verdict.is_ok(),
        "why": answer.verdict.as_ref().err(),
        "state": process,
        "epoch": answer.epoch,
        "lag_bytes": answer.lag_bytes,
    })
}

fn reply(status: StatusCode, body: Value) -> Response {
    // Nobody between us and the load balancer may keep an answer.
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}
