//! [`Request`]: what to generate, and how its prompt becomes token ids.

use crate::TokenId;
use crate::sample::{Grammar, GrammarError, ParamError, SamplingParams};
use crate::schedule::common_prefix;
use crate::speculate::Speculate;
use crate::tokenize::{
    ChatTemplate, Encode, Message, RenderOptions, TemplateError, TokenizeError, Tokenizer,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// What to generate after.
#[derive(Clone, Debug)]
pub enum Prompt {
    /// Token ids, taken as they are. Needs no tokenizer.
    Tokens(Vec<TokenId>),
    /// Text, taken as it is but for a BOS in front if the model wants one. Control tokens written out in it
    /// (`<|im_end|>`) count as such.
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
    /// A conversation that the assistant is to answer.
    pub fn chat(messages: Vec<Message>) -> Prompt {
        Prompt::Chat { messages, options: RenderOptions::default() }
    }

    /// The prompt's token ids.
    ///
    /// # Errors
    /// If it is text and there is no tokenizer, or templating or tokenising fails.
    pub fn encode(self, text: Option<&Text>) -> Result<Vec<TokenId>, RequestError> {
        match self {
            Prompt::Tokens(tokens) => Ok(tokens),
            Prompt::Text(prompt) => {
                let tokenizer = &text.ok_or(RequestError::NoTokenizer)?.tokenizer;
                let options = Encode { add_bos: tokenizer.adds_bos(), parse_special: true };
                Ok(tokenizer.encode(&prompt, options)?)
            }
            Prompt::Chat { messages, options } => {
                text.ok_or(RequestError::NoTokenizer)?.encode_chat(&messages, &options)
            }
        }
    }

    /// The token ids of a conversation's first system messages alone; none where there are none, or where the template
    /// renders no conversation that consists of them.
    fn system(&self, text: Option<&Text>) -> Vec<TokenId> {
        let (Prompt::Chat { messages, options }, Some(text)) = (self, text) else { return Vec::new() };
        let is_system = |m: &&Message| matches!(m.role.as_str(), "system" | "developer");
        let system: Vec<Message> = messages.iter().take_while(is_system).cloned().collect();
        let options = RenderOptions { add_generation_prompt: false, ..options.clone() };
        text.encode_chat(&system, &options).unwrap_or_default()
    }
}

/// Which tokens at a prompt's front stay when a full context is shifted. A BOS there always does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// A conversation's system messages, where they take at most half of the context and the template renders them alone;
    /// otherwise nothing but the BOS.
    #[default]
    System,
    /// So many after the BOS.
    Tokens(usize),
    /// The whole prompt.
    Prompt,
}

impl Keep {
    /// From a number as llama.cpp has it, where -1 is the whole prompt; `None` if it is lower.
    pub fn from_count(n: i64) -> Option<Keep> {
        match n {
            -1 => Some(Keep::Prompt),
            _ => usize::try_from(n).ok().map(Keep::Tokens),
        }
    }

    /// How many tokens of a prompt that is; `system` is a rendering of its system messages.
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

/// One generation that is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to generate after.
    pub prompt: Prompt,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Most tokens to generate, at least 1; `usize::MAX`: until the context is full, without end if it is shifted.
    pub max_tokens: usize,
    /// What stays when the context is full: half of what lies behind is dropped then, from a prompt that does not fit as
    /// well, and generation goes on. `None`: the generation ends there, and such a prompt is refused.
    pub context_shift: Option<Keep>,
    /// Strings that end the generation where they appear; they are not part of its text. None may be empty.
    pub stop: Vec<String>,
    /// Goes on where the model wants to end: its end tokens are delivered like any other.
    pub ignore_eos: bool,
    /// What the text has to be; `None`: whatever the model says.
    pub grammar: Option<Grammar>,
    /// Control tokens that appear in the text by name; the others are left out of it.
    pub keep_special: Vec<TokenId>,
    /// Reuses what earlier requests with the same beginning computed, and leaves this one's for later ones.
    pub prefix_cache: bool,
    /// Where drafts come from; `None`: from where the engine's configuration says.
    pub speculate: Option<Speculate>,
    /// Counts the events that its consumer has not taken yet; `None`: the consumer keeps up, or holds them all.
    pub backlog: Option<Backlog>,
    /// When the prompt was handed over; times are measured from here.
    pub t0: Instant,
}

/// How many events of a request wait for its consumer. While there are too many, the engine leaves the request's sequences
/// out of its steps. The engine adds, the consumer takes off.
#[derive(Clone, Debug)]
pub struct Backlog {
    waiting: Arc<AtomicUsize>,
    most: usize,
}

impl Backlog {
    /// A backlog of at most about `most` events: one step's more.
    pub fn new(most: usize) -> Backlog {
        Backlog { waiting: Arc::new(AtomicUsize::new(0)), most }
    }

    /// The consumer has taken an event.
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

/// What turns text into a model's token ids and back.
#[derive(Clone, Debug)]
pub struct Text {
    /// The model's tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The model's chat template, if it has one.
    pub template: Option<Arc<ChatTemplate>>,
}

/// Why a request was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A text prompt or stop strings, but no tokenizer.
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
    /// The grammar is malformed or uses what is not supported.
    #[error("grammar: {0}")]
    Grammar(#[from] GrammarError),
    /// A grammar says where the text ends, and the end is to be ignored.
    #[error("ignore_eos: expected false with a grammar, which ends the text, found true")]
    EndlessGrammar,
    /// Drafts of a draft model, and there is none.
    #[error("speculate: expected off or ngram, as no draft model was loaded, found draft")]
    NoDraftModel,
    /// `max_tokens` is 0.
    #[error("max_tokens: expected at least 1, found 0")]
    NoTokensWanted,
    /// A stop string is empty: it would stop everywhere.
    #[error("stop: expected strings of at least 1 character, found an empty one at index {index}")]
    EmptyStop {
        /// Which one.
        index: usize,
    },
    /// A token id of the prompt is not in the vocabulary.
    #[error("prompt token {index} is {token}; the vocabulary has {vocab} tokens")]
    NoSuchToken {
        /// Where in the prompt.
        index: usize,
        /// The id.
        token: TokenId,
        /// The vocabulary's size.
        vocab: usize,
    },
    /// Nobody wants it any more.
    #[error("the request was abandoned")]
    Abandoned,
    /// The prompt is empty or does not fit.
    #[error(transparent)]
    Schedule(#[from] crate::schedule::ScheduleError),
}

impl Request {
    /// Checks everything but the prompt's length. Gives the prompt's token ids, and how many of them stay when a context
    /// of `capacity` tokens is full, if any are to. Asks `go_on` between its steps.
    pub(crate) fn prepare(
        &mut self,
        text: Option<&Text>,
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
        let prompt = std::mem::replace(&mut self.prompt, Prompt::Tokens(Vec::new()));
        let system = match self.context_shift {
            Some(Keep::System) => prompt.system(text),
            _ => Vec::new(),
        };
        go_on()?;
        let tokens = prompt.encode(text)?;
        if let Some(index) = tokens.iter().position(|&t| t as usize >= vocab) {
            return Err(RequestError::NoSuchToken { index, token: tokens[index], vocab });
        }
        let bos = text.and_then(|text| text.tokenizer.bos());
        let keep = self.context_shift.map(|keep| keep.count(&tokens, &system, bos, capacity));
        Ok((tokens, keep))
    }
}

impl Text {
    /// The mock backend's tokenizer and chat template.
    pub fn mock() -> Text {
        Text { tokenizer: Arc::new(Tokenizer::mock()), template: Some(Arc::new(ChatTemplate::mock())) }
    }

    /// The token ids of a conversation. The template writes BOS itself; where it does not and the model wants one,
    /// it is put in front.
    ///
    /// # Errors
    /// If the model has no template, or it fails on this conversation.
    pub fn encode_chat(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Vec<TokenId>, RequestError> {
        let template = self.template.as_ref().ok_or(TemplateError::Missing)?;
        let prompt = if options.parse_special {
            template.render(messages, options)?
        } else {
            let (mut messages, mut options) = (messages.to_vec(), options.clone());
            messages.iter_mut().for_each(|message| self.tokenizer.guard_message(message));
            let given = options.tools.iter_mut().chain(&mut options.documents);
            given.chain(options.extra.values_mut()).for_each(|value| self.tokenizer.guard_value(value));
            template.render(&messages, &options)?
        };
        let mut tokens = self.tokenizer.encode_prompt(&prompt)?;
        if let Some(bos) = self.tokenizer.bos()
            && self.tokenizer.adds_bos()
            && tokens.first() != Some(&bos)
        {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }
}
