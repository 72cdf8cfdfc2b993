//! [`Engine`]: the handle to a worker.

use super::active::{Active, Sink, Ticket};
use super::draft_model::{DraftModel, Drafter, TokenizerMismatch, same_tokens};
use super::drafts::measure_costs;
use super::generation::{Canceller, Generation};
use super::measure::best_parallel;
use super::prepared::{Places, Prepared};
use super::run::{Command, Worker};
use super::shift::Shift;
use crate::forward::{Backend, BackendError, BackendInfo, Limits};
use crate::load::ModelSpec;
use crate::prompt_cache::{PromptCache, PromptCacheConfig};
use crate::request::{Request, RequestError};
use crate::sample::{Constraint, Grammar, GrammarCompiler, GrammarError, SamplingDefaults};
use crate::schedule::{Occupancy, ScheduleError, Scheduler, capacity};
use crate::speculate::cost::Costs;
use crate::speculate::{DRAFT_MAX, Speculate, Speculator};
use crate::stream::Event;
use crate::tokenize::TextProcessor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, SendError, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The worker's stack, in bytes: a grammar's regular expressions are evaluated on it, recursively. The system commits only the
/// pages that are used.
const STACK: usize = 64 << 20;

/// How an engine schedules requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// The maximum number of prefill tokens in a step in which other sequences decode, which bounds their delay by a long
    /// prompt. A step without decodes takes a full batch.
    pub prefill_chunk: usize,
    /// How many sequences run at once. Further slots keep prefixes for reuse.
    pub parallel: Parallel,
    /// The maximum number of waiting requests; more are refused.
    pub max_waiting: usize,
    /// Whether sequences reuse the KV cache of others with the same prefix, if their requests allow it.
    pub prefix_cache: bool,
    /// The source of drafts for requests that set none. Unless it is `Off`, the cost of verifying is measured when the backend
    /// opens; otherwise it is learnt from the requests that use speculation.
    pub speculate: Speculate,
    /// The maximum number of tokens of one draft.
    pub draft_max: usize,
    /// The minimum number of tokens of one draft, if its source finds that many, even if they don't save time; 0: no
    /// minimum.
    pub draft_min: usize,
}

/// How many sequences run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parallel {
    /// As many as the backend has slots.
    All,
    /// At most this many.
    AtMost(usize),
    /// The number, up to this one, with the highest decode throughput, measured when the backend opens.
    Measured(usize),
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            prefill_chunk: 256,
            parallel: Parallel::All,
            max_waiting: 64,
            prefix_cache: true,
            speculate: Speculate::Off,
            draft_max: DRAFT_MAX,
            draft_min: 0,
        }
    }
}

/// Why an engine did not start or refused a request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The backend could not be opened.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The backend panicked while opening.
    #[error("the backend panicked while opening: {0}")]
    OpenPanicked(String),
    /// The backend's limits allow nothing to run.
    #[error(transparent)]
    Limits(ScheduleError),
    /// The tokenizer has more tokens than the model.
    #[error("the tokenizer has {tokenizer} tokens, the model only {model}: they do not belong together")]
    VocabMismatch {
        /// The tokenizer's vocabulary.
        tokenizer: usize,
        /// The model's.
        model: usize,
    },
    /// The draft model does not have this model's tokens.
    #[error("the draft model's tokens are not the model's: {0}")]
    DraftMismatch(#[from] TokenizerMismatch),
    /// The draft model could not be opened.
    #[error("the draft model: {0}")]
    Draft(#[source] BackendError),
    /// `speculate` is `Draft`, and there is no draft model.
    #[error("`speculate: draft` needs a draft model (`--draft`)")]
    NoDraftModel,
    /// The worker thread could not be started.
    #[error("could not start the worker thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The request is malformed or does not fit.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// All slots are in use and the queue is full.
    #[error("the queue is full: {running} requests can run and {waiting} wait; try again later")]
    QueueFull {
        /// Sequences that can run at once.
        running: usize,
        /// [`EngineConfig::max_waiting`].
        waiting: usize,
    },
    /// The backend failed for good.
    #[error("the engine has stopped after its backend failed")]
    Stopped,
}

/// Optional parts of an engine.
#[derive(Debug, Default)]
pub struct Extras {
    /// A draft model.
    pub draft: Option<DraftModel>,
    /// Where prompts are stored on disk.
    pub prompts: Option<PromptCacheConfig>,
    /// The sampling that the model's files recommend.
    pub sampling: SamplingDefaults,
}

/// A running backend. Share it by reference or in an `Arc`. Dropping it cancels all requests, and waits for the forward call in
/// progress and for the backend to close.
#[derive(Debug)]
pub struct Engine {
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
    opened: Opened,
    text: Option<TextProcessor>,
    config: EngineConfig,
    sampling: SamplingDefaults,
    /// Requests that have not ended.
    in_flight: Arc<AtomicUsize>,
    /// The worker's last report on its slots and pages.
    occupancy: Arc<Mutex<Occupancy>>,
    /// Built for the first grammar.
    grammars: OnceLock<Result<GrammarCompiler, GrammarError>>,
    next_key: AtomicU64,
}

/// The properties of an open backend.
#[derive(Clone, Debug)]
struct Opened {
    info: BackendInfo,
    spec: ModelSpec,
    limits: Limits,
    /// Sequences that run at once.
    parallel: usize,
    /// The draft model's backend.
    draft: Option<BackendInfo>,
}

impl Engine {
    /// Starts a worker thread, opens the backend on it, and returns when it is open. Without `text`, prompts must be token ids
    /// and generations have no text.
    ///
    /// # Errors
    /// If the backend can't be opened, its limits allow nothing to run, or the tokenizer has more tokens than the model.
    pub fn start<F>(open: F, text: Option<TextProcessor>, config: EngineConfig) -> Result<Engine, EngineError>
    where
        F: FnOnce() -> Result<Box<dyn Backend>, BackendError> + Send + 'static,
    {
        Engine::start_with(open, text, config, Extras::default())
    }

    /// As [`Engine::start`], with a draft model, which is opened on the same thread, and with prompts stored on disk.
    ///
    /// # Errors
    /// As [`Engine::start`]; also if the two models' tokens differ, the draft model can't be opened, the backend can't export its
    /// KV cache, or the prompt cache's folder can't be made.
    pub fn start_with<F>(
        open: F,
        text: Option<TextProcessor>,
        config: EngineConfig,
        Extras { draft, prompts, sampling }: Extras,
    ) -> Result<Engine, EngineError>
    where
        F: FnOnce() -> Result<Box<dyn Backend>, BackendError> + Send + 'static,
    {
        match &draft {
            Some(draft) => {
                let tokenizer = |text: Option<&TextProcessor>| text.map(|t| t.tokenizer.clone());
                same_tokens(tokenizer(text.as_ref()).as_deref(), tokenizer(draft.text.as_ref()).as_deref())?;
            }
            None if config.speculate == Speculate::Draft => return Err(EngineError::NoDraftModel),
            None => {}
        }
        let (commands, inbox) = mpsc::channel();
        let (report, opened) = mpsc::sync_channel(1);
        let in_flight = Arc::new(AtomicUsize::new(0));
        let occupancy = Arc::new(Mutex::new(Occupancy::default()));
        let told = occupancy.clone();
        let vocab = text.as_ref().map_or(0, |t| t.tokenizer.vocab_size());
        let open_all = move || {
            let (mut backend, scheduler, speculator, drafter, opened) =
                open_backend(open, vocab, config, draft)?;
            let stored = prompts.map(|prompts| PromptCache::open(&prompts, &mut *backend)).transpose()?;
            Ok((backend, scheduler, speculator, drafter, opened, stored))
        };
        // A backend may panic while it opens, and while it is measured.
        let open_all = move || {
            catch_unwind(AssertUnwindSafe(open_all))
                .unwrap_or_else(|panic| Err(EngineError::OpenPanicked(super::run::panic_message(&*panic))))
        };
        let body = move || match open_all() {
            Ok((backend, scheduler, speculator, drafter, opened, stored)) => {
                // If nobody waits for the report, the inbox is closed too and the worker ends at once.
                report.send(Ok(opened)).ok();
                Worker::new(backend, scheduler, speculator, drafter, inbox, told, stored).run();
            }
            Err(error) => {
                report.send(Err(error)).ok();
            }
        };
        let thread = std::thread::Builder::new().name("zonda-worker".into()).stack_size(STACK).spawn(body)?;
        match opened.recv() {
            Ok(Ok(opened)) => Ok(Engine {
                commands,
                thread: Some(thread),
                opened,
                text,
                config,
                sampling,
                in_flight,
                occupancy,
                grammars: OnceLock::new(),
                next_key: AtomicU64::new(0),
            }),
            Ok(Err(error)) => Err(error),
            Err(mpsc::RecvError) => Err(EngineError::Stopped),
        }
    }

    /// The model's backend.
    pub fn info(&self) -> &BackendInfo {
        &self.opened.info
    }

    /// The draft model's backend, if there is one.
    pub fn draft_info(&self) -> Option<&BackendInfo> {
        self.opened.draft.as_ref()
    }

    /// The model's spec.
    pub fn spec(&self) -> &ModelSpec {
        &self.opened.spec
    }

    /// The backend's capacity.
    pub fn limits(&self) -> Limits {
        self.opened.limits
    }

    /// The sampling that the model's files recommend. Requests decide themselves whether they follow it
    /// ([`SamplingDefaults::params`]).
    pub fn sampling(&self) -> SamplingDefaults {
        self.sampling
    }

    /// The tokenizer and chat template, if the model has them.
    pub fn text(&self) -> Option<&TextProcessor> {
        self.text.as_ref()
    }

    /// The number of requests that have been accepted and have not ended.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How many sequences run and wait, and how full the KV cache is, as of the last step.
    pub fn occupancy(&self) -> Occupancy {
        *self.occupancy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many sequences run at once.
    pub fn max_running(&self) -> usize {
        self.opened.parallel
    }

    /// The longest sequence, prompt and answer together, in tokens.
    pub fn capacity(&self) -> usize {
        capacity(&self.opened.limits)
    }

    /// Whether the backend has failed for good: no more requests are accepted.
    pub fn stopped(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Compiles a grammar for one generation.
    fn constraint(&self, grammar: &Grammar) -> Result<Constraint, RequestError> {
        let text = self.text.as_ref().ok_or(RequestError::NoTokenizer)?;
        let compiler = self.grammars.get_or_init(|| GrammarCompiler::new(&text.tokenizer));
        Ok(compiler.as_ref().map_err(Clone::clone)?.compile(grammar)?)
    }

    /// Submits a request; its events come from the [`Generation`]. The prompt is rendered and tokenised here, on the caller's
    /// thread.
    ///
    /// # Errors
    /// If the request is malformed or does not fit, the queue is full, or the engine has stopped.
    pub fn submit(&self, request: Request) -> Result<Generation, EngineError> {
        let (sender, events) = mpsc::channel();
        let places = self.reserve(1)?;
        let prepared = self.prepare(request, &|| false)?;
        let prompt_end = prepared.prompt_end().to_vec();
        let canceller = self.submit_one(prepared, places, move |event| {
            // Dropping the receiver cancels the request.
            sender.send(event).ok();
        })?;
        Ok(Generation { events, canceller, prompt_end, ended: false })
    }

    /// Submits a request and calls `sink` with each event, on the worker's thread, so it must not block. An async consumer puts
    /// the events into a channel of its runtime.
    ///
    /// Dropping the [`Canceller`] does not cancel. If `sink` panics, its request is cancelled.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn submit_with(
        &self,
        request: Request,
        sink: impl FnMut(Event) + Send + 'static,
    ) -> Result<Canceller, EngineError> {
        let places = self.reserve(1)?;
        let prepared = self.prepare(request, &|| false)?;
        self.submit_one(prepared, places, sink)
    }

    fn submit_one(
        &self,
        prepared: Prepared,
        places: Places,
        sink: impl FnMut(Event) + Send + 'static,
    ) -> Result<Canceller, EngineError> {
        let mut sink = Some(sink);
        let cancellers =
            self.submit_prepared(prepared, places, |_| sink.take().map(|sink| Box::new(sink) as Sink))?;
        cancellers.into_iter().next().ok_or(EngineError::Stopped)
    }

    /// Reserves places for `count` generations, all or none, before they are prepared.
    ///
    /// # Errors
    /// If the queue is full.
    pub fn reserve(&self, count: usize) -> Result<Places, EngineError> {
        let (running, waiting) = (self.max_running(), self.config.max_waiting);
        let limit = running.saturating_add(waiting);
        let tickets: Option<Vec<Ticket>> = (0..count).map(|_| Ticket::take(&self.in_flight, limit)).collect();
        tickets.map(Places).ok_or(EngineError::QueueFull { running, waiting })
    }

    /// Checks a request, renders and tokenises its prompt, and compiles its grammar, on the caller's thread.
    /// `abandoned` is checked between these steps; once it returns true, the result is no longer needed.
    ///
    /// # Errors
    /// If the request is malformed or does not fit, or was abandoned.
    pub fn prepare(
        &self,
        mut request: Request,
        abandoned: &dyn Fn() -> bool,
    ) -> Result<Prepared, EngineError> {
        let go_on = || if abandoned() { Err(RequestError::Abandoned) } else { Ok(()) };
        go_on()?;
        let capacity = self.capacity();
        let (mut prompt, keep) =
            request.prepare(self.text.as_ref(), self.spec().vocab_size, capacity, &go_on)?;
        let (shift, truncated) = Shift::fit(&mut prompt, keep, capacity).map_err(RequestError::from)?;
        let speculate = request.speculate.get_or_insert(self.config.speculate);
        if *speculate == Speculate::Draft && self.opened.draft.is_none() {
            return Err(RequestError::NoDraftModel.into());
        }
        go_on()?;
        let constraint = request.grammar.take().map(|g| self.constraint(&g)).transpose()?;
        go_on()?;
        Ok(Prepared { request, prompt, shift, truncated, constraint })
    }

    /// Submits a prepared request once for each of `places`. The first generation has the request's seed, each further
    /// one the next seed. `sink` creates the consumer of a generation's events from the generation's number; see
    /// [`Engine::submit_with`] for what a consumer may do. If it returns `None`, the remaining generations are not
    /// submitted.
    ///
    /// # Errors
    /// If the engine has stopped.
    pub fn submit_prepared(
        &self,
        prepared: Prepared,
        places: Places,
        mut sink: impl FnMut(usize) -> Option<Box<dyn FnMut(Event) + Send>>,
    ) -> Result<Vec<Canceller>, EngineError> {
        let prefix_cache = prepared.request.prefix_cache && self.config.prefix_cache;
        let count = places.0.len();
        let mut prepared = Some(prepared);
        let mut cancellers = Vec::with_capacity(count);
        for (index, ticket) in places.0.into_iter().enumerate() {
            let next = if index + 1 < count { prepared.clone() } else { prepared.take() };
            let (Some(sink), Some(next)) = (sink(index), next) else { break };
            let Prepared { mut request, prompt, shift, truncated, constraint } = next;
            request.sampling.seed = request.sampling.seed.map(|seed| seed.wrapping_add(index as u64));
            let tokenizer = self.text.as_ref().map(|t| t.tokenizer.clone());
            let key = self.next_key.fetch_add(1, Ordering::Relaxed);
            let mut active =
                Box::new(Active::new(key, request, &prompt, constraint, tokenizer, sink, ticket));
            active.set_shift(shift, truncated);
            if let Err(SendError(command)) =
                self.commands.send(Command::Submit { prompt, prefix_cache, active })
            {
                if let Command::Submit { active, .. } = command {
                    active.discard();
                }
                return Err(EngineError::Stopped);
            }
            cancellers.push(Canceller { key, commands: self.commands.clone() });
        }
        Ok(cancellers)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Either fails only if the worker has ended already.
        self.commands.send(Command::Stop).ok();
        if let Some(thread) = self.thread.take()
            // If a sink holds the last reference, this is the worker itself, which ends on its own.
            && thread.thread().id() != std::thread::current().id()
        {
            thread.join().ok();
        }
    }
}

/// The parts that the worker runs with, and the properties that the engine reports.
type Parts = (Box<dyn Backend>, Scheduler, Speculator, Option<Drafter>, Opened);

fn open_backend(
    open: impl FnOnce() -> Result<Box<dyn Backend>, BackendError>,
    vocab: usize,
    config: EngineConfig,
    draft: Option<DraftModel>,
) -> Result<Parts, EngineError> {
    let mut backend = open()?;
    let (limits, spec) = (backend.limits(), backend.spec().clone());
    if vocab > spec.vocab_size {
        return Err(EngineError::VocabMismatch { tokenizer: vocab, model: spec.vocab_size });
    }
    let scheduler = Scheduler::new(limits, config.prefill_chunk).map_err(EngineError::Limits)?;
    let parallel = match config.parallel {
        Parallel::All => limits.slots,
        Parallel::AtMost(n) => n.clamp(1, limits.slots),
        Parallel::Measured(most) => {
            let started = Instant::now();
            best_parallel(&mut *backend, most, &|| started.elapsed())?
        }
    };
    let scheduler = scheduler.with_max_running(parallel);
    let costs = match config.speculate {
        Speculate::Off if draft.is_none() => Costs::default(),
        _ => measure_costs(&mut *backend, config.draft_max)?,
    };
    let drafter = draft.map(|draft| open_drafter(draft, spec.vocab_size)).transpose()?;
    let info = drafter.as_ref().map(|(_, info, _)| info.clone());
    let step = drafter.as_ref().map(|(_, _, step)| *step);
    let drafter = drafter.map(|(drafter, ..)| drafter);
    let mut speculator = Speculator::new(config.draft_min, config.draft_max, costs, drafter.is_some());
    speculator.drafting_took(1, step.unwrap_or_default());
    let opened = Opened { info: backend.info(), spec, limits, parallel, draft: info };
    Ok((backend, scheduler, speculator, drafter, opened))
}

/// Opens a draft model for a model with `vocab` tokens, and measures its step.
fn open_drafter(draft: DraftModel, vocab: usize) -> Result<(Drafter, BackendInfo, Duration), EngineError> {
    let mut backend = (draft.open)().map_err(EngineError::Draft)?;
    let costs = measure_costs(&mut *backend, 0).map_err(EngineError::Draft)?;
    let info = backend.info();
    Ok((Drafter::new(backend, vocab), info, Duration::from_secs_f64(costs.of(1))))
}
