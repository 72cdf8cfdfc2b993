//! What `run` and `chat` share: opening a model, streaming an answer, its statistics.

use crate::args::{ModelArg, ShiftArgs, SpeculateArgs};
use crate::console::note;
use crate::context::Context;
use crate::error::{Advice as _, Usage, advised};
use crate::interrupt;
use crate::output::Spinner;
use std::cell::Cell;
use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;
use zonda::engine::schedule::ScheduleError;
pub use zonda::engine::stream::Figures;
use zonda::engine::{EngineError, RequestError};
use zonda::tools::{Parser, Piece, Style, Tools};
use zonda::{
    BackendKind, CacheLocation, Event, FinishReason, Model, OpenOptions, Outcome, Prompt, Request, TokenId,
};

/// How often Ctrl-C is checked while no token comes.
const POLL: Duration = Duration::from_millis(50);

/// A piece of an answer.
#[derive(Clone, Copy, Debug)]
pub enum Shown<'a> {
    /// Of the answer itself.
    Answer(&'a str),
    /// Of what the model thinks before it.
    Reasoning(&'a str),
}

/// Shows reasoning on standard error, dim on a terminal: it is no part of the result.
pub fn show_reasoning(text: &str) {
    let terminal =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    crate::console::write_styled(text, if terminal { ("\x1b[2m", "\x1b[0m") } else { ("", "") });
}

/// A model that `run` or `chat` talks to.
pub struct Session {
    /// The model.
    pub model: Model,
    /// The user was told that tokens were discarded.
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
        options: OpenOptions,
        speculate: &SpeculateArgs,
        prompts: Option<&Path>,
    ) -> anyhow::Result<Session> {
        let store = context.store()?;
        let located = store.locate(&model.model)?;
        let options = speculate.speculation(&store)?.apply(options);
        let _spinner = Spinner::start(format!("loading {}", located.name), context.quiet);
        let model = Model::builder_at(located)
            .backend(backend)
            .options(options)
            .prompt_cache(prompts.map(|path| CacheLocation::File(path.to_owned())))
            .open()?;
        Ok(Session { model, told: Cell::new(false), quiet: context.quiet })
    }

    /// Refuses a model without a tokenizer, or without the chat template that a conversation needs.
    ///
    /// # Errors
    /// If one of them is missing; the error says which.
    pub fn check_text(&self, chat: bool) -> anyhow::Result<()> {
        match self.model.text() {
            None => Err(advised(
                format!("{} has no tokenizer", self.model.name()),
                "put tokenizer.json, tokenizer.model or tekken.json into its folder; \
                 `zonda logits` and `zonda bench` take token ids",
            )),
            Some(text) if chat && text.template.is_none() => Err(advised(
                format!("{} has no chat template", self.model.name()),
                "use `zonda run --raw`, which continues a text without a template",
            )),
            Some(_) => Ok(()),
        }
    }

    /// Generates, hands each piece of the answer to `show`, and stops early on Ctrl-C. Returns the tokens and how it ended;
    /// a backend that failed is an error. A conversation's answer has its reasoning apart if `separate` says so.
    ///
    /// # Errors
    /// If the request is refused, the backend fails, or `show` does.
    pub fn generate(
        &self,
        mut request: Request,
        separate: bool,
        mut show: impl FnMut(Shown<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<(Vec<TokenId>, Outcome)> {
        let _graceful = interrupt::graceful();
        let text = self.model.text();
        let tokenizer = text.map(|text| &*text.tokenizer);
        let style = Style::of(text).separating(separate);
        let mut parser = style.apply(&Tools::none(), &mut request, tokenizer)?;
        let mut generation = self.model.engine().submit(request).map_err(refusal)?;
        if let (Some(parser), Some(tokenizer)) = (&mut parser, tokenizer) {
            parser.begin(generation.prompt_end(), tokenizer);
        }
        let mut show_all = |pieces: Vec<Piece>| {
            pieces.into_iter().try_for_each(|piece| match piece {
                Piece::Text(text) => show(Shown::Answer(&text)),
                Piece::Reasoning(text) => show(Shown::Reasoning(&text)),
                // No tools were given.
                Piece::Call(_) => Ok(()),
            })
        };
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
                        show_all(match &mut parser {
                            Some(parser) => parser.push(&text),
                            None => vec![Piece::Text(text)],
                        })?;
                    }
                }
                Some(Event::Dropped { tokens, of_prompt }) => {
                    waiting = None;
                    self.tell_dropped(tokens, of_prompt);
                }
                Some(Event::Finished(outcome)) => {
                    drop(waiting);
                    if let FinishReason::Error(why) | FinishReason::Refused(why) = &outcome.reason {
                        return Err(anyhow::anyhow!("{why}")).advise(
                            "the fault is in the model or the backend: `zonda inspect` shows the model",
                        );
                    }
                    show_all(parser.as_mut().map(Parser::finish).unwrap_or_default())?;
                    return Ok((tokens, outcome));
                }
                Some(_) => {}
            }
        }
        Err(anyhow::anyhow!("the engine stopped before the generation ended"))
    }

    /// Tells the user, once, that tokens of a full context were discarded.
    fn tell_dropped(&self, tokens: usize, of_prompt: bool) {
        if self.quiet || self.told.replace(true) {
            return;
        }
        let what = if of_prompt { "too small for the prompt" } else { "full" };
        // The cursor is in the middle of the answer.
        let newline = if std::io::stdout().is_terminal() && !of_prompt { "\n" } else { "" };
        note!(
            "{newline}(the context of {} tokens is {what}: {tokens} tokens after the kept prefix were discarded; this message \
             comes once)",
            self.model.engine().capacity()
        );
    }
}

/// A malformed request is wrong usage; any other refusal is a failure.
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
        Some(EngineError::Request(RequestError::Schedule(
            ScheduleError::PromptTooLong { .. } | ScheduleError::PromptFarTooLong { .. },
        ))) => Err::<(), _>(error).advise(advice).unwrap_err(),
        Some(EngineError::Request(RequestError::Schedule(ScheduleError::KeepTooLong { .. }))) => {
            Err::<(), _>(error).advise("give a smaller --keep, or a larger --ctx").unwrap_err()
        }
        _ => error,
    }
}

/// The request of `run` and `chat`. `limit` is in tokens; `None`: until the model ends or, without a context shift,
/// until the context is full.
pub fn request(prompt: Prompt, limit: Option<usize>, shift: ShiftArgs) -> Request {
    let request = Request::new(prompt, limit.unwrap_or(usize::MAX));
    Request { context_shift: shift.shift(), ..request }
}
