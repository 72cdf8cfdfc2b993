//! [`Running`]: the generations of one HTTP request, and their events on the way from the engine's worker to the
//! handler.

use crate::clients::{Client, Share};
use crate::error::ApiError;
use crate::metrics::Series;
use crate::models::Loaded;
use crate::server::Server;
use axum::http::StatusCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tracing::Span;
use tracing::field::Empty;
use zonda::tools::{Parser, Style, ToolError, Tools};
use zonda_engine::{
    Backlog, Canceller, EngineError, Event, FinishReason, Outcome, Places, Prepared, Request, RequestError,
    TokenId,
};

/// The generations that one HTTP request asks for.
#[derive(Debug)]
pub(crate) struct Job {
    /// The model.
    pub loaded: Arc<Loaded>,
    /// One per prompt.
    pub requests: Vec<Request>,
    /// Answers per prompt.
    pub choices: usize,
    /// The client.
    pub client: Client,
    /// How long the whole request may take, counted from the `t0` of `requests`.
    pub deadline: Option<Duration>,
    /// The functions that the model may call, and how it calls them.
    pub tools: Option<(Style, Tools)>,
}

impl Job {
    /// The number of answers.
    pub fn answers(&self) -> usize {
        self.requests.len() * self.choices
    }
}

/// Maximum number of events, over all choices of a request, that wait to be sent. At this number, the sequences pause.
const BACKLOG: usize = 512;

/// Waits for `work`, at most until the deadline.
///
/// # Errors
/// If the deadline passes first.
pub(crate) async fn within<T>(
    deadline: Option<Duration>,
    t0: Instant,
    work: impl Future<Output = T>,
) -> Result<T, ApiError> {
    let Some(limit) = deadline else { return Ok(work.await) };
    let end = tokio::time::Instant::from_std(t0 + limit);
    tokio::time::timeout_at(end, work).await.map_err(|_| ApiError::deadline(limit))
}

/// Runs `work` on a thread of its own, when it is its turn among the requests that are prepared. It gets a function that says whether
/// to give up: the deadline has passed, or the client has left.
///
/// # Errors
/// If the deadline passes first, or `work` panics.
pub(crate) async fn apart<T: Send + 'static>(
    server: &Server,
    deadline: Option<Duration>,
    t0: Instant,
    work: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static,
) -> Result<T, ApiError> {
    let turn = within(deadline, t0, server.preparing().acquire_owned()).await?;
    let abandoned = AbandonOnDrop::default();
    let (gone, end) = (abandoned.0.clone(), deadline.map(|limit| t0 + limit));
    let work = move || {
        let _turn = turn;
        work(&|| gone.load(Ordering::Relaxed) || end.is_some_and(|end| Instant::now() >= end))
    };
    let done = within(deadline, t0, tokio::task::spawn_blocking(work)).await?;
    done.map_err(|e| ApiError::backend(e.to_string()))
}

/// Generations in progress. Dropping it cancels them, as happens when the client disconnects.
#[derive(Debug)]
pub(crate) struct Running {
    events: UnboundedReceiver<(usize, Event)>,
    /// Limits the number of events in `events`.
    backlog: Backlog,
    cancellers: Vec<Canceller>,
    /// Choices that have not finished.
    left: usize,
    /// When the last token of each choice arrived.
    last: Vec<Option<Instant>>,
    t0: Instant,
    deadline: Option<Duration>,
    series: Series,
    /// From the submission to the last token, inside the request's span.
    span: Span,
    /// The client's answers in flight, until all of them have ended.
    _share: Share,
    /// Keeps the model in memory.
    loaded: Arc<Loaded>,
    /// The last tokens of each prompt, and how many it has.
    prompts: Vec<(Vec<TokenId>, usize)>,
    /// Splits the text of an answer into reasoning, text and calls; `None`: it is all text.
    parser: Option<Parser>,
}

impl Running {
    /// Submits all choices. It first reserves their places in the queue. Then it writes the
    /// grammar of tools, renders and tokenises each prompt once, and compiles its grammar once, on one of a few blocking threads. The deadline applies to all of this, and
    /// the work stops between its steps if the client disconnects.
    ///
    /// # Errors
    /// If a request is malformed or does not fit, the queue is full, the client has too many answers in flight, or the
    /// deadline passes: then none of the choices runs.
    pub async fn start(server: &Server, job: Job) -> Result<Running, ApiError> {
        let choices = job.answers();
        let Job { loaded, mut requests, choices: each, client, deadline, tools } = job;
        let t0 = requests.first().map_or_else(Instant::now, |r| r.t0);
        let config = server.config();
        let come_back = |mut error: ApiError| {
            if error.status == StatusCode::TOO_MANY_REQUESTS {
                error.retry_after = Some(config.retry_after);
            }
            error
        };
        let share = server.clients().take(&client, choices, config.max_per_client).map_err(come_back)?;
        let places: Result<Vec<Places>, _> = requests.iter().map(|_| loaded.engine.reserve(each)).collect();
        let places = places.map_err(|error| come_back(error.into()))?;
        let backlog = Backlog::new(BACKLOG);
        requests.iter_mut().for_each(|request| request.backlog = Some(backlog.clone()));
        let (sender, events) = unbounded_channel();
        let engine = loaded.clone();
        let work = move |stop: &dyn Fn() -> bool| {
            let parser = match tools {
                Some(tools) => with_tools(&engine, &mut requests, &tools, stop)?,
                None => None,
            };
            let prepare = |request| engine.engine.prepare(request, stop);
            let prepared: Result<Vec<Prepared>, _> = requests.into_iter().map(prepare).collect();
            let prepared = prepared?;
            let describe = |prepared: &Prepared| (prepared.prompt_end().to_vec(), prepared.prompt_tokens());
            let prompts = prepared.iter().map(describe).collect();
            // If the handler was dropped, nobody takes the result, and dropping this cancels the sequences.
            let mut cancellers = CancelOnDrop(Vec::with_capacity(choices));
            for ((prompt, prepared), places) in prepared.into_iter().enumerate().zip(places) {
                let sink = |choice| {
                    let (sender, index) = (sender.clone(), prompt * each + choice);
                    Some(Box::new(move |event| drop(sender.send((index, event))))
                        as Box<dyn FnMut(Event) + Send>)
                };
                cancellers.0.extend(engine.engine.submit_prepared(prepared, places, sink)?);
            }
            Ok::<_, Unprepared>((cancellers, prompts, parser))
        };
        let submitted = apart(server, deadline, t0, work).await?;
        let (mut cancellers, prompts, parser) = match (submitted, deadline) {
            (Ok(submitted), _) => submitted,
            (Err(Unprepared::Engine(EngineError::Request(RequestError::Abandoned))), Some(limit)) => {
                return Err(ApiError::deadline(limit));
            }
            (Err(Unprepared::Engine(error)), _) => return Err(error.into()),
            (Err(Unprepared::Tools(error)), _) => return Err(error.into()),
        };
        let cancellers = std::mem::take(&mut cancellers.0);
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
        Ok(Running {
            events,
            backlog,
            cancellers,
            left: choices,
            last,
            t0,
            deadline,
            series,
            span,
            _share: share,
            loaded,
            prompts,
            parser,
        })
    }

    /// Splits the text of an answer; `None`: it is all text.
    pub fn parser(&self) -> Option<&Parser> {
        self.parser.as_ref()
    }

    /// The last tokens of the prompt of a choice.
    pub fn prompt_end(&self, choice: usize) -> &[TokenId] {
        let each = self.last.len() / self.prompts.len().max(1);
        self.prompts.get(choice / each.max(1)).map_or(&[], |(end, _)| end)
    }

    /// The number of tokens of all prompts.
    pub fn prompt_tokens(&self) -> usize {
        self.prompts.iter().map(|(_, tokens)| tokens).sum()
    }

    /// The model that runs.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// The next event of some choice; `None` after all have finished.
    ///
    /// # Errors
    /// If the backend failed, the engine stopped, or the deadline has passed. The events of the other choices no longer
    /// matter then.
    pub async fn next(&mut self) -> Option<Result<(usize, Event), ApiError>> {
        if self.left == 0 {
            return None;
        }
        let event = match within(self.deadline, self.t0, self.events.recv()).await {
            Ok(event) => event,
            Err(error) => return Some(Err(error)),
        };
        if event.is_some() {
            self.backlog.take();
        }
        Some(match event {
            Some((choice, event)) => self.note(choice, event),
            None => Err(ApiError::backend("the engine stopped before the answer was complete")),
        })
    }

    /// Counts an event. Turns a failed generation into an error.
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
                    FinishReason::Refused(why) => return Err(ApiError::bad_request(why.clone())),
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
    /// Records in the span how a choice ended.
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

/// Why requests could not be prepared.
enum Unprepared {
    Engine(EngineError),
    Tools(ToolError),
}

impl From<EngineError> for Unprepared {
    fn from(error: EngineError) -> Unprepared {
        Unprepared::Engine(error)
    }
}

/// Adds the tools to the requests: to their prompts, and as their grammars. `stop` says whether to give up.
fn with_tools(
    loaded: &Loaded,
    requests: &mut [Request],
    (style, tools): &(Style, Tools),
    stop: &dyn Fn() -> bool,
) -> Result<Option<Parser>, Unprepared> {
    let tokenizer = loaded.engine.text().map(|text| &*text.tokenizer);
    let mut parser = None;
    for request in requests {
        if stop() {
            return Err(EngineError::from(RequestError::Abandoned).into());
        }
        parser = style.apply(tools, request, tokenizer).map_err(Unprepared::Tools)?;
    }
    Ok(parser)
}

struct CancelOnDrop(Vec<Canceller>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.iter().for_each(Canceller::cancel);
    }
}

/// Tells the preparing thread that the handler was dropped.
#[derive(Default)]
struct AbandonOnDrop(Arc<AtomicBool>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
