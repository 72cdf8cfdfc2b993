//! What `run` and `chat` share: opening an engine for a model, streaming a generation, its figures.

use crate::Context;
use crate::args::{ModelArg, OpenArgs, ShiftArgs, SpeculateArgs};
use crate::backends::{self, BackendKind, OpenOptions};
use crate::error::{Advice as _, Usage, advised};
use crate::interrupt;
use crate::output::Spinner;
use std::cell::Cell;
use std::io::IsTerminal as _;
use std::path::Path;
use std::time::{Duration, Instant};
use zonda_engine::prompt_cache::Place;
use zonda_engine::schedule::ScheduleError;
pub use zonda_engine::stream::Figures;
use zonda_engine::{
    Engine, EngineError, Event, FinishReason, Outcome, Prompt, Request, RequestError, TokenId,
};

/// How often Ctrl-C is looked for while no token comes.
const POLL: Duration = Duration::from_millis(50);

/// An engine and what it was started for.
pub struct Session {
    /// The running backend.
    pub engine: Engine,
    /// The backend's name.
    pub backend: BackendKind,
    /// The model as the user named it.
    pub model: String,
    /// From the model's name to an engine that takes requests.
    pub load: Duration,
    /// It has said that tokens are dropped.
    told: Cell<bool>,
    quiet: bool,
}

impl Session {
    /// Finds the model and starts its engine.
    ///
    /// # Errors
    /// If there is no such model, or no backend runs it.
    pub fn start(
        context: &Context,
        model: &ModelArg,
        backend: Option<BackendKind>,
        open: &OpenArgs,
        speculate: &SpeculateArgs,
        seed: Option<u64>,
        prompts: Option<&Path>,
    ) -> anyhow::Result<Session> {
        let store = context.store()?;
        let located = store.locate(&model.model)?;
        let speculation = speculate.speculation(&store)?;
        let kind = backends::choose(backend, &located)?;
        let began = Instant::now();
        let spinner = Spinner::start(format!("loading {}", located.name), context.quiet);
        let files = backends::open_model(&located)?;
        let text = backends::text_of(files.as_deref())?;
        let options = OpenOptions { speculation, ..open.options(seed) };
        let prompts = prompts.map(|path| Place::File(path.to_owned()));
        let engine = backends::start(kind, files, text, &options, prompts)?;
        drop(spinner);
        Ok(Session {
            engine,
            backend: kind,
            model: located.name,
            load: began.elapsed(),
            told: Cell::new(false),
            quiet: context.quiet,
        })
    }

    /// Refuses a model without tokenizer, or without the chat template that a conversation needs.
    ///
    /// # Errors
    /// Says which is missing.
    pub fn check_text(&self, chat: bool) -> anyhow::Result<()> {
        match self.engine.text() {
            None => Err(advised(
                format!("{} comes without a tokenizer", self.model),
                "put tokenizer.json, tokenizer.model or tekken.json into its folder; \
                 `zonda logits` and `zonda bench` take token ids",
            )),
            Some(text) if chat && text.template.is_none() => Err(advised(
                format!("{} comes without a chat template", self.model),
                "use `zonda run --raw`, which continues the text as it is",
            )),
            Some(_) => Ok(()),
        }
    }

    /// Generates, hands each piece of text to `show`, and stops early on Ctrl-C. Returns the tokens and how it ended;
    /// a backend that failed is an error.
    ///
    /// # Errors
    /// If the request is refused, the backend fails, or `show` does.
    pub fn generate(
        &self,
        request: Request,
        mut show: impl FnMut(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<(Vec<TokenId>, Outcome)> {
        let _graceful = interrupt::graceful();
        let mut generation = self.engine.submit(request).map_err(refusal)?;
        let mut tokens = Vec::new();
        let mut cancelled = false;
        let mut waiting = Some(Spinner::start("reading the prompt", self.quiet));
        while !generation.ended() {
            if interrupt::pressed() && !cancelled {
                generation.cancel();
                cancelled = true;
            }
            match generation.recv_timeout(POLL) {
                None => {}
                Some(Event::Tokens { ids, text, .. }) => {
                    waiting = None;
                    tokens.extend(ids);
                    if !text.is_empty() {
                        show(&text)?;
                    }
                }
                Some(Event::Dropped { tokens, of_prompt }) => {
                    waiting = None;
                    self.tell_dropped(tokens, of_prompt);
                }
                Some(Event::Finished(outcome)) => {
                    drop(waiting);
                    if let FinishReason::Error(why) | FinishReason::Refused(why) = &outcome.reason {
                        return Err(anyhow::anyhow!("{why}"))
                            .advise("the model or the backend is at fault: `zonda inspect` shows the model");
                    }
                    return Ok((tokens, outcome));
                }
            }
        }
        Err(anyhow::anyhow!("the engine stopped before the generation ended"))
    }

    /// Says, the first time, that a full context has lost something.
    fn tell_dropped(&self, tokens: usize, of_prompt: bool) {
        if self.quiet || self.told.replace(true) {
            return;
        }
        let what = if of_prompt { "too small for the prompt" } else { "full" };
        // The answer is in the middle of a line.
        let newline = if std::io::stdout().is_terminal() && !of_prompt { "\n" } else { "" };
        eprintln!(
            "{newline}(the context of {} tokens is {what}: {tokens} tokens behind the kept front were dropped; this is \
             said once)",
            self.engine.capacity()
        );
    }
}

/// A request that makes no sense is wrong usage; any other is refused for what is in it.
fn refusal(error: EngineError) -> anyhow::Error {
    match error {
        EngineError::Request(
            RequestError::Sampling(_) | RequestError::EmptyStop { .. } | RequestError::NoTokensWanted,
        ) => Usage(error.to_string()).into(),
        _ => error.into(),
    }
}

/// Adds advice to the refusal of a prompt that is longer than the context; leaves other errors as they are.
pub fn advise_if_too_long(error: anyhow::Error, advice: &str) -> anyhow::Error {
    match error.downcast_ref() {
        Some(EngineError::Request(RequestError::Schedule(ScheduleError::PromptTooLong { .. }))) => {
            Err::<(), _>(error).advise(advice).unwrap_err()
        }
        Some(EngineError::Request(RequestError::Schedule(ScheduleError::KeepTooLong { .. }))) => {
            Err::<(), _>(error).advise("give a smaller --keep, or a larger --ctx").unwrap_err()
        }
        _ => error,
    }
}

/// The request of `run` and `chat`: `limit` is in tokens, `None`: until the model ends or the context is full, if that is
/// not shifted.
pub fn request(prompt: Prompt, limit: Option<usize>, shift: ShiftArgs) -> Request {
    let request = Request::new(prompt, limit.unwrap_or(usize::MAX));
    Request { context_shift: shift.shift(), ..request }
}
