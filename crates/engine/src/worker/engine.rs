//! [`Engine`]: the handle to a worker, and [`Generation`]: the handle to a request.

use super::active::{Active, Sink, Ticket};
use super::drafts::measure_costs;
use super::measure::best_parallel;
use super::run::{Command, Worker};
use super::shift::Shift;
use crate::TokenId;
use crate::forward::{Backend, BackendError, BackendInfo, Limits};
use crate::load::ModelSpec;
use crate::prompt_cache::{PromptCache, PromptCacheConfig};
use crate::request::{Request, RequestError, Text};
use crate::sample::{Constraint, Grammar, GrammarCompiler, GrammarError, TokenLogprobs};
use crate::schedule::{Occupancy, ScheduleError, Scheduler, capacity};
use crate::speculate::cost::Costs;
use crate::speculate::draft::{DraftModel, Drafter, TokenizerMismatch, same_tokens};
use crate::speculate::{DRAFT_MAX, Speculate, Speculator};
use crate::stream::{Event, FinishReason, Outcome};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SendError, Sender, TryRecvError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The worker's stack, in bytes: a grammar's regular expressions are evaluated on it, recursively. The system commits only
/// the pages that are used.
const STACK: usize = 64 << 20;

/// How an engine schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Most prefill tokens in a step in which other sequences decode: bounds how long those wait for a long prompt.
    /// Without decodes, a step takes as many as the backend's batch.
    pub prefill_chunk: usize,
    /// How many sequences run at once. Slots beyond them keep prefixes for reuse.
    pub parallel: Parallel,
    /// Most requests that wait beyond those that can run; more are refused.
    pub max_waiting: usize,
    /// Sequences may reuse what others computed, where their requests allow it too.
    pub prefix_cache: bool,
    /// Where the drafts of requests that don't say come from. If anywhere, the cost of verifying is measured when the
    /// backend is opened; otherwise it is learnt from the requests that do say.
    pub speculate: Speculate,
    /// Most tokens of one draft.
    pub draft_max: usize,
    /// Fewest, where so many are guessed, whether that pays or not; 0: as many as pay.
    pub draft_min: usize,
}

/// How many sequences run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parallel {
    /// As many as the backend has slots.
    All,
    /// So many at most.
    AtMost(usize),
    /// The number, up to this one, with which the backend decodes most tokens per second: measured when it is opened.
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

/// Why an engine did not start or did not take a request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The backend could not open.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The backend panicked while it opened.
    #[error("the backend panicked while opening: {0}")]
    OpenPanicked(String),
    /// The backend's limits make no sense.
    #[error(transparent)]
    Limits(ScheduleError),
    /// The tokenizer has tokens that the model lacks.
    #[error("the tokenizer has {tokenizer} tokens, the model {model}: they do not belong together")]
    VocabMismatch {
        /// The tokenizer's vocabulary.
        tokenizer: usize,
        /// The model's.
        model: usize,
    },
    /// The draft model is of no use to this model.
    #[error("the draft model's tokens are not the model's: {0}")]
    DraftMismatch(#[from] TokenizerMismatch),
    /// The draft model could not open.
    #[error("the draft model: {0}")]
    Draft(#[source] BackendError),
    /// Drafts are to come from a draft model, and there is none.
    #[error("speculation with a draft model needs one")]
    NoDraftModel,
    /// The worker thread could not be started.
    #[error("could not start the worker thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The request is malformed or does not fit.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// All slots are taken and the queue is full.
    #[error("the queue is full: {running} requests can run and {waiting} wait; try again later")]
    QueueFull {
        /// Sequences that can run at once.
        running: usize,
        /// [`EngineConfig::max_waiting`].
        waiting: usize,
    },
    /// The backend failed beyond repair.
    #[error("the engine has stopped after its backend failed")]
    Stopped,
}

/// What an engine may have beside its backend.
#[derive(Debug, Default)]
pub struct Extras {
    /// A smaller model that guesses.
    pub draft: Option<DraftModel>,
    /// Where prompts are kept.
    pub prompts: Option<PromptCacheConfig>,
}

/// A running backend. Share it by reference or in an `Arc`; dropping it cancels what runs, and waits for the
/// forward call in progress and for the backend to close.
#[derive(Debug)]
pub struct Engine {
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
    opened: Opened,
    text: Option<Text>,
    config: EngineConfig,
    /// Requests that have not ended.
    in_flight: Arc<AtomicUsize>,
    /// What the worker last said of its slots and pages.
    occupancy: Arc<Mutex<Occupancy>>,
    /// Built when the first grammar comes.
    grammars: OnceLock<Result<GrammarCompiler, GrammarError>>,
    next_key: AtomicU64,
}

/// What a backend says about itself once it is open.
#[derive(Clone, Debug)]
struct Opened {
    info: BackendInfo,
    spec: ModelSpec,
    limits: Limits,
    /// Sequences that run at once.
    parallel: usize,
    /// What runs the draft model.
    draft: Option<BackendInfo>,
}

impl Engine {
    /// Starts a worker thread, opens the backend on it, and returns when it is open. Without `text`, prompts have to
    /// be token ids and generations have no text.
    ///
    /// # Errors
    /// If the backend does not open, its limits allow nothing to run, or the tokenizer has more tokens than the
    /// model.
    pub fn start<F>(open: F, text: Option<Text>, config: EngineConfig) -> Result<Engine, EngineError>
    where
        F: FnOnce() -> Result<Box<dyn Backend>, BackendError> + Send + 'static,
    {
        Engine::start_with(open, text, config, Extras::default())
    }

    /// As [`Engine::start`], with a draft model, which is opened on the same thread, and with prompts kept on disk.
    ///
    /// # Errors
    /// As [`Engine::start`]; if the two models' tokens differ, or the draft model does not open; if the backend does not
    /// hand out its KV cache, or the cache's folder can't be made.
    pub fn start_with<F>(
        open: F,
        text: Option<Text>,
        config: EngineConfig,
        Extras { draft, prompts }: Extras,
    ) -> Result<Engine, EngineError>
    where
        F: FnOnce() -> Result<Box<dyn Backend>, BackendError> + Send + 'static,
    {
        match &draft {
            Some(draft) => {
                let tokenizer = |text: Option<&Text>| text.map(|t| t.tokenizer.clone());
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
            let (mut backend, scheduler, speculator, opened) = open_backend(open, vocab, config, draft)?;
            let stored = prompts.map(|prompts| PromptCache::open(&prompts, &mut *backend)).transpose()?;
            Ok((backend, scheduler, speculator, opened, stored))
        };
        let body = move || match open_all() {
            Ok((backend, scheduler, speculator, opened, stored)) => {
                // If nobody waits for the report, the inbox is closed too and the worker ends at once.
                report.send(Ok(opened)).ok();
                Worker::new(backend, scheduler, speculator, inbox, told, stored).run();
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
                in_flight,
                occupancy,
                grammars: OnceLock::new(),
                next_key: AtomicU64::new(0),
            }),
            Ok(Err(error)) => Err(error),
            Err(mpsc::RecvError) => Err(EngineError::Stopped),
        }
    }

    /// What runs the model.
    pub fn info(&self) -> &BackendInfo {
        &self.opened.info
    }

    /// What runs the draft model, if there is one.
    pub fn draft_info(&self) -> Option<&BackendInfo> {
        self.opened.draft.as_ref()
    }

    /// What the model is.
    pub fn spec(&self) -> &ModelSpec {
        &self.opened.spec
    }

    /// How much the backend holds.
    pub fn limits(&self) -> Limits {
        self.opened.limits
    }

    /// The tokenizer and chat template, if the model has them.
    pub fn text(&self) -> Option<&Text> {
        self.text.as_ref()
    }

    /// Requests that have been taken and have not ended.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How many sequences run and wait, and how full the KV room is, as of the last step.
    pub fn occupancy(&self) -> Occupancy {
        *self.occupancy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many sequences run at once.
    pub fn max_running(&self) -> usize {
        self.opened.parallel
    }

    /// The longest sequence that fits, prompt and answer together, in tokens.
    pub fn capacity(&self) -> usize {
        capacity(&self.opened.limits)
    }

    /// The backend failed beyond repair: no request is taken any more.
    pub fn stopped(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Checks a grammar, and readies it for one generation.
    fn constraint(&self, grammar: &Grammar) -> Result<Constraint, RequestError> {
        let text = self.text.as_ref().ok_or(RequestError::NoTokenizer)?;
        let compiler = self.grammars.get_or_init(|| GrammarCompiler::new(&text.tokenizer));
        Ok(compiler.as_ref().map_err(Clone::clone)?.compile(grammar)?)
    }

    /// Takes a request; its events come out of the [`Generation`]. The prompt is rendered and tokenised here, on the
    /// caller's thread.
    ///
    /// # Errors
    /// If the request is malformed or does not fit, the queue is full, or the engine has stopped.
    pub fn submit(&self, request: Request) -> Result<Generation, EngineError> {
        let (sender, events) = mpsc::channel();
        let canceller = self.submit_with(request, move |event| {
            // Whoever drops the receiver has cancelled.
            sender.send(event).ok();
        })?;
        Ok(Generation { events, canceller, ended: false })
    }

    /// Takes a request and calls `sink` with each event, on the worker's thread: it must not block. This is how an
    /// async consumer is served: `sink` puts the events into a channel of its runtime.
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
        let mut sink = Some(sink);
        let places = self.reserve(1)?;
        let prepared = self.prepare(request, &|| false)?;
        let cancellers =
            self.submit_prepared(prepared, places, |_| sink.take().map(|sink| Box::new(sink) as Sink))?;
        cancellers.into_iter().next().ok_or(EngineError::Stopped)
    }

    /// Takes places for `count` generations, before the work of preparing them is done: all or none.
    ///
    /// # Errors
    /// If the queue is full.
    pub fn reserve(&self, count: usize) -> Result<Places, EngineError> {
        let (running, waiting) = (self.max_running(), self.config.max_waiting);
        let limit = running.saturating_add(waiting);
        let tickets: Option<Vec<Ticket>> = (0..count).map(|_| Ticket::take(&self.in_flight, limit)).collect();
        tickets.map(Places).ok_or(EngineError::QueueFull { running, waiting })
    }

    /// Checks a request, renders and tokenises its prompt, and compiles its grammar, on the caller's thread. `abandoned` is
    /// asked between these steps whether anyone still wants the result.
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

    /// Takes a prepared request as often as there are `places`. The first has the request's seed, each further one the next.
    /// `sink` makes the consumer of the events of each, by number; see [`Engine::submit_with`] for what one may do. `None`
    /// from it leaves the rest out.
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

/// Places among the requests in flight, given back when dropped.
#[derive(Debug)]
pub struct Places(Vec<Ticket>);

/// A request that is checked, tokenised and ready to run, any number of times.
#[derive(Clone, Debug)]
pub struct Prepared {
    request: Request,
    prompt: Vec<TokenId>,
    shift: Shift,
    truncated: usize,
    constraint: Option<Constraint>,
}

impl Prepared {
    /// The prompt's tokens, as the model gets them.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt.len()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Either fails only if the worker has ended already.
        self.commands.send(Command::Stop).ok();
        if let Some(thread) = self.thread.take()
            // A sink may hold the last reference: then this is the worker itself, which ends on its own.
            && thread.thread().id() != std::thread::current().id()
        {
            thread.join().ok();
        }
    }
}

fn open_backend(
    open: impl FnOnce() -> Result<Box<dyn Backend>, BackendError>,
    vocab: usize,
    config: EngineConfig,
    draft: Option<DraftModel>,
) -> Result<(Box<dyn Backend>, Scheduler, Speculator, Opened), EngineError> {
    let mut backend = catch_unwind(AssertUnwindSafe(open))
        .map_err(|panic| EngineError::OpenPanicked(super::run::panic_message(&*panic)))??;
    let (limits, spec) = (backend.limits(), backend.spec().clone());
    if vocab > spec.vocab_size {
        return Err(EngineError::VocabMismatch { tokenizer: vocab, model: spec.vocab_size });
    }
    let scheduler = Scheduler::new(limits, config.prefill_chunk).map_err(EngineError::Limits)?;
    let parallel = match config.parallel {
        Parallel::All => limits.slots,
        Parallel::AtMost(n) => n.clamp(1, limits.slots),
        Parallel::Measured(most) => best_parallel(&mut *backend, most)?,
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
    let mut speculator = Speculator::new(config.draft_min, config.draft_max, costs, drafter);
    speculator.drafting_took(1, step.unwrap_or_default());
    let opened = Opened { info: backend.info(), spec, limits, parallel, draft: info };
    Ok((backend, scheduler, speculator, opened))
}

/// Opens a draft model for a model with `vocab` tokens, and measures its step.
fn open_drafter(draft: DraftModel, vocab: usize) -> Result<(Drafter, BackendInfo, Duration), EngineError> {
    let mut backend = catch_unwind(AssertUnwindSafe(draft.open))
        .map_err(|panic| EngineError::OpenPanicked(super::run::panic_message(&*panic)))?
        .map_err(EngineError::Draft)?;
    let costs = measure_costs(&mut *backend, 0).map_err(EngineError::Draft)?;
    let info = backend.info();
    Ok((Drafter::new(backend, vocab), info, Duration::from_secs_f64(costs.of(1))))
}

/// Cancels one request.
#[derive(Clone, Debug)]
pub struct Canceller {
    key: u64,
    commands: Sender<Command>,
}

impl Canceller {
    /// Ends the request with [`FinishReason::Cancelled`] before the next forward call; nothing if it has ended.
    pub fn cancel(&self) {
        self.commands.send(Command::Cancel { key: self.key }).ok();
    }
}

/// The events of one request, as they come. Dropping it cancels the request.
#[derive(Debug)]
pub struct Generation {
    events: Receiver<Event>,
    canceller: Canceller,
    ended: bool,
}

impl Generation {
    /// Waits for the next event; `None` after [`Event::Finished`].
    pub fn recv(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        // The worker finishes every request it took, so the channel closes after `Finished` only.
        let event = self.events.recv().ok();
        self.note(event)
    }

    /// The next event if there is one already; `None` also after [`Event::Finished`].
    pub fn try_recv(&mut self) -> Option<Event> {
        match self.events.try_recv() {
            Ok(event) => self.note(Some(event)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => self.note(None),
        }
    }

    /// Waits for the next event, `timeout` at most; `None` also after [`Event::Finished`].
    pub fn recv_timeout(&mut self, timeout: Duration) -> Option<Event> {
        match self.events.recv_timeout(timeout) {
            Ok(event) => self.note(Some(event)),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => self.note(None),
        }
    }

    /// Whether [`Event::Finished`] has been received.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Ends the request; its [`Event::Finished`] still comes.
    pub fn cancel(&self) {
        self.canceller.cancel();
    }

    /// A handle that cancels this request from elsewhere, such as a signal handler's thread.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// Waits for the end and gives everything at once; `None` if the end has been received before.
    pub fn wait(mut self) -> Option<Completion> {
        let (mut ids, mut text, mut logprobs) = (Vec::new(), String::new(), Vec::new());
        loop {
            match self.recv()? {
                Event::Tokens { ids: more, text: piece, logprobs: some, .. } => {
                    ids.extend(more);
                    text.push_str(&piece);
                    logprobs.extend(some);
                }
                Event::Dropped { .. } => {}
                Event::Finished(outcome) => return Some(Completion { ids, text, logprobs, outcome }),
            }
        }
    }

    fn note(&mut self, event: Option<Event>) -> Option<Event> {
        self.ended |= !matches!(event, Some(Event::Tokens { .. } | Event::Dropped { .. }));
        event
    }
}

impl Iterator for Generation {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.recv()
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.ended {
            self.cancel();
        }
    }
}

/// A whole generation, see [`Generation::wait`].
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The generated tokens.
    pub ids: Vec<TokenId>,
    /// Their text.
    pub text: String,
    /// One per token if the request asked for them, else empty.
    pub logprobs: Vec<TokenLogprobs>,
    /// How it ended.
    pub outcome: Outcome,
}

impl Completion {
    /// The error it ended with, if it did.
    pub fn error(&self) -> Option<&str> {
        match &self.outcome.reason {
            FinishReason::Error(message) | FinishReason::Refused(message) => Some(message),
            _ => None,
        }
    }
}
