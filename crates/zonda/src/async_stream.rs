//! [`AsyncStream`]: a generation's events for async code (feature `async`). It works with any runtime: the engine's
//! thread wakes the waiting task.

use crate::error::{Error, Result};
use crate::tools::{Separator, ToolCall};
use futures_core::Stream;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use zonda_engine::{Canceller, Engine, EngineError, Event, Request};

/// The events of one generation as a [`futures_core::Stream`]. Dropping it cancels the generation.
#[derive(Debug)]
pub struct AsyncStream {
    shared: Arc<Shared>,
    canceller: Canceller,
    separator: Separator,
    ended: bool,
}

/// What the engine's thread and the reader share.
#[derive(Debug, Default)]
struct Shared(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Event>,
    /// Whether the engine has sent its last event.
    closed: bool,
    waker: Option<Waker>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Waiting)) {
        let waker = {
            let mut waiting = self.lock();
            change(&mut waiting);
            waiting.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The engine's end, which is dropped when the generation has ended in any way.
struct Sender(Arc<Shared>);

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.change(|waiting| waiting.closed = true);
    }
}

impl AsyncStream {
    pub(crate) fn start(engine: &Engine, request: Request, mut separator: Separator) -> Result<AsyncStream> {
        let shared = Arc::new(Shared::default());
        let sender = Sender(shared.clone());
        let places = engine.reserve(1)?;
        let prepared = engine.prepare(request, &|| false)?;
        separator.begin(prepared.prompt_end(), engine.text().map(|text| &*text.tokenizer));
        let mut sink = Some(move |event| sender.0.change(|waiting| waiting.events.push_back(event)));
        let cancellers = engine.submit_prepared(prepared, places, |_| {
            sink.take().map(|sink| Box::new(sink) as Box<dyn FnMut(Event) + Send>)
        })?;
        let canceller = cancellers.into_iter().next().ok_or(EngineError::Stopped)?;
        Ok(AsyncStream { shared, canceller, separator, ended: false })
    }

    /// Cancels the generation. [`Event::Finished`] is still delivered.
    pub fn cancel(&self) {
        self.canceller.cancel();
    }

    /// What the model has thought so far; it is not part of the text.
    pub fn reasoning(&self) -> &str {
        self.separator.reasoning()
    }

    /// The tool calls so far. The list is complete when [`Event::Finished`] arrives.
    pub fn tool_calls(&self) -> &[ToolCall] {
        self.separator.calls()
    }
}

impl Stream for AsyncStream {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Event>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let AsyncStream { shared, separator, .. } = &mut *self;
        let next = separator.next(|| {
            let mut waiting = shared.lock();
            match waiting.events.pop_front() {
                Some(event) => Some(Error::of_event(event)),
                None if waiting.closed => {
                    Some(Err(Error::Generation("the engine stopped before the answer ended".to_owned())))
                }
                None => {
                    waiting.waker = Some(context.waker().clone());
                    None
                }
            }
        });
        let Some(next) = next else { return Poll::Pending };
        self.ended = matches!(next, Ok(Event::Finished(_)) | Err(_));
        Poll::Ready(Some(next))
    }
}

impl Drop for AsyncStream {
    fn drop(&mut self) {
        if !self.ended {
            self.cancel();
        }
    }
}
