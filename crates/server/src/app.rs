//! [`app`]: the routes and the middleware around them.

use crate::error::ApiError;
use crate::server::Server;
use crate::{gate, messages, openai, openapi, operate, responses, ui};
use axum::Router;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use std::any::Any;
use std::sync::Arc;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// The whole service, without a socket.
pub fn app(server: Arc<Server>) -> Router {
    let api = Router::new()
        .route("/v1/chat/completions", post(openai::chat::create))
        .route("/v1/completions", post(openai::completions::create))
        .route("/v1/embeddings", post(openai::embeddings::create))
        .route("/v1/responses", post(responses::create::create))
        .route("/v1/responses/input_tokens", post(responses::create::input_tokens))
        .route("/v1/responses/{id}", get(responses::stored::retrieve).delete(responses::stored::delete))
        .route("/v1/messages", post(messages::create::create))
        .route("/v1/messages/count_tokens", post(messages::create::count_tokens))
        .route("/v1/models", get(openai::models::list))
        .route("/v1/models/{*model}", get(openai::models::retrieve))
        .route("/tokenize", post(openai::tokens::tokenize))
        .route("/detokenize", post(openai::tokens::detokenize))
        .route("/health", get(operate::health))
        .route("/ready", get(operate::ready))
        .route("/metrics", get(operate::metrics))
        .route("/openapi.json", get(openapi::document));
    api.merge(ui::routes())
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::middleware::from_fn_with_state(server.clone(), gate::gate))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(tower::util::option_layer(cors(&server.config().cors)))
        .with_state(server)
}

async fn no_such_path(uri: axum::http::Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", format!("there is nothing at {}", uri.path()))
}

async fn wrong_method(method: Method, uri: axum::http::Uri) -> ApiError {
    let message = format!("{} does not take {method}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

/// A panic in a handler: the request fails, the server continues.
fn panicked(_: Box<dyn Any + Send>) -> Response {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "an internal error").into_response()
}

/// The CORS layer. Without origins there is none: browsers then don't let pages of other sites read answers.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let allowed = if origins.iter().any(|o| o == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|o| HeaderValue::from_str(o).ok()))
    };
    let layer = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        // Client libraries send their own headers, such as `x-stainless-os`. The server ignores them.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([
            gate::REQUEST_ID,
            messages::error::REQUEST_ID,
            crate::extract::IGNORED_FIELDS,
            crate::extract::IGNORED_TOOLS,
        ]);
    Some(layer)
}
