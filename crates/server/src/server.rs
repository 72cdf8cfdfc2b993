//! [`Server`]: what all requests share, and [`app`]: the routes.

use crate::clients::Clients;
use crate::config::Config;
use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::models::{ModelSource, Models};
use crate::{gate, id, openai, openapi, operate, ui};
use axum::Router;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use std::any::Any;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// Why a server can't be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ServerError {
    /// There is no model.
    #[error("a server needs at least one model")]
    NoModel,
    /// Two models of one name.
    #[error("two models are named {0:?}: requests could not tell them apart")]
    SameName(String),
    /// An origin is none.
    #[error("{0:?} is no origin: expected * or a scheme and a host, such as https://example.org")]
    BadOrigin(String),
}

/// What all requests share.
#[derive(Debug)]
pub struct Server {
    config: Config,
    models: Models,
    metrics: Metrics,
    draining: AtomicBool,
    clients: Clients,
    /// Turns at work that blocks a thread before a request reaches the engine: parsing, tokenising, compiling.
    preparing: Arc<Semaphore>,
    /// Turns at making HTML of Markdown.
    rendering: Arc<Semaphore>,
    /// Part of addresses that only those are told who have a key.
    ticket: String,
}

impl Server {
    /// A server for these models, none of which is loaded yet: [`Models::load_first`] does that.
    ///
    /// # Errors
    /// If there is no model, two have one name, or an origin is malformed.
    pub fn new(config: Config, sources: Vec<ModelSource>) -> Result<Arc<Server>, ServerError> {
        if sources.is_empty() {
            return Err(ServerError::NoModel);
        }
        let mut names = HashSet::new();
        if let Some(twice) = sources.iter().find(|s| !names.insert(s.name())) {
            return Err(ServerError::SameName(twice.name().to_owned()));
        }
        let well_formed = |o: &&String| *o == "*" || (o.contains("://") && HeaderValue::from_str(o).is_ok());
        if let Some(bad) = config.cors.iter().find(|o| !well_formed(o)) {
            return Err(ServerError::BadOrigin(bad.clone()));
        }
        let models = Models::new(sources, config.max_model_bytes);
        let turns = std::thread::available_parallelism().map_or(2, |n| n.get().max(2));
        Ok(Arc::new(Server {
            config,
            models,
            metrics: Metrics::new(),
            draining: AtomicBool::new(false),
            clients: Clients::default(),
            preparing: Arc::new(Semaphore::new(turns)),
            rendering: Arc::new(Semaphore::new(2)),
            ticket: id::random(""),
        }))
    }

    /// Limits and keys.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The models.
    pub fn models(&self) -> &Models {
        &self.models
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Sequences in flight, by client.
    pub(crate) fn clients(&self) -> &Clients {
        &self.clients
    }

    /// Turns at preparing requests.
    pub(crate) fn preparing(&self) -> Arc<Semaphore> {
        self.preparing.clone()
    }

    /// Turns at rendering Markdown.
    pub(crate) fn rendering(&self) -> Arc<Semaphore> {
        self.rendering.clone()
    }

    /// Random, and the same until the server ends.
    pub(crate) fn ticket(&self) -> &str {
        &self.ticket
    }

    /// Takes no new requests from now on; those that run go on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether [`Server::drain`] was called.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }
}

/// The whole service, without a socket.
pub fn app(server: Arc<Server>) -> Router {
    let api = Router::new()
        .route("/v1/chat/completions", post(openai::chat::create))
        .route("/v1/completions", post(openai::completions::create))
        .route("/v1/embeddings", post(openai::embeddings::create))
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
        .layer(tower::util::option_layer(cors(&server.config.cors)))
        .with_state(server)
}

async fn no_such_path(uri: axum::http::Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", format!("there is nothing at {}", uri.path()))
}

async fn wrong_method(method: Method, uri: axum::http::Uri) -> ApiError {
    let message = format!("{} does not take {method}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

/// A bug of ours: the request fails, the server lives on.
fn panicked(_: Box<dyn Any + Send>) -> Response {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "an internal error").into_response()
}

/// Without origins there is no layer, and browsers keep other sites' pages from reading anything.
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
        .allow_methods([Method::GET, Method::POST])
        // Client libraries send headers of their own, such as `x-stainless-os`. None of them means anything here.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([HeaderName::from_static("x-request-id"), crate::extract::IGNORED_FIELDS]);
    Some(layer)
}
