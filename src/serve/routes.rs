//! Which path answers what. Statuses and shapes of the API are documented in docs/operations.md, and stable.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::StatusCode;
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER};
use hyper::http::request::Parts;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::index::{Answer, Caught};
use super::process_metrics::Own;
use super::view::{NotReloaded, Unavailable, View};
use super::{files, hook, metrics, page};
use crate::clock::{self, Mono, human};
use crate::incident::Denied;
use crate::poll::{Ask, Granted, InstanceStatus, NotGranted, Which};
use crate::text;
use crate::trigger::Trigger;

/// Needs no token: a load balancer has none.
pub(super) const HEALTH: &str = "/healthz";
/// Alertmanager's payloads of hundreds of alerts are smaller.
const MAX_BODY: usize = 256 << 10;
const BODY_TIME: Duration = Duration::from_secs(10);
/// Bundles in one answer of the API.
const MAX_BUNDLES: usize = 1000;
const JSON: &str = "application/json";
const SCHEMA: u32 = 1;

pub(super) type Shared = State<Arc<View>>;

pub(super) fn router(view: Arc<View>) -> Router {
    Router::new()
        .route("/", get(page::whole))
        .route("/live", get(page::live))
        .route("/status.css", get(|| async { fixed("text/css; charset=utf-8", page::STYLE) }))
        .route("/status.js", get(|| async { fixed("text/javascript; charset=utf-8", page::SCRIPT) }))
        .route("/api/targets", get(targets))
        .route("/api/bundles", get(bundles))
        .route("/api/capture/{target}", post(capture))
        .route("/hooks/alertmanager", post(alertmanager))
        .route("/bundles/{target}/{name}", get(files::archive))
        .route("/bundles/{target}/{name}/", get(files::contents))
        .route("/bundles/{target}/{name}/{*file}", get(files::file))
        .route(HEALTH, get(health))
        .route("/metrics", get(exposition))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "there is nothing here; the status page is at /") })
        .method_not_allowed_fallback(|| async { problem(StatusCode::METHOD_NOT_ALLOWED, "this is not asked for by this method") })
        .with_state(view)
}

/// What stands behind `?`, whose parameters are these.
pub(super) trait Parameters: DeserializeOwned {
    const ALLOWED: &'static str;
}

pub(super) struct Asked<T>(pub T);

/// A query that is not understood, with what would be.
pub(super) struct Misasked(pub String);

impl<S: Send + Sync, T: Parameters> FromRequestParts<S> for Asked<T> {
    type Rejection = Misasked;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Asked<T>, Misasked> {
        let given = text::one_line(parts.uri.query().unwrap_or_default(), 200);
        let asked = Query::<T>::from_request_parts(parts, state).await;
        asked.map(|Query(asked)| Asked(asked)).map_err(|_| Misasked(format!("`?{given}` is not understood; allowed: {}", T::ALLOWED)))
    }
}

impl IntoResponse for Misasked {
    fn into_response(self) -> Response {
        problem(StatusCode::BAD_REQUEST, self.0)
    }
}

/// Text that is part of the program.
fn fixed(content_type: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-cache")], text).into_response()
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match text::json(value) {
        Ok(body) => (status, [(CONTENT_TYPE, JSON)], body).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

/// `{"error": "…"}`.
pub(super) fn problem(status: StatusCode, why: impl std::fmt::Display) -> Response {
    json(status, &serde_json::json!({ "error": why.to_string() }))
}

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        problem(StatusCode::SERVICE_UNAVAILABLE, self)
    }
}

/// The answer of `/api/targets`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Targets {
    pub schema: u32,
    pub memtrap_version: String,
    pub host: String,
    /// RFC 3339.
    pub time: String,
    /// Absent while the configuration in force is the file's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub not_reloaded: Option<NotReloaded>,
    /// The wall clock has jumped, and nothing is deleted for its age at the moment.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub clock_doubted: bool,
    /// In the order of the configuration.
    pub instances: Vec<Instance>,
}

/// An instance with what was caught of it last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    #[serde(flatten)]
    pub status: InstanceStatus,
    /// Of `last_bundle`.
    pub last_verdict: Option<Answer>,
}

impl Instance {
    /// `bundles` are the newest first. One of a target's processes is told by its label; of a lone one, the bundles of those before it count.
    pub(super) fn join(status: &InstanceStatus, is_alone: bool, bundles: &[Caught]) -> Instance {
        let fits =
            |b: &&Caught| b.target == status.target && (is_alone || status.instance.as_ref().is_none_or(|label| *label == b.instance));
        let last = bundles.iter().find(fits);
        let mut status = status.clone();
        status.last_bundle = last.map(|b| b.id.clone()).or(status.last_bundle);
        Instance { status, last_verdict: last.and_then(|b| b.verdict.clone()) }
    }
}

/// Names of targets that have one place only.
pub(super) fn alone(instances: &[InstanceStatus]) -> HashSet<&str> {
    let (mut once, mut seen) = (HashSet::new(), HashSet::new());
    for i in instances {
        if seen.insert(i.target.as_str()) {
            once.insert(i.target.as_str());
        } else {
            once.remove(i.target.as_str());
        }
    }
    once
}

#[derive(Debug, Deserialize)]
struct Of {
    target: Option<String>,
}

impl Parameters for Of {
    const ALLOWED: &'static str = "target=NAME";
}

async fn targets(State(view): Shared, Asked(of): Asked<Of>) -> Result<Response, Unavailable> {
    let (instances, bundles) = (view.instances().await?, view.bundles().await.unwrap_or_default());
    let (host, not_reloaded, clock_doubted) = (view.seen.host.clone(), view.reloads().failed, view.seen.meters.is_clock_doubted());
    view.render(move || {
        let alone = alone(&instances);
        let wanted = instances.iter().filter(|i| of.target.as_ref().is_none_or(|t| i.target == *t));
        let body = Targets {
            schema: SCHEMA,
            memtrap_version: env!("CARGO_PKG_VERSION").into(),
            host,
            time: clock::rfc3339_millis(clock::wall_now()),
            not_reloaded,
            clock_doubted,
            instances: wanted.map(|i| Instance::join(i, alone.contains(i.target.as_str()), &bundles)).collect(),
        };
        json(StatusCode::OK, &body)
    })
    .await
}

async fn bundles(State(view): Shared, Asked(of): Asked<Of>) -> Result<Response, Unavailable> {
    let all = view.bundles().await?;
    view.render(move || {
        let wanted: Vec<&Caught> = all.iter().filter(|b| of.target.as_ref().is_none_or(|t| b.target == *t)).collect();
        let more = wanted.len().saturating_sub(MAX_BUNDLES);
        let shown = wanted.get(..MAX_BUNDLES).unwrap_or(&wanted);
        json(StatusCode::OK, &serde_json::json!({ "schema": SCHEMA, "bundles": shown, "more": more }))
    })
    .await
}

async fn health(State(view): Shared) -> Response {
    match view.health(Mono::now()) {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(silent) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("the polling loop has not turned for {}\n", human(silent))).into_response()
        }
    }
}

async fn exposition(State(view): Shared) -> Result<Response, Unavailable> {
    // what memtrap counts is worth having even if the rest is not
    let (instances, bundles) = (view.instances().await.unwrap_or_default(), view.bundles().await.unwrap_or_default());
    let (reloads, meters, procfs) = (view.reloads(), view.seen.meters.clone(), view.seen.procfs.clone());
    view.render(move || {
        let scrape = metrics::Scrape { instances, bundles, reloads, own: Own::read(&procfs) };
        match metrics::text(&meters, scrape) {
            Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    })
    .await
}

#[derive(Debug, Deserialize)]
struct Meant {
    instance: Option<String>,
}

impl Parameters for Meant {
    const ALLOWED: &'static str = "instance=LABEL";
}

async fn capture(State(view): Shared, Path(target): Path<String>, Asked(meant): Asked<Meant>, headers: HeaderMap) -> Response {
    let which = meant.instance.filter(|i| !i.is_empty()).map_or(Which::Largest, Which::Named);
    let ask = Ask { target: target.clone(), which, trigger: Trigger::Manual, why: "asked for over HTTP".into() };
    let (status, words, value) = match view.capture(ask).await {
        Ok(Ok(Granted { instance, incident, part })) => {
            let words = format!("{target}, {instance}: the capture has begun");
            let value = serde_json::json!({ "schema": SCHEMA, "action": "capturing", "target": target, "instance": instance, "incident": incident, "part": part });
            (StatusCode::ACCEPTED, words, value)
        }
        Ok(Err(why)) => (status_of(&why), why.to_string(), serde_json::json!({ "error": why.to_string(), "reason": why.name() })),
        Err(unavailable) => {
            (StatusCode::SERVICE_UNAVAILABLE, unavailable.to_string(), serde_json::json!({ "error": unavailable.to_string() }))
        }
    };
    let wants_page = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|accept| accept.contains("text/html"));
    let mut response = match (wants_page, status) {
        (true, StatusCode::ACCEPTED) => (StatusCode::SEE_OTHER, [(LOCATION, "/")]).into_response(),
        (true, _) => page::said(status, words),
        (false, _) => json(status, &value),
    };
    if status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(RETRY_AFTER, hyper::header::HeaderValue::from_static("60"));
    }
    response
}

fn status_of(why: &NotGranted) -> StatusCode {
    match why {
        NotGranted::NoTarget | NotGranted::NoInstance { .. } | NotGranted::Denied { why: Denied::NoProcess, .. } => StatusCode::NOT_FOUND,
        NotGranted::Denied { .. } => StatusCode::CONFLICT,
        NotGranted::Budget(_) => StatusCode::TOO_MANY_REQUESTS,
    }
}

async fn alertmanager(State(view): Shared, body: Body) -> Response {
    let body = match tokio::time::timeout(BODY_TIME, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            return problem(StatusCode::PAYLOAD_TOO_LARGE, format_args!("the body did not come whole, or is larger than {MAX_BODY} bytes"));
        }
        Err(_) => return problem(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"),
    };
    let payload = match hook::Payload::parse(&body) {
        Ok(payload) => payload,
        Err(why) => return problem(StatusCode::BAD_REQUEST, why),
    };
    let instances = match view.instances().await {
        Ok(instances) => instances,
        // Alertmanager tries again
        Err(unavailable) => return unavailable.into_response(),
    };
    let targets = instances.iter().map(|i| i.target.as_str()).collect();
    let mut told = Vec::new();
    for (mut done, ask) in payload.asks(&targets) {
        if let Some(ask) = ask {
            match view.capture(ask).await {
                Ok(Ok(Granted { instance, incident, .. })) => {
                    (done.action, done.reason) = (hook::CAPTURING, "the capture has begun".into());
                    (done.instance, done.incident) = (Some(instance), Some(incident));
                    tracing::info!(alert = done.alert, target_name = done.target, "an alert captures");
                }
                Ok(Err(why)) => done.nothing(why.to_string()),
                Err(unavailable) => done.nothing(unavailable.to_string()),
            }
        }
        view.seen.meters.alert(done.action);
        told.push(done);
    }
    // one line, however many there are: anybody may post
    let mut nothing = told.iter().filter(|done| done.action != hook::CAPTURING);
    if let Some(first) = nothing.next() {
        let more = nothing.count();
        tracing::info!(alert = first.alert, target_name = first.target, reason = first.reason, more, "alerts capture nothing");
    }
    json(StatusCode::OK, &serde_json::json!({ "schema": SCHEMA, "alerts": told }))
}
