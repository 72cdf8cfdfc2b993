//! The web page at `/`: a placeholder that says where things are.

use crate::server::Server;
use axum::Router;
use axum::response::Html;
use axum::routing::get;
use std::sync::Arc;

const PAGE: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Zonda</title>\
    <h1>Zonda</h1><p>An OpenAI-compatible API is at <code>/v1</code>, its description at \
    <a href=\"/openapi.json\">/openapi.json</a>, figures at <a href=\"/metrics\">/metrics</a>.</p></html>";

/// The page's routes. What it needs besides the API goes below `/ui/`.
pub(crate) fn routes() -> Router<Arc<Server>> {
    Router::new().route("/", get(|| async { Html(PAGE) }))
}
