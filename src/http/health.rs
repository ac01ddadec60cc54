//! Liveness, readiness, metrics, and the description of all this.

use actix_web::HttpResponse;
use serde_json::json;

use super::problem::{Kind, Problem};
use super::route::Call;

/// The description of the API.
pub const OPENAPI: &str = include_str!("openapi.json");

/// `GET /livez`: the process answers.
pub async fn live(_: Call) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok()
        .content_type("text/plain; charset=utf-8")
        .body("ok\n"))
}

/// `GET /readyz`: the store answers, and every stream takes events.
pub async fn ready(call: Call) -> Result<HttpResponse, Problem> {
    let store = call
        .api
        .ask(|store| async move { store.checkpoints().await.map(|_| ()) })
        .await;
    let streams = call.api.streams.iter();
    let waiting: Vec<&str> = streams
        .filter(|(_, stream)| !stream.intake.is_ready())
        .map(|(name, _)| name.as_str())
        .collect();
    if store.is_ok() && waiting.is_empty() {
        return Ok(HttpResponse::Ok().json(json!({ "ready": true })));
    }
    let mut why = Vec::new();
    if store.is_err() {
        why.push("the store does not answer".to_owned());
    }
    if !waiting.is_empty() {
        why.push(format!("no slot yet for {}", waiting.join(", ")));
    }
    Err(Problem::new(Kind::Unavailable, why.join("; ")))
}

/// `GET /metrics`: in Prometheus' text format.
pub async fn metrics(call: Call) -> Result<HttpResponse, Problem> {
    for (name, stream) in &call.api.streams {
        let (events, bytes) = stream.intake.pending();
        let label = name.as_str().to_owned();
        metrics::gauge!(crate::names::PENDING_EVENTS, "stream" => label.clone()).set(events as f64);
        metrics::gauge!(crate::names::PENDING_BYTES, "stream" => label).set(bytes as f64);
    }
    metrics::gauge!(crate::names::STREAMS_OPEN).set(call.api.open_streams.count() as f64);
    Ok(HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(call.api.telemetry.render()))
}

/// `GET /openapi.json`
pub async fn openapi(_: Call) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok()
        .content_type("application/json")
        .body(OPENAPI))
}
