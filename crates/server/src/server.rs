//! [`Server`]: the state that all requests share.

use crate::clients::Clients;
use crate::config::Config;
use crate::id;
use crate::metrics::Metrics;
use crate::models::{ModelSource, Models};
use crate::responses::store::Store;
use axum::http::HeaderValue;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Semaphore;

/// Why a server can't be created.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ServerError {
    /// There is no model.
    #[error("a server needs at least one model")]
    NoModel,
    /// Two models have the same name.
    #[error("two models are named {0:?}: requests could not tell them apart")]
    SameName(String),
    /// An origin is malformed.
    #[error("{0:?} is not an origin: expected * or a scheme and a host, such as https://example.org")]
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
    responses: Store,
    /// Permits for work that blocks a thread before a request reaches the engine: parsing, tokenising, compiling.
    preparing: Arc<Semaphore>,
    /// Permits for converting Markdown to HTML.
    rendering: Arc<Semaphore>,
    /// Part of addresses that are only given to clients with a key.
    ticket: String,
}

impl Server {
    /// A server for these models. None is loaded yet: [`Models::load_first`] does that.
    ///
    /// # Errors
    /// If there is no model, two have the same name, or an origin is malformed.
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
        let responses = Store::new(config.stored_responses, config.stored_bytes);
        Ok(Arc::new(Server {
            config,
            models,
            metrics: Metrics::new(),
            draining: AtomicBool::new(false),
            clients: Clients::default(),
            responses,
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

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Answers in flight, by client.
    pub(crate) fn clients(&self) -> &Clients {
        &self.clients
    }

    /// Answers that later requests may refer to.
    pub(crate) fn responses(&self) -> &Store {
        &self.responses
    }

    /// Permits for preparing requests.
    pub(crate) fn preparing(&self) -> Arc<Semaphore> {
        self.preparing.clone()
    }

    /// Permits for converting Markdown.
    pub(crate) fn rendering(&self) -> Arc<Semaphore> {
        self.rendering.clone()
    }

    /// A random text that stays the same until the server ends.
    pub(crate) fn ticket(&self) -> &str {
        &self.ticket
    }

    /// Refuses new requests from now on; running ones continue.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether [`Server::drain`] was called.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }
}
