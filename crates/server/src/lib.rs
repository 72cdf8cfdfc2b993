//! An HTTP server for the engine: OpenAI's API, health checks, metrics and a web page.
//!
//! [`app()`] is the whole service as a router, without a socket, so that tests can call it directly. A request passes
//! through:
//!
//! * [`listen`]: connections, TLS, time limits on slow senders, graceful shutdown;
//! * `gate`: request id, log line, allowed hosts and origins, API keys; a request that fails a check ends there;
//! * `extract`: reads the body, within its limits of size and time, as JSON, and names unknown fields;
//! * `openai`: one file per endpoint: checks the fields, gets an engine from [`Models`], and creates engine requests;
//! * `responses`, `messages`: OpenAI's Responses and Anthropic's Messages, translated to and from the chats of `openai`;
//! * `generate`: runs them, all choices of one request together, and cancels them if the client disconnects;
//! * [`metrics`]: figures for Prometheus;
//! * `ui`: the web page.
//!
//! No part of the server depends on a backend: a [`ModelSource`] opens an engine.
//!
//! # Example
//! ```
//! use axum::body::Body;
//! use tower::ServiceExt as _;
//! use zonda_engine::mock::{Mock, MockOptions};
//! use zonda_engine::{Engine, EngineConfig, TextProcessor};
//! use zonda_server::{Config, ModelSource, Server, app};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let source = ModelSource::new("mock", 0, || {
//!     let open = || Ok(Box::new(Mock::new(MockOptions::default())) as _);
//!     Engine::start(open, Some(TextProcessor::mock()), EngineConfig::default()).map_err(|e| e.to_string())
//! });
//! let server = Server::new(Config::default(), vec![source])?;
//! let request = axum::http::Request::post("/v1/completions")
//!     .header("host", "localhost")
//!     .header("content-type", "application/json")
//!     .body(Body::from(r#"{"model": "mock", "prompt": "the warm", "max_tokens": 4}"#))?;
//! let response = app(server).oneshot(request).await?;
//! assert_eq!(response.status(), 200);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod app;
mod clients;
mod config;
mod connections;
mod error;
mod extract;
mod gate;
mod generate;
mod id;
mod keys;
pub mod listen;
mod messages;
pub mod metrics;
mod models;
mod openai;
mod openapi;
mod operate;
mod responses;
mod server;
mod ui;

pub use app::app;
pub use config::Config;
pub use error::ApiError;
pub use keys::Keys;
pub use models::{ModelSource, Models};
pub use server::{Server, ServerError};
pub use ui::Reports;
