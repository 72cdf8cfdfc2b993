//! Health, readiness and metrics, for operators of the server.

use crate::server::Server;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// The server's state.
#[derive(Debug, Serialize, ToSchema)]
pub struct Status {
    /// `ok`, `loading`, `draining` or `failed`.
    pub status: &'static str,
}

/// The process is running
#[utoipa::path(get, path = "/health", tag = "operation", responses((status = 200, body = Status)))]
pub async fn health() -> Json<Status> {
    Json(Status { status: "ok" })
}

/// The models are loaded and requests are accepted
#[utoipa::path(get, path = "/ready", tag = "operation", responses(
    (status = 200, body = Status), (status = 503, body = Status, description = "Loading, draining, or the engine failed")
))]
pub async fn ready(State(server): State<Arc<Server>>) -> (StatusCode, Json<Status>) {
    let failed =
        || server.models().list().iter().any(|(_, l)| l.as_ref().is_some_and(|l| l.engine.stopped()));
    let status = match () {
        () if server.draining() => "draining",
        () if server.models().ready() => return (StatusCode::OK, Json(Status { status: "ok" })),
        () if failed() => "failed",
        () => "loading",
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(Status { status }))
}

/// Metrics in Prometheus' format
#[utoipa::path(get, path = "/metrics", tag = "operation", responses((status = 200, body = String, content_type = "text/plain")))]
pub async fn metrics(State(server): State<Arc<Server>>) -> Response {
    let text = server.metrics().encode(&server.models().list());
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
        .into_response()
}
