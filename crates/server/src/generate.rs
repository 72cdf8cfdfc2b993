//! [`Running`]: the generations of one request, from the worker's thread to the handler.

use crate::error::ApiError;
use crate::metrics::Series;
use crate::models::Loaded;
use crate::server::Server;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tracing::Span;
use tracing::field::Empty;
use zonda_engine::{Canceller, Event, FinishReason, Outcome, Request};

/// What one request asks of an engine.
#[derive(Debug)]
pub struct Job {
    /// The model.
    pub loaded: Arc<Loaded>,
    /// One per choice.
    pub requests: Vec<Request>,
    /// How long all of it may take from the requests' `t0`.
    pub deadline: Option<Duration>,
}

/// Generations in progress. Dropping it cancels them: that is what happens when the client leaves.
#[derive(Debug)]
pub struct Running {
    events: UnboundedReceiver<(usize, Event)>,
    cancellers: Vec<Canceller>,
    /// Choices that have not finished.
    left: usize,
    /// When the last token of each choice came.
    last: Vec<Option<Instant>>,
    t0: Instant,
    deadline: Option<Duration>,
    series: Series,
    /// From the submission to the last token, within the request's span.
    span: Span,
    /// Keeps the model in memory.
    loaded: Arc<Loaded>,
}

impl Running {
    /// Submits all choices. Prompts are rendered and tokenised, and grammars compiled, on a thread that may block.
    ///
    /// # Errors
    /// If a request is malformed or does not fit, or the queue is full: then none of the choices runs.
    pub async fn start(server: &Server, job: Job) -> Result<Running, ApiError> {
        let Job { loaded, requests, deadline } = job;
        let t0 = requests.first().map_or_else(Instant::now, |r| r.t0);
        let choices = requests.len();
        let (sender, events) = unbounded_channel();
        let engine = loaded.clone();
        let submitted = tokio::task::spawn_blocking(move || {
            let mut cancellers: Vec<Canceller> = Vec::with_capacity(choices);
            for (index, request) in requests.into_iter().enumerate() {
                let sender = sender.clone();
                let sink = move |event| drop(sender.send((index, event)));
                match engine.engine.submit_with(request, sink) {
                    Ok(canceller) => cancellers.push(canceller),
                    Err(error) => {
                        cancellers.iter().for_each(Canceller::cancel);
                        return Err(ApiError::from(error));
                    }
                }
            }
            // A handler that has gone takes no result: dropping this cancels.
            Ok(CancelOnDrop(cancellers))
        });
        let submitted = submitted.await.map_err(|e| ApiError::backend(e.to_string()))?;
        let cancellers = match submitted {
            Ok(mut cancellers) => std::mem::take(&mut cancellers.0),
            Err(mut error) => {
                if error.code == "queue_full" {
                    error.retry_after = Some(server.config().retry_after);
                }
                return Err(error);
            }
        };
        let series = server.metrics().series(&loaded.name);
        let span = tracing::info_span!(
            "generation",
            model = loaded.name,
            choices,
            prompt_tokens = Empty,
            cached_tokens = Empty,
            completion_tokens = Empty,
            ttft_ms = Empty,
            finish_reason = Empty,
        );
        let last = vec![None; choices];
        Ok(Running { events, cancellers, left: choices, last, t0, deadline, series, span, loaded })
    }

    /// The model that runs.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// The next event of some choice; `None` after all have finished.
    ///
    /// # Errors
    /// If the backend failed, the engine stopped, or the deadline has passed. The other choices are of no use then.
    pub async fn next(&mut self) -> Option<Result<(usize, Event), ApiError>> {
        if self.left == 0 {
            return None;
        }
        let event = match self.deadline {
            None => self.events.recv().await,
            Some(limit) => {
                let end = tokio::time::Instant::from_std(self.t0 + limit);
                match tokio::time::timeout_at(end, self.events.recv()).await {
                    Ok(event) => event,
                    Err(_) => return Some(Err(ApiError::deadline(limit))),
                }
            }
        };
        Some(match event {
            Some((choice, event)) => self.note(choice, event),
            None => Err(ApiError::backend("the engine stopped before the answer was complete")),
        })
    }

    /// Counts an event, and makes an error of one.
    fn note(&mut self, choice: usize, event: Event) -> Result<(usize, Event), ApiError> {
        match &event {
            Event::Tokens { ids, at, .. } if !ids.is_empty() => {
                self.series.generated(ids.len());
                match self.last[choice].replace(*at) {
                    None => self.series.first_token(*at - self.t0),
                    Some(before) => self.series.next_token(*at - before),
                }
            }
            Event::Finished(outcome) => {
                self.left -= 1;
                self.series.finished(outcome);
                self.describe(outcome);
                match &outcome.reason {
                    FinishReason::Error(why) => return Err(ApiError::backend(why.clone())),
                    FinishReason::Cancelled => return Err(ApiError::backend("the engine has stopped")),
                    _ => {}
                }
            }
            _ => {}
        }
        Ok((choice, event))
    }
}

impl Running {
    /// Tells the span how a choice ended.
    fn describe(&self, outcome: &Outcome) {
        let Outcome { usage, timing, reason, .. } = outcome;
        self.span.record("prompt_tokens", usage.prompt_tokens);
        self.span.record("cached_tokens", usage.cached_tokens);
        self.span.record("completion_tokens", usage.completion_tokens);
        self.span.record("ttft_ms", timing.ttft().map(|t| t.as_secs_f64() * 1e3));
        self.span.record("finish_reason", reason.as_str());
        self.span.in_scope(|| tracing::debug!("generated"));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.left > 0 {
            self.series.cancelled(self.left);
            self.cancellers.iter().for_each(Canceller::cancel);
            self.span.record("finish_reason", "cancelled");
            self.span.in_scope(|| tracing::info!("cancelled"));
        }
    }
}

struct CancelOnDrop(Vec<Canceller>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.iter().for_each(Canceller::cancel);
    }
}
