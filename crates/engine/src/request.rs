//! [`Request`]: what to generate; and how its prompt becomes token ids.

use crate::TokenId;
use crate::sample::{Grammar, GrammarError, ParamError, SamplingParams};
use crate::schedule::{ScheduleError, common_prefix};
use crate::speculate::Speculate;
use crate::tokenize::{
    Bounds, ChatError, Encode, Message, RenderOptions, TemplateError, TextProcessor, TokenizeError,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// The prompt.
#[derive(Clone, Debug)]
pub enum Prompt {
    /// Token ids, used as they are. Needs no tokenizer.
    Tokens(Vec<TokenId>),
    /// Text, used as it is, with a BOS in front if the model wants one. Names of control tokens in it (`<|im_end|>`) become
    /// these tokens.
    Text(String),
    /// A conversation, rendered by the model's chat template.
    Chat {
        /// The messages, oldest first.
        messages: Vec<Message>,
        /// Tools and further variables for the template.
        options: RenderOptions,
    },
}

impl Prompt {
    /// A conversation for the assistant to answer.
    pub fn chat(messages: Vec<Message>) -> Prompt {
        Prompt::Chat { messages, options: RenderOptions::default() }
    }

    /// The prompt's token ids.
    ///
    /// # Errors
    /// If it is text and there is no tokenizer, or templating or tokenising fails.
    pub fn encode(self, text: Option<&TextProcessor>) -> Result<Vec<TokenId>, RequestError> {
        self.encode_within(text, &Bounds::NONE)
    }

    /// As [`Prompt::encode`], within bounds.
    fn encode_within(
        self,
        text: Option<&TextProcessor>,
        bounds: &Bounds<'_>,
    ) -> Result<Vec<TokenId>, RequestError> {
        match self {
            Prompt::Tokens(tokens) => Ok(tokens),
            Prompt::Text(prompt) => {
                let tokenizer = &text.ok_or(RequestError::NoTokenizer)?.tokenizer;
                let options = Encode { add_bos: tokenizer.adds_bos(), parse_special: true };
                Ok(tokenizer.encode_within(&prompt, options, bounds)?)
            }
            Prompt::Chat { messages, options } => {
                let text = text.ok_or(RequestError::NoTokenizer)?;
                Ok(text.encode_chat_within(&messages, &options, bounds)?)
            }
        }
    }

    /// The token ids of a conversation's leading system messages alone; none if there are no such messages, or if the template
    /// can't render them without a conversation.
    fn system(&self, text: Option<&TextProcessor>, bounds: &Bounds<'_>) -> Vec<TokenId> {
        let (Prompt::Chat { messages, options }, Some(text)) = (self, text) else { return Vec::new() };
        let is_system = |m: &&Message| matches!(m.role.as_str(), "system" | "developer");
        let system: Vec<Message> = messages.iter().take_while(is_system).cloned().collect();
        let options = RenderOptions { add_generation_prompt: false, ..options.clone() };
        text.encode_chat_within(&system, &options, bounds).unwrap_or_default()
    }
}

/// Which tokens at the start of a prompt are kept when a full context is shifted. A BOS there is always kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// A conversation's system messages, if they take at most half of the context and the template renders them alone; else
    /// only the BOS.
    #[default]
    System,
    /// This many tokens after the BOS.
    Tokens(usize),
    /// The whole prompt.
    Prompt,
}

impl Keep {
    /// From a number as in llama.cpp: -1 is the whole prompt; `None` for lower numbers.
    pub fn from_count(n: i64) -> Option<Keep> {
        match n {
            -1 => Some(Keep::Prompt),
            _ => usize::try_from(n).ok().map(Keep::Tokens),
        }
    }

    /// How many tokens of a prompt are kept; `system` is a rendering of its system messages.
    fn count(self, prompt: &[TokenId], system: &[TokenId], bos: Option<TokenId>, capacity: usize) -> usize {
        let bos = usize::from(bos.is_some() && prompt.first().copied() == bos);
        match self {
            Keep::Prompt => prompt.len(),
            Keep::Tokens(n) => n.saturating_add(bos).min(prompt.len()),
            Keep::System => match common_prefix(prompt, system) {
                n if n <= capacity / 2 => n.max(bos),
                _ => bos,
            },
        }
    }
}

/// A request for one generation.
#[derive(Clone, Debug)]
pub struct Request {
    /// The prompt.
    pub prompt: Prompt,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// The maximum number of tokens to generate, at least 1. `usize::MAX`: until the context is full, or endlessly if it is
    /// shifted.
    pub max_tokens: usize,
    /// What is kept when the context is full. Half of the tokens after it are dropped then, and generation goes on; a prompt
    /// that is too long is shortened in the same way. `None`: the generation ends, and such a prompt is refused.
    pub context_shift: Option<Keep>,
    /// Strings that end the generation when they appear; they are not part of its text. None may be empty.
    pub stop: Vec<String>,
    /// Generates past the model's end tokens, which are delivered like any other.
    pub ignore_eos: bool,
    /// What the text has to follow; `None`: nothing.
    pub grammar: Option<Grammar>,
    /// Control tokens that appear in the text by name; all others are left out.
    pub keep_special: Vec<TokenId>,
    /// Reuses the KV cache of earlier requests with the same prefix, and keeps this one's for later requests.
    pub prefix_cache: bool,
    /// The source of drafts; `None`: as in the engine's configuration.
    pub speculate: Option<Speculate>,
    /// Counts the events that the consumer has not taken yet; `None`: there is no bound on them.
    pub backlog: Option<Backlog>,
    /// When the prompt was handed over: the start of all measured times.
    pub t0: Instant,
}

/// Counts the events of a request that wait for its consumer. While there are too many, the engine leaves the request's
/// sequences out of its steps. The engine increments the count, the consumer decrements it.
#[derive(Clone, Debug)]
pub struct Backlog {
    waiting: Arc<AtomicUsize>,
    most: usize,
}

impl Backlog {
    /// A backlog of `most` events; the events of one step may exceed it.
    pub fn new(most: usize) -> Backlog {
        Backlog { waiting: Arc::new(AtomicUsize::new(0)), most }
    }

    /// Call it after taking an event.
    pub fn take(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many events wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.waiting() >= self.most
    }
}

impl Request {
    /// A request with the default sampling, no stop strings, and the prefix cache on. Sets `t0` to now.
    pub fn new(prompt: Prompt, max_tokens: usize) -> Request {
        Request {
            prompt,
            sampling: SamplingParams::default(),
            max_tokens,
            context_shift: None,
            stop: Vec::new(),
            ignore_eos: false,
            grammar: None,
            keep_special: Vec::new(),
            prefix_cache: true,
            speculate: None,
            backlog: None,
            t0: Instant::now(),
        }
    }
}

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request has a text prompt, stop strings or a grammar, and the model has no tokenizer.
    #[error("the model has no tokenizer: give the prompt as token ids, without stop strings or grammar")]
    NoTokenizer,
    /// The prompt could not be tokenised.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
    /// The chat could not be rendered.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A sampling parameter is out of range.
    #[error(transparent)]
    Sampling(#[from] ParamError),
    /// The grammar is malformed or uses something unsupported.
    #[error("grammar: {0}")]
    Grammar(#[from] GrammarError),
    /// The grammar determines where the text ends, and `ignore_eos` is set.
    #[error("ignore_eos: expected false with a grammar, which determines the end of the text, found true")]
    EndlessGrammar,
    /// Drafts from a draft model are requested, and there is none.
    #[error("speculate: expected off or ngram, since no draft model is loaded, found draft")]
    NoDraftModel,
    /// `max_tokens` is 0.
    #[error("max_tokens: expected at least 1, found 0")]
    NoTokensWanted,
    /// A stop string is empty, which would match everywhere.
    #[error("stop: expected strings of at least 1 character, found an empty one at index {index}")]
    EmptyStop {
        /// Its index.
        index: usize,
    },
    /// A token id of the prompt is not in the vocabulary.
    #[error("prompt token {index} is {token}; the vocabulary has {vocab} tokens")]
    NoSuchToken {
        /// Its index in the prompt.
        index: usize,
        /// The id.
        token: TokenId,
        /// The vocabulary's size.
        vocab: usize,
    },
    /// The caller no longer wants the result.
    #[error("the request was abandoned")]
    Abandoned,
    /// The prompt is empty or does not fit.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
}

impl From<ChatError> for RequestError {
    fn from(error: ChatError) -> RequestError {
        match error {
            ChatError::Template(error) => error.into(),
            ChatError::Tokenize(error) => error.into(),
        }
    }
}

impl Request {
    /// Checks everything except the prompt's length. Returns the prompt's token ids, and how many of them are kept when a
    /// context of `capacity` tokens is shifted; `None` if it is not. `go_on` is called between the steps, and its error ends them.
    pub(crate) fn prepare(
        &mut self,
        text: Option<&TextProcessor>,
        vocab: usize,
        capacity: usize,
        go_on: &dyn Fn() -> Result<(), RequestError>,
    ) -> Result<(Vec<TokenId>, Option<usize>), RequestError> {
        self.sampling.validate(vocab)?;
        if self.max_tokens == 0 {
            return Err(RequestError::NoTokensWanted);
        }
        if let Some(index) = self.stop.iter().position(String::is_empty) {
            return Err(RequestError::EmptyStop { index });
        }
        if (!self.stop.is_empty() || self.grammar.is_some()) && text.is_none() {
            return Err(RequestError::NoTokenizer);
        }
        if self.ignore_eos && self.grammar.is_some() {
            return Err(RequestError::EndlessGrammar);
        }
        let abandoned = || go_on().is_err();
        // A prompt that is too long is shortened if the context is shifted.
        let most = if self.context_shift.is_none() { capacity } else { usize::MAX };
        let bounds = Bounds { abandoned: &abandoned, most };
        let prompt = std::mem::replace(&mut self.prompt, Prompt::Tokens(Vec::new()));
        let system = match self.context_shift {
            Some(Keep::System) => prompt.system(text, &bounds),
            _ => Vec::new(),
        };
        go_on()?;
        let tokens = prompt.encode_within(text, &bounds);
        go_on()?;
        let tokens = tokens.map_err(|error| match error {
            RequestError::Tokenize(TokenizeError::TooManyTokens { bytes, least, most }) => {
                ScheduleError::PromptFarTooLong { bytes, least, capacity: most }.into()
            }
            error => error,
        })?;
        if let Some(index) = tokens.iter().position(|&t| t as usize >= vocab) {
            return Err(RequestError::NoSuchToken { index, token: tokens[index], vocab });
        }
        let bos = text.and_then(|text| text.tokenizer.bos());
        let keep = self.context_shift.map(|keep| keep.count(&tokens, &system, bos, capacity));
        Ok((tokens, keep))
    }
}
