//! An answer as server-sent events.

use crate::error::ApiError;
use crate::server::Server;
use axum::http::{HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream::{self, Stream};
use serde::Serialize;
use std::convert::Infallible;

/// Produces the events of one answer, one step at a time.
pub trait Chunks: Send + 'static {
    /// The next events; `None`: the answer is complete.
    ///
    /// # Errors
    /// If the answer can't be completed. [`Chunks::failed`] says how the stream ends then.
    fn next(&mut self) -> impl Future<Output = Result<Option<Vec<Event>>, ApiError>> + Send;

    /// The last events of a complete answer.
    fn done(&mut self) -> Vec<Event> {
        vec![Event::default().data("[DONE]")]
    }

    /// The last events of an answer that could not be completed.
    fn failed(&mut self, error: &ApiError) -> Vec<Event> {
        vec![chunk(&error.body())]
    }

    /// What is sent while there are no events.
    fn alive(&self) -> Event {
        alive()
    }
}

/// A comment, which clients ignore.
pub fn alive() -> Event {
    Event::default().comment("alive")
}

/// An event without a name.
pub fn chunk(value: &impl Serialize) -> Event {
    Event::default().data(json(value))
}

/// An event with a name.
pub fn named(name: &str, value: &impl Serialize) -> Event {
    Event::default().event(name).data(json(value))
}

fn json(value: &impl Serialize) -> String {
    // Our own types can always be serialised: strings, numbers, lists of them.
    serde_json::to_string(value).unwrap_or_default()
}

/// The response that streams the events, with keep-alive events in between. Dropping it, as happens when the client
/// disconnects, drops the chunks.
pub fn respond(server: &Server, chunks: impl Chunks) -> Response {
    let keep_alive = KeepAlive::new().interval(server.config().keep_alive).event(chunks.alive());
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
            Ok(Some(events)) => (events, Some(chunks)),
            Ok(None) => (chunks.done(), None),
            Err(error) => (chunks.failed(&error), None),
        })
    };
    stream::unfold(Some(chunks), step).flat_map(|events: Vec<Event>| stream::iter(events.into_iter().map(Ok)))
}
