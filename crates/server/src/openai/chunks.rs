//! An answer as server-sent events.

use crate::error::ApiError;
use crate::server::Server;
use axum::http::{HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream::{self, Stream};
use serde::Serialize;
use std::convert::Infallible;

/// Produces the chunks of one answer, one step at a time.
pub trait Chunks: Send + 'static {
    /// The next chunks, as JSON; `None`: the answer is complete.
    ///
    /// # Errors
    /// If the answer can't be completed. The error is sent as the last event.
    fn next(&mut self) -> impl Future<Output = Result<Option<Vec<String>>, ApiError>> + Send;
}

/// A chunk as JSON.
pub fn chunk(value: &impl Serialize) -> String {
    // Our own types can always be serialised: strings, numbers, lists of them.
    serde_json::to_string(value).unwrap_or_default()
}

/// The response that streams the chunks, with keep-alive comments in between and `[DONE]` at the end. Dropping it, as happens
/// when the client disconnects, drops the chunks.
pub fn respond(server: &Server, chunks: impl Chunks) -> Response {
    let keep_alive = KeepAlive::new().interval(server.config().keep_alive).text("alive");
    let mut response = Sse::new(events(chunks)).keep_alive(keep_alive).into_response();
    // Proxies that buffer responses would hold back the tokens.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn events<C: Chunks>(chunks: C) -> impl Stream<Item = Result<Event, Infallible>> {
    use futures_util::StreamExt as _;
    let step = |state: Option<C>| async move {
        let mut chunks = state?;
        Some(match chunks.next().await {
            Ok(Some(values)) => (chunks_of(values), Some(chunks)),
            Ok(None) => (vec![Event::default().data("[DONE]")], None),
            Err(error) => (chunks_of(vec![chunk(&error.body())]), None),
        })
    };
    stream::unfold(Some(chunks), step).flat_map(|events: Vec<Event>| stream::iter(events.into_iter().map(Ok)))
}

fn chunks_of(values: Vec<String>) -> Vec<Event> {
    values.iter().map(|value| Event::default().data(value)).collect()
}
