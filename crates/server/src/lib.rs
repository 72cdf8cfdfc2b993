//! The engine behind an HTTP API: OpenAI's, with health, metrics and a web page beside it.
//!
//! [`app()`] is the whole service as a router, without a socket: tests call it directly. The way of a request:
//!
//! * [`listen`]: connections, TLS, time limits on slow senders, draining at the end;
//! * `gate`: request id, log line, allowed hosts and origins, keys; what does not pass ends there;
//! * `extract`: the body, within its limit and in time, as JSON whose unknown fields are named;
//! * `openai`: one file per endpoint: checks the fields, asks [`Models`] for an engine, makes engine requests;
//! * `generate`: runs them, all choices of one request together, and cancels them when the client leaves;
//! * [`metrics`]: what Prometheus reads;
//! * `ui`: the web page.
//!
//! The server knows no backend: a [`ModelSource`] opens an engine.
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
pub mod metrics;
mod models;
mod openai;
mod openapi;
mod operate;
mod server;
mod ui;

pub use app::app;
pub use config::Config;
pub use error::ApiError;
pub use keys::Keys;
pub use models::{ModelSource, Models};
pub use server::{Server, ServerError};
pub use ui::Reports;
